// The part of the steps, or of the time, that all charts of a page show; kept in the address.

import { keep, keptNumber } from "./address.js";

const FINENESS = 500; // parts of what is shown that a pointer can tell apart

export class Zoom {
  /** `whole`: whether only whole numbers are meant, as for steps. */
  constructor({ whole = true } = {}) {
    Object.assign(this, { whole, from: keptNumber("from"), to: keptNumber("to") });
    this.listeners = new Set();
  }

  /** Whether everything is shown. */
  get all() {
    return this.from === null && this.to === null;
  }

  /** What is shown of what lies between `least` and `most`. An open end goes on with a job that does. */
  of(least, most) {
    const [from, to] = [this.from ?? least, this.to ?? most];
    return from < to ? [from, to] : [least, most];
  }

  /** Shows what lies between; null for an open end. */
  set(from, to) {
    const turned = from !== null && to !== null && from > to;
    [this.from, this.to] = turned ? [to, from] : [from, to];
    if (from !== null && from === to) this.to += 1;
    keep({ from: this.from, to: this.to });
    for (const told of this.listeners) told();
  }

  /** For those who cannot see the charts. */
  get words() {
    return this.all ? "" : `; shown from ${this.from ?? "the first"} to ${this.to ?? "the last"}`;
  }

  /** Shows what a pointer was dragged over, in round numbers. */
  drag(from, to) {
    const unit = 10 ** Math.floor(Math.log10((to - from) / FINENESS));
    const apart = this.whole ? Math.max(1, unit) : unit;
    const [first, last] = [Math.floor(from / apart), Math.ceil(to / apart)].map((count) => Number((count * apart).toPrecision(15)));
    this.set(first, last);
  }

  /** Shows everything. */
  reset() {
    this.set(null, null);
  }

  /** `told` is called whenever another part is shown, until `signal`. */
  listen(told, signal) {
    this.listeners.add(told);
    signal.addEventListener("abort", () => this.listeners.delete(told));
  }
}
