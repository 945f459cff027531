"""Policy names of `visionthink eval`: who decides about resolution. A name becomes a value; nothing else branches on it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from visionthink.episode import Policy
from visionthink.errors import OptionError
from visionthink.model import Model
from visionthink.policies.forced import ForcedAction, ForcedPolicy, Steerable
from visionthink.resolution import ResolutionLadder
from visionthink.types import Example

CHOICES = "adaptive, full, low, resize:R, random:P, oracle, forced:direct, forced:request, or a compression method as fastv:0.5"


@dataclass(frozen=True)
class Lane:
    """What an example is evaluated with. Examples in the same lane share batches."""

    ladder: ResolutionLadder
    policy: Policy


Routing = Callable[[Example], Lane]


def routing(name: str, model: Model) -> Routing:
    """The routing behind a policy name.

    - `adaptive`: the model decides, on its own ladder.
    - `full`, `low`: one level for all; the tool is not mentioned.
    - `resize:R`: the image at share R of its pixels for all, 0 < R <= 1; the tool is not mentioned.
    - `random:P`: the full view with probability P, else the low view; a coin per example id, the same in every run.
    - `oracle`: the first decision follows the known need: hard is asked for, easy is answered directly. It sees the low view
      first, as the model does, so it is what a perfect decision would cost.
    - `forced:direct`, `forced:request`: the first decision is the same for all.

    Raises:
        OptionError: not one of these, or an oracle without known needs.
    """
    kind, _, argument = name.partition(":")
    low, full = Lane(model.ladder.low(), model.policy), Lane(model.ladder.full(), model.policy)
    if name in ("adaptive", "low", "full"):
        lane = {"adaptive": Lane(model.ladder, model.policy), "low": low, "full": full}[name]
        return lambda example: lane
    if kind == "resize":
        resized = Lane(dataclasses.replace(model.ladder, levels=(_share(name, argument, above_zero=True),)), model.policy)
        return lambda example: resized
    if kind == "random":
        share = _share(name, argument)
        return lambda example: full if _coin(example.id) < share else low
    if name == "oracle":
        by_need = {"easy": _forced(model, "direct"), "hard": _forced(model, "request")}

        def by_known_need(example: Example) -> Lane:
            if example.need is None:
                raise OptionError(f"--policy oracle: the need of example {example.id} is not known")
            return by_need[example.need]

        return by_known_need
    if name == "forced:direct" or name == "forced:request":
        forced = _forced(model, "direct" if argument == "direct" else "request")
        return lambda example: forced
    raise OptionError(f"--policy {name!r}: choose one of {CHOICES}")


def _share(name: str, text: str, *, above_zero: bool = False) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if above_zero and not 0 < share <= 1:
        raise OptionError(f"--policy {name!r}: expected resize:R with R above 0 and up to 1, a share of the pixels")
    if not 0 <= share <= 1:
        raise OptionError(f"--policy {name!r}: expected random:P with P from 0 to 1; plain random goes with adaptive,low,full")
    return share


def _coin(example_id: str) -> float:
    """Uniform in [0, 1), a function of the id."""
    return int.from_bytes(hashlib.sha256(f"coin {example_id}".encode()).digest()[:8], "big") / 2**64


def _forced(model: Model, action: ForcedAction) -> Lane:
    if len(model.ladder.levels) < 2:
        raise OptionError(f"forced and oracle policies need a ladder of two levels, not {model.ladder}")
    if not isinstance(model.policy, Steerable):
        raise OptionError("forced and oracle policies need a local model")
    return Lane(model.ladder, ForcedPolicy(model.policy, model.protocol, action))
