"""The bodies and parameters of the contract, and what is wrong with those that came."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from services.gateway.errors import Problem, invalid, not_json

DEPTH_LIMIT = 32
"""Nesting of a body that is still read."""
KINDS = (
    "mermaid", "flowchart", "sequence", "class", "state", "er", "gantt", "mindmap", "pie", "journey", "timeline",
    "quadrant", "gitgraph", "c4", "block", "architecture", "sankey",
)  # fmt: skip
REQUEST_ID = re.compile(r"req_[0-9A-Za-z]{1,60}\Z")
KEY_ID = re.compile(r"key_[0-9A-Za-z]{11}\Z")
_USER_ID = r"[^\x00-\x20\x7f/]{1,128}\Z"
IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")
# \x00 cannot be stored in PostgreSQL; a prompt of blanks asks for nothing. Looking ahead keeps the time linear:
# three repeats in a row took half a minute to refuse 100,000 characters that end in \x00.
_PROMPT = r"^(?=\s*\S)[^\x00]*\Z"

T = TypeVar("T", bound=Struct)

# Patterns end with \Z: $ would let a line break pass, and "active\n" is not "active".
MaxTokens = Annotated[int, Meta(ge=1, le=32_768, description="a whole number from 1 to 32768")]
MaxWait = Annotated[
    int, Meta(ge=1_000, le=86_400_000, description="milliseconds, a whole number from 1000 to 86400000")
]
Priority = Annotated[int, Meta(ge=-10, le=10, description="a whole number from -10 to 10")]
Model = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:/@-]{1,128}\Z", description="the name of a model")]
Prompt = Annotated[
    str, Meta(max_length=100_000, pattern=_PROMPT, description="text of 1 to 100000 characters, not only blanks")
]
Kind = Annotated[str, Meta(pattern=rf"^({'|'.join(KINDS)})\Z", description="one of " + ", ".join(KINDS))]
UserId = Annotated[
    str, Meta(pattern="^" + _USER_ID, description="1 to 128 printable characters without blanks and slashes")
]
Email = Annotated[
    str, Meta(max_length=254, pattern=r"^[^\x00-\x20\x7f@]+@[^\x00-\x20\x7f@]+\Z", description="an e-mail address")
]
TierName = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}\Z", description="the name of a tier")]
Status = Annotated[str, Meta(pattern=r"^(active|suspended)\Z", description="active or suspended")]
# The ranges are quota's.
OwnRequests = Annotated[
    Annotated[int, Meta(ge=0, le=1_000_000_000)] | UnsetType | None,
    Meta(description="a whole number from 0 to 1000000000, or null"),
]
OwnOutstanding = Annotated[
    Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType | None,
    Meta(description="a whole number from 0 to 1000000, or null"),
]
OwnRequestsPerMinute = Annotated[
    Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType | None,
    Meta(description="a whole number from 1 to 1000000, or null"),
]
OwnTokens = Annotated[
    Annotated[int, Meta(ge=0, le=10**15)] | UnsetType | None,
    Meta(description=f"a whole number from 0 to {10**15}, or null"),
]
OwnMoney = Annotated[
    Annotated[int, Meta(ge=0, le=10**18)] | UnsetType | None,
    Meta(description=f"nano-dollars, a whole number from 0 to {10**18}, or null"),
]


PlanName = Annotated[str, Meta(pattern=r"^[^\x00-\x20\x7f]{1,64}\Z", description="the name of a provider plan")]
PoolName = Annotated[str, Meta(pattern=r"^[^\x00-\x20\x7f]{1,64}\Z", description="the name of a pool")]
LimitChange = Annotated[
    Annotated[int, Meta(ge=1, le=10_000_000_000)] | UnsetType | None,
    Meta(description="a whole number from 1 to 10000000000, or null to take it back"),
]


class Options(Struct, rename="camel"):
    """How to draw."""

    max_tokens: MaxTokens = 2_048
    model: Model = ""
    max_wait: MaxWait = 3_600_000
    priority: Priority = 0


class Generate(Struct, rename="camel"):
    """What to draw."""

    prompt: Prompt
    diagram_type: Kind = "mermaid"
    options: Annotated[Options, Meta(description="an object")] = msgspec.field(default_factory=Options)
    webhook_url: Any = UNSET


class NewUser(Struct, rename="camel"):
    """A user to create."""

    tier: TierName = ""
    user_id: UserId = ""
    email: Email = ""


class TierChange(Struct):
    """The tier to hold."""

    tier: TierName


class OwnTerms(Struct, rename="camel", forbid_unknown_fields=True):
    """A user's own terms to change; null takes one back."""

    requests_per_day: OwnRequests = UNSET
    outstanding: OwnOutstanding = UNSET
    price_nano_usd_per_month: OwnMoney = msgspec.field(default=UNSET, name="priceNanoUsd")
    requests_per_minute: OwnRequestsPerMinute = UNSET
    tokens_per_day: OwnTokens = UNSET
    spend_nano_usd_per_month: OwnMoney = UNSET
    spend_nano_usd_per_day: OwnMoney = UNSET

    def changes(self) -> dict[str, int | None]:
        """What is to be changed, by quota's names."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if value is not UNSET}


class ProviderPlanChange(Struct, rename="camel"):
    """The provider plan to switch to, or single limits."""

    plan: PlanName = ""
    pool: PoolName = ""
    requests_per_minute: LimitChange = UNSET
    tokens_per_minute: LimitChange = UNSET
    input_tokens_per_minute: LimitChange = UNSET
    output_tokens_per_minute: LimitChange = UNSET
    requests_per_day: LimitChange = UNSET
    concurrency: LimitChange = UNSET


class StatusChange(Struct):
    """Whether a user may call."""

    status: Status


def read(body: bytes, shape: type[T]) -> T:
    """Reads a body. Problem 400 if it is not JSON, 422 with every wrong field if it is of another shape."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.ValidationError:
        # Well-formed, with a number that nothing here could hold.
        raise invalid(("", "Must not contain numbers beyond the range of a double.")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json(str(error) + ".") from None
    except RecursionError:
        raise _too_deep() from None
    # Counting brackets is a bound on depth that costs nothing; only a body beyond it is looked at closely.
    if body.count(b"{") + body.count(b"[") > DEPTH_LIMIT:
        _check_depth(value)
    try:
        # Never from the bytes again: what came twice or is broken further on was judged differently there.
        return msgspec.convert(value, shape)
    except msgspec.ValidationError:
        raise invalid(*_wrong_fields(value, shape, "")) from None


def _too_deep() -> Problem:
    return invalid(("", f"Must not be nested deeper than {DEPTH_LIMIT} levels."))


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    if any(isinstance(item, (dict, list)) for item in level):
        raise _too_deep()


def _wrong_fields(value: Any, shape: type[Struct], prefix: str) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(prefix.rstrip("."), "Must be an object.")]
    wrong: list[tuple[str, str]] = []
    known = msgspec.structs.fields(shape)
    if shape.__struct_config__.forbid_unknown_fields:
        names = [field.encode_name for field in known]
        wrong += [(name, f"{name} is none of {', '.join(names)}.") for name in value.keys() - set(names)]
    for field in known:
        path = prefix + field.encode_name
        if field.encode_name not in value:
            if field.required:
                wrong.append((path, f"{path} is missing: it must be {_description(field.type)}."))
            continue
        inner = get_args(field.type)[0] if get_args(field.type) else field.type
        if isinstance(inner, type) and issubclass(inner, Struct) and isinstance(value[field.encode_name], dict):
            wrong += _wrong_fields(value[field.encode_name], inner, path + ".")
            continue
        try:
            msgspec.convert(value[field.encode_name], field.type)
        except msgspec.ValidationError:
            wrong.append((path, f"{path} must be {_description(field.type)}."))
    return wrong


