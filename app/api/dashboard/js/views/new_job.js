// A new job, or an earlier one with changes.
import { get, idempotencyKey, post } from "../api.js";
import { jobTitle } from "../format.js";
import { Missing, Title } from "../parts/bits.js";
import { DropZone } from "../parts/drop.js";
import { EstimatePanel, useEstimate } from "../parts/estimate.js";
import { Field, isMedia, parseField } from "../parts/fields.js";
import { usePoll } from "../poll.js";
import { go, link } from "../router.js";
import { may, notify } from "../store.js";
import { html, useEffect, useRef, useState } from "../ui.js";

/** Asked for first; whatever else a workflow has is under "More settings". */
const FIRST = [
  "prompt",
  "preset",
  "orientation",
  "mode",
  "duration_seconds",
  "frames",
  "fps",
  "seed",
  "keep_audio",
];

export function NewJobView({ query }) {
  const from = query.get("from");
  const { data, error } = usePoll("/v1/workflows", { every: 60000 });
  const [earlier, setEarlier] = useState(null);
  const [problem, setProblem] = useState(null);

  useEffect(() => {
    if (from) get(`/v1/jobs/${from}`).then(setEarlier, setProblem);
    else setEarlier(null);
  }, [from]);

  const waiting = !data || (from && !earlier);
  if (waiting || problem) {
    return html`<div class="page"><${Title}>New job<//><${Missing} error=${problem || error} what="the workflows" /></div>`;
  }
  if (!data.workflows.length) {
    return html`<div class="page"><${Title}>New job<//><p class="empty">No workflow is installed.</p></div>`;
  }
  return html`<${Form} key=${from || "new"} workflows=${data.workflows} earlier=${from ? earlier : null} />`;
}

/** What a form for an earlier job begins with: its request where it is not the default. */
function startOf(workflow, earlier) {
  if (!earlier) return {};
  const { properties } = workflow.request_schema;
  return Object.fromEntries(
    Object.entries(earlier.request).filter(
      ([name, one]) =>
        properties[name] &&
        one !== null &&
        (isMedia(properties[name]) || one !== workflow.defaults[name]),
    ),
  );
}

function preferred(workflows, earlier) {
  if (earlier) return workflows.find((one) => one.name === earlier.workflow) || workflows[0];
  return (
    workflows.find((one) => one.available && one.name !== "smoke") ||
    workflows.find((one) => one.name !== "smoke") ||
    workflows[0]
  );
}

