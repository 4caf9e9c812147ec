// The studio's pure modules, run by Node: words, places, limits, the feed, contrast, size.
import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { test } from "node:test";

const web = new URL("../../services/gateway/web/", import.meta.url);
const load = (name) => import(new URL(`assets/${name}`, web));

const { Announcer, GAP_MS } = await load("announce.js");
const { Api, ApiError, ownPath } = await load("api.js");
const { clock, duration, elapsed, inWords, ordinal, when } = await load("format.js");
const { LiveFeed } = await load("live.js");
const { refusal, webAddress } = await load("refusals.js");
const { Requests } = await load("requests.js");
const { begin, ending, errorLine, line, placeNow, reduce, snapshot } = await load("status.js");
const { submit } = await load("submit.js");
const { sized } = await load("svg.js");

/** Timers that only move when told to. */
class Time {
  now = 1_000;
  #due = [];
  set = (fn, ms) => {
    const entry = { at: this.now + ms, fn };
    this.#due.push(entry);
    return entry;
  };
  clear = (entry) => {
    this.#due = this.#due.filter((each) => each !== entry);
  };
  pass(ms) {
    const until = this.now + ms;
    for (;;) {
      const next = this.#due.filter((each) => each.at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.clear(next);
      this.now = next.at;
      next.fn();
    }
    this.now = until;
  }
  waiting = () => this.#due.length;
}

test("ordinals, durations, counts and times read as people write them", () => {
  assert.deepEqual([1, 2, 3, 4, 11, 12, 13, 21, 102, 1204].map(ordinal), ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "1,204th"]);
  assert.deepEqual([1, 999, 40_000, 60_000, 250_000, 3_600_000, 7_505_000, 90_000_000].map(duration), ["1 s", "1 s", "40 s", "1 min", "4 min 10 s", "1 h", "2 h 6 min", "1 d 1 h"]);
  assert.equal(duration(3_599_100), "1 h");
  assert.equal(elapsed(5_432), "5.4 s");
  assert.equal(elapsed(14_100), "14 s");
  assert.equal(inWords(10), "ten");
  assert.equal(inWords(1_500), "1,500");
  assert.equal(clock("2031-01-02T00:00:00Z", "Europe/Helsinki"), "02:00");
  const now = Date.parse("2031-01-02T12:00:00Z");
  assert.deepEqual(
    ["2031-01-02T11:59:30Z", "2031-01-02T11:56:00Z", "2031-01-02T08:03:00Z", "2030-11-03T08:00:00Z"].map((iso) => when(iso, now, "UTC")),
    ["just now", "4 min ago", "08:03", "3 Nov"],
  );
});

const queued = (fields = {}) => snapshot(begin("req_1", { acceptedSeenMs: 0 }), { status: "queued", position: 12, estimatedWait: 40_000, ...fields }, 0);

test("the line says Accepted, then the place and the wait, which both count down", () => {
  const track = queued();
  assert.equal(line(track, 100).words, "Accepted");
  assert.equal(line(track, 1_000).words, "12th in line, about 39 s");
  assert.equal(line(track, 20_000).words, "6th in line, about 20 s");
  assert.equal(line(track, 39_500).words, "Next in line, any moment now");
  assert.equal(line(track, 90_000).words, "Next in line, any moment now");
});

test("the bar fills from the place first told and falls back if others go first", () => {
  let track = queued();
  assert.equal(line(track, 0).fill, 0);
  track = reduce(track, { type: "status", position: 6, estimatedWait: 20_000 }, 5_000);
  assert.equal(line(track, 5_000).fill, 0.5);
  track = reduce(track, { type: "status", position: 18, estimatedWait: 60_000 }, 6_000);
  assert.equal(line(track, 6_000).words, "18th in line, about 1 min");
  assert.equal(line(track, 6_000).fill, 0);
});

test("a place without a known wait stays as it was told", () => {
  assert.deepEqual(placeNow({ position: 3, waitMs: 0, atMs: 0 }, 60_000), { exact: 3, position: 3, leftMs: 0 });
});

