"use strict";
// Every text that somebody else wrote becomes a text node, and nothing else: the policy of this page refuses markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const ROW = 36;
const POINTS = 150;
let seen = null;
let shown = new Map(); // Of each request that waits: what a yes would do.
let traffic = { at: 0, points: [] };
let numbers = new Map(); // Of each sandbox: what it used, lately.
let here = null; // The sandbox on which the keyboard stands.

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (name) element.className = name;
  return element;
}

/** Control and bidi characters are spelled out: they would change how the text around them reads. */
function spelled(text) {
  return String(text).replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e01ef}]/gu,
    (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
}

function line(text) { return spelled(text).replaceAll("\n", " "); }

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}
const since = (moment) => ago((Date.now() - Date.parse(moment)) / 1000);

function size(bytes) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024 || unit === "GiB") return `${Math.round(bytes * 10) / 10} ${unit}`;
    bytes /= 1024;
  }
}

async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const text = await answer.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* a plain word */ }
  if (!answer.ok) throw new Error(json?.error ?? text.trim());
  return json;
}

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "X-Bottle": "1" },
  });
  const text = await answer.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* a plain word */ }
  if (!answer.ok) throw Object.assign(new Error(json?.error ?? text.trim()), { code: answer.status });
  return json;
}

// === requests

function diff(text) {
  const pre = make("pre");
  for (const one of text.trimEnd().split("\n")) {
    const head = one.startsWith("+++ ") || one.startsWith("--- ");
    const name = head ? "dim" : one.startsWith("+") ? "add" : one.startsWith("-") ? "del" : "";
    pre.append(make("span", spelled(one), name));
  }
  return pre;
}

const VERDICTS = ["keep", "create", "reprovision", "replace", "teardown", "hold"];

/** What becomes of whom, a line for those with the same fate. */
function fates(changes) {
  const of = new Map();
  for (const it of changes) {
    const fate = of.get(it.sandbox) ?? { verdict: "keep", loses: new Set() };
    if (VERDICTS.indexOf(it.verdict) > VERDICTS.indexOf(fate.verdict)) fate.verdict = it.verdict;
    for (const lost of it.loses ?? []) fate.loses.add(lost);
    of.set(it.sandbox, fate);
  }
  const lines = new Map();
  for (const [sandbox, { verdict, loses }] of of) {
    if (verdict === "keep") continue;
    const says = verdict === "reprovision" ? "in place; nothing restarts, nothing is lost"
      : verdict === "replace" ? (loses.size ? `a new machine; loses ${[...loses].join(", ")}` : "a new machine")
        : { create: "is made", teardown: "is torn down", hold: "is held: see `bottle plan`" }[verdict];
    lines.set(says, [...(lines.get(says) ?? []), sandbox]);
  }
  return [...lines].map(([says, names]) => `${names.join(", ")}: ${says}`);
}

