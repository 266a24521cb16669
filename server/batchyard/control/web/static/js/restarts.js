// Where training was begun anew: a new attempt that goes on from a checkpoint.

import * as format from "./format.js";

export class Restarts {
  constructor() {
    this.all = [];
  }

  /** Attempt `attempt` goes on from `step`; what came after it, restarts too, is void. */
  add(attempt, step) {
    this.all = [...this.all.filter((one) => one.step < step), { attempt, step }];
  }

  /** For a chart. */
  marks() {
    return this.all.map(({ attempt, step }) => ({ x: step, text: `attempt ${attempt}`, hue: "--soft" }));
  }

  /** For those who cannot see the chart. */
  words() {
    return this.all.map(({ attempt, step }) => `; attempt ${attempt} goes on from step ${format.integer(step)}`).join("");
  }
}
