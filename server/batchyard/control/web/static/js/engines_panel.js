// What each engine took on the inference plane's machine, and which of them serve.

import { get } from "./api.js";
import { el, fill } from "./dom.js";
import * as format from "./format.js";
import { facts } from "./parts.js";

export class EnginesPanel {
  constructor(path, signal) {
    this.body = el("div", {}, el("p", { class: "soft", text: "Asking the inference plane …" }));
    this.node = el("section", { class: "panel", "aria-labelledby": "engines-title" }, el("h2", { id: "engines-title", text: "Engines" }), this.body);
    get(`${path}/engines`, signal)
      .then((found) => fill(this.body, found.timings ? told(found) : el("p", { class: "soft", text: "The inference plane keeps no times of engines." })))
      .catch((error) => signal.aborted || fill(this.body, el("p", { class: "soft", text: error.status ? `Not known: ${error.message}.` : "The service cannot be reached." })));
  }
}

function told({ engine, choice, timings: { conditions, trials } }) {
  const withReasons = trials.some(({ reason }) => reason);
  const sizes = [...new Set(trials.flatMap(({ seconds }) => Object.keys(seconds).map(Number)))].sort((a, b) => a - b);
  const libraries = Object.entries(conditions.libraries).map(([name, number]) => `${name} ${number ?? "missing"}`).join(", ");
  return [
    facts([["Served by", el("strong", { text: engine })], ["Choice", choice], ["Processor", `${conditions.processor}, ${conditions.cores} cores`], ["Libraries", libraries]]),
    el("table", { class: "cards engines", "aria-label": "Times of one batch, by engine" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Engine" }), ["Threads", "Largest error", ...sizes.map(rows)].map((text) => el("th", { scope: "col", class: "right", text })),
        withReasons && el("th", { scope: "col", text: "Why not" }))),
      el("tbody", {}, trials.map((trial) => row(trial, sizes, fastest(trials, sizes), withReasons)))),
  ];
}

const fastest = (trials, sizes) => new Map(sizes.map((size) => [size, Math.min(...trials.map(({ seconds }) => seconds[size] ?? Infinity))]));

const rows = (size) => `${size} ${size === 1 ? "row" : "rows"}`;

function row({ engine, threads, error, seconds, reason }, sizes, best, withReasons) {
  return el("tr", {},
    el("td", { "data-label": "Engine" }, el("strong", { text: engine })),
    el("td", { "data-label": "Threads", class: "right", text: threads || "–" }),
    el("td", { "data-label": "Largest error", class: "right", text: error === null ? "–" : format.scientific(error) }),
    sizes.map((size) => el("td", { "data-label": rows(size), class: seconds[size] === best.get(size) ? "right best" : "right", text: format.shortTime(seconds[size]) })),
    withReasons && el("td", { "data-label": "Why not", class: reason ? "wide" : "none", text: reason || "–" }));
}