test("pauses are told in words, a break by the length it was first told", () => {
  const until = new Date(12_000).toISOString();
  let track = queued({ paused: "provider_limit", pausedUntil: until });
  track = reduce(track, { type: "status", position: 12, estimatedWait: 44_000, paused: "provider_limit", pausedUntil: until }, 5_000);
  assert.equal(line(track, 5_000).words, "Waiting: the provider asked for a 12 s break. Your place is kept.");
  assert.equal(line(track, 5_000).detail, "7 s left · 12th in line");
  for (const paused of ["provider_down", "provider_account", "spend_limit", "operator", "storage", "something_new"]) {
    assert.match(line(queued({ paused }), 5_000).words, /^Waiting: .+\. Your place is kept\.$/, paused);
  }
});

test("retrying is a wait with its reason, until its delay is over", () => {
  const retry = (reason, delay) => reduce(queued(), { type: "retrying", reason, delay, attempt: 1 }, 2_000);
  const track = retry("The provider asked for a break.", 12_000);
  assert.equal(line(track, 2_000).words, "Waiting: the provider asked for a 12 s break. Your place is kept.");
  assert.equal(line(track, 2_000).detail, "12 s left · 12th in line");
  assert.equal(line(retry("The worker was lost.", 0), 2_000).words, "Waiting: the worker was lost. Trying again now. Your place is kept.");
  assert.equal(line(retry("The provider did not answer.", 3_000), 2_000).words, "Waiting: the provider did not answer. Trying again in 3 s. Your place is kept.");
  const told = reduce(track, { type: "status", position: 2, estimatedWait: 8_000 }, 15_000);
  assert.equal(line(told, 15_000).words, "2nd in line, about 8 s");
});

test("the source streams in by code points; silence is the check; a second start is a repair", () => {
  let track = reduce(queued(), { type: "processing", attempt: 1 }, 0);
  assert.equal(line(track, 9_000).words, "Drawing…");
  track = reduce(track, { type: "delta", attempt: 1, offset: 0, text: "pie 🍰" }, 10_000);
  track = reduce(track, { type: "delta", attempt: 1, offset: 5, text: ' "a": 1' }, 10_100);
  assert.equal(track.source, 'pie 🍰 "a": 1');
  assert.equal(line(track, 10_200).words, "Drawing…");
  assert.equal(line(track, 11_400).words, "Checking");
  track = reduce(track, { type: "delta", attempt: 1, offset: 0, text: "pie" }, 12_000);
  assert.equal(track.source, "pie");
  assert.match(line(track, 12_000).detail, /mending/);
  track = reduce(track, { type: "delta", attempt: 2, offset: 0, text: "pie title" }, 13_000);
  assert.equal(track.source, "pie title");
  assert.equal(line(track, 13_000).detail, "try 2");
});

test("a piece that comes twice or late does not double the source", () => {
  let track = reduce(queued(), { type: "delta", attempt: 1, offset: 0, text: "abc" }, 0);
  track = reduce(track, { type: "delta", attempt: 1, offset: 1, text: "bcd" }, 0);
  assert.equal(track.source, "abcd");
  assert.equal(track.sourceLength, 4);
});

test("the end is authoritative and nothing comes after it", () => {
  let track = reduce(queued(), { type: "delta", attempt: 1, offset: 0, text: "pi" }, 0);
  track = reduce(track, { type: "completed", result: "pie\n", svgUrl: "http://x/y.svg", cached: false, truncated: false }, 5_400);
  assert.equal(track.source, "pie\n");
  assert.equal(line(track, 9_000).words, "Drawn in 5.4 s");
  assert.equal(line(track, 9_000).cancellable, false);
  assert.equal(reduce(track, { type: "status", position: 3, estimatedWait: 1 }, 9_000), track);
  assert.equal(reduce(queued(), { type: "from_the_future" }, 0).state, "queued");
  assert.equal(line({ ...track, truncated: true }, 9_000).phase, "truncated");
});

test("an end without a picture says what happened, what was kept and what to do", () => {
  for (const code of ["REFUSED", "INVALID_DIAGRAM", "PROVIDER_REJECTED", "PROVIDER_UNAVAILABLE", "WORKER_LOST", "NOT_FOUND", "NEW_CODE"]) {
    const words = ending(reduce(queued(), { type: "failed", status: "failed", code, error: "Why." }, 0));
    assert.equal(words.told, "Why.");
    for (const part of ["title", "kept", "next"]) assert.match(words[part], /\.$/, `${code} ${part}`);
  }
  const cancelled = (track) => ending(reduce(track, { type: "failed", status: "cancelled", code: "CANCELLED", error: "Cancelled." }, 0));
  assert.match(cancelled(queued()).kept, /does not count/);
  assert.match(cancelled(reduce(queued(), { type: "delta", attempt: 1, offset: 0, text: "pie" }, 0)).kept, /so it counts/);
  assert.equal(errorLine("Parse error on line 7: no"), 7);
  assert.equal(errorLine("It broke."), null);
});

