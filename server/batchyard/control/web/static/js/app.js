// The page: which view the address names, and whether the service can be heard.

import { comparePage } from "./compare_page.js";
import { el, fill, setText } from "./dom.js";
import { jobPage } from "./job_page.js";
import { jobsPage } from "./jobs_page.js";
import { modelsPage } from "./models_page.js";
import { queuePage } from "./queue_page.js";
import { servingPage } from "./serving_page.js";
import { versionPage } from "./version_page.js";

const ROUTES = [
  [/^#\/jobs\/([^/?]+)(?:\?.*)?$/, jobPage],
  [/^#\/jobs(?:\?.*)?$/, jobsPage],
  [/^#\/compare\/([^?]+)(?:\?.*)?$/, comparePage],
  [/^#\/queue$/, queuePage],
  [/^#\/models$/, modelsPage],
  [/^#\/models\/(.+\/versions\/\d+)$/, versionPage],
  [/^#\/serving(?:\?.*)?$/, servingPage],
];
const WORDS = { connecting: "connecting", live: "live", reconnecting: "reconnecting", offline: "offline", complete: "complete", loaded: "loaded" };

const main = document.getElementById("main");
let leave = new AbortController();

function show() {
  leave.abort();
  leave = new AbortController();
  const address = location.hash || "#/jobs";
  const route = ROUTES.find(([pattern]) => pattern.test(address));
  for (const link of document.querySelectorAll(".top nav a")) {
    if (inside(address, link.getAttribute("href"))) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  fill(main);
  if (!route) {
    notFound(address);
    return;
  }
  const [pattern, page] = route;
  const argument = decode(pattern.exec(address)[1]);
  const signal = leave.signal;
  page(main, argument, { signal, onLink: (link) => signal.aborted || showLink(link) }).catch((error) => {
    if (!signal.aborted) failed(error);
  });
}

// Jobs are compared among the jobs.
const inside = (address, page) => address.startsWith(page) || (page === "#/jobs" && address.startsWith("#/compare/"));

// A fragment that is not legal percent-encoding is taken as it stands.
function decode(part) {
  try {
    return decodeURIComponent(part ?? "");
  } catch {
    return part;
  }
}

function showLink(link) {
  const place = document.getElementById("link");
  place.dataset.link = link;
  setText(document.getElementById("link-word"), WORDS[link]);
}

function notFound(address) {
  showLink("complete");
  fill(main, el("h1", { text: "No such page" }), el("p", { class: "lead" }, `${address} is not one. `, el("a", { href: "#/jobs", text: "All jobs" })));
}

function failed(error) {
  showLink("offline");
  const known = error.status !== undefined;
  if (!known) console.error(error);
  main.prepend(el("p", { class: "notice", role: "alert", text: known ? error.message : "The service cannot be reached." }));
}

window.addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});
show();
