// All layers at once: a row for each layer, a column for each report, darker where a quantity is larger.

import { el, setText } from "./dom.js";
import * as format from "./format.js";

const ROW = 20; // pixels of a layer's row
const AXIS = 22;
const FONT = "12px Inter, system-ui, sans-serif";

const deviations = (v) => `${format.decimal(v, 3)} standard deviations`;

/** Field, name, the value that is drawn darkest, and how a value is written. */
const QUANTITIES = [
  ["drift", "Drift from the running statistics", 1, deviations],
  ["saturated", "Saturated inputs", 0.5, (v) => format.percent(v, 1)],
  ["dead", "Dead units", 0.5, (v) => format.percent(v, 1)],
  ["worker_spread", "Spread between workers", 1, deviations],
];
export const HEAT_FIELDS = QUANTITIES.map(([field]) => field);

const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Heatmap {
  constructor(signal, zoom) {
    this.zoom = zoom;
    this.layers = [];
    this.chosen = QUANTITIES[0];
    this.canvas = el("canvas", { role: "img", "aria-label": "No report yet" });
    this.words = el("p", { class: "heat-words" });
    this.choice = el("select", { "aria-label": "Quantity", onchange: () => this.choose(this.choice.value) },
      QUANTITIES.map(([field, name]) => el("option", { value: field, text: name })));
    this.scale = el("span", { class: "heat-scale" });
    this.node = el("div", { class: "heat", hidden: true },
      el("div", { class: "heat-head" }, el("label", {}, "All layers: ", this.choice), this.scale), this.canvas, this.words);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.tell(null));
    const redraw = () => this.draw(this.layers);
    const resized = new ResizeObserver(redraw);
    resized.observe(this.node);
    dark.addEventListener("change", redraw);
    zoom.listen(redraw, signal);
    signal.addEventListener("abort", () => { resized.disconnect(); dark.removeEventListener("change", redraw); });
  }

  choose(field) {
    this.chosen = QUANTITIES.find(([name]) => name === field);
    this.draw(this.layers);
  }

  /** Draws layers {name, series}. A quantity that no layer has cannot be chosen. */
  draw(layers) {
    this.layers = layers;
    this.node.hidden = layers.length === 0;
    if (this.node.hidden) return;
    for (const option of this.choice.options) option.disabled = !layers.some(({ series }) => series.last(option.value) !== null);
    const [, , most, write] = this.chosen;
    setText(this.scale, `0 to ${write === deviations ? "1 standard deviation" : format.percent(most, 0)} or more`);
    this.measure();
    this.paint();
    this.tell(null);
  }

  measure() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.max(120, this.node.clientWidth), this.layers.length * ROW + AXIS];
    this.width = width;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.ink = this.canvas.getContext("2d");
    this.ink.scale(ratio, ratio);
    this.ink.font = FONT;
    const longest = Math.max(...this.layers.map(({ name }) => this.ink.measureText(name).width));
    this.left = Math.min(Math.ceil(longest) + 10, width * 0.4);
    const steps = this.layers.map(({ series }) => series.columns[0]).filter((column) => column.length > 0);
    [this.first, this.last] = this.zoom.of(Math.min(...steps.map((column) => column[0])), Math.max(...steps.map((column) => column.at(-1))));
    this.columns = Math.max(1, ...this.layers.map(({ series }) => series.rowAt(this.last) - series.rowAt(this.first) + 1));
  }

  paint() {
    const { ink } = this;
    ink.textBaseline = "middle";
    this.layers.forEach(({ name, series }, i) => {
      ink.fillStyle = colour("--soft");
      ink.fillText(name, 0, i * ROW + ROW / 2, this.left - 8);
      ink.fillStyle = colour("--sunken");
      ink.fillRect(this.left, i * ROW + 1, this.width - this.left, ROW - 2);
      this.paintRow(series, i);
    });
    ink.fillStyle = colour("--soft");
    const y = this.layers.length * ROW + AXIS / 2;
    ink.fillText(format.short(this.first), this.left, y);
    const end = `step ${format.short(this.last)}`;
    ink.fillText(end, this.width - ink.measureText(end).width, y);
  }

  // Each report fills the room up to the next one.
  paintRow(series, row) {
    const [field, , most] = this.chosen;
    const [steps, column] = [series.columns[0], series.columns[series.fields.indexOf(field) + 1]];
    this.ink.save();
    this.ink.beginPath();
    this.ink.rect(this.left, row * ROW, this.width - this.left, ROW); // of a report that began before what is shown, the rest
    this.ink.clip();
    this.ink.fillStyle = colour("--heat");
    for (let i = 0; i < steps.length; i += 1) {
      if (column[i] === null) continue;
      const from = this.x(steps[i]);
      const to = i + 1 < steps.length ? this.x(steps[i + 1]) : this.width;
      this.ink.globalAlpha = Math.min(1, column[i] / most);
      this.ink.fillRect(from, row * ROW + 1, Math.max(1, to - from), ROW - 2);
    }
    this.ink.restore();
  }

  // The last report, too, gets the width of a column.
  x(step) {
    const room = this.width - this.left;
    const span = Math.max(1, this.last - this.first);
    return this.left + ((step - this.first) / span) * (room - room / this.columns);
  }

  point({ offsetX, offsetY }) {
    const layer = this.layers[Math.floor(offsetY / ROW)];
    if (!layer || offsetX < this.left) return this.tell(null);
    const steps = layer.series.columns[0];
    let row = 0;
    while (row + 1 < steps.length && this.x(steps[row + 1]) <= offsetX) row += 1;
    return this.tell({ layer, step: steps[row] });
  }

  tell(at) {
    const [field, name, , write] = this.chosen;
    const worst = this.layers.reduce((a, b) => ((b.series.last(field) ?? -1) > (a.series.last(field) ?? -1) ? b : a));
    const value = worst.series.last(field);
    const summary = value === null ? `${name}: not measured in this job` : `${name}, largest now: ${worst.name}, ${write(value)}`;
    const told = at === null ? summary : `${at.layer.name} at step ${format.integer(at.step)}: ${write(at.layer.series.at(at.step, field))}`;
    setText(this.words, told);
    this.canvas.setAttribute("aria-label", `${summary}; ${this.layers.length} layers, steps ${format.integer(this.first)} to ${format.integer(this.last)}`);
  }
}
