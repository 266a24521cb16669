// The compared jobs: their states, and in what their specs differ.

import { swatch } from "./compare_panel.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { setState, statePill } from "./parts.js";
import { flat, told, written } from "./settings.js";

const NO_MATTER = /^(name|publish\..*)$/; // for how a network learns
const MOST_COLUMNS = 3; // of settings; more of them stand in a line

/** Field, title, how it is written, and the best of several values. */
const RESULTS = [["loss", "Loss", format.loss, (values) => Math.min(...values), (series) => series.last("loss")],
  ["accuracy", "Best held out", format.percent, (values) => Math.max(...values), (series) => highest(series.columns[1])]];

export class CompareTable {
  constructor(runs) {
    this.runs = runs;
    this.pills = runs.map(({ job }) => statePill(job.state));
    this.steps = runs.map(() => el("span", { class: "number", text: "–" }));
    this.results = RESULTS.map(([, title]) => runs.map(() => el("td", { class: "right", "data-label": title })));
    const keys = told(runs.map(({ job }) => job.spec))[0].filter((key) => !NO_MATTER.test(key));
    const settings = keys.length > 0 && keys.length <= MOST_COLUMNS ? keys : ["Settings that differ"];
    const head = (text, kind) => el("th", { scope: "col", class: kind, text });
    this.node = el("section", { class: "panel table-panel" },
      el("table", { class: "cards compared", "aria-label": "Compared jobs" },
        el("thead", {}, el("tr", {}, head("Job"), head("State"), head("Step", "right"), RESULTS.map(([, title]) => head(title, "right")), settings.map((text) => head(text)))),
        el("tbody", {}, runs.map((run, i) => this.row(run, i, keys)))));
  }

  row(run, i, keys) {
    return el("tr", {},
      el("td", { class: "name" }, el("span", { class: "key" }, swatch(run)), el("a", { href: `#/jobs/${encodeURIComponent(run.id)}`, text: run.id })),
      el("td", { class: "state-cell" }, this.pills[i]),
      el("td", { class: "right", "data-label": "Step" }, this.steps[i]),
      this.results.map((cells) => cells[i]),
      settings(flat(run.job.spec), keys));
  }

  draw() {
    this.runs.forEach((run, i) => {
      setState(this.pills[i], run.job.state);
      setText(this.steps[i], format.integer(run.series.loss.columns[0].at(-1)));
    });
    RESULTS.forEach(([field, , write, best, read], column) => {
      const values = this.runs.map((run) => read(run.series[field]));
      const winner = best(values.filter((value) => value !== null));
      values.forEach((value, i) => tell(this.results[column][i], write(value), values.length > 1 && value === winner));
    });
  }
}

const highest = (values) => values.reduce((most, value) => (value !== null && (most === null || value > most) ? value : most), null);

function tell(cell, text, best) {
  if (cell.dataset.told === `${text}${best}`) return;
  cell.dataset.told = `${text}${best}`;
  fill(cell, best ? [el("span", { class: "chip", text: "best" }), " ", el("strong", { text })] : text);
}

function settings(spec, keys) {
  if (keys.length === 0) return el("td", { class: "wide settings" }, el("span", { class: "soft", text: "none" }));
  if (keys.length <= MOST_COLUMNS) return keys.map((key) => el("td", { "data-label": key, text: written(spec.get(key)) }));
  return el("td", { class: "wide settings" }, keys.map((key) => el("span", { class: "setting" }, el("span", { class: "soft", text: `${key} ` }), written(spec.get(key)))));
}
