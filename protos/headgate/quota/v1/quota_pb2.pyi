import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UserStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USER_STATUS_UNSPECIFIED: _ClassVar[UserStatus]
    USER_STATUS_ACTIVE: _ClassVar[UserStatus]
    USER_STATUS_SUSPENDED: _ClassVar[UserStatus]

class ReservationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESERVATION_STATE_UNSPECIFIED: _ClassVar[ReservationState]
    RESERVATION_STATE_PENDING: _ClassVar[ReservationState]
    RESERVATION_STATE_COUNTED: _ClassVar[ReservationState]
    RESERVATION_STATE_GIVEN_BACK: _ClassVar[ReservationState]
    RESERVATION_STATE_ABSENT: _ClassVar[ReservationState]

class Limit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_UNSPECIFIED: _ClassVar[Limit]
    LIMIT_REQUESTS_PER_DAY: _ClassVar[Limit]
    LIMIT_REQUESTS_PER_MINUTE: _ClassVar[Limit]
    LIMIT_TOKENS_PER_DAY: _ClassVar[Limit]
    LIMIT_SPEND_PER_MONTH: _ClassVar[Limit]
USER_STATUS_UNSPECIFIED: UserStatus
USER_STATUS_ACTIVE: UserStatus
USER_STATUS_SUSPENDED: UserStatus
RESERVATION_STATE_UNSPECIFIED: ReservationState
RESERVATION_STATE_PENDING: ReservationState
RESERVATION_STATE_COUNTED: ReservationState
RESERVATION_STATE_GIVEN_BACK: ReservationState
RESERVATION_STATE_ABSENT: ReservationState
LIMIT_UNSPECIFIED: Limit
LIMIT_REQUESTS_PER_DAY: Limit
LIMIT_REQUESTS_PER_MINUTE: Limit
LIMIT_TOKENS_PER_DAY: Limit
LIMIT_SPEND_PER_MONTH: Limit

class Caller(_message.Message):
    __slots__ = ("api_key", "user_id", "create_if_missing")
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_IF_MISSING_FIELD_NUMBER: _ClassVar[int]
    api_key: str
    user_id: str
    create_if_missing: bool
    def __init__(self, api_key: _Optional[str] = ..., user_id: _Optional[str] = ..., create_if_missing: _Optional[bool] = ...) -> None: ...

class AuthenticateRequest(_message.Message):
    __slots__ = ("caller",)
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ...) -> None: ...

