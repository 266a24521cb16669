// All jobs, newest first, live.

import { follow, get } from "./api.js";
import { Chosen } from "./chosen.js";
import { el, fill, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { TERMINAL, progressBar, setState, statePill, summary } from "./parts.js";
import { sparkline } from "./sparkline.js";

const FILTERS = [
  ["All", []],
  ["Active", ["QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING"]],
  ["Succeeded", ["SUCCEEDED"]],
  ["Failed", ["FAILED"]],
  ["Cancelled", ["CANCELLED"]],
];
const HEADS = [["Compare", "col-pick"], ["Job", "col-name"], ["State", "col-state"], ["Progress", "col-progress"], ["Loss", "right"], ["Accuracy", "right col-accuracy"], ["Samples/s", "right"], ["Age", "right col-age"]];
const PAGE = 50;
const LOSSES_MS = 5000; // between two looks at the courses of losses of those that run
const MOST_LOSSES = 100;

export async function jobsPage(main, _, { signal, onLink }) {
  document.title = "Jobs · Batchyard";
  const view = new JobsView(onLink, signal);
  fill(main, el("div", { class: "heading" }, el("h1", { text: "Training jobs" })), view.tabs, view.place, view.chosen.node);
  const tick = setInterval(() => view.tick(), 1000);
  signal.addEventListener("abort", () => clearInterval(tick));
  await view.choose(FILTERS[0]);
}

class JobsView {
  constructor(onLink, signal) {
    this.onLink = onLink;
    this.signal = signal;
    this.rows = new Map();
    this.chosen = new Chosen(() => this.mark());
    this.body = el("tbody");
    this.table = el("table", { class: "jobs cards", "aria-label": "Training jobs" },
      el("thead", {}, el("tr", {}, HEADS.map(([text, kind]) => el("th", { scope: "col", class: kind }, kind === "col-pick" ? el("span", { class: "unseen", text }) : text)))), this.body);
    this.more = el("button", { class: "more", type: "button", text: "Show older jobs", onclick: () => this.older() });
    this.place = el("div", {}, el("div", { class: "panel table-panel" }, el("p", { class: "empty", text: "Asking the service …" })));
    this.tabs = el("div", { class: "tabs", role: "group", "aria-label": "Which jobs" },
      FILTERS.map((filter) => el("button", { type: "button", text: filter[0], "aria-pressed": "false", onclick: () => this.choose(filter) })));
  }

  async choose([label, states]) {
    this.watching?.abort();
    const watching = (this.watching = new AbortController());
    this.signal.addEventListener("abort", () => watching.abort());
    for (const button of this.tabs.children) button.setAttribute("aria-pressed", String(button.textContent === label));
    this.states = states;
    const query = new URLSearchParams([["watch", "true"], ["page_size", PAGE], ...states.map((state) => ["states", state])]);
    let first = true;
    const onLink = (link) => {
      if (watching.signal.aborted) return;
      first ||= link === "connecting" || link === "reconnecting"; // each connection begins with a whole page
      this.onLink(link);
    };
    await follow(() => `/api/jobs?${query}`, { onLink, signal: watching.signal, onMessage: (list) => { this.take(list, first); first = false; } });
  }

  take(list, whole) {
    if (whole) {
      this.rows.clear();
      this.token = list.next_page_token;
    }
    for (const job of list.training_jobs) this.put(job);
    this.draw();
  }

  put(job) {
    if (this.states.length > 0 && !this.states.includes(job.state)) {
      this.rows.delete(job.name);
      return;
    }
    const row = this.rows.get(job.name) ?? new JobRow((id, picked) => this.chosen.pick(id, picked));
    this.rows.set(job.name, row);
    row.set(job);
  }

  draw() {
    const rows = [...this.rows.values()].sort((a, b) => Date.parse(b.job.create_time) - Date.parse(a.job.create_time));
    const nodes = rows.map((row) => row.node);
    if (nodes.length !== this.body.children.length || nodes.some((node, i) => node !== this.body.children[i])) this.body.replaceChildren(...nodes);
    this.more.hidden = !this.token;
    this.mark();
    this.drawLosses(rows);
    if (rows.length > 0 && !this.table.isConnected) fill(this.place, el("div", { class: "panel table-panel" }, this.table), this.more);
    if (rows.length === 0) fill(this.place, el("div", { class: "panel" }, this.empty()));
  }

  mark() {
    for (const row of this.rows.values()) row.mark(this.chosen);
  }

  // The course of the loss of those rows whose is not drawn, or has gone on.
  drawLosses(rows) {
    const wanted = rows.filter((row) => row.staleLoss).slice(0, MOST_LOSSES);
    if (wanted.length === 0 || this.asking) return;
    this.asking = true;
    const query = new URLSearchParams(wanted.map((row) => ["jobs", row.id]));
    get(`/api/losses?${query}`, this.signal)
      .then(({ losses }) => { for (const row of wanted) row.drawLoss(losses[row.id] ?? []); })
      .catch(() => {})
      .finally(() => setTimeout(() => { this.asking = false; if (!this.signal.aborted) this.drawLosses([...this.rows.values()]); }, LOSSES_MS));
  }

  empty() {
    if (this.states.length > 0) return el("p", { class: "empty" }, el("strong", { text: "None" }), "No job is in such a state.");
    return el("p", { class: "empty" }, el("strong", { text: "No job yet" }), "Submit the first one:", el("br"), el("code", { text: "batchyard submit job.yaml --follow" }));
  }

  async older() {
    const query = new URLSearchParams([["page_token", this.token], ["page_size", PAGE], ...this.states.map((state) => ["states", state])]);
    const list = await get(`/api/jobs?${query}`, this.signal);
    this.token = list.next_page_token;
    this.take(list, false);
  }

  tick() {
    for (const row of this.rows.values()) row.tick();
  }
}

class JobRow {
  /** `onPick(id, picked)` is told when the reader chooses the job, or no longer does. */
  constructor(onPick) {
    this.box = el("input", { type: "checkbox", onchange: () => onPick(this.id, this.box.checked) });
    this.link = el("a");
    this.about = el("div");
    this.pill = statePill("QUEUED");
    this.bar = progressBar();
    this.cells = Object.fromEntries(["loss", "accuracy", "evaluation", "rate", "age"].map((name) => [name, el("span")]));
    const c = this.cells;
    this.spark = sparkline();
    this.node = el("tr", {},
      el("td", { class: "pick" }, el("label", {}, this.box)),
      el("td", { class: "name" }, this.link, this.about),
      el("td", { class: "state-cell" }, this.pill),
      el("td", { class: "progress" }, this.bar.node),
      el("td", { class: "right", "data-label": "Loss" }, c.loss, el("div", {}, this.spark.node)),
      el("td", { class: "right", "data-label": "Accuracy" }, c.accuracy, el("div", { class: "under" }, c.evaluation)),
      el("td", { class: "right", "data-label": "Samples/s" }, c.rate),
      el("td", { class: "right", "data-label": "Age" }, c.age));
  }

  set(job) {
    this.job = job;
    const id = (this.id = format.id(job.name));
    setAttribute(this.box, "aria-label", `Compare ${id}`);
    this.link.setAttribute("href", `#/jobs/${encodeURIComponent(id)}`);
    setText(this.link, id);
    setText(this.about, summary(job));
    setState(this.pill, job.state);
    this.bar.set(job);
    const progress = job.progress ?? {};
    setText(this.cells.loss, format.loss(progress.loss));
    setText(this.cells.accuracy, format.percent(progress.accuracy));
    setText(this.cells.evaluation, progress.evaluation_accuracy === undefined ? "" : `held out ${format.percent(progress.evaluation_accuracy, 1)}`);
    setText(this.cells.rate, TERMINAL.has(job.state) ? "–" : format.rate(progress.samples_per_second));
    this.tick();
  }

  /** Whether the loss has gone on since it was drawn. */
  get staleLoss() {
    return this.job.progress !== undefined && this.job.progress.step !== this.drawnAt;
  }

  drawLoss(values) {
    this.drawnAt = this.job.progress?.step;
    this.spark.set(values);
  }

  mark(chosen) {
    this.box.checked = chosen.has(this.id);
    this.box.disabled = chosen.full && !this.box.checked;
  }

  tick() {
    setText(this.cells.age, format.age(this.job.create_time));
    if (this.job.state === "QUEUED") this.bar.set(this.job);
  }
}
