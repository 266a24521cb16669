// All jobs, newest first unless another order is chosen, live.

import { follow, get } from "./api.js";
import { Chosen } from "./chosen.js";
import { el, fill, setText } from "./dom.js";
import { JobRow } from "./job_row.js";
import { JobsChoice } from "./jobs_choice.js";

const HEADS = [["Choose", "col-pick"], ["Job", "col-name", "name"], ["State", "col-state", "state"], ["Progress", "col-progress", "progress"], ["Loss", "right", "loss"],
  ["Accuracy", "right col-accuracy", "accuracy"], ["Samples/s", "right", "samples_per_second"], ["Age", "right col-age", "created"]];
const SETTING_AT = 3; // among the columns, where one of the settings is shown
const PAGE = 50;
const LOSSES_MS = 5000; // between two looks at the courses of losses of those that run
const MOST_LOSSES = 100;
const COUNTS_MS = 2000; // between two looks at how many jobs there are

export async function jobsPage(main, _, { signal, onLink }) {
  document.title = "Jobs · Batchyard";
  const view = new JobsView(onLink, signal);
  fill(main, el("div", { class: "heading" }, el("h1", { text: "Training jobs" })), view.choice.node, view.chosen.told, view.place, view.chosen.node);
  const tick = setInterval(() => view.tick(), 1000);
  signal.addEventListener("abort", () => clearInterval(tick));
  await view.watch();
}

class JobsView {
  constructor(onLink, signal) {
    this.onLink = onLink;
    this.signal = signal;
    this.rows = new Map();
    this.chosen = new Chosen({ onChange: () => this.mark(), shown: () => [...this.rows.values()].map(({ job }) => job), signal });
    this.choice = new JobsChoice({
      onChange: () => this.watch().catch((error) => { if (!signal.aborted) throw error; }), onColumn: () => this.showColumn(),
      jobs: () => [...this.rows.values()].map(({ job }) => job),
    });
    this.body = el("tbody");
    this.column = el("th", { scope: "col", class: "col-setting" });
    const heads = HEADS.map((head) => this.choice.head(...head));
    heads.splice(SETTING_AT, 0, this.column);
    this.table = el("table", { class: "jobs cards", "aria-label": "Training jobs" }, el("thead", {}, el("tr", {}, heads)), this.body);
    this.showColumn();
    this.more = el("button", { class: "more", type: "button", text: "Show more jobs", onclick: () => this.older() });
    this.place = el("div", {}, el("div", { class: "panel table-panel" }, el("p", { class: "empty", text: "Asking the service …" })));
  }

  async watch() {
    this.watching?.abort();
    const watching = (this.watching = new AbortController());
    this.signal.addEventListener("abort", () => watching.abort());
    const query = new URLSearchParams([["watch", "true"], ["page_size", PAGE], ...this.choice.query]);
    let first = true;
    const onLink = (link) => {
      if (watching.signal.aborted) return;
      first ||= link === "connecting" || link === "reconnecting"; // each connection begins with a whole page
      this.onLink(link);
    };
    await follow(() => `/api/jobs?${query}`, { onLink, signal: watching.signal, onMessage: (list) => { this.take(list, first); first = false; } });
  }

  take(list, whole) {
    const known = this.rows;
    if (whole) this.rows = new Map();
    for (const job of list.training_jobs) {
      if (whole || known.has(job.name) || !this.beyond(job)) this.put(job, known.get(job.name));
    }
    if (whole) this.end(list);
    this.draw();
    setTimeout(() => this.after(whole)); // the rows come first
  }

  after(whole) {
    if (this.signal.aborted) return;
    if (whole) this.choice.offer();
    this.count(whole);
  }

  /** Takes note of where what is shown ends: at the end of a page, and what comes after it is not asked for yet. */
  end(page) {
    this.token = page.next_page_token;
    this.last = page.training_jobs.at(-1);
  }

  beyond(job) {
    return Boolean(this.token) && this.choice.compare(job, this.last) > 0;
  }

  put(job, known = new JobRow((job, picked) => this.chosen.pick(job, picked))) {
    if (!this.choice.holds(job)) {
      this.rows.delete(job.name);
      return;
    }
    this.rows.set(job.name, known);
    known.set(job);
    known.showSetting(this.choice.column);
    this.chosen.see(job);
  }

  showColumn() {
    const { column } = this.choice;
    this.column.hidden = column === "";
    setText(this.column, column);
    for (const row of this.rows.values()) row.showSetting(column);
  }

  draw() {
    const rows = [...this.rows.values()].sort((a, b) => this.choice.compare(a.job, b.job));
    this.arrange(rows.map((row) => row.node));
    this.more.hidden = !this.token;
    this.mark();
    this.chosen.show();
    this.drawLosses(rows);
    if (rows.length > 0 && !this.table.isConnected) fill(this.place, el("div", { class: "panel table-panel" }, this.table), this.more);
    if (rows.length === 0) fill(this.place, el("div", { class: "panel" }, this.empty()));
  }

  // Whoever is at a row by keyboard stays there when rows change places.
  arrange(nodes) {
    if (nodes.length === this.body.children.length && nodes.every((node, i) => node === this.body.children[i])) return;
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    this.body.replaceChildren(...nodes);
    focused?.focus({ preventScroll: true });
  }

  mark() {
    for (const row of this.rows.values()) row.mark(this.chosen);
  }

  // The course of the loss of those rows whose is not drawn, or has gone on: the former at once, the latter at times.
  drawLosses(rows) {
    const wanted = rows.filter((row) => row.staleLoss).slice(0, MOST_LOSSES);
    if (wanted.length === 0 || this.asking || (this.resting && wanted.every((row) => row.hasLoss))) return;
    this.asking = this.resting = true;
    const query = new URLSearchParams(wanted.map((row) => ["jobs", row.id]));
    get(`/api/losses?${query}`, this.signal)
      .then(({ losses }) => { for (const row of wanted) row.drawLoss(losses[row.id] ?? []); })
      .catch(() => {})
      .finally(() => { this.asking = false; });
    setTimeout(() => { this.resting = false; if (!this.signal.aborted) this.drawLosses([...this.rows.values()]); }, LOSSES_MS);
  }

  // How many jobs there are of each choice: anew with another search, and at times while jobs change.
  count(anew) {
    if (this.counted && !anew) {
      this.uncounted = true;
      return;
    }
    this.uncounted = false;
    clearTimeout(this.counted);
    const { search } = this.choice;
    get(`/api/counts?${new URLSearchParams({ search })}`, this.signal)
      .then(({ counts }) => { if (search === this.choice.search) this.choice.count(counts); })
      .catch(() => {});
    this.counted = setTimeout(() => { this.counted = null; if (this.uncounted && !this.signal.aborted) this.count(); }, COUNTS_MS);
  }

  empty() {
    if (!this.choice.all) return el("p", { class: "empty" }, el("strong", { text: "None" }), this.choice.search ? `No job has “${this.choice.search}” in its name, owner, state, tags or note.` : "No job is in such a state.");
    return el("p", { class: "empty" }, el("strong", { text: "No job yet" }), "Submit the first one:", el("br"), el("code", { text: "batchyard submit job.yaml --follow" }));
  }

  async older() {
    const query = new URLSearchParams([["page_token", this.token], ["page_size", PAGE], ...this.choice.query]);
    const list = await get(`/api/jobs?${query}`, this.signal);
    this.end(list);
    for (const job of list.training_jobs) this.put(job, this.rows.get(job.name));
    this.draw();
  }

  tick() {
    for (const row of this.rows.values()) row.tick();
  }
}
