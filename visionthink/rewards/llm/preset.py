"""How a judge is asked and how its reply is read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from visionthink.errors import DataError, OptionError
from visionthink.protocol import prompt
from visionthink.rewards.judge import Answer
from visionthink.rewards.llm.reply import ReplyParser, legacy_contains_1, parse_marks, parse_score

_PLACES = ("{question}", "{ground_truth}", "{prediction}")
PARSERS: dict[str, ReplyParser] = {"score": parse_score, "marks": parse_marks, "legacy_contains_1": legacy_contains_1}
_READING = "2"
"""Version of the parsers. A verdict in the cache is used only by the version that read it."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A prompt and a parser. `user` holds {question}, {ground_truth} and, where an answer is judged, {prediction}."""

    name: str
    system: str
    user: str
    parser: str = "score"
    places: tuple[str, ...] = _PLACES

    def __post_init__(self) -> None:
        for place in self.places:
            if self.user.count(place) != 1:
                raise OptionError(f"judge prompt {self.name}: needs {place} once, it has it {self.user.count(place)} times")
        for other in re.findall(r"\{[a-z_]+\}", self.user):
            if other not in self.places:
                raise OptionError(f"judge prompt {self.name}: does not know {other}; it may hold {', '.join(self.places)}")
        if self.parser not in PARSERS:
            raise OptionError(f"judge parser {self.parser!r}: choose from {', '.join(PARSERS)}")

    @property
    def digest(self) -> str:
        """A digest of everything that a verdict depends on, except the answer and the model."""
        return hashlib.sha256("\0".join((self.system, self.user, self.parser, _READING)).encode()).hexdigest()[:12]

    def messages(self, answer: Answer) -> list[dict[str, str]]:
        """The messages of a chat completion. All references after the first are named as equally good."""
        truth, *others = answer.references
        if others:
            truth += f" (also correct: {'; '.join(others)})"
        parts = dict(zip(_PLACES, (answer.question, truth, answer.prediction), strict=True))
        text = re.sub(
            "|".join(map(re.escape, _PLACES)), lambda place: parts[place[0]], self.user
        )  # in one pass: an answer may hold {}
        return [*([{"role": "system", "content": self.system}] if self.system else []), {"role": "user", "content": text}]

    def read(self, reply: str) -> bool | None:
        return PARSERS[self.parser](reply)


def preset(name: str) -> Preset:
    """`paper` (Table 3 of arXiv 2507.13348), `verifier` ([[YES]] or [[NO]]), or a file with a template of one's own. `definite`
    asks of a question, not of an answer, whether it has one definite answer (App. B.5).

    Raises:
        OptionError: neither; or the template lacks a place.
        DataError: the file cannot be read.
    """
    if name == "paper":
        return Preset(name=name, system=prompt("judge_system"), user=prompt("judge_user"))
    if name == "verifier":
        return Preset(name=name, system="", user=prompt("judge_verifier_user"), parser="marks")
    if name == "definite":
        return Preset(name=name, system="", user=prompt("judge_definite_user"), parser="marks", places=_PLACES[:2])
    path = Path(name)
    if not path.is_file():
        raise OptionError(f"judge prompt {name!r}: choose paper or verifier, or name a file")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return Preset(name=path.name, system="", user=text, parser="marks" if "[[YES]]" in text else "score")
