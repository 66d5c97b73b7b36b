// The engine room: what can run, what is missing, what was learned, and the brake.
import { post } from "../api.js";
import { bytes, count, duration, engineWords, gib } from "../format.js";
import { Action, Fact, Missing, Title } from "../parts/bits.js";
import { usePoll } from "../poll.js";
import { may, notify } from "../store.js";
import { html } from "../ui.js";

const KINDS = { node: "Node", input: "Input", model: "Model file" };

export function EngineView() {
  const { data: system, error, refresh } = usePoll("/v1/system", { every: 3000 });
  const { data: readiness } = usePoll("/readyz", { every: 5000 });
  const { data: workflows } = usePoll("/v1/workflows", { every: 10000 });
  if (!system)
    return html`<div class="page"><${Title}>Engine<//><${Missing} error=${error} what="the state" /></div>`;
  return html`<div class="page">
    <div class="page-head">
      <${Title}>Engine<//>
      <div class="actions"><${Brake} system=${system} refresh=${refresh} /></div>
    </div>
    ${system.draining && html`<p class="callout warn" role="status">Draining: what runs will end, and nothing new is started. Submissions are still taken and wait.</p>`}
    <${Checks} readiness=${readiness} />
    ${system.engines.map((one) => html`<${Engine} key=${one.name} engine=${one} />`)}
    <section class="panel" aria-labelledby="workflows-title">
      <h2 id="workflows-title">Workflows</h2>
      ${workflows ? workflows.workflows.map((one) => html`<${Workflow} key=${one.name} workflow=${one} />`) : html`<${Missing} what="the workflows" />`}
    </section>
    <${Learned} />
    <${Store} system=${system} />
  </div>`;
}

function Brake({ system, refresh }) {
  if (!may("admin")) return html`<p class="quiet">Draining needs an admin key.</p>`;
  const set = (what, words) => () =>
    post(`/v1/system/${what}`)
      .then(() => notify(words))
      .catch((error) => notify(error.message, "error"))
      .then(refresh);
  return system.draining
    ? html`<${Action} kind="primary" onRun=${set("resume", "Jobs are started again.")}>Resume<//>`
    : html`<${Action} onRun=${set("drain", "Draining: nothing new is started.")} confirm="Start nothing new?">Drain<//>`;
}

function Checks({ readiness }) {
  const checks = readiness?.checks || [];
  return html`<section class="panel" aria-labelledby="checks-title">
    <h2 id="checks-title">${readiness ? (readiness.ready ? "Ready" : "Not ready") : "Readiness"}</h2>
    <ul class="checks">
      ${checks.map(
        (one) => html`<li key=${one.name} class=${one.ok ? "ok" : "bad"}>
          <span class="check-mark" aria-hidden="true">${one.ok ? "✓" : "✕"}</span>
          <span class="check-name">${one.name}<span class="visually-hidden">: ${one.ok ? "well" : "not well"}</span></span>
          <span class="quiet">${one.detail}</span>
        </li>`,
      )}
    </ul>
  </section>`;
}

function Engine({ engine }) {
  const { gpu } = engine;
  const id = `engine-${engine.name}`;
  return html`<section class="panel" aria-labelledby=${id}>
    <h2 id=${id}>${engine.name}</h2>
    <dl class="facts">
      <${Fact} name="State"><span class=${engine.state === "ready" ? "" : "bad"}>${engineWords(engine.state)}</span><//>
      <${Fact} name="ComfyUI">${engine.version || "–"}<//>
      <${Fact} name="Card">${gpu ? gpu.name : "not read"}<//>
      <${Fact} name="Memory">${gpu ? `${gib(gpu.free_mib)} free of ${gib(gpu.total_mib)}` : "–"}<//>
      <${Fact} name="Admission" wide>${engine.admission}<//>
      ${engine.detail && html`<${Fact} name="Detail" wide>${engine.detail}<//>`}
      ${engine.gpu_problem && html`<${Fact} name="Card problem" wide><span class="bad">${engine.gpu_problem}</span><//>`}
    </dl>
  </section>`;
}

function Workflow({ workflow }) {
  const { missing } = workflow;
  return html`<div class="workflow">
    <h3>${workflow.title} <span class=${`tag ${workflow.available ? "ok" : "bad"}`}>${workflow.available ? "can run" : "cannot run now"}</span></h3>
    <p class="quiet">${workflow.description}${workflow.variant ? ` Variant ${workflow.variant}.` : ""}</p>
    ${
      missing.length > 0 &&
      html`<div class="table-scroll" tabindex="0" role="region" aria-label=${`Missing parts of ${workflow.title}`}><table class="plain-table">
        <caption>Missing for ${workflow.title}</caption>
        <thead><tr><th scope="col">What</th><th scope="col">Name</th><th scope="col">Why</th></tr></thead>
        <tbody>${missing.map((one) => html`<tr key=${`${one.kind}${one.name}`}><td>${KINDS[one.kind]}</td><td class="id">${one.name}</td><td>${one.detail}</td></tr>`)}</tbody>
      </table></div>`
    }
    ${!workflow.available && !missing.length && html`<p class="quiet">No engine is ready to be asked.</p>`}
  </div>`;
}

function Learned() {
  const { data, error } = usePoll("/v1/system/memory", { every: 30000 });
  return html`<section class="panel" aria-labelledby="learned-title">
    <h2 id="learned-title">Learned memory</h2>
    ${
      !data
        ? html`<${Missing} error=${error} what="the figures" />`
        : data.shapes.length
        ? html`<div class="table-scroll" tabindex="0" role="region" aria-label="Learned memory figures"><table class="plain-table">
            <caption class="visually-hidden">Highest memory seen for each kind of run</caption>
            <thead><tr><th scope="col">Workflow</th><th scope="col">Variant</th><th scope="col" class="numeric">Size</th><th scope="col" class="numeric">Frames</th><th scope="col" class="numeric">Peak</th><th scope="col" class="numeric">Runs</th><th scope="col">Card</th></tr></thead>
            <tbody>${data.shapes.map(
              (
                one,
              ) => html`<tr key=${`${one.workflow}/${one.variant}/${one.width}x${one.height}x${one.frames}/${one.card}`}>
                <td>${one.workflow}</td><td>${one.variant}</td><td class="numeric">${one.width} × ${one.height}</td><td class="numeric">${one.frames}</td>
                <td class="numeric" title=${`${count(one.peak_mib)} MiB`}>${gib(one.peak_mib)}${one.ooms ? " (ran out)" : ""}</td><td class="numeric">${one.samples}</td><td>${one.card}</td>
              </tr>`,
            )}</tbody>
          </table></div>`
        : html`<p class="quiet">Nothing was measured yet. A run counts when ComfyUI holds no models but its own.</p>`
    }
  </section>`;
}

function Store({ system }) {
  const { store, retention } = system;
  return html`<section class="panel" aria-labelledby="store-title">
    <h2 id="store-title">Store</h2>
    <dl class="facts">
      <${Fact} name="Database">${bytes(store.database_bytes)}<//>
      <${Fact} name="Media">${bytes(store.media_bytes)}${retention.keep_bytes ? ` of ${bytes(retention.keep_bytes)}` : ""}<//>
      <${Fact} name="Free disk">${bytes(store.free_disk_bytes)}<//>
      <${Fact} name="Journal">${store.journal_mode}<//>
      <${Fact} name="Jobs are kept">${retention.keep_seconds ? duration(retention.keep_seconds) : "–"}<//>
      <${Fact} name="Gateway">${system.version}<//>
    </dl>
  </section>`;
}
