// What every view shares: who is signed in, whether the gateway answers, and short messages.
import { useEffect, useState } from "./ui.js";

function makeStore(first) {
  let value = first;
  const listeners = new Set();
  return {
    get: () => value,
    set(change) {
      const next = typeof change === "function" ? change(value) : { ...value, ...change };
      if (next === value) return;
      value = next;
      for (const listener of listeners) listener(value);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

export function useStore(store) {
  const [value, setValue] = useState(store.get());
  useEffect(() => {
    setValue(store.get());
    return store.subscribe(setValue);
  }, [store]);
  return value;
}

/** `phase`: "asking" until the first answer, then "in", or "out" when a key is needed. */
export const session = makeStore({ phase: "asking", name: "", scopes: [], keyId: null, why: "" });

/** `lost` holds the words for what is wrong; empty while the gateway answers. */
export const connection = makeStore({ lost: "", since: 0 });

export const notices = makeStore({ list: [] });

let noticeCount = 0;

/** Say something for a few seconds, to eyes and to screen readers. */
export function notify(text, kind = "info") {
  noticeCount += 1;
  const id = noticeCount;
  notices.set((now) => ({ list: [...now.list, { id, text, kind }].slice(-3) }));
  setTimeout(
    () => notices.set((now) => ({ list: now.list.filter((one) => one.id !== id) })),
    kind === "error" ? 12000 : 5000,
  );
}

export function signedOut(why) {
  session.set((now) => (now.phase === "out" ? now : { ...now, phase: "out", why }));
}

export function may(scope) {
  const { scopes } = session.get();
  return scopes.includes(scope) || scopes.includes("admin");
}
