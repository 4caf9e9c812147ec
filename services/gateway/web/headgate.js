// Headgate in a page of your own: sends a prompt, follows it to its end, survives lost connections.
//
//   import { Headgate } from "https://your-headgate/headgate.js";
//   const headgate = new Headgate({ apiKey });
//   const { result, svgUrl } = await headgate.generate({ prompt }, (event) => show(event.type, event.position));
//
// Refusals and failures are HeadgateErrors: `code` is the contract's, `body` has all that came with it.
import { Api, ApiError as HeadgateError } from "./assets/api.js";
import { LiveFeed } from "./assets/live.js";
import { submit } from "./assets/submit.js";

export { HeadgateError };

const ENDS = new Set(["completed", "failed", "cancelled", "expired"]);
const timers = { set: (fn, ms) => setTimeout(fn, ms), clear: (handle) => clearTimeout(handle) };

export class Headgate {
  /**
   * @param apiKey the key of the person who asks
   * @param url where Headgate is; where this module came from if left out
   * @param openSocket, fetch replace the browser's own
   */
  constructor({ apiKey, url = new URL(".", import.meta.url).href, openSocket, fetch }) {
    const base = url.replace(/\/$/, "");
    this.api = new Api({ key: () => apiKey, base, ...(fetch && { fetch }) });
    this.following = new Map();
    this.live = new LiveFeed({
      openSocket: openSocket ?? (() => new WebSocket(`${base.replace(/^http/, "ws")}/ws`)),
      poll: (id, options) => this.api.diagram(id, options),
      key: () => apiKey,
      timers,
      random: Math.random,
      onEvent: (id, message) => this.#heard(id, message),
      onLink: () => {},
    });
  }

  /**
   * Sends a prompt and resolves with the `completed` event; rejects with a HeadgateError.
   * @param request {prompt, diagramType?, options?} of the contract
   * @param onEvent is told each event, the acceptance (a `status` with `requestId`) first
   * @param idempotencyKey the same for two calls that are the same request
   */
  async generate({ diagramType = "mermaid", ...request }, onEvent = () => {}, idempotencyKey = crypto.randomUUID()) {
    const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    const accepted = await submit(this.api, { diagramType, ...request }, { idempotencyKey, pause });
    onEvent({ ...accepted, type: "status" });
    return this.follow(accepted.requestId, onEvent);
  }

  /** Follows a request that was sent before; resolves and rejects as `generate` does. */
  follow(requestId, onEvent = () => {}) {
    return new Promise((resolve, reject) => {
      const followers = this.following.get(requestId) ?? [];
      this.following.set(requestId, [...followers, { onEvent, resolve, reject }]);
      this.live.watch(requestId, 0);
    });
  }

  /** Cancels a request; resolves with its final state. */
  cancel(requestId) {
    return this.api.cancel(requestId);
  }

  #heard(id, message) {
    const event = message.type === "snapshot" ? asEvent(id, message.body) : message;
    const followers = this.following.get(id) ?? [];
    if (event.type === "completed" || event.type === "failed") this.following.delete(id);
    for (const { onEvent, resolve, reject } of followers) {
      onEvent(event);
      if (event.type === "completed") resolve(event);
      if (event.type === "failed") reject(new HeadgateError(event.code, 0, { ...event, message: event.error }));
    }
  }
}

// A polled answer as the event that it stands for.
function asEvent(requestId, body) {
  if (body.status === "completed") return { ...body, requestId, type: "completed" };
  if (ENDS.has(body.status)) return { ...body, requestId, type: "failed" };
  if (body.status === "processing") return { requestId, type: "processing", attempt: body.attempts };
  return { ...body, requestId, type: "status" };
}
