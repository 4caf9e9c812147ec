"""Traces and metrics, set up once a process; nothing is imported or sent unless an OTLP endpoint is named."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import Meter
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, Tracer

_enabled = False


def start(service: str) -> None:
    """Exports spans and metrics of this process over OTLP if `OTEL_EXPORTER_OTLP_ENDPOINT` is set."""
    global _enabled
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Some backends lose the resource's service.name (seen with Phoenix), so namespace it too.
    resource = Resource.create({"service.name": f"headgate-{service}", "service.namespace": "headgate"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)
    # How often is a standard variable's to say: OTEL_METRIC_EXPORT_INTERVAL, else once a minute.
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider([reader], resource=resource))
    _enabled = True


def stop() -> None:
    """Sends what is still held back, for at most 2 s each."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        if _enabled and hasattr(provider, "force_flush"):
            provider.force_flush(2000)


def enabled() -> bool:
    """Whether this process exports spans and metrics."""
    return _enabled


def tracer() -> Tracer:
    """The tracer of Headgate's own spans."""
    return trace.get_tracer("headgate")


def meter() -> Meter:
    """The meter of Headgate's own metrics."""
    return metrics.get_meter("headgate")


def traceparent() -> str:
    """The current span as a W3C traceparent (empty without one); stored with a request, it outlives restarts."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent", "")


def context_of(parent: str) -> Any:
    """The context that `traceparent` wrote down."""
    return extract({"traceparent": parent} if parent else {})


def trace_id() -> str:
    """The current trace's id, 32 hex digits; empty without one."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def current_span() -> Span:
    """The current span; one that ignores everything if there is none."""
    return trace.get_current_span()


def client_interceptors() -> list[Any]:
    """Interceptors that trace outgoing gRPC calls; none unless enabled."""
    if not _enabled:
        return []
    from opentelemetry.instrumentation.grpc import aio_client_interceptors, filters

    return list(aio_client_interceptors(filter_=_traced(filters)))  # type: ignore[no-untyped-call]


def server_interceptors() -> list[Any]:
    """Interceptors that trace incoming gRPC calls; none unless enabled."""
    if not _enabled:
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

    return [aio_server_interceptor(filter_=_traced(filters))]  # type: ignore[no-untyped-call]


def _traced(filters: Any) -> Any:
    # Calls that last as long as their process, or come every few seconds, are no part of a request's trace.
    untraced = (filters.health_check(), filters.service_prefix("grpc.reflection"), filters.method_name("Watch"))
    return filters.negate(filters.any_of(*untraced))
