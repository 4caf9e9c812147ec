// A request's life as the studio tells it: events in, one line of words out. Pure; time is an argument.

import { duration, elapsed, ordinal } from "./format.js";

// "Accepted" stays readable this long before the place replaces it.
const ACCEPTED_MS = 900;
// Deltas come ten a second while the model writes; a longer silence means that the answer is being checked.
const CHECKING_AFTER_MS = 1_200;

const ENDS = new Set(["completed", "failed", "cancelled", "expired"]);

const PAUSES = {
  provider_down: "the provider does not answer; we keep asking",
  provider_account: "the provider refuses this site’s account; its owner has to mend that",
  spend_limit: "this site has reached its spending limit",
  operator: "the site’s operator has paused drawing",
  storage: "the line is being put in order again; nothing is lost",
};

/** A request of which nothing is known yet but its id. */
export const begin = (id, fields = {}) => ({
  id,
  state: "queued",
  prompt: "",
  diagramType: "mermaid",
  acceptedAt: null,
  endedAt: null,
  shared: false,
  acceptedSeenMs: null,
  place: null,
  firstPosition: null,
  paused: null,
  pausedUntilMs: null,
  pausedForMs: null,
  retry: null,
  attempt: 0,
  source: "",
  sourceLength: 0,
  lastDeltaMs: null,
  mending: false,
  cached: false,
  truncated: false,
  svgUrl: null,
  error: null,
  code: null,
  ...fields,
});

export const ended = (track) => ENDS.has(track.state);

function placed(track, body, nowMs) {
  const position = body.position;
  if (!(position >= 1)) return track;
  const untilMs = body.pausedUntil ? Date.parse(body.pausedUntil) : null;
  // How long the break is, as it was first told: a length that shrinks with every telling would be no length.
  const forMs = untilMs === track.pausedUntilMs ? track.pausedForMs : untilMs && untilMs - nowMs;
  return {
    ...track,
    place: { position, waitMs: Math.max(0, body.estimatedWait ?? 0), atMs: nowMs },
    firstPosition: track.firstPosition ?? position,
    paused: body.paused ?? null,
    pausedUntilMs: untilMs,
    pausedForMs: forMs,
  };
}

function written(track, { text, attempt, offset }, nowMs) {
  // Offsets count code points, JavaScript counts UTF-16 units.
  const length = [...text].length;
  const startsAgain = offset === 0 && track.source !== "";
  const before = offset >= track.sourceLength ? track.source : [...track.source].slice(0, offset).join("");
  return {
    ...track,
    state: "processing",
    retry: null,
    attempt,
    source: before + text,
    sourceLength: Math.min(offset, track.sourceLength) + length,
    lastDeltaMs: nowMs,
    mending: startsAgain ? attempt === track.attempt : track.mending && attempt === track.attempt,
  };
}

/** The request after one event message of the socket. Unknown types change nothing. */
export function reduce(track, message, nowMs) {
  if (ended(track)) return track;
  switch (message.type) {
    case "status":
      return { ...placed(track, message, nowMs), state: "queued" };
    case "processing":
      return { ...track, state: "processing", retry: null, paused: null, attempt: message.attempt, mending: false, lastDeltaMs: null };
    case "delta":
      return written(track, message, nowMs);
    case "retrying": {
      const delayMs = Math.max(0, message.delay ?? 0);
      return { ...track, state: "queued", retry: { reason: message.reason ?? "", delayMs, untilMs: nowMs + delayMs } };
    }
    case "completed":
    case "failed":
      return snapshot(track, { ...message, status: message.status ?? message.type }, nowMs);
    default:
      return track;
  }
}

