// What the inference plane is asked and how it answers, live.

import { keep, kept, keptNumber } from "./address.js";
import { follow } from "./api.js";
import { BatchBars } from "./batch_bars.js";
import { fromZero } from "./charts.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";
import { MOST_LINES, TimePanel } from "./time_panel.js";
import { ALL, Traffic } from "./traffic.js";
import { Zoom } from "./zoom.js";

const WINDOWS = [["5 min", 300], ["15 min", 900], ["1 h", 3600]];
const USUAL = 300; // seconds
const QUANTILES = ["p50", "p95", "p99"];
const SHIFT_ALARM = 0.1; // deploy/prometheus/rules.yml says so, too
const ABOUT_SHIFT = `How far live data is from training data; 0: just as in training. Up to ${SHIFT_ALARM}, the shaded band, is usual; more than that for `
  + "long, and the alert BatchyardShift fires. Choose a version to see its layers.";

export async function servingPage(main, _, { signal, onLink }) {
  document.title = "Serving · Batchyard";
  const asked = keptNumber("seconds");
  await new ServingView(main, signal, onLink).choose(WINDOWS.some(([, seconds]) => seconds === asked) ? asked : USUAL);
}

const rate = (value) => (value === 0 ? "0" : format.rate(value));

class ServingView {
  constructor(main, signal, onLink) {
    Object.assign(this, { signal, onLink, version: kept().get("version") ?? ALL, zoom: new Zoom({ whole: false }) });
    this.buttons = WINDOWS.map(([text, seconds]) => el("button", { type: "button", text, "aria-pressed": "false", onclick: () => { this.zoom.reset(); this.choose(seconds); } }));
    this.choice = el("select", { onchange: () => this.show(this.choice.value) }, el("option", { value: ALL, text: "All versions" }));
    this.whole = el("button", { type: "button", text: "Show all", onclick: () => this.zoom.reset() });
    this.notice = el("div");
    this.figures = new Figures();
    const time = { write: format.shortTime, axis: format.axisTime, range: fromZero, quiet: "No request in this time" };
    this.requests = new TimePanel({ title: "Requests per second", write: rate, range: fromZero, quiet: "No request in this time" }, this.zoom, signal);
    this.latency = new TimePanel({ title: "Latency", ...time }, this.zoom, signal);
    this.queue = new TimePanel({ title: "Time in the queue", ...time }, this.zoom, signal);
    this.refused = new TimePanel({ title: "Refused per second, by code", write: rate, range: fromZero, quiet: "None was refused" }, this.zoom, signal);
    this.shift = new TimePanel({ title: "Covariate shift", about: ABOUT_SHIFT, write: (v) => (v === null ? "–" : format.decimal(v, 3)), range: upTo(SHIFT_ALARM), reference: SHIFT_ALARM, quiet: "Not known: too few requests were sampled" }, this.zoom, signal);
    this.bars = new BatchBars();
    this.table = new VersionTable();
    const pair = (...panels) => el("div", { class: "pair" }, panels.map((panel) => panel.node));
    fill(main, el("div", { class: "heading" }, el("h1", { text: "Serving" }),
      el("div", { class: "controls beside" }, this.whole, el("label", {}, "Show ", this.choice), el("span", { class: "switch", role: "group", "aria-label": "Time shown" }, this.buttons))),
    this.notice, el("section", { class: "panel", "aria-label": "Now" }, this.figures.node), pair(this.requests, this.latency), pair(this.queue, this.refused),
    pair(this.bars, this.shift), this.table.node);
    const closer = () => { this.whole.hidden = this.zoom.all; };
    this.zoom.listen(closer, signal);
    closer();
  }

  show(version) {
    this.version = version;
    keep({ version });
    this.draw();
  }

