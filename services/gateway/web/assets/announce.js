// What a screen reader hears: the newest news, politely, never more than once in five seconds.

export const GAP_MS = 5_000;

export class Announcer {
  /**
   * @param speak (text) puts it where it is read
   * @param now the time in milliseconds
   * @param timers {set(fn, ms) -> handle, clear(handle)}
   */
  constructor({ speak, now, timers }) {
    Object.assign(this, { speak, now, timers });
    this.spokenAtMs = -Infinity;
    this.spoken = "";
    this.waiting = null;
    this.timer = null;
  }

  /** Says `text` as soon as the gap allows; a newer text replaces one that still waits. */
  say(text) {
    if (!text || text === (this.waiting ?? this.spoken)) return;
    this.waiting = text;
    if (this.timer !== null) return;
    const restMs = this.spokenAtMs + GAP_MS - this.now();
    if (restMs <= 0) this.#flush();
    else this.timer = this.timers.set(() => this.#flush(), restMs);
  }

  #flush() {
    this.timer = null;
    const text = this.waiting;
    this.waiting = null;
    if (text === this.spoken) return;
    this.spoken = text;
    this.spokenAtMs = this.now();
    this.speak(text);
  }
}
