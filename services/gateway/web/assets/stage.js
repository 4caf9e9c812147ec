// The right side: the status line, the tabs, and what stands in them.
import { endingCard, refusalCard } from "./cards.js";
import { say } from "./dom.js";
import { sourceName, pictureName, save, saveText } from "./save.js";
import { png } from "./picture.js";
import { ended, ending, errorLine, line } from "./status.js";

const LOADING = { phase: "loading", words: "Opening…", detail: "", fill: null, cancellable: false };

export class Stage {
  /**
   * @param root the stage's section
   * @param api the Api
   * @param acts what its buttons do: cancel(id), again(track), dismiss(), askKey(), retry(), tell(text)
   * @param timers {set(fn, ms), clear(handle)}
   */
  constructor({ root, api, acts, timers }) {
    Object.assign(this, { root, api, acts, timers });
    const find = (selector) => root.querySelector(selector);
    this.status = find("hg-status");
    this.queue = find("hg-queue");
    this.picture = find("hg-picture");
    this.source = find("hg-source");
    this.card = find("#card");
    this.quote = find("#quote");
    this.panes = find("#panes");
    this.scale = find("#scale");
    this.tabs = [...root.querySelectorAll("[role=tab]")];
    this.chosenTab = null;
    this.track = null;
    this.drawn = null;
    this.#wire(find);
  }

  #wire(find) {
    this.status.addEventListener("cancel", () => this.acts.cancel(this.track.id));
    this.status.addEventListener("reuse", () => this.acts.reuse(this.track));
    for (const tab of this.tabs) {
      tab.addEventListener("click", () => this.#choose(tab.dataset.tab));
      tab.addEventListener("keydown", (event) => this.#tabKeys(event));
    }
    this.picture.addEventListener("view", ({ detail }) => say(this.scale, `${Math.round(detail.scale * 100)}%`));
    find("#zoom-in").addEventListener("click", () => this.picture.zoom(1.25));
    find("#zoom-out").addEventListener("click", () => this.picture.zoom(0.8));
    find("#fit").addEventListener("click", () => this.picture.fit());
    find("#full").addEventListener("click", () => this.#full());
    find("#copy-source").addEventListener("click", () => this.#copy(this.track.source, "Source copied."));
    find("#copy-link").addEventListener("click", () => this.#copy(new URL(`#${this.track.id}`, location.href).href, "Link copied."));
    find("#save-svg").addEventListener("click", () => saveText(this.drawn.text, pictureName(this.track, "svg"), "image/svg+xml"));
    find("#save-png").addEventListener("click", () => this.#savePng());
    find("#save-source").addEventListener("click", () => saveText(this.track.source, sourceName(this.track), "text/plain"));
    this.needsPicture = [...this.root.querySelectorAll("[data-needs=picture]")];
    this.needsSource = [...this.root.querySelectorAll("[data-needs=source]")];
  }

  /** Nothing is open: what to do first. */
  showEmpty() {
    this.#leave();
    this.#mode("empty");
  }

  /** A bookmarked request is being fetched; the stage keeps its size. */
  showLoading() {
    this.#leave();
    this.#mode("loading");
    this.status.show(LOADING);
  }

  /** The gateway refused: a card, with what was open before one step away. */
  showRefusal(card) {
    this.#leave();
    this.#mode("refusal");
    this.card.replaceChildren(refusalCard(card, this.acts, this.timers));
    this.card.querySelector("h2").focus({ preventScroll: true });
  }

  /** A request, whatever state it is in; cheap enough to be called at every tick. */
  show(track, nowMs) {
    if (track.id !== this.track?.id) this.#leave();
    this.track = track;
    const told = line(track, nowMs);
    this.status.show(told, track.prompt, Boolean(track.prompt) && ended(track));
    say(this.quote, track.prompt);
    const words = ending(track);
    const tab = this.#tab(track, words);
    for (const each of this.tabs) {
      each.setAttribute("aria-selected", String(each.dataset.tab === tab));
      each.tabIndex = each.dataset.tab === tab ? 0 : -1;
    }
    this.panes.setAttribute("aria-labelledby", `tab-${tab}`);
    for (const button of this.needsSource) button.disabled = !track.source;
    for (const button of this.needsPicture) button.disabled = !this.drawn;
    if (tab === "source") {
      this.#mode("source");
      this.source.show(track.source, { writing: !ended(track), wrongLine: track.code === "INVALID_DIAGRAM" ? errorLine(track.error) : null });
    } else if (words) this.#showEnding(track, words);
    else if (track.state === "completed") this.#showPicture(track);
    else {
      this.#mode("waiting");
      this.queue.show(track.state === "queued" && track.place ? told.position ?? track.place.position : 0, told.phase);
    }
    if (track.state === "completed" && track.svgUrl && this.loadingId !== track.id) this.#load(track);
    return told;
  }

  // The source while it is written, or where there is no picture; the picture else; the person's own choice before all.
  #tab(track, words) {
    if (words && !track.source) return "picture";
    const undrawn = !ended(track) || (track.state === "completed" && !track.svgUrl);
    return this.chosenTab ?? (track.source && undrawn ? "source" : "picture");
  }

  #showEnding(track, words) {
    this.#mode("card");
    if (this.cardFor === track.id) return;
    this.cardFor = track.id;
    const again = track.prompt ? () => this.acts.again(track) : null;
    this.card.replaceChildren(endingCard(words, { ...this.acts, again }));
  }

  #showPicture(track) {
    if (track.source && !track.svgUrl) this.#lackPicture("This diagram has no picture.", "It is drawn, and its source is in the next tab.", null);
    this.#mode(this.drawn ? "picture" : this.lacking ? "card" : "loading");
  }

  // A diagram without a picture; `again` fetches once more where that may help.
  #lackPicture(title, kept, again) {
    if (this.lacking === title) return;
    this.lacking = title;
    const next = again ? "Fetch the picture once more when the connection is back." : "Copy the source into any Mermaid editor to see it.";
    this.card.replaceChildren(endingCard({ title, told: "", kept, next }, { ...this.acts, again }, "Fetch again"));
  }

  async #load(track) {
    this.loadingId = track.id;
    try {
      const drawn = await this.picture.show(await this.api.svg(track.svgUrl), track.prompt || "diagram");
      if (this.track?.id !== track.id) return;
      this.drawn = drawn;
      this.acts.redraw();
      this.picture.fit();
    } catch {
      if (this.track?.id !== track.id) return;
      this.#lackPicture("The picture could not be fetched.", "The diagram is drawn, and its source is in the next tab.", () => this.#reload());
      this.acts.redraw();
    }
  }

