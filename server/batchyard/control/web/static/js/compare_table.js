// The compared jobs: their states, and in what their specs differ.

import { swatch } from "./compare_panel.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { setState, statePill } from "./parts.js";

const NO_MATTER = /^(name|publish\..*)$/; // for how a network learns

export class CompareTable {
  constructor(runs) {
    this.runs = runs;
    this.pills = runs.map(({ job }) => statePill(job.state));
    this.steps = runs.map(() => el("span", { class: "number", text: "–" }));
    const keys = differences(runs.map(({ job }) => flat(job.spec)));
    const heads = ["Job", "State", "Step", "Settings that differ"];
    this.node = el("section", { class: "panel table-panel" },
      el("table", { class: "cards compared", "aria-label": "Compared jobs" },
        el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, runs.map((run, i) => this.row(run, i, keys)))));
  }

  row(run, i, keys) {
    const spec = flat(run.job.spec);
    const settings = keys.map((key) => el("span", { class: "setting" }, el("span", { class: "soft", text: `${key} ` }), write(spec.get(key))));
    return el("tr", {},
      el("td", { class: "name" }, el("span", { class: "key" }, swatch(run)), el("a", { href: `#/jobs/${encodeURIComponent(run.id)}`, text: run.id })),
      el("td", { class: "state-cell" }, this.pills[i]),
      el("td", { "data-label": "Step" }, this.steps[i]),
      el("td", { class: "wide settings" }, keys.length > 0 ? settings : el("span", { class: "soft", text: "none" })));
  }

  draw() {
    this.runs.forEach((run, i) => {
      setState(this.pills[i], run.job.state);
      setText(this.steps[i], format.integer(run.series.loss.columns[0].at(-1)));
    });
  }
}

function write(value) {
  if (value === undefined || value === "") return "–";
  return typeof value === "number" ? String(+value.toPrecision(6)) : String(value);
}

// A spec as a Map from dotted paths to values.
function flat(spec, path = "") {
  return new Map(Object.entries(spec).flatMap(([key, value]) => {
    const nested = value !== null && typeof value === "object" && !Array.isArray(value);
    return nested ? [...flat(value, `${path}${key}.`)] : [[`${path}${key}`, Array.isArray(value) ? `[${value.join(", ")}]` : value]];
  }));
}

function differences(specs) {
  const keys = [...new Set(specs.flatMap((spec) => [...spec.keys()]))];
  return keys.filter((key) => !NO_MATTER.test(key) && new Set(specs.map((spec) => spec.get(key))).size > 1);
}