const NOW = Date.parse("2031-01-01T20:00:00Z");
const refused = (code, body = {}, retryAfterMs = null) => refusal(new ApiError(code, 429, { code, ...body }, retryAfterMs), NOW);

test("the limit is a card beside what the next tier gives and costs", () => {
  const limit = { limit: 10, used: 10, resetTime: "2031-01-02T00:00:00Z", currentTier: "free", nextTier: "basic", nextTierLimit: "100 requests/day", price: "$15/month", upgradeUrl: "https://site.example/buy" };
  const card = refused("USER_LIMIT_EXCEEDED", limit);
  assert.equal(card.title, "10 of 10 today.");
  assert.match(card.text, /^Your next ten come at \d\d:\d\d\.$/);
  assert.equal(card.wait, "in 4 h");
  assert.deepEqual(card.upgrade, { tier: "basic", gives: "100 requests/day", costs: "$15/month", url: "https://site.example/buy" });
  assert.equal(refused("USER_LIMIT_EXCEEDED", { limit: 5000, used: 5000 }).upgrade, null);
  const tokens = { limit: 30000, used: 31200, limitKind: "tokensPerDay", message: "Daily limit of 30,000 tokens reached", currentUsage: "31,200/30,000 tokens today", resetTime: "2031-01-02T00:00:00Z" };
  const other = refused("USER_LIMIT_EXCEEDED", tokens);
  assert.deepEqual([other.title, other.text, other.wait], ["Daily limit of 30,000 tokens reached.", "31,200/30,000 tokens today", "in 4 h"]);
});

test("each refusal has words of its own", () => {
  const titles = ["CONCURRENCY_LIMIT_EXCEEDED", "QUEUE_FULL", "UNAUTHENTICATED", "FORBIDDEN", "INVALID_REQUEST", "TOO_LARGE", "OFFLINE", "UNAVAILABLE", "ANYTHING"].map((code) => refused(code, { outstanding: 10, limit: 10 }).title);
  assert.equal(new Set(titles).size, titles.length);
  assert.equal(refused("CONCURRENCY_LIMIT_EXCEEDED", { outstanding: 10, limit: 10 }).title, "You have 10 of 10 diagrams under way.");
  assert.match(refused("QUEUE_FULL", { estimatedWait: 1_200_000 }, 30_000).text, /about 20 min/);
  assert.equal(refused("QUEUE_FULL", {}, 30_000).retryAfterMs, 30_000);
  assert.match(refused("UNAVAILABLE", { accepted: "unknown" }).text, /not certain/);
  assert.equal(webAddress("javascript:alert(1)"), null);
  assert.equal(webAddress("/buy"), "/buy");
});

test("a request is repeated under one idempotency key until the gateway has answered", async () => {
  const keys = [];
  const outcomes = [new ApiError("OFFLINE", 0, {}), new ApiError("UNAVAILABLE", 503, { accepted: "unknown" }), new ApiError("IDEMPOTENCY_CONFLICT", 409, {}), { requestId: "req_1" }];
  const api = {
    generate: async (_, key) => {
      keys.push(key);
      const outcome = outcomes.shift();
      if (outcome instanceof Error) throw outcome;
      return outcome;
    },
  };
  const pauses = [];
  const pause = async (ms) => pauses.push(ms);
  assert.deepEqual(await submit(api, {}, { idempotencyKey: "k", pause }), { requestId: "req_1" });
  assert.deepEqual(keys, ["k", "k", "k", "k"]);
  assert.deepEqual(pauses, [400, 1_200, 3_000]);
  const full = new ApiError("QUEUE_FULL", 429, {});
  await assert.rejects(submit({ generate: async () => Promise.reject(full) }, {}, { idempotencyKey: "k", pause }), full);
  const gone = new ApiError("OFFLINE", 0, {});
  let tries = 0;
  await assert.rejects(submit({ generate: async () => (tries++, Promise.reject(gone)) }, {}, { idempotencyKey: "k", pause }), gone);
  assert.equal(tries, 5);
});

