// The requests this page knows of, newest first; the one place where they change.

import { begin, ended, reduce, snapshot } from "./status.js";

export class Requests {
  /** @param now the time in milliseconds */
  constructor({ now }) {
    this.now = now;
    this.tracks = new Map();
  }

  get(id) {
    return this.tracks.get(id);
  }

  /** Those of the person's own history, newest first. */
  list() {
    return [...this.tracks.values()].filter((track) => track.mine).sort((a, b) => (b.order ?? 0) - (a.order ?? 0) || (a.id < b.id ? 1 : -1));
  }

  open() {
    return this.list().filter((track) => !ended(track));
  }

  put(track) {
    const order = track.acceptedAt ? Date.parse(track.acceptedAt) : (track.order ?? this.now());
    this.tracks.set(track.id, { ...track, order });
    return this.tracks.get(track.id);
  }

  /** A request that the gateway has just accepted. */
  accept(body, request) {
    const nowMs = this.now();
    const fields = { ...request, mine: true, acceptedSeenMs: nowMs, acceptedAt: body.acceptedAt ?? new Date(nowMs).toISOString() };
    return this.put(snapshot(this.get(body.requestId) ?? begin(body.requestId, fields), body, nowMs));
  }

  /** What an HTTP answer tells; `mine` marks a row of the person's own history. */
  learn(body, { mine } = {}) {
    const known = this.get(body.requestId) ?? begin(body.requestId);
    // What has ended stays ended: an answer can be older than an event that overtook it.
    if (ended(known) && !["completed", "failed", "cancelled", "expired"].includes(body.status)) return known;
    return this.put({ ...snapshot(known, body, this.now()), mine: known.mine || Boolean(mine) });
  }

  /** What an event tells; returns the changed request, or undefined if it is not known. */
  hear(id, message) {
    const known = this.get(id);
    if (!known) return undefined;
    if (message.type === "snapshot") return this.learn({ ...message.body, requestId: id });
    return this.put(reduce(known, message, this.now()));
  }

  /** Another key: its history is another one. */
  clear() {
    this.tracks.clear();
  }
}
