// What happens now: memory, engine, queue, and why the next job waits.
import { post } from "../api.js";
import { count, duration, engineWords, gib, jobTitle, left, phaseWords, steps } from "../format.js";
import { doing, Missing, Progress, Status, Title } from "../parts/bits.js";
import { Chart } from "../parts/chart.js";
import { MemoryPicture } from "../parts/memory.js";
import { usePoll } from "../poll.js";
import { link } from "../router.js";
import { html, useEffect, useMemo, useState } from "../ui.js";

const KEPT_POINTS = 300;
const LEAST_SECONDS = 120;

/** Readings since the page was opened, by card; kept while other views are open. */
const readings = new Map();

function remember(system) {
  const at = Date.now() / 1000;
  for (const { gpu } of system.engines) {
    if (!gpu) continue;
    const list = readings.get(gpu.uuid) || [];
    const used = gpu.total_mib - gpu.free_mib;
    list.push([at, used, gpu.engine_mib ?? null]);
    if (list.length > KEPT_POINTS) list.shift();
    readings.set(gpu.uuid, list);
  }
}

export function NowView() {
  const { data: system, error } = usePoll("/v1/system", { every: 2000 });
  const next = useNextJob(system);
  const [, drawn] = useState(0);

  useEffect(() => {
    if (!system) return undefined;
    remember(system);
    // A reading that stays the same is a reading too.
    const timer = setInterval(() => {
      if (document.hidden) return;
      remember(system);
      drawn((now) => now + 1);
    }, 2500);
    return () => clearInterval(timer);
  }, [system]);

  if (!system)
    return html`<div class="page"><${Title}>Now<//><${Missing} error=${error} what="the state" /></div>`;
  return html`<div class="page">
    <${Title}>Now<//>
    ${
      system.draining &&
      html`<p class="callout warn">
        The gateway is draining: what runs will end, and nothing new is started.${" "}
        <a href="#/engine">Resume</a>
      </p>`
    }
    <${Figures} system=${system} />
    ${system.engines.map((engine) =>
      engine.name === "serverless"
        ? html`<${EndpointPanel} key=${engine.name} engine=${engine} />`
        : html`<${EnginePanel} key=${engine.name} engine=${engine} system=${system} next=${next} />`,
    )}
  </div>`;
}

function Figures({ system }) {
  const { queue, engines } = system;
  const ready = engines.filter((one) => one.state === "ready").length;
  const state =
    engines.length === 1 ? engineWords(engines[0].state) : `${ready} of ${engines.length} ready`;
  return html`<dl class="figures">
    <div><dt>Running</dt><dd>${count(queue.running)}</dd></div>
    <div><dt>Queued</dt><dd><a href=${link("jobs", { query: { status: "queued" } })}>${count(queue.queued)}</a></dd></div>
    <div>
      <dt>Oldest waits</dt>
      <dd>${queue.oldest_queued_seconds === null ? "–" : duration(queue.oldest_queued_seconds)}</dd>
    </div>
    <div><dt>Engine</dt><dd class=${ready ? "" : "bad"}>${state}</dd></div>
  </dl>`;
}

function EnginePanel({ engine, system, next }) {
  const { gpu } = engine;
  const title = `engine-${engine.name}`;
  return html`<section class="panel" aria-labelledby=${title}>
    <div class="panel-head">
      <h2 id=${title}>${gpu ? gpu.name : "Engine"}</h2>
      <p class="quiet">
        ${engine.state === "ready" ? "" : `${engineWords(engine.state)} · `}${engine.name}${engine.version ? ` · ComfyUI ${engine.version}` : ""}
      </p>
      ${
        gpu &&
        html`<p class="quiet number panel-end">
          ${gpu.utilization_percent === null ? "" : `${gpu.utilization_percent} % busy`}
          ${gpu.temperature_celsius === null ? "" : ` · ${gpu.temperature_celsius} °C`}
        </p>`
      }
    </div>
    ${engine.state !== "ready" && html`<p class="callout bad" role="alert"><strong>ComfyUI is ${engine.state}.</strong> ${engine.detail || ""} Jobs wait and are kept; they start when it is back.</p>`}
    ${engine.gpu_problem && html`<p class="callout bad" role="alert"><strong>The card cannot be read.</strong> ${engine.gpu_problem}</p>`}
    ${
      gpu
        ? html`<${MemoryPicture}
              gpu=${gpu}
              need=${next.need}
              waits=${Boolean(next.job?.waiting)}
              needName="Next job needs"
            />
            <${History} gpu=${gpu} need=${next.need} />`
        : !engine.gpu_problem &&
          system.admission !== "off" &&
          html`<p class="quiet">The card was not read yet.</p>`
    }
    <${Admission} engine=${engine} next=${next} />
    <div class="slots">
      <${Slot} title="Running" id=${engine.running_job} idle="Nothing runs." />
      <${Slot} title="Staged next" id=${engine.staged_job} idle="Nothing is staged." />
    </div>
  </section>`;
}

