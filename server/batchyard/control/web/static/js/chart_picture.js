// A chart as a picture in a file: its title, its key and what is drawn, in the colours that the page has.

import { el } from "./dom.js";

const FAMILY = "Inter, system-ui, sans-serif";
const [EDGE, TITLE, LINE, MARK] = [16, 24, 20, 16]; // pixels
const APART = 18; // between two entries of the key

/** A button that saves the chart `node` as a PNG. What its panel says in a heading and a key belongs to it. */
export function saveButton(node) {
  const name = title(node);
  return el("button", { type: "button", class: "save", "aria-label": `Save the chart ${name} as a PNG`, title: "Save as a PNG", text: "⤓", onclick: () => save(node, name) });
}

const panel = (node) => node.closest(".layer, .panel");
const title = (node) => panel(node).querySelector("h2, h3").textContent;

function save(node, name) {
  draw(node, name).toBlob((blob) => {
    const address = URL.createObjectURL(blob);
    const file = `${document.title.split(" · ")[0]} ${name}`.replace(/[^\p{L}\p{N}.-]+/gu, "-");
    el("a", { href: address, download: `${file}.png` }).click();
    URL.revokeObjectURL(address);
  }, "image/png");
}

function draw(node, name) {
  const plot = node.querySelector("canvas");
  const ratio = plot.width / plot.clientWidth;
  const style = getComputedStyle(document.documentElement);
  const colour = (property) => style.getPropertyValue(property).trim();
  const canvas = document.createElement("canvas");
  const ink = canvas.getContext("2d");
  const width = plot.clientWidth + 2 * EDGE;
  const places = place(ink, entries(node), plot.clientWidth);
  const top = EDGE + TITLE + LINE * (1 + (places.at(-1)?.line ?? -1)) + 6;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round((top + plot.clientHeight + EDGE) * ratio);
  ink.scale(ratio, ratio);
  ink.fillStyle = colour("--surface");
  ink.fillRect(0, 0, canvas.width, canvas.height);
  ink.textBaseline = "middle";
  ink.font = `600 16px ${FAMILY}`;
  ink.fillStyle = colour("--ink");
  ink.fillText(name, EDGE, EDGE + TITLE / 2 - 2);
  ink.font = KEY_FONT;
  for (const { text, hue, x, line } of places) {
    const y = EDGE + TITLE + LINE * (line + 0.5);
    if (hue) {
      ink.fillStyle = hue;
      ink.fillRect(EDGE + x, y - 1.5, MARK, 3);
    }
    ink.fillStyle = colour("--soft");
    ink.fillText(text, EDGE + x + (hue ? MARK + 7 : 0), y);
  }
  ink.drawImage(plot, EDGE, top, plot.clientWidth, plot.clientHeight);
  return canvas;
}

const KEY_FONT = `13px ${FAMILY}`;

// What the key says: its words and the colours of its marks.
function entries(node) {
  const spans = [...panel(node).querySelectorAll(":scope > .key > *, :scope > .small > span")].filter((span) => span.textContent.trim() !== "");
  return spans.map((span) => {
    const mark = span.querySelector("i");
    const words = [...span.childNodes].map(({ textContent }) => textContent.trim()).filter(Boolean).join(" ");
    return { text: words, hue: mark && getComputedStyle(mark).getPropertyValue("--hue").trim() };
  });
}

// Each entry with its line, and its place in it.
function place(ink, all, room) {
  let [x, line] = [0, 0];
  ink.font = KEY_FONT;
  return all.map((entry) => {
    const wide = ink.measureText(entry.text).width + (entry.hue ? MARK + 7 : 0);
    if (x > 0 && x + wide > room) [x, line] = [0, line + 1];
    const placed = { ...entry, x, line };
    x += wide + APART;
    return placed;
  });
}
