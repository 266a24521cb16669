// The jobs that the reader has chosen to compare, and the way there.

import { MOST_RUNS } from "./compare_run.js";
import { el, setText } from "./dom.js";

export class Chosen {
  /** `onChange` is called when other jobs are chosen than before. */
  constructor(onChange) {
    this.onChange = onChange;
    this.ids = new Set();
    this.words = el("span", { "aria-live": "polite" });
    this.go = el("button", { type: "button", class: "primary", text: "Compare", onclick: () => { location.hash = `#/compare/${[...this.ids].join(",")}`; } });
    this.node = el("div", { class: "chosen", role: "group", "aria-label": "Chosen jobs", hidden: true },
      this.words, el("button", { type: "button", text: "Clear", onclick: () => this.clear() }), this.go);
  }

  has(id) {
    return this.ids.has(id);
  }

  /** Whether no more can be chosen. */
  get full() {
    return this.ids.size >= MOST_RUNS;
  }

  pick(id, picked) {
    if (picked) this.ids.add(id);
    else this.ids.delete(id);
    this.change();
  }

  clear() {
    this.ids.clear();
    this.change();
  }

  change() {
    const count = this.ids.size;
    this.node.hidden = count === 0;
    this.go.hidden = count < 2;
    setText(this.words, count < 2 ? "1 job chosen: choose another to compare" : `${count} jobs chosen${this.full ? ", no more fit" : ""}`);
    this.onChange();
  }
}