test("the API client sends the key, asks this origin only and types its errors", async () => {
  const calls = [];
  const answers = [new Response("{}", { status: 404 }), Response.json({ requestId: "req_1" })];
  const fetch = async (path, options) => (calls.push([path, options.headers["X-API-Key"]]), answers.shift());
  const api = new Api({ key: () => "hg_1", fetch });
  await assert.rejects(api.call("/x"), (error) => error instanceof ApiError && error.code === "HTTP_404");
  assert.equal((await api.diagram("req_1")).requestId, "req_1");
  answers.push(new Response(null), new Response(null, { status: 404 }), new Response("<svg/>"));
  assert.equal(await api.exists("req_2"), true);
  assert.equal(await api.exists("req_3"), false);
  assert.equal(await api.svg("http://gate.example/api/diagram/req_2/diagram.svg"), "<svg/>");
  // What works by its id alone is asked without the key, which would hide what is another's.
  assert.deepEqual(calls.slice(1), [["/api/diagram/req_1", "hg_1"], ["/api/diagram/req_2/events", undefined], ["/api/diagram/req_3/events", undefined], ["/api/diagram/req_2/diagram.svg", undefined]]);
  const down = new Api({ key: () => null, fetch: async () => Promise.reject(new TypeError("down")) });
  await assert.rejects(down.me(), (error) => error.code === "OFFLINE");
  assert.equal(ownPath("https://elsewhere.example/api/x.svg?token=1"), "/api/x.svg?token=1");
});

test("an SVG gets its size written out from its viewBox, and nothing else is touched", () => {
  const svg = `<?xml version="1.0"?><svg id="a" width="100%" style="max-width: 3px" viewBox="4 4 240.5 160" aria-label="a > b"><rect width="5"/></svg>`;
  assert.deepEqual(sized(svg), { text: `<?xml version="1.0"?><svg width="240.5" height="160" id="a" style="max-width: 3px" viewBox="4 4 240.5 160" aria-label="a > b"><rect width="5"/></svg>`, width: 240.5, height: 160 });
  assert.deepEqual(sized("<svg width='30px' height='20px'/>").width, 30);
  assert.equal(sized("<svg>").height, 600);
  assert.throws(() => sized("<html></html>"));
});

test("what has ended is not reopened by an answer that was overtaken", () => {
  const requests = new Requests({ now: () => 1 });
  requests.accept({ requestId: "req_1", status: "queued", position: 1, estimatedWait: 0 }, { prompt: "p", diagramType: "pie" });
  requests.hear("req_1", { type: "completed", result: "pie" });
  assert.equal(requests.learn({ requestId: "req_1", status: "queued", position: 1 }).state, "completed");
  assert.equal(requests.list()[0].prompt, "p");
  assert.equal(requests.hear("req_2", { type: "completed" }), undefined);
});

test("the announcer speaks at once, then not again for five seconds, and only the newest", () => {
  const time = new Time();
  const spoken = [];
  const announcer = new Announcer({ speak: (text) => spoken.push([time.now, text]), now: () => time.now, timers: time });
  announcer.say("a");
  announcer.say("b");
  announcer.say("c");
  time.pass(GAP_MS);
  announcer.say("c");
  time.pass(60_000);
  announcer.say("d");
  assert.deepEqual(spoken, [[1_000, "a"], [6_000, "c"], [66_000, "d"]]);
});

class FakeSocket {
  readyState = 0;
  sent = [];
  send = (text) => this.sent.push(JSON.parse(text));
  close = () => (this.readyState = 3);
  open() {
    this.readyState = 1;
    this.onopen();
  }
  say = (message) => this.onmessage({ data: JSON.stringify(message) });
  drop() {
    this.readyState = 3;
    this.onclose({ code: 1006 });
  }
}

