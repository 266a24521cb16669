// One of several jobs that are compared: what it has reported, and its curves.

import { follow } from "./api.js";
import { TERMINAL } from "./parts.js";
import { Series } from "./series.js";

/** As many as can be told apart: four hues, each as a whole line and as a dashed one, and four more. */
export const MOST_RUNS = 8;
const WHOLE = 4; // lines before this one are drawn whole, the others dashed

const MOST_POINTS = 500; // of history; the service thins what is longer
const KINDS = ["STATE_CHANGE", "STEP_METRICS", "EVALUATION", "RESUMED"];

export class CompareRun {
  constructor(id, job) {
    this.id = id;
    this.job = job;
    this.place = 0;
    this.cursor = "";
    this.over = false;
    this.restarts = [];
    this.series = { loss: new Series(["loss", "time"]), accuracy: new Series(["accuracy", "time"]) };
  }

  /** The custom property that holds the line's colour. */
  get hue() {
    return `--series-${this.place + 1}`;
  }

  get dashed() {
    return this.place >= WHOLE;
  }

  /** Reads what is new since the last time. Throws ApiError. */
  async read(onLink, signal) {
    const query = () => new URLSearchParams([["history_only", "true"], ["max_points", MOST_POINTS], ["cursor", this.cursor], ...KINDS.map((kind) => ["kinds", kind])]);
    await follow(() => `/api/jobs/${encodeURIComponent(this.id)}/events?${query()}`, {
      onMessage: ({ event }, cursor) => {
        this.cursor = cursor;
        this.take(event);
      },
      onLink, isDone: () => true, signal,
    });
  }

  take({ time, step_metrics: metrics, evaluation, resumed, state_change: change }) {
    if (metrics) this.series.loss.add(metrics.step, { loss: metrics.loss, time: this.since(time) });
    else if (evaluation) this.series.accuracy.add(evaluation.step, { accuracy: evaluation.accuracy, time: this.since(time) });
    else if (resumed) this.resume(Number(resumed.step), this.since(time));
    else if (change) {
      this.job.state = change.state;
      this.over = TERMINAL.has(change.state);
    }
  }

  resume(step, time) {
    for (const series of Object.values(this.series)) series.rewind(step);
    this.restarts = [...this.restarts.filter((one) => one.step < step), { step, time }];
  }

  /** Where it was begun anew, for a chart. */
  marks(axis) {
    return this.restarts.map((one) => ({ x: axis === "time" ? one.time : one.step, text: "restart", hue: this.hue }));
  }

  // Seconds since the job's first point.
  since(time) {
    const at = Date.parse(time) / 1000;
    this.began ??= at;
    return at - this.began;
  }

  /** The first and the last x of every field that has any. */
  ends(axis) {
    const all = Object.values(this.series).map(({ columns: [steps, , times] }) => (axis === "time" ? times : steps));
    return all.flatMap((along) => (along.length > 0 ? [Math.min(...along), Math.max(...along)] : []));
  }

  /**
   * [x, values, smoothed values] of a field; x rises. `weight` is the share of the past in the moving average; with
   * `log`, what has no logarithm is a gap.
   */
  curve(field, { axis, weight, log }) {
    const [steps, values, times] = this.series[field].columns;
    const along = axis === "time" ? times : steps;
    let last = -Infinity;
    const rows = [...along.keys()].filter((i) => {
      if (along[i] === null || along[i] <= last) return false; // a clock was set back
      last = along[i];
      return true;
    });
    const drawn = rows.map((i) => (log && !(values[i] > 0) ? null : values[i]));
    return [rows.map((i) => along[i]), drawn, smooth(drawn, weight)];
  }
}

/** Exponential moving average, without the bias of its first values (https://arxiv.org/abs/1412.6980, section 3). */
export function smooth(values, weight) {
  let sum = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}
