import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UserSort(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USER_SORT_UNSPECIFIED: _ClassVar[UserSort]
    USER_SORT_COST: _ClassVar[UserSort]
    USER_SORT_REQUESTS: _ClassVar[UserSort]
    USER_SORT_TOKENS: _ClassVar[UserSort]

class UsageGroup(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_GROUP_UNSPECIFIED: _ClassVar[UsageGroup]
    USAGE_GROUP_TIER: _ClassVar[UsageGroup]
    USAGE_GROUP_MODEL: _ClassVar[UsageGroup]
    USAGE_GROUP_KIND: _ClassVar[UsageGroup]
USER_SORT_UNSPECIFIED: UserSort
USER_SORT_COST: UserSort
USER_SORT_REQUESTS: UserSort
USER_SORT_TOKENS: UserSort
USAGE_GROUP_UNSPECIFIED: UsageGroup
USAGE_GROUP_TIER: UsageGroup
USAGE_GROUP_MODEL: UsageGroup
USAGE_GROUP_KIND: UsageGroup

class Use(_message.Message):
    __slots__ = ("requests", "completed", "cached", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens", "cost_nano_usd", "saved_by_equals_nano_usd", "saved_by_prompt_cache_nano_usd")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SAVED_BY_EQUALS_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SAVED_BY_PROMPT_CACHE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    requests: int
    completed: int
    cached: int
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    cost_nano_usd: int
    saved_by_equals_nano_usd: int
    saved_by_prompt_cache_nano_usd: int
    def __init__(self, requests: _Optional[int] = ..., completed: _Optional[int] = ..., cached: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cache_read_input_tokens: _Optional[int] = ..., cache_write_input_tokens: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ..., saved_by_equals_nano_usd: _Optional[int] = ..., saved_by_prompt_cache_nano_usd: _Optional[int] = ...) -> None: ...

class ListUsersRequest(_message.Message):
    __slots__ = ("sort", "days", "page_size", "page_token", "prefix", "tier")
    SORT_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    sort: UserSort
    days: int
    page_size: int
    page_token: str
    prefix: str
    tier: str
    def __init__(self, sort: _Optional[_Union[UserSort, str]] = ..., days: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., prefix: _Optional[str] = ..., tier: _Optional[str] = ...) -> None: ...

class ListUsersResponse(_message.Message):
    __slots__ = ("users", "next_page_token")
    USERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[UserUse]
    next_page_token: str
    def __init__(self, users: _Optional[_Iterable[_Union[UserUse, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UserUse(_message.Message):
    __slots__ = ("user_id", "tier", "use", "revenue_nano_usd", "email", "suspended")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    REVENUE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    tier: str
    use: Use
    revenue_nano_usd: int
    email: str
    suspended: bool
    def __init__(self, user_id: _Optional[str] = ..., tier: _Optional[str] = ..., use: _Optional[_Union[Use, _Mapping]] = ..., revenue_nano_usd: _Optional[int] = ..., email: _Optional[str] = ..., suspended: _Optional[bool] = ...) -> None: ...

class GetUsageReportRequest(_message.Message):
    __slots__ = ("days", "hourly", "group")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    HOURLY_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    days: int
    hourly: bool
    group: UsageGroup
    def __init__(self, days: _Optional[int] = ..., hourly: _Optional[bool] = ..., group: _Optional[_Union[UsageGroup, str]] = ...) -> None: ...

class GetUsageReportResponse(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[UsageRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[UsageRow, _Mapping]]] = ...) -> None: ...

class UsageRow(_message.Message):
    __slots__ = ("start_time", "group", "use")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    group: str
    use: Use
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., group: _Optional[str] = ..., use: _Optional[_Union[Use, _Mapping]] = ...) -> None: ...

class GetEconomicsRequest(_message.Message):
    __slots__ = ("days", "top_users")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    TOP_USERS_FIELD_NUMBER: _ClassVar[int]
    days: int
    top_users: int
    def __init__(self, days: _Optional[int] = ..., top_users: _Optional[int] = ...) -> None: ...

class GetEconomicsResponse(_message.Message):
    __slots__ = ("from_day", "to_day", "total", "tiers", "days", "models", "kinds", "top_users", "unprofitable_users")
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    TOP_USERS_FIELD_NUMBER: _ClassVar[int]
    UNPROFITABLE_USERS_FIELD_NUMBER: _ClassVar[int]
    from_day: str
    to_day: str
    total: Margin
    tiers: _containers.RepeatedCompositeFieldContainer[TierMargin]
    days: _containers.RepeatedCompositeFieldContainer[DayMargin]
    models: _containers.RepeatedCompositeFieldContainer[GroupUse]
    kinds: _containers.RepeatedCompositeFieldContainer[GroupUse]
    top_users: _containers.RepeatedCompositeFieldContainer[UserMargin]
    unprofitable_users: _containers.RepeatedCompositeFieldContainer[UserMargin]
    def __init__(self, from_day: _Optional[str] = ..., to_day: _Optional[str] = ..., total: _Optional[_Union[Margin, _Mapping]] = ..., tiers: _Optional[_Iterable[_Union[TierMargin, _Mapping]]] = ..., days: _Optional[_Iterable[_Union[DayMargin, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[GroupUse, _Mapping]]] = ..., kinds: _Optional[_Iterable[_Union[GroupUse, _Mapping]]] = ..., top_users: _Optional[_Iterable[_Union[UserMargin, _Mapping]]] = ..., unprofitable_users: _Optional[_Iterable[_Union[UserMargin, _Mapping]]] = ...) -> None: ...

class Margin(_message.Message):
    __slots__ = ("revenue_nano_usd", "use", "margin_nano_usd", "unsustainable")
    REVENUE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    UNSUSTAINABLE_FIELD_NUMBER: _ClassVar[int]
    revenue_nano_usd: int
    use: Use
    margin_nano_usd: int
    unsustainable: bool
    def __init__(self, revenue_nano_usd: _Optional[int] = ..., use: _Optional[_Union[Use, _Mapping]] = ..., margin_nano_usd: _Optional[int] = ..., unsustainable: _Optional[bool] = ...) -> None: ...

class TierMargin(_message.Message):
    __slots__ = ("tier", "margin", "users")
    TIER_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    tier: str
    margin: Margin
    users: int
    def __init__(self, tier: _Optional[str] = ..., margin: _Optional[_Union[Margin, _Mapping]] = ..., users: _Optional[int] = ...) -> None: ...

class DayMargin(_message.Message):
    __slots__ = ("day", "tier", "margin")
    DAY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    day: str
    tier: str
    margin: Margin
    def __init__(self, day: _Optional[str] = ..., tier: _Optional[str] = ..., margin: _Optional[_Union[Margin, _Mapping]] = ...) -> None: ...

class GroupUse(_message.Message):
    __slots__ = ("name", "use")
    NAME_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    name: str
    use: Use
    def __init__(self, name: _Optional[str] = ..., use: _Optional[_Union[Use, _Mapping]] = ...) -> None: ...

class UserMargin(_message.Message):
    __slots__ = ("user_id", "tier", "margin")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    tier: str
    margin: Margin
    def __init__(self, user_id: _Optional[str] = ..., tier: _Optional[str] = ..., margin: _Optional[_Union[Margin, _Mapping]] = ...) -> None: ...

class GetStatementRequest(_message.Message):
    __slots__ = ("month", "page_size", "page_token")
    MONTH_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    month: str
    page_size: int
    page_token: str
    def __init__(self, month: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class GetStatementResponse(_message.Message):
    __slots__ = ("month", "closed", "total", "days", "users", "next_page_token")
    MONTH_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    month: str
    closed: bool
    total: Margin
    days: _containers.RepeatedCompositeFieldContainer[DayMargin]
    users: _containers.RepeatedCompositeFieldContainer[UserMargin]
    next_page_token: str
    def __init__(self, month: _Optional[str] = ..., closed: _Optional[bool] = ..., total: _Optional[_Union[Margin, _Mapping]] = ..., days: _Optional[_Iterable[_Union[DayMargin, _Mapping]]] = ..., users: _Optional[_Iterable[_Union[UserMargin, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "subject")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    subject: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class ListAuditResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("time", "actor", "action", "subject", "old", "new")
    TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    actor: str
    action: str
    subject: str
    old: str
    new: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ..., action: _Optional[str] = ..., subject: _Optional[str] = ..., old: _Optional[str] = ..., new: _Optional[str] = ...) -> None: ...

class RecordAuditRequest(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[AuditRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[AuditRecord, _Mapping]]] = ...) -> None: ...

class AuditRecord(_message.Message):
    __slots__ = ("audit_id", "entry")
    AUDIT_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    audit_id: str
    entry: AuditEntry
    def __init__(self, audit_id: _Optional[str] = ..., entry: _Optional[_Union[AuditEntry, _Mapping]] = ...) -> None: ...

class RecordAuditResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
