// Keeps an open page up to date: parts that changed come as server-sent events. Shows how the connection is, comes back
// by itself with a visible countdown, and measures the way to the gateway and back.
"use strict";

const script = document.querySelector("script[data-page]");
const session = script.dataset.page === "session" ? script.dataset.session : "";
const build = document.documentElement.dataset.build;
const connection = document.getElementById("connection");

// States of the connection (D-13).
const words = {
  connecting: "connecting…",
  active: "live",
  degraded: "live, gateway degraded",
  unavailable: "the gateway cannot be reached",
  update: "the gateway was updated: reload the page",
  over: "signed out",
};
let attempt = 0;
let source = null;
const times = [];

function show(state, more = "") {
  connection.dataset.state = state;
  const p95 = percentile(0.95);
  const latency = p95 === null || !["active", "degraded"].includes(state) ? "" : ` · ${p95} ms`;
  const text = (words[state] ?? state) + more + latency;
  if (connection.textContent !== text) connection.textContent = text;
}

function percentile(share) {
  if (times.length === 0) return null;
  const sorted = [...times].sort((a, b) => a - b);
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]);
}

// 1 s, 2 s, 4 s … 30 s, each spread by a fifth so that pages do not come back all at once.
function again() {
  source?.close();
  const seconds = Math.min(30, 2 ** attempt) * (0.9 + Math.random() * 0.2);
  attempt += 1;
  let left = Math.ceil(seconds);
  const tick = () => {
    if (left <= 0) return connect();
    show("reconnecting", attempt > 5 ? `: ${words.unavailable}, again in ${left} s` : `: again in ${left} s`);
    left -= 1;
    setTimeout(tick, 1000);
  };
  tick();
}

async function connect() {
  show("connecting");
  let token;
  try {
    const began = performance.now();
    const answer = await fetch("/live/token", { redirect: "manual", cache: "no-store" });
    if (answer.type === "opaqueredirect") {
      show("over");
      location.assign("/sign-in");
      return;
    }
    token = (await answer.json()).token;
    measured(performance.now() - began);
  } catch {
    return again();
  }
  source = new EventSource(`/live?token=${encodeURIComponent(token)}&session=${encodeURIComponent(session)}`);
  source.addEventListener("part", (event) => {
    const { id, parent, html } = JSON.parse(event.data);
    const template = document.createElement("template");
    template.innerHTML = html;
    const there = document.getElementById(id);
    if (there) there.replaceWith(template.content);
    else document.getElementById(parent)?.append(template.content);
  });
  source.addEventListener("inner", (event) => {
    const { id, html } = JSON.parse(event.data);
    const there = document.getElementById(id);
    if (there) there.innerHTML = html;
  });
  source.addEventListener("gone", (event) => {
    document.getElementById(JSON.parse(event.data).id)?.remove();
  });
  source.addEventListener("tick", (event) => {
    const { degraded, build: running } = JSON.parse(event.data);
    attempt = 0;
    if (running !== build) {
      source.close();
      return show("update");
    }
    show(degraded.length > 0 ? "degraded" : "active");
  });
  source.addEventListener("over", () => {
    source.close();
    location.reload();
  });
  source.onerror = again;
}

function measured(milliseconds) {
  times.push(milliseconds);
  if (times.length > 100) times.shift();
}

// The way there and back, every five seconds while the page is looked at.
setInterval(async () => {
  if (document.hidden || source?.readyState !== EventSource.OPEN) return;
  const began = performance.now();
  try {
    await fetch("/api/version", { cache: "no-store" });
    measured(performance.now() - began);
  } catch {
    // The stream tells about it.
  }
}, 5000);

connect();