  async choose(seconds) {
    keep({ seconds: seconds === USUAL ? null : seconds });
    this.watching?.abort();
    const watching = (this.watching = new AbortController());
    const signal = AbortSignal.any([this.signal, watching.signal]);
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(WINDOWS[i][1] === seconds)));
    const address = () => {
      this.traffic = new Traffic(seconds); // each connection begins with the whole window
      return `/api/serving?watch=true&seconds=${seconds}`;
    };
    const onLink = (link) => watching.signal.aborted || this.onLink(link);
    await follow(address, { signal, onLink, onMessage: (message) => { this.traffic.add(message); this.draw(); } });
  }

  draw() {
    const { traffic } = this;
    this.offer(traffic.versions());
    if (traffic.problem !== this.problem) {
      this.problem = traffic.problem;
      fill(this.notice, traffic.problem && el("p", { class: "notice", role: "alert", text: `${traffic.problem}.` }));
    }
    const { version } = this;
    const draw = (panel, lines) => panel.draw(traffic.times, lines, traffic.seconds);
    const shown = version === ALL ? traffic.versions() : [version];
    this.figures.set(traffic.newest(version));
    draw(this.requests, shown.map((name) => [name, traffic.column(name, (m) => m.requests_per_second)]));
    for (const [panel, field] of [[this.latency, "latency"], [this.queue, "queue"]]) {
      const lines = QUANTILES.map((q) => [q, traffic.column(version, (m) => m[field]?.[q])]);
      draw(panel, lines.some(([, values]) => values.some((v) => v !== null)) ? lines : []);
    }
    draw(this.refused, traffic.codes(version).map((code) => [code, traffic.column(version, (m) => m.refused_per_second[code] ?? 0)]));
    draw(this.shift, this.shifts(shown));
    this.bars.draw(traffic.batches(version));
    this.table.draw(traffic);
  }

  // The shift of each version, or of the layers of the one that is shown.
  shifts(shown) {
    const { traffic, version } = this;
    const lines = version === ALL ? shown.map((name) => [name, traffic.column(name, (m) => m.shift)])
      : (traffic.layers.get(version) ?? []).map((layer, i) => [layer, traffic.column(version, (m) => m.layer_shifts[i])]);
    const known = lines.filter(([, values]) => values.some((v) => v !== null));
    if (known.length <= MOST_LINES) return known;
    const newest = (values) => values.findLast((v) => v !== null);
    const kept = new Set([...known].sort((a, b) => newest(b[1]) - newest(a[1])).slice(0, MOST_LINES));
    return known.filter((line) => kept.has(line));
  }

  offer(versions) {
    const wanted = JSON.stringify(versions);
    if (wanted === this.offered) return;
    this.offered = wanted;
    if (this.version !== ALL && !versions.includes(this.version)) versions.push(this.version);
    fill(this.choice, el("option", { value: ALL, text: "All versions" }), [...versions].sort().map((name) => el("option", { value: name, text: name })));
    this.choice.value = this.version;
  }
}

const upTo = (least) => (_, __, most) => [0, Math.max(least * 1.5, most * 1.05 || 0)];

class Figures {
  constructor() {
    const names = ["Requests/s", "Rows/s", "Latency p50", "Latency p99", "Refused/s", "Rows waiting"];
    this.values = names.map(() => el("dd", { text: "–" }));
    this.node = el("dl", { class: "figures" }, names.map((name, i) => el("div", {}, el("dt", { text: name }), this.values[i])));
  }

  set(measured) {
    const written = measured === undefined ? [] : [rate(measured.requests_per_second), rate(measured.rows_per_second),
      format.shortTime(measured.latency?.p50), format.shortTime(measured.latency?.p99), rate(refusedBy(measured)), format.integer(measured.queued_rows)];
    this.values.forEach((node, i) => setText(node, written[i] ?? "–"));
  }
}

const refusedBy = ({ refused_per_second: codes }) => Object.values(codes).reduce((sum, rate) => sum + rate, 0);

class VersionTable {
  constructor() {
    this.body = el("tbody");
    const heads = [["Version"], ["Requests/s", "right"], ["Share", "right"], ["Rows/s", "right"], ["p50", "right"], ["p99", "right"], ["Refused/s", "right"], ["Shift", "right"]];
    this.node = el("section", { class: "panel table-panel", "aria-label": "Traffic by version" }, el("table", { class: "cards", "aria-label": "Traffic by version, now" },
      el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind, text })))), this.body));
  }

  draw(traffic) {
    const names = traffic.versions();
    const total = traffic.newest(ALL)?.requests_per_second ?? 0;
    const rows = names.map((name) => row(name, traffic.newest(name), total));
    fill(this.body, rows.length > 0 ? rows : el("tr", {}, el("td", { colspan: 8, class: "empty", text: traffic.points.length === 0 ? "The first figures come within some seconds." : "No version is served yet: publish one." })));
  }
}

function row(name, measured, total) {
  const of = measured ?? { refused_per_second: {}, requests_per_second: 0, rows_per_second: 0 };
  const cells = [["Requests/s", rate(of.requests_per_second)], ["Share", total > 0 ? format.percent(of.requests_per_second / total, 0) : "–"],
    ["Rows/s", rate(of.rows_per_second)], ["p50", format.shortTime(of.latency?.p50)], ["p99", format.shortTime(of.latency?.p99)],
    ["Refused/s", rate(refusedBy(of))], ["Shift", of.shift === undefined ? "–" : format.decimal(of.shift, 3)]];
  return el("tr", {}, el("td", { "data-label": "Version" }, el("strong", { text: name })),
    cells.map(([label, text]) => el("td", { class: "right", "data-label": label, text })));
}
