// The activation percentiles of each layer as bands over steps: the paper's Figure 1, for every layer.

import { AlarmList, alarms } from "./alarms.js";
import { bandChart } from "./charts.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { HEAT_FIELDS, Heatmap } from "./heatmap.js";
import { Series } from "./series.js";

const ABOUT = "What each activation function is given: the line is the median, the band reaches from the 15th to the 85th "
  + "percentile. A band that wanders is internal covariate shift; batch normalisation keeps it steady.";
const PERCENTILES = ["p15", "p50", "p85"];

export class Activations {
  constructor(signal, marks, zoom) {
    Object.assign(this, { signal, marks, zoom });
    this.layers = new Map();
    this.grid = el("div", { class: "layers" });
    this.alarms = new AlarmList();
    this.heatmap = new Heatmap(signal, zoom);
    this.hint = el("p", { class: "empty", text: "No statistics yet." });
    this.node = el("section", { class: "panel", "aria-labelledby": "activations-title" },
      el("h2", { id: "activations-title", text: "Activation percentiles over steps" }),
      el("p", { class: "about", text: ABOUT }), this.hint, this.alarms.node, this.heatmap.node, this.grid);
  }

  /** Says why there is nothing to draw. */
  explain(text) {
    if (this.layers.size === 0) setText(this.hint, text);
  }

  /** Takes a LayerStatistics message: the newest, or (fill) one of those before. */
  add({ step, layers }, how = "add") {
    this.hint.remove();
    for (const values of layers) {
      const layer = this.layers.get(values.name) ?? this.open(values.name);
      layer.series[how](step, values);
      if (how === "add") layer.latest = values;
    }
  }

  /** Training goes on from `step`. */
  rewind(step) {
    for (const { series } of this.layers.values()) series.rewind(step);
  }

  open(name) {
    const layer = { name, series: new Series(["p50", "p15", "p85", ...HEAT_FIELDS]), words: el("p", { class: "small" }) };
    layer.chart = bandChart({ zoom: this.zoom, sync: "layers", marks: this.marks, onPoint: (step) => point(layer, step), signal: this.signal });
    this.layers.set(name, layer);
    this.grid.append(el("div", { class: "layer" }, el("h3", { text: name }), layer.words, layer.chart.node));
    return layer;
  }

  draw() {
    for (const layer of this.layers.values()) {
      const [steps, p50, p15, p85] = layer.series.columns;
      if (layer.pointed === undefined) point(layer, null);
      const now = PERCENTILES.map((field) => `${field} ${format.decimal(layer.latest[field])}`).join(", ");
      layer.chart.set([[steps, p15, p50, p85]], `Activation percentiles of ${layer.name} over ${steps.length} reports; now ${now}`);
    }
    const layers = [...this.layers.values()];
    this.heatmap.draw(layers);
    this.alarms.set(alarms(layers));
  }
}

// The line above a chart tells the percentiles at the pointer, or everything that is known now.
function point(layer, step) {
  layer.pointed = step ?? undefined;
  const { latest, series } = layer;
  const shown = PERCENTILES.map((field) => [field, format.decimal(step === null ? latest[field] : series.at(step, field))]);
  if (step !== null) shown.push(["at step", format.integer(step)]);
  else shown.push(...further(latest));
  fill(layer.words, shown.map(([name, value]) => el("span", {}, `${name} `, el("b", { text: value }))));
}

function further(layer) {
  const shown = [["saturated", format.percent(layer.saturated, 1)], ["dead", format.percent(layer.dead, 1)]];
  if (layer.drift !== undefined) shown.push(["drift", format.decimal(layer.drift, 3)]);
  if (layer.worker_spread !== undefined) shown.push(["worker spread", format.decimal(layer.worker_spread)]);
  if (layer.smallest_batch !== undefined) shown.push(["smallest batch", format.integer(layer.smallest_batch)]);
  if (layer.skipped > 0) shown.push(["batches skipped", format.integer(layer.skipped)]);
  return shown;
}
