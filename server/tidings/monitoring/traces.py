"""Traces by OpenTelemetry: off unless its own variables name a collector.

The trace of a message has the message's id: both are 16 bytes in hex (W3C Trace Context, 3.2.2.3). So every node
knows the trace of what it delivers, and no message between nodes has to carry it; and whoever asks what became of a
message finds its trace by its id. Its spans are the action that sent it, and one for each node that wrote it to
connections. Spans are made after the fact, and sent by a thread of the library.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import orjson

from tidings import __version__
from tidings.contract.events import EVENT
from tidings.log.views import EncodedEntry
from tidings_db.queries.rows import EntryRow

_TRACED: Final = ("message", EVENT)
"""The kinds of entries that have a trace."""


class Traces:
    def __init__(self, node: str) -> None:
        """`node`: its name. Raises ImportError without the libraries."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Ids(RandomIdGenerator):
            """Random ones, unless those of a message are to be used next."""

            of_message: tuple[int, int] | None = None

            def generate_trace_id(self) -> int:
                return super().generate_trace_id() if self.of_message is None else self.of_message[0]

            def generate_span_id(self) -> int:
                return super().generate_span_id() if self.of_message is None else self.of_message[1]

        self._api = trace
        self._nothing = trace.set_span_in_context(trace.INVALID_SPAN)
        self._ids = Ids()
        self._propagator = TraceContextTextMapPropagator()
        own = Resource({"service.name": "tidings", "service.instance.id": node})
        resource = own.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("tidings", __version__)

    def stop(self) -> None:
        """Send what is left. Blocks."""
        self._provider.shutdown()

    def action(self, name: str, code: str | None, seconds: float, data: Any, traceparent: str) -> None:
        """An action was answered. `traceparent`: the header of the request, if it had one; `data`: of the answer."""
        end = time.time_ns()
        times: dict[str, Any] = {"start_time": end - int(seconds * 1e9), "kind": self._api.SpanKind.SERVER}
        attributes = {"tidings.action": name, "tidings.outcome": code or "ok"}
        message = _trace_of(data.get("id")) if name in ("message", "publish") and isinstance(data, dict) else None
        links = []
        if traceparent or message is None:
            caller = self._propagator.extract({"traceparent": traceparent}, self._nothing)
            links = [] if message is None else [self._api.Link(self._context(message))]
            span = self._tracer.start_span(name, caller, attributes=attributes, links=links, **times)
            span.end(end)
            links = [self._api.Link(span.get_span_context())]
        if message is not None:
            attributes |= {"tidings.room_id": data["room_id"], "tidings.seq": data["seq"]}
            self._ids.of_message = message
            try:
                span = self._tracer.start_span(name, self._nothing, attributes=attributes, links=links, **times)
            finally:
                self._ids.of_message = None
            span.end(end)

    def delivered(self, entries: Iterable[EntryRow | EncodedEntry]) -> None:
        """Entries of a room were written to this node's connections, since the time that they have in the log."""
        end = time.time_ns()
        for entry in entries:
            if entry.kind not in _TRACED:
                continue
            if isinstance(entry, EncodedEntry):
                payload = orjson.loads(entry.payload.text)
                message_id, at = payload["id"], datetime.fromisoformat(payload["created_at"]).timestamp()
            else:
                message_id, at = entry.message_id, entry.created_at / 1000
            message = _trace_of(message_id)
            if message is None:
                continue
            parent = self._api.set_span_in_context(self._api.NonRecordingSpan(self._context(message)))
            begin = min(end, int(at * 1e9))
            span = self._tracer.start_span("deliver", parent, start_time=begin, attributes={"tidings.seq": entry.seq})
            span.end(end)

    def _context(self, message: tuple[int, int]) -> Any:
        """The span of the action that sent a message, wherever it was made."""
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(*message, is_remote=True, trace_flags=flags)


def _trace_of(message_id: str | None) -> tuple[int, int] | None:
    """The ids of a message's trace and of its first span; None: the message is of no form that has one."""
    if message_id is None or len(message_id) != 32:
        return None
    number = int(message_id, 16)
    return number, number & (1 << 64) - 1
