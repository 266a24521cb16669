// A chart with a line for each compared job, and a key with their values at the pointer.

import { lineChart } from "./charts.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";

const NAMES = { step: "steps", time: "time" };
const DASH = [7, 5];

/** The mark of a job's line. */
export function swatch(run) {
  const mark = el("i", { "aria-hidden": "true", class: run.dashed ? "dashed" : null });
  mark.style.setProperty("--hue", `var(${run.hue})`);
  return mark;
}

export class ComparePanel {
  /** `smoothed`: whether this field is smoothed, and drawn on a logarithmic scale, when that is asked for. */
  constructor({ field, title, write, range, side, smoothed = false, points = false }, runs, zoom, signal) {
    Object.assign(this, { field, title, write, range, side, zoom, smoothed, points, runs, signal, pointed: null });
    this.heading = el("h2");
    this.at = el("span", { class: "at" });
    this.values = runs.map(() => el("b", { text: "–" }));
    this.place = el("div");
    this.node = el("section", { class: "panel", "aria-label": title }, this.heading,
      el("p", { class: "key jobs-key" }, runs.map((run, i) => el("span", {}, swatch(run), el("span", { class: "who", title: run.id, text: run.id }), this.values[i]))),
      el("p", { class: "small soft at-place" }, this.at),
      this.place);
  }

  /** Draws as `chosen` says: {axis, log, weight}. */
  draw(chosen) {
    const { axis, log, weight } = this.smoothed ? chosen : { axis: chosen.axis, log: false, weight: 0 };
    if (axis !== this.axis || log !== this.log) this.open(axis, log);
    this.weight = weight;
    this.curves = this.runs.map((run) => run.curve(this.field, { axis, log, weight }));
    this.point(this.pointed);
    if (this.curves.some(([along]) => along.length > 0)) this.chart.set([...this.curves, [this.ends(axis)]], this.words());
  }

  open(axis, log) {
    this.close?.abort();
    this.close = new AbortController();
    Object.assign(this, { axis, log, pointed: null });
    const lines = this.runs.flatMap((run) => {
      const { id: label, hue, dashed } = run;
      return [{ label, hue, faint: true }, { label, hue, dash: dashed ? DASH : undefined, points: this.points }];
    });
    this.chart = lineChart({ lines, range: this.range, write: this.side, zoom: this.zoom, log, time: axis === "time", sync: `compare-${axis}`,
      marks: () => this.runs.flatMap((run) => run.marks(axis)), onPoint: (at) => this.point(at), signal: AbortSignal.any([this.signal, this.close.signal]) });
    setText(this.heading, `${this.title} over ${NAMES[axis]}`);
    this.place.replaceChildren(this.chart.node);
  }

  // Where the charts of all fields begin and end, so that they stand below each other and their pointers agree.
  ends(axis) {
    const all = this.runs.flatMap((run) => run.ends(axis));
    return [...new Set([Math.min(...all), Math.max(...all)])];
  }

  words() {
    const scale = this.log ? ", logarithmic" : "";
    const values = this.runs.map((run, i) => `${run.id} ${this.values[i].textContent}`).join(", ");
    return `${this.title} over ${NAMES[this.axis]}${scale}; ${this.at.textContent || "now"}: ${values}`;
  }

  // The key tells the values at the pointer, or the last ones.
  point(at) {
    this.pointed = at;
    this.curves?.forEach(([along, , smoothed], i) => setText(this.values[i], this.write(valueAt(along, smoothed, at))));
    const place = this.axis === "time" ? format.duration(at) : `step ${format.integer(at)}`;
    const parts = [at === null ? "" : `at ${place}`, this.weight > 0 ? "smoothed" : ""];
    setText(this.at, parts.filter(Boolean).join(", "));
  }
}

// The value at `at`, or the last one before it; the newest of all where `at` is null.
function valueAt(along, values, at) {
  for (let i = along.length - 1; i >= 0; i -= 1) if ((at === null || along[i] <= at) && values[i] !== null) return values[i];
  return null;
}
