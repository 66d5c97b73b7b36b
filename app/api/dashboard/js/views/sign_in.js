// Exchanging a key for a session.
import { signIn } from "../api.js";
import { Title } from "../parts/bits.js";
import { html, useState } from "../ui.js";

export function SignInView({ why }) {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);

  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await signIn(key.trim());
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };

  return html`<form class="page sign-in" onSubmit=${submit}>
    <${Title}>Sign in<//>
    ${why && html`<p class="callout warn" role="alert">${why}</p>`}
    <p>This gateway needs an API key. The browser keeps a session for twelve hours, not the key.</p>
    <div class="field">
      <label for="key">API key</label>
      <input
        id="key"
        type="password"
        autocomplete="current-password"
        required
        value=${key}
        aria-describedby="key-problem"
        aria-invalid=${problem ? "true" : null}
        onInput=${(event) => setKey(event.target.value)}
      />
      <p class="fault" id="key-problem" role="alert">${problem}</p>
    </div>
    <button class="button primary" disabled=${busy}>${busy ? "Signing in…" : "Sign in"}</button>
  </form>`;
}
