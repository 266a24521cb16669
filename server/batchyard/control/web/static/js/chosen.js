// The jobs that the reader has chosen: to compare them, or to ask the same of all of them at once.

import { allows } from "./actions.js";
import { annotate } from "./annotations.js";
import { ApiError, post } from "./api.js";
import { MOST_RUNS } from "./compare_run.js";
import { question } from "./dialog.js";
import { el, setText } from "./dom.js";
import { id } from "./format.js";

/** By verb: what the button says, what will happen to those that are asked, and what has. */
const VERBS = {
  pause: ["Pause", "Those that run write a checkpoint and end, so that other jobs can use the machines. All wait until they are resumed.", "asked to pause"],
  resume: ["Resume", "They wait for their turn, and go on from their last checkpoint.", "resumed"],
  cancel: ["Cancel", "Those that run stop, and publish nothing. A cancelled job cannot be resumed.", "asked to stop"],
};
const jobs = (count) => `${count} ${count === 1 ? "job" : "jobs"}`;

export class Chosen {
  /** `onChange` is called when other jobs are chosen than before; `shown()` gives the jobs in the list. */
  constructor({ onChange, shown, signal }) {
    Object.assign(this, { onChange, shown, signal });
    this.jobs = new Map();
    this.words = el("span", { "aria-live": "polite" });
    this.told = el("p", { class: "told", "aria-live": "polite", tabindex: -1 });
    this.every = el("button", { type: "button", text: "All shown", onclick: () => this.pickAll() });
    this.verbs = Object.keys(VERBS).map((verb) => ({ verb, button: el("button", { type: "button", onclick: () => this.confirm(verb) }) }));
    this.tag = el("button", { type: "button", text: "Tag", onclick: () => this.askTag() });
    this.go = el("button", { type: "button", class: "primary", text: "Compare", onclick: () => { location.hash = `#/compare/${[...this.jobs.keys()].join(",")}`; } });
    this.node = el("div", { class: "chosen", role: "group", "aria-label": "Chosen jobs", hidden: true },
      this.words, this.every, el("button", { type: "button", text: "Clear", onclick: () => this.clear() }), this.verbs.map(({ button }) => button), this.tag, this.go);
  }

  has(name) {
    return this.jobs.has(id(name));
  }

  pick(job, picked) {
    if (picked) this.jobs.set(id(job.name), job);
    else this.jobs.delete(id(job.name));
    this.change();
  }

  pickAll() {
    for (const job of this.shown()) this.jobs.set(id(job.name), job);
    this.change();
  }

  /** Takes note of how a job stands now. */
  see(job) {
    if (!this.has(job.name)) return;
    this.jobs.set(id(job.name), job);
    this.show();
  }

  clear() {
    this.jobs.clear();
    this.change();
  }

  change() {
    setText(this.told, "");
    this.show();
    this.onChange();
  }

  show() {
    const count = this.jobs.size;
    this.node.hidden = count === 0;
    this.go.hidden = count < 2 || count > MOST_RUNS;
    this.every.hidden = this.shown().every((job) => this.has(job.name));
    for (const { verb, button } of this.verbs) {
      const able = this.able(verb).length;
      button.hidden = able === 0;
      setText(button, able < count ? `${VERBS[verb][0]} ${able}` : VERBS[verb][0]);
    }
    setText(this.words, `${jobs(count)} chosen${count === 1 ? ": choose another to compare" : count > MOST_RUNS ? `; at most ${MOST_RUNS} can be compared` : ""}`);
  }

  // The chosen jobs whose state allows it.
  able(verb) {
    return [...this.jobs.values()].filter((job) => allows(job, verb));
  }

  confirm(verb) {
    const [name, text, done] = VERBS[verb];
    const asked = this.able(verb).map((job) => id(job.name));
    const list = el("ul", { tabindex: 0, "aria-label": "Jobs" }, asked.map((job) => el("li", { class: "mono", text: job })));
    this.ask({ asked, done, title: `${name} ${jobs(asked.length)}?`, text, fields: list, verb: `${name} ${jobs(asked.length)}`, danger: verb === "cancel",
      each: (path) => post(`${path}/${verb}`, this.signal) });
  }

  askTag() {
    const asked = [...this.jobs.keys()];
    const field = el("input", { type: "text", "aria-label": "Tag", autofocus: true, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
    this.ask({ asked, done: "tagged", title: `Tag ${jobs(asked.length)}`, text: "They are found by it in the list. A job's page takes it away again.", fields: field, verb: "Add the tag",
      each: (path) => annotate(path, { add_tags: [field.value.trim()] }, this.signal) });
  }

  // Asks the same of each job; what one refuses is told, and asking again asks only those that were left.
  ask({ asked, done, each, ...shown }) {
    let left = asked;
    question({
      host: this.node, ...shown, signal: this.signal, busy: "Asking …",
      ask: async () => {
        const refused = [];
        for (const job of left) await each(`/api/jobs/${encodeURIComponent(job)}`).catch((error) => refused.push([job, known(error)]));
        left = refused.map(([job]) => job);
        const told = [...new Set(refused.map(([, error]) => error.message))].join(" ");
        if (left.length > 0) throw new ApiError(409, "REFUSED", `${asked.length - left.length} of ${jobs(asked.length)} ${done}. ${told}`);
        return () => this.tell(`${jobs(asked.length)} ${done}.`);
      },
    });
  }

  tell(text) {
    this.clear();
    setText(this.told, text);
    this.told.focus(); // the button is gone
  }
}

// What the service said of one job does not keep the others from being asked; anything else does.
function known(error) {
  if (error instanceof ApiError) return error;
  throw error;
}
