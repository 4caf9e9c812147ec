// The left side: the prompt box, the kinds, the examples. It keeps its draft for this tab.
import { drawing, h } from "./dom.js";
import { EXAMPLES, KINDS, kindOf } from "./kinds.js";

const DRAFT = "headgate.draft";
const MOST_LETTERS = 100_000;

export class Composer {
  /** @param onSend ({prompt, diagramType}) when the person sends */
  constructor({ form, storage, onSend }) {
    Object.assign(this, { form, storage, onSend });
    this.prompt = form.querySelector("#prompt");
    this.button = form.querySelector("#send");
    this.error = form.querySelector("#prompt-error");
    this.estimate = form.querySelector("#estimate");
    this.#drawKinds(form.querySelector("#kinds"));
    this.#drawExamples(form.querySelector("#examples"));
    this.prompt.maxLength = MOST_LETTERS;
    const mac = /mac|iphone|ipad/i.test(navigator.userAgentData?.platform ?? navigator.platform ?? "");
    form.querySelector("#send-keys").textContent = mac ? "⌘ ↵" : "Ctrl ↵";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    form.addEventListener("change", () => this.#keep());
    this.prompt.addEventListener("input", () => {
      this.#complain("");
      this.#grow();
      this.#keep();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    });
    addEventListener("resize", () => this.#grow());
    this.#restore();
  }

  /** Puts words and a kind into the box. */
  fill({ prompt, diagramType }) {
    this.prompt.value = prompt;
    this.#pick(diagramType);
    this.#complain("");
    this.#grow();
    this.#keep();
  }

  focus() {
    this.prompt.focus({ preventScroll: matchMedia("(min-width: 56.25rem)").matches });
  }

  value() {
    return { prompt: this.prompt.value.trim(), diagramType: this.form.elements.kind.value };
  }

  /** While a request is on its way to the gateway it cannot be sent twice. */
  busy(is) {
    this.button.setAttribute("aria-disabled", String(is));
  }

  #send() {
    if (this.button.getAttribute("aria-disabled") === "true") return;
    const value = this.value();
    if (!value.prompt) {
      this.#complain("Write what should be drawn, or take one of the examples.");
      this.prompt.focus();
      return;
    }
    this.onSend(value);
  }

  #complain(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
    if (text) this.prompt.setAttribute("aria-invalid", "true");
    else this.prompt.removeAttribute("aria-invalid");
  }

  // Browsers without field-sizing need the height told.
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${this.prompt.scrollHeight}px`;
  }

  #pick(kind) {
    this.form.elements.kind.value = kindOf(kind).id;
  }

  #keep() {
    this.storage.setItem(DRAFT, JSON.stringify(this.value()));
  }

  #restore() {
    try {
      const draft = JSON.parse(this.storage.getItem(DRAFT) ?? "null");
      if (draft) this.fill(draft);
    } catch {
      this.storage.removeItem(DRAFT);
    }
    this.#grow();
  }

  #drawKinds(place) {
    place.append(
      ...KINDS.map((kind, i) =>
        h(
          "label",
          { class: "kind", title: kind.title },
          h("input", { type: "radio", name: "kind", value: kind.id, checked: i === 0, "aria-label": kind.title }),
          drawing(kind.paths),
          h("span", {}, kind.name),
        ),
      ),
    );
  }

  #drawExamples(place) {
    place.append(
      ...EXAMPLES.map(({ prompt, kind }) => {
        const fill = () => {
          this.fill({ prompt, diagramType: kind });
          this.focus();
        };
        return h("li", {}, h("button", { type: "button", class: "example", onclick: fill }, drawing(kindOf(kind).paths), h("span", {}, prompt)));
      }),
    );
  }
}
