// More of the history of a part that the reader looks closer at. Of a long history a page gets some hundred points; what it has
// left out between two of them is asked for when that part is shown.

import { follow } from "./api.js";

const MOST_PLACES = 8000;
const KINDS = ["STEP_METRICS", "EVALUATION", "LAYER_STATISTICS"];

export class Detail {
  /** `onEvent` is given each event of such a part, `onDone` called after the last; `most` points are asked for at a time. */
  constructor(path, zoom, { most, onEvent, onDone, signal }) {
    Object.assign(this, { path, zoom, most, onEvent, onDone, signal });
    this.places = []; // [step, cursor], rising
    this.asked = new Set();
    zoom.listen(() => this.ask().catch(() => {}), signal); // where it fails, what is drawn stays as coarse as it is
  }

  /** Takes note of where in the history a step is. */
  see(step, cursor) {
    this.rewind(Number(step) - 1);
    this.places.push([Number(step), cursor]);
    if (this.places.length > MOST_PLACES) this.places = this.places.filter((_, i) => i % 2 === 0);
  }

  // The finer the places, the finer the part that can be asked for next.
  place(step, cursor) {
    const row = this.places.findLastIndex(([before]) => before <= step) + 1;
    if (row === 0 || this.places[row - 1][0] !== step) this.places.splice(row, 0, [step, cursor]);
  }

  /** Training goes on from `step`. */
  rewind(step) {
    while (this.places.length > 0 && this.places.at(-1)[0] > step) this.places.pop();
  }

  /** Asks for what lies in the part that is shown, once for each part; nothing while everything is shown. */
  async ask() {
    if (this.zoom.all || this.busy || this.places.length === 0) return;
    const [from, to] = this.zoom.of(this.places[0][0], this.places.at(-1)[0]);
    if (this.places.at(-1)[0] < from) return; // not there yet
    const after = this.places.findLast(([step]) => step < from)?.[1] ?? "";
    const until = this.places.find(([step]) => step > to)?.[1] ?? "";
    const part = `${after} ${until}`;
    if (this.asked.has(part)) return;
    this.asked.add(part);
    this.busy = true;
    const query = new URLSearchParams([["cursor", after], ["until", until], ["max_points", this.most], ["history_only", "true"], ...KINDS.map((kind) => ["kinds", kind])]);
    try {
      const onMessage = ({ event }, cursor) => {
        if (event.step_metrics) this.place(Number(event.step_metrics.step), cursor);
        this.onEvent(event);
      };
      await follow(() => `${this.path}/events?${query}`, { onMessage, onLink: () => {}, isDone: () => true, signal: this.signal });
    } finally {
      this.busy = false;
    }
    this.onDone();
    await this.ask(); // another part may be shown by now
  }
}
