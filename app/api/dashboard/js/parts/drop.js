// One media field: drop a file or choose one; it is sent at once, so that it is judged early.
import { get, upload } from "../api.js";
import { bytes, duration, percent } from "../format.js";
import { html, useEffect, useRef, useState } from "../ui.js";

const ACCEPT = {
  image: "image/png,image/jpeg,image/webp",
  video: "video/mp4,video/webm,video/quicktime,video/x-matroska,.mkv",
};

/**
 * @param kind "image" or "video"
 * @param uploadId what is chosen now
 * @param onUpload called with the upload, or with null when it is taken back
 */
export function DropZone({ name, title, help, kind, uploadId, fault, onUpload }) {
  const [over, setOver] = useState(false);
  const [sending, setSending] = useState(null);
  const [known, setKnown] = useState(null);
  const [problem, setProblem] = useState("");
  const picker = useRef(null);
  const current = useRef(null);

  useEffect(() => () => current.current?.cancel(), []);
  useEffect(() => {
    if (!uploadId || known?.id === uploadId) return;
    get(`/v1/uploads/${uploadId}`).then(setKnown, (error) => setProblem(error.message));
  }, [uploadId]);

  const take = async (file) => {
    if (!file) return;
    current.current?.cancel();
    setProblem("");
    setKnown(null);
    onUpload(null);
    const job = upload(file, (sent, all) => setSending({ name: file.name, sent, all }));
    current.current = job;
    setSending({ name: file.name, sent: 0, all: file.size });
    try {
      const found = await job.done;
      if (current.current !== job) return;
      if (found.kind !== kind) {
        setProblem(
          `This is ${found.kind === "video" ? "a video" : "an image"}; ${kind === "video" ? "a video" : "an image"} is needed here.`,
        );
      } else {
        setKnown(found);
        onUpload(found);
      }
    } catch (error) {
      if (current.current === job) setProblem(error.message);
    } finally {
      if (current.current === job) {
        current.current = null;
        setSending(null);
      }
    }
  };

  const dropped = (event) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files[0]);
  };
  const dragging = (event) => {
    event.preventDefault();
    setOver(true);
  };
  const id = `field-${name}`;
  const source = known ? `/v1/uploads/${known.id}/content` : null;
  return html`<div class="drop-field">
    <div
      class=${`drop ${over ? "over" : ""}`}
      onDragOver=${dragging}
      onDragEnter=${dragging}
      onDragLeave=${() => setOver(false)}
      onDrop=${dropped}
    >
      <div class="drop-picture">
        ${source && (kind === "image" ? html`<img src=${source} alt=${title} />` : html`<video src=${`${source}#t=0.01`} aria-label=${title} muted loop playsinline controls preload="metadata"></video>`)}
        ${sending && html`<${Sending} sending=${sending} onCancel=${() => current.current?.cancel()} />`}
        ${!source && !sending && html`<p class="quiet">Drop ${kind === "video" ? "a video" : "an image"} here</p>`}
      </div>
      <div class="drop-words">
        <label for=${id}>${title}</label>
        <p class="help" id=${`${id}-help`}>${known ? facts(known) : help}</p>
        <input
          ref=${picker}
          id=${id}
          class="visually-hidden"
          type="file"
          accept=${ACCEPT[kind]}
          aria-describedby=${`${id}-help ${id}-fault`}
          onChange=${(event) => {
            take(event.target.files[0]);
            // So that the same file can be chosen again, after a stop or once it was mended.
            event.target.value = "";
          }}
        />
        <button type="button" class="button" aria-hidden="true" tabindex="-1" onClick=${() => picker.current.click()}>
          ${known ? "Choose another" : "Choose a file"}
        </button>
      </div>
    </div>
    <p class="fault" id=${`${id}-fault`} role="alert">${problem || fault}</p>
  </div>`;
}

function Sending({ sending, onCancel }) {
  const done = sending.all ? sending.sent / sending.all : 0;
  return html`<div class="sending">
    <p class="one-line">${sending.name}</p>
    <div class="progress running" role="progressbar" aria-label="Upload" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.floor(done * 100)}>
      <div class="progress-bar" style=${{ transform: `scaleX(${done})` }}></div>
    </div>
    <p class="quiet number">${done < 1 ? `${percent(done)} of ${bytes(sending.all)}` : "Looking at it…"}</p>
    <button type="button" class="button plain" onClick=${onCancel}>Stop</button>
  </div>`;
}

function facts(known) {
  const parts = [`${known.width} × ${known.height}`];
  if (known.kind === "video") {
    parts.push(`${known.frames} frames`, duration(known.duration_seconds));
    if (known.fps) parts.push(`${Number(known.fps.toFixed(2))} per second`);
    parts.push(known.has_audio ? "with sound" : "no sound");
  }
  parts.push(bytes(known.bytes));
  return parts.join(" · ");
}
