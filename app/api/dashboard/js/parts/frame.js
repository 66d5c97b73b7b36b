// Header, connection bar and messages.
import { signOut } from "../api.js";
import { duration } from "../format.js";
import { connection, notices, notify, useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";

const TABS = [
  ["now", "Now"],
  ["jobs", "Jobs"],
  ["new", "New job"],
  ["engine", "Engine"],
];

export function Header({ view, who, onHelp }) {
  const signedIn = who.phase === "in";
  return html`<header class="top">
    <a class="brand" href="#/now"><img src="icon.svg" alt="" width="24" height="24" />SteadyDancer</a>
    ${
      signedIn &&
      html`<nav aria-label="Views">
        ${TABS.map(
          ([name, title]) =>
            html`<a
              href=${`#/${name}`}
              aria-current=${view === name || (view === "job" && name === "jobs") ? "page" : null}
              >${title}</a
            >`,
        )}
      </nav>`
    }
    <div class="top-end">
      ${
        signedIn &&
        who.keyId &&
        html`<span class="who">${who.name}</span>
          <button type="button" class="button plain" title=${`Signed in with the key ${who.name}`} onClick=${leave}>Sign out</button>`
      }
      <button type="button" class="button plain icon" aria-label="Keyboard shortcuts" onClick=${onHelp}>
        <kbd>?</kbd>
      </button>
      <${ThemeButton} />
    </div>
  </header>`;
}

function leave() {
  signOut().catch((error) => notify(error.message, "error"));
}

const THEMES = { system: "As the system", light: "Light", dark: "Dark" };
const NEXT = { system: "light", light: "dark", dark: "system" };

function ThemeButton() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || "system");
  const change = () => {
    const next = NEXT[theme];
    setTheme(next);
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // It then holds until the page is closed.
    }
    // Charts read their colors when they are drawn.
    dispatchEvent(new Event("themechange"));
  };
  return html`<button
    type="button"
    class="button plain icon"
    aria-label=${`Colors: ${THEMES[theme]}. Change.`}
    title=${`Colors: ${THEMES[theme].toLowerCase()}`}
    onClick=${change}
  >
    <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true">
      <circle cx="10" cy="10" r="7" fill="none" stroke="currentColor" stroke-width="1.6" />
      ${theme === "dark" && html`<circle cx="10" cy="10" r="7" fill="currentColor" />`}
      ${theme === "system" && html`<path d="M10 3a7 7 0 0 1 0 14z" fill="currentColor" />`}
    </svg>
  </button>`;
}

/** Lies over the page instead of moving it. */
export function ConnectionBar() {
  const { lost, since } = useStore(connection);
  const [, tick] = useState(0);
  useEffect(() => {
    if (!lost) return undefined;
    const timer = setInterval(() => tick((now) => now + 1), 1000);
    return () => clearInterval(timer);
  }, [lost]);
  return html`<div class="connection" role="status" aria-live="polite">
    ${
      lost &&
      html`<p>
        <strong>${lost}</strong> Asking again; what you see is as it was
        <span class="number" aria-hidden="true"> ${duration((Date.now() - since) / 1000)} ago</span>.
      </p>`
    }
  </div>`;
}

export function Notices() {
  const { list } = useStore(notices);
  return html`<div class="notices" role="status" aria-live="polite">
    ${list.map((one) => html`<p key=${one.id} class=${`notice ${one.kind}`}>${one.text}</p>`)}
  </div>`;
}
