"""A reply while it comes: bytes in, what was said since out, and at the end the whole, as an unstreamed reply is read."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.endpoint.completions import Completed, MessageParts, completed_of, read_message, read_reply, sound, too_deep
from visionthink.endpoint.events import Events
from visionthink.endpoint.failures import Unanswered, error_of, failed, short
from visionthink.endpoint.markup import Unfolding
from visionthink.endpoint.streams import Assembly, decoded
from visionthink.endpoint.usage import TokenSaid, logprobs_of
from visionthink.errors import one_line

MOST_BYTES = 1 << 20
"""The most bytes of a reply. What is wrapped around each piece of a streamed one does not count."""
_MOST_STREAMED = 16 * MOST_BYTES


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a server has said since the delta before."""

    text: str = ""
    reasoning: str = ""
    """What it took out of the text as thinking."""
    logprobs: tuple[TokenSaid, ...] = ()
    """See `Completed.logprobs`."""


class Reading:
    """Reads one response, streamed or whole. What the deltas say together does not depend on how its bytes are split."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decode_tokens = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._events, self._assembly, self._unfolding = Events(), Assembly(), Unfolding()
        self._content = bytearray()  # of a response that is no stream, as far as is known
        self._broken: UnicodeDecodeError | None = None
        self.records = 0
        """How many records the stream has had."""
        self._size = self._said = 0
        self._pending: tuple[dict[str, Any], str, list[str]] | None = None
        """Plain records that are not put together yet: the last of them, and the name and the values of what they say."""
        self._unheard: list[str] = []
        """Values of theirs that are in no delta yet."""
        self._deltas: list[Delta] = []
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
        """What these bytes say: nothing, or one delta.

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
        yield from self._delta(self._events.feed(text))
        if self._broken and self._events.found:  # a reply that is no stream may have another encoding
            raise illegible(self._broken.reason)
        if self._events.found:
            self._content.clear()
        if self._size > MOST_BYTES:
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
            yield from self._delta(self._events.finish())
            completed = self._whole()
        else:
            completed = read_reply(text_of(bytes(self._content), charset))
        rest = Delta(text=_behind(completed.text, self._text), reasoning=_behind(completed.reasoning, self._reasoning))
        if rest != Delta():
            yield rest
        yield completed

    def _whole(self) -> Completed:
        try:
            self._put_together()
            return completed_of(self._assembly.whole(ended=self.ended))
        except RecursionError:
            raise too_deep() from None
        except ValueError as error:
            raise self._cut(error) from None

    def _delta(self, records: Iterator[dict[str, Any]]) -> Iterator[Delta]:
        """What records say, as one delta; before a failure, what those before it say."""
        failure: Unanswered | None = None
        try:
            for record in records:
                self.records += 1
                if self._plain(record):
                    continue
                if (error := error_of(record)) is not None:
                    raise failed(error)
                self._put_together()
                self._read(self._assembly.add(record))
        except RecursionError:
            failure = too_deep()
        except ValueError as error:
            failure = self._cut(error)
        except Unanswered as error:
            failure = error
        self._hear_pending()
        said, self._deltas = self._deltas, []
        delta = said[0] if len(said) == 1 else _merged(said)
        if delta.text or delta.reasoning or delta.logprobs:
            self._said += len(delta.text) + len(delta.reasoning)
            yield delta
        if failure is not None:
            raise failure

    def _plain(self, record: dict[str, Any]) -> bool:
        """Take a record that only goes on with what the one before it said, as nearly all do; whether it is one.

        They are put together many at a time, and heard as many as come together; the result is the same.
        """
        choices = record.get("choices")
        if not (record.keys() <= _HEAD and type(choices) is list and len(choices) == 1 and self._assembly.alone):
            return False
        choice, name, text = choices[0], "", ""
        if type(choice) is not dict or type(delta := choice.get("delta")) is not dict:
            return False
        for key, value in choice.items():
            if key != "delta" and value is not None and (key != "index" or type(value) is not int or value != 0):
                return False
        for key, value in delta.items():
            if value is None or value == "" or key == "role":
                continue
            if name or type(value) is not str or key not in _TEXTS:
                return False
            name, text = key, value
        if not name or record.get("usage") is not None:
            return False
        if self._pending is None or self._pending[1] != name:
            self._put_together()
            self._pending = (record, name, [text])
        else:
            self._pending[2].append(text)
        self._unheard.append(text)
        return True

    def _put_together(self) -> None:
        if self._pending is not None:
            self._hear_pending()
            record, name, texts = self._pending
            self._pending = None
            self._assembly.add(record | {"choices": [{"index": 0, "delta": {name: "".join(texts)}}]})

    def _hear_pending(self) -> None:
        if self._pending is not None and self._unheard:
            text, self._unheard = "".join(self._unheard), []
            self._heard(text, "") if self._pending[1] == "content" else self._heard("", text)

    def _read(self, piece: Mapping[str, Any]) -> None:
        """What a piece of the first choice says. Calls are understood when they are whole."""
        said, message = MessageParts(), piece.get("delta")
        if isinstance(message, dict):
            self._said += len(str(message.get("tool_calls") or message.get("function_call") or ""))
            read_message({name: value for name, value in message.items() if name not in ("tool_calls", "function_call")}, said)
        elif isinstance(piece.get("text"), str):  # of the older endpoint for completions
            said.text.append(piece["text"])
        logprobs = logprobs_of(piece, self._decode_tokens) if piece.get("logprobs") else ()
        self._heard("".join(said.text), "".join(said.reasoning), logprobs)

    def _heard(self, text: str, reasoning: str, logprobs: tuple[TokenSaid, ...] = ()) -> None:
        reasoning = self._joined("reasoning", reasoning)
        thinking, text = self._unfolding.feed(self._joined("text", text))
        delta = Delta(text=text, reasoning=reasoning or thinking, logprobs=logprobs)
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self._deltas.append(delta)

    def _joined(self, kind: str, text: str) -> str:
        """Text without half a character at its end, which goes before the next."""
        if text.isascii() and not self._halves[kind]:
            return text
        text = self._halves[kind] + text
        self._halves[kind] = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return sound(text.removesuffix(self._halves[kind]))

    def _cut(self, error: ValueError) -> Unanswered:
        self._hear_pending()
        words = one_line("".join(self._text), 120, end=True)
        return Unanswered("server", f"the reply is {error}" + (f": {words}" if words else ""))


_HEAD = frozenset({"id", "object", "created", "model", "system_fingerprint", "service_tier", "choices", "usage"})
_TEXTS = ("content", "reasoning_content", "reasoning")


def _merged(said: Sequence[Delta]) -> Delta:
    return Delta(
        text="".join(delta.text for delta in said),
        reasoning="".join(delta.reasoning for delta in said),
        logprobs=tuple(token for delta in said for token in delta.logprobs),
    )


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
