"""What each example is evaluated with under a policy: a menu, and who speaks. Examples that share both share batches."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from visionthink.action_space import ActionSpace
from visionthink.errors import OptionError
from visionthink.evals.gated import GateLane, VotingLane
from visionthink.evals.lane import AnyLane, Lane
from visionthink.evals.oracle import Knows, script
from visionthink.evals.policy_spec import PolicySpec
from visionthink.menu import Menu
from visionthink.model import Model
from visionthink.picture import measured
from visionthink.policies.forced import ForcedAction, ForcedPolicy, Steerable
from visionthink.policies.gate import Certificate, Gate, open_gate, with_spreads
from visionthink.rewards.judge import Judge
from visionthink.types import Example

Routing = Callable[[Example], AnyLane]


def routing(spec: PolicySpec, model: Model) -> Routing:
    """Lanes by example; see `PolicySpec` for what the names mean.

    Raises:
        OptionError: an oracle without known needs, or forced decisions of a model that is not in our hands, or that cannot ask.
    """

    def plain(menu: Menu) -> Lane:
        return Lane(menu, policy, policy)

    scored = spec.routing == "gate" or (spec.routing == "low" and isinstance(model.policy, Steerable))  # others cost a server
    policy = with_spreads(model.policy) if scored else model.policy
    low, full = plain(model.menu.low()), plain(model.menu.full())
    if spec.votes:
        voting = VotingLane.of(low, model)
        return lambda example: voting
    if spec.gate is not None:
        gate = open_gate(spec.gate, model.policy, model.protocol, model.menu, model.budget)
        gated = _gated(gate, model, low, full)
        return lambda example: gated
    if spec.routing in ("adaptive", "control", "low", "full"):
        lane = {"low": low, "full": full}.get(spec.routing) or plain(model.menu)
        return lambda example: lane
    if spec.routing == "oracle":
        return _oracle(model, spec.knows or "evidence")
    if spec.routing == "forced":
        assert spec.action is not None
        forced = _forced(model, spec.action)
        return lambda example: forced
    if spec.share is None:
        raise OptionError(f"--policy {spec}: takes its share from adaptive, low, full; name them too, or write random:P")
    share = spec.share
    if spec.routing == "resize":
        resized = plain(model.menu.fixed_level(share))
        return lambda example: resized
    return lambda example: full if _coin(example.id) < share else low


def check_judge(spec: PolicySpec, judge: Judge) -> None:
    """
    Raises:
        OptionError: the policy is a gate that was calibrated with another judge.
        DataError: its file is not one.
    """
    if isinstance(spec.gate, Path):
        Certificate.read(spec.gate).check(spec.gate, judge=judge.identity)


def _gated(gate: Gate, model: Model, low: Lane, full: Lane) -> GateLane:
    if gate.mode == "continue":
        return GateLane(gate=gate, kept=_forced(model, "direct"), escalated=_forced(model, "request"), model=model)
    kept = VotingLane.of(low, model) if gate.score == "vote" else low
    return GateLane(gate=gate, kept=kept, escalated=full, model=model)


def _forced(model: Model, action: ForcedAction) -> Lane:
    policy = with_spreads(_steerable(model))
    return Lane(model.menu, ForcedPolicy.of(policy, model.protocol, action), policy)


def _coin(example_id: str) -> float:
    """Uniform in [0, 1), a function of the id."""
    return int.from_bytes(hashlib.sha256(f"coin {example_id}".encode()).digest()[:8], "big") / 2**64


def _steerable(model: Model) -> Steerable:
    if not model.menu.asks:
        raise OptionError(f"forced and oracle policies need something to ask for; the ladder {model.menu.ladder} has one level")
    if not isinstance(model.policy, Steerable):
        raise OptionError("forced and oracle policies need a local model")
    return model.policy


def _oracle(model: Model, knows: Knows) -> Routing:
    steerable = _steerable(model)

    @functools.cache
    def lane(said: tuple[str | None, ...]) -> Lane:
        return Lane(model.menu, ForcedPolicy(steerable, model.protocol, said), model.policy)

    def route(example: Example) -> Lane:
        if example.need is None:
            raise OptionError(f"--policy oracle: the need of example {example.id} is not known")
        space = ActionSpace(model.menu, measured(example, max_pixels=model.max_image_pixels), model.budget)
        return lane(script(example, space, model.protocol, knows))

    return route
