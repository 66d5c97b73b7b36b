// One job: what went in, what comes out, and everything that happened between.
import { post, remove } from "../api.js";
import {
  bytes,
  count,
  duration,
  fieldWords,
  gib,
  isOver,
  jobTitle,
  left,
  moment,
  percent,
  phaseWords,
  secondsBetween,
  steps,
  timeOfDay,
  value,
} from "../format.js";
import { Action, Age, Fact, Missing, Progress, Status, Title } from "../parts/bits.js";
import { Chart } from "../parts/chart.js";
import { useEvents } from "../parts/events.js";
import { Stage } from "../parts/player.js";
import { EventList, PhaseBar } from "../parts/timeline.js";
import { useOwners } from "../parts/who.js";
import { usePoll } from "../poll.js";
import { go, link } from "../router.js";
import { may, notify } from "../store.js";
import { html, useMemo } from "../ui.js";

const OVER_MS = 60000;
const LIVE_MS = 5000;
const BLIND_MS = 2000;

export function JobView({ id }) {
  // Events say when to look; the job itself is always read from its one resource.
  const live = useEvents(id, () => poll.refresh());
  const poll = usePoll(`/v1/jobs/${id}`, { every: live.live ? LIVE_MS : BLIND_MS });
  const { data: job, error } = poll;
  if (!job) {
    return html`<div class="page">
      <${Title}>Job<//>
      <${Missing} error=${error} what="the job" />
      ${error?.status === 404 && html`<p><a href="#/jobs">All jobs</a></p>`}
    </div>`;
  }
  const gone = error?.status === 404;
  return html`<article class="page wide job">
    <${Head} job=${job} refresh=${poll.refresh} />
    ${gone && html`<p class="callout warn" role="alert">This job was deleted. What you see is the last that was read.</p>`}
    ${job.error && html`<${Fault} error=${job.error} />`}
    ${job.warnings.map((text) => html`<p class="callout warn">${text}</p>`)}
    <${Panes} job=${job} preview=${live.preview} />
    <${Going} job=${job} />
    <div class="columns">
      <div>
      <section class="panel" aria-labelledby="timeline-title">
        <h2 id="timeline-title">Timeline</h2>
        <${PhaseBar} events=${live.list} job=${job} />
        <${EventList} events=${live.list} job=${job} />
      </section>
        <${Attempts} job=${job} />
      </div>
      <div>
        <section class="panel" aria-labelledby="facts-title">
          <h2 id="facts-title">Facts</h2>
          <${Facts} job=${job} />
        </section>
        <section class="panel" aria-labelledby="settings-title">
          <h2 id="settings-title">Settings</h2>
          <${Settings} job=${job} />
        </section>
      </div>
    </div>
  </article>`;
}