/** The card of a request. It is bound to what it shows: what is decided is that, or nothing. */
function card(request) {
  const box = make("article", null, "card fresh");
  box.id = `card-${request.id}`;
  const head = make("h3");
  head.append(make("span", `${request.sandbox} asks for `), make("code", line(request.asks)));
  const about = make("p", `${request.id} · ${request.kind} · ${since(request.received)} ago` +
    (request.asked > 1 ? ` · asked ${request.asked} times` : ""), "dim");
  const says = make("p", `${request.sandbox} says (not checked):`);
  const reason = make("blockquote", spelled(request.reason).split("\n").slice(0, 20).join("\n"));
  reason.tabIndex = 0;
  reason.setAttribute("aria-label", "The reason that the agent gives");
  box.append(head, about, says, reason);
  const denied = request.evidence?.denied ?? 0;
  if (denied > 0) {
    const codes = Object.keys(request.evidence.codes ?? {}).map(line).join(", ");
    box.append(make("p", `refused ${denied} times (${codes})`));
  }
  const review = make("div");
  const buttons = make("p", null, "buttons");
  const until = make("select");
  for (const [value, text] of [["", "for good"], ["1h", "for an hour"], ["8h", "for 8 hours"], ["24h", "for a day"]]) {
    const option = make("option", text);
    option.value = value;
    until.append(option);
  }
  until.setAttribute("aria-label", "How long it is granted");
  const yes = make("button", "Approve…", "yes");
  const no = make("button", "Deny…", "no");
  for (const button of [yes, no]) button.type = "button";
  const error = make("p", null, "error");
  error.setAttribute("role", "alert");
  buttons.append(until, yes, no);
  box.append(review, buttons, error);
  const entry = { box, token: null, edits: "" };
  const look = async () => {
    yes.disabled = no.disabled = true;
    try {
      const query = until.value ? `?until=${until.value}` : "";
      const document = await get(`/api/requests/${request.id}${query}`);
      review.replaceChildren();
      if (document.edit) {
        review.append(make("p", document.edit.file), diff(document.edit.diff));
        entry.edits = `edits ${document.edit.file}, commits it`;
      }
      for (const it of document.delta ?? []) review.append(make("p", line(`${it.what} ${it.sign} ${it.text}`)));
      const plan = fates(document.plan?.changes ?? []);
      for (const it of plan.length ? plan : ["nothing is to be done"]) review.append(make("p", `plan ${line(it)}`));
      if (document.blocked) review.append(make("p", `cannot be approved: ${line(document.blocked)}`, "error"));
      entry.token = document.review;
      yes.disabled = !document.review || Boolean(document.blocked);
      no.disabled = !document.review;
    } catch (problem) { error.textContent = line(problem.message); }
  };
  const decide = async (what, body) => {
    yes.disabled = no.disabled = true;
    error.textContent = "";
    try {
      await post(`/api/requests/${request.id}/${what}`, body);
      error.textContent = "";
      buttons.replaceChildren(make("span", what === "approve" ? "approved" : "denied", "good"));
    } catch (problem) {
      error.textContent = line(problem.message) + (problem.code === 409 ? ": this is how it is now" : "");
      await look();
    }
  };
  until.addEventListener("change", look);
  yes.addEventListener("click", async () => {
    const token = entry.token;
    const word = await ask(`Approve ${request.id} of ${request.sandbox}?`, entry.edits || "loads the credential anew", "Approve", false);
    if (word === null) return;
    const body = { review: token };
    if (until.value) body.until = until.value;
    if (word) body.message = word;
    await decide("approve", body);
  });
  no.addEventListener("click", async () => {
    const token = entry.token;
    const word = await ask(`Deny ${request.id} of ${request.sandbox}?`, "The agent is told this, and what it may do instead:", "Deny", true);
    if (word !== null) await decide("deny", { review: token, message: word });
  });
  look();
  entry.look = look;
  return entry;
}

/** Asks a person; null is no. The button that says yes is not the one that Enter means. */
function ask(head, text, yes, needed) {
  const dialog = $("ask");
  const word = $("ask-word");
  $("ask-head").textContent = head;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  word.value = "";
  word.required = needed;
  return new Promise((done) => {
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => {
      done(dialog.returnValue === "yes" && (!needed || word.value) ? word.value : null);
    }, { once: true });
    dialog.showModal();
  });
}

