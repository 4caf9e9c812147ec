"""Refusals as google.rpc.Status, and back. The one mapping at every gRPC edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

M = TypeVar("M", bound=Message)


@dataclass(eq=False)
class Refusal(Exception):
    """A call that was understood and refused, on either side of the wire. (Not frozen: Python writes its traceback.)"""

    code: grpc.StatusCode
    """The canonical code."""
    reason: str
    """The reason in capitals; with `domain` it is what programs decide by."""
    message: str
    """A sentence for people, without keys or prompts."""
    domain: str = ""
    """Who refused ("quota.headgate")."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Figures that belong to the reason."""
    retry_after_ms: int | None = None
    """When asking again may help."""
    details: tuple[Message, ...] = ()
    """Further typed details."""

    def detail(self, message_type: type[M]) -> M | None:
        """The first detail of that type."""
        return next((d for d in self.details if isinstance(d, message_type)), None)


async def abort(context: grpc.aio.ServicerContext, refusal: Refusal) -> NoReturn:  # type: ignore[type-arg]
    """Ends the call with the refusal and all its details."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=refusal.domain, metadata=refusal.metadata)
    ]
    if refusal.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(refusal.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    for detail in [*details, *refusal.details]:
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("unreachable")


def refusal_of(error: grpc.aio.AioRpcError, detail_types: Iterable[type[Message]] = ()) -> Refusal:
    """Reads a failed call back. A failure without ErrorInfo has the code's name as its reason."""
    status = _status_of(error)
    reason, domain, metadata, delay_ms = error.code().name, "", {}, None
    details: list[Message] = []
    for packed in status.details if status else ():
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            reason, domain, metadata = info.reason, info.domain, dict(info.metadata)
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            delay_ms = retry.retry_delay.ToMilliseconds()
        for message_type in detail_types:
            if packed.Is(message_type.DESCRIPTOR):
                message = message_type()
                packed.Unpack(message)
                details.append(message)
    return Refusal(error.code(), reason, error.details() or reason, domain, metadata, delay_ms, tuple(details))


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return None
