// The tail of a job's log.

import { el } from "./dom.js";
import { clock } from "./format.js";

const MOST_LINES = 1000;

export class Log {
  constructor() {
    this.lines = el("div", { class: "text log", role: "log", "aria-live": "off", "aria-labelledby": "log-title", tabindex: 0 });
    this.lines.append(el("p", { class: "soft", text: "Nothing written yet." }));
    this.empty = true;
    this.node = el("section", { class: "panel" }, el("h2", { id: "log-title", text: "Log" }), this.lines);
  }

  add(time, { level, rank, text }) {
    if (this.empty) this.lines.replaceChildren();
    this.empty = false;
    const follows = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 24;
    const who = rank === undefined ? "supervisor" : `worker ${rank}`;
    const loud = level === "WARNING" || level === "ERROR" ? `${level} ` : "";
    this.lines.append(el("div", { "data-level": level },
      el("span", { class: "when", text: clock(time) }), el("span", { class: "who", text: who }), el("span", { class: "what", text: loud + text })));
    while (this.lines.children.length > MOST_LINES) this.lines.firstChild.remove();
    if (follows) this.lines.scrollTop = this.lines.scrollHeight; // a reader who has scrolled up stays there
  }
}
