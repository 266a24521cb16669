// What a user may ask of a job: pause, resume, cancel, rerun. Offered where its state allows it, and asked once confirmed.

import { post } from "./api.js";
import { question } from "./dialog.js";
import { el, fill, setText } from "./dom.js";
import * as format from "./format.js";

const title = (verb) => verb.charAt(0).toUpperCase() + verb.slice(1);
const waits = (job) => job.state === "QUEUED" || job.state === "PAUSED";

/** Whether a job's state allows what a verb asks for. */
export const allows = (job, verb) => ACTIONS[verb].from.includes(job.state);

/** By verb: the states that allow it, what will happen, and what has been done, by the state that it led to. */
const ACTIONS = {
  pause: {
    from: ["QUEUED", "STARTING", "RUNNING"],
    what: (job) => (waits(job)
      ? "It is not running, and will wait until it is resumed."
      : "Its workers write a checkpoint and end, so that other jobs can use the machines. Resumed, it goes on from that step."),
    done: { PAUSED: "Paused: it waits until it is resumed.", PAUSING: "Asked to pause: its workers write a checkpoint and end." },
  },
  resume: {
    from: ["PAUSED"],
    what: (job) => `It waits for its turn, then ${goesOn(job)}.`,
    done: { QUEUED: "Resumed: it goes on when its turn comes." },
  },
  cancel: {
    from: ["QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED"],
    what: (job) => `${waits(job) ? "It will not run" : `Its workers stop${at(job)}`}, and nothing is published. A cancelled job cannot be resumed.`,
    done: { CANCELLED: "Cancelled.", CANCELLING: "Asked to stop: its workers end after the step that they are at." },
  },
  rerun: {
    from: ["SUCCEEDED", "FAILED", "CANCELLED"],
    what: ({ spec }) => `Its spec is submitted again as a new job, with the same seed.${publishes(spec.publish)}`,
    another: true,
  },
};

function publishes(publish) {
  if (!publish) return " It publishes nothing.";
  return ` It publishes a new version of ${publish.model}${publish.alias ? `, and ${publish.alias} moves to it` : ""}.`;
}

function goesOn({ progress }) {
  const step = progress?.checkpoint_step;
  return step === undefined ? "begins with its first step" : `goes on from step ${format.integer(step)}`;
}

function at({ progress, spec }) {
  const total = Number(progress?.steps || spec.steps);
  return progress && total > 0 ? ` (step ${format.integer(progress.step)} of ${format.integer(total)} is done)` : "";
}

export class Actions {
  /** `onChange(job)` is given the job as it is after an action. */
  constructor(path, { onChange, signal }) {
    this.path = path;
    this.onChange = onChange;
    this.signal = signal;
    this.buttons = Object.keys(ACTIONS).map((verb) => el("button", { type: "button", text: title(verb), hidden: true, onclick: () => this.confirm(verb) }));
    this.node = el("div", { class: "actions", role: "group", "aria-label": "Actions" }, this.buttons);
    this.told = el("p", { class: "told", "aria-live": "polite", tabindex: -1 });
  }

  /** Offers what the job's state allows. */
  set(job) {
    this.job = job;
    Object.keys(ACTIONS).forEach((verb, i) => { this.buttons[i].hidden = !allows(job, verb); });
    if (this.toldOf !== job.state) setText(this.told, ""); // what was asked for has come, or something else
  }

  confirm(verb) {
    const { what, another } = ACTIONS[verb];
    const query = another ? `?request_id=${uuid()}` : ""; // one for all tries of this question
    question({
      host: this.node, title: `${title(verb)} this job?`, name: format.id(this.job.name), text: what(this.job), verb: `${title(verb)} job`,
      danger: verb === "cancel", signal: this.signal,
      ask: async () => {
        const job = await post(`${this.path}/${verb}${query}`, this.signal);
        return () => (another ? this.tellOfAnother(job) : this.tell(verb, job));
      },
    });
  }

  tell(verb, job) {
    this.toldOf = job.state;
    this.onChange(job);
    setText(this.told, ACTIONS[verb].done[job.state] ?? `The job is ${format.word(job.state).toLowerCase()} already.`);
    this.told.focus(); // the button may be gone
  }
  // A new job: this one stays as it is.
  tellOfAnother(job) {
    const id = format.id(job.name);
    this.toldOf = this.job.state;
    fill(this.told, "Submitted again as ", el("a", { href: `#/jobs/${encodeURIComponent(id)}`, text: id }), ".");
    this.told.focus();
  }
}

// crypto.randomUUID is there for https and loopback only.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
