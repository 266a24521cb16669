// One published version: where it came from, what proves it, what it costs, and what it says of a picture.

import { get } from "./api.js";
import { el, fill } from "./dom.js";
import { EnginesPanel } from "./engines_panel.js";
import * as format from "./format.js";
import { lineage } from "./lineage.js";
import { ModelActions } from "./model_actions.js";
import { TryIt } from "./try_it.js";
import { versionDetails } from "./version.js";

export async function versionPage(main, argument, { signal, onLink }) {
  const [model, , number] = argument.split("/");
  document.title = `${model} / ${number} · Batchyard`;
  onLink("connecting");
  await new VersionView(main, model, number, signal).load();
  onLink("loaded");
}

class VersionView {
  constructor(main, model, number, signal) {
    Object.assign(this, { number, signal, modelPath: `/api/models/${encodeURIComponent(model)}` });
    this.path = `${this.modelPath}/versions/${number}`;
    this.chips = el("span");
    this.actions = new ModelActions({ modelPath: this.modelPath, path: this.path, number, onModel: (found) => this.set(found), signal });
    this.place = el("div");
    fill(main, el("p", { class: "crumb" }, el("a", { href: "#/models", text: "Models" })),
      el("div", { class: "heading" }, el("h1", { text: `${model} / ${number}` }), this.chips, this.actions.node), this.actions.told, this.place);
  }

  async load() {
    const { signal } = this;
    const [model, version, { model_versions: versions }] = await Promise.all([
      get(this.modelPath, signal), get(this.path, signal), get(`${this.modelPath}/versions?page_size=50`, signal)]);
    const came = await origin(version, signal);
    this.actions.know(version, versions.map((one) => Number(format.id(one.name))));
    this.ancestry = el("div");
    this.came = came;
    this.version = version;
    fill(this.place,
      el("section", { class: "panel", "aria-labelledby": "lineage-title" }, el("h2", { id: "lineage-title", text: "Lineage" }), this.ancestry),
      new TryIt(version, this.path, signal).node,
      el("section", { class: "panel", "aria-labelledby": "proof-title" }, el("h2", { id: "proof-title", text: "Certificate and folding" }), versionDetails(version)),
      new EnginesPanel(this.path, signal).node);
    this.set(model);
  }

  set(model) {
    this.actions.set(model);
    const aliases = Object.entries(model.aliases).filter(([, target]) => target === this.number).map(([alias]) => alias);
    fill(this.chips, aliases.map((alias) => el("span", { class: "chip", text: alias })));
    fill(this.ancestry, lineage(this.version, aliases, this.number === String(model.latest_version), this.came));
  }
}

// The job that published a version, with its newest checkpoint; nulls where the service has them no more.
async function origin(version, signal) {
  if (!version.training_job) return { job: null, checkpoint: null };
  const path = `/api/jobs/${encodeURIComponent(format.id(version.training_job))}`;
  try {
    const [job, explanation] = await Promise.all([get(path, signal), get(`${path}/explanation`, signal)]);
    return { job, checkpoint: explanation.checkpoint ?? null };
  } catch (error) {
    if (error.status === 404) return { job: null, checkpoint: null };
    throw error;
  }
}
