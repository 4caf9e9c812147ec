// The gateway's HTTP API. Every failure is an ApiError with a code of the contract, or OFFLINE.

export class ApiError extends Error {
  constructor(code, status, body, retryAfterMs = null) {
    super(body?.message ?? code);
    this.code = code;
    this.status = status;
    this.body = body ?? {};
    this.retryAfterMs = retryAfterMs;
  }
}

function retryAfter(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : null;
}

async function failure(response) {
  const body = await response.json().catch(() => ({}));
  const code = body.code ?? (response.status >= 500 ? "UNAVAILABLE" : `HTTP_${response.status}`);
  return new ApiError(code, response.status, body, retryAfter(response));
}

/** An absolute address of the contract as a path of this page's own origin (the CSP lets nothing else be asked). */
export function ownPath(address) {
  const url = new URL(address, "http://localhost");
  return url.pathname + url.search;
}

export class Api {
  /**
   * @param key returns the key to send, or null
   * @param base what goes before each path; the page's own origin if left out
   * @param onAnswer is told each answer's headers
   */
  constructor({ key, base = "", onAnswer = () => {}, fetch = (...args) => globalThis.fetch(...args) }) {
    this.key = key;
    this.base = base;
    this.onAnswer = onAnswer;
    this.fetch = fetch;
  }

  async call(path, { method = "GET", body, headers = {}, signal, bare = false } = {}) {
    const key = bare ? null : this.key();
    const sent = { Accept: "application/json", ...headers };
    if (key) sent["X-API-Key"] = key;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    let response;
    try {
      response = await this.fetch(this.base + path, { method, headers: sent, body: body && JSON.stringify(body), signal, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError("OFFLINE", 0, {});
    }
    this.onAnswer(response.headers);
    if (!response.ok) throw await failure(response);
    return response;
  }

  async json(path, options) {
    const response = await this.call(path, options);
    return response.json();
  }

  me() {
    return this.json("/api/me");
  }

  wait() {
    return this.json("/api/wait");
  }

  /** Sends one request; repeating it with the same `idempotencyKey` is harmless. */
  generate(request, idempotencyKey) {
    return this.json("/api/diagram/generate", { method: "POST", body: request, headers: { "Idempotency-Key": idempotencyKey } });
  }

  /** One request of the person's own now, or (`waitMs`) at its next change. */
  diagram(id, { waitMs = 0, signal } = {}) {
    return this.json(`/api/diagram/${encodeURIComponent(id)}${waitMs ? `?wait=${waitMs}` : ""}`, { signal });
  }

  /** Whether there is a request of that id, whoever's it is. */
  async exists(id) {
    try {
      await this.call(`/api/diagram/${encodeURIComponent(id)}/events`, { method: "HEAD", bare: true });
      return true;
    } catch (error) {
      if (error.status === 404) return false;
      throw error;
    }
  }

  cancel(id) {
    return this.json(`/api/diagram/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  diagrams(cursor) {
    return this.json(`/api/diagrams?limit=24${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
  }

  /** The text of the picture at `address`, which works by itself: with a key another person's would be hidden. */
  async svg(address) {
    const response = await this.call(ownPath(address), { headers: { Accept: "image/svg+xml" }, bare: true });
    return response.text();
  }

  /** Keys to try with, by tier; empty where none are offered. */
  async demoKeys() {
    try {
      return await this.json("/demo-keys.json", { bare: true });
    } catch {
      return {};
    }
  }
}