function requests() {
  const waiting = seen.requests.filter((it) => it.state === "pending");
  $("waiting").textContent = waiting.length || "";
  document.title = waiting.length ? `(${waiting.length}) bottle · ${seen.tree.name}` : `bottle · ${seen.tree.name}`;
  const ids = new Set(waiting.map((it) => it.id));
  for (const [id, entry] of shown) {
    if (!ids.has(id)) { entry.box.remove(); shown.delete(id); }
  }
  for (const request of waiting) {
    const before = shown.get(request.id);
    const what = JSON.stringify([request.asks, request.asked, request.reason]);
    if (before?.what === what) continue;
    const entry = card(request);
    entry.what = what;
    if (before) before.box.replaceWith(entry.box); else $("cards").append(entry.box);
    shown.set(request.id, entry);
  }
  $("nobody")?.remove();
  if (!waiting.length) {
    const nobody = make("p", "Nobody asks for anything.", "dim");
    nobody.id = "nobody";
    $("cards").append(nobody);
  }
  $("decided").replaceChildren(...seen.requests.filter((it) => it.state !== "pending").slice(0, 50).map((it) => {
    const item = make("li");
    item.append(make("code", it.id), make("span", ` ${it.sandbox} · ${line(it.asks)} · ${it.state}`));
    if (it.decision) item.append(make("span", ` by ${line(it.decision.by)}, ${since(it.decision.at)} ago`, "dim"));
    if (it.error) item.append(make("span", ` ${line(it.error)}`, "bad"));
    if (["applied", "failed", "approved"].includes(it.state) && it.edit) {
      const undo = make("button", "Undo…");
      undo.type = "button";
      undo.setAttribute("aria-label", `Undo ${it.id}`);
      undo.addEventListener("click", async () => {
        if (await ask(`Undo ${it.id} of ${it.sandbox}?`, `edits ${it.edit.file}, commits it`, "Undo", false) === null) return;
        undo.disabled = true;
        try { await post(`/api/requests/${it.id}/undo`, {}); } catch (problem) { trouble(problem.message); }
      });
      item.append(" ", undo);
    }
    return item;
  }));
}

// === sandboxes

const COLUMNS = ["Sandbox", "Backend", "State", "Drift", "CPU", "Memory", "Refused"];

function refused(it) { return Object.values(it.sidecar?.denied ?? {}).reduce((a, b) => a + b, 0); }

function colour(state) {
  if (["running", "completed"].includes(state)) return "good";
  return ["failed", "failing", "broken"].includes(state) ? "bad" : "warn";
}

function wanted() {
  const filter = $("filter").value.toLowerCase();
  return seen.sandboxes.filter((it) => !filter || it.sandbox.includes(filter) || it.state.includes(filter));
}

/** Only the rows that are in sight exist. */
function rows() {
  if (!seen || $("view-sandboxes").hidden) return;
  const all = wanted();
  const pane = $("rows");
  $("table").setAttribute("aria-rowcount", String(all.length + 1));
  const first = Math.max(0, Math.floor(pane.scrollTop / ROW) - 5);
  const last = Math.min(all.length, Math.ceil((pane.scrollTop + pane.clientHeight) / ROW) + 5);
  const end = make("div");
  end.style.height = `${all.length * ROW}px`;
  const list = [end];
  for (let at = first; at < last; at += 1) {
    const it = all[at];
    const row = make("div", null, it.sandbox === here ? "here" : "");
    row.setAttribute("role", "row");
    row.setAttribute("aria-rowindex", String(at + 2));
    row.style.top = `${at * ROW}px`;
    const link = make("a", it.sandbox);
    link.href = `#sandbox/${it.sandbox}`;
    link.tabIndex = -1;
    const used = numbers.get(it.sandbox)?.at(-1);
    const cells = [link, it.backend ?? "-", it.state + (it.code === null ? "" : ` (${it.code})`),
      it.verdict === "keep" ? "none" : line(`${it.verdict} ${it.drift.join("; ")}`),
      used?.cpu === undefined ? "-" : `${used.cpu.toFixed(1)} %`,
      it.usage?.memory_bytes == null ? "-" : size(it.usage.memory_bytes),
      it.sidecar ? String(refused(it)) : "-"];
    cells.forEach((content, index) => {
      const cell = make("span", typeof content === "string" ? content : null, index === 2 ? colour(it.state) : "");
      if (typeof content !== "string") cell.append(content);
      cell.setAttribute("role", "cell");
      row.append(cell);
    });
    list.push(row);
  }
  pane.replaceChildren(...list);
}

function move(by) {
  const all = wanted();
  if (!all.length) return;
  const at = all.findIndex((it) => it.sandbox === here);
  const next = Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + by));
  here = all[next].sandbox;
  const pane = $("rows");
  if (next * ROW < pane.scrollTop) pane.scrollTop = next * ROW;
  if ((next + 1) * ROW > pane.scrollTop + pane.clientHeight) pane.scrollTop = (next + 1) * ROW - pane.clientHeight;
  rows();
  $("rows").setAttribute("aria-label", `Sandboxes: ${here}, ${all[next].state}. Arrows move, Enter opens`);
}

