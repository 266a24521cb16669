// What of a view is kept in the address, after the "?" of its fragment: a reload and a colleague then see the same.

/** The words that are kept. */
export const kept = () => new URLSearchParams(location.hash.split("?")[1] ?? "");

/** A number that is kept, or null. */
export function keptNumber(key) {
  const text = kept().get(key);
  return text === null || text.trim() === "" || !Number.isFinite(Number(text)) ? null : Number(text);
}

/** Keeps `changes`; what is null or "" is left out. The browser's way back stays as it is. */
export function keep(changes) {
  const query = kept();
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(key);
    else query.set(key, value);
  }
  const [path] = location.hash.split("?");
  const words = query.toString();
  history.replaceState(null, "", words ? `${path}?${words}` : path);
}
