// Sending once and for certain: the same idempotency key until the gateway has answered.

// Together about 12 s: longer outages are shown to the person, who decides.
const PAUSES_MS = [400, 1_200, 3_000, 7_000];

const mayHaveArrived = (error) => error.code === "OFFLINE" || (error.code === "UNAVAILABLE" && error.status >= 500) || (error.code === "IDEMPOTENCY_CONFLICT" && error.status === 409);

/**
 * The 202 body. Repeats while the outcome is unknown; throws the last ApiError otherwise.
 * @param pause resolves after that many milliseconds
 * @param onRetry is told before each repeat
 */
export async function submit(api, request, { idempotencyKey, pause, onRetry = () => {} }) {
  for (const pauseMs of [...PAUSES_MS, null]) {
    try {
      return await api.generate(request, idempotencyKey);
    } catch (error) {
      if (pauseMs === null || !mayHaveArrived(error)) throw error;
      onRetry(error);
      await pause(Math.max(pauseMs, Math.min(error.retryAfterMs ?? 0, 10_000)));
    }
  }
  throw new Error("unreachable");
}
