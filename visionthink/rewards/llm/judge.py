"""The LLM judge: answers in, verdicts out, nothing lost on the way."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from visionthink.endpoint import Client, Completed, Connection, Endpoint, Unanswered
from visionthink.errors import OptionError, one_line
from visionthink.protocol import after_thinking
from visionthink.rewards.judge import NO_REFERENCE, Answer, Verdict
from visionthink.rewards.llm.cache import Judgement, VerdictCache
from visionthink.rewards.llm.injection import speaks_to_the_judge
from visionthink.rewards.llm.preset import Preset

log = logging.getLogger(__name__)

_ATTEMPTS = 3
"""Replies that cannot be read, per question; each is asked for 0.2 warmer than the one before."""
_WARMER = 0.2
_TRIED_ALONE = 3
"""Questions that an endpoint gets one by one until it has answered, at first and after it was down: a wrong key is not sent with
all of them, and one reply ends an outage for the others."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled. `extra` is added to the request body; `omit` names fields that an endpoint does not take, as
    reasoning models refuse `temperature`."""

    max_tokens: int = 1024
    extra: Mapping[str, Any] = field(default_factory=dict)
    omit: tuple[str, ...] = ()

    def body(self, model: str, messages: list[dict[str, str]], temperature: float) -> dict[str, Any]:
        fields = {"model": model, "messages": messages, "temperature": temperature, "max_tokens": self.max_tokens}
        return {name: value for name, value in (fields | dict(self.extra)).items() if name not in self.omit}


@dataclass(kw_only=True)
class Usage:
    """What judging has cost so far. `requests` counts attempts, `seconds` is wall time."""

    answers: int = 0
    from_cache: int = 0
    refused: int = 0
    unscored: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class LLMJudge:
    """Asks a language model whether an answer means the same as the reference (Table 3 of arXiv 2507.13348).

    Unscored, and counted, are: answers longer than `longest_answer` characters or that speak to the judge, replies that cannot be
    read, and questions the endpoint did not answer in time, or that were not sent because it is down. An endpoint that has never
    answered anything is an error instead. Several threads may ask at once.

    Args:
        price: per million prompt and completion tokens, in any currency.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        preset: Preset,
        cache: VerdictCache | None = None,
        *,
        sampling: Sampling = Sampling(),
        longest_answer: int = 1000,
        price: tuple[float, float] = (0.0, 0.0),
    ):
        self.endpoint, self.preset, self.cache, self.sampling = endpoint, preset, cache, sampling
        self.longest_answer, self.price = longest_answer, price
        self.used = Usage()
        self._model = endpoint.model
        self._naming = threading.Lock()
        self._comparing, self._began = 0, 0.0
        self._client = Client(endpoint)

    @property
    def identity(self) -> str:
        """Model, prompt and its digest. Where no model was named, the endpoint is asked, once, for the only one it serves.

        Raises:
            OptionError: it cannot be reached, or serves several.
        """
        if not self._model:
            with self._naming:
                self._model = self._model or self._client.run(Connection.only_model)
        return f"{self._model}/{self.preset.name}:{self.preset.digest}"

    @property
    def down(self) -> str:
        """Why the endpoint is not asked for the time being; empty while it is."""
        why = self._client.down
        return f"judge {self.endpoint.url}: {why}" if why else ""

    @property
    def outages(self) -> int:
        """How often the endpoint has been down."""
        return self._client.outages

    def usage(self) -> dict[str, float]:
        """Counts, seconds, and the cost at `price`."""
        used = self.used
        cost = (used.prompt_tokens * self.price[0] + used.completion_tokens * self.price[1]) / 1e6
        return {**vars(used), "cost": cost}

    def compare(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in order. Many are asked at once; equal questions once.

        Raises:
            OptionError: the endpoint refuses to talk to us, or cannot be reached at all.
        """
        _ = self.identity
        return self._client.run(lambda connection: self._counted(connection, answers))

    def probe(self) -> None:
        """Ask one small question, past the cache and uncounted.

        Raises:
            OptionError: the endpoint gives no verdict on it.
        """
        once = LLMJudge(self.endpoint, self.preset, sampling=self.sampling)
        try:
            [verdict] = once.compare([Answer("How many legs has a spider?", "8 legs", ("8",))])
        finally:
            once.close()
        if verdict.verdict == "unscored":
            raise OptionError(f"judge {self.endpoint.url}: {verdict.reason}")

    def close(self) -> None:
        """Close connections. A judge that is asked again opens new ones."""
        self._client.close()

    async def _counted(self, connection: Connection, answers: Sequence[Answer]) -> list[Verdict]:
        """The same as `_compare`, with its time counted; time in which several run at once counts once."""
        self._began = self._began if self._comparing else time.perf_counter()
        self._comparing += 1
        try:
            verdicts = await self._compare(connection, answers)
        finally:
            self._comparing -= 1
            now = time.perf_counter()
            self.used.seconds += now - self._began
            self._began = now
        self.used.answers += len(verdicts)
        self.used.unscored += sum(v.verdict == "unscored" for v in verdicts)
        return verdicts

    async def _compare(self, connection: Connection, answers: Sequence[Answer]) -> list[Verdict]:
        settled = [self._without_asking(a) for a in answers]
        keys = ["" if verdict else self._key(a) for a, verdict in zip(answers, settled, strict=True)]
        to_ask = {key: a for key, a in zip(keys, answers, strict=True) if key}
        known = self.cache.get(to_ask) if self.cache else {}
        self.used.from_cache += sum(key in known for key in keys)
        found = {key: self._verdict(j) for key, j in known.items()}
        fresh = [key for key in to_ask if key not in known]
        asked: list[Verdict | Exception] = []
        async with connection.trying:
            while len(asked) < min(_TRIED_ALONE, len(fresh)) and not connection.working:
                asked.append(await self._ask(connection, fresh[len(asked)], to_ask[fresh[len(asked)]]))
        if connection.answered:
            asked += await asyncio.gather(*(self._ask(connection, key, to_ask[key]) for key in fresh[len(asked) :]))
        self.used.requests, self.used.retries = connection.requests, connection.retries
        given: dict[str, Verdict] = {}
        for key, verdict in zip(fresh, asked, strict=False):
            if isinstance(verdict, Exception):
                raise verdict
            given[key] = verdict
        if fresh and not connection.answered:
            raise OptionError(f"judge {self.endpoint.url}: {given[fresh[0]].reason}")
        return [verdict or (found | given)[key] for key, verdict in zip(keys, settled, strict=True)]

    def _without_asking(self, answer: Answer) -> Verdict | None:
        if not any(r.strip() for r in answer.references):
            return Verdict("unscored", self.identity, NO_REFERENCE)
        if not answer.prediction.strip():
            return Verdict("wrong", self.identity, "empty answer")
        reason = None
        if len(answer.prediction) > self.longest_answer:
            reason = f"answer of {len(answer.prediction)} characters; {self.longest_answer} are allowed"
        elif words := speaks_to_the_judge(answer):
            reason = f"answer speaks to the judge: {words}"
        if reason is None:
            return None
        self.used.refused += 1
        return Verdict("unscored", self.identity, reason)

    def _key(self, answer: Answer) -> str:
        """Everything a verdict depends on."""
        body = self.sampling.body(self._model, self.preset.messages(answer), 0.0)
        parts = [self.endpoint.url, dict(self.endpoint.query), self.preset.digest, body]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()

    async def _ask(self, connection: Connection, key: str, answer: Answer) -> Verdict | Exception:
        try:
            return await self._asked(connection, key, answer)
        except Exception as error:  # one question must not cost the others theirs; raised when all are done
            return error

    async def _asked(self, connection: Connection, key: str, answer: Answer) -> Verdict:
        messages, reason = self.preset.messages(answer), ""
        async with connection.slots:
            await connection.turn()  # not counted: the limit is ours, not the endpoint's
            end = time.monotonic() + self.endpoint.deadline
            for attempt in range(_ATTEMPTS):
                body = self.sampling.body(self._model, messages, _WARMER * attempt)
                try:
                    completed = await connection.complete(body, end)
                except Unanswered as failure:
                    log.info("judge: %s", failure)
                    remedy = f'; write omit = ["{failure.parameter}"] into a .toml file' if failure.parameter else ""
                    return Verdict("unscored", self.identity, f"{failure}{remedy}")
                self.used.prompt_tokens += completed.prompt_tokens or 0
                self.used.completion_tokens += completed.completion_tokens or 0
                if completed.finish_reason == "refused":
                    return Verdict("unscored", self.identity, f"the judge refused: {completed.note}")
                # one that was cut off, or may have been, has not come to its end
                reply = completed.text if completed.finish_reason == "stop" else ""
                reason = _unread(completed)
                if (correct := self.preset.read(reply)) is not None:
                    judgement = Judgement(correct, reply)
                    if self.cache:
                        self.cache.put(key, judgement, self.identity)
                    return self._verdict(judgement)
        return Verdict("unscored", self.identity, reason)

    def _verdict(self, judgement: Judgement) -> Verdict:
        return Verdict("correct" if judgement.correct else "wrong", self.identity, _end(judgement.reply))


def _unread(completed: Completed) -> str:
    """Why a reply gives no verdict."""
    if completed.finish_reason == "length":
        return f"reply was cut off: {_end(completed.text or completed.reasoning)}"
    if completed.finish_reason == "unknown":
        return f"{completed.note}, and the reply may have been cut off: {_end(completed.text)}"
    return completed.why_no_answer if not after_thinking(completed.text) else f"reply cannot be read: {_end(completed.text)}"


def _end(reply: str) -> str:
    """Where the verdict stands."""
    return one_line(reply, 120, end=True)