function Form({ workflows, earlier }) {
  const [name, setName] = useState(() => preferred(workflows, earlier).name);
  const workflow = workflows.find((one) => one.name === name) || workflows[0];
  const [values, setValues] = useState(() => startOf(workflow, earlier));
  const [label, setLabel] = useState("");
  const [priority, setPriority] = useState("0");
  const [faults, setFaults] = useState({});
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  // The same form sent again after a lost answer is the same job.
  const key = useRef(null);
  const request = requestOf(workflow, values);
  const estimate = useEstimate(workflow, request);

  const change = (field, one) => {
    key.current = null;
    setValues((now) => ({ ...now, [field]: one }));
    setFaults((now) => ({ ...now, [field]: "" }));
  };

  /** Name and priority belong to the submission as the request does: changed, it is another one. */
  const rename = (set) => (event) => {
    key.current = null;
    set(event.target.value);
  };

  const submit = async (event) => {
    event.preventDefault();
    const lacking = missingOf(workflow, request);
    setFaults(lacking);
    if (Object.keys(lacking).length) {
      document.getElementById(`field-${Object.keys(lacking)[0]}`)?.focus();
      return;
    }
    setBusy(true);
    setProblem("");
    key.current ||= idempotencyKey();
    const headers = { "Idempotency-Key": key.current };
    try {
      const job = earlier
        ? await post(
            `/v1/jobs/${earlier.id}/rerun`,
            { overrides: overridesOf(workflow, request, earlier) },
            { headers },
          )
        : await post(
            "/v1/jobs",
            {
              workflow: workflow.name,
              request,
              priority: Number(priority) || 0,
              metadata: label.trim() ? { name: label.trim() } : {},
            },
            { headers },
          );
      notify("Accepted. It will run, or say why not.");
      go("job", { id: job.id });
    } catch (error) {
      if (error.status) key.current = null;
      const found = faultsOf(error);
      setFaults(found);
      setProblem(error.message);
      setBusy(false);
      const first = Object.keys(found)[0];
      if (first) document.getElementById(`field-${first}`)?.focus();
    }
  };

  const { properties } = workflow.request_schema;
  const media = Object.keys(properties).filter((one) => isMedia(properties[one]));
  const rest = Object.keys(properties).filter((one) => !isMedia(properties[one]));
  const first = FIRST.filter((one) => rest.includes(one));
  const more = first.length ? rest.filter((one) => !first.includes(one)) : [];
  const field = (one) =>
    html`<${Field}
      key=${`${workflow.name}-${one}`}
      name=${one}
      schema=${properties[one]}
      value=${values[one]}
      fallback=${workflow.defaults[one]}
      fault=${faults[one] || estimate.faults[one]}
      onChange=${(text) => change(one, text)}
    />`;

  return html`<form class="page wide new-job" onSubmit=${submit} novalidate>
    <div class="page-head">
      <${Title}>${earlier ? "Rerun with changes" : "New job"}<//>
      ${earlier && html`<p class="quiet one-line">of <a href=${link("job", { id: earlier.id })}>${jobTitle(earlier)}</a></p>`}
    </div>
    ${
      !earlier &&
      html`<div class="field">
        <label for="workflow">Workflow</label>
        <select id="workflow" onChange=${(event) => {
          setName(event.target.value);
          setFaults({});
          key.current = null;
        }}>
          ${workflows.map((one) => html`<option value=${one.name} selected=${one.name === workflow.name}>${one.title}${one.available ? "" : " (cannot run now)"}</option>`)}
        </select>
        <p class="help">${workflow.description}</p>
      </div>`
    }
    ${
      !workflow.available &&
      html`<p class="callout warn">
        This workflow cannot run here now${workflow.missing.length ? `: ${workflow.missing[0].detail}` : ", since no engine is ready."}${" "}
        <a href="#/engine">See what is missing</a>
      </p>`
    }
    <div class="new-grid">
      <div>
        <div class="drops">
          ${media.map(
            (one) => html`<${DropZone}
              key=${one}
              name=${one}
              title=${properties[one].title}
              help=${properties[one].description}
              kind=${properties[one]["x-media"]}
              uploadId=${values[one]?.upload_id}
              fault=${faults[one]}
              onUpload=${(found) => change(one, found ? { upload_id: found.id } : undefined)}
            />`,
          )}
        </div>
        <div class="fields">${(first.length ? first : rest).map(field)}</div>
        ${more.length > 0 && html`<details open=${more.some((one) => faults[one])}><summary>More settings</summary><div class="fields">${more.map(field)}</div></details>`}
        ${
          !earlier &&
          html`<div class="fields">
            <div class="field">
              <label for="job-name">Name</label>
              <input id="job-name" maxlength="512" value=${label} onInput=${rename(setLabel)} aria-describedby="job-name-help" />
              <p class="help" id="job-name-help">For people: shown in lists, searchable, and the name of the file.</p>
            </div>
            <div class="field">
              <label for="job-priority">Priority</label>
              <input id="job-priority" type="number" min="-100" max="100" value=${priority} onInput=${rename(setPriority)} aria-describedby="job-priority-help" />
              <p class="help" id="job-priority-help">Higher runs first; -100 to 100.</p>
            </div>
          </div>`
        }
      </div>
      <aside class="panel sticky" aria-labelledby="estimate-title">
        <h2 id="estimate-title">Before you send</h2>
        <${EstimatePanel} estimate=${estimate} onApply=${(overrides) => Object.entries(overrides).forEach(([one, text]) => change(one, text ?? undefined))} />
        <button class="button primary big" disabled=${busy || !may("submit")}>${busy ? "Sending…" : earlier ? "Run again" : "Send"}</button>
        <p class="fault" role="alert">${problem}${may("submit") ? "" : "This key may look, but not submit."}</p>
      </aside>
    </div>
  </form>`;
}

function requestOf(workflow, values) {
  const { properties } = workflow.request_schema;
  const request = {};
  for (const [name, text] of Object.entries(values)) {
    const schema = properties[name];
    if (!schema) continue;
    const one = isMedia(schema) ? text : parseField(schema, text);
    if (one !== undefined) request[name] = one;
  }
  return request;
}

function missingOf(workflow, request) {
  const { required = [], properties } = workflow.request_schema;
  const lacking = required.filter((name) => request[name] === undefined);
  return Object.fromEntries(
    lacking.map((name) => [name, isMedia(properties[name]) ? "Choose a file." : "This is needed."]),
  );
}

/** Fields by their pointers: `/request/width` belongs to width. */
export function faultsOf(error) {
  const found = {};
  for (const { pointer, detail } of error.fields || []) {
    const parts = pointer
      .split("/")
      .filter((one) => one && one !== "request" && one !== "overrides");
    if (parts.length) found[parts[0]] ||= detail;
  }
  return found;
}

/** What differs from the earlier request; null goes back to the default. */
function overridesOf(workflow, request, earlier) {
  const overrides = {};
  for (const name of Object.keys(workflow.request_schema.properties)) {
    const before = earlier.request[name] ?? null;
    const was = before === workflow.defaults[name] ? undefined : (before ?? undefined);
    if (JSON.stringify(request[name]) !== JSON.stringify(was))
      overrides[name] = request[name] ?? null;
  }
  return overrides;
}
