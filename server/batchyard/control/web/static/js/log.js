// The tail of a job's log, a search in it, and all of it as a file.

import { follow } from "./api.js";
import { el, setText } from "./dom.js";
import { clock, integer } from "./format.js";

const MOST_LINES = 1000;

const who = ({ rank }) => (rank === undefined ? "supervisor" : `worker ${rank}`);

export class Log {
  constructor(path, id, signal) {
    Object.assign(this, { path, id, signal });
    this.lines = el("div", { class: "text log", role: "log", "aria-live": "off", "aria-labelledby": "log-title", tabindex: 0 });
    this.lines.append(el("p", { class: "soft", text: "Nothing written yet." }));
    this.empty = true;
    this.pending = [];
    this.wanted = "";
    this.field = el("input", { type: "search", "aria-label": "Search in the log", placeholder: "Search", autocomplete: "off", spellcheck: "false", oninput: () => this.search() });
    this.found = el("span", { class: "small soft", role: "status" });
    this.node = el("section", { class: "panel" }, el("div", { class: "log-head" }, el("h2", { id: "log-title", text: "Log" }), this.found, this.field,
      el("button", { type: "button", text: "Download", onclick: () => this.download() })), this.lines);
  }

  /** Takes a LogLine message; `draw` shows it. */
  add(time, { level, rank, text }) {
    const loud = level === "WARNING" || level === "ERROR" ? `${level} ` : "";
    this.pending.push({ level, when: clock(time), who: who({ rank }), what: loud + text });
    if (this.pending.length > MOST_LINES) this.pending.shift();
  }

  /** Shows the lines that have come, all in one go: a browser lays the page out once for each look at a height. */
  draw() {
    if (this.pending.length === 0) return;
    if (this.empty) this.lines.replaceChildren();
    this.empty = false;
    const follows = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 24;
    const nodes = this.pending.map(({ level, when, who: name, what }) => el("div", { "data-level": level },
      el("span", { class: "when", text: when }), el("span", { class: "who", text: name }), el("span", { class: "what", text: what })));
    this.pending = [];
    for (const line of nodes) line.hidden = !this.holds(line);
    this.lines.append(...nodes);
    while (this.lines.children.length > MOST_LINES) this.lines.firstChild.remove();
    if (this.wanted) this.tell();
    if (follows) this.lines.scrollTop = this.lines.scrollHeight; // a reader who has scrolled up stays there
  }

  /** Asks for the whole log, of which the page shows the tail, and hands it to the browser as a file. */
  async download() {
    const lines = [];
    const query = new URLSearchParams({ kinds: "LOG_LINE", history_only: "true" });
    const onMessage = ({ event: { time, log_line: line } }) => lines.push(`${time} ${who(line)} ${line.level} ${line.text}\n`);
    await follow(() => `${this.path}/events?${query}`, { onMessage, onLink: () => {}, isDone: () => true, signal: this.signal });
    const address = URL.createObjectURL(new Blob(lines, { type: "text/plain" }));
    el("a", { href: address, download: `${this.id}.log` }).click();
    URL.revokeObjectURL(address);
  }

  search() {
    this.wanted = this.field.value.trim().toLowerCase();
    if (!this.empty) for (const line of this.lines.children) line.hidden = !this.holds(line);
    this.tell();
  }

  holds(line) {
    return this.wanted === "" || line.textContent.toLowerCase().includes(this.wanted);
  }

  tell() {
    const lines = this.empty ? [] : [...this.lines.children];
    const count = lines.filter((line) => !line.hidden).length;
    setText(this.found, this.wanted === "" ? "" : `${integer(count)} of ${integer(lines.length)} lines`);
  }
}
