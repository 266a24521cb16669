// The settings of a spec by their dotted names, and how their values are written.

/** A spec as a Map from dotted names to values. */
export function flat(spec, path = "") {
  return new Map(Object.entries(spec).flatMap(([key, value]) => {
    const nested = value !== null && typeof value === "object" && !Array.isArray(value);
    return nested ? [...flat(value, `${path}${key}.`)] : [[`${path}${key}`, Array.isArray(value) ? `[${value.join(", ")}]` : value]];
  }));
}

/** A setting of a spec, or undefined. */
export const setting = (spec, name) => flat(spec).get(name);

/** The value of a setting for people. */
export function written(value) {
  if (value === undefined || value === "") return "–";
  return typeof value === "number" ? String(+value.toPrecision(6)) : String(value);
}

/** The names of settings in which specs differ, and of all others that any of them has. */
export function told(specs) {
  const all = specs.map((spec) => flat(spec));
  const names = [...new Set(all.flatMap((each) => [...each.keys()]))];
  const differ = names.filter((name) => new Set(all.map((each) => each.get(name))).size > 1);
  return [differ, names.filter((name) => !differ.includes(name))];
}
