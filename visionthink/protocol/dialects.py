"""Wordings of the protocol, as values: which published strings are said when, and how the model asks."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from visionthink.protocol.grammar import GRAMMARS, Grammar

IMAGE_MARK = "<image>"
"""Where a question (in the released data) or a transcript has an image."""

Boundary = Literal["chatml", "released"]
"""Between an assistant turn and the next: `chatml` has a newline, `released` has none, as the authors' checkpoints were
trained."""


@functools.cache
def prompt(name: str) -> str:
    """The text of `prompts/NAME.txt`, byte for byte."""
    return (resources.files("visionthink") / "prompts" / f"{name}.txt").read_bytes().decode("utf-8")


@functools.cache
def function(name: str) -> Mapping[str, Any]:
    """The schema of a function in `prompts/NAME.json`, in OpenAI's form."""
    schema: Mapping[str, Any] = json.loads((resources.files("visionthink") / "prompts" / f"{name}.json").read_bytes())
    return schema


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One wording of the protocol. `system`, `user`, `shown` and `error` name files in `prompts/`, which are joined."""

    name: str
    system: tuple[str, ...] = ()
    user: tuple[str, ...] = ("question",)
    without_tool: str = "plain"
    """The dialect that is spoken where nothing is on offer; it does not mention the tool."""
    call: str | None = None
    """The grammar of its calls; None where no tool is advertised."""
    functions: tuple[str, ...] = ()
    """Schemas in `prompts/` of the functions that are named beside the text, and called as an endpoint's model calls any."""
    shown: tuple[str, ...] = ("resized",)
    """The user turn that shows what was asked for."""
    one_text_per_view: bool = False
    """Whether several views are shown in as many texts, and not all in the place of one."""
    error: tuple[str, ...] = ("tool_error",)
    """The user turn after a call that cannot be followed."""
    thinks: bool = True
    """Whether the format demands `<think>`."""
    answer_tags: bool = True
    """Whether the format demands `<answer>`."""
    boundary: Boundary | None = None
    """The turn boundary of its released checkpoints; None: that of the model."""

    @property
    def grammar(self) -> Grammar | None:
        return GRAMMARS[self.call] if self.call else None


def _deepeyes(name: str, version: str, call: str) -> Dialect:
    suffix = f"deepeyes{version}_user_suffix"
    return Dialect(
        name=name,
        system=(f"deepeyes{version}_system",),
        user=("question", suffix),
        without_tool="general",
        call=call,
        shown=("deepeyes_shown", suffix, "deepeyes_shown_end"),
        error=("deepeyes_error",),
    )


def _simple(name: str, call: str, thinks: bool) -> Dialect:
    return Dialect(
        name=name, system=(f"{name}_system",), user=(f"{name}_user",), without_tool="general", call=call, thinks=thinks
    )


def _compact(name: str, user: str, call: str) -> Dialect:
    return Dialect(
        name=name,
        user=(user,),
        without_tool="compact_single",
        call=call,
        shown=("compact_resized",),
        error=("compact_tool_error",),
        thinks=False,
    )


def _awares(name: str, system: str, call: str) -> Dialect:
    return Dialect(
        name=name,
        system=(system,),
        call=call,
        shown=("awares_shown",),
        error=("awares_error",),
        thinks=False,
        answer_tags=False,
    )


DIALECTS: dict[str, Dialect] = {
    d.name: d
    for d in (
        # VisionThink (arXiv 2507.13348), Table 4: the default for real models
        Dialect(name="agent", system=("agent_system",), user=("agent_user",), without_tool="general", call="tool_call"),
        # Table 5: one level, no tool
        Dialect(name="general", system=("general_system",), user=("general_user",), without_tool="general"),
        # Table 10: the two custom prompts of Fig. 7
        _simple("simple_resize", "resize_pair", thinks=False),
        _simple("simple_think_resize", "resize_mark", thinks=True),
        # ours: a request may name a level of a longer ladder
        Dialect(name="levels", system=("levels_system",), user=("agent_user",), without_tool="general", call="level_call"),
        # ours: a few tokens, for the tiny model; the call of the first is the agent's
        _compact("compact", "compact_user", "tool_call"),
        _compact("compact_ids", "compact_user", "look_ids"),
        _compact("compact_cells", "compact_user", "look_cells"),
        Dialect(name="compact_single", user=("compact_single_user",), without_tool="compact_single", thinks=False),
        # the question alone, to a model that was not trained for any of these
        Dialect(name="plain", thinks=False, answer_tags=False),
        # the question alone, and a function beside it: to a model behind an endpoint that was trained to call any
        Dialect(
            name="native",
            call="tool_call",
            functions=("native_resize",),
            shown=("native_shown",),
            error=("native_error",),
            thinks=False,
            answer_tags=False,
        ),
        # AdaptVision (arXiv 2512.03794)
        Dialect(
            name="adaptvision",
            system=("adaptvision_system",),
            user=("adaptvision_user",),
            without_tool="general",
            call="local_region",
            shown=("adaptvision_shown", "adaptvision_followup"),
            boundary="released",
        ),
        # AwaRes (arXiv 2603.16932): the paper's prompt, and the prompt and the parser of its evaluation code
        _awares("awares", "awares_system_paper", "crops"),
        _awares("awares_released", "awares_system_lmms_eval", "crops_released"),
        # DeepEyes (arXiv 2505.14362), one call a turn, and its later version with several
        _deepeyes("deepeyes", "", "zoom_last"),
        _deepeyes("deepeyes_v5", "_v5", "zoom_all"),
        # Mini-o3 (arXiv 2509.07969)
        Dialect(
            name="minio3",
            system=("minio3_system",),
            without_tool="general",
            call="grounding",
            shown=("minio3_observation",),
            one_text_per_view=True,
            error=("minio3_error", "minio3_error_followup"),
        ),
        # Qwen3-VL's zoom, as Qwen-Agent says it
        Dialect(
            name="qwen3",
            system=("qwen3vl_zoom_system",),
            call="zoom_image",
            shown=("qwen3vl_shown",),
            one_text_per_view=True,
            error=("qwen3vl_error",),
            thinks=False,
            answer_tags=False,
        ),
    )
}
