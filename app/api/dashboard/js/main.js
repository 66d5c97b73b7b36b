// The frame around the views: navigation, connection, session, keys, messages.
import { whoAmI } from "./api.js";
import { Header, ConnectionBar, Notices } from "./parts/frame.js";
import { Title } from "./parts/bits.js";
import { KeyHelp, useShortcuts } from "./parts/shortcuts.js";
import { useRoute } from "./router.js";
import { connection, session, useStore } from "./store.js";
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./ui.js";
import { EngineView } from "./views/engine.js";
import { JobView } from "./views/job.js";
import { JobsView } from "./views/jobs.js";
import { NewJobView } from "./views/new_job.js";
import { NowView } from "./views/now.js";
import { SignInView } from "./views/sign_in.js";

const VIEWS = {
  now: ["Now", NowView],
  jobs: ["Jobs", JobsView],
  job: ["Job", JobView],
  new: ["New job", NewJobView],
  engine: ["Engine", EngineView],
};

const RETRY_MS = 3000;

function App() {
  const route = useRoute();
  const who = useStore(session);
  const [helpOpen, setHelpOpen] = useState(false);
  const main = useRef(null);

  useEffect(() => {
    let timer = 0;
    let ended = false;
    const ask = () =>
      whoAmI().catch((error) => {
        // Not only a lost network: a gateway that is starting has the same cure.
        if (error.status) {
          connection.set((now) => ({ lost: error.message, since: now.since || Date.now() }));
        }
        if (!ended) timer = setTimeout(ask, RETRY_MS);
      });
    ask();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, []);

  useEffect(() => {
    document.title = `${VIEWS[route.view]?.[0] || "Not found"} · SteadyDancer`;
  }, [route.view]);

  useShortcuts(() => setHelpOpen(true));

  return html`
    <a class="skip" href="#main" onClick=${skipTo(main)}>Skip to content</a>
    <${Header} view=${route.view} who=${who} onHelp=${() => setHelpOpen(true)} />
    <${ConnectionBar} />
    <main id="main" ref=${main} tabindex="-1">${body(route, who)}</main>
    <${Notices} />
    ${helpOpen && html`<${KeyHelp} onClose=${() => setHelpOpen(false)} />`}
  `;
}

function skipTo(main) {
  return (event) => {
    event.preventDefault();
    main.current.focus();
  };
}

function body(route, who) {
  if (who.phase === "asking") return html`<p class="quiet loading">Asking the gateway…</p>`;
  if (who.phase === "out") return html`<${SignInView} why=${who.why} />`;
  const [, View] = VIEWS[route.view] || [];
  if (!View) {
    return html`<div class="page">
      <${Title}>Not found<//>
      <p>There is no such page. <a href="#/now">See what runs now.</a></p>
    </div>`;
  }
  return html`<${Guarded} key=${`${route.view}/${route.id}`}>
    <${View} id=${route.id} query=${route.query} />
  <//>`;
}

/** What a view throws ends that view only. */
function Guarded({ children }) {
  const [error, reset] = useErrorBoundary();
  if (!error) return children;
  return html`<div class="page">
    <${Title}>This view failed<//>
    <p>${String(error)}</p>
    <button type="button" class="button" onClick=${reset}>Try again</button>
  </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
