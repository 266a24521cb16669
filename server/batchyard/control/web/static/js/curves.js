// Loss and accuracy over steps, in training and on held-out data.

import { fromZero, lineChart, share } from "./charts.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { Series } from "./series.js";

const TRAIN = "--series-train";
const HELD_OUT = "--series-evaluation";
const LINES = [{ label: "training", hue: TRAIN }, { label: "held out", hue: HELD_OUT, points: true }];

export class Curves {
  constructor(signal, restarts, zoom) {
    Object.assign(this, { restarts, zoom });
    this.training = new Series(["loss", "accuracy"]);
    this.heldOut = new Series(["loss", "accuracy"]);
    this.panels = [["loss", "Loss", format.loss, fromZero], ["accuracy", "Accuracy", format.percent, share, format.axisShare]].map(
      ([field, title, write, range, axis]) => this.panel(field, title, write, range, axis, signal));
    this.node = el("div", { class: "pair" }, this.panels.map((panel) => panel.node));
  }

  panel(field, title, write, range, axis, signal) {
    const panel = { field, title, write, values: [el("b"), el("b")], step: el("span", { class: "at" }) };
    panel.chart = lineChart({ lines: LINES, range, write: axis, zoom: this.zoom, sync: "curves", marks: () => this.restarts.marks(), onPoint: (step) => this.point(panel, step), signal });
    panel.node = el("section", { class: "panel", "aria-label": `${title} over steps` },
      el("h2", { text: `${title} over steps` }),
      el("p", { class: "key" }, swatch(TRAIN, "training", panel.values[0]), swatch(HELD_OUT, "held out", panel.values[1]), panel.step),
      panel.chart.node);
    return panel;
  }

  /** Takes a StepMetrics message: the newest, or (fill) one of those before. */
  add(metrics, how = "add") {
    this.training[how](metrics.step, metrics);
  }

  /** Training goes on from `step`. */
  rewind(step) {
    this.training.rewind(step);
    this.heldOut.rewind(step);
  }

  draw() {
    if (this.training.length === 0) return;
    for (const panel of this.panels) {
      const { field, title, chart, values } = panel;
      if (panel.pointed === undefined) this.point(panel, null);
      const at = format.integer(this.training.columns[0].at(-1));
      const words = `${title} over steps; at step ${at}: training ${values[0].textContent}, held out ${values[1].textContent}${this.restarts.words()}`;
      chart.set([table(this.training, field), table(this.heldOut, field)], words);
    }
  }

  // The key tells the values at the pointer, or the last ones.
  point(panel, step) {
    panel.pointed = step ?? undefined;
    const values = [this.training, this.heldOut].map((series) => (step === null ? series.last(panel.field) : series.at(step, panel.field)));
    values.forEach((value, i) => setText(panel.values[i], panel.write(value)));
    setText(panel.step, step === null ? "" : `at step ${format.integer(step)}`);
  }
}

const table = (series, field) => [series.columns[0], series.columns[series.fields.indexOf(field) + 1]];

function swatch(hue, label, value) {
  const mark = el("i", { "aria-hidden": "true" });
  mark.style.setProperty("--hue", `var(${hue})`);
  return el("span", {}, mark, label, value);
}
