"""The caller's day as the RateLimit header fields of the IETF draft."""

from __future__ import annotations

import math
import time

from google.protobuf.timestamp_pb2 import Timestamp
from headgate.quota.v1 import quota_pb2

DAY_S = 86_400


def headers(usage: quota_pb2.DayUsage, *, given_back: int = 0) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy`; `given_back` places were returned since `usage` was read."""
    remaining = max(0, usage.limit - usage.used + given_back)
    return {
        "RateLimit-Policy": f'"daily";q={usage.limit};w={DAY_S}',
        "RateLimit": f'"daily";r={remaining};t={seconds_until(usage.reset_time)}',
    }


def seconds_until(moment: Timestamp) -> int:
    """Whole seconds, rounded up; none for what is past."""
    return max(0, math.ceil(moment.ToMilliseconds() / 1000 - time.time()))
