// Another person's request, opened by a link: its id alone tells what happens to it, but not its prompt.

const TYPES = ["status", "processing", "delta", "retrying", "completed", "failed"];
const FINAL = new Set(["completed", "failed"]);
const CLOSED = 2;
const AGAIN_MS = 5_000;

/** Listens to one request at a time; the stream comes without the key, which would hide what is not the caller's. */
export class SharedFeed {
  /**
   * @param openSource (address) returns a new EventSource
   * @param onEvent (id, message)
   * @param timers {set(fn, ms) -> handle, clear(handle)}
   */
  constructor({ openSource, onEvent, timers }) {
    Object.assign(this, { openSource, onEvent, timers });
    this.source = null;
    this.timer = null;
  }

  watch(id) {
    this.close();
    const source = this.openSource(`/api/diagram/${encodeURIComponent(id)}/events`);
    this.source = source;
    for (const type of TYPES) source.addEventListener(type, ({ data }) => this.#heard(source, id, JSON.parse(data)));
    // Lost connections it mends by itself; an error's answer ends it for good.
    source.onerror = () => {
      if (source === this.source && source.readyState === CLOSED) this.timer = this.timers.set(() => this.watch(id), AGAIN_MS);
    };
  }

  close() {
    this.timers.clear(this.timer);
    this.source?.close();
    this.source = null;
  }

  #heard(source, id, message) {
    if (source !== this.source) return;
    if (FINAL.has(message.type)) this.close();
    this.onEvent(id, message);
  }
}
