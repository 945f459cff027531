"""A dialect, a turn boundary and what stands for a request: everything that is said, as functions of what happened."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from visionthink.errors import DataError, OptionError, choose_from, is_blank
from visionthink.menu import Menu
from visionthink.protocol.dialects import DIALECTS, IMAGE_MARK, Boundary, Dialect, function, prompt
from visionthink.protocol.grammar import PLAIN, Grammar
from visionthink.protocol.reader import Reader
from visionthink.protocol.replies import (
    TAGGED_ANSWER,
    Answer,
    Malformed,
    Reply,
    Request,
    after_thinking,
    extract_answer,
    spoken,
    written_out,
)
from visionthink.types import Asked, Call, CallError, Content, Earlier, Frame, ImageView, Message, Role, Unit

# what a published string leaves open; an image stands as a name, or as the wire text of one image
_SLOT = re.compile(
    r"\{(question|Question|image|error|levels|action_turn|observation_turn)\}|(<\|vision_start\|><\|image_pad\|><\|vision_end\|>)"
)


_TAG = re.compile("</?(?:think|answer|tool_call|tool_response|resize)>")

_ASKED = {"level": "a level", "region": "a region by id", "box": "a box", "edit": "an edit"}


def _filled(files: Sequence[str], values: Mapping[str, Content]) -> Content:
    """The text of some files with their slots filled; adjacent texts are one."""
    parts: list[str | ImageView] = []
    text = "".join(map(prompt, files)).replace("{{}}", "{}")  # AdaptVision's is a format string of Python
    begin = 0
    for slot in _SLOT.finditer(text):
        name = "image" if slot[2] else slot[1].lower()
        if name in values:
            parts += [text[begin : slot.start()], *values[name]]
            begin = slot.end()
    return _joined([*parts, text[begin:]])


def _joined(parts: Iterable[str | ImageView]) -> Content:
    joined: list[str | ImageView] = []
    for _, run in itertools.groupby(parts, lambda part: isinstance(part, str)):
        found = list(run)
        texts = [part for part in found if isinstance(part, str)]  # one by one, thousands would be copied thousands of times
        joined += [text] if (text := "".join(texts)) else [] if texts else found
    return tuple(joined)


def _between(contents: Sequence[Content], separator: str) -> Content:
    """Contents in order with a separator between them."""
    first, *rest = contents or [()]
    return _joined([*first, *(part for content in rest for part in (separator, *content))])


@dataclass(frozen=True)
class Protocol:
    """A dialect, a turn boundary, and what the next prompt holds in place of a request.

    Raises:
        OptionError: unknown dialect or boundary.
    """

    dialect: str = "agent"
    boundary: Boundary = "chatml"
    canonical: bool = False
    """Whether the prompt after a request holds it in the words of `request`, and not as it was said, thinking included: all that
    ask for the same then go on from one context."""

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise OptionError(f"unknown dialect {self.dialect!r}; {choose_from(self.dialect, DIALECTS)}")
        if self.boundary not in ("chatml", "released"):
            raise OptionError(f"unknown boundary {self.boundary!r}; choose chatml or released")

    def with_dialect(self, dialect: str | None = None, boundary: str | None = None) -> Protocol:
        """The same in another dialect, whose released turn boundary comes along unless one is named. None changes nothing.

        Raises:
            OptionError: unknown dialect or boundary.
        """
        other = Protocol(dialect or self.dialect)
        released = DIALECTS[other.dialect].boundary if dialect else None
        return replace(other, boundary=cast("Boundary", boundary or released or self.boundary), canonical=self.canonical)

    def _spoken(self, can_request: bool) -> Dialect:
        dialect = DIALECTS[self.dialect]
        return dialect if can_request else DIALECTS[dialect.without_tool]

    # ------------------------------------------------------------------------------------------------ to the model

    def opening(
        self,
        question: str,
        views: Sequence[ImageView],
        *,
        can_request: bool,
        earlier: Sequence[Earlier | tuple[Role, str]] = (),
        levels: Sequence[float] = (),
    ) -> list[Message]:
        """System, earlier and user messages of the first turn. Where nothing can be asked for, the tool is not mentioned.

        Images stand where the conversation has `<image>`, in order; without any, all stand before the question. A system message
        of an earlier conversation stands before ours, in one message. Where nothing is asked behind the conversation, it ends as
        it did, with the result of a function, say: several servers refuse an empty message.

        Args:
            levels: those on offer, for dialects that name them.

        Raises:
            DataError: the number of `<image>` marks is neither 0 nor the number of images.
        """
        dialect = self._spoken(can_request)
        before = [Earlier(*message) for message in earlier]
        marks = question.count(IMAGE_MARK) + sum(message.text.count(IMAGE_MARK) for message in before)
        if marks not in (0, len(views)):
            raise DataError(f"the question {question[:60]!r}: {marks} {IMAGE_MARK} marks for {len(views)} image(s)")
        left = iter(views)
        said = [Message(role, self._placed(text, left), wire=wire) for role, text, wire in before]
        asked: Content = (*(() if marks else left), *self._placed(question, left))
        offered = ", ".join(f"{level:g}" for level in levels)
        ours = _filled(dialect.system, {"levels": (offered,)}) if dialect.system else ()
        theirs = [message.content for message in said if message.role == "system"]
        system = _between([*theirs, *([ours] if ours else [])], "\n\n")
        messages = [Message("system", system)] if system else []
        messages += [message for message in said if message.role != "system"]
        tools = tuple(map(function, dialect.functions))
        if asked or not messages:
            messages.append(Message("user", _filled(dialect.user, {"question": asked})))
        return [*messages[:-1], replace(messages[-1], tools=tools)]

    @staticmethod
    def _placed(text: str, views: Iterable[ImageView]) -> Content:
        """A text with the next views where its marks are."""
        first, *rest = text.split(IMAGE_MARK)
        left = iter(views)
        return _joined([first, *(part for piece in rest for part in (next(left), piece))])

    def observation(self, views: Sequence[ImageView], *, before: int = 0) -> Message:
        """The user turn that shows what was asked for.

        Args:
            before: how many views earlier turns showed in this way; some dialects number them.
        """
        dialect = DIALECTS[self.dialect]
        groups = [(view,) for view in views] if dialect.one_text_per_view else [tuple(views)]
        texts = [
            _filled(dialect.shown, {"image": group, "action_turn": (str(n),), "observation_turn": (str(n + 1),)})
            for n, group in enumerate(groups, before)
        ]
        return Message("user", _between(texts, "\n"))

    def tool_error(self, reason: CallError) -> Message:
        """The user turn after a call that cannot be followed."""
        return Message("user", _filled(DIALECTS[self.dialect].error, {"error": (reason.value,)}))

    # ------------------------------------------------------------------------------------------------ from the model

    def parse(self, text: str, *, can_request: bool = True) -> Reply:
        """Read a reply. What a request leads to depends on image sizes and is decided by `ActionSpace.resolve`."""
        grammar = self._spoken(can_request).grammar
        reply = grammar.read(spoken(text)) if grammar else Answer(text)
        return Answer(text) if isinstance(reply, Answer) else reply

    def reader(self, *, can_request: bool = True) -> Reader:
        """A reader for one reply, which is read while it is generated."""
        grammar = DIALECTS[self.dialect].grammar
        return Reader(self._spoken(can_request), grammar.opens if grammar else "")

    def turn_text(self, content: str, reasoning: str = "", calls: Sequence[tuple[str, str]] = ()) -> str | None:
        """The turn that a server took apart, as one text; None where it holds neither an answer nor a request.

        Thinking is no answer, and a tag without words is none. Where all of a turn was taken for thinking, it counts if it holds
        a tagged answer or a request.
        """
        text = written_out(content, reasoning, calls)
        if calls or after_thinking(content):
            words = _TAG.sub("", extract_answer(text))
            return text if not is_blank(words) or not isinstance(self.parse(text), Answer) else None
        if re.search(TAGGED_ANSWER, text, re.DOTALL):
            return text if extract_answer(text) else None
        inner = re.sub("</?think>", "", text)
        return inner if isinstance(self.parse(inner), Request) else None

    def is_whole(self, text: str) -> bool:
        """Whether a turn shows its own end: a request, or an answer whose tag is closed."""
        return isinstance(self.parse(text), Request) or re.search(TAGGED_ANSWER, spoken(text), re.DOTALL) is not None

    @property
    def can_ask(self) -> bool:
        """Whether the dialect has a way to ask for more."""
        return bool(self.asks)

    @property
    def asks(self) -> frozenset[Asked]:
        """Kinds of what the dialect can ask for."""
        grammar = DIALECTS[self.dialect].grammar
        return grammar.asks if grammar else frozenset()

    def check_menu(self, menu: Menu, *, must_ask: bool = False) -> None:
        """
        Raises:
            OptionError: the dialect asks for other things than the menu offers; or for nothing, where it `must_ask`.
        """
        if menu.asks and not menu.asks & self.asks and (self.can_ask or must_ask):
            said, offered = (" or ".join(_ASKED[kind] for kind in sorted(kinds)) for kinds in (self.asks, menu.asks))
            raise OptionError(
                f"dialect {self.dialect}: asks for {said or 'nothing'}, and the menu offers {offered}; "
                f"choose another dialect or menu{', or a ladder of one level' if must_ask else ''}"
            )

    @property
    def function_names(self) -> tuple[str, ...]:
        """Functions of the dialect that are named beside the text."""
        return tuple(function(name)["function"]["name"] for name in DIALECTS[self.dialect].functions)

    @property
    def asks_of_any_image(self) -> bool:
        """Whether a request means, or can name, each of several images."""
        grammar = DIALECTS[self.dialect].grammar
        return grammar is None or grammar.images == "any"

    @property
    def names_levels(self) -> bool:
        """Whether a call can name a level, and not only ask for the next one."""
        return self.can_ask and self._grammar.names_levels

    @property
    def lists_regions(self) -> bool:
        """Whether one call can list several regions by id."""
        return self.can_ask and self._grammar.lists_regions

    @property
    def coordinates(self) -> tuple[Unit, Frame]:
        """Unit and frame of the coordinates in a call."""
        return self._grammar.unit, self._grammar.frame

    @property
    def _grammar(self) -> Grammar:
        grammar = DIALECTS[self.dialect].grammar
        if grammar is None:
            raise OptionError(f"the dialect {self.dialect} has no way to ask for more resolution")
        return grammar

    def request(self, *calls: Call) -> str:
        """The canonical request, for demonstrations and forced actions; without calls, that for the next level."""
        return self._grammar.write(calls or (Call(),))

    @property
    def request_opening(self) -> str:
        """The string that no reply without a request contains."""
        return self._grammar.opens

    @property
    def answer_opening(self) -> str:
        """The string that opens an answer; empty where answers are plain text."""
        return "<answer>" if DIALECTS[self.dialect].answer_tags else ""

    def is_well_formed(self, text: str, *, can_request: bool = True) -> bool:
        """Whether one turn keeps the format to the letter: a valid request or an answer, once, and nothing beside it.

        Where the dialect thinks, the reasoning comes first and once. White space around the parts does not matter.
        """
        dialect = self._spoken(can_request)
        reply = self.parse(text, can_request=can_request)
        if isinstance(reply, Malformed):
            return False
        plain = dialect.grammar.plain if dialect.grammar else PLAIN
        form = f"<answer>{plain}</answer>" if dialect.answer_tags else ".*"
        if isinstance(reply, Request):
            form = self._grammar.form
        if dialect.thinks:
            form = rf"<think>{plain}</think>\s*" + form
        return re.fullmatch(form, text.strip(), re.DOTALL) is not None

    def format_answer(self, answer: str) -> str:
        """An answer in this dialect, for demonstrations; thinking is left to the model."""
        return f"<answer>{answer}</answer>" if DIALECTS[self.dialect].answer_tags else answer

    def format_thought(self, thought: str) -> str:
        """What comes before a request or an answer in this dialect, for demonstrations; nothing where it does not think."""
        return f"<think>{thought}</think>" if DIALECTS[self.dialect].thinks else ""
