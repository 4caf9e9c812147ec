// The API key: for this tab only, or kept in the browser if the person says so; and its panel.
import { h, say } from "./dom.js";

const NAME = "headgate.key";

export class KeyStore {
  /** @param tab,kept two Storages: one that ends with the tab, one that stays */
  constructor({ tab, kept }) {
    this.tab = tab;
    this.kept = kept;
  }

  get() {
    return this.tab.getItem(NAME) ?? this.kept.getItem(NAME);
  }

  isKept() {
    return this.kept.getItem(NAME) !== null;
  }

  set(key, keep) {
    this.forget();
    (keep ? this.kept : this.tab).setItem(NAME, key);
  }

  forget() {
    this.tab.removeItem(NAME);
    this.kept.removeItem(NAME);
  }
}

const TITLES = { free: "Free", basic: "Basic", pro: "Pro", enterprise: "Enterprise" };

export const tierTitle = (name) => TITLES[name] ?? (name ? name[0].toUpperCase() + name.slice(1) : "");

/** The dialog with the key; `onChange` runs after a key was chosen or forgotten. */
export class KeyPanel {
  constructor({ dialog, store, demoKeys, onChange }) {
    Object.assign(this, { dialog, store, demoKeys, onChange });
    this.input = dialog.querySelector("#key");
    this.keep = dialog.querySelector("#keep");
    this.error = dialog.querySelector("#key-error");
    this.forgetButton = dialog.querySelector("#forget");
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#use(this.input.value.trim());
    });
    dialog.querySelector("#key-close").addEventListener("click", () => dialog.close());
    dialog.querySelector("#show-key").addEventListener("change", (event) => {
      this.input.type = event.target.checked ? "text" : "password";
    });
    this.forgetButton.addEventListener("click", () => {
      store.forget();
      dialog.close();
      onChange(null);
    });
    // A click on the backdrop hits the dialog itself.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  async open(message = "") {
    this.input.value = this.store.get() ?? "";
    this.keep.checked = this.store.isKept();
    this.forgetButton.hidden = !this.store.get();
    this.#complain(message);
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
    this.#offer(await this.demoKeys());
  }

  #complain(message) {
    say(this.error, message);
    this.error.hidden = !message;
    this.input.setAttribute("aria-invalid", String(Boolean(message)));
  }

  #use(key) {
    if (!key) return this.#complain("Paste a key first. It begins with hg_.");
    // Header values are Latin-1 without controls; anything else could not be sent.
    if (!/^[\x21-\x7e]+$/.test(key)) return this.#complain("A key has no spaces and only plain letters, digits and signs.");
    this.store.set(key, this.keep.checked);
    this.dialog.close();
    // Before the dialog's close event, which comes as a task of its own.
    return this.onChange(key);
  }

  #offer(keys) {
    const place = this.dialog.querySelector("#demo");
    const tiers = Object.keys(keys);
    place.hidden = tiers.length === 0;
    place.querySelector(".demo-keys").replaceChildren(
      ...tiers.map((tier) => h("button", { type: "button", class: "quiet", onclick: () => this.#use(keys[tier]) }, tierTitle(tier))),
    );
  }
}

