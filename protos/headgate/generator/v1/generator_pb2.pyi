import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Dimension(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIMENSION_UNSPECIFIED: _ClassVar[Dimension]
    DIMENSION_REQUESTS: _ClassVar[Dimension]
    DIMENSION_TOKENS: _ClassVar[Dimension]
    DIMENSION_INPUT_TOKENS: _ClassVar[Dimension]
    DIMENSION_OUTPUT_TOKENS: _ClassVar[Dimension]

class FailureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_KIND_UNSPECIFIED: _ClassVar[FailureKind]
    FAILURE_KIND_RATE_LIMITED: _ClassVar[FailureKind]
    FAILURE_KIND_RAMP_LIMITED: _ClassVar[FailureKind]
    FAILURE_KIND_ACCOUNT: _ClassVar[FailureKind]
    FAILURE_KIND_UNAVAILABLE: _ClassVar[FailureKind]
    FAILURE_KIND_REJECTED: _ClassVar[FailureKind]
    FAILURE_KIND_REFUSED: _ClassVar[FailureKind]
    FAILURE_KIND_INVALID_DIAGRAM: _ClassVar[FailureKind]
DIMENSION_UNSPECIFIED: Dimension
DIMENSION_REQUESTS: Dimension
DIMENSION_TOKENS: Dimension
DIMENSION_INPUT_TOKENS: Dimension
DIMENSION_OUTPUT_TOKENS: Dimension
FAILURE_KIND_UNSPECIFIED: FailureKind
FAILURE_KIND_RATE_LIMITED: FailureKind
FAILURE_KIND_RAMP_LIMITED: FailureKind
FAILURE_KIND_ACCOUNT: FailureKind
FAILURE_KIND_UNAVAILABLE: FailureKind
FAILURE_KIND_REJECTED: FailureKind
FAILURE_KIND_REFUSED: FailureKind
FAILURE_KIND_INVALID_DIAGRAM: FailureKind

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "attempt", "prompt", "diagram_type", "model", "max_tokens")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    DIAGRAM_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    prompt: str
    diagram_type: str
    model: str
    max_tokens: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., prompt: _Optional[str] = ..., diagram_type: _Optional[str] = ..., model: _Optional[str] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "delta", "usage", "heartbeat", "result")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    started: Started
    delta: Delta
    usage: Usage
    heartbeat: Heartbeat
    result: Result
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("turn", "limits", "provider_request_id")
    TURN_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    turn: int
    limits: _containers.RepeatedCompositeFieldContainer[ProviderLimit]
    provider_request_id: str
    def __init__(self, turn: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[ProviderLimit, _Mapping]]] = ..., provider_request_id: _Optional[str] = ...) -> None: ...

class ProviderLimit(_message.Message):
    __slots__ = ("dimension", "limit_per_minute", "remaining", "reset_after")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RESET_AFTER_FIELD_NUMBER: _ClassVar[int]
    dimension: Dimension
    limit_per_minute: int
    remaining: int
    reset_after: _duration_pb2.Duration
    def __init__(self, dimension: _Optional[_Union[Dimension, str]] = ..., limit_per_minute: _Optional[int] = ..., remaining: _Optional[int] = ..., reset_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "offset", "turn")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    text: str
    offset: int
    turn: int
    def __init__(self, text: _Optional[str] = ..., offset: _Optional[int] = ..., turn: _Optional[int] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("turn", "model", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_5m_input_tokens", "cache_write_1h_input_tokens", "estimated")
    TURN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_5M_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    turn: int
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_5m_input_tokens: int
    cache_write_1h_input_tokens: int
    estimated: bool
    def __init__(self, turn: _Optional[int] = ..., model: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cache_read_input_tokens: _Optional[int] = ..., cache_write_5m_input_tokens: _Optional[int] = ..., cache_write_1h_input_tokens: _Optional[int] = ..., estimated: _Optional[bool] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("turn",)
    TURN_FIELD_NUMBER: _ClassVar[int]
    turn: int
    def __init__(self, turn: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("source", "svg", "truncated", "diagram_type", "template_version")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SVG_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    DIAGRAM_TYPE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    source: str
    svg: str
    truncated: bool
    diagram_type: str
    template_version: int
    def __init__(self, source: _Optional[str] = ..., svg: _Optional[str] = ..., truncated: _Optional[bool] = ..., diagram_type: _Optional[str] = ..., template_version: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[ProviderLimit]
    def __init__(self, limits: _Optional[_Iterable[_Union[ProviderLimit, _Mapping]]] = ...) -> None: ...

class CountTokensRequest(_message.Message):
    __slots__ = ("prompt", "diagram_type", "model")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    DIAGRAM_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    diagram_type: str
    model: str
    def __init__(self, prompt: _Optional[str] = ..., diagram_type: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class CountTokensResponse(_message.Message):
    __slots__ = ("input_tokens",)
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    def __init__(self, input_tokens: _Optional[int] = ...) -> None: ...

class UpstreamFailure(_message.Message):
    __slots__ = ("kind", "http_status", "provider_error_type", "provider_error_code", "message", "retry_after", "limits", "spent_tokens")
    KIND_FIELD_NUMBER: _ClassVar[int]
    HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SPENT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    kind: FailureKind
    http_status: int
    provider_error_type: str
    provider_error_code: str
    message: str
    retry_after: _duration_pb2.Duration
    limits: _containers.RepeatedCompositeFieldContainer[ProviderLimit]
    spent_tokens: bool
    def __init__(self, kind: _Optional[_Union[FailureKind, str]] = ..., http_status: _Optional[int] = ..., provider_error_type: _Optional[str] = ..., provider_error_code: _Optional[str] = ..., message: _Optional[str] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., limits: _Optional[_Iterable[_Union[ProviderLimit, _Mapping]]] = ..., spent_tokens: _Optional[bool] = ...) -> None: ...