def _description(annotated: Any) -> str:
    return next((meta.description for meta in get_args(annotated)[1:] if meta.description), "valid")


def idempotency_key(text: str) -> str:
    """The key itself, whether it came bare or as a quoted string of RFC 8941."""
    key = text.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = re.sub(r'\\(["\\])', r"\1", key[1:-1])
    if not IDEMPOTENCY_KEY.match(key):
        raise invalid(("Idempotency-Key", "Idempotency-Key must have 1 to 255 printable ASCII characters."))
    return key


def is_user_id(text: str) -> bool:
    """Whether a user can be called that; what is printable is more than a pattern of a field can say."""
    return re.match(_USER_ID, text) is not None and text.isprintable()


def whole_number(path: str, text: str, least: int, most: int) -> int:
    """A parameter that is a whole number in a range."""
    # isdecimal alone also holds for digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and least <= int(text) <= most):
        raise invalid((path, f"{path} must be a whole number from {least} to {most}."))
    return int(text)


def flag(path: str, text: str) -> bool:
    """A parameter that is true or false."""
    if text not in ("true", "false"):
        raise invalid((path, f"{path} must be true or false."))
    return text == "true"


def one_of(path: str, text: str, allowed: Iterable[str]) -> str:
    """A parameter that is one of some words; an empty one stands for none and is not named."""
    if text not in allowed:
        raise invalid((path, f"{path} must be one of {', '.join(filter(None, allowed))}."))
    return text


def printable(path: str, text: str, most: int) -> str:
    """A parameter of at most so many printable characters."""
    if not (len(text) <= most and text.isprintable()):
        raise invalid((path, f"{path} must have at most {most} printable characters."))
    return text
