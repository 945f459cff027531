"""What the gateway counts, for Prometheus, and one line of the log for each answer. Neither holds a text, image or address."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionthink.serve.errors import of_exception
from visionthink.serve.events import Decided, Ended, Event, Failed, Text, Thought
from visionthink.serve.stages import STAGES, current

log = logging.getLogger(__name__)
disable_created_metrics()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of a server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.answers = Counter("visionthink_answers", "Requests by how they ended.", ["api", "outcome"], registry=own)
        self.rules = Counter("visionthink_rules", "Complete answers by the rule that decided.", ["rule"], registry=own)
        self.looked_again = Counter("visionthink_looked_again", "Complete answers after a second look.", ["rule"], registry=own)
        self.image_tokens = Counter("visionthink_image_tokens", "Visual tokens that were shown.", registry=own)
        self.image_tokens_full = Counter(
            "visionthink_image_tokens_full", "Visual tokens if every image had been shown at full.", registry=own
        )
        self.responses = Counter(
            "visionthink_responses", "Responses by status, refused requests included.", ["status"], registry=own
        )
        self.failures = Counter("visionthink_upstream_failures", "Failures of the model or endpoint.", ["kind"], registry=own)
        self.first_token = Histogram(
            "visionthink_first_token_seconds", "From the request to the first piece of an answer.", buckets=_SECONDS, registry=own
        )
        self.seconds = Histogram(
            "visionthink_answer_seconds", "From the request to the end of an answer.", buckets=_SECONDS, registry=own
        )
        self.stages = Histogram("visionthink_stage_seconds", "Stages of requests.", ["stage"], buckets=_SECONDS, registry=own)
        for name in STAGES:
            self.stages.labels(name)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"visionthink_{name}", text, registry=self.registry).set_function(read)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """An application whose responses are counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self.responses.labels(str(message["status"])).inc()
                await send(message)

            await app(scope, receive, sending)

        return counted

    def page(self) -> bytes:
        """All of them, as Prometheus reads it."""
        return generate_latest(self.registry)

    async def counted(self, events: AsyncGenerator[Event], *, api: str, id: str, key: str | None) -> AsyncGenerator[Event]:
        """The events of an answer, counted as they pass."""
        started, outcome = time.perf_counter(), "client_left"
        record: dict[str, Any] = {"id": id, "api": api, "key": key}
        first, timing = True, current()
        timing.note({"gen_ai.response.id": id})
        try:
            async with aclosing(events):
                async for event in events:
                    if first and isinstance(event, Text | Thought):
                        first = False
                        self.first_token.observe(time.perf_counter() - started)
                    if isinstance(event, Failed):
                        outcome = timing.failure = event.kind
                        self.failures.labels(event.kind).inc()
                    elif isinstance(event, Decided) and event.measured:
                        record["gate"] = {**record.get("gate", {}), **event.measured}
                    elif isinstance(event, Ended):
                        outcome = event.finish_reason
                        self._ended(event)
                        record |= event.bill.record()
                        timing.note({f"visionthink.{name}": value for name, value in event.bill.record().items()})
                    yield event
        except Exception as error:
            outcome = of_exception(error).code or "error"
            raise
        finally:
            seconds = time.perf_counter() - started
            self.seconds.observe(seconds)
            self.answers.labels(api, outcome).inc()
            timing.note({"visionthink.outcome": outcome})
            log.info(json.dumps(record | {"outcome": outcome, "seconds": round(seconds, 4)}))

    def _ended(self, event: Ended) -> None:
        bill = event.bill
        self.rules.labels(bill.rule).inc()
        if bill.looks:
            self.looked_again.labels(bill.rule).inc()
        self.image_tokens.inc(bill.image_tokens)
        self.image_tokens_full.inc(bill.image_tokens_full)