/** A chart of lines that share one scale, from the left, the newest right. */
function chart(place, lines, text) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${POINTS} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", text);
  const top = Math.max(1, ...lines.flatMap((one) => one.values));
  for (const { values, name } of lines) {
    const points = values.map((value, at) => `${POINTS - values.length + at + 1},${(98 - (value / top) * 94).toFixed(1)}`);
    const path = document.createElementNS(SVG, "polyline");
    path.setAttribute("points", points.join(" "));
    path.setAttribute("class", name);
    svg.append(path);
  }
  place.replaceChildren(svg);
}

function count() {
  const now = Date.now();
  let ok = 0;
  let no = 0;
  const names = new Set();
  for (const it of seen.sandboxes) {
    names.add(it.sandbox);
    ok += it.sidecar?.allowed ?? 0;
    no += refused(it);
    const list = numbers.get(it.sandbox) ?? [];
    const before = list.at(-1);
    const taken = it.usage?.cpu_milliseconds;
    const point = { at: now, taken, memory: it.usage?.memory_bytes ?? 0 };
    if (before && taken != null && before.taken != null && taken >= before.taken && now > before.at) {
      point.cpu = (taken - before.taken) * 100 / (now - before.at);
    }
    list.push(point);
    if (list.length > POINTS) list.shift();
    numbers.set(it.sandbox, list);
  }
  for (const name of numbers.keys()) if (!names.has(name)) numbers.delete(name);
  const last = traffic.points.at(-1);
  // One that was started anew counts from the beginning.
  traffic.points.push({ ok, no, dok: last ? Math.max(0, ok - last.ok) : 0, dno: last ? Math.max(0, no - last.no) : 0 });
  if (traffic.points.length > POINTS) traffic.points.shift();
  chart($("traffic"), [
    { values: traffic.points.map((it) => it.dok), name: "ok" },
    { values: traffic.points.map((it) => it.dno), name: "no" },
  ], `${ok} requests were let through and ${no} refused since the sidecars were started`);
}

// === one sandbox

let asked = 0;

/** A line of a sidecar's record, as people read it. */
function record(text) {
  let it;
  try { it = JSON.parse(text); } catch { return text; }
  const what = [it.method, `${it.host ?? ""}${it.path ?? ""}`, it.code, it.rule].filter(Boolean);
  return [String(it.time ?? "").slice(11, 19), it.event, ...what].join(" ");
}

async function sandbox(name) {
  const it = seen?.sandboxes.find((one) => one.sandbox === name);
  $("head-sandbox").textContent = name;
  if (!seen) return;
  const facts = $("facts");
  facts.replaceChildren();
  const fact = (key, value) => { if (value) facts.append(make("dt", key), make("dd", value)); };
  if (!it) { fact("state", "there is no such sandbox"); return; }
  fact("state", it.state + (it.code === null ? "" : ` (${it.code})`));
  fact("backend", it.backend);
  fact("drift", it.verdict === "keep" ? "none" : line(`${it.verdict}: ${it.drift.join("; ")}`));
  fact("made", it.created ? `${ago(Date.now() / 1000 - it.created)} ago` : null);
  fact("last", it.last ? `${it.last.verdict}${it.last.error ? `, failed: ${line(it.last.error)}` : ""}` : null);
  fact("let through", it.sidecar ? String(it.sidecar.allowed) : null);
  fact("refused", it.sidecar ? Object.entries(it.sidecar.denied).map(([code, n]) => `${line(code)} ×${n}`).join(", ") || "none" : null);
  for (const note of it.notes) fact("note", line(note));
  const list = numbers.get(name) ?? [];
  const cpu = list.map((one) => one.cpu ?? 0);
  chart($("cpu"), [{ values: cpu, name: "" }], `CPU now ${(cpu.at(-1) ?? 0).toFixed(1)} percent of a core`);
  chart($("memory"), [{ values: list.map((one) => one.memory), name: "" }], `Memory now ${it.usage?.memory_bytes == null ? "not known" : size(it.usage.memory_bytes)}`);
  if (Date.now() - asked < 1500) return;
  asked = Date.now();
  try {
    const told = await get(`/api/sandboxes/${name}`);
    for (const [id, lines] of [["egress", told.egress.map(record)], ["log", told.log]]) {
      const pre = $(id);
      const low = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;
      pre.textContent = lines.map(spelled).join("\n") || "nothing";
      if (low) pre.scrollTop = pre.scrollHeight;
    }
  } catch (problem) { $("log").textContent = line(problem.message); }
}

