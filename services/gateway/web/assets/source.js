// The diagram's source with line numbers; grows while it is written.
import { h } from "./dom.js";

export class Source extends HTMLElement {
  connectedCallback() {
    if (this.lines) return;
    this.lines = h("ol");
    this.append(h("div", { class: "code", dir: "ltr" }, this.lines));
    this.tabIndex = 0;
    this.setAttribute("role", "region");
    this.setAttribute("aria-label", "Source of the diagram");
    this.text = "";
  }

  /** Shows `text`; `writing` keeps the end in sight, `wrongLine` (from 1) is marked. */
  show(text, { writing = false, wrongLine = null } = {}) {
    if (text === this.text && wrongLine === this.wrongLine && writing === this.writing) return;
    const atEnd = this.scrollHeight - this.scrollTop - this.clientHeight < 40;
    const next = text.split("\n");
    // While it only grows, all lines but the last stay as they are.
    const same = text.startsWith(this.text) && wrongLine === this.wrongLine ? Math.max(0, this.lines.childElementCount - 1) : 0;
    while (this.lines.childElementCount > same) this.lines.lastElementChild.remove();
    this.lines.append(...next.slice(same).map((line, i) => this.#line(line, same + i + 1 === wrongLine)));
    this.classList.toggle("writing", writing);
    Object.assign(this, { text, wrongLine, writing });
    if (writing && atEnd) this.scrollTop = this.scrollHeight;
  }

  #line(text, wrong) {
    const code = h("code", {}, text);
    return wrong ? h("li", { class: "wrong" }, code, h("span", { class: "unseen" }, " (the check stopped here)")) : h("li", {}, code);
  }
}
