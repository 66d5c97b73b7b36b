// The public API. Every call of the page goes through here.
import { connection, session, signedOut } from "./store.js";

/** What a call was refused with: an RFC 9457 problem, or the loss of the network (status 0). */
export class ApiError extends Error {
  constructor(status, problem, retryAfter = 0) {
    super(problem.detail || problem.title || `The gateway answered with ${status}.`);
    this.status = status;
    this.code = problem.code || "";
    this.title = problem.title || "";
    this.fields = problem.errors || [];
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

const TIMEOUT_MS = 20000;
const KEPT_ANSWERS = 60;

const answers = new Map();

function lost() {
  return new ApiError(0, { title: "No connection", detail: "The gateway does not answer." });
}

async function send(method, path, { headers = {}, body, signal } = {}) {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body,
      credentials: "same-origin",
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    connection.set((now) => ({
      lost: navigator.onLine ? "The gateway does not answer." : "This computer is offline.",
      since: now.since || Date.now(),
    }));
    throw lost();
  }
  if (connection.get().lost && answer.status < 502) connection.set({ lost: "", since: 0 });
  return answer;
}

async function refusal(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    problem = { title: `The gateway answered with ${answer.status}.` };
  }
  const error = new ApiError(
    answer.status,
    problem,
    Number(answer.headers.get("retry-after")) || 0,
  );
  if (answer.status === 401 && session.get().phase === "in") signedOut(error.message);
  return error;
}

/**
 * GET JSON. What was not changed since the last call is the same object again, so that nothing is
 * drawn twice: the gateway says so by its ETag, or by the same text.
 */
export async function get(path, { signal } = {}) {
  const known = answers.get(path);
  const headers = known?.etag ? { "If-None-Match": known.etag } : {};
  const answer = await send("GET", path, { headers, signal });
  if (answer.status === 304 && known) return known.data;
  // Readiness is told with 503 and a body of its own.
  if (!answer.ok && !(path === "/readyz" && answer.status === 503)) {
    answers.delete(path);
    throw await refusal(answer);
  }
  const text = await answer.text();
  if (known && known.text === text) return known.data;
  const data = JSON.parse(text);
  answers.delete(path);
  answers.set(path, { etag: answer.headers.get("etag"), text, data });
  if (answers.size > KEPT_ANSWERS) answers.delete(answers.keys().next().value);
  return data;
}

export async function post(path, value, { headers = {}, signal } = {}) {
  const answer = await send("POST", path, {
    headers: value === undefined ? headers : { "Content-Type": "application/json", ...headers },
    body: value === undefined ? undefined : JSON.stringify(value),
    signal,
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

export async function remove(path) {
  const answer = await send("DELETE", path);
  if (!answer.ok) throw await refusal(answer);
}

/** Send a file, telling how much has gone. Gives `{ done, cancel }`. */
export function upload(file, onProgress) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.open("POST", "/v1/uploads");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-Filename", encodeURIComponent(file.name).slice(0, 255));
    request.upload.onprogress = (event) => onProgress(event.loaded, event.total || file.size);
    request.onload = () => {
      let found = {};
      try {
        found = JSON.parse(request.responseText);
      } catch {
        found = { title: `The gateway answered with ${request.status}.` };
      }
      if (request.status === 201) resolve(found);
      else {
        const error = new ApiError(request.status, found);
        if (request.status === 401) signedOut(error.message);
        reject(error);
      }
    };
    request.onerror = () => reject(lost());
    request.onabort = () => reject(new ApiError(0, { title: "Canceled", detail: "Canceled." }));
    request.send(file);
  });
  return { done, cancel: () => request.abort() };
}

/** A name for one request that may be sent twice; also where the page has no secure context. */
export function idempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `dashboard-${Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("")}`;
}

// --- the session ------------------------------------------------------------------------------

function enter(found) {
  session.set({
    phase: "in",
    name: found.name,
    scopes: found.scopes,
    keyId: found.key_id,
    why: "",
  });
}

/** Find out who is calling; a key is asked for only where one is needed. */
export async function whoAmI() {
  try {
    enter(await get("/v1/session"));
  } catch (error) {
    if (error.status !== 401) throw error;
    // A cookie of another gateway on this host, or of a revoked key, would stand in the way.
    await remove("/v1/session").catch(() => undefined);
    try {
      enter(await get("/v1/session"));
    } catch (again) {
      if (again.status !== 401) throw again;
      signedOut("");
    }
  }
}

/** Exchange the key for a cookie that scripts cannot read. The key itself is kept nowhere. */
export async function signIn(key) {
  enter(await post("/v1/session", undefined, { headers: { Authorization: `Bearer ${key}` } }));
}

export async function signOut() {
  await remove("/v1/session");
  answers.clear();
  await whoAmI();
}
