// What a user may ask of a job: pause, resume, cancel. Offered where its state allows it, and asked once confirmed.

import { ApiError, post } from "./api.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";

const title = (verb) => verb.charAt(0).toUpperCase() + verb.slice(1);
const waits = (job) => job.state === "QUEUED" || job.state === "PAUSED";

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
};

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
    Object.values(ACTIONS).forEach(({ from }, i) => { this.buttons[i].hidden = !from.includes(job.state); });
    if (this.toldOf !== job.state) setText(this.told, ""); // what was asked for has come, or something else
  }

  confirm(verb) {
    const { what } = ACTIONS[verb];
    const wrong = el("p", { class: "wrong", role: "alert" });
    const go = el("button", { type: "button", class: verb === "cancel" ? "danger" : "primary", text: `${title(verb)} job`, onclick: () => this.ask(verb, { dialog, go, wrong }) });
    const dialog = el("dialog", { "aria-labelledby": "action-title", "aria-describedby": "action-text", onclose: () => dialog.remove() },
      el("h2", { id: "action-title", text: `${title(verb)} this job?` }),
      el("p", { class: "mono", text: format.id(this.job.name) }),
      el("p", { id: "action-text", text: what(this.job) }), wrong,
      el("div", { class: "choices" }, el("button", { type: "button", autofocus: true, text: "Leave it", onclick: () => dialog.close() }), go));
    this.node.append(dialog);
    dialog.showModal();
  }

  async ask(verb, { dialog, go, wrong }) {
    go.disabled = true;
    setText(wrong, "");
    try {
      const job = await post(`${this.path}/${verb}`, this.signal);
      dialog.close();
      this.tell(verb, job);
    } catch (error) {
      if (this.signal.aborted) return;
      setText(wrong, error instanceof ApiError ? error.message : "The service cannot be reached. Try again when it is.");
      go.disabled = false;
    }
  }

  tell(verb, job) {
    this.toldOf = job.state;
    this.onChange(job);
    setText(this.told, ACTIONS[verb].done[job.state] ?? `The job is ${format.word(job.state).toLowerCase()} already.`);
    this.told.focus(); // the button may be gone
  }
}
