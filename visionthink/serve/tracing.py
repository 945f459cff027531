"""Traces of requests, sent by OTLP over HTTP. OpenTelemetry's own environment variables say where, and how many.

Names of attributes are those of OpenTelemetry's semantic conventions for HTTP and for generative AI; ours begin with
`visionthink.`. None holds a text, an image, an address or the name of a key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from visionthink.errors import OptionError
from visionthink.serve.stages import Attributes

try:
    from opentelemetry import propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ModuleNotFoundError as missing:
    raise OptionError(f"--traces needs {missing.name}: pip install 'visionthink[otel]'") from None

_FIXED = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
"""Variables that choose another way to send traces, and the only value that there is here."""


class OtlpTraces:
    """Spans are sent in batches, by a thread.

    Raises:
        OptionError: a variable of the environment asks for another way to send them.
    """

    def __init__(self) -> None:
        for name, only in _FIXED.items():
            if (said := os.environ.get(name, only)) != only:
                raise OptionError(f"--traces: {name}={said}: traces are sent as {only} only; leave the variable out")
        named = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "visionthink"})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("visionthink")

    def request(self, path: str, headers: Mapping[str, str]) -> OtlpSpan:
        """See `stages.Traces`."""
        http = {"http.request.method": "POST", "http.route": path}
        above = propagate.extract(headers)
        span = self._tracer.start_span(f"POST {path}", above, kind=trace.SpanKind.SERVER, attributes=http)
        return OtlpSpan(self._tracer, span)

    def close(self) -> None:
        """See `stages.Traces`. It may take as long as OTEL_EXPORTER_OTLP_TIMEOUT (10 s)."""
        self._provider.shutdown()


class OtlpSpan:
    """See `stages.Span`. It never becomes the current span of OpenTelemetry: an answer is made by generators, which may be closed
    in another context than the one that they were begun in."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span):
        self._tracer, self._span = tracer, span
        self._within = trace.set_span_in_context(span)

    @property
    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        propagate.inject(headers, self._within)
        return headers

    def child(self, name: str, *, asks: bool = False) -> OtlpSpan:
        kind = trace.SpanKind.CLIENT if asks else trace.SpanKind.INTERNAL
        return OtlpSpan(self._tracer, self._tracer.start_span(name, self._within, kind=kind))

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def end(self, error: str = "") -> None:
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()
