// What a request would take, asked while it is being written.
import { post } from "../api.js";
import { count, duration, gib } from "../format.js";
import { html, useEffect, useState } from "../ui.js";

const PAUSE_MS = 400;
const NONE = { data: null, error: null, faults: {} };

export function useEstimate(workflow, request) {
  const [state, setState] = useState(NONE);
  const text = JSON.stringify(request);
  useEffect(() => {
    const control = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const data = await post(
          `/v1/workflows/${workflow.name}/estimate`,
          { request: { ...standIns(workflow), ...JSON.parse(text) } },
          { signal: control.signal },
        );
        setState({ data, error: null, faults: {} });
      } catch (error) {
        if (control.signal.aborted) return;
        const faults = {};
        for (const { pointer, detail } of error.fields || []) {
          const name = pointer.split("/").filter((one) => one && one !== "request")[0];
          // What is still empty was not forgotten: it is being written.
          if (name && JSON.parse(text)[name] !== undefined) faults[name] ||= detail;
        }
        setState((now) => ({ data: now.data, error, faults }));
      }
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [workflow.name, text]);
  return state;
}

/** Texts that are needed and not yet written change nothing of what a request takes. */
function standIns({ request_schema: { required = [], properties } }) {
  const texts = required.filter((name) => properties[name].type === "string");
  return Object.fromEntries(texts.map((name) => [name, properties[name].examples?.[0] ?? "…"]));
}

export function EstimatePanel({ estimate, onApply }) {
  const { data, error } = estimate;
  const shape = data?.request || {};
  const fits = { true: "Fits this card", false: "Does not fit this card", null: "No card is read" }[
    String(data?.fits ?? null)
  ];
  const ways = error?.problem?.fits || [];
  return html`<div class="estimate" aria-live="polite">
    <dl class="facts single">
      <div class="fact"><dt>Memory</dt><dd>${data ? gib(data.need_mib) : "–"}</dd></div>
      <div class="fact"><dt>Card</dt><dd class=${data?.fits === false ? "bad" : ""}>${data ? (data.card_mib ? `${fits} (${gib(data.card_mib).replace(" ", "\u00a0")})` : fits) : "–"}</dd></div>
      <div class="fact"><dt>Takes about</dt><dd>${data ? (data.expected_seconds === null ? "not known yet" : duration(data.expected_seconds)) : "–"}</dd></div>
      <div class="fact"><dt>Place in the queue</dt><dd>${data ? (data.queue_position === 0 ? "first" : `${count(data.queue_position)} ahead`) : "–"}</dd></div>
      <div class="fact"><dt>Output</dt><dd>${shape.width && shape.height ? `${shape.width} × ${shape.height}${shape.frames ? `, ${shape.frames} frames` : ""}` : "–"}</dd></div>
    </dl>
    <p class="quiet">${data ? (data.learned ? "Memory as measured in earlier runs." : "Memory by the workflow's formula; it learns from the first run.") : ""}</p>
    ${(data?.warnings || []).map((text) => html`<p class="callout warn">${text}</p>`)}
    ${error && !Object.keys(estimate.faults).length && error.code !== "invalid-request" && html`<p class="callout warn">${error.message}</p>`}
    ${ways.map(
      (one) =>
        html`<p><button type="button" class="button" onClick=${() => onApply(one.overrides)}>Use ${Object.entries(
          one.overrides,
        )
          .filter(([, text]) => text !== null)
          .map(([name, text]) => `${name} ${text}`)
          .join(", ")}</button> <span class="quiet">needs ${gib(one.need_mib)}</span></p>`,
    )}
  </div>`;
}