  #reload() {
    this.lacking = null;
    this.loadingId = null;
    this.acts.redraw();
  }

  #leave() {
    this.track = null;
    this.drawn = null;
    this.lacking = null;
    this.loadingId = null;
    this.cardFor = null;
    this.chosenTab = null;
    this.picture.clear();
    this.source.show("");
    this.card.replaceChildren();
  }

  #mode(mode) {
    if (this.root.dataset.mode !== mode) this.root.dataset.mode = mode;
  }

  #choose(tab) {
    if (!this.track) return;
    this.chosenTab = tab;
    this.acts.redraw();
    if (tab === "picture") this.picture.fit();
  }

  #tabKeys(event) {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    const other = this.tabs.find((tab) => tab !== event.currentTarget);
    this.#choose(other.dataset.tab);
    other.focus();
  }

  async #copy(text, done) {
    try {
      await navigator.clipboard.writeText(text);
      this.acts.tell(done);
    } catch {
      this.acts.tell("The browser does not let this page copy. The source tab can be selected by hand.");
    }
  }

  async #savePng() {
    try {
      save(await png(this.drawn), pictureName(this.track, "png"));
    } catch {
      this.acts.tell("This browser cannot make a PNG of it. The SVG has the same picture.");
    }
  }

  async #full() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else if (this.root.requestFullscreen) await this.root.requestFullscreen();
    else this.root.classList.toggle("full");
    this.picture.fit();
  }
}
