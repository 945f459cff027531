"""What an episode costs, and always showing the full view: in visual tokens, in operations, or in milliseconds of a device.

| unit     | cost                                                                                                          |
|----------|---------------------------------------------------------------------------------------------------------------|
| `visual` | visual tokens of every view that was shown                                                                     |
| `flops`  | floating-point operations, every round finding the one before in a prefix cache (`evals.cost`, `flops_cached`)  |
| `ms`     | k0 per turn + k1 per prefilled token + k2 per patch + k3 per output token, k of a `DeviceTable`                 |

Always-full is one turn with the full views, the text of the first turn and the output of the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from visionthink import records
from visionthink.action_space import ActionSpace
from visionthink.durable import replace_json
from visionthink.errors import DataError, OptionError
from visionthink.menu import Menu
from visionthink.resolution import SizeRule
from visionthink.transcript import Transcript, Turn
from visionthink.types import Shown

UNITS = ("visual", "flops", "ms")
PATCHES = 4
"""Patches of the vision tower behind a visual token of the Qwen-VL families."""

Cost: TypeAlias = "tuple[float, float]"
"""Cost of an episode, and that of always-full, in one unit."""
Meter: TypeAlias = Callable[[Transcript], "Cost | None"]
"""Measures a transcript; None where it does not say what is needed."""
Amount: TypeAlias = Callable[[Transcript], "float | None"]
"""What an episode costs, by itself."""
FlopsOf: TypeAlias = Callable[[Any], Amount]
"""Makes of a configuration of transformers a function from episodes to their operations, as `evals.cost.flops_of`."""


def visual(transcript: Transcript) -> Cost:
    """The cost in visual tokens."""
    return float(transcript.visual_tokens), float(transcript.visual_tokens_full)


def against_full(amount: Amount, menu: Menu, budget: SizeRule) -> Meter:
    """A meter from what an episode costs by itself.

    Args:
        menu: of the run; its full view is what always-full shows.
        budget: of the model's image processor.
    """

    def meter(transcript: Transcript) -> Cost | None:
        spent, full = amount(transcript), amount(always_full(transcript, menu, budget))
        return None if spent is None or not full else (spent, full)

    return meter


def always_full(transcript: Transcript, menu: Menu, budget: SizeRule) -> Transcript:
    """The episode with the full views in its only turn, and the same output as its last turn."""
    space = ActionSpace(menu.full(), list(transcript.sizes), budget)
    views = space.shown(space.opening)
    first, last = transcript.turns[0], transcript.turns[-1]
    usage = replace(
        first.usage,
        visual_tokens=sum(view.visual_tokens for view in views),
        output_tokens=last.usage.output_tokens,
        visual_by_layer=None,
        selection_flops=0,
    )
    return replace(transcript, turns=(replace(last, usage=usage, views=views, looks=(), restarted=False),))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the model read in a turn, in tokens."""

    turn: Turn
    views: tuple[Shown, ...]
    """The views in the context."""
    visual: int
    """Visual tokens of the context, before a method takes some out."""
    context: int
    """All tokens of the context that entered the first layer."""
    known: int
    """The first of them, which a prefix cache holds from the turn before."""


