// On the page of a job that waits: why, and what is ahead of it.

import { get } from "./api.js";
import { el, fill } from "./dom.js";
import * as format from "./format.js";
import { sentence } from "./parts.js";

const REFRESH_MS = 2000;
const SHOWN = 5;

export class WaitingPanel {
  constructor(path, signal) {
    Object.assign(this, { path, signal });
    this.body = el("div");
    this.node = el("section", { class: "panel", "aria-labelledby": "waiting-title", hidden: true }, el("h2", { id: "waiting-title", text: "Why it waits" }), this.body);
  }

  /** Shows itself while the job is QUEUED, and asks again from time to time. */
  set(job) {
    this.node.hidden = job.state !== "QUEUED";
    if (this.node.hidden || this.asking) return;
    this.asking = true;
    this.ask().catch(() => {}).finally(() => { this.asking = false; });
  }

  async ask() {
    while (!this.node.hidden && !this.signal.aborted) {
      const explanation = await get(`${this.path}/explanation`, this.signal);
      if (explanation.queueing) fill(this.body, words(explanation));
      await new Promise((resolve) => { setTimeout(resolve, REFRESH_MS); });
    }
  }
}

function words({ summary, next_step: advice, queueing: { ahead, position, priority, verdict } }) {
  const places = ahead.slice(-SHOWN);
  const hidden = position - 1 - places.length;
  return [
    el("p", { text: sentence(summary) }),
    el("p", { class: "small soft", text: `Place ${position} in the queue, priority ${priority}.` }),
    verdict === "TOO_LARGE" && el("p", { class: "small", text: `What to do: ${advice}.` }),
    places.length > 0 && el("ol", { class: "ahead small", start: hidden + 1, "aria-label": "Jobs ahead" }, places.map(({ name, priority: of }) => el("li", {},
      el("a", { href: `#/jobs/${encodeURIComponent(format.id(name))}`, text: format.id(name) }), el("span", { class: "soft", text: ` priority ${of}` })))),
    el("p", { class: "small" }, el("a", { href: "#/queue", text: "The whole queue" })),
  ];
}
