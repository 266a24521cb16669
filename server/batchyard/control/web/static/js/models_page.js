// Published models: versions, aliases, certificates.

import { get } from "./api.js";
import { el, fill } from "./dom.js";
import * as format from "./format.js";
import { statePill } from "./parts.js";
import { measured } from "./version.js";

export async function modelsPage(main, _, { signal, onLink }) {
  document.title = "Models · Batchyard";
  const place = el("div", {}, el("div", { class: "panel" }, el("p", { class: "empty", text: "Asking the service …" })));
  fill(main, el("div", { class: "heading" }, el("h1", { text: "Models" })), place);
  onLink("connecting");
  const { models } = await get("/api/models?page_size=1000", signal);
  const panels = await Promise.all(models.map((model) => modelPanel(model, signal)));
  fill(place, panels.length > 0 ? panels : el("div", { class: "panel" }, nothing()));
  onLink("loaded");
}

async function modelPanel(model, signal) {
  const name = format.id(model.name);
  const { model_versions: versions } = await get(`/api/models/${encodeURIComponent(name)}/versions?page_size=20`, signal);
  const aliases = Object.entries(model.aliases);
  const rows = versions.map((version) => versionRow(version, aliases));
  return el("section", { class: "panel", "aria-label": name },
    el("h2", { text: name }),
    el("p", { class: "about" }, `${versions.length === 20 ? "The newest 20 versions" : `${versions.length} ${versions.length === 1 ? "version" : "versions"}`}; served as `,
      el("code", { text: name })),
    el("table", { class: "cards dated", "aria-label": `Versions of ${name}` },
      el("thead", {}, el("tr", {}, ["Version", "Aliases", "Certificate", "Accuracy, held out", "Origin", "Published"].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, rows)));
}

function versionRow(version, aliases) {
  const number = format.id(version.name);
  const [, model] = version.name.split("/");
  const passed = version.certificate?.passed;
  const chips = aliases.filter(([, target]) => target === number).map(([alias]) => el("span", { class: "chip", text: alias }));
  return el("tr", {},
    el("td", { "data-label": "Version" }, el("a", { class: "strong", href: `#/models/${encodeURIComponent(model)}/versions/${number}`, "aria-label": `Version ${number} of ${model}`, text: number })),
    el("td", { "data-label": "Aliases" }, chips.length > 0 ? chips : "–"),
    el("td", { "data-label": "Certificate" }, statePill(passed ? "passed" : "not passed", passed ? "Passed" : "Not passed")),
    el("td", { "data-label": "Accuracy" }, measured(version)),
    el("td", { "data-label": "Origin" }, version.origin),
    el("td", { "data-label": "Published" }, format.date(version.create_time)));
}

function nothing() {
  return el("p", { class: "empty" }, el("strong", { text: "No model yet" }), "A job with a publish section makes one:", el("br"), el("code", { text: "publish: {model: mnist, alias: production}" }));
}