/** The request after an answer of the HTTP API about it (202, GET, or a row of the list). */
export function snapshot(track, body, nowMs) {
  const next = {
    ...track,
    state: body.status ?? track.state,
    prompt: body.prompt ?? track.prompt,
    diagramType: body.diagramType ?? track.diagramType,
    acceptedAt: body.acceptedAt ?? track.acceptedAt,
    startedAt: body.startedAt ?? track.startedAt,
    endedAt: body.endedAt ?? track.endedAt,
    svgUrl: body.svgUrl ?? track.svgUrl,
    cached: body.cached ?? track.cached,
    truncated: body.truncated ?? track.truncated,
  };
  if (next.state === "queued") return placed(next, body, nowMs);
  if (next.state === "processing") return { ...next, attempt: body.attempts ?? track.attempt, paused: null, retry: null };
  const result = body.result ?? null;
  return {
    ...next,
    endedSeenMs: track.endedSeenMs ?? nowMs,
    retry: null,
    paused: null,
    source: result ?? track.source,
    sourceLength: result === null ? track.sourceLength : [...result].length,
    error: typeof body.error === "string" ? body.error : null,
    code: body.code ?? null,
  };
}

/** The place as it must be by now, between two tellings: exact, as shown, and the wait that is left. */
export function placeNow(place, nowMs) {
  const leftMs = Math.max(0, place.waitMs - Math.max(0, nowMs - place.atMs));
  const exact = place.waitMs > 0 ? (place.position * leftMs) / place.waitMs : place.position;
  return { exact, position: Math.max(1, Math.ceil(exact)), leftMs };
}

const inLine = (position) => (position === 1 ? "Next in line" : `${ordinal(position)} in line`);

function queuedLine(track, nowMs) {
  if (!track.place) return { phase: "accepted", words: "Accepted", fill: 0 };
  const { exact, position, leftMs } = placeNow(track.place, nowMs);
  const fill = Math.min(1, Math.max(0, 1 - exact / Math.max(1, track.firstPosition)));
  if (track.acceptedSeenMs !== null && nowMs - track.acceptedSeenMs < ACCEPTED_MS) return { phase: "accepted", words: "Accepted", fill, position };
  const wait = leftMs < 1_000 && position === 1 ? "any moment now" : `about ${duration(leftMs)}`;
  return { phase: "queued", words: `${inLine(position)}, ${wait}`, fill, position };
}

function pausedLine(track, nowMs) {
  const told = track.paused === "provider_limit" ? breakWords(track.pausedForMs) : (PAUSES[track.paused] ?? "drawing is paused");
  const leftMs = track.pausedUntilMs === null ? 0 : track.pausedUntilMs - nowMs;
  return {
    phase: "paused",
    words: `Waiting: ${told}. Your place is kept.`,
    detail: [leftMs > 0 && `${duration(leftMs)} left`, inLine(track.place.position)].filter(Boolean).join(" · "),
    fill: Math.max(0, 1 - track.place.position / Math.max(1, track.firstPosition)),
  };
}

const breakWords = (ms) => `the provider asked for a${ms > 0 ? ` ${duration(ms)}` : ""} break`;

const asClause = (sentence) =>
  (/^[A-Z][a-z]/.test(sentence) ? sentence[0].toLowerCase() + sentence.slice(1) : sentence).replace(/[.\s]+$/, "");

/** Why an attempt failed, in words: the provider's own break by its length, other reasons as they were told. */
export function retryWords({ reason, delayMs }) {
  const pause = delayMs > 0 ? ` ${duration(delayMs)}` : "";
  if (/provider_limit|break|rate.?limit|\b429\b/i.test(reason)) {
    return `Waiting: ${breakWords(delayMs)}. Your place is kept.`;
  }
  const told = PAUSES[reason] ?? (asClause(reason) || "that try did not work");
  return `Waiting: ${told}. Trying again${pause ? ` in${pause}` : " now"}. Your place is kept.`;
}

function retryLine(track, nowMs) {
  const leftMs = track.retry.untilMs - nowMs;
  const place = track.place ? inLine(track.place.position) : "";
  return {
    phase: "retrying",
    words: retryWords(track.retry),
    detail: [leftMs > 0 && `${duration(leftMs)} left`, place].filter(Boolean).join(" · "),
    fill: track.retry.delayMs > 0 ? Math.min(1, 1 - leftMs / track.retry.delayMs) : null,
  };
}

function drawingLine(track, nowMs) {
  const silentMs = track.lastDeltaMs === null ? 0 : nowMs - track.lastDeltaMs;
  if (silentMs > CHECKING_AFTER_MS) return { phase: "checking", words: "Checking", fill: null };
  if (track.mending) return { phase: "drawing", words: "Drawing…", detail: "mending a slip that the check found", fill: null };
  return { phase: "drawing", words: "Drawing…", detail: track.attempt > 1 ? `try ${track.attempt}` : "", fill: null };
}

