"""What each example is evaluated with under a policy: a menu, and who speaks. Examples that share both share batches."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from visionthink.action_space import ActionSpace
from visionthink.episode import Episode, Policy
from visionthink.errors import OptionError
from visionthink.evals.oracle import Knows, script
from visionthink.evals.policy_spec import PolicySpec
from visionthink.menu import Menu
from visionthink.model import Model
from visionthink.picture import measured
from visionthink.policies.forced import ForcedPolicy, Steerable
from visionthink.types import Example


@dataclass(frozen=True)
class Lane:
    """What an example is evaluated with. Examples in the same lane share batches."""

    menu: Menu
    policy: Policy
    policy_without_tool: Policy
    """Speaks where nothing is on offer: a forced decision needs something to decide."""

    def policy_for(self, episode: Episode) -> Policy:
        return self.policy if episode.can_request else self.policy_without_tool


Routing = Callable[[Example], Lane]


def routing(spec: PolicySpec, model: Model) -> Routing:
    """Lanes by example; see `PolicySpec` for what the names mean.

    Raises:
        OptionError: an oracle without known needs, or forced decisions of a model that is not in our hands, or that cannot ask.
    """

    def plain(menu: Menu) -> Lane:
        return Lane(menu, model.policy, model.policy)

    low, full = plain(model.menu.low()), plain(model.menu.full())
    if spec.routing in ("adaptive", "low", "full"):
        lane = {"adaptive": plain(model.menu), "low": low, "full": full}[spec.routing]
        return lambda example: lane
    if spec.routing == "oracle":
        return _oracle(model, spec.knows or "evidence")
    if spec.routing == "forced":
        assert spec.action is not None
        steerable = _steerable(model)
        forced = Lane(model.menu, ForcedPolicy.of(steerable, model.protocol, spec.action), model.policy)
        return lambda example: forced
    if spec.share is None:
        raise OptionError(f"--policy {spec}: takes its share from adaptive, low, full; name them too, or write random:P")
    share = spec.share
    if spec.routing == "resize":
        resized = plain(model.menu.fixed_level(share))
        return lambda example: resized
    return lambda example: full if _coin(example.id) < share else low


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
