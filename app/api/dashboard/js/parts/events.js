// The stored events of a job, live, and the latest preview.
import { useEffect, useState } from "../ui.js";

const KINDS = [
  "job.queued",
  "job.phase",
  "job.progress",
  "job.warning",
  "job.running",
  "job.succeeded",
  "job.failed",
  "job.canceled",
];

const EMPTY = { list: [], preview: null, live: false };

/**
 * Follow a job. `onEvent` is called after each batch that came; the list is in the order of ids
 * and has no gap, since the browser resumes after the last id it saw.
 */
export function useEvents(id, onEvent) {
  const [state, setState] = useState(EMPTY);
  useEffect(() => {
    setState(EMPTY);
    const source = new EventSource(`/v1/jobs/${id}/events`);
    let waiting = [];
    let last = 0;
    let frame = 0;
    const flush = () => {
      frame = 0;
      const came = waiting;
      waiting = [];
      setState((now) => ({ ...now, live: true, list: [...now.list, ...came] }));
      onEvent();
    };
    const keep = (message) => {
      const event = JSON.parse(message.data);
      if (event.id <= last) return;
      last = event.id;
      waiting.push(event);
      if (!frame) frame = setTimeout(flush, 100);
    };
    for (const kind of KINDS) source.addEventListener(kind, keep);
    source.addEventListener("preview", (message) => {
      const { media_type: type, base64 } = JSON.parse(message.data);
      setState((now) => ({ ...now, preview: `data:${type};base64,${base64}` }));
    });
    source.onopen = () => setState((now) => ({ ...now, live: true }));
    source.onerror = () => setState((now) => ({ ...now, live: false }));
    return () => {
      clearTimeout(frame);
      source.close();
    };
  }, [id]);
  return state;
}

/**
 * The stretches of a job's life: `{ phase, from, to }` in milliseconds. An attempt that was lost
 * goes back to waiting; what came after the end of the job does not count.
 */
export function stretches(events, job, now) {
  const found = [];
  const begin = (phase, at) => {
    const last = found.at(-1);
    if (last) last.to = at;
    if (last?.phase === phase) last.to = null;
    else found.push({ phase, from: at, to: null });
  };
  for (const event of events) {
    const at = Date.parse(event.at);
    if (event.type === "job.queued") begin("waiting_for_turn", at);
    else if (event.type === "job.phase" && event.data.phase) begin(event.data.phase, at);
    else if (event.type === "job.running") begin("uploading", at);
  }
  const end = job.finished_at ? Date.parse(job.finished_at) : now;
  for (const one of found) one.to = one.to ?? end;
  return found.filter((one) => one.to >= one.from);
}
