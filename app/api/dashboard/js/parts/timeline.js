// A job's life as a bar of phases and a list of events.
import { duration, phaseWords, timeOfDay } from "../format.js";
import { html } from "../ui.js";
import { useNow } from "./bits.js";
import { stretches } from "./events.js";

const KIND = {
  waiting_for_turn: "wait",
  waiting_for_vram: "wait",
  waiting_for_engine: "wait",
  uploading: "prepare",
  staged: "wait",
  starting: "prepare",
  loading: "load",
  sampling: "sample",
  decoding: "finish",
  encoding: "finish",
  storing: "finish",
};

export function PhaseBar({ events, job }) {
  const now = useNow(1000);
  const all = stretches(events, job, now);
  const total = all.reduce((sum, one) => sum + one.to - one.from, 0) || 1;
  const sums = new Map();
  for (const one of all) sums.set(one.phase, (sums.get(one.phase) || 0) + one.to - one.from);
  return html`<div class="phases">
    <div class="phase-bar" aria-hidden="true">
      ${all.map(
        (one) =>
          html`<div class=${`phase ${KIND[one.phase] || "prepare"}`} style=${{ flexGrow: String((one.to - one.from) / total) }}></div>`,
      )}
    </div>
    <dl class="legend">
      ${[...sums].map(
        ([phase, spent]) =>
          html`<div key=${phase} class="legend-item">
            <dt><span class=${`swatch phase ${KIND[phase] || "prepare"}`}></span>${phaseWords(phase)}</dt>
            <dd>${duration(spent / 1000)}</dd>
          </div>`,
      )}
    </dl>
  </div>`;
}

function words({ type, data }) {
  switch (type) {
    case "job.queued":
      return data.reason ? `Back in the queue: ${data.reason}` : "Accepted and stored";
    case "job.running":
      return `Attempt ${data.attempt ?? ""} claimed`;
    case "job.phase":
      return data.reason || data.detail
        ? `${capital(phaseWords(data.phase))}: ${data.reason || data.detail}`
        : capital(phaseWords(data.phase));
    case "job.warning":
      return data.detail || "Warning";
    case "job.succeeded":
      return "Succeeded";
    case "job.failed":
      return `Failed: ${data.error?.title || data.error?.type || ""}`;
    case "job.canceled":
      return "Canceled";
    default:
      return type;
  }
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Progress is in the bar already; the list has what changed. */
export function EventList({ events, job }) {
  const shown = events.filter((event) => event.type !== "job.progress");
  const first = Date.parse(job.created_at);
  return html`<ol class="events" tabindex="0" aria-label="Events">
    ${shown.map(
      (event) =>
        html`<li key=${event.id} class=${event.type.replace("job.", "event-")}>
          <span class="number quiet" title=${timeOfDay(event.at)}
            >+${duration((Date.parse(event.at) - first) / 1000)}</span
          >
          <span>${words(event)}</span>
        </li>`,
    )}
  </ol>`;
}
