// The course of a number in the space of a word.

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [64, 18];

/** A small line; `set(values)` draws it, with gaps where values are null. For the eye alone: the number stands beside it. */
export function sparkline() {
  const node = document.createElementNS(NS, "svg");
  const line = document.createElementNS(NS, "path");
  for (const [name, value] of [["class", "spark"], ["viewBox", `0 0 ${WIDTH} ${HEIGHT}`], ["width", WIDTH], ["height", HEIGHT], ["aria-hidden", "true"]]) node.setAttribute(name, value);
  node.append(line);
  return { node, set: (values) => line.setAttribute("d", path(values)) };
}

function path(values) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return "";
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const at = (value, i) => [(i / (values.length - 1)) * WIDTH, 1 + (HEIGHT - 2) * (most > least ? (most - value) / (most - least) : 0.5)];
  let lifted = true;
  return values.map((value, i) => {
    if (value === null) {
      lifted = true;
      return "";
    }
    const [x, y] = at(value, i).map((n) => n.toFixed(1));
    const part = `${lifted ? "M" : "L"}${x} ${y}`;
    lifted = false;
    return part;
  }).join("");
}