// A serverless endpoint: no card of ours, and nothing staged.
function EndpointPanel({ engine }) {
  return html`<section class="panel" aria-labelledby="engine-serverless">
    <div class="panel-head">
      <h2 id="engine-serverless">Serverless endpoint</h2>
      <p class="quiet">${engineWords(engine.state)}</p>
    </div>
    <p class="sentence">${engine.detail || ""}</p>
    <p class="quiet sentence">${engine.admission}</p>
    <div class="slots">
      <${Slot} title="Running" id=${engine.running_job} idle="Nothing runs there." />
    </div>
  </section>`;
}

function Admission({ engine, next }) {
  const wait = next.job?.waiting;
  const words = wait ? wait.detail : next.job?.reason || engine.admission;
  return html`<div class="admission">
    <h3>Admission</h3>
    <p class="few-lines sentence" title=${words}>${words}</p>
    <p class="quiet one-line">
      ${
        next.job
          ? html`Next: <a href=${link("job", { id: next.job.id })}>${jobTitle(next.job)}</a>${", "}${phaseWords(next.job.phase)}${wait ? `, needs ${gib(wait.need_mib)}, has room for ${gib(wait.room_mib)}` : ""}`
          : "No job waits."
      }
    </p>
  </div>`;
}

function History({ gpu, need }) {
  const list = readings.get(gpu.uuid) || [];
  const length = list.length;
  const last = length ? list[length - 1][0] : 0;
  const data = useMemo(() => [0, 1, 2].map((at) => list.map((one) => one[at])), [last, length]);
  return html`<${Chart}
    data=${data}
    time=${true}
    least=${LEAST_SECONDS}
    top=${gpu.total_mib}
    series=${[
      ["In use", "--memory-others", "--memory-others-soft"],
      ["ComfyUI", "--accent", "--accent-soft"],
    ]}
    summary=${`GPU memory since this page was opened: ${gib(gpu.total_mib - gpu.free_mib)} of ${gib(gpu.total_mib)} in use now${need === null ? "" : `, and the next job needs ${gib(need)}`}.`}
  />`;
}

function Slot({ title, id, idle }) {
  const { data: job } = usePoll(id ? `/v1/jobs/${id}` : null, { every: 1500 });
  return html`<div class="slot">
    <h3>${title}</h3>
    ${
      job
        ? html`<a class="slot-title one-line" href=${link("job", { id: job.id })}>${jobTitle(job)}</a>
            <${Progress} job=${job} label=${`Progress of ${jobTitle(job)}`} />
            <p class="quiet number one-line">
              <${Status} job=${job} /> ${[doing(job), steps(job), left(job.progress.eta_seconds)].filter(Boolean).join(" · ")}
            </p>`
        : html`<p class="quiet">${id ? "Loading…" : idle}</p>`
    }
  </div>`;
}

/** The job that is offered first, and what it needs in MiB; null while that is not known. */
function useNextJob(system) {
  const waits = Boolean(system?.queue.queued);
  const { data } = usePoll(waits ? "/v1/jobs?order=queue&limit=1" : null, { every: 2000 });
  const job = data?.jobs[0] ?? null;
  const [priced, setPriced] = useState({ id: null, need: null });
  useEffect(() => {
    if (!job || job.waiting) return undefined;
    const control = new AbortController();
    needOf(job, control.signal).then(
      (need) => setPriced({ id: job.id, need }),
      () => undefined, // It is then drawn without.
    );
    return () => control.abort();
  }, [job?.id, Boolean(job?.waiting)]);
  if (!job) return { job: null, need: null };
  if (job.waiting) return { job, need: job.waiting.need_mib };
  return { job, need: priced.id === job.id ? priced.need : null };
}

async function needOf(job, signal) {
  const { reference_image: _image, driving_video: _video, ...request } = job.request;
  const path = `/v1/workflows/${job.workflow}/estimate`;
  return (await post(path, { request }, { signal })).need_mib;
}
