// The status line (one sentence, a bar, Cancel) and the little queue that people stand in.
import { h, redraw, say } from "./dom.js";
import { icon } from "./icons.js";

const ICONS = {
  sending: "up",
  accepted: "check",
  queued: "clock",
  paused: "pause",
  retrying: "again",
  drawing: "pen",
  checking: "lens",
  completed: "check",
  truncated: "warn",
  cancelled: "cross",
  expired: "clock",
  failed: "warn",
  loading: "clock",
};

export class StatusLine extends HTMLElement {
  connectedCallback() {
    if (this.words) return;
    this.sign = h("span", { class: "sign" });
    this.words = h("span", { class: "words" });
    this.detail = h("span", { class: "detail" });
    this.about = h("span", { class: "about", dir: "auto" });
    this.reuse = h("button", { type: "button", class: "quiet cancel", onclick: () => this.dispatchEvent(new CustomEvent("reuse")) }, "Reuse words");
    this.cancel = h("button", { type: "button", class: "quiet cancel", onclick: () => this.dispatchEvent(new CustomEvent("cancel")) }, "Cancel");
    this.bar = h("div", { class: "bar", "aria-hidden": "true" }, h("i"));
    this.append(this.sign, h("p", {}, this.words, this.detail, this.about), this.cancel, this.reuse, this.bar);
  }

  /** Shows what status.js `line` told; `about` is the prompt, `reusable` whether its words may be taken again. */
  show({ phase, words, detail, fill, cancellable }, about = "", reusable = false) {
    this.dataset.phase = phase;
    redraw(this.sign, ICONS[phase], () => icon(ICONS[phase]));
    say(this.words, words);
    say(this.detail, detail);
    say(this.about, about);
    this.reuse.hidden = !reusable;
    this.cancel.hidden = !cancellable;
    this.bar.classList.toggle("unknown", fill === null);
    this.bar.style.setProperty("--fill", String(fill ?? 1));
  }
}

// More dots than this are no easier to count than "and more".
const DOTS = 28;

export class Queue extends HTMLElement {
  /** Draws the line before the gate; the last dot is the reader. `position` 0 draws the gate alone. */
  show(position, phase) {
    this.dataset.phase = phase;
    const dots = Math.min(position, DOTS);
    redraw(this, `${dots}|${position > DOTS}`, () => [
      h("span", { class: "gate" }, icon("gate")),
      h(
        "span",
        { class: "people" },
        ...Array.from({ length: dots }, (_, i) => h("i", { class: i === dots - 1 ? "you" : position > DOTS && i === dots - 2 ? "more" : "" })),
      ),
    ]);
  }
}