function endLine(track) {
  switch (track.state) {
    case "completed": {
      const tookMs = tookOf(track);
      const words = track.cached ? "Drawn at once" : tookMs === null ? "Drawn" : `Drawn in ${elapsed(tookMs)}`;
      if (track.truncated) return { phase: "truncated", words, detail: "cut at its length limit, so it may be incomplete", fill: 1 };
      return { phase: "completed", words, detail: track.cached ? "an equal request was answered before" : "", fill: 1 };
    }
    case "cancelled":
      return { phase: "cancelled", words: "Cancelled", fill: 0 };
    case "expired":
      return { phase: "expired", words: "Waited too long", fill: 0 };
    default:
      return { phase: "failed", words: "Not drawn", fill: 0 };
  }
}

function tookOf(track) {
  if (track.acceptedSeenMs !== null && track.endedSeenMs) return track.endedSeenMs - track.acceptedSeenMs;
  if (!track.acceptedAt || !track.endedAt) return null;
  return Date.parse(track.endedAt) - Date.parse(track.acceptedAt);
}

/**
 * What the status line shows now.
 * `phase` names the icon and colour, `words` is the sentence, `detail` a quieter addition,
 * `fill` is 0..1 for the bar or null where nobody knows, `cancellable` whether Cancel is offered.
 */
export function line(track, nowMs) {
  const open = !ended(track);
  let told;
  if (!open) told = endLine(track);
  else if (track.state === "sending") told = { phase: "sending", words: "Sending…", fill: null };
  else if (track.state === "processing") told = drawingLine(track, nowMs);
  else if (track.retry && (nowMs < track.retry.untilMs || !track.place || track.place.atMs < track.retry.untilMs - track.retry.delayMs)) told = retryLine(track, nowMs);
  else if (track.paused) told = pausedLine(track, nowMs);
  else told = queuedLine(track, nowMs);
  return { detail: "", cancellable: open && !track.shared && track.state !== "sending", ...told };
}

/** What went wrong, what was kept and what to do, for a request that ended without a picture; else null. */
export function ending(track) {
  if (!ended(track) || track.state === "completed") return null;
  const nothingCounted = "It does not count towards your day.";
  const kept = "Your words are kept.";
  const byCode = {
    REFUSED: ["The model would not draw this.", `${nothingCounted} ${kept}`, "Say it in other words and send it again."],
    INVALID_DIAGRAM: ["What came back was no diagram, even after one repair.", `${nothingCounted} ${track.source ? "The source is kept in its tab." : kept}`, "Choose another kind or ask for less at once."],
    PROVIDER_REJECTED: ["The provider refused this request.", `${nothingCounted} ${kept}`, "Shorten it or say it in other words."],
    PROVIDER_UNAVAILABLE: ["The provider failed on every try.", `${nothingCounted} ${kept}`, "Send it again in a few minutes."],
    WORKER_LOST: ["Three workers were lost over this request.", `${nothingCounted} ${kept}`, "Send it again."],
    NOT_FOUND: ["There is no such diagram.", "Its address may be mistyped, or it is long gone.", "Open one from your history or start a new one."],
  };
  if (track.state === "cancelled") {
    return {
      title: "You cancelled this diagram.",
      told: "",
      kept: track.source ? "Part of it had been drawn, so it counts. The source is kept in its tab." : `${nothingCounted} ${kept}`,
      next: "Send it again whenever you like.",
    };
  }
  if (track.state === "expired") {
    return { title: "Its turn did not come within the time it was given.", told: track.error ?? "", kept: `${nothingCounted} ${kept}`, next: "Send it again." };
  }
  const [title, keptWords, next] = byCode[track.code] ?? ["This diagram was not drawn.", `${nothingCounted} ${kept}`, "Send it again."];
  return { title, told: track.error ?? "", kept: keptWords, next };
}

/** The line of the source that an error message speaks of, from 1; null if it names none. */
export function errorLine(message) {
  const match = /\bline (\d+)/i.exec(message ?? "");
  return match ? Number(match[1]) : null;
}
