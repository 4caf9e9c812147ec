"""Domain to proto and back. Pure, and nothing but translation."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import quota_pb2 as quota
from headgate.scheduler.v1 import scheduler_pb2 as pb

from services.scheduler.life import Request, Settlement, Standing, State, TierTerms, Turn
from services.scheduler.waits import Place
from services.scheduler.watches import Happened

STANDINGS = {
    Standing.LIVE: pb.STANDING_LIVE,
    Standing.ENDED: pb.STANDING_ENDED,
    Standing.ABSENT: pb.STANDING_ABSENT,
}


def timestamp(moment_ms: int | None) -> Timestamp | None:
    """A moment; None stays absent."""
    if moment_ms is None:
        return None
    message = Timestamp()
    message.FromMilliseconds(moment_ms)
    return message


def duration(length_ms: int) -> Duration:
    """A length of time."""
    message = Duration()
    message.FromMilliseconds(length_ms)
    return message


def place(value: Place) -> pb.Place:
    """A place in line."""
    return pb.Place(
        position=value.position,
        estimated_wait=duration(value.wait_ms),
        paused=f"PAUSE_REASON_{value.paused.upper() or 'UNSPECIFIED'}",
        paused_until=timestamp(value.paused_until_ms),
    )


def request(row: Request, where: Place | None = None, *, owner: bool) -> pb.Request:
    """A request; cost and prompt only for its owner."""
    message = pb.Request(
        request_id=row.request_id,
        user_id=row.user_id if owner else "",
        tier=row.tier if owner else "",
        state=f"STATE_{row.state.name}",
        place=place(where) if where and row.state is State.QUEUED else None,
        diagram_type=row.diagram_type,
        model=row.model,
        priority=row.priority,
        attempts=row.attempt,
        accept_time=timestamp(row.accepted_ms),
        start_time=timestamp(row.started_ms),
        end_time=timestamp(row.ended_ms),
        deadline=timestamp(row.deadline_ms),
        result=row.result,
        svg=row.svg,
        has_svg=row.has_svg,
        truncated=row.truncated,
        cached=row.cached,
        error=row.error,
        code=f"FAILURE_CODE_{row.code.value if row.code else 'UNSPECIFIED'}",
        usage=usage(row),
        trace_id=row.traceparent.split("-")[1] if owner and row.traceparent else "",
    )
    if owner:
        message.cost_nano_usd = row.cost_nano_usd
        message.cost_estimated = row.cost_estimated
        message.prompt = row.prompt
    return message


def usage(row: Request) -> pb.TokenUsage:
    """What a request used over all attempts."""
    return pb.TokenUsage(
        input_tokens=row.tokens.input,
        output_tokens=row.tokens.output,
        cache_read_input_tokens=row.tokens.cache_read,
        cache_write_input_tokens=row.tokens.cache_write_5m + row.tokens.cache_write_1h,
    )


def event(happened: Happened) -> pb.Event:
    """An event of a watch; its gateway knows who may see what a request cost."""
    message = pb.Event(request_id=happened.request_id, seq=happened.seq)
    what = happened.event
    if isinstance(what, Place):
        message.status.CopyFrom(place(what))
    elif isinstance(what, Request):
        message.ended.CopyFrom(request(what, owner=True))
    elif what["type"] == "processing":
        message.processing.attempt = what["attempt"]
    elif what["type"] == "delta":
        message.delta.CopyFrom(pb.Delta(text=what["text"], attempt=what["attempt"], offset=what["offset"]))
    elif what["type"] == "retrying":
        delay = duration(what["delay"])
        message.retrying.CopyFrom(pb.Retrying(reason=what["reason"], delay=delay, attempt=what["attempt"]))
    return message


def terms(message: pb.TierTerms) -> TierTerms:
    """A tier's terms."""
    of_user = message.user_spend_nano_usd_per_day if message.HasField("user_spend_nano_usd_per_day") else None
    of_tier = message.tier_spend_nano_usd_per_day if message.HasField("tier_spend_nano_usd_per_day") else None
    return TierTerms(message.name, message.version, message.share, message.outstanding, of_user, of_tier)


def settlement(value: Settlement) -> quota.Settlement:
    """What quota hears."""
    return quota.Settlement(
        request_id=value.request_id,
        user_id=value.user_id,
        counted=value.counted,
        final=value.final,
        charges=[_charge(value.kind, turn) for turn in value.turns],
        day=value.day,
        tier=value.tier,
        completed=value.completed,
        cached=value.cached,
        saved_nano_usd=value.saved_nano_usd,
        kind=value.kind,
        model=value.model,
    )


def _charge(kind: str, turn: Turn) -> quota.Charge:
    return quota.Charge(
        attempt=turn.attempt,
        turn=turn.turn,
        model=turn.model,
        input_tokens=turn.tokens.input,
        output_tokens=turn.tokens.output,
        cache_read_input_tokens=turn.tokens.cache_read,
        cache_write_5m_input_tokens=turn.tokens.cache_write_5m,
        cache_write_1h_input_tokens=turn.tokens.cache_write_1h,
        cost_nano_usd=turn.cost_nano_usd,
        estimated=turn.estimated,
        end_time=timestamp(turn.ended_ms),
        kind=kind,
    )
