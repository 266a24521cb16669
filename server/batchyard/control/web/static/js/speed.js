// How fast training goes, and the learning rate: small charts over steps.

import { fromZero, lineChart } from "./charts.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { Series } from "./series.js";

const CHARTS = [
  ["samples_per_second", "Samples per second", format.rate],
  ["step_seconds", "Time per step", format.shortTime, format.axisTime],
  ["learning_rate", "Learning rate", (value) => (value === null ? "–" : format.short(value))],
];

export class Speed {
  constructor(signal, restarts, zoom) {
    Object.assign(this, { restarts, zoom });
    this.series = new Series(CHARTS.map(([field]) => field));
    this.charts = CHARTS.map(([field, title, write, axis]) => this.open(field, title, write, axis, signal));
    this.node = el("div", { class: "triple" }, this.charts.map(({ node }) => node));
  }

  open(field, title, write, axis, signal) {
    const opened = { field, title, write, value: el("b", { text: "–" }), at: el("span", { class: "at" }) };
    opened.chart = lineChart({ lines: [{ label: title, hue: "--series-train" }], range: fromZero, write: axis, zoom: this.zoom, sync: "curves", marks: () => this.restarts.marks(), onPoint: (step) => this.point(opened, step), signal });
    opened.node = el("section", { class: "panel", "aria-label": `${title} over steps` }, el("h2", { text: title }),
      el("p", { class: "key" }, opened.value, opened.at), opened.chart.node);
    return opened;
  }

  /** Takes a StepMetrics message: the newest, or (fill) one of those before. */
  add(metrics, how = "add") {
    this.series[how](metrics.step, metrics);
  }

  /** Training goes on from `step`. */
  rewind(step) {
    this.series.rewind(step);
  }

  draw() {
    if (this.series.length === 0) return;
    for (const one of this.charts) {
      if (one.pointed === undefined) this.point(one, null);
      const { columns, fields } = this.series;
      one.chart.set([[columns[0], columns[fields.indexOf(one.field) + 1]]], `${one.title} over steps; now ${one.value.textContent}${this.restarts.words()}`);
    }
  }

  point(one, step) {
    one.pointed = step ?? undefined;
    setText(one.value, one.write(step === null ? this.series.last(one.field) : this.series.at(step, one.field)));
    setText(one.at, step === null ? "" : `at step ${format.integer(step)}`);
  }
}
