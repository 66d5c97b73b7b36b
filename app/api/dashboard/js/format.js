// Numbers and states in words. Pure.

const WORDS = {
  waiting_for_turn: "waiting for its turn",
  waiting_for_vram: "waiting for memory",
  waiting_for_engine: "waiting for the engine",
  uploading: "handing over inputs",
  staged: "next, already staged",
  starting: "starting",
  loading: "loading models",
  sampling: "sampling",
  decoding: "decoding",
  encoding: "encoding",
  storing: "storing the video",
};

export const PHASES = Object.keys(WORDS);

export function phaseWords(phase) {
  return WORDS[phase] || (phase || "").replaceAll("_", " ");
}

const ENGINE = {
  starting: "Starting",
  ready: "Ready",
  unreachable: "Unreachable",
  unhealthy: "Unhealthy",
  stopped: "Stopped",
};

export function engineWords(state) {
  return ENGINE[state] || state;
}

/** 5.2 s, 48 s, 3 min 05 s, 2 h 07 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const all = Math.max(seconds, 0);
  if (all < 10) return `${all.toFixed(1)} s`;
  const whole = Math.round(all);
  if (whole < 60) return `${whole} s`;
  const two = (value) => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  const hours = Math.round(minutes / 60);
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}

/** "3 min 05 s left"; nothing where that is not known, or where a run takes longer than expected. */
export function left(seconds) {
  return seconds === null || seconds === undefined || seconds < 1
    ? ""
    : `${duration(seconds)} left`;
}

/** The same in one unit, for narrow columns: 48 s, 3 min, 2 h, 4 d. */
export function shortly(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const all = Math.max(seconds, 0);
  if (all < 60) return `${Math.round(all)} s`;
  if (all < 3600) return `${Math.floor(all / 60)} min`;
  if (all < 86400) return `${Math.floor(all / 3600)} h`;
  return `${Math.floor(all / 86400)} d`;
}

export function secondsSince(time, now = Date.now()) {
  return time ? (now - Date.parse(time)) / 1000 : null;
}

export function secondsBetween(from, to) {
  return from && to ? (Date.parse(to) - Date.parse(from)) / 1000 : null;
}

const counts = new Intl.NumberFormat("en-US");

export function count(value) {
  return value === null || value === undefined ? "–" : counts.format(value);
}

/** Memory in GiB with one decimal, as people compare cards. */
export function gib(mib) {
  return mib === null || mib === undefined ? "–" : `${(mib / 1024).toFixed(1)} GiB`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let rest = value;
  let unit = 0;
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${units[unit]}`;
}

export function percent(fraction) {
  return `${Math.floor((fraction || 0) * 100)} %`;
}

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function moment(time) {
  return time ? full.format(new Date(time)) : "–";
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export function timeOfDay(time) {
  return time ? clock.format(new Date(time)) : "–";
}

const digits = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const shortClock = new Intl.DateTimeFormat(undefined, digits);

/** The same in eight characters, for axes. */
export function clockTime(time) {
  return shortClock.format(new Date(time));
}

export function fieldWords(name) {
  const words = name
    .replaceAll("_", " ")
    .replace(/\b(fps|cfg|crf)\b/g, (abbreviation) => abbreviation.toUpperCase());
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function value(one) {
  if (one === null || one === undefined || one === "") return "–";
  if (typeof one === "boolean") return one ? "yes" : "no";
  if (typeof one === "object") return JSON.stringify(one);
  return String(one);
}

/** What a job is called in a list: its label `name`, else its prompt, else its workflow. */
export function jobTitle(job) {
  return job.metadata.name || job.request.prompt || `${job.workflow}, no prompt`;
}

export function isOver(job) {
  return job.status === "succeeded" || job.status === "failed" || job.status === "canceled";
}

/** "step 3 of 8"; nothing while a job does not count steps. */
export function steps({ progress }) {
  return progress.step === null ? "" : `step ${progress.step} of ${progress.steps}`;
}
