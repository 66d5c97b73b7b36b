// Photo, dance and result side by side; the two videos run in step by one control bar.
import { html, useEffect, useRef, useState } from "../ui.js";
import { inStep } from "./instep.js";

/**
 * @param dance `{ src, start }`: where in the dance the result begins; null without one
 * @param result source of the result's video; null while there is none
 * @param between what is shown in place of the result
 */
export function Stage({ photo, dance, result, poster, fps, between }) {
  const danceVideo = useRef(null);
  const resultVideo = useRef(null);
  const control = useRef(null);
  const [state, setState] = useState({ playing: false, at: 0, length: 0, failed: "" });
  const start = dance?.start || 0;

  useEffect(() => {
    const lead = resultVideo.current || danceVideo.current;
    if (!lead) return undefined;
    const alone = lead === danceVideo.current;
    // Where no result leads, the bar shows the part of the dance that is taken.
    const offset = alone ? start : 0;
    const pair = inStep({
      lead,
      other: alone ? null : danceVideo.current,
      start,
      onChange: () =>
        setState((now) => ({
          ...now,
          playing: pair.playing,
          at: Math.max(lead.currentTime - offset, 0),
          length: Math.max((lead.duration || 0) - offset, 0),
        })),
      onFault: (failed) => setState((now) => ({ ...now, playing: false, failed })),
    });
    control.current = { pair, offset };
    return () => {
      pair.end();
      control.current = null;
    };
  }, [result, dance?.src, start]);

  const seek = (at) => control.current?.pair.seek(at + control.current.offset);

  const toggle = () => {
    const pair = control.current?.pair;
    if (!pair) return;
    if (pair.playing) {
      pair.pause();
      return;
    }
    if (state.length && state.at >= state.length - 0.02) seek(0);
    setState((now) => ({ ...now, failed: "" }));
    pair.play();
  };

  const step = (by) => {
    control.current?.pair.pause();
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
