// What a job has reported, as columns for charts. Bounded: a long run loses detail, never its shape.

import { number } from "./format.js";

export const MOST_POINTS = 4000;

/** Rows by step: `columns[0]` holds the steps, the others the values of `fields`; null where there is none. */
export class Series {
  constructor(fields) {
    this.fields = fields;
    this.columns = [[], ...fields.map(() => [])];
  }

  get length() {
    return this.columns[0].length;
  }

  /** Adds a row. A step that comes again (a job that was resumed) drops what came after it. */
  add(step, values) {
    const steps = this.columns[0];
    const at = Number(step);
    while (steps.length > 0 && steps[steps.length - 1] >= at) for (const column of this.columns) column.pop();
    steps.push(at);
    this.fields.forEach((field, i) => this.columns[i + 1].push(finite(values[field])));
    if (steps.length > MOST_POINTS) this.thin();
  }

  /** Puts a row between those that are there; a step that is there already stays as it is. */
  fill(step, values) {
    const at = Number(step);
    const row = this.rowAt(at) + 1;
    if (row > 0 && this.columns[0][row - 1] === at) return;
    this.columns[0].splice(row, 0, at);
    this.fields.forEach((field, i) => this.columns[i + 1].splice(row, 0, finite(values[field])));
    if (this.length > MOST_POINTS) this.thin();
  }

  /** Drops the rows after `step`: training goes on from there. */
  rewind(step) {
    const left = this.rowAt(step) + 1;
    for (const column of this.columns) column.length = left;
  }

  /** The last value of a field, or null. */
  last(field) {
    return this.columns[this.fields.indexOf(field) + 1].at(-1) ?? null;
  }

  /** The value of a field at a step, or at the last one before it that has any; null where there is none. */
  at(step, field) {
    const column = this.columns[this.fields.indexOf(field) + 1];
    for (let i = this.rowAt(step); i >= 0; i -= 1) if (column[i] !== null) return column[i];
    return null;
  }

  /** The index of the last row whose step is not after `step`; -1 where there is none. */
  rowAt(step) {
    const steps = this.columns[0];
    let low = 0;
    let high = steps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  // Of each four rows: the first, and the one farthest from it in the first field, so that spikes stay.
  thin() {
    const lead = this.columns[1];
    const kept = [];
    for (let i = 0; i < this.length; i += 4) {
      kept.push(i);
      let far = -1;
      for (let j = i + 1; j < Math.min(i + 4, this.length); j += 1) {
        if (far < 0 || Math.abs(lead[j] - lead[i]) > Math.abs(lead[far] - lead[i])) far = j;
      }
      if (far >= 0) kept.push(far);
    }
    if (kept.at(-1) !== this.length - 1) kept.push(this.length - 1);
    this.columns = this.columns.map((column) => kept.map((i) => column[i]));
  }
}

function finite(value) {
  const n = number(value);
  return Number.isFinite(n) ? n : null;
}
