// The cards that stand where the picture would: limits, refusals, requests without a picture.
import { h, say } from "./dom.js";
import { duration, utc } from "./format.js";
import { icon } from "./icons.js";
import { tierTitle } from "./keys.js";

const SIGNS = { key: "key", forbidden: "lock", offline: "offline", full: "clock", outstanding: "clock", unavailable: "offline" };

function timed(card) {
  if (!card.at) return card.text;
  return h("time", { datetime: card.at, title: utc(card.at) }, card.text);
}

/** The daily limit beside what the next tier gives and costs. */
function limitCard(card, act) {
  const { upgrade } = card;
  return h(
    "article",
    { class: "card limit", "data-kind": "limit", "aria-labelledby": "card-title" },
    h("h2", { id: "card-title", tabindex: "-1" }, card.title),
    h(
      "div",
      { class: "offers" },
      h(
        "section",
        { class: "offer" },
        h("h3", {}, tierTitle(card.currentTier) || "Your tier"),
        h("p", { class: "figure" }, timed(card)),
        h("p", { class: "quietly" }, card.wait),
        h("button", { type: "button", class: "quiet", onclick: act.dismiss }, "I can wait"),
      ),
      upgrade &&
        h(
          "section",
          { class: "offer next" },
          h("h3", {}, tierTitle(upgrade.tier)),
          h("p", { class: "figure" }, upgrade.gives),
          h("p", { class: "quietly" }, upgrade.costs),
          upgrade.url
            ? h("a", { class: "button", href: upgrade.url, rel: "noopener" }, `Upgrade to ${tierTitle(upgrade.tier)}`)
            : h("button", { type: "button", onclick: act.askKey }, `Use a ${tierTitle(upgrade.tier)} key`),
        ),
    ),
    h("p", { class: "kept" }, icon("check"), card.kept),
  );
}

/** Counts Retry-After down on the button that tries again, which works all the while. */
function retryButton(card, act, timers) {
  const label = h("span", {}, card.action);
  const rest = h("span", { class: "rest" });
  const button = h("button", { type: "button", onclick: act.retry }, label, rest);
  const untilMs = performance.now() + (card.retryAfterMs ?? 0);
  const tick = () => {
    const leftMs = untilMs - performance.now();
    say(rest, leftMs > 0 ? ` · best in ${duration(leftMs)}` : "");
    if (leftMs > 0 && (button.isConnected || leftMs === card.retryAfterMs)) timers.set(tick, 500);
  };
  if (card.retryAfterMs) timers.set(tick, 0);
  return button;
}

/** A card for what refusals.js `refusal` told. `act` has retry, askKey and dismiss. */
export function refusalCard(card, act, timers) {
  if (card.kind === "limit") return limitCard(card, act);
  const asksKey = card.kind === "key" || card.kind === "forbidden";
  const main = asksKey ? h("button", { type: "button", onclick: act.askKey }, card.action) : card.action && retryButton(card, act, timers);
  return h(
    "article",
    { class: "card", "data-kind": card.kind, "aria-labelledby": "card-title" },
    h("span", { class: "sign" }, icon(SIGNS[card.kind] ?? "warn")),
    h("h2", { id: "card-title", tabindex: "-1" }, card.title),
    card.text && h("p", { dir: "auto" }, card.text),
    h("p", { class: "kept" }, icon("check"), card.kept),
    h("div", { class: "acts" }, main, h("button", { type: "button", class: "quiet", onclick: act.dismiss }, "Close")),
  );
}

/** A card for a request that ended without a picture, as status.js `ending` tells it. */
export function endingCard(words, act, label = "Send again") {
  return h(
    "article",
    { class: "card", "data-kind": "ended", "aria-labelledby": "card-title" },
    h("span", { class: "sign" }, icon("warn")),
    h("h2", { id: "card-title", tabindex: "-1" }, words.title),
    words.told && h("p", { dir: "auto", class: "told" }, words.told),
    h("p", { class: "kept" }, icon("check"), words.kept),
    h("p", {}, words.next),
    h("div", { class: "acts" }, act.again && h("button", { type: "button", onclick: act.again }, label), h("button", { type: "button", class: "quiet", onclick: act.dismiss }, "New diagram")),
  );
}
