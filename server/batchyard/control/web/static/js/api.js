// Talking to the service: JSON, server-sent events read through fetch (so that they can bear the token), and the token.

import { askForToken } from "./token.js";

const KEY = "batchyard-token";
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const SILENCE_MS = 45000; // the service says something at least every 15 s

/** What the service answered instead of what was asked for. */
export class ApiError extends Error {
  constructor(status, reason, message) {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

/** GET as JSON. Throws ApiError, or TypeError when the service cannot be reached. */
export async function get(path, signal) {
  return (await request(path, signal)).json();
}

/** POST; the answer as JSON. `body` is JSON, or bytes. Throws as `get` does. The header tells the service that its own page asks. */
export async function post(path, signal, body) {
  const headers = { "Batchyard-Request": "dashboard", ...(body && { "Content-Type": typeof body === "string" ? "application/json" : "application/octet-stream" }) };
  return (await request(path, signal, { method: "POST", headers, body })).json();
}

/**
 * Follows a stream of server-sent events until it is over: `onMessage(data, id)` for each message. Connects again after
 * a failure, with `address(lastId)`, for as long as it takes. An answer 204, or `isDone()` when a stream ends, is the end.
 * A hidden tab lets go of its stream and takes it up again when it is shown: a browser opens six connections to a
 * service and no more, and forgotten tabs must not use them up.
 */
export async function follow(address, { onMessage, onLink, isDone = () => false, signal }) {
  let lastId = "";
  for (let failures = 0; !signal.aborted; failures += 1) {
    await shown(signal);
    const seen = whileShown(signal);
    try {
      onLink(failures === 0 ? "connecting" : "reconnecting");
      const response = await request(address(lastId), seen);
      if (response.status === 204) break;
      onLink("live");
      for await (const message of messages(response.body, seen)) {
        failures = 0;
        lastId = message.id || lastId;
        onMessage(JSON.parse(message.data), lastId);
      }
      if (isDone()) break;
    } catch (error) {
      if (signal.aborted) return;
      if (seen.aborted) {
        failures = -1;
        continue;
      }
      if (error instanceof ApiError && error.status < 500) throw error;
      onLink("offline");
    }
    await pause(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)], signal);
  }
  if (!signal.aborted) onLink("complete");
}

async function request(path, signal, { method = "GET", headers = {}, body } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const bearing = token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
    const response = await fetch(path, { method, headers: bearing, body, signal, cache: "no-store" });
    if (response.ok) return response;
    if (response.status === 401) {
      await renewToken(token);
      continue;
    }
    throw await asError(response);
  }
}

let asking = null;

// One question at a time, however many requests were refused; a token that was renewed meanwhile is tried first.
async function renewToken(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return;
  asking ??= askForToken(refused !== null).then((token) => {
    sessionStorage.setItem(KEY, token);
    asking = null;
  });
  await asking;
}

async function asError(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.reason, error.message);
  } catch {
    return new ApiError(response.status, "UNKNOWN", `the service answered ${response.status}`);
  }
}

// Server-sent events out of a response body: https://html.spec.whatwg.org/multipage/server-sent-events.html
async function* messages(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await withDeadline(reader.read(), signal);
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const message = parse(text.slice(0, end));
        text = text.slice(end + 2);
        if (message.data) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const message = { id: "", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("data: ")) message.data += line.slice(6);
    else if (line.startsWith("id: ")) message.id = line.slice(4);
  }
  return message;
}

function withDeadline(promise, signal) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the stream fell silent")), SILENCE_MS);
    signal.addEventListener("abort", () => reject(new Error("closed")), { once: true });
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Resolves when the tab is shown.
function shown(signal) {
  return new Promise((resolve) => {
    const check = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", check);
      resolve();
    };
    document.addEventListener("visibilitychange", check);
    signal.addEventListener("abort", check, { once: true });
    check();
  });
}

// A signal that is aborted when the tab is hidden, or with `signal`.
function whileShown(signal) {
  const hidden = new AbortController();
  const options = { signal: AbortSignal.any([hidden.signal, signal]) };
  document.addEventListener("visibilitychange", () => document.hidden && hidden.abort(), options);
  return options.signal;
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
