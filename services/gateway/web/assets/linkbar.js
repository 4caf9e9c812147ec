// The bar that says the connection is gone, what is kept, and when it is tried again.
import { say } from "./dom.js";
import { duration } from "./format.js";

// A reconnect that succeeds at once is nobody's business.
const PATIENCE_MS = 700;

export class LinkBar {
  constructor({ bar, onRetry, timers, now }) {
    Object.assign(this, { bar, timers, now });
    this.words = bar.querySelector("#offline-words");
    this.timer = null;
    this.untilMs = null;
    bar.querySelector("button").addEventListener("click", onRetry);
  }

  get shown() {
    return !this.bar.hidden;
  }

  /** `retryInMs` is when the next try comes, null if a try is under way. */
  offline(retryInMs) {
    this.untilMs = retryInMs === null ? null : this.now() + retryInMs;
    if (this.shown) return this.#tick();
    if (this.timer === null) this.timer = this.timers.set(() => this.#reveal(), PATIENCE_MS);
    return undefined;
  }

  online() {
    this.timers.clear(this.timer);
    this.timer = null;
    this.bar.hidden = true;
  }

  #reveal() {
    this.timer = null;
    this.bar.hidden = false;
    this.#tick();
  }

  #tick() {
    this.timers.clear(this.timer);
    const leftMs = this.untilMs === null ? 0 : this.untilMs - this.now();
    const next = leftMs > 0 ? `Trying again in ${duration(leftMs)}.` : "Trying again…";
    say(this.words, `No connection to Headgate. What you sent keeps its place. ${next}`);
    this.timer = this.timers.set(() => this.#tick(), 500);
  }
}
