import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_QUEUED: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_COMPLETED: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
    STATE_CANCELLED: _ClassVar[State]
    STATE_EXPIRED: _ClassVar[State]

class FailureCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CODE_UNSPECIFIED: _ClassVar[FailureCode]
    FAILURE_CODE_REFUSED: _ClassVar[FailureCode]
    FAILURE_CODE_INVALID_DIAGRAM: _ClassVar[FailureCode]
    FAILURE_CODE_PROVIDER_REJECTED: _ClassVar[FailureCode]
    FAILURE_CODE_PROVIDER_UNAVAILABLE: _ClassVar[FailureCode]
    FAILURE_CODE_WORKER_LOST: _ClassVar[FailureCode]
    FAILURE_CODE_EXPIRED: _ClassVar[FailureCode]
    FAILURE_CODE_CANCELLED: _ClassVar[FailureCode]
    FAILURE_CODE_NOT_FOUND: _ClassVar[FailureCode]

class PauseReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAUSE_REASON_UNSPECIFIED: _ClassVar[PauseReason]
    PAUSE_REASON_PROVIDER_LIMIT: _ClassVar[PauseReason]
    PAUSE_REASON_PROVIDER_DOWN: _ClassVar[PauseReason]
    PAUSE_REASON_PROVIDER_ACCOUNT: _ClassVar[PauseReason]
    PAUSE_REASON_SPEND_LIMIT: _ClassVar[PauseReason]
    PAUSE_REASON_OPERATOR: _ClassVar[PauseReason]
    PAUSE_REASON_STORAGE: _ClassVar[PauseReason]

class Standing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STANDING_UNSPECIFIED: _ClassVar[Standing]
    STANDING_LIVE: _ClassVar[Standing]
    STANDING_ENDED: _ClassVar[Standing]
    STANDING_ABSENT: _ClassVar[Standing]
STATE_UNSPECIFIED: State
STATE_QUEUED: State
STATE_RUNNING: State
STATE_COMPLETED: State
STATE_FAILED: State
STATE_CANCELLED: State
STATE_EXPIRED: State
FAILURE_CODE_UNSPECIFIED: FailureCode
FAILURE_CODE_REFUSED: FailureCode
FAILURE_CODE_INVALID_DIAGRAM: FailureCode
FAILURE_CODE_PROVIDER_REJECTED: FailureCode
FAILURE_CODE_PROVIDER_UNAVAILABLE: FailureCode
FAILURE_CODE_WORKER_LOST: FailureCode
FAILURE_CODE_EXPIRED: FailureCode
FAILURE_CODE_CANCELLED: FailureCode
FAILURE_CODE_NOT_FOUND: FailureCode
PAUSE_REASON_UNSPECIFIED: PauseReason
PAUSE_REASON_PROVIDER_LIMIT: PauseReason
PAUSE_REASON_PROVIDER_DOWN: PauseReason
PAUSE_REASON_PROVIDER_ACCOUNT: PauseReason
PAUSE_REASON_SPEND_LIMIT: PauseReason
PAUSE_REASON_OPERATOR: PauseReason
PAUSE_REASON_STORAGE: PauseReason
STANDING_UNSPECIFIED: Standing
STANDING_LIVE: Standing
STANDING_ENDED: Standing
STANDING_ABSENT: Standing

class SubmitRequest(_message.Message):
    __slots__ = ("request_id", "user_id", "tier", "generation", "day", "settled", "work", "priority", "max_wait", "idempotent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    tier: TierTerms
    generation: int
    day: str
    settled: bool
    work: Work
    priority: int
    max_wait: _duration_pb2.Duration
    idempotent: bool
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., tier: _Optional[_Union[TierTerms, _Mapping]] = ..., generation: _Optional[int] = ..., day: _Optional[str] = ..., settled: _Optional[bool] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., priority: _Optional[int] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idempotent: _Optional[bool] = ...) -> None: ...

