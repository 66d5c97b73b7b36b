// GPU memory as a picture: who holds what, what is free, and where the next job's need ends.
import { count, gib } from "../format.js";
import { html } from "../ui.js";

/**
 * @param gpu as GET /v1/system gives it
 * @param waits whether admission found no room for it
 * @param need what the next job needs at its peak, in MiB; null if there is none
 */
export function MemoryPicture({ gpu, need, needName, waits = false }) {
  const total = gpu.total_mib || 1;
  const share = (mib) => `${(100 * Math.min(Math.max(mib, 0), total)) / total}%`;
  const known = gpu.engine_mib !== null;
  const used = Math.max(total - gpu.free_mib - gpu.reserved_mib, 0);
  const parts = [
    ["engine", "ComfyUI", known ? gpu.engine_mib : null],
    ["others", known ? "Others" : "In use", known ? gpu.others_mib : used],
    ["reserved", "Reserved by the driver", gpu.reserved_mib],
    ["free", "Free", gpu.free_mib],
  ].filter(([, , mib]) => mib !== null);
  // ComfyUI gives its own memory back for the next job, so its need is drawn from the left edge.
  const room = gpu.free_mib + (gpu.engine_mib || 0);
  // Admission keeps a margin, so that it is asked first.
  const fits = need === null || (!waits && need <= room);
  return html`<figure class="memory">
    <div class="memory-bar" aria-hidden="true">
      ${parts.map(
        ([kind, , mib]) =>
          html`<div key=${kind} class=${`memory-part ${kind}`} style=${{ width: share(mib) }}></div>`,
      )}
      ${
        need !== null &&
        html`<div class=${`memory-need ${fits ? "" : "short"}`} style=${{ width: share(need) }}></div>`
      }
    </div>
    <dl class="legend">
      ${parts.map(
        ([kind, name, mib]) =>
          html`<div key=${kind} class="legend-item">
            <dt><span class=${`swatch ${kind}`}></span>${name}</dt>
            <dd title=${`${count(mib)} MiB`}>${gib(mib)}</dd>
          </div>`,
      )}
      <div class="legend-item">
        <dt><span class=${`swatch need ${fits ? "" : "short"}`}></span>${needName}</dt>
        <dd title=${need === null ? null : `${count(need)} MiB`}>${need === null ? "–" : gib(need)}</dd>
      </div>
    </dl>
  </figure>`;
}
