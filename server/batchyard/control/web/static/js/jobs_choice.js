// Which jobs the list shows, and in which order: kept in the address, so that a reload and a colleague see the same.

import { el, fill, setAttribute, setText } from "./dom.js";
import { integer } from "./format.js";
import { told } from "./settings.js";

const FILTERS = [
  ["All", []],
  ["Active", ["QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING"]],
  ["Succeeded", ["SUCCEEDED"]],
  ["Failed", ["FAILED"]],
  ["Cancelled", ["CANCELLED"]],
];
const STATES = ["QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"];
const NEWEST = { sort: "created", rising: false };
const TYPING_MS = 250; // after the last key, until the service is asked

/** What jobs can be sorted by, and whether the first choice is from the smallest up. */
export const ORDERS = {
  created: ["Age", false, (job) => Date.parse(job.create_time)],
  name: ["Name", true, (job) => job.name],
  owner: ["Owner", true, (job) => job.user || null],
  state: ["State", true, (job) => STATES.indexOf(job.state)],
  progress: ["Progress", false, ({ progress }) => (Number(progress?.steps) > 0 ? Number(progress.step) / Number(progress.steps) : null)],
  loss: ["Loss", true, ({ progress }) => progress?.loss ?? null],
  accuracy: ["Accuracy", false, ({ progress }) => progress?.accuracy ?? null],
  samples_per_second: ["Samples/s", false, (job) => (job.end_time ? null : job.progress?.samples_per_second ?? null)],
};

export class JobsChoice {
  /** `onChange` is called when other jobs are wanted, or another order; `onColumn` when another setting is to be shown. */
  constructor({ onChange, onColumn, jobs }) {
    Object.assign(this, { onChange, onColumn, jobs });
    this.read(new URLSearchParams(location.hash.split("?")[1] ?? ""));
    this.tabs = el("div", { class: "tabs", role: "group", "aria-label": "Which jobs" },
      FILTERS.map(([label]) => el("button", { type: "button", onclick: () => this.set({ label }) }, label, el("span", { class: "count" }))));
    this.field = el("input", { type: "search", "aria-label": "Search jobs", placeholder: "Name, tag, owner or state", value: this.search, autocomplete: "off", spellcheck: "false", oninput: () => this.type() });
    this.order = el("select", { onchange: () => this.sortBy(this.order.value) }, Object.entries(ORDERS).map(([key, [text]]) => el("option", { value: key, text })));
    this.turn = el("button", { type: "button", onclick: () => this.set({ rising: !this.rising }) });
    this.columns = el("select", { class: "columns", "aria-label": "A setting as a column", onfocus: () => this.offer(), onchange: () => this.choose(this.columns.value) });
    this.offer();
    this.heads = [];
    this.node = el("div", { class: "choice" }, this.tabs, el("div", { class: "finder" }, this.field, el("label", { class: "sort" }, "Sort by ", this.order), this.turn, this.columns));
    this.show();
  }

  read(query) {
    const label = FILTERS.map(([name]) => name).find((name) => name.toLowerCase() === query.get("state")) ?? "All";
    const sort = query.get("sort") in ORDERS ? query.get("sort") : NEWEST.sort;
    Object.assign(this, { label, search: query.get("search") ?? "", sort, rising: query.get("rising") === "true", column: query.get("column") ?? "" });
  }

  /** The head of a column; one that can be sorted by is a button. */
  head(text, kind, key) {
    const head = el("th", { scope: "col", class: kind });
    if (!key) head.append(kind === "col-pick" ? el("span", { class: "unseen", text }) : text);
    else {
      head.append(el("button", { type: "button", class: "sorter", text, onclick: () => this.sortBy(key) }));
      this.heads.push([key, head]);
    }
    this.show();
    return head;
  }

  type() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.set({ search: this.field.value.trim() }), TYPING_MS);
  }

  sortBy(sort) {
    this.set({ sort, rising: sort === this.sort ? !this.rising : ORDERS[sort][1] });
  }

  set(change) {
    Object.assign(this, change);
    history.replaceState(null, "", this.address);
    this.show();
    this.onChange();
  }

  choose(column) {
    this.column = column;
    history.replaceState(null, "", this.address);
    this.onColumn();
  }

  // The settings of the jobs in the list, those first in which they differ.
  offer() {
    const [differ, same] = told(this.jobs().map(({ spec }) => spec));
    const known = new Set([...differ, ...same]);
    const options = (names) => names.filter((name) => name !== "name").map((name) => el("option", { value: name, text: name }));
    fill(this.columns, el("option", { value: "", text: "Add column" }), this.column && !known.has(this.column) && options([this.column]),
      differ.length > 0 && el("optgroup", { label: "Differ between these jobs" }, options(differ)), same.length > 0 && el("optgroup", { label: "The same in all" }, options(same)));
    this.columns.value = this.column;
  }

  show() {
    FILTERS.forEach(([label], i) => setAttribute(this.tabs.children[i], "aria-pressed", label === this.label));
    for (const [key, head] of this.heads) setAttribute(head, "aria-sort", key !== this.sort ? "none" : this.upward(key) ? "ascending" : "descending");
    this.order.value = this.sort;
    const upward = this.upward(this.sort);
    this.turn.textContent = upward ? "↑" : "↓";
    setAttribute(this.turn, "aria-label", upward ? "From the smallest up: turn round" : "From the largest down: turn round");
  }

  /** Tells how many jobs there are of each choice, from those in each state. */
  count(counts) {
    FILTERS.forEach(([, states], i) => {
      const of = states.length > 0 ? states : STATES;
      setText(this.tabs.children[i].lastChild, ` ${integer(of.reduce((sum, state) => sum + (counts[state] ?? 0), 0))}`);
    });
  }

  // An age grows as the time of creation lies back.
  upward(key) {
    return key === "created" ? !this.rising : this.rising;
  }

  get address() {
    const kept = { state: this.label === "All" ? "" : this.label.toLowerCase(), search: this.search, sort: this.sort === NEWEST.sort ? "" : this.sort, rising: this.rising ? "true" : "", column: this.column };
    const query = new URLSearchParams(Object.entries(kept).filter(([, value]) => value !== "")).toString();
    return query ? `#/jobs?${query}` : "#/jobs";
  }

  get states() {
    return FILTERS.find(([label]) => label === this.label)[1];
  }

  /** Whether every job is shown. */
  get all() {
    return this.states.length === 0 && this.search === "";
  }

  /** For the service. */
  get query() {
    return [...this.states.map((state) => ["states", state]), ["search", this.search], ["sort", this.sort], ["rising", String(this.rising)]];
  }

  /** Whether a job is among those wanted: the service's rule, for jobs that it tells of later. */
  holds(job) {
    if (this.states.length > 0 && !this.states.includes(job.state)) return false;
    const fields = [job.name.split("/").pop(), job.user, job.state, job.tags.join(" "), job.note].map((text) => text.toLowerCase());
    return this.search.toLowerCase().split(/\s+/).every((word) => fields.some((text) => text.includes(word)));
  }

  /** Which of two jobs comes first, as a number; those without a value come last. */
  compare(a, b) {
    const [one, other] = [a, b].map(ORDERS[this.sort][2]);
    if (one === null || other === null) return (one === null) - (other === null) || newer(a, b);
    const difference = one < other ? -1 : Number(one > other);
    return (this.rising ? difference : -difference) || newer(a, b);
  }
}

const newer = (a, b) => Date.parse(b.create_time) - Date.parse(a.create_time);
