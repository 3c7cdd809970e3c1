// Keeps an open page up to date: parts that changed come as server-sent events. Shows how the connection is, comes back
// by itself with a visible countdown, and measures the way to the gateway and back. A browser has six connections to one
// host: a page that nobody sees has none open, and of those that are seen only a few, so that links and forms get through.
"use strict";

const script = document.querySelector("script[data-page]");
const { page, session } = script.dataset;
const build = document.documentElement.dataset.build;
const connection = document.getElementById("connection");
const more = document.getElementById("connection-more");

// States of the connection (D-13).
const words = {
  connecting: "connecting…",
  active: "live",
  degraded: "live, gateway degraded",
  reconnecting: "reconnecting",
  unavailable: "the gateway cannot be reached",
  update: "the gateway was updated: reload the page",
  over: "signed out",
  paused: "paused: other windows are live, click to go on here",
};
// Attempts in vain until nobody should wait in front of the page: after some 15 seconds.
const IN_VAIN = 4;
// The gateway says something every second; this long without a word is no connection.
const SILENCE_MS = 10_000;
// Live pages of one browser; the others wait until one is closed, or until they are used.
const LIVE_MAX = 3;
let attempt = 0;
let source = null;
let heard = 0;
// Counts the attempts, so that one that was given up meanwhile does nothing more.
let turn = 0;
const times = [];

// `late` is not read out: it changes every second.
function show(state, late = "") {
  connection.dataset.state = state;
  if (connection.textContent !== words[state]) connection.textContent = words[state];
  if (more.textContent !== late) more.textContent = late;
}

function latency() {
  if (times.length === 0) return "";
  const sorted = [...times].sort((a, b) => a - b);
  const p95 = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.95))];
  return `${Math.round(p95)} ms`;
}

function close() {
  turn += 1;
  source?.close();
  source = null;
}

// 1 s, 2 s, 4 s … 30 s, each spread by a fifth so that pages do not come back all at once.
function again() {
  close();
  const mine = turn;
  const seconds = Math.min(30, 2 ** attempt) * (0.9 + Math.random() * 0.2);
  attempt += 1;
  const state = attempt > IN_VAIN ? "unavailable" : "reconnecting";
  let left = Math.ceil(seconds);
  const tick = () => {
    if (turn !== mine) return;
    if (left <= 0) return connect();
    show(state, `again in ${left} s`);
    left -= 1;
    setTimeout(tick, 1000);
  };
  tick();
}

// Who works by keyboard keeps the place when what is under it is made anew: in the same row, or where it was in the part.
function keepingPlace(part, change) {
  const at = document.activeElement;
  if (!part?.contains(at)) return change();
  const { id } = at.closest("tr[id]") ?? part;
  const places = () => [...(document.getElementById(id)?.querySelectorAll("a, button, input") ?? [])];
  const nth = places().indexOf(at);
  change();
  if (!at.isConnected) places()[nth]?.focus({ preventScroll: true });
}

async function connect() {
  close();
  const at = turn;
  // Once it cannot be reached it says so until it can.
  if (attempt <= IN_VAIN) show("connecting");
  let token;
  try {
    const began = performance.now();
    const patience = AbortSignal.timeout(SILENCE_MS);
    const answer = await fetch("/live/token", { redirect: "manual", cache: "no-store", signal: patience });
    if (turn !== at) return;
    if (answer.type === "opaqueredirect") {
      show("over");
      location.assign(`/sign-in?next=${location.pathname}`);
      return;
    }
    if (!answer.ok) return again();
    token = (await answer.json()).token;
    if (turn !== at) return;
    measured(performance.now() - began);
  } catch {
    return turn === at ? again() : undefined;
  }
  heard = performance.now();
  const asked = new URLSearchParams({ token, page, session });
  const mine = new EventSource(`/live?${asked}`);
  source = mine;
  const on = (name, does) =>
    mine.addEventListener(name, (event) => {
      heard = performance.now();
      does(JSON.parse(event.data));
    });
  on("parts", ({ parent, parts }) => {
    const template = document.createElement("template");
    const part = document.getElementById(parent);
    keepingPlace(part, () => {
      for (const { id, html } of parts) {
        template.innerHTML = html;
        const there = document.getElementById(id);
        if (there) there.replaceWith(template.content);
        else part?.append(template.content);
      }
    });
  });
  on("inner", ({ id, html }) => {
    const there = document.getElementById(id);
    if (there) keepingPlace(there, () => (there.innerHTML = html));
  });
  on("gone", ({ id }) => document.getElementById(id)?.remove());
  on("tick", ({ degraded, build: running }) => {
    attempt = 0;
    if (running !== build) {
      leave();
      return show("update");
    }
    show(degraded.length > 0 ? "degraded" : "active", latency());
  });
  on("over", () => {
    close();
    location.reload();
  });
  // The token's time is over: with another one it goes on.
  on("renew", () => connect());
  mine.onerror = () => {
    if (source === mine) again();
  };
}

function measured(milliseconds) {
  times.push(milliseconds);
  if (times.length > 100) times.shift();
}

// A connection that is open and says nothing.
setInterval(() => {
  if (source !== null && performance.now() - heard > SILENCE_MS) again();
  judge();
}, 1000);

// The way there and back, every five seconds while the page is looked at; and that this window is live.
setInterval(async () => {
  if (wants && !isPaused()) windows.postMessage({ live: me });
  if (document.hidden || source?.readyState !== EventSource.OPEN) return;
  const began = performance.now();
  try {
    await fetch("/api/version", { cache: "no-store", signal: AbortSignal.timeout(SILENCE_MS) });
    measured(performance.now() - began);
  } catch {
    // The stream tells about it.
  }
}, 5000);

// Windows of this browser tell each other who is live. Each knows those that came after it, and when they last said so: one
// that was killed says nothing any more.
const windows = new BroadcastChannel("tidegate-live");
const me = Math.random().toString(36).slice(2);
const newer = new Map();
const FORGOTTEN_MS = 15_000;
let wants = false;

function isPaused() {
  return connection.dataset.state === "paused";
}

// This window is looked at: it is the newest one now.
function come() {
  wants = true;
  newer.clear();
  windows.postMessage({ came: me });
  connect();
}

function leave() {
  wants = false;
  close();
  windows.postMessage({ left: me });
}

function judge() {
  if (!wants) return;
  for (const [id, at] of newer) if (performance.now() - at > FORGOTTEN_MS) newer.delete(id);
  if (newer.size >= LIVE_MAX) {
    if (isPaused()) return;
    close();
    show("paused");
  } else if (isPaused()) {
    connect();
  }
}

windows.onmessage = ({ data: { came, live, left } }) => {
  if (came) newer.set(came, performance.now());
  if (newer.has(live)) newer.set(live, performance.now());
  if (left) newer.delete(left);
  judge();
};

function seen() {
  if (document.hidden) {
    if (wants) leave();
  } else if (!wants && connection.dataset.state !== "update") {
    come();
  }
}

document.addEventListener("visibilitychange", seen);
// Left, or kept by the browser to come back to.
addEventListener("pagehide", () => {
  if (wants) leave();
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) seen();
});
for (const used of ["focus", "pointerdown", "keydown"]) {
  addEventListener(used, () => {
    if (isPaused()) come();
  });
}

seen();
