// Events as they happen: one socket for all watched requests, long polling where sockets do not get through.

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
// Two sockets that never opened: something on the way refuses sockets, or everything is down. Polling tells which.
const FAILURES_BEFORE_POLLING = 2;
// A sleeping laptop's socket looks open for minutes; a ping without an answer shows the truth.
const PING_MS = 20_000;
const PONG_MS = 10_000;
const POLL_WAIT_MS = 25_000;
const POLL_GAP_MS = 1_000;
// Browsers keep six connections to a host; the page needs some for itself.
const POLLED_AT_ONCE = 3;

const FINAL = new Set(["completed", "failed"]);
const CLOSED = new Set(["completed", "failed", "cancelled", "expired"]);

/** link states: idle (nothing to watch), connecting, live, polling, offline. */
export class LiveFeed {
  /**
   * @param openSocket returns a new WebSocket
   * @param poll (id, {waitMs, signal}) resolves to the request's HTTP answer, or throws an ApiError
   * @param key returns the key to authenticate with, or null
   * @param timers {set(fn, ms) -> handle, clear(handle)}
   * @param random a number from 0 to 1, for jitter
   * @param onEvent (id, message); polled answers come as {type: "snapshot", body}
   * @param onLink ({state, retryInMs})
   */
  constructor({ openSocket, poll, key, timers, random, onEvent, onLink }) {
    Object.assign(this, { openSocket, poll, key, timers, random, onEvent, onLink });
    this.watched = new Map();
    this.socket = null;
    this.failures = 0;
    this.retryTimer = null;
    this.pingTimer = null;
    this.polling = null;
    this.state = "idle";
  }

  /** Begins to watch a request; `after` is the last event number already seen. */
  watch(id, after) {
    if (this.watched.has(id)) return;
    this.watched.set(id, after);
    if (this.socket?.readyState === 1) this.#subscribe(id);
    else if (!this.socket && this.retryTimer === null) this.#connect();
    this.polling?.wake();
  }

  unwatch(id) {
    if (!this.watched.delete(id)) return;
    if (this.socket?.readyState === 1) this.#send({ type: "unsubscribe", requestId: id });
    if (this.watched.size === 0) this.#rest();
  }

  /** Tries again now, not at the end of the backoff. */
  retryNow() {
    if (this.watched.size === 0 || this.state === "live") return;
    this.#cancelRetry();
    this.polling?.wake();
    if (!this.socket) this.#connect();
  }

  /** Forgets the socket and its authentication; watching goes on over a new one. */
  reconnect() {
    this.#drop();
    if (this.watched.size) this.#connect();
  }

  close() {
    this.watched.clear();
    this.#rest();
  }

  #rest() {
    this.#drop();
    this.#stopPolling();
    this.failures = 0;
    this.#link("idle");
  }

  #drop() {
    this.#cancelRetry();
    this.timers.clear(this.pingTimer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  #cancelRetry() {
    this.timers.clear(this.retryTimer);
    this.retryTimer = null;
  }

  #link(state, retryInMs = null) {
    this.state = state;
    this.onLink({ state, retryInMs });
  }

  #send(message) {
    this.socket.send(JSON.stringify(message));
  }

  #subscribe(id) {
    const after = this.watched.get(id);
    this.#send({ type: "subscribe", requestId: id, ...(after === undefined ? {} : { after }) });
  }

  #connect() {
    this.#cancelRetry();
    const socket = this.openSocket();
    this.socket = socket;
    if (this.state !== "polling" && this.state !== "offline") this.#link("connecting");
    socket.onopen = () => {
      if (socket !== this.socket) return;
      this.failures = 0;
      this.#stopPolling();
      const apiKey = this.key();
      if (apiKey) this.#send({ type: "auth", apiKey });
      for (const id of this.watched.keys()) this.#subscribe(id);
      this.#link("live");
      this.#expect();
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.#expect();
      this.#receive(JSON.parse(data));
    };
    socket.onclose = () => {
      if (socket === this.socket) this.#lost();
    };
  }

  // The next ping, and the end of the socket if nothing answers it.
  #expect() {
    this.timers.clear(this.pingTimer);
    this.pingTimer = this.timers.set(() => {
      this.#send({ type: "ping" });
      this.pingTimer = this.timers.set(() => {
        this.#drop();
        this.#lost();
      }, PONG_MS);
    }, PING_MS);
  }

  #receive(message) {
    const id = message.requestId;
    if (!this.watched.has(id)) return;
    const seen = this.watched.get(id) ?? 0;
    if (message.type !== "status" && message.seq !== undefined && message.seq <= seen && !FINAL.has(message.type)) return;
    if (message.seq > seen) this.watched.set(id, message.seq);
    this.#deliver(id, message, FINAL.has(message.type));
  }

  #deliver(id, message, last) {
    if (last) this.watched.delete(id);
    this.onEvent(id, message);
    if (last && this.watched.size === 0) this.#rest();
  }

  #lost() {
    this.timers.clear(this.pingTimer);
    this.socket = null;
    if (this.watched.size === 0) return this.#link("idle");
    this.failures += 1;
    if (this.failures >= FAILURES_BEFORE_POLLING) this.#startPolling();
    const most = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(this.failures - 1, 10));
    const delayMs = Math.round(most * (0.5 + this.random() / 2));
    if (!this.polling || this.state === "offline") this.#link("offline", delayMs);
    this.retryTimer = this.timers.set(() => {
      this.retryTimer = null;
      this.#connect();
    }, delayMs);
    return undefined;
  }

  #startPolling() {
    if (this.polling) return;
    const abort = new AbortController();
    let wake = () => {};
    this.polling = { abort, wake: () => wake() };
    const pause = (ms) =>
      new Promise((resolve) => {
        const timer = this.timers.set(resolve, ms);
        wake = () => {
          this.timers.clear(timer);
          resolve();
        };
      });
    this.#pollUntil(abort.signal, pause);
  }

  #stopPolling() {
    this.polling?.abort.abort();
    this.polling?.wake();
    this.polling = null;
  }

  async #pollUntil(signal, pause) {
    // The first round asks without waiting: it shows at once whether HTTP gets through.
    let waitMs = 0;
    while (!signal.aborted) {
      const ids = [...this.watched.keys()].slice(-POLLED_AT_ONCE);
      const reached = await Promise.all(ids.map((id) => this.#pollOne(id, waitMs, signal)));
      if (signal.aborted) return;
      if (reached.some(Boolean)) {
        this.#link("polling");
        waitMs = POLL_WAIT_MS;
      } else {
        waitMs = 0;
        if (this.state !== "offline") this.#link("offline", this.retryTimer === null ? null : LONGEST_RETRY_MS);
      }
      await pause(POLL_GAP_MS);
    }
  }

  // True if the gateway answered at all.
  async #pollOne(id, waitMs, signal) {
    try {
      const body = await this.poll(id, { waitMs, signal });
      if (!signal.aborted && this.watched.has(id)) this.#deliver(id, { type: "snapshot", body }, CLOSED.has(body.status));
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (error.code === "NOT_FOUND" && this.watched.has(id)) {
        this.#deliver(id, { type: "failed", code: "NOT_FOUND", error: error.message }, true);
      }
      return error.status > 0 && error.status < 500;
    }
  }
}
