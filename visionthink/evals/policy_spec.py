"""Policy names of `visionthink eval`, parsed once: who decides about resolution, and what removes visual tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from visionthink.errors import OptionError, did_you_mean
from visionthink.evals.controls import CONTROLS, Control
from visionthink.evals.oracle import Knows
from visionthink.policies.forced import ForcedAction
from visionthink.policies.gate import NamedGate, parse_gate

RoutingName = Literal["adaptive", "full", "low", "resize", "random", "oracle", "forced", "gate", "control"]
Which = Literal["all", "low", "full"]
TrainedLine = Literal["trained-low", "trained-full"]

ROUTINGS: tuple[RoutingName, ...] = get_args(RoutingName)
TRAINED_LINES: tuple[TrainedLine, ...] = get_args(TrainedLine)
METHODS = (
    *("fastv", "visionzip", "sparsevlm", "sparsevlm+", "todre", "visiondrop", "drop-random", "drop-uniform", "pool", "learned"),
)
"""Families of `compress.names`, which this package does not import."""
_WITH_ARGUMENT = ("forced:direct", "forced:request", "oracle:knowable", *(f"control:{name}" for name in get_args(Control)))
CHOICES = (
    "adaptive, full, low, trained-low, trained-full, resize:R, random:P, oracle, oracle:knowable, forced:direct, "
    "forced:request, gate:FILE, gate:SCORE@T, control:NAME, or a compression method as fastv:0.5 or learned:FOLDER"
)


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """A policy as a value.

    - `adaptive`: the model decides, on its own menu.
    - `full`, `low`: one level for all; the tool is not mentioned.
    - `trained-low`, `trained-full`: the same, of a model that was trained to answer from that one level; it is compared with the
      runs of other models of the same architecture.
    - `resize:R`: the image at share R of its pixels for all, 0 < R <= 1; the tool is not mentioned.
    - `random:P`: the full view with probability P, else the low view; a coin per example id, the same in every run. Without P it
      spends what `adaptive` spent.
    - `oracle`: the first decision follows what is known of the example: hard ones see what the answer depends on, at the least
      cost; easy ones are answered directly. It sees the low view first, as the model does. `oracle:evidence` is the same.
    - `oracle:knowable`: the same, but it looks only where a reader could know by then that it must: what is hidden costs it all
      of the image, and what another place tells comes in the next turn.
    - `forced:direct`, `forced:request`: the first decision is the same for all.
    - `gate:FILE`, `gate:SCORE@T`: the low view first; the question is put again where a score of the answer (`certainty.SCORES`)
      is above a threshold, which `visionthink calibrate` has written to a file, or above T.
    - `low:vote`: always-low, with sampled answers beside the greedy one, for the score `vote`.
    - `control:NAME`: the model decides, and is shown other pixels than it asks for, see `controls.CONTROLS`.
    - `METHOD:R`: the full view with a compression method; `ROUTING+METHOD:R` composes both on every view, with `@low` or `@full`
      behind it on these views only. `learned:FOLDER` is a method that `visionthink fit` has trained.

    Two names of the same policy, as `random:0.5` and `random:.5`, are equal.

    Example: `adaptive+visionzip:0.5@full` has routing "adaptive", method "visionzip:0.5" and which "full".
    """

    text: str = field(compare=False)
    """The name as the user wrote it."""
    routing: RoutingName
    share: float | None = None
    """For `resize` the share of the pixels, for `random` the share of questions with the full view."""
    action: ForcedAction | None = None
    """The action of a `forced` policy."""
    trained: bool = False
    """Whether the model was trained for the one level that `routing` names."""
    gate: NamedGate | None = None
    votes: bool = False
    """Whether answers are sampled beside the greedy one."""
    control: Control | None = None
    """What is changed in what the model is shown."""
    knows: Knows | None = None
    """What an `oracle` is told."""
    method: str | None = None
    """A compression method and its settings, see `compress.names`."""
    which: Which = "all"
    """Views that the method acts on."""

    @classmethod
    def parse(cls, text: str) -> PolicySpec:
        """From a policy's name.

        Raises:
            OptionError: `text` is not the name of a policy.
        """
        if text.startswith("gate:"):
            return cls(text=text, routing="gate", gate=parse_gate(text, "--policy"))
        base, plus, method = text.partition("+")
        if base in TRAINED_LINES:
            level = cast("RoutingName", base.removeprefix("trained-"))
            spec = cls(text=text, routing=level, trained=True)
        elif base.partition(":")[0] in ROUTINGS:
            spec = cls._routing(text, base)
        else:
            spec, method, plus = cls(text=text, routing="full"), text, "+"
        if not plus:
            return spec
        family = method.partition(":")[0]
        method, at, which = method.rpartition("@") if "@" in method else (method, "", "")
        if family == "learned" and which not in ("low", "full"):
            method, at, which = f"{method}{at}{which}", "", ""  # an @ in the name of its folder
        if family not in METHODS or "+" in method.partition(":")[2]:
            raise _unknown(text, family)
        if at and which not in ("low", "full"):
            raise OptionError(f"--policy {text!r}: a method acts on every view, @low or @full")
        if at and spec.routing in ("low", "full", "resize"):
            raise OptionError(
                f"--policy {text!r}: {spec.routing} shows one view only; @{which} goes with a policy that shows two"
            )
        return replace(spec, method=method, which=cast("Which", which or "all"))

    @classmethod
    def _routing(cls, text: str, base: str) -> PolicySpec:
        name, colon, argument = base.partition(":")
        routing = cast("RoutingName", name)
        if routing == "resize":
            return cls(text=text, routing=routing, share=_share(text, argument, above_zero=True))
        if routing == "random":
            return cls(text=text, routing=routing, share=_share(text, argument) if colon else None)
        if base == "low:vote":
            return cls(text=text, routing=routing, votes=True)
        if routing == "forced" and argument in ("direct", "request"):
            return cls(text=text, routing=routing, action=cast("ForcedAction", argument))
        if routing == "control" and argument in CONTROLS:
            return cls(text=text, routing=routing, control=argument)
        if routing == "oracle" and (not colon or argument in get_args(Knows)):
            return cls(text=text, routing=routing, knows=cast("Knows", argument or "evidence"))
        if routing in ("forced", "gate", "control") or colon:
            raise _unknown(text, base)
        return cls(text=text, routing=routing)

    def __str__(self) -> str:
        return self.text

    @property
    def decides(self) -> bool:
        """Whether the ratio of requests means anything: False where the level is fixed or drawn at random."""
        return self.routing in ("adaptive", "oracle", "forced", "gate", "control")

    @property
    def is_adaptive(self) -> bool:
        """Whether the model decides, with all its visual tokens or with what a method leaves of them."""
        return self.routing == "adaptive"

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it, and it is not itself what an evaluation is about."""
        fixed = self.routing in ("low", "full") and self.method is None
        return fixed or self.routing in ("random", "oracle", "forced", "control")

    def with_routing(self, routing: str) -> PolicySpec:
        """Another routing, as `forced:direct`, with this policy's method."""
        return replace(self.parse(routing), method=self.method, which=self.which)

    @property
    def shows_one_view(self) -> bool:
        """Whether every example costs what a method makes it cost: the full view, resized or compressed."""
        return self.routing in ("full", "resize") or (self.routing == "low" and self.method is not None)


def _unknown(text: str, part: str) -> OptionError:
    """An error about the part of a policy's name that is not known."""
    names = (*ROUTINGS, *TRAINED_LINES, *METHODS, *_WITH_ARGUMENT)
    known = [name for name in names if name != part.partition(":")[0]]
    return OptionError(f"--policy {text!r}: {did_you_mean(part, known)}choose one of {CHOICES}")


def _share(name: str, text: str, *, above_zero: bool = False) -> float:
    share = float(text) if re.fullmatch(r"[0-9]*\.?[0-9]+", text) else -1.0
    if above_zero and not 0 < share <= 1:
        raise OptionError(f"--policy {name!r}: expected resize:R with R above 0 and up to 1, a share of the pixels")
    if not 0 <= share <= 1:
        raise OptionError(f"--policy {name!r}: expected random:P with P from 0 to 1; plain random goes with adaptive,low,full")
    return share


ADAPTIVE, FULL, LOW = map(PolicySpec.parse, ("adaptive", "full", "low"))
TRAINED_LOW, TRAINED_FULL = map(PolicySpec.parse, TRAINED_LINES)
"""What the others are compared with."""
