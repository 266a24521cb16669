// The activation percentiles of each layer as bands over steps: the paper's Figure 1, for every layer.

import { bandChart } from "./charts.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { Series } from "./series.js";

export class Activations {
  constructor(signal) {
    this.signal = signal;
    this.layers = new Map();
    this.grid = el("div", { class: "layers" });
    this.hint = el("p", { class: "empty", text: "No statistics yet." });
    this.node = el("section", { class: "panel", "aria-labelledby": "activations-title" },
      el("h2", { id: "activations-title", text: "Activation percentiles" }),
      el("p", { class: "about", text: "What each activation function is given, over steps: the line is the median, the band reaches from the 15th to the 85th percentile. A band that drifts is internal covariate shift; a steady one is what batch normalisation is for." }),
      this.hint, this.grid);
  }

  /** Says why there is nothing to draw. */
  explain(text) {
    if (this.layers.size === 0) setText(this.hint, text);
  }

  add({ step, layers }) {
    this.hint.remove();
    for (const values of layers) {
      if (!this.layers.has(values.name)) this.open(values.name);
      const layer = this.layers.get(values.name);
      layer.series.add(step, values);
      layer.latest = values;
    }
  }

  open(name) {
    const chart = bandChart({ sync: "layers", signal: this.signal });
    const words = el("p", { class: "small" });
    this.layers.set(name, { series: new Series(["p50", "p15", "p85"]), chart, words });
    this.grid.append(el("div", { class: "layer" }, el("h3", { text: name }), words, chart.node));
  }

  draw() {
    for (const [name, { series, chart, words, latest }] of this.layers) {
      const [steps, p50, p15, p85] = series.columns;
      setText(words, describe(latest));
      const now = `now p15 ${format.decimal(latest.p15)}, p50 ${format.decimal(latest.p50)}, p85 ${format.decimal(latest.p85)}`;
      chart.set([[steps, p15, p50, p85]], `Activation percentiles of ${name} over ${steps.length} reports, ${now}`);
    }
  }
}

function describe(layer) {
  const parts = [
    `p15 ${format.decimal(layer.p15)}`, `p50 ${format.decimal(layer.p50)}`, `p85 ${format.decimal(layer.p85)}`,
    `saturated ${format.percent(layer.saturated, 1)}`, `dead ${format.percent(layer.dead, 1)}`,
  ];
  if (layer.drift !== undefined) parts.push(`drift ${format.decimal(layer.drift, 3)}`);
  if (layer.worker_spread !== undefined) parts.push(`worker spread ${format.decimal(layer.worker_spread, 2)}`);
  return parts.join(" · ");
}
