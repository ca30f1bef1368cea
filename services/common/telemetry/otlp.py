"""Records spans with the OpenTelemetry SDK and sends them by OTLP over gRPC. Imported only where that is configured."""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc import exporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context

from services.common.config import TlsFiles
from services.common.ids import uuid7
from services.common.log import Outage, get_logger
from services.common.telemetry.config import TracesConfig, is_loopback
from services.common.telemetry.trace_context import TraceContext
from services.common.telemetry.tracing import Attributes
from services.common.tls import CertificateFiles

EXPORT_SECONDS = 5.0
"""What one export may take; what a collector does not take in time is dropped, never waited for."""

STOP_SECONDS = 2.0
"""What the last export may take, when the process stops."""

log = get_logger("telemetry")

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_LIMITS = SpanLimits(max_attributes=32, max_attribute_length=256, max_events=0, max_links=4)


class _Ids(RandomIdGenerator):
    """Lets a trace begin under an id that is in the records already."""

    root = 0

    def generate_trace_id(self) -> int:
        return self.root or super().generate_trace_id()


class Recorded:
    """A span of the SDK behind the few things that ours can do."""

    __slots__ = ("_span", "end", "set_attribute", "span_id")

    def __init__(self, span: Any) -> None:
        self._span = span
        self.span_id = f"{span.get_span_context().span_id:016x}"
        self.set_attribute = span.set_attribute
        self.end = span.end

    def failed(self) -> None:
        self._span.set_status(StatusCode.ERROR)

    def link(self, other: TraceContext) -> None:
        self._span.add_link(_span_context(other))


class OtlpBackend:
    """``tracing.Backend`` over the SDK. Its queue is bounded: spans are dropped rather than waited for."""

    def __init__(self, service: str, config: TracesConfig, tls: TlsFiles) -> None:
        self.trust_callers = config.trust_callers
        self._bound = TraceIdRatioBased.get_bound_for_rate(config.sample_ratio)
        self._ids = _Ids()
        resource = {
            "service.name": f"kubegate-{service}",
            "service.namespace": "kubegate",
            "service.version": version("kubegate"),
            "service.instance.id": uuid7(),
        }
        # The caller has decided on sampling before a span is begun at all.
        self._provider = TracerProvider(
            resource=Resource(resource),
            sampler=ALWAYS_ON,
            id_generator=self._ids,
            span_limits=_LIMITS,
            shutdown_on_exit=False,
        )
        self._exporter = _Exporter(config, tls)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("kubegate")

    def samples(self, trace_id: str) -> bool:
        return int(trace_id[16:], 16) < self._bound

    def start(self, name: str, kind: str, parent: TraceContext | None, attributes: Attributes, root: str) -> Recorded:
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(_span_context(parent)), context)
        self._ids.root = int(root, 16)
        return Recorded(self._tracer.start_span(name, context, _KINDS[kind], attributes))

    def close(self) -> None:
        """Sends what is waiting, and ends. Blocks for ``STOP_SECONDS``, and little more, at most."""
        # The SDK's own time-outs add up to a quarter of a minute where the collector is away.
        giving_up = threading.Timer(STOP_SECONDS, self._exporter.shutdown)
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()


class _Unsaid(logging.Filter):
    """Keeps what the library says of each attempt, instead of having it logged."""

    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = record.getMessage()
        return False


_unsaid = _Unsaid()
logging.getLogger(exporter.__name__).addFilter(_unsaid)


class _Exporter(SpanExporter):
    """Sends over a connection that shows the certificate which lies in the files now: a rotated one from the next
    export on. A collector that is away is two lines of the log."""

    def __init__(self, config: TracesConfig, tls: TlsFiles) -> None:
        self._config = config
        plain = is_loopback(config.endpoint) and not config.server_name
        self._files = None if plain else CertificateFiles(tls)
        self._ended = False
        self._outage = Outage(log, "spans not taken", "spans taken again", collector=config.endpoint)
        self._exporter = self._connected()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._files is not None and self._files.changed() and not self._ended:
            # Half-replaced files: what works goes on working, the next export looks again.
            with suppress(OSError):
                previous, self._exporter = self._exporter, self._connected()
                previous.shutdown()
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.worked()
        else:
            self._outage.failed(reason=_unsaid.last)
        return result

    def shutdown(self) -> None:
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()

    def _connected(self) -> OTLPSpanExporter:
        config, credentials = self._config, None
        if self._files is not None:
            chain, key, ca = self._files.read()
            credentials = grpc.ssl_channel_credentials(ca, key, chain)
        # The stub knows of a single option with a text value.
        options: Any = (
            ("grpc.enable_http_proxy", 0),
            *((("grpc.ssl_target_name_override", config.server_name),) if config.server_name else ()),
        )
        return OTLPSpanExporter(
            endpoint=config.endpoint,
            insecure=credentials is None,
            credentials=credentials,
            timeout=EXPORT_SECONDS,
            channel_options=options,
        )


def _span_context(position: TraceContext) -> SpanContext:
    return SpanContext(
        int(position.trace_id, 16),
        int(position.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
