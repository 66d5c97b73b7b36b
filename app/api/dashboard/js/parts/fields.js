// A form from a JSON Schema: one field for each property, with its own words and bounds.
import { fieldWords } from "../format.js";
import { html } from "../ui.js";

/** The part of a property's schema that is not null. */
function plain(schema) {
  const choice = schema.anyOf?.find((one) => one.type !== "null");
  return choice ? { ...schema, ...choice } : schema;
}

export function isMedia(schema) {
  return Boolean(schema["x-media"]);
}

/** What the field of a text stands for: undefined where it is empty, which means the default. */
export function parseField(schema, text) {
  const { type } = plain(schema);
  if (type === "boolean") return text;
  if (text === "" || text === undefined || text === null) return undefined;
  if (type === "integer" || type === "number") {
    const number = Number(text);
    return Number.isFinite(number) ? number : text;
  }
  return text;
}

export function Field({ name, schema, value, fallback, fault, onChange }) {
  const shape = plain(schema);
  const id = `field-${name}`;
  const described = `${id}-help ${id}-fault`;
  const common = {
    id,
    name,
    "aria-describedby": described,
    "aria-invalid": fault ? "true" : null,
  };
  const help = html`<p class="help" id=${`${id}-help`}>${shape.description}</p>
    <p class="fault" id=${`${id}-fault`} role="alert">${fault}</p>`;
  const title = schema.title && schema.title !== name ? sentence(schema.title) : fieldWords(name);

  if (shape.type === "boolean") {
    const checked = value === undefined ? Boolean(fallback) : Boolean(value);
    return html`<div class="field">
      <label class="check"
        ><input ...${common} type="checkbox" checked=${checked} onChange=${(event) => onChange(event.target.checked)} />
        ${title}</label
      >
      ${help}
    </div>`;
  }
  return html`<div class=${shape.maxLength > 200 ? "field whole" : "field"}>
    <label for=${id}>${title}</label>
    ${input({ common, shape, value, fallback, onChange })} ${help}
  </div>`;
}

/** Sentence case, as everywhere else on the page. */
function sentence(title) {
  return fieldWords(title.toLowerCase());
}

function input({ common, shape, value, fallback, onChange }) {
  const typed = (event) => onChange(event.target.value);
  const hint = fallback === null || fallback === undefined ? "" : String(fallback);
  if (shape.enum) {
    const current = value ?? "";
    return html`<select ...${common} onChange=${typed}>
      <option value="" selected=${current === ""}>${hint ? `${hint} (default)` : "Default"}</option>
      ${shape.enum
        .filter((one) => one !== fallback)
        .map((one) => html`<option value=${one} selected=${current === one}>${one}</option>`)}
    </select>`;
  }
  if (shape.type === "integer" || shape.type === "number") {
    // No `step`: the gateway says what is wrong in words, and the browser would in its own.
    return html`<input
      ...${common}
      type="number"
      inputmode=${shape.type === "integer" ? "numeric" : "decimal"}
      min=${shape.minimum}
      max=${shape.maximum}
      step=${shape.multipleOf || (shape.type === "integer" ? 1 : "any")}
      placeholder=${hint || "Default"}
      value=${value ?? ""}
      onInput=${typed}
    />`;
  }
  if (shape.maxLength > 200) {
    return html`<textarea ...${common} rows="3" maxlength=${shape.maxLength} placeholder=${hint} value=${value ?? ""} onInput=${typed}></textarea>`;
  }
  return html`<input ...${common} type="text" maxlength=${shape.maxLength} placeholder=${hint} value=${value ?? ""} onInput=${typed} />`;
}