def readings(transcript: Transcript) -> Iterator[Reading]:
    """What was read in each turn in which the policy read something.

    A turn finds the prompt of the one before and what was said then, but for its last token, which was sampled and never read.
    Where a turn has `restarted`, it finds the prompt alone; a turn that begins `anew`, or from whose context visual tokens are
    taken out, finds nothing: which ones are left may depend on the text behind an image.
    """
    views: tuple[Shown, ...] = ()
    visual = context = known = 0
    for turn in transcript.turns:
        usage = turn.usage
        if turn.anew:
            views, visual, known = (), 0, 0
        views, visual = (*views, *turn.views), visual + usage.visual_tokens
        if usage.text_tokens == 0 and usage.output_tokens == 0:
            continue  # the policy failed before it read anything
        if turn.restarted:
            known = min(known, context)
        if usage.visual_by_layer:
            known = 0
        context = usage.text_tokens + (usage.visual_by_layer or [visual])[0]
        yield Reading(turn=turn, views=views, visual=visual, context=context, known=known)
        known = max(0, context + usage.output_tokens - 1)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the time of an episode depends on."""

    turns: int
    prefilled: int
    """Tokens that were read, each once: a turn finds the one before in a prefix cache."""
    patches: int
    output: int

    @classmethod
    def of(cls, transcript: Transcript) -> Work:
        read = list(readings(transcript))
        return cls(
            turns=len(read),
            prefilled=sum(reading.context - reading.known for reading in read),
            patches=PATCHES * transcript.visual_tokens,
            output=transcript.output_tokens,
        )

    @property
    def amounts(self) -> tuple[int, int, int, int]:
        return self.turns, self.prefilled, self.patches, self.output


@dataclass(frozen=True, kw_only=True)
class DeviceTable:
    """How long a model takes on a device: k0 ms per turn, k1 per prefilled token, k2 per patch, k3 per output token."""

    model: str
    device: str
    k0: float
    k1: float
    k2: float
    k3: float
    calls: int
    """Timed calls that these were fitted to."""
    error: float
    """Mean of |fitted - timed| / timed over these calls."""

    def __call__(self, transcript: Transcript) -> float:
        """Milliseconds of an episode."""
        return float(np.dot((self.k0, self.k1, self.k2, self.k3), Work.of(transcript).amounts))

    @classmethod
    def fitted(cls, model: str, device: str, work: Sequence[Work], milliseconds: Sequence[float]) -> DeviceTable:
        """Least squares with coefficients of at least 0: no work takes less than no time, and where two kinds of work
        always come together one of them may be given all of the time.

        Raises:
            DataError: the calls do not say how long each kind of work takes.
        """
        amounts, timed = np.array([w.amounts for w in work], dtype=float), np.array(milliseconds, dtype=float)
        if len(work) < 8 or np.linalg.matrix_rank(amounts) < amounts.shape[1]:
            raise DataError("measure: the timed calls are too few or too alike to tell the kinds of work apart")
        left = list(range(amounts.shape[1]))
        relative = amounts / timed[:, None]  # short calls count as much as long ones
        found = np.zeros(amounts.shape[1])
        while left:
            solved, *_ = np.linalg.lstsq(relative[:, left], np.ones(len(timed)), rcond=None)
            if (solved >= 0).all():
                found[left] = solved
                break
            left.remove(left[int(solved.argmin())])
        error = float(np.abs(relative @ found - 1).mean())
        k0, k1, k2, k3 = found.tolist()
        return cls(model=model, device=device, k0=k0, k1=k1, k2=k2, k3=k3, calls=len(work), error=error)

    def write(self, path: Path) -> None:
        replace_json(path, self.__dict__)

    @classmethod
    def read(cls, path: Path) -> DeviceTable:
        """
        Raises:
            OptionError: there is no such file, or it is none that `visionthink measure` wrote.
        """
        try:
            table: DeviceTable = records.read(cls, records.parse(path.read_bytes()), "device table")
        except FileNotFoundError:
            raise OptionError(
                f"--device-table {path}: no such file; visionthink measure --model M --out {path} writes one"
            ) from None
        except OSError as error:
            raise OptionError(
                f"--device-table {path}: cannot be read ({error.strerror}); name a file of visionthink measure"
            ) from None
        except ValueError as error:
            raise OptionError(f"--device-table {path}: not a table of visionthink measure ({error})") from None
        numbers: dict[str, Any] = {name: getattr(table, name) for name in ("k0", "k1", "k2", "k3")}
        for name, value in numbers.items():
            if not 0 <= value < math.inf:
                raise OptionError(f"--device-table {path}: {name} {value}: must be a number of at least 0")
        if not any(numbers.values()):
            raise OptionError(f"--device-table {path}: all of k0 to k3 are 0")
        return table
