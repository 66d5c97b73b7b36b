// Memory over time. uPlot draws; this gives it the page's colors and size.
import { clockTime } from "../format.js";
import { html, useEffect, useRef } from "../ui.js";

const HEIGHT = 160;
const GIB_STEPS = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128].map((gib) => gib * 1024);

const HEADROOM = 1.1;

/** What is shown of x: all readings, and at least so much up to the last one, or up to now. */
export function span(readings, least) {
  const end = readings.at(-1) ?? Date.now() / 1000;
  return [Math.min(readings[0] ?? end, end - least), end];
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(width, { series, time, top, least }) {
  const axis = {
    stroke: () => color("--quiet"),
    grid: { stroke: () => color("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    padding: [8, 28, 0, 0],
    legend: { show: false },
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: {
        time,
        // Not the two figures that uPlot offers: for a single reading it makes up a second one.
        range: (plot) => span(plot.data[0], least),
      },
      // The highest line does not lie on the edge.
      y: { range: (_plot, _low, high) => [0, top || (high || 1) * HEADROOM] },
    },
    axes: [
      {
        ...axis,
        size: 28,
        space: 72,
        values: (_plot, marks) =>
          marks.map((mark) => (time ? clockTime(mark * 1000) : `${mark} s`)),
      },
      {
        ...axis,
        size: 64,
        incrs: GIB_STEPS,
        values: (_plot, marks) => marks.map((mark) => `${mark / 1024} GiB`),
      },
    ],
    series: [
      {},
      ...series.map(([, line, fill]) => ({
        stroke: () => color(line),
        fill: fill ? () => color(fill) : undefined,
        width: 1.5,
        points: { show: false },
      })),
    ],
  };
}

/**
 * @param data uPlot's columns: x, then one for each series
 * @param series `[name, color, fill]` with the names of CSS properties
 * @param least how much of x is shown at least, up to the last of the data
 * @param summary the same in words, for who cannot see the drawing
 */
export function Chart({ data, series, time = false, top = 0, least = 0, summary }) {
  const place = useRef(null);
  const plot = useRef(null);
  const shape = JSON.stringify([series, time, top, least]);

  useEffect(() => {
    const element = place.current;
    plot.current = new globalThis.uPlot(
      options(element.clientWidth || 600, { series, time, top, least }),
      data,
      element,
    );
    const watcher = new ResizeObserver(() => {
      if (element.clientWidth) plot.current.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    watcher.observe(element);
    const repaint = () => plot.current.redraw(false);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", repaint);
    scheme.addEventListener("change", repaint);
    return () => {
      removeEventListener("themechange", repaint);
      scheme.removeEventListener("change", repaint);
      watcher.disconnect();
      plot.current.destroy();
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(data);
  }, [data]);

  return html`<div class="chart" role="img" aria-label=${summary}><div ref=${place}></div></div>`;
}
