// Loss and accuracy over steps, in training and on held-out data.

import { fromZero, lineChart, share } from "./charts.js";
import { el, fill, setText } from "./dom.js";
import { Series } from "./series.js";

const TRAIN = "--series-train";
const HELD_OUT = "--series-evaluation";

export class Curves {
  constructor(signal) {
    this.training = new Series(["loss", "accuracy"]);
    this.heldOut = new Series(["loss", "accuracy"]);
    const lines = [{ label: "training", hue: TRAIN }, { label: "held out", hue: HELD_OUT, points: true }];
    this.panels = [["loss", "Loss", fromZero], ["accuracy", "Accuracy", share]].map(([field, title, range]) => {
      const chart = lineChart({ lines, range, sync: "curves", signal });
      const values = [el("b"), el("b")];
      const key = el("p", { class: "key" }, swatch(TRAIN, "training", values[0]), swatch(HELD_OUT, "held out", values[1]));
      const node = el("section", { class: "panel", "aria-label": `${title} over steps` }, el("h2", { text: title }), key, chart.node);
      return { field, title, chart, values, node };
    });
    this.node = el("div", { class: "pair" }, this.panels.map((panel) => panel.node));
  }

  draw(write) {
    if (this.training.length === 0) return;
    for (const { field, title, chart, values } of this.panels) {
      const latest = [this.training.last(field), this.heldOut.last(field)].map((value) => (value === null ? "–" : write[field](value)));
      values.forEach((node, i) => setText(node, latest[i]));
      const at = this.training.columns[0].at(-1);
      chart.set([table(this.training, field), table(this.heldOut, field)], `${title} over steps; at step ${at}: training ${latest[0]}, held out ${latest[1]}`);
    }
  }
}

const table = (series, field) => [series.columns[0], series.columns[series.fields.indexOf(field) + 1]];

function swatch(hue, label, value) {
  const mark = el("i", { "aria-hidden": "true" });
  mark.style.setProperty("--hue", `var(${hue})`);
  return el("span", {}, mark, label, value);
}
