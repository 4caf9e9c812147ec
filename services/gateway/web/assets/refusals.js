// What the gateway refused, in words: what happened, what was kept, what to do. Pure.

import { clock, count, duration, inWords } from "./format.js";

const KEPT = "Your words are kept.";

function limitCard(error, nowMs) {
  const { limit, limitKind, used, resetTime, currentTier, nextTier, nextTierLimit, price, upgradeUrl } = error.body;
  const total = limit ?? 0;
  const daily = !limitKind || limitKind === "requestsPerDay";
  const at = resetTime ? clock(resetTime) : null;
  return {
    kind: "limit",
    title: daily ? `${count(used ?? total)} of ${count(total)} today.` : `${error.body.message}.`,
    text: !daily ? (error.body.currentUsage ?? "") : at ? `Your next ${inWords(total)} come at ${at}.` : "",
    at: resetTime ?? null,
    wait: resetTime ? `in ${duration(Date.parse(resetTime) - nowMs)}` : "",
    kept: `${KEPT} This try does not count.`,
    currentTier,
    upgrade: nextTier ? { tier: nextTier, gives: nextTierLimit ?? "", costs: price ?? "", url: webAddress(upgradeUrl) } : null,
  };
}

/** Only an http(s) address may become a link: it comes from a server's answer. */
export function webAddress(text) {
  try {
    const url = new URL(text, "http://localhost");
    return url.protocol === "http:" || url.protocol === "https:" ? text : null;
  } catch {
    return null;
  }
}

function fieldWords(fields) {
  return (fields ?? []).map((field) => `${field.path}: ${field.message}`).join(" ");
}

const BY_CODE = {
  USER_LIMIT_EXCEEDED: limitCard,
  CONCURRENCY_LIMIT_EXCEEDED: ({ body }) => ({
    kind: "outstanding",
    title: `You have ${body.outstanding ?? body.limit} of ${body.limit} diagrams under way.`,
    text: "One has to be finished or cancelled before the next can join the line.",
    kept: `${KEPT} This try does not count.`,
    action: "Try again",
  }),
  QUEUE_FULL: ({ body }) => ({
    kind: "full",
    title: "The line is full.",
    text: body.estimatedWait
      ? `Someone who joined now would wait about ${duration(body.estimatedWait)}, longer than we let anybody stand in line.`
      : "More people wait than we let stand in line.",
    kept: `${KEPT} This try does not count.`,
    action: "Try again",
  }),
  UNAUTHENTICATED: () => ({
    kind: "key",
    title: "That key is not known here.",
    text: "It may be mistyped or taken back.",
    kept: KEPT,
    action: "Choose a key",
  }),
  FORBIDDEN: ({ body }) => ({
    kind: "forbidden",
    title: "This key may not draw at the moment.",
    text: body.message ?? "",
    kept: `${KEPT} What is in line keeps its place.`,
    action: "Use another key",
  }),
  USER_SUSPENDED: (error) => BY_CODE.FORBIDDEN(error),
  INVALID_REQUEST: ({ body }) => ({
    kind: "invalid",
    title: "That cannot be sent as it is.",
    text: fieldWords(body.fields) || body.message || "",
    kept: KEPT,
  }),
  TOO_LARGE: ({ body }) => ({
    kind: "invalid",
    title: "That is too long for one diagram.",
    text: body.message ?? "",
    kept: `${KEPT} Say it in fewer words.`,
  }),
  OFFLINE: () => ({
    kind: "offline",
    title: "Headgate could not be reached.",
    text: "It is not certain that your words arrived; sending them again is safe, they are drawn and counted once.",
    kept: KEPT,
    action: "Send again",
  }),
  UNAVAILABLE: ({ body }) => ({
    kind: "unavailable",
    title: body.accepted === "unknown" ? "Part of Headgate did not answer in time." : "Part of Headgate is down at the moment.",
    text:
      body.accepted === "unknown"
        ? "It is not certain that your request was accepted; sending it again is safe, it is drawn and counted once."
        : "Nothing was accepted and nothing counted.",
    kept: KEPT,
    action: "Send again",
  }),
};

/**
 * The card for an ApiError: `kind`, `title`, `text`, `kept`, and maybe `action` (label of its button),
 * `upgrade` (the next tier), `retryAfterMs` (when trying again makes sense).
 */
export function refusal(error, nowMs) {
  const words = BY_CODE[error.code];
  const card = words
    ? words(error, nowMs)
    : { kind: "unknown", title: "That did not work.", text: error.body?.message ?? "", kept: KEPT, action: "Try again" };
  return { ...card, retryAfterMs: error.retryAfterMs ?? null };
}
