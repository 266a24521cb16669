// Parts that several pages draw.

import { el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";

export const TERMINAL = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);

/** A state by colour and word. */
export const statePill = (state, word = format.word(state)) => el("span", { class: "state", "data-state": state, text: word });

/** Changes a pill in place. */
export function setState(pill, state) {
  setAttribute(pill, "data-state", state);
  setText(pill, format.word(state));
}

/** A progress bar with words below it; `set(job)` brings it up to date. */
export function progressBar() {
  const fillBar = el("span");
  const bar = el("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Steps done" }, fillBar);
  const steps = el("span", { class: "number" });
  const rest = el("span", { class: "number ended" });
  const node = el("div", { class: "bar-block" }, bar, el("div", { class: "bar-words" }, steps, rest));
  let shown = false; // what is shown first is there at once; changes are seen to move
  return {
    node,
    set(job) {
      const total = Number(job.progress?.steps || job.spec.steps);
      const done = Number(job.progress?.step ?? 0);
      const share = total > 0 ? done / total : 0;
      bar.classList.toggle("moving", shown);
      shown = true;
      fillBar.style.transform = `scaleX(${share})`;
      setAttribute(bar, "data-state", job.state);
      setAttribute(bar, "aria-valuenow", Math.floor(share * 100));
      setAttribute(bar, "aria-valuetext", `${format.integer(done)} of ${format.integer(total)} steps`);
      setText(steps, `${format.integer(done)} / ${format.integer(total)}`);
      setText(rest, remaining(job));
    },
  };
}

/** What is left of a job, or how long it took. */
export function remaining(job) {
  if (TERMINAL.has(job.state)) {
    const took = format.between(job.start_time ?? job.end_time, job.end_time);
    return job.start_time ? `took ${format.duration(took)}` : "never started";
  }
  if (job.progress?.phase === "PUBLISHING") return "publishing";
  if (job.progress?.phase === "LOADING") return "loading data";
  const left = format.seconds(job.progress?.remaining);
  if (left !== null && job.state === "RUNNING") return `${format.duration(left)} left`;
  return job.state === "QUEUED" ? `waiting ${format.duration(format.between(job.create_time))}` : format.word(job.state).toLowerCase();
}

/** What a job trains, and whose it is where that was said, in a line. */
export function summary({ spec, user }) {
  const workers = spec.workers.count;
  return `${spec.model.architecture} on ${spec.data.dataset} · ${workers} ${workers === 1 ? "worker" : "workers"}${user ? ` · ${user}` : ""}`;
}

/** What the service says of a job, as a sentence. */
export const sentence = (words) => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;

/** A <dl> of pairs [term, what]; pairs without a what are left out. */
export function facts(pairs) {
  const present = pairs.filter(([, what]) => what !== null && what !== undefined && what !== "");
  return el("dl", { class: "facts" }, present.flatMap(([term, what]) => [el("dt", { text: term }), el("dd", {}, what)]));
}
