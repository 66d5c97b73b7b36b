// Photo, dance and result side by side; the two videos run in step by one control bar.
import { html, useEffect, useRef, useState } from "../ui.js";

const DRIFT_SECONDS = 0.08;

/**
 * @param dance `{ src, start }`: where in the dance the result begins; null without one
 * @param result source of the result's video; null while there is none
 * @param between what is shown in place of the result
 */
export function Stage({ photo, dance, result, poster, fps, between }) {
  const danceVideo = useRef(null);
  const resultVideo = useRef(null);
  const [state, setState] = useState({ playing: false, at: 0, length: 0, failed: "" });
  const start = dance?.start || 0;
  const leads = () => resultVideo.current || danceVideo.current;
  const offset = () => (leads() === danceVideo.current ? start : 0);

  useEffect(() => {
    const lead = leads();
    if (!lead) return undefined;
    const update = () => {
      const at = Math.max(lead.currentTime - offset(), 0);
      const length = Math.max((lead.duration || 0) - offset(), 0);
      setState((now) => ({ ...now, playing: !lead.paused, at, length }));
    };
    let frame = 0;
    const follow = () => {
      keepInStep();
      update();
      frame = lead.paused ? 0 : requestAnimationFrame(follow);
    };
    const begin = () => {
      if (!frame) frame = requestAnimationFrame(follow);
    };
    const names = ["loadedmetadata", "pause", "seeked", "durationchange"];
    for (const name of names) lead.addEventListener(name, update);
    lead.addEventListener("play", begin);
    update();
    return () => {
      cancelAnimationFrame(frame);
      for (const name of names) lead.removeEventListener(name, update);
      lead.removeEventListener("play", begin);
    };
  }, [result, dance?.src]);

  function keepInStep() {
    const lead = leads();
    const other = danceVideo.current;
    if (!other || other === lead) return;
    const wanted = lead.currentTime + start;
    if (Math.abs(other.currentTime - wanted) > DRIFT_SECONDS && !other.seeking) {
      other.currentTime = wanted;
    }
    if (lead.paused !== other.paused && !other.ended) {
      if (lead.paused) other.pause();
      else other.play().catch(() => undefined); // It then stands still beside the result.
    }
  }

  const toggle = () => {
    const lead = leads();
    if (!lead) return;
    if (lead.paused) {
      if (state.length && state.at >= state.length - 0.02) seek(0);
      lead.play().catch((error) => setState((now) => ({ ...now, failed: error.message })));
    } else {
      lead.pause();
      danceVideo.current?.pause();
    }
  };

  const seek = (at) => {
    const lead = leads();
    if (!lead) return;
    lead.currentTime = at + offset();
    if (danceVideo.current && danceVideo.current !== lead)
      danceVideo.current.currentTime = at + start;
  };

  const step = (by) => {
    leads()?.pause();
    danceVideo.current?.pause();
    seek(Math.min(Math.max(state.at + by / (fps || 16), 0), state.length));
  };

  useEffect(() => {
    const pressed = (event) => {
      if (event.target.closest("input, textarea, select, button, a, dialog, summary")) return;
      if (event.key === " ") toggle();
      else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        step(event.key === "ArrowLeft" ? -1 : 1);
      } else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });

  const canPlay = Boolean(result || dance);
  return html`<section class="stage" aria-label="Photo, dance and result">
    <div class="stage-panes">
      <figure class="pane">
        <div class="pane-box">${photo ? html`<${Picture} src=${photo} alt="The photo" />` : html`<p class="quiet">No photo</p>`}</div>
        <figcaption>Photo</figcaption>
      </figure>
      <figure class="pane">
        <div class="pane-box">
          ${dance ? html`<${Clip} video=${danceVideo} src=${dance.src} start=${start} label="The dance" muted />` : html`<p class="quiet">No dance</p>`}
        </div>
        <figcaption>Dance</figcaption>
      </figure>
      <figure class="pane main">
        <div class="pane-box">
          ${result ? html`<${Clip} video=${resultVideo} src=${result} poster=${poster} label="The result" />` : between}
        </div>
        <figcaption>Result</figcaption>
      </figure>
    </div>
    ${
      canPlay &&
      html`<div class="transport" role="group" aria-label="Playback">
        <button type="button" class="button icon" aria-label=${state.playing ? "Pause" : "Play"} onClick=${toggle}>
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <path fill="currentColor" d=${state.playing ? "M4 3h3v10H4zm5 0h3v10H9z" : "M4 2.500v11l9-5.500z"} />
          </svg>
        </button>
        <button type="button" class="button icon" aria-label="One frame back" onClick=${() => step(-1)}>‹</button>
        <button type="button" class="button icon" aria-label="One frame on" onClick=${() => step(1)}>›</button>
        <input
          type="range"
          aria-label="Position"
          aria-valuetext=${`${state.at.toFixed(1)} of ${state.length.toFixed(1)} seconds`}
          min="0"
          max=${state.length || 1}
          step="0.01"
          value=${state.at}
          onInput=${(event) => seek(Number(event.target.value))}
        />
        <span class="number transport-time">${state.at.toFixed(2)} / ${state.length.toFixed(2)} s</span>
      </div>`
    }
    <p class="fault" role="alert">${state.failed}</p>
  </section>`;
}

function Picture({ src, alt }) {
  const [gone, setGone] = useState(false);
  useEffect(() => setGone(false), [src]);
  if (gone) return html`<p class="quiet">${alt} is no longer stored</p>`;
  return html`<img src=${src} alt=${alt} onError=${() => setGone(true)} />`;
}

function Clip({ video, src, start = 0, poster, label, muted = false }) {
  const [gone, setGone] = useState(false);
  useEffect(() => setGone(false), [src]);
  if (gone) return html`<p class="quiet">${label} cannot be played here</p>`;
  return html`<video
    ref=${video}
    src=${start ? `${src}#t=${start}` : src}
    poster=${poster}
    aria-label=${label}
    preload="metadata"
    playsinline
    muted=${muted}
    onError=${() => setGone(true)}
  ></video>`;
}
