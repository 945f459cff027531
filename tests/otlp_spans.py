"""Run in an environment that has the extra `otel`: bodies of OTLP requests, a line each in base64, to spans in JSON."""

import base64
import json
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def value(said):
    kind = said.WhichOneof("value")
    return [value(one) for one in said.array_value.values] if kind == "array_value" else getattr(said, kind)


spans = []
for line in sys.stdin:
    for resource in ExportTraceServiceRequest.FromString(base64.b64decode(line)).resource_spans:
        service = {one.key: value(one.value) for one in resource.resource.attributes}["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            spans.append(
                {
                    "service": service,
                    "name": span.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "kind": span.kind,  # 1 internal, 2 server, 3 client
                    "failed": span.status.code == 2,
                    "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    "attributes": {one.key: value(one.value) for one in span.attributes},
                }
            )
sys.stdout.write(json.dumps(spans))