function feed({ poll = async () => Promise.reject(new ApiError("OFFLINE", 0, {})), key = null } = {}) {
  const time = new Time();
  const made = { time, sockets: [], events: [], links: [] };
  made.live = new LiveFeed({
    openSocket: () => (made.sockets.push(new FakeSocket()), made.sockets.at(-1)),
    poll,
    key: () => key,
    timers: time,
    random: () => 1,
    onEvent: (id, message) => made.events.push([id, message.type, message.seq]),
    onLink: ({ state }) => made.links.at(-1) !== state && made.links.push(state),
  });
  return made;
}

// Promises that are already settled run their callbacks before a macrotask.
const settle = () => new Promise((resolve) => setImmediate(resolve));

test("the feed resumes after the last number it saw, and drops what comes twice", () => {
  const { time, sockets, events, links, live } = feed({ key: "hg_1" });
  live.watch("req_1", 0);
  sockets[0].open();
  assert.deepEqual(sockets[0].sent, [{ type: "auth", apiKey: "hg_1" }, { type: "subscribe", requestId: "req_1", after: 0 }]);
  sockets[0].say({ type: "processing", requestId: "req_1", seq: 4, attempt: 1 });
  sockets[0].say({ type: "status", requestId: "req_1", seq: 0, position: 2 });
  sockets[0].say({ type: "processing", requestId: "req_9", seq: 5 });
  sockets[0].drop();
  assert.deepEqual(links, ["connecting", "live", "offline"]);
  time.pass(500);
  sockets[1].open();
  assert.deepEqual(sockets[1].sent[1], { type: "subscribe", requestId: "req_1", after: 4 });
  sockets[1].say({ type: "processing", requestId: "req_1", seq: 4 });
  sockets[1].say({ type: "completed", requestId: "req_1", seq: 9, result: "pie" });
  assert.deepEqual(events, [["req_1", "processing", 4], ["req_1", "status", 0], ["req_1", "completed", 9]]);
  assert.equal(links.at(-1), "idle");
  assert.equal(time.waiting(), 0);
});

test("the feed backs off, polls when sockets fail, and goes back to a socket", async () => {
  const bodies = [{ status: "queued", position: 3 }, { status: "processing" }];
  const asked = [];
  const poll = async (id, { waitMs }) => {
    asked.push(waitMs);
    return bodies.shift() ?? new Promise(() => {});
  };
  const { time, sockets, events, links, live } = feed({ poll });
  live.watch("req_1", 0);
  sockets[0].drop();
  time.pass(500);
  sockets[1].drop();
  await settle();
  assert.equal(links.at(-1), "polling");
  time.pass(1_000);
  await settle();
  assert.deepEqual(asked, [0, 25_000]);
  assert.deepEqual(events.map(([, type]) => type), ["snapshot", "snapshot"]);
  sockets.at(-1).open();
  assert.equal(links.at(-1), "live");
  live.close();
  assert.equal(links.at(-1), "idle");
});

test("a poll that ends a request ends the feed; an unknown one is told as such", async () => {
  const ended = feed({ poll: async () => ({ status: "completed", result: "pie" }) });
  ended.live.watch("req_1", 0);
  ended.sockets[0].drop();
  ended.time.pass(500);
  ended.sockets[1].drop();
  await settle();
  assert.deepEqual(ended.events, [["req_1", "snapshot", undefined]]);
  assert.equal(ended.links.at(-1), "idle");
  const unknown = feed({ poll: async () => Promise.reject(new ApiError("NOT_FOUND", 404, {})) });
  unknown.live.watch("req_2", 0);
  unknown.sockets[0].drop();
  unknown.time.pass(500);
  unknown.sockets[1].drop();
  await settle();
  assert.deepEqual(unknown.events, [["req_2", "failed", undefined]]);
});

const { Headgate, HeadgateError } = await import(new URL("headgate.js", web));

function ownPage(body) {
  const sockets = [];
  const calls = [];
  const fetch = async (path, options) => (calls.push([path, options.headers["X-API-Key"], options.body]), Response.json(body, { status: 202 }));
  const headgate = new Headgate({ apiKey: "hg_1", url: "http://gate.example:8080/", fetch, openSocket: () => (sockets.push(new FakeSocket()), sockets.at(-1)) });
  return { sockets, calls, headgate };
}

