"""A reply while it comes: bytes in, what was said since out, and at the end the whole, as an unstreamed reply is read."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.endpoint.completions import Completed, MessageParts, completed_of, read_message, read_reply, sound, too_deep
from visionthink.endpoint.events import Events
from visionthink.endpoint.failures import Unanswered, error_of, failed, short
from visionthink.endpoint.figures import logprobs_of
from visionthink.endpoint.streams import Assembly, decoded
from visionthink.endpoint.wording import Unfolding
from visionthink.errors import one_line

MOST_BYTES = 1 << 20
"""Of a reply, without what is wrapped around each piece of one that is streamed."""
_MOST_STREAMED = 16 * MOST_BYTES


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a server has said since the delta before."""

    text: str = ""
    reasoning: str = ""
    """What it took out of the text as thinking."""
    logprobs: tuple[tuple[str, float], ...] = ()
    """See `Completed.logprobs`."""


class Reading:
    """Reads one response, streamed or whole. The deltas do not depend on how its bytes are split."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._spell = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._events, self._assembly, self._unfolding = Events(), Assembly(), Unfolding()
        self._content = bytearray()  # of a response that is no stream, as far as is known
        self._broken: UnicodeDecodeError | None = None
        self._size = self._said = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._halves = {"text": "", "reasoning": ""}

    @property
    def ended(self) -> bool:
        """Whether the server has said that this was all."""
        return self._events.ended

    @property
    def finished(self) -> bool:
        """Whether the reply has come to its end, whatever was to follow it."""
        return self._assembly.finished and not self._events.waiting

    def feed(self, data: bytes) -> Iterator[Delta]:
        """What these bytes say.

        Raises:
            Unanswered: that something failed; they cannot be read; or they are too many.
        """
        self._size += len(data)
        if not self._events.found:
            self._content += data
        try:
            text = self._decode(data) if self._broken is None else ""
        except UnicodeDecodeError as error:
            text, self._broken = error.object[: error.start].decode("utf-8-sig"), error
        yield from self._deltas(self._events.feed(text))
        if self._broken and self._events.found:  # a reply that is no stream may have another encoding
            raise illegible(self._broken.reason)
        if self._events.found:
            self._content.clear()
        waiting = self._events.waiting if self._events.found else len(self._content)
        if self._size > _MOST_STREAMED or max(self._said, waiting) > MOST_BYTES:
            raise too_large()

    def finish(self, charset: str | None) -> Iterator[Delta | Completed]:
        """What was left to be said, and the whole.

        Args:
            charset: the encoding that the response names, for one that is no stream.

        Raises:
            Unanswered: there is no reply, or it is not whole.
        """
        if self._events.found:
            yield from self._deltas(self._events.finish())
            completed = self._whole()
        else:
            completed = read_reply(text_of(bytes(self._content), charset))
        rest = Delta(text=_behind(completed.text, self._text), reasoning=_behind(completed.reasoning, self._reasoning))
        if rest != Delta():
            yield rest
        yield completed

    def _whole(self) -> Completed:
        try:
            return completed_of(self._assembly.whole(ended=self.ended))
        except RecursionError:
            raise too_deep() from None
        except ValueError as error:
            raise self._cut(error) from None

    def _deltas(self, records: Iterator[dict[str, Any]]) -> Iterator[Delta]:
        try:
            for record in records:
                if (error := error_of(record)) is not None:
                    raise failed(error)
                delta = self._delta(self._assembly.add(record))
                if delta != Delta():
                    self._said += len(delta.text) + len(delta.reasoning)
                    yield delta
        except RecursionError:
            raise too_deep() from None
        except ValueError as error:
            raise self._cut(error) from None

    def _delta(self, piece: Mapping[str, Any]) -> Delta:
        """What a piece of the first choice says. Calls are understood when they are whole."""
        said, message = MessageParts(), piece.get("delta")
        if isinstance(message, dict) and isinstance(content := message.get("content"), str) and _says_only_that(message):
            said.text.append(content)  # nearly all pieces are of this form
        elif isinstance(message, dict):
            self._said += len(str(message.get("tool_calls") or message.get("function_call") or ""))
            read_message({name: value for name, value in message.items() if name not in ("tool_calls", "function_call")}, said)
        elif isinstance(piece.get("text"), str):  # of the older endpoint for completions
            said.text.append(piece["text"])
        reasoning = self._joined("reasoning", "".join(said.reasoning))
        thinking, text = self._unfolding.feed(self._joined("text", "".join(said.text)))
        logprobs = logprobs_of(piece, self._spell) if piece.get("logprobs") else ()
        delta = Delta(text=text, reasoning=reasoning or thinking, logprobs=logprobs)
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        return delta

    def _joined(self, kind: str, text: str) -> str:
        """Text without half a character at its end, which goes before the next."""
        if text.isascii() and not self._halves[kind]:
            return text
        text = self._halves[kind] + text
        self._halves[kind] = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return sound(text.removesuffix(self._halves[kind]))

    def _cut(self, error: ValueError) -> Unanswered:
        words = one_line("".join(self._text), 120, end=True)
        return Unanswered("server", f"the reply is {error}" + (f": {words}" if words else ""))


def _says_only_that(message: Mapping[str, Any]) -> bool:
    return not any(value and name not in ("content", "role") for name, value in message.items())


def _behind(whole: str, said: Sequence[str]) -> str:
    """What follows what was said; nothing where the whole turned out to be something else."""
    before = "".join(said)
    return whole[len(before) :] if whole.startswith(before) else ""


def text_of(content: bytes, charset: str | None) -> str:
    """The text of a body.

    Raises:
        Unanswered: it is not in the encoding that it names or shows.
    """
    try:
        return decoded(content, charset)
    except (ValueError, LookupError) as error:
        raise illegible(error) from None


def illegible(why: object) -> Unanswered:
    return Unanswered("server", short(f"the reply is no text in its encoding: {why}"), final=True)


def too_large() -> Unanswered:
    return Unanswered("server", "the reply is larger than 1 MB", final=True)