async function commits() {
  try {
    const told = await get("/api/history");
    $("commits").replaceChildren(...told.commits.map((it) => {
      const item = make("li");
      item.append(make("code", it.commit.slice(0, 7)), make("span", ` ${line(it.subject)}`), make("span", ` ${line(it.author)}, ${ago(Date.now() / 1000 - it.at)} ago`, "dim"));
      if (it.commit === seen?.last_commit) item.append(make("span", " applied", "good"));
      return item;
    }));
    if (!told.commits.length) $("commits").append(make("li", "The tree has no history: git does not know it.", "dim"));
  } catch (problem) { $("commits").replaceChildren(make("li", line(problem.message), "error")); }
}

// === the page

function trouble(text) {
  const place = $("trouble");
  place.textContent = text ? line(text) : "";
  place.hidden = !text;
}

let view = "requests";

function route() {
  const [name, what] = location.hash.slice(1).split("/");
  const before = view;
  view = ["requests", "sandboxes", "sandbox", "history"].includes(name) ? name : "requests";
  for (const one of ["requests", "sandboxes", "sandbox", "history"]) $(`view-${one}`).hidden = one !== view;
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.hash === `#${view === "sandbox" ? "sandboxes" : view}`;
    if (current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (view === "history") commits();
  if (view === "sandboxes") rows();
  if (view === "sandbox") { if (before !== view) asked = 0; sandbox(decodeURIComponent(what ?? "")); }
}

function draw() {
  const { tree } = seen;
  const commit = tree.commit ? ` · ${tree.branch ? `${tree.branch}@` : ""}${tree.commit.slice(0, 7)}${tree.dirty ? " with changes" : ""}` : "";
  $("tree").textContent = line(`${tree.name}${commit}` + (seen.watch ? ` · watching (pid ${seen.watch.pid})` : ""));
  $("many").textContent = seen.sandboxes.length;
  const findings = seen.diagnostics.filter((it) => it.severity === "error");
  trouble(seen.watch?.error ?? (findings.length ? `${findings[0].file}: ${findings[0].message}` + (findings.length > 1 ? ` (and ${findings.length - 1} more)` : "") : ""));
  count();
  requests();
  rows();
  if (view === "sandbox") sandbox(decodeURIComponent(location.hash.split("/")[1] ?? ""));
}

const head = make("div");
head.setAttribute("role", "row");
for (const column of COLUMNS) {
  const cell = make("span", column);
  cell.setAttribute("role", "columnheader");
  head.append(cell);
}
$("table-head").append(head);
$("rows").addEventListener("scroll", rows, { passive: true });
$("filter").addEventListener("input", () => { $("rows").scrollTop = 0; rows(); });
$("rows").addEventListener("keydown", (event) => {
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -1e6, End: 1e6 }[event.key];
  if (by) { event.preventDefault(); move(by); }
  if (event.key === "Enter" && here) location.hash = `#sandbox/${here}`;
});
addEventListener("hashchange", route);
addEventListener("resize", rows);
const events = new EventSource("/api/events");
events.addEventListener("open", () => { $("live").textContent = "live"; });
events.addEventListener("error", () => { $("live").textContent = "not connected"; });
events.addEventListener("state", (event) => { seen = JSON.parse(event.data); $("live").textContent = "live"; draw(); });
events.addEventListener("trouble", (event) => trouble(JSON.parse(event.data).error));
route();
