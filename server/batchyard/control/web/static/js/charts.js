// Charts over steps, or over time. Colours come from the theme's custom properties, and follow it.

import uPlot from "/static/vendor/uplot/uPlot.esm.js";
import { saveButton } from "./chart_picture.js";
import { el } from "./dom.js";
import { elapsed, hour, short } from "./format.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FONT = "12px Inter, system-ui, sans-serif";
const dark = matchMedia("(prefers-color-scheme: dark)");

const SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000, 86400, 172800]; // between two marks

/**
 * A chart of lines: `lines` are {label, hue, points, dash, faint}. `set(tables, words)` takes one [x, ...ys] table for each group of
 * lines that share steps, and what the chart shows, in words, for those who cannot see it. `onPoint(step)` is told the
 * step that the pointer is at; null when it has left. With `log` the values are drawn by their logarithm; with `time`
 * x is in seconds, with `clock` it is the time of day. Where `gaps`, what is unknown interrupts a line. `reference` is a
 * value: what lies between it and 0 is shaded. `span()` gives the first and the last x, `write` what a mark at the side
 * says. `marks()` gives places {x, text, hue} along x that are drawn as upright lines. `zoom` is the Zoom that says what part
 * of x is shown, and is told what is dragged over.
 */
export function lineChart({ lines, range, zoom, sync, onPoint, signal, log = false, time = false, clock = false, gaps = false, reference, marks, span, write }) {
  const series = lines.map(({ label, hue, points, dash, faint = false }) => ({
    label,
    stroke: () => colour(hue),
    width: faint ? 1 : 1.75,
    alpha: faint ? 0.3 : 1,
    class: faint ? "faint" : "line",
    dash,
    spanGaps: !gaps,
    points: gaps ? { size: 5, fill: () => colour(hue) } : { show: points ?? false, size: 5, fill: () => colour(hue) },
  }));
  return chart({ series, range, zoom, sync, onPoint, signal, log, along: clock ? onClock : time ? onTime : onSteps, reference, marks, span, write });
}

// How x is written, and the pixels that half of the last mark may need beyond the end.
const onSteps = { room: 20, values: (_, marks) => marks.map(short) };
const onTime = { room: 24, values: (_, marks) => marks.map(elapsed), incrs: SECONDS };
const onClock = { room: 28, values: (_, marks, __, ___, apart) => marks.map((mark) => hour(mark, apart < 60)), incrs: SECONDS.filter((n) => n >= 1) };

/** The band from the 15th to the 85th percentile, and the median as a line; tables are [x, p15, p50, p85]. */
export function bandChart({ zoom, sync, onPoint, signal, marks }) {
  const edge = { stroke: () => colour("--band-edge"), width: 1, points: { show: false } };
  const median = { label: "p50", stroke: () => colour("--series-train"), width: 1.75, points: { show: false } };
  const series = [{ label: "p15", ...edge }, median, { label: "p85", ...edge }];
  return chart({ series, bands: [{ series: [3, 1], fill: () => colour("--band") }], zoom, sync, onPoint, signal, marks });
}

/** Areas that lie on each other: tables are [x, ...sums], each sum that of a line and those before it, from 0 up. */
export function areaChart({ lines, write, zoom, sync, onPoint, signal, marks }) {
  const series = lines.map(({ label, hue }) => ({ label, stroke: () => colour(hue), width: 0.5, fill: () => colour(hue), points: { show: false }, spanGaps: true }));
  const opened = chart({ series: series.reverse(), range: (plot, least, most) => fromZero(plot, least, most), zoom, sync, onPoint, signal, marks, write });
  // The largest first: those below are drawn over it.
  return { ...opened, set: ([[x, ...sums]], words) => opened.set([[x, ...sums.reverse()]], words) };
}

const LEAST_DRAG = 8; // pixels; less is a click
const SIDE = 52; // pixels that marks at the side get
const LOW = 120; // a chart of fewer pixels has its marks closer to each other
const NOTHING = { left: 0, top: 0, width: 0, height: 0 };