test("a page of one's own sends, follows and gets its diagram", async () => {
  const { sockets, calls, headgate } = ownPage({ requestId: "req_1", status: "queued", position: 3, estimatedWait: 900 });
  const events = [];
  const drawn = headgate.generate({ prompt: "p", options: { priority: 1 } }, (event) => events.push([event.type, event.position]));
  while (!sockets.length) await settle();
  assert.deepEqual(calls, [["http://gate.example:8080/api/diagram/generate", "hg_1", JSON.stringify({ diagramType: "mermaid", prompt: "p", options: { priority: 1 } })]]);
  sockets[0].open();
  sockets[0].say({ type: "status", requestId: "req_1", seq: 0, position: 1 });
  sockets[0].say({ type: "completed", requestId: "req_1", seq: 3, result: "pie" });
  assert.equal((await drawn).result, "pie");
  assert.deepEqual(events, [["status", 3], ["status", 1], ["completed", undefined]]);
});

test("a page of one's own gets typed errors", async () => {
  const { sockets, headgate } = ownPage({});
  const lost = headgate.follow("req_2");
  sockets[0].open();
  sockets[0].say({ type: "failed", requestId: "req_2", seq: 1, code: "REFUSED", error: "No.", status: "failed" });
  await assert.rejects(lost, (error) => error instanceof HeadgateError && error.code === "REFUSED" && error.message === "No.");
  const limited = new Headgate({ apiKey: "hg_1", url: "http://gate", fetch: async () => Response.json({ code: "USER_LIMIT_EXCEEDED", used: 10 }, { status: 429 }) });
  await assert.rejects(limited.generate({ prompt: "p" }), (error) => error.code === "USER_LIMIT_EXCEEDED" && error.status === 429 && error.body.used === 10);
});

test("a socket that answers no ping is given up", () => {
  const { time, sockets, links, live } = feed();
  live.watch("req_1", 0);
  sockets[0].open();
  time.pass(20_000);
  assert.deepEqual(sockets[0].sent.at(-1), { type: "ping" });
  sockets[0].say({ type: "pong" });
  time.pass(20_000);
  time.pass(10_000);
  assert.equal(links.at(-1), "offline");
  assert.equal(sockets[0].readyState, 3);
});

test("text is read at 4.5:1 and edges at 3:1, in light and in dark", () => {
  const css = readFileSync(new URL("assets/studio.css", web), "utf8");
  const [light, dark] = css.match(/:root \{[^}]*--ground[^}]*\}/g).map((block) => Object.fromEntries([...block.matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map(([, name, value]) => [name, value])));
  const luminance = (hex) => {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const pairs = [
    ...["ground", "surface", "sunken", "tint"].flatMap((back) => [["ink", back, 4.5], ["muted", back, 4.5], ["accent", back, 4.5]]),
    ["on-accent", "accent", 4.5], ["on-accent", "accent-strong", 4.5], ["surface", "ink", 4.5],
    ["good", "surface", 4.5], ["bad", "surface", 4.5], ["bad", "bad-tint", 4.5], ["warn", "surface", 4.5], ["warn", "warn-tint", 4.5], ["warn", "ground", 4.5],
    ["edge", "surface", 3], ["edge", "sunken", 3], ["edge", "tint", 3], ["edge", "ground", 3],
  ];
  for (const [name, colours] of [["light", light], ["dark", dark]]) {
    for (const [front, back, least] of pairs) {
      const found = contrast(colours[front], colours[back]);
      assert.ok(found >= least, `${name}: ${front} on ${back} is ${found.toFixed(2)}, not ${least}`);
    }
  }
});

test("the page is under 150 KB and names no other host", () => {
  const files = [new URL("index.html", web), ...readdirSync(new URL("assets/", web)).map((name) => new URL(`assets/${name}`, web))];
  assert.ok(files.reduce((sum, file) => sum + statSync(file).size, 0) < 150_000);
  for (const file of files) {
    const hosts = [...readFileSync(file, "utf8").matchAll(/https?:\/\/([\w.-]+)/g)].map(([, host]) => host);
    // A namespace and a base for relative addresses; neither is ever asked.
    assert.deepEqual(hosts.filter((host) => !["www.w3.org", "localhost"].includes(host)), [], file.pathname);
  }
  const html = readFileSync(new URL("index.html", web), "utf8");
  assert.doesNotMatch(html, /\sstyle=|<style|\son[a-z]+=|<script(?![^>]*\ssrc=)/);
});
