// Where the time of a step goes: a chart of areas that lie on each other.

import { areaChart } from "./charts.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { Series } from "./series.js";

const PARTS = [["data", "data"], ["forward", "forward"], ["backward", "backward"], ["collectives", "collectives"], ["optimizer", "optimiser"], ["rest", "anything else"]];
const HUES = ["--series-2", "--series-1", "--series-3", "--series-4", "--series-6", "--rest"];
const ABOUT = "Worker 0’s mean over the steps that were measured, one in eight. Collectives are what all workers add up together, and waiting for the slowest; "
  + "on GPUs what normalisation adds up stays in forward and backward.";

export class StepParts {
  constructor(signal, restarts, zoom) {
    this.restarts = restarts;
    this.series = new Series(PARTS.map(([field]) => field));
    this.values = PARTS.map(() => el("b", { text: "–" }));
    this.at = el("span", { class: "at" });
    this.chart = areaChart({
      lines: PARTS.map(([, label], i) => ({ label, hue: HUES[i] })), write: format.axisTime, zoom, sync: "curves",
      marks: () => restarts.marks(), onPoint: (step) => this.point(step), signal,
    });
    this.node = el("section", { class: "panel step-parts", "aria-label": "Where a step's time goes" }, el("h2", { text: "Where a step’s time goes" }),
      el("p", { class: "about", text: ABOUT }),
      el("p", { class: "key" }, PARTS.map(([, label], i) => el("span", {}, swatch(HUES[i]), label, this.values[i])), this.at), this.chart.node);
  }

  /** Takes a StepMetrics message, the newest, or (fill) one of those before; of steps that were not measured it has no parts. */
  add(metrics, how = "add") {
    if (metrics.forward_seconds === undefined) return;
    const values = Object.fromEntries(PARTS.slice(0, -1).map(([field]) => [field, metrics[`${field}_seconds`]]));
    const known = Object.values(values).reduce((sum, seconds) => sum + seconds, 0);
    this.series[how](metrics.step, { ...values, rest: Math.max(0, metrics.step_seconds - known) });
  }

  /** Training goes on from `step`. */
  rewind(step) {
    this.series.rewind(step);
  }

  /** Says why there is nothing to draw. */
  explain(text) {
    const waiting = this.chart.node.querySelector(".waiting"); // gone once something is drawn
    if (waiting) setText(waiting, text);
  }

  draw() {
    if (this.series.length === 0) return;
    if (this.pointed === undefined) this.point(null);
    const told = PARTS.map(([, label], i) => `${label} ${this.values[i].textContent}`).join(", ");
    this.chart.set([stacked(this.series.columns)], `Where a step's time goes, over steps; now ${told}${this.restarts.words()}`);
  }

  point(step) {
    this.pointed = step ?? undefined;
    PARTS.forEach(([field], i) => setText(this.values[i], format.shortTime(step === null ? this.series.last(field) : this.series.at(step, field))));
    setText(this.at, step === null ? "" : `at step ${format.integer(step)}`);
  }
}

// Steps, and for each part what it and those below it take together.
function stacked([steps, ...columns]) {
  const sums = [];
  columns.forEach((column, part) => sums.push(column.map((value, i) => (part > 0 ? sums[part - 1][i] : 0) + (value ?? 0))));
  return [steps, ...sums];
}

function swatch(hue) {
  const mark = el("i", { "aria-hidden": "true", class: "band" });
  mark.style.setProperty("--hue", `var(${hue})`);
  return mark;
}
