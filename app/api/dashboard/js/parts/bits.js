// Small pieces that every view uses.
import { duration, percent, phaseWords, shortly, secondsSince, moment } from "../format.js";
import { focus } from "../router.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../ui.js";

const STATUS = {
  queued: "Queued",
  running: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  canceled: "Canceled",
};

const MARKS = {
  queued: html`<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.8" />`,
  running: html`<path d="M3.500 2.200v7.600L10 6z" fill="currentColor" />`,
  succeeded: html`<path
    d="m2.200 6.400 2.600 2.600 5-5.800"
    fill="none"
    stroke="currentColor"
    stroke-width="1.9"
    stroke-linecap="round"
    stroke-linejoin="round"
  />`,
  failed: html`<path
    d="m2.800 2.800 6.400 6.400m0-6.400L2.800 9.200"
    stroke="currentColor"
    stroke-width="1.9"
    stroke-linecap="round"
  />`,
  canceled: html`<path d="M2.500 6h7" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" />`,
};

/** The title of a page. It takes the focus when the page was opened, and keeps it when redrawn. */
export function Title({ children }) {
  const title = useRef(null);
  useLayoutEffect(() => {
    const element = title.current;
    if (focus.wanted) element.focus({ preventScroll: true });
    focus.wanted = false;
    return () => {
      if (document.activeElement === element) focus.wanted = true;
    };
  }, []);
  return html`<h1 ref=${title} tabindex="-1" class="one-line">${children}</h1>`;
}

/** The status by shape and word, not by color alone. */
export function Status({ job }) {
  return html`<span class=${`status ${job.status}`}>
    <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">${MARKS[job.status]}</svg>
    ${job.status === "running" && job.cancel_requested ? "Canceling" : STATUS[job.status]}
  </span>`;
}

export const STATUSES = Object.entries(STATUS);

/** What a job does now, in a few words. */
export function doing(job) {
  if (job.status === "queued") {
    const place = job.queue_position === null ? "" : `${job.queue_position} ahead`;
    if (!job.phase || job.phase === "waiting_for_turn") return place || "waiting for its turn";
    return phaseWords(job.phase);
  }
  if (job.status === "running") return phaseWords(job.phase) || "running";
  if (job.status === "failed") return job.error?.title || job.error?.type || "";
  if (job.status === "succeeded") {
    return job.usage.gpu_seconds === null ? "" : `in ${duration(job.usage.gpu_seconds)}`;
  }
  return "";
}

export function Progress({ job, label }) {
  const done = job.status === "succeeded" ? 1 : job.progress.fraction;
  return html`<div
    class=${`progress ${job.status}`}
    role="progressbar"
    aria-label=${label || "Progress"}
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${Math.floor(done * 100)}
    aria-valuetext=${percent(done)}
  >
    <div class="progress-bar" style=${{ transform: `scaleX(${done})` }}></div>
  </div>`;
}

/** How long ago, counting on by itself. */
export function Age({ time }) {
  const now = useNow(1000);
  if (!time) return html`<span>–</span>`;
  return html`<time class="number" datetime=${time} title=${moment(time)}
    >${shortly(secondsSince(time, now))}</time
  >`;
}

export function useNow(every) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) setNow(Date.now());
    }, every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** A name and a value, aligned. */
export function Fact({ name, children, wide = false }) {
  return html`<div class=${wide ? "fact wide" : "fact"}>
    <dt>${name}</dt>
    <dd>${children}</dd>
  </div>`;
}

/** Where an answer is missing: still asked for, refused, or lost. */
export function Missing({ error, what }) {
  if (!error) return html`<p class="quiet loading" aria-busy="true">Loading ${what}…</p>`;
  return html`<div class="callout warn" role="alert">
    <strong>${error.title || "This could not be loaded."}</strong>
    <p>${error.message}</p>
  </div>`;
}

/** Runs one call at a time and keeps the button from being pressed twice. */
export function Action({ onRun, children, kind = "", confirm = "", ...more }) {
  const [busy, setBusy] = useState(false);
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    if (!asked) return undefined;
    const timer = setTimeout(() => setAsked(false), 4000);
    return () => clearTimeout(timer);
  }, [asked]);
  const press = async () => {
    if (confirm && !asked) {
      setAsked(true);
      return;
    }
    setAsked(false);
    setBusy(true);
    try {
      await onRun();
    } finally {
      setBusy(false);
    }
  };
  return html`<button
    type="button"
    class=${`button ${asked ? "danger" : kind}`}
    disabled=${busy}
    onClick=${press}
    ...${more}
  >
    ${asked ? confirm : children}
  </button>`;
}
