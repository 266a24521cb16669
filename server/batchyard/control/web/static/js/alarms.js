// What the activation statistics of a job mean, in words, and what to do about it.

import { el, fill } from "./dom.js";
import * as format from "./format.js";

const BEFORE = "or put batch normalisation before the activation (model.norm: batch)";

/** A rule: the field, the value from which it speaks, and what it says: what is wrong, and what to do. */
const RULES = [
  ["saturated", 0.4, (v) => `${format.percent(v, 0)} of the inputs lie where the activation is flat`, `lower optimizer.learning_rate, ${BEFORE}`],
  ["dead", 0.4, (v) => `${format.percent(v, 0)} of the units were never active`, `lower optimizer.learning_rate, ${BEFORE}`],
  ["drift", 1, (v) => `the batches' statistics are ${format.decimal(v)} standard deviations from the running ones`, "evaluation will not agree with training: lower the learning rate, or publish with statistics: alg2, which does not use the running ones"],
  ["worker_spread", 0.5, (v) => `the workers' means differ by ${format.decimal(v)} standard deviations`, "their shares of the data differ: shuffle fully (data.shuffle: full) and keep workers.sync_batch_norm: world"],
];
const FEW = 16;
const SETTLED_STEPS = 50; // before, running statistics are still those of initialisation

/** Each alarm {layer, text, advice}, of layers {name, series, latest}. */
export function alarms(layers) {
  return layers.flatMap(({ name, series, latest }) => [...lasting(name, series), ...counts(name, latest)]);
}

function lasting(layer, series) {
  return RULES.flatMap(([field, most, say, advice]) => {
    const since = exceededSince(series, field, most);
    if (since === null || series.columns[0].at(-1) < SETTLED_STEPS) return [];
    return [{ layer, text: `${say(series.last(field))} since step ${format.integer(since)}`, advice }];
  });
}

function counts(layer, { smallest_batch: smallest, skipped }) {
  const found = [];
  if (smallest !== undefined && Number(smallest) < FEW) {
    found.push({ layer, text: `it was normalised over ${format.integer(smallest)} values only`, advice: "raise data.batch_size, or use fewer workers" });
  }
  if (Number(skipped) > 0) {
    found.push({ layer, text: `${format.integer(skipped)} batches were not finite and left the running statistics as they were`, advice: "lower optimizer.learning_rate, or clip gradients (clip_norm)" });
  }
  return found;
}

// The step since which a field has been above `most` at every report; null when it is not now.
function exceededSince(series, field, most) {
  const column = series.columns[series.fields.indexOf(field) + 1];
  let since = null;
  for (let i = column.length - 1; i >= 0 && column[i] !== null && column[i] > most; i -= 1) since = series.columns[0][i];
  return since;
}

/** The list of alarms; nothing is shown while there is none. */
export class AlarmList {
  constructor() {
    this.list = el("ul");
    this.node = el("div", { class: "alarms", role: "status", hidden: true }, el("h3", { text: "What to look at" }), this.list);
  }

  set(found) {
    const words = JSON.stringify(found);
    if (words === this.shown) return;
    this.shown = words;
    this.node.hidden = found.length === 0;
    fill(this.list, found.map(({ layer, text, advice }) => el("li", {}, el("b", { text: layer }), `: ${text}. `, el("span", { class: "soft", text: `What to do: ${advice}.` }))));
  }
}