class TierTerms(_message.Message):
    __slots__ = ("name", "version", "share", "outstanding", "models", "all_models", "user_spend_nano_usd_per_day", "tier_spend_nano_usd_per_day")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ALL_MODELS_FIELD_NUMBER: _ClassVar[int]
    USER_SPEND_NANO_USD_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    TIER_SPEND_NANO_USD_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    share: int
    outstanding: int
    models: _containers.RepeatedScalarFieldContainer[str]
    all_models: bool
    user_spend_nano_usd_per_day: int
    tier_spend_nano_usd_per_day: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., share: _Optional[int] = ..., outstanding: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., all_models: _Optional[bool] = ..., user_spend_nano_usd_per_day: _Optional[int] = ..., tier_spend_nano_usd_per_day: _Optional[int] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("prompt", "diagram_type", "model", "max_tokens")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    DIAGRAM_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    diagram_type: str
    model: str
    max_tokens: int
    def __init__(self, prompt: _Optional[str] = ..., diagram_type: _Optional[str] = ..., model: _Optional[str] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("request", "replayed")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    request: Request
    replayed: bool
    def __init__(self, request: _Optional[_Union[Request, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("position", "estimated_wait", "paused", "paused_until")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_WAIT_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    position: int
    estimated_wait: _duration_pb2.Duration
    paused: PauseReason
    paused_until: _timestamp_pb2.Timestamp
    def __init__(self, position: _Optional[int] = ..., estimated_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., paused: _Optional[_Union[PauseReason, str]] = ..., paused_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("request_id", "user_id", "tier", "state", "place", "diagram_type", "model", "priority", "attempts", "accept_time", "start_time", "end_time", "deadline", "result", "svg", "has_svg", "truncated", "cached", "error", "code", "usage", "cost_nano_usd", "cost_estimated", "trace_id", "prompt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    DIAGRAM_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SVG_FIELD_NUMBER: _ClassVar[int]
    HAS_SVG_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    COST_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    tier: str
    state: State
    place: Place
    diagram_type: str
    model: str
    priority: int
    attempts: int
    accept_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    deadline: _timestamp_pb2.Timestamp
    result: str
    svg: str
    has_svg: bool
    truncated: bool
    cached: bool
    error: str
    code: FailureCode
    usage: TokenUsage
    cost_nano_usd: int
    cost_estimated: bool
    trace_id: str
    prompt: str
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., tier: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., place: _Optional[_Union[Place, _Mapping]] = ..., diagram_type: _Optional[str] = ..., model: _Optional[str] = ..., priority: _Optional[int] = ..., attempts: _Optional[int] = ..., accept_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result: _Optional[str] = ..., svg: _Optional[str] = ..., has_svg: _Optional[bool] = ..., truncated: _Optional[bool] = ..., cached: _Optional[bool] = ..., error: _Optional[str] = ..., code: _Optional[_Union[FailureCode, str]] = ..., usage: _Optional[_Union[TokenUsage, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ..., cost_estimated: _Optional[bool] = ..., trace_id: _Optional[str] = ..., prompt: _Optional[str] = ...) -> None: ...

class TokenUsage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cache_read_input_tokens: _Optional[int] = ..., cache_write_input_tokens: _Optional[int] = ...) -> None: ...

class AccountRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[AccountItem]
    def __init__(self, items: _Optional[_Iterable[_Union[AccountItem, _Mapping]]] = ...) -> None: ...

class AccountItem(_message.Message):
    __slots__ = ("request_id", "generation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    generation: int
    def __init__(self, request_id: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class AccountResponse(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[AccountAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[AccountAnswer, _Mapping]]] = ...) -> None: ...

class AccountAnswer(_message.Message):
    __slots__ = ("request_id", "standing", "counted")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    standing: Standing
    counted: bool
    def __init__(self, request_id: _Optional[str] = ..., standing: _Optional[_Union[Standing, str]] = ..., counted: _Optional[bool] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("request_id", "user_id", "include_svg", "include_prompt", "operator")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SVG_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    include_svg: bool
    include_prompt: bool
    operator: bool
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., include_svg: _Optional[bool] = ..., include_prompt: _Optional[bool] = ..., operator: _Optional[bool] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: Request
    def __init__(self, request: _Optional[_Union[Request, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("user_id", "page_size", "page_token")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    page_size: int
    page_token: str
    def __init__(self, user_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("requests", "next_page_token")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[Request]
    next_page_token: str
    def __init__(self, requests: _Optional[_Iterable[_Union[Request, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("request_id", "user_id", "erase")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    erase: bool
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., erase: _Optional[bool] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: Request
    def __init__(self, request: _Optional[_Union[Request, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("subscribe", "unsubscribe")
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    UNSUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    subscribe: _containers.RepeatedScalarFieldContainer[str]
    unsubscribe: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, subscribe: _Optional[_Iterable[str]] = ..., unsubscribe: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("subscribed", "events")
    SUBSCRIBED_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    subscribed: _containers.RepeatedScalarFieldContainer[str]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, subscribed: _Optional[_Iterable[str]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("request_id", "seq", "status", "processing", "delta", "retrying", "ended")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    RETRYING_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    seq: int
    status: Place
    processing: Processing
    delta: Delta
    retrying: Retrying
    ended: Request
    def __init__(self, request_id: _Optional[str] = ..., seq: _Optional[int] = ..., status: _Optional[_Union[Place, _Mapping]] = ..., processing: _Optional[_Union[Processing, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ..., retrying: _Optional[_Union[Retrying, _Mapping]] = ..., ended: _Optional[_Union[Request, _Mapping]] = ...) -> None: ...

class Processing(_message.Message):
    __slots__ = ("attempt",)
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    def __init__(self, attempt: _Optional[int] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "attempt", "offset")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    text: str
    attempt: int
    offset: int
    def __init__(self, text: _Optional[str] = ..., attempt: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Retrying(_message.Message):
    __slots__ = ("reason", "delay", "attempt")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    delay: _duration_pb2.Duration
    attempt: int
    def __init__(self, reason: _Optional[str] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., attempt: _Optional[int] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ReplayItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ReplayItem, _Mapping]]] = ...) -> None: ...

class ReplayItem(_message.Message):
    __slots__ = ("request_id", "after", "user_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    after: int
    user_id: str
    def __init__(self, request_id: _Optional[str] = ..., after: _Optional[int] = ..., user_id: _Optional[str] = ...) -> None: ...

class ReplayResponse(_message.Message):
    __slots__ = ("replayed",)
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    replayed: _containers.RepeatedCompositeFieldContainer[Replayed]
    def __init__(self, replayed: _Optional[_Iterable[_Union[Replayed, _Mapping]]] = ...) -> None: ...

class Replayed(_message.Message):
    __slots__ = ("request_id", "found", "events", "request", "seq")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    found: bool
    events: _containers.RepeatedCompositeFieldContainer[Event]
    request: Request
    seq: int
    def __init__(self, request_id: _Optional[str] = ..., found: _Optional[bool] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., seq: _Optional[int] = ...) -> None: ...

class GetWaitRequest(_message.Message):
    __slots__ = ("user_id", "tier", "model")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    tier: TierTerms
    model: str
    def __init__(self, user_id: _Optional[str] = ..., tier: _Optional[_Union[TierTerms, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class GetWaitResponse(_message.Message):
    __slots__ = ("place", "outstanding")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    place: Place
    outstanding: int
    def __init__(self, place: _Optional[_Union[Place, _Mapping]] = ..., outstanding: _Optional[int] = ...) -> None: ...

class GetQueueRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetQueueResponse(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[PoolQueue]
    def __init__(self, pools: _Optional[_Iterable[_Union[PoolQueue, _Mapping]]] = ...) -> None: ...

class PoolQueue(_message.Message):
    __slots__ = ("pool", "paused", "paused_until", "running", "tiers")
    POOL_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    pool: str
    paused: PauseReason
    paused_until: _timestamp_pb2.Timestamp
    running: int
    tiers: _containers.RepeatedCompositeFieldContainer[TierQueue]
    def __init__(self, pool: _Optional[str] = ..., paused: _Optional[_Union[PauseReason, str]] = ..., paused_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., running: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[TierQueue, _Mapping]]] = ...) -> None: ...

class TierQueue(_message.Message):
    __slots__ = ("tier", "queued", "oldest_accept_time")
    TIER_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_ACCEPT_TIME_FIELD_NUMBER: _ClassVar[int]
    tier: str
    queued: int
    oldest_accept_time: _timestamp_pb2.Timestamp
    def __init__(self, tier: _Optional[str] = ..., queued: _Optional[int] = ..., oldest_accept_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetCapacityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapacityResponse(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[PoolCapacity]
    def __init__(self, pools: _Optional[_Iterable[_Union[PoolCapacity, _Mapping]]] = ...) -> None: ...

class PoolCapacity(_message.Message):
    __slots__ = ("pool", "limits", "advice")
    POOL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    pool: str
    limits: _containers.RepeatedCompositeFieldContainer[LimitUse]
    advice: str
    def __init__(self, pool: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[LimitUse, _Mapping]]] = ..., advice: _Optional[str] = ...) -> None: ...

class LimitUse(_message.Message):
    __slots__ = ("dimension", "limit", "source", "used", "refusals", "peak", "exhaustion_time")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTION_TIME_FIELD_NUMBER: _ClassVar[int]
    dimension: str
    limit: int
    source: str
    used: int
    refusals: int
    peak: int
    exhaustion_time: _timestamp_pb2.Timestamp
    def __init__(self, dimension: _Optional[str] = ..., limit: _Optional[int] = ..., source: _Optional[str] = ..., used: _Optional[int] = ..., refusals: _Optional[int] = ..., peak: _Optional[int] = ..., exhaustion_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetProviderPlanRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetProviderPlanResponse(_message.Message):
    __slots__ = ("plan", "names")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    plan: ProviderPlan
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plan: _Optional[_Union[ProviderPlan, _Mapping]] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class ProviderPlan(_message.Message):
    __slots__ = ("name", "version", "overrides", "actor", "change_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    overrides: _containers.RepeatedCompositeFieldContainer[LimitOverride]
    actor: str
    change_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., overrides: _Optional[_Iterable[_Union[LimitOverride, _Mapping]]] = ..., actor: _Optional[str] = ..., change_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LimitOverride(_message.Message):
    __slots__ = ("pool", "dimension", "limit")
    POOL_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    pool: str
    dimension: str
    limit: int
    def __init__(self, pool: _Optional[str] = ..., dimension: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class SetProviderPlanRequest(_message.Message):
    __slots__ = ("name", "overrides", "keep_overrides", "actor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    KEEP_OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    overrides: _containers.RepeatedCompositeFieldContainer[LimitOverride]
    keep_overrides: bool
    actor: str
    def __init__(self, name: _Optional[str] = ..., overrides: _Optional[_Iterable[_Union[LimitOverride, _Mapping]]] = ..., keep_overrides: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class SetProviderPlanResponse(_message.Message):
    __slots__ = ("plan", "previous")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    plan: ProviderPlan
    previous: ProviderPlan
    def __init__(self, plan: _Optional[_Union[ProviderPlan, _Mapping]] = ..., previous: _Optional[_Union[ProviderPlan, _Mapping]] = ...) -> None: ...

class PausePoolRequest(_message.Message):
    __slots__ = ("pool", "actor")
    POOL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    pool: str
    actor: str
    def __init__(self, pool: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class PausePoolResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumePoolRequest(_message.Message):
    __slots__ = ("pool", "actor")
    POOL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    pool: str
    actor: str
    def __init__(self, pool: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ResumePoolResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAlertsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAlertsResponse(_message.Message):
    __slots__ = ("alerts",)
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    def __init__(self, alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("subject", "message", "raise_time")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RAISE_TIME_FIELD_NUMBER: _ClassVar[int]
    subject: str
    message: str
    raise_time: _timestamp_pb2.Timestamp
    def __init__(self, subject: _Optional[str] = ..., message: _Optional[str] = ..., raise_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ApplyTiersRequest(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[TierChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[TierChange, _Mapping]]] = ...) -> None: ...

class TierChange(_message.Message):
    __slots__ = ("user_id", "tier")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    tier: TierTerms
    def __init__(self, user_id: _Optional[str] = ..., tier: _Optional[_Union[TierTerms, _Mapping]] = ...) -> None: ...

class ApplyTiersResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