function Head({ job, refresh }) {
  const cancel = () =>
    post(`/v1/jobs/${job.id}/cancel`)
      .then((now) =>
        notify(
          now.status === "canceled"
            ? "Canceled."
            : now.cancel_requested && !isOver(now)
              ? "The engine was told to stop."
              : `The job had ended first: ${now.status}.`,
        ),
      )
      .catch((error) => notify(error.message, "error"))
      .then(refresh);
  const drop = () =>
    remove(`/v1/jobs/${job.id}`)
      .then(() => {
        notify("Deleted.");
        go("jobs");
      })
      .catch((error) => notify(error.message, "error"));
  const over = isOver(job);
  return html`<div class="page-head">
    <div class="grow">
      <${Title}>${jobTitle(job)}<//>
      <p class="quiet one-line"><${Status} job=${job} /> · <span class="id">${job.id}</span></p>
    </div>
    <div class="actions">
      ${job.links.video && html`<a class="button primary" href=${`${job.links.video}?download=true`} download>Download</a>`}
      ${may("submit") && html`<a class="button" href=${link("new", { query: { from: job.id } })}>Rerun with changes</a>`}
      ${may("submit") && !over && html`<${Action} onRun=${cancel} kind="" confirm="Cancel it?" disabled=${job.cancel_requested}>Cancel<//>`}
      ${may("submit") && over && html`<${Action} onRun=${drop} confirm="Delete it for good?">Delete<//>`}
    </div>
  </div>`;
}

function Fault({ error }) {
  return html`<section class="callout bad" role="alert" aria-label="Error">
    <h2>${error.title}</h2>
    <p>${error.detail}</p>
    ${error.advice && html`<p><strong>What to do:</strong> ${error.advice}</p>`}
    <p class="quiet">
      ${error.type}${error.node_type ? ` · in node ${error.node_type}${error.node_id ? ` (${error.node_id})` : ""}` : ""} ·
      ${error.retryable ? " the same request may succeed if sent again" : " the same request would fail again"}
    </p>
  </section>`;
}

function media(job, name) {
  const ref = job.request[name];
  return ref?.upload_id ? `/v1/uploads/${ref.upload_id}/content` : null;
}

function Panes({ job, preview }) {
  const video = job.artifacts.find((one) => one.name === "video");
  const poster = job.artifacts.find((one) => one.name === "poster");
  const dance = media(job, "driving_video");
  return html`<${Stage}
    photo=${media(job, "reference_image")}
    dance=${dance && { src: dance, start: Number(job.request.start_seconds) || 0 }}
    result=${video?.url}
    poster=${poster?.url}
    fps=${video?.fps || job.request.fps}
    between=${html`<${Between} job=${job} preview=${preview} />`}
  />`;
}

function Between({ job, preview }) {
  if (preview && job.status === "running") {
    return html`<img src=${preview} alt="Preview while sampling" class="preview" /><span class="badge">Preview</span>`;
  }
  const text = {
    failed: "There is no result: the job failed.",
    canceled: "There is no result: the job was canceled.",
    queued: `${phaseWords(job.phase) || "queued"}`,
    running: `${phaseWords(job.phase) || "running"}`,
  }[job.status];
  return html`<p class="quiet">${text}</p>`;
}

function Going({ job }) {
  if (isOver(job)) return null;
  const { progress, waiting } = job;
  const rest = left(progress.eta_seconds);
  const place =
    job.queue_position === null
      ? null
      : job.queue_position === 0
        ? "first in the queue"
        : `${job.queue_position} ahead in the queue`;
  const words = job.cancel_requested
    ? "Canceling: the engine was told to stop."
    : job.started_at && `Attempt ${job.attempt}, runs since ${timeOfDay(job.started_at)}.`;
  return html`<section class="panel going" aria-labelledby="going-title">
    <h2 id="going-title" class="visually-hidden">Progress</h2>
    <div class="going-line number" aria-live="polite">
      <strong class="sentence">${phaseWords(job.phase)}</strong>
      <span>${[place, steps(job), progress.node].filter(Boolean).join(" · ")}</span>
      <span class="going-end">${[percent(progress.fraction), rest && `about ${rest}`].filter(Boolean).join(" · ")}</span>
    </div>
    <${Progress} job=${job} />
    <p class="quiet few-lines">
      ${waiting ? waiting.detail : job.reason || words}
    </p>
  </section>`;
}

function Facts({ job }) {
  const { usage } = job;
  const owner = useOwners()(job);
  return html`<dl class="facts">
    <${Fact} name="Workflow">${job.workflow}<//>
    ${owner && html`<${Fact} name="Made by">${owner}<//>`}
    <${Fact} name="Made"><span title=${moment(job.created_at)}><${Age} time=${job.created_at} /> ago</span><//>
    <${Fact} name="Waited">${duration(usage.queue_seconds)}<//>
    <${Fact} name="Ran">${duration(secondsBetween(job.started_at, job.finished_at))}<//>
    <${Fact} name="GPU time">${duration(usage.gpu_seconds)}<//>
    <${Fact} name="Peak memory">${usage.peak_vram_mib === null ? "–" : html`<span title=${`${count(usage.peak_vram_mib)} MiB`}>${gib(usage.peak_vram_mib)}</span>`}<//>
    <${Fact} name="Attempt">${job.attempt || "–"}<//>
    <${Fact} name="Priority">${job.priority}<//>
    ${Object.entries(job.metadata).map(([name, text]) => html`<${Fact} key=${name} name=${name}><a href=${link("jobs", { query: { q: `${name}=${text}` } })}>${text}</a><//>`)}
    <${Fact} name="Files" wide>
      <ul class="files">
        ${job.artifacts.map((one) => html`<li key=${one.name}><a href=${`${one.url}?download=true`} download>${one.name}</a> <span class="quiet number">${size(one)}</span></li>`)}
        ${job.attempt > 0 && html`<li><a href=${`${job.links.self}/artifacts/graph?download=true`} download>graph</a> <span class="quiet">as ComfyUI got it</span></li>`}
        <li><a href=${`${job.links.self}/artifacts/request?download=true`} download>request</a> <span class="quiet">with every default</span></li>
      </ul>
    <//>
  </dl>`;
}

function size(one) {
  const sides = one.width ? `${one.width} × ${one.height}` : "";
  const length = one.frames > 1 ? `${one.frames} frames` : "";
  return [sides, length, bytes(one.bytes)].filter(Boolean).join(", ");
}

function Settings({ job }) {
  const { data } = usePoll(`/v1/workflows/${job.workflow}`, { every: 300000 });
  const shown = Object.entries(job.request).filter(
    ([, one]) => one === null || typeof one !== "object",
  );
  const defaults = data?.defaults || {};
  const chosen = ([name, one]) =>
    !(name in defaults) || (defaults[name] !== null && defaults[name] !== one);
  const rest = data ? shown.filter((entry) => !chosen(entry)) : [];
  return html`<dl class="facts">${shown.filter((entry) => !rest.includes(entry)).map(setting)}</dl>
    ${rest.length > 0 && html`<details><summary>As by default (${rest.length})</summary><dl class="facts">${rest.map(setting)}</dl></details>`}`;
}

function setting([name, one]) {
  const long = typeof one === "string" && one.length > 32;
  const chinese = typeof one === "string" && /[\u4e00-\u9fff]/.test(one);
  return html`<${Fact} key=${name} name=${fieldWords(name)} wide=${long}><span lang=${chinese ? "zh" : null}>${value(one)}</span><//>`;
}

