// Single-key shortcuts. They can be turned off (WCAG 2.1.4), and are never taken from a field.
import { focus, go } from "../router.js";
import { session } from "../store.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const KEYS = [
  ["1", "Now"],
  ["2", "Jobs"],
  ["3 or n", "New job"],
  ["4", "Engine"],
  ["/", "Search the jobs"],
  ["j and k", "Next and previous job in the list"],
  ["Enter", "Open it"],
  ["Space", "Play or pause, in a job"],
  ["?", "This list"],
];

const VIEW_OF = { 1: "now", 2: "jobs", 3: "new", n: "new", 4: "engine" };

function wanted() {
  try {
    return localStorage.getItem("shortcuts") !== "off";
  } catch {
    return true;
  }
}

export function useShortcuts(onHelp) {
  useEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !wanted()) return;
      if (event.target.closest("input, textarea, select, dialog, [contenteditable]")) return;
      if (session.get().phase !== "in") return;
      if (VIEW_OF[event.key]) go(VIEW_OF[event.key]);
      else if (event.key === "?") onHelp();
      else if (event.key === "/") search();
      else if (event.key === "j") step(1);
      else if (event.key === "k") step(-1);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

function search() {
  const field = document.getElementById("job-search");
  if (field) field.focus();
  else {
    focus.search = true;
    go("jobs");
  }
}

function step(by) {
  const rows = [...document.querySelectorAll("[data-row-link]")];
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

export function KeyHelp({ onClose }) {
  const dialog = useRef(null);
  const [on, setOn] = useState(wanted());
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const toggle = (event) => {
    setOn(event.target.checked);
    try {
      localStorage.setItem("shortcuts", event.target.checked ? "on" : "off");
    } catch {
      // They stay on where nothing is kept.
    }
  };
  return html`<dialog ref=${dialog} class="dialog" aria-labelledby="keys-title" onClose=${onClose}>
    <h2 id="keys-title">Keyboard</h2>
    <table class="plain-table">
      <tbody>
        ${KEYS.map(
          ([key, what]) => html`<tr>
            <th scope="row"><kbd>${key}</kbd></th>
            <td>${what}</td>
          </tr>`,
        )}
      </tbody>
    </table>
    <label class="check"
      ><input type="checkbox" checked=${on} onChange=${toggle} /> Single-key shortcuts</label
    >
    <form method="dialog"><button class="button">Close</button></form>
  </dialog>`;
}
