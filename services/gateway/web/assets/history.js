// The strip of earlier requests: each a link to its own address, with its picture once there is one.
import { ownPath } from "./api.js";
import { drawing, h, redraw, say } from "./dom.js";
import { utc, when } from "./format.js";
import { icon } from "./icons.js";
import { kindOf } from "./kinds.js";
import { ended, line } from "./status.js";

const SHORT = { accepted: "Accepted", queued: "In line", paused: "Waiting", retrying: "Waiting", drawing: "Drawing", checking: "Checking", completed: "Drawn", truncated: "Cut short", cancelled: "Cancelled", expired: "Expired", failed: "Not drawn", sending: "Sending" };
const SIGNS = { completed: "check", truncated: "warn", cancelled: "cross", expired: "clock", failed: "warn", drawing: "pen", checking: "lens", paused: "pause", retrying: "again" };

/** One request in the strip. */
export class HistoryCard extends HTMLElement {
  connectedCallback() {
    if (this.link) return;
    this.thumb = h("span", { class: "thumb" });
    this.title_ = h("span", { class: "title", dir: "auto" });
    this.state = h("span", { class: "state" });
    this.time = h("time");
    this.link = h("a", {}, this.thumb, h("span", { class: "about" }, this.title_, h("span", { class: "meta" }, this.state, this.time)));
    this.append(this.link);
  }

  show(track, nowMs, current) {
    const { phase, words } = line(track, nowMs);
    const kind = kindOf(track.diagramType);
    this.link.href = `#${track.id}`;
    this.link.dataset.phase = phase;
    if (current) this.link.setAttribute("aria-current", "page");
    else this.link.removeAttribute("aria-current");
    say(this.title_, track.prompt || kind.title);
    redraw(this.state, `${phase}`, () => [icon(SIGNS[phase] ?? "clock"), SHORT[phase]]);
    if (!ended(track)) this.state.title = words;
    if (track.acceptedAt) {
      this.time.dateTime = track.acceptedAt;
      this.time.title = utc(track.acceptedAt);
      say(this.time, when(track.acceptedAt, nowMs));
    }
    const drawn = track.state === "completed" && Boolean(track.svgUrl);
    redraw(this.thumb, drawn ? `${track.id}` : kind.id, () => (drawn ? this.#picture(track, kind) : drawing(kind.paths)));
    this.thumb.classList.toggle("drawn", drawn);
  }

  #picture(track, kind) {
    const image = h("img", { src: ownPath(track.svgUrl), alt: "", loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => {
      this.thumb.classList.remove("drawn");
      image.replaceWith(drawing(kind.paths));
    });
    return image;
  }
}

export class HistoryStrip {
  constructor({ list, note, more }) {
    Object.assign(this, { list, note, more });
    this.cards = new Map();
  }

  /** Draws `tracks` (newest first); cards of requests already there are kept. */
  show(tracks, nowMs, currentId, { state, hasMore }) {
    const ids = new Set(tracks.map((track) => track.id));
    for (const [id, item] of this.cards) {
      if (ids.has(id)) continue;
      item.remove();
      this.cards.delete(id);
    }
    tracks.forEach((track, place) => {
      const item = this.cards.get(track.id) ?? this.#add(track.id);
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place] ?? null);
      item.firstElementChild.show(track, nowMs, track.id === currentId);
    });
    const words = {
      keyless: "What you draw is listed here once you have chosen a key.",
      loading: "Fetching your history…",
      failed: "Your history could not be fetched. It is kept; it comes back with the connection.",
      ready: tracks.length ? "" : "Nothing drawn yet. What you send appears here and stays, also when you close this tab.",
    };
    say(this.note, tracks.length && state !== "failed" ? "" : words[state]);
    this.note.hidden = !this.note.textContent;
    this.more.hidden = !hasMore;
  }

  /** The newest comes into sight. */
  toStart() {
    this.list.parentElement.scrollTo({ left: 0 });
  }

  #add(id) {
    const item = h("li", {}, document.createElement("hg-card"));
    this.cards.set(id, item);
    this.list.append(item);
    return item;
  }
}