function Attempts({ job }) {
  const running = !isOver(job);
  const { data } = usePoll(job.attempt ? `/v1/jobs/${job.id}/attempts` : null, {
    every: running ? LIVE_MS : OVER_MS,
  });
  const attempts = data?.attempts || [];
  if (!attempts.length) return null;
  const drawn = attempts.findLast((one) => one.vram_timeline?.length > 1);
  return html`<section class="panel" aria-labelledby="attempts-title">
    <h2 id="attempts-title">Attempts and memory</h2>
    <div class="table-scroll" tabindex="0" role="region" aria-label="Attempts">
      <table class="plain-table">
        <thead>
          <tr><th scope="col">Attempt</th><th scope="col">Engine</th><th scope="col">Outcome</th><th scope="col" class="numeric">Ran</th><th scope="col" class="numeric">Peak memory</th></tr>
        </thead>
        <tbody>
          ${attempts.map(
            (one) => html`<tr key=${one.number}>
              <td>${one.number}${one.low_memory ? " (low memory)" : ""}</td>
              <td class="one-line">${one.engine}</td>
              <td>${one.outcome || "in progress"}${one.detail ? html`<span class="quiet"> ${one.detail}</span>` : ""}</td>
              <td class="numeric">${duration(secondsBetween(one.started_at, one.finished_at))}</td>
              <td class="numeric">${gib(one.peak_vram_mib)}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${drawn ? html`<${Memory} attempt=${drawn} />` : html`<p class="quiet">${running ? "Memory over the run is shown when the attempt has ended." : "Memory was not measured: no card was read."}</p>`}
  </section>`;
}

function Memory({ attempt }) {
  const data = useMemo(
    () => [attempt.vram_timeline.map((one) => one[0]), attempt.vram_timeline.map((one) => one[1])],
    [attempt],
  );
  return html`<${Chart}
    data=${data}
    series=${[["ComfyUI", "--accent", "--accent-soft"]]}
    summary=${`ComfyUI's memory during attempt ${attempt.number}: at most ${gib(attempt.peak_vram_mib)}.`}
  />`;
}