function chart({ series, bands, range = spread, zoom, sync, onPoint, signal, log = false, along = onSteps, reference, marks, span, write = short }) {
  const waiting = el("div", { class: "waiting", text: "No report yet" });
  const node = el("div", { class: "chart", role: "img", "aria-label": "No report yet" }, waiting);
  const frame = el("div", {}, node);
  const axis = { stroke: () => colour("--soft"), font: FONT, ticks: { show: false }, grid: { stroke: () => colour("--grid"), width: 1 } };
  const options = {
    width: 300,
    height: 150,
    legend: { show: false },
    padding: [10, along.room, 0, 0],
    cursor: { y: false, sync: { key: sync }, points: { size: 7 }, drag: { setScale: false, dist: LEAST_DRAG } },
    scales: {
      x: { time: false, range: (_, least, most) => zoom.of(...(span ? span() : [least, most])) },
      y: log ? { distr: 3, range: decades } : { range: (plot, least, most) => range(plot, least, most, !zoom.all) },
    },
    axes: [
      { ...axis, grid: { show: false }, ...along, space: 60, size: 26 },
      { ...axis, values: (_, marks) => marks.map((mark) => (mark === null ? "" : write(mark))), size: SIDE, space: (_, __, ___, ____, length) => (length < LOW ? 20 : 32) }, // null: too close to the next
    ],
    series: [{ label: "step" }, ...series],
    bands,
    hooks: { drawClear: reference === undefined ? [] : [(plot) => shade(plot, reference)], draw: marks ? [(plot) => drawMarks(plot, marks())] : [], setSelect: [dragged], setCursor: [(plot) => onPoint(plot.cursor.idx === null || plot.cursor.left < 0 ? null : plot.data[0][plot.cursor.idx])] },
  };
  let plot = null;
  let pending = null;

  // What is dragged over in one chart is marked in those that follow its pointer, too; they have no event of their own.
  function dragged({ select: { left, width }, cursor, posToVal }) {
    if (cursor.event) zoom.drag(posToVal(left, "x"), posToVal(left + width, "x"));
  }

  const measure = () => ({ width: Math.max(120, node.clientWidth), height: node.clientHeight });
  const draw = () => {
    const data = pending;
    pending = null;
    if (!data || signal.aborted) return;
    if (plot) {
      plot.setData(data);
      return;
    }
    waiting.remove();
    plot = new uPlot({ ...options, ...measure() }, data, node);
    plot.over.addEventListener("dblclick", () => zoom.reset());
    frame.append(saveButton(node));
  };
  let said = "";
  const say = () => node.setAttribute("aria-label", `${said}${zoom.words}`);
  zoom.listen(() => {
    if (!plot) return;
    plot.setSelect(NOTHING, false);
    plot.setData(plot.data);
    say();
  }, signal);
  const resize = new ResizeObserver(() => plot?.setSize(measure()));
  resize.observe(node);
  const recolour = () => plot?.redraw(false, true);
  dark.addEventListener("change", recolour);
  signal.addEventListener("abort", () => {
    resize.disconnect();
    dark.removeEventListener("change", recolour);
    plot?.destroy();
  });
  return {
    node: frame,
    set(tables, words) {
      said = words;
      say();
      if (!pending) requestAnimationFrame(draw);
      // A copy: uPlot keeps what it is given, and the caller's columns go on growing.
      pending = tables.length === 1 ? tables[0].map((column) => column.slice()) : uPlot.join(tables);
    },
  };
}

// What lies between 0 and `value` is as it should be.
function shade(plot, value) {
  const { ctx, bbox } = plot;
  const [low, high] = [plot.valToPos(0, "y", true), plot.valToPos(value, "y", true)].map((y) => Math.min(Math.max(y, bbox.top), bbox.top + bbox.height));
  ctx.save();
  ctx.fillStyle = colour("--reference");
  ctx.fillRect(bbox.left, high, bbox.width, low - high);
  ctx.restore();
}

const RESTART_DASH = [3, 3];

function drawMarks(plot, marks) {
  const { ctx, bbox } = plot;
  const ratio = window.devicePixelRatio || 1;
  ctx.save();
  ctx.font = `${11 * ratio}px Inter, system-ui, sans-serif`;
  ctx.lineWidth = ratio;
  ctx.setLineDash(RESTART_DASH.map((part) => part * ratio));
  for (const { x, text, hue } of marks) {
    const at = Math.round(plot.valToPos(x, "x", true));
    if (at < bbox.left || at > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour(hue);
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
    const left = at + 4 * ratio + ctx.measureText(text).width > bbox.left + bbox.width;
    ctx.textAlign = left ? "right" : "left";
    ctx.fillText(text, at + (left ? -4 : 4) * ratio, bbox.top + 10 * ratio);
  }
  ctx.restore();
}

// A flat line gets room above and below, others a twentieth.
function spread(_, least, most) {
  if (least === null || most === null || !Number.isFinite(least)) return [0, 1];
  const room = (most - least) * 0.05 || Math.abs(most) * 0.1 || 1;
  return [least - room, most + room];
}

// From a round value, which gets a mark, to just above the largest: a whole decade there would leave much room empty.
function decades(_, least, most) {
  if (least === null || most === null) return [0.1, 1];
  return [uPlot.rangeLog(least, most, 10, false)[0], most * 1.15];
}

/** The range of a loss: from 0 up; its own where the reader looks closer. */
export const fromZero = (plot, least, most, closer) => (closer ? spread(plot, least, most) : [Math.min(0, least ?? 0), (most || 1) * 1.05]);

/** The range of a share: its own, opened up to 1 and never past it; no more than its own where the reader looks closer. */
export function share(plot, least, most, closer) {
  if (!closer) return [Math.max(0, Math.floor((least ?? 0) * 10) / 10), 1];
  const [low, high] = spread(plot, least, most);
  return [Math.max(0, low), Math.min(1, high)];
}
