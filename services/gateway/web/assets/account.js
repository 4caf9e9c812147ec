// Who the person is and what is left of their day, in the page's head.
import { h, redraw, say } from "./dom.js";
import { count, duration, utc } from "./format.js";
import { tierTitle } from "./keys.js";

/** "7 of 10 left today". */
export const leftWords = ({ used, limit }) => `${count(Math.max(0, limit - used))} of ${count(limit)} left today`;

export class Account {
  constructor({ usage, keyLabel, now }) {
    Object.assign(this, { usage, keyLabel, now });
    this.me = null;
  }

  show(me) {
    this.me = me;
    this.usage.hidden = !me;
    say(this.keyLabel, me ? tierTitle(me.tier) : "Choose a key");
    if (!me) return;
    const share = me.limit > 0 ? Math.min(1, me.used / me.limit) : 0;
    redraw(this.usage, "once", () => [h("span", { class: "meter", "aria-hidden": "true" }, h("i")), h("span", { class: "left" })]);
    this.usage.querySelector(".meter").style.setProperty("--fill", String(1 - share));
    this.usage.classList.toggle("low", share >= 0.8);
    say(this.usage.querySelector(".left"), leftWords(me));
    if (me.resetTime) this.usage.title = `The next ${count(me.limit)} come in ${duration(Date.parse(me.resetTime) - this.now())} (${utc(me.resetTime)})`;
  }
}
