// Asking again and again, kindly: rarely while nobody looks, ever more rarely while it fails.
import { get } from "./api.js";
import { useEffect, useRef, useState } from "./ui.js";

const HIDDEN_MS = 60000;
const SLOWEST_MS = 30000;

/**
 * Poll a path. Gives `{ data, error, refresh }`; data of an earlier answer stays while one fails,
 * and goes when the path changes.
 */
export function usePoll(path, { every = 2000 } = {}) {
  const [state, setState] = useState({ path, data: null, error: null });
  const refresh = useRef(() => undefined);

  useEffect(() => {
    if (!path) return undefined;
    const control = new AbortController();
    let timer = 0;
    let failures = 0;
    let asking = false;
    let again = false;

    async function ask() {
      clearTimeout(timer);
      if (asking) {
        again = true;
        return;
      }
      asking = true;
      let pause = every;
      try {
        const data = await get(path, { signal: control.signal });
        failures = 0;
        setState((now) =>
          now.path === path && now.data === data && !now.error ? now : { path, data, error: null },
        );
      } catch (error) {
        if (control.signal.aborted) return;
        failures += 1;
        pause = Math.max(
          Math.min(every * 2 ** Math.min(failures - 1, 5), SLOWEST_MS),
          (error.retryAfter || 0) * 1000,
        );
        setState((now) => ({ path, data: now.path === path ? now.data : null, error }));
      } finally {
        asking = false;
      }
      if (control.signal.aborted) return;
      if (again) {
        again = false;
        ask();
        return;
      }
      // Not in step with the other polls of the page.
      pause *= 0.9 + Math.random() * 0.2;
      timer = setTimeout(ask, document.hidden ? Math.max(pause, HIDDEN_MS) : pause);
    }

    const seen = () => {
      if (!document.hidden) ask();
    };
    refresh.current = ask;
    document.addEventListener("visibilitychange", seen);
    addEventListener("online", ask);
    ask();
    return () => {
      control.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      removeEventListener("online", ask);
    };
  }, [path, every]);

  const current = state.path === path ? state : { data: null, error: null };
  return { data: current.data, error: current.error, refresh: () => refresh.current() };
}
