// What the page does: sends, follows, opens, remembers. Parts come from main.js.
import { begin, ended, line, snapshot } from "./status.js";
import { submit } from "./submit.js";

const TICK_MS = 250;
// The place a request sent now would get changes slowly; asking more often would only cost.
const ESTIMATE_MS = 20_000;
// A countdown is read out rarely, changes of state at once (the announcer keeps its own gap).
const READ_PLACE_MS = 15_000;
// Watching "after 0" brings what was already written of a diagram, not only what is written from now on.
const WHOLE_LOG = 0;
const EMULATED = "headgate.emulated";

const idInAddress = () => /^#(req_[A-Za-z0-9]+)$/.exec(location.hash)?.[1] ?? null;

export class Studio {
  constructor(parts) {
    Object.assign(this, parts);
    this.current = null;
    this.pending = null;
    this.ticking = null;
    this.history = { state: "loading", cursor: null };
    this.read = { phase: null, atMs: 0 };
    this.generation = 0;
  }

  start() {
    const { find } = this;
    addEventListener("popstate", () => this.route());
    addEventListener("hashchange", () => this.route());
    addEventListener("online", () => this.retryNow());
    addEventListener("offline", () => this.refreshAccount());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.retryNow());
    find("#key-button").addEventListener("click", () => this.askKey());
    find("#key-panel").addEventListener("close", () => (this.afterKey = null));
    find("#empty-key").addEventListener("click", () => this.askKey());
    find("#new").addEventListener("click", (event) => {
      event.preventDefault();
      this.fresh();
    });
    this.strip.more.addEventListener("click", () => this.loadHistory(this.history.cursor));
    find("#ribbon").hidden = sessionStorage.getItem(EMULATED) !== "true";
    document.body.classList.toggle("keyless", !this.keys.get());
    this.refreshAccount();
    this.loadHistory();
    this.route();
    if (!this.current) this.composer.focus();
  }

  /** Every answer's headers: who answers is told on each. */
  answered(headers) {
    const emulated = headers.get("Headgate-Emulated") === "true";
    this.find("#ribbon").hidden = !emulated;
    sessionStorage.setItem(EMULATED, String(emulated));
  }

  // -- addresses

  fresh() {
    if (location.hash) history.pushState(null, "", location.pathname + location.search);
    this.route();
    this.composer.focus();
  }

  route() {
    this.pending = null;
    const id = idInAddress();
    if (id === null) {
      this.current = null;
      this.sharedFeed.close();
      this.stage.showEmpty();
      return this.draw();
    }
    if (this.current !== id) this.open(id);
    return this.draw();
  }

  async open(id) {
    this.current = id;
    this.read = { phase: null, atMs: 0 };
    this.sharedFeed.close();
    const known = this.requests.get(id);
    if (known && !ended(known)) return this.follow(known);
    if (!known || !known.source) this.stage.showLoading();
    if (known?.state === "completed" && known.source) return undefined;
    try {
      const track = (await this.#own(id)) ?? (await this.#shared(id));
      if (!ended(track) && this.current === id) this.follow(track);
    } catch (error) {
      if (this.current !== id) return undefined;
      this.showRefusal(error, () => this.reopen(id));
    }
    return this.draw();
  }

  // The person's own request, or null if it is not theirs.
  async #own(id) {
    if (!this.keys.get()) return null;
    try {
      return this.requests.learn({ ...(await this.api.diagram(id)), requestId: id });
    } catch (error) {
      if (error.code === "NOT_FOUND" || error.code === "UNAUTHENTICATED") return null;
      throw error;
    }
  }

  async #shared(id) {
    const there = await this.api.exists(id);
    return this.requests.put(begin(id, there ? { shared: true } : { state: "failed", code: "NOT_FOUND" }));
  }

  reopen(id) {
    this.current = null;
    this.pending = null;
    this.open(id);
  }

  // -- sending

  /** Sends a request; the same `idempotencyKey` goes with every repeat of it. */
  async send(request, idempotencyKey = crypto.randomUUID?.() ?? `${this.now()}-${Math.random()}`) {
    if (!this.keys.get()) {
      this.afterKey = () => this.send(request, idempotencyKey);
      return this.askKey();
    }
    const { generation } = this;
    this.composer.busy(true);
    this.current = null;
    this.pending = begin("sending", { ...request, state: "sending" });
    this.draw();
    this.find("#stage").scrollIntoView({ block: "nearest" });
    try {
      const body = await submit(this.api, request, {
        idempotencyKey,
        pause: (ms) => new Promise((resolve) => this.timers.set(resolve, ms)),
        onRetry: (error) => error.code === "OFFLINE" && this.linkBar.offline(null),
      });
      this.linkBar.online();
      this.accepted(this.requests.accept(body, request));
    } catch (error) {
      if (!(error instanceof this.ApiError)) throw error;
      this.linkBar.online();
      const again = () => this.send(request, idempotencyKey);
      // Refused with a key that has been replaced meanwhile: the new one may do.
      if (error.code === "UNAUTHENTICATED" && generation !== this.generation) this.timers.set(again, 0);
      else this.showRefusal(error, again);
    } finally {
      this.composer.busy(false);
      this.refreshAccount();
    }
    return undefined;
  }

  accepted(track) {
    this.pending = null;
    this.current = track.id;
    this.read = { phase: null, atMs: 0 };
    history.pushState(null, "", `#${track.id}`);
    this.strip.toStart();
    if (!ended(track)) this.follow(track);
    this.draw();
  }

  showRefusal(error, again) {
    this.pending = null;
    this.current = null;
    this.refused = again;
    const card = this.refusal(error, this.now());
    this.stage.showRefusal(card);
    this.announcer.say(`${card.title} ${card.text} ${card.kept}`);
    if (card.kind === "key") {
      this.afterKey = again;
      this.panel.open(`${card.title} ${card.text}`);
    }
    this.draw();
  }

  retry() {
    const again = this.refused;
    this.refused = null;
    again?.();
  }

  dismiss() {
    this.refused = null;
    if (this.current) return this.fresh();
    this.current = null;
    this.route();
    return this.composer.focus();
  }

  reuse(track) {
    this.composer.fill(track);
    this.composer.focus();
  }

  async cancel(id) {
    try {
      this.requests.learn({ ...(await this.api.cancel(id)), requestId: id });
      this.live.unwatch(id);
      this.refreshAccount();
    } catch (error) {
      this.tell(error.code === "OFFLINE" ? "Not cancelled: Headgate could not be reached. Try once more." : `Not cancelled: ${error.message}`);
    }
    this.draw();
  }

  // -- following

  follow(track) {
    if (track.shared) this.sharedFeed.watch(track.id);
    else this.live.watch(track.id, WHOLE_LOG);
    this.draw();
  }

  heard(id, message) {
    const track = this.requests.hear(id, message);
    if (!track) return;
    if (ended(track)) this.refreshAccount();
    this.draw();
  }

  linkChanged({ state, retryInMs }) {
    if (state === "offline") {
      this.linkBar.offline(retryInMs);
      this.announcer.say("No connection. What you sent keeps its place.");
    } else if (state !== "connecting") {
      if (this.linkBar.shown) {
        this.announcer.say("Connected again.");
        if (this.history.state === "failed") this.loadHistory();
      }
      this.linkBar.online();
    }
  }

  retryNow() {
    this.live.retryNow();
    this.refreshAccount();
  }

  // -- who and what is left

  askKey() {
    return this.panel.open();
  }

  // From a card: what was refused is sent again with the new key.
  askKeyAndRetry() {
    this.afterKey = this.refused;
    return this.panel.open();
  }

  keyChanged(key) {
    this.generation += 1;
    document.body.classList.toggle("keyless", !key);
    this.live.close();
    this.sharedFeed.close();
    this.requests.clear();
    this.refused = null;
    this.account.show(null);
    this.refreshAccount();
    this.loadHistory();
    const next = this.afterKey;
    this.afterKey = null;
    this.current = null;
    if (key && next) next();
    else this.route();
  }

  async refreshAccount() {
    this.timers.clear(this.estimateTimer);
    const { generation } = this;
    if (!this.keys.get()) return this.#showEstimate(null);
    try {
      const [me, wait] = await Promise.all([this.api.me(), this.api.wait().catch(() => null)]);
      if (generation !== this.generation) return undefined;
      this.account.show(me);
      this.#showEstimate(wait);
      if (this.live.state !== "offline") this.linkBar.online();
    } catch (error) {
      if (generation !== this.generation) return undefined;
      this.#showEstimate(null);
      // A request on its way is refused too, and its refusal asks for a key and then goes on with it.
      if (error.code === "UNAUTHENTICATED" && !this.pending && !this.panel.dialog.open) this.panel.open("That key is not known here. It may be mistyped or taken back.");
      if (error.code === "OFFLINE") this.linkBar.offline(ESTIMATE_MS);
    }
    this.estimateTimer = this.timers.set(() => document.visibilityState === "visible" && this.refreshAccount(), ESTIMATE_MS);
    return undefined;
  }

  #showEstimate(wait) {
    const told = wait && line(snapshot(begin("estimate"), wait, this.now()), this.now());
    this.composer.estimate.textContent = told ? `Sent now: ${told.words[0].toLowerCase()}${told.words.slice(1)}` : "";
  }

  // -- history

  async loadHistory(cursor = null) {
    const { generation } = this;
    if (!this.keys.get()) this.history = { state: "keyless", cursor: null };
    else {
      if (!cursor) this.history = { state: "loading", cursor: null };
      try {
        const { items, nextCursor } = await this.api.diagrams(cursor);
        if (generation !== this.generation) return;
        for (const item of items) {
          const track = this.requests.learn(item, { mine: true });
          if (!ended(track)) this.live.watch(track.id, WHOLE_LOG);
        }
        this.history = { state: "ready", cursor: nextCursor ?? null };
      } catch {
        if (generation !== this.generation) return;
        this.history = { state: "failed", cursor };
      }
    }
    this.draw();
  }

  // -- drawing

  tell(text) {
    const note = this.find("#toast");
    note.textContent = text;
    note.hidden = false;
    this.announcer.say(text);
    this.timers.clear(this.toastTimer);
    this.toastTimer = this.timers.set(() => (note.hidden = true), 4_000);
  }

  draw() {
    const nowMs = this.now();
    const track = this.pending ?? (this.current && this.requests.get(this.current));
    let told = null;
    if (track) {
      told = this.stage.show(track, nowMs);
      this.#readOut(told, nowMs);
    }
    document.title = told ? `${told.words} · Headgate` : "Headgate studio";
    document.body.classList.toggle("opened", Boolean(this.find("#stage").dataset.mode !== "empty"));
    this.strip.show(this.requests.list(), nowMs, this.current, { state: this.history.state, hasMore: Boolean(this.history.cursor) });
    this.#tickWhileMoving(track);
  }

  #readOut({ phase, words, detail }, nowMs) {
    const due = phase === "queued" && nowMs - this.read.atMs >= READ_PLACE_MS;
    if (phase === this.read.phase && !due) return;
    this.read = { phase, atMs: nowMs };
    this.announcer.say([words, detail].filter(Boolean).join(", "));
  }

  #tickWhileMoving(track) {
    this.timers.clear(this.ticking);
    const moving = (track && !ended(track)) || this.requests.open().length > 0;
    if (moving) this.ticking = this.timers.set(() => this.draw(), TICK_MS);
  }
}
