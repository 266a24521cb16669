// What the inference plane was asked, as the service tells it: points over time, of each version and of all.

import { number } from "./format.js";

export const ALL = "";
const UNKNOWN = "not served"; // requests that named a model or a version that is not

/** A window of points. */
export class Traffic {
  constructor(seconds) {
    this.seconds = seconds;
    this.points = [];
    this.layers = new Map();
    this.batchBounds = [];
    this.problem = "";
  }

  /** Takes a ServingTraffic message: points that follow those that are here. */
  add({ problem, versions, points, batch_bounds: bounds }) {
    this.problem = problem;
    if (bounds.length > 0) this.batchBounds = bounds;
    const names = versions.map(({ model, number: version }) => (model ? `${model}/${version}` : UNKNOWN));
    versions.forEach(({ layers }, i) => { if (layers.length > 0) this.layers.set(names[i], layers); });
    for (const point of points) {
      const of = new Map(point.versions.map((measured) => [names[measured.version], measured]));
      this.points.push({ time: Date.parse(point.time) / 1000, of: of.set(ALL, point.total) });
    }
    const oldest = (this.points.at(-1)?.time ?? 0) - this.seconds;
    while (this.points.length > 0 && this.points[0].time < oldest) this.points.shift();
  }

  get times() {
    return this.points.map(({ time }) => time);
  }

  /** The newest figures of a version, or of all; undefined where there are none. */
  newest(version) {
    return this.points.at(-1)?.of.get(version);
  }

  /** Versions that were asked anything or are served, those that were asked most first. */
  versions() {
    const sums = new Map();
    for (const { of } of this.points) for (const [name, { requests_per_second: rate }] of of) sums.set(name, (sums.get(name) ?? 0) + rate);
    sums.delete(ALL);
    if (sums.get(UNKNOWN) === 0) sums.delete(UNKNOWN);
    return [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a) || a.localeCompare(b));
  }

  /** A value of every point, null where there is none. */
  column(version, read) {
    return this.points.map(({ of }) => {
      const value = of.has(version) ? number(read(of.get(version))) : null;
      return Number.isFinite(value) ? value : null;
    });
  }

  /** gRPC codes that requests of a version were refused with, the most frequent first. */
  codes(version) {
    const sums = new Map();
    for (const { of } of this.points) for (const [code, rate] of Object.entries(of.get(version)?.refused_per_second ?? {})) sums.set(code, (sums.get(code) ?? 0) + rate);
    return [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a));
  }

  /** Batches of a version by size in the whole window: [[words, count]], from the smallest to the largest that there is. */
  batches(version) {
    const sums = [];
    for (const { of } of this.points) (of.get(version)?.batches ?? []).forEach((count, i) => { sums[i] = (sums[i] ?? 0) + count; });
    while (sums.at(-1) === 0) sums.pop();
    return sums.map((count, i) => [between(this.batchBounds, i), count]);
  }
}

// The rows of a bucket in words.
function between(bounds, i) {
  const least = i === 0 ? 1 : bounds[i - 1] + 1;
  if (i >= bounds.length) return `${least} and more`;
  return least === bounds[i] ? String(least) : `${least}–${bounds[i]}`;
}