class AuthenticateResponse(_message.Message):
    __slots__ = ("user", "tier", "key_id")
    USER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    user: User
    tier: Tier
    key_id: str
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ..., tier: _Optional[_Union[Tier, _Mapping]] = ..., key_id: _Optional[str] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("user_id", "email", "tier", "tier_version", "status", "create_time", "limits")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    TIER_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    email: str
    tier: str
    tier_version: int
    status: UserStatus
    create_time: _timestamp_pb2.Timestamp
    limits: UserLimits
    def __init__(self, user_id: _Optional[str] = ..., email: _Optional[str] = ..., tier: _Optional[str] = ..., tier_version: _Optional[int] = ..., status: _Optional[_Union[UserStatus, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limits: _Optional[_Union[UserLimits, _Mapping]] = ...) -> None: ...

class UserLimits(_message.Message):
    __slots__ = ("requests_per_day", "outstanding", "price_nano_usd_per_month", "requests_per_minute", "tokens_per_day", "spend_nano_usd_per_month", "spend_nano_usd_per_day")
    REQUESTS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    PRICE_NANO_USD_PER_MONTH_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    SPEND_NANO_USD_PER_MONTH_FIELD_NUMBER: _ClassVar[int]
    SPEND_NANO_USD_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    requests_per_day: int
    outstanding: int
    price_nano_usd_per_month: int
    requests_per_minute: int
    tokens_per_day: int
    spend_nano_usd_per_month: int
    spend_nano_usd_per_day: int
    def __init__(self, requests_per_day: _Optional[int] = ..., outstanding: _Optional[int] = ..., price_nano_usd_per_month: _Optional[int] = ..., requests_per_minute: _Optional[int] = ..., tokens_per_day: _Optional[int] = ..., spend_nano_usd_per_month: _Optional[int] = ..., spend_nano_usd_per_day: _Optional[int] = ...) -> None: ...

class Tier(_message.Message):
    __slots__ = ("name", "title", "requests_per_day", "outstanding", "share", "price_nano_usd_per_month", "price", "models", "all_models", "upgrade_url", "requests_per_minute", "tokens_per_day", "spend_nano_usd_per_month", "spend_nano_usd_per_day")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    PRICE_NANO_USD_PER_MONTH_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ALL_MODELS_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_URL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    SPEND_NANO_USD_PER_MONTH_FIELD_NUMBER: _ClassVar[int]
    SPEND_NANO_USD_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    requests_per_day: int
    outstanding: int
    share: int
    price_nano_usd_per_month: int
    price: str
    models: _containers.RepeatedScalarFieldContainer[str]
    all_models: bool
    upgrade_url: str
    requests_per_minute: int
    tokens_per_day: int
    spend_nano_usd_per_month: int
    spend_nano_usd_per_day: int
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., requests_per_day: _Optional[int] = ..., outstanding: _Optional[int] = ..., share: _Optional[int] = ..., price_nano_usd_per_month: _Optional[int] = ..., price: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., all_models: _Optional[bool] = ..., upgrade_url: _Optional[str] = ..., requests_per_minute: _Optional[int] = ..., tokens_per_day: _Optional[int] = ..., spend_nano_usd_per_month: _Optional[int] = ..., spend_nano_usd_per_day: _Optional[int] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("caller", "request_id", "idempotency_key")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    request_id: str
    idempotency_key: str
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ..., request_id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("request_id", "user", "tier", "reservation", "usage")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user: User
    tier: Tier
    reservation: Reservation
    usage: DayUsage
    def __init__(self, request_id: _Optional[str] = ..., user: _Optional[_Union[User, _Mapping]] = ..., tier: _Optional[_Union[Tier, _Mapping]] = ..., reservation: _Optional[_Union[Reservation, _Mapping]] = ..., usage: _Optional[_Union[DayUsage, _Mapping]] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ("request_id", "generation", "day", "state")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    generation: int
    day: str
    state: ReservationState
    def __init__(self, request_id: _Optional[str] = ..., generation: _Optional[int] = ..., day: _Optional[str] = ..., state: _Optional[_Union[ReservationState, str]] = ...) -> None: ...

class DayUsage(_message.Message):
    __slots__ = ("used", "limit", "reset_time")
    USED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    used: int
    limit: int
    reset_time: _timestamp_pb2.Timestamp
    def __init__(self, used: _Optional[int] = ..., limit: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LimitExceeded(_message.Message):
    __slots__ = ("usage", "tier", "next_tier", "limit", "used", "most", "reset_time")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    NEXT_TIER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    usage: DayUsage
    tier: Tier
    next_tier: Tier
    limit: Limit
    used: int
    most: int
    reset_time: _timestamp_pb2.Timestamp
    def __init__(self, usage: _Optional[_Union[DayUsage, _Mapping]] = ..., tier: _Optional[_Union[Tier, _Mapping]] = ..., next_tier: _Optional[_Union[Tier, _Mapping]] = ..., limit: _Optional[_Union[Limit, str]] = ..., used: _Optional[int] = ..., most: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("request_id", "generation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    generation: int
    def __init__(self, request_id: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class ResolveResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: Reservation
    def __init__(self, reservation: _Optional[_Union[Reservation, _Mapping]] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("settlements",)
    SETTLEMENTS_FIELD_NUMBER: _ClassVar[int]
    settlements: _containers.RepeatedCompositeFieldContainer[Settlement]
    def __init__(self, settlements: _Optional[_Iterable[_Union[Settlement, _Mapping]]] = ...) -> None: ...

class Settlement(_message.Message):
    __slots__ = ("request_id", "user_id", "counted", "final", "charges", "day", "tier", "completed", "cached", "saved_nano_usd", "kind", "model")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    SAVED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    counted: bool
    final: bool
    charges: _containers.RepeatedCompositeFieldContainer[Charge]
    day: str
    tier: str
    completed: bool
    cached: bool
    saved_nano_usd: int
    kind: str
    model: str
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., counted: _Optional[bool] = ..., final: _Optional[bool] = ..., charges: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ..., day: _Optional[str] = ..., tier: _Optional[str] = ..., completed: _Optional[bool] = ..., cached: _Optional[bool] = ..., saved_nano_usd: _Optional[int] = ..., kind: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class Charge(_message.Message):
    __slots__ = ("attempt", "turn", "model", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_5m_input_tokens", "cache_write_1h_input_tokens", "cost_nano_usd", "estimated", "end_time", "kind")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_5M_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    turn: int
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_5m_input_tokens: int
    cache_write_1h_input_tokens: int
    cost_nano_usd: int
    estimated: bool
    end_time: _timestamp_pb2.Timestamp
    kind: str
    def __init__(self, attempt: _Optional[int] = ..., turn: _Optional[int] = ..., model: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cache_read_input_tokens: _Optional[int] = ..., cache_write_5m_input_tokens: _Optional[int] = ..., cache_write_1h_input_tokens: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ..., estimated: _Optional[bool] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetUsageRequest(_message.Message):
    __slots__ = ("caller",)
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: Caller
    def __init__(self, caller: _Optional[_Union[Caller, _Mapping]] = ...) -> None: ...

class GetUsageResponse(_message.Message):
    __slots__ = ("user", "tier", "usage")
    USER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    user: User
    tier: Tier
    usage: DayUsage
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ..., tier: _Optional[_Union[Tier, _Mapping]] = ..., usage: _Optional[_Union[DayUsage, _Mapping]] = ...) -> None: ...

class ListTiersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTiersResponse(_message.Message):
    __slots__ = ("tiers",)
    TIERS_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[Tier]
    def __init__(self, tiers: _Optional[_Iterable[_Union[Tier, _Mapping]]] = ...) -> None: ...

class CreateUserRequest(_message.Message):
    __slots__ = ("user_id", "email", "tier", "actor")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    email: str
    tier: str
    actor: str
    def __init__(self, user_id: _Optional[str] = ..., email: _Optional[str] = ..., tier: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CreateUserResponse(_message.Message):
    __slots__ = ("user", "key", "api_key")
    USER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    user: User
    key: Key
    api_key: str
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ..., key: _Optional[_Union[Key, _Mapping]] = ..., api_key: _Optional[str] = ...) -> None: ...

class GetUserRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class GetUserResponse(_message.Message):
    __slots__ = ("user", "tier", "usage")
    USER_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    user: User
    tier: Tier
    usage: DayUsage
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ..., tier: _Optional[_Union[Tier, _Mapping]] = ..., usage: _Optional[_Union[DayUsage, _Mapping]] = ...) -> None: ...

class SetUserTierRequest(_message.Message):
    __slots__ = ("user_id", "tier", "actor")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    tier: str
    actor: str
    def __init__(self, user_id: _Optional[str] = ..., tier: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class SetUserTierResponse(_message.Message):
    __slots__ = ("user", "previous_tier")
    USER_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TIER_FIELD_NUMBER: _ClassVar[int]
    user: User
    previous_tier: str
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ..., previous_tier: _Optional[str] = ...) -> None: ...

class SetUserLimitsRequest(_message.Message):
    __slots__ = ("user_id", "limits", "actor", "fields")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    limits: UserLimits
    actor: str
    fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., limits: _Optional[_Union[UserLimits, _Mapping]] = ..., actor: _Optional[str] = ..., fields: _Optional[_Iterable[str]] = ...) -> None: ...

class SetUserLimitsResponse(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: User
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ...) -> None: ...

class SetUserStatusRequest(_message.Message):
    __slots__ = ("user_id", "status", "actor")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    status: UserStatus
    actor: str
    def __init__(self, user_id: _Optional[str] = ..., status: _Optional[_Union[UserStatus, str]] = ..., actor: _Optional[str] = ...) -> None: ...

class SetUserStatusResponse(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: User
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("key_id", "user_id", "create_time", "revoke_time")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    user_id: str
    create_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    def __init__(self, key_id: _Optional[str] = ..., user_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ...) -> None: ...

class CreateKeyRequest(_message.Message):
    __slots__ = ("user_id", "actor")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    actor: str
    def __init__(self, user_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class CreateKeyResponse(_message.Message):
    __slots__ = ("key", "api_key")
    KEY_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    api_key: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., api_key: _Optional[str] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("key_id", "actor")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    actor: str
    def __init__(self, key_id: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...
