// Several jobs over each other: loss and held-out accuracy, by step or by time.

import { ApiError, get } from "./api.js";
import { fromZero, share } from "./charts.js";
import { CompareControls } from "./compare_controls.js";
import { ComparePanel } from "./compare_panel.js";
import { CompareRun, MOST_RUNS } from "./compare_run.js";
import { CompareTable } from "./compare_table.js";
import { el, fill } from "./dom.js";
import * as format from "./format.js";
import { Zoom } from "./zoom.js";
import { ZoomBar } from "./zoom_bar.js";

const POLL_MS = 1500;
const UNITS = { step: "steps", time: "seconds" };
const PANELS = [
  { field: "loss", title: "Training loss", write: format.loss, range: fromZero, smoothed: true },
  { field: "accuracy", title: "Held-out accuracy", write: format.percent, range: share, side: format.axisShare, points: true },
];

export async function comparePage(main, argument, { signal, onLink }) {
  document.title = "Compare · Batchyard";
  const ids = [...new Set(argument.split(",").filter(Boolean))];
  const notices = el("div");
  const place = el("div");
  fill(main, el("p", { class: "crumb" }, el("a", { href: "#/jobs", text: "Jobs" })),
    el("div", { class: "heading" }, el("h1", { text: "Compare jobs" })), notices, place);
  const complain = (text) => notices.append(el("p", { class: "notice", role: "alert", text }));
  if (ids.length > MOST_RUNS) {
    complain(`${ids.length} jobs named; at most ${MOST_RUNS} can be compared: take some out of the address, or choose again.`);
    onLink("complete");
    return;
  }
  onLink("connecting");
  const runs = (await Promise.all(ids.map((id) => open(id, signal, complain)))).filter(Boolean);
  runs.forEach((run, i) => { run.place = i; });
  if (runs.length === 0) onLink("complete");
  else await new Comparison(place, runs, signal).follow(onLink);
}

async function open(id, signal, complain) {
  try {
    return new CompareRun(id, await get(`/api/jobs/${encodeURIComponent(id)}`, signal));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    complain(error.message);
    return null;
  }
}

class Comparison {
  constructor(place, runs, signal) {
    this.runs = runs;
    this.signal = signal;
    this.zoom = new Zoom({ whole: false });
    this.controls = new CompareControls(() => this.redraw());
    this.axis = this.controls.chosen.axis;
    this.bar = new ZoomBar(this.zoom, signal, UNITS[this.axis]);
    this.panels = PANELS.map((panel) => new ComparePanel(panel, runs, this.zoom, signal));
    this.table = new CompareTable(runs);
    this.controls.node.append(this.bar.node);
    fill(place, this.controls.node, el("div", { class: "pair" }, this.panels.map((panel) => panel.node)), this.table.node);
  }

  /**
   * Asks again and again for what is new, until every job has ended. A stream for each job would take up all the
   * connections that a browser opens to one service.
   */
  async follow(onLink) {
    while (!this.signal.aborted) {
      const live = this.runs.filter((run) => !run.over);
      const trouble = (link) => { if (link === "offline" || link === "reconnecting") onLink(link); };
      await Promise.all(live.map((run) => run.read(trouble, this.signal)));
      if (this.signal.aborted) return;
      this.draw();
      if (this.runs.every((run) => run.over)) break;
      onLink("live");
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, POLL_MS);
        this.signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
      });
    }
    if (!this.signal.aborted) onLink("complete");
  }

  // Steps are no seconds: along another axis everything is shown again.
  redraw() {
    const { axis } = this.controls.chosen;
    if (axis !== this.axis) this.zoom.reset();
    this.axis = axis;
    this.bar.count(UNITS[axis]);
    this.draw();
  }

  draw() {
    for (const panel of this.panels) panel.draw(this.controls.chosen);
    this.table.draw();
  }
}
