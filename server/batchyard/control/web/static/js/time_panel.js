// A panel with a chart over the time of day, whose lines may come and go.

import { lineChart } from "./charts.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";

const DASH = [7, 5];
const WHOLE = 4; // lines before this one are drawn whole, the others dashed: their hues differ less
export const MOST_LINES = 8;
const LEAST_SECONDS = 60;

export class TimePanel {
  /** `write(value)` says a value in words, `axis(value)` one beside the chart; `quiet` is said where there is nothing to draw. */
  constructor({ title, about, write, axis, range, reference, quiet }, zoom, signal) {
    Object.assign(this, { title, write, axis, range, reference, quiet, zoom, signal, pointed: null, labels: null });
    this.key = el("p", { class: "key" });
    this.at = el("span", { class: "at" });
    this.place = el("div");
    this.node = el("section", { class: "panel", "aria-label": title }, el("h2", { text: title }),
      about && el("p", { class: "about", text: about }), this.key, this.place);
  }

  /** Draws lines [label, values] over `times`, seconds since the epoch, the last of `seconds`; at most eight. */
  draw(times, lines, seconds) {
    this.times = times;
    this.seconds = seconds;
    this.lines = lines.slice(0, MOST_LINES);
    const labels = JSON.stringify(this.lines.map(([label]) => label));
    if (labels !== this.labels) this.open(labels);
    if (!this.chart) return;
    this.point(this.pointed);
    this.chart.set([[times, ...this.lines.map(([, values]) => values)]], this.words());
  }

  open(labels) {
    this.close?.abort();
    this.close = new AbortController();
    Object.assign(this, { labels, pointed: null, chart: null });
    this.values = this.lines.map(() => el("b", { text: "–" }));
    fill(this.key, this.lines.map(([label], i) => el("span", {}, swatch(i), el("span", { class: "who", title: label, text: label }), this.values[i])), this.at);
    if (this.lines.length === 0) {
      fill(this.place, el("div", { class: "chart" }, el("div", { class: "waiting", text: this.quiet })));
      return;
    }
    const lines = this.lines.map(([label], i) => ({ label, hue: `--series-${i + 1}`, dash: i < WHOLE ? undefined : DASH }));
    this.chart = lineChart({ lines, range: this.range, clock: true, gaps: true, reference: this.reference, zoom: this.zoom, sync: "serving", write: this.axis, span: () => this.span(),
      onPoint: (at) => this.point(at), signal: AbortSignal.any([this.signal, this.close.signal]) });
    fill(this.place, this.chart.node);
  }

  // All of the time shown; a service that has just begun does not show mostly nothing.
  span() {
    const last = this.times.at(-1);
    return [Math.max(last - this.seconds, Math.min(this.times[0], last - LEAST_SECONDS)), last];
  }

  // The key tells the values at the pointer, or the last ones.
  point(at) {
    this.pointed = at;
    const row = at === null ? this.times.length - 1 : this.times.indexOf(at);
    this.lines.forEach(([, values], i) => setText(this.values[i], this.write(values[row] ?? null)));
    setText(this.at, at === null ? "" : `at ${format.hour(at, true)}`);
  }

  words() {
    return `${this.title} over time; now: ${this.lines.map(([label], i) => `${label} ${this.values[i].textContent}`).join(", ")}`;
  }
}

function swatch(i) {
  const mark = el("i", { "aria-hidden": "true", class: i < WHOLE ? null : "dashed" });
  mark.style.setProperty("--hue", `var(--series-${i + 1})`);
  return mark;
}
