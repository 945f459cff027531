"""Where advantages come from: TRL computes those of Eq. 3; those of any other credit take their place behind it.

Seam of TRL 1.16: what `_generate_and_score_completions` returns as `advantages` may be [rows, ids]. The price of a budget moves
once a step, after its advantages; its state is one more file of each checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visionthink import records
from visionthink.durable import replace_json
from visionthink.errors import ModelError, OptionError
from visionthink.policies.checkpoint import Checkpoint
from visionthink.rewards.budget import Budget, Dual, Seen
from visionthink.rewards.channels import asked_first
from visionthink.rewards.costs import DeviceTable, FlopsOf, Meter, against_full, visual
from visionthink.rewards.credit import Credit
from visionthink.rewards.members import Member
from visionthink.train.config import TrainConfig
from visionthink.train.rollouts import Rollout
from visionthink.train.sampled import SampledStep
from visionthink.types import StopReason

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

STATE = "budget.json"
"""File of a checkpoint that says where the price stands."""


def member(rollout: Rollout) -> Member:
    """What credit needs to know of a rollout."""
    transcript = rollout.transcript
    opening = len(transcript.turns[0].prompt_ids)
    spans = [
        (number if sampled else -1, len(ids))
        for number, turn in enumerate(transcript.turns)
        for sampled, ids in ((False, turn.prompt_ids), (True, turn.token_ids))
    ]
    turns = np.repeat(*np.array(spans).T)[opening:]
    looks = asked_first(transcript)
    whole = all(transcript.sizes[look.image] == (b.right, b.bottom) and b[:2] == (0, 0) for look in looks for b in look.boxes)
    return Member(
        channels=rollout.score,
        turns=np.where(np.array(rollout.loss_mask[opening:], dtype=bool), turns, -1),
        last=len(transcript.turns) - 1,
        action=looks or transcript.turns[0].action,
        kind=transcript.turns[0].action if not looks else "whole" if whole else "crop",
        forced=rollout.forced is not None,
        decision=rollout.decision,
        probability=rollout.probability,
    )


def meter_of(config: TrainConfig, checkpoint: Checkpoint, flops: FlopsOf | None) -> Meter:
    """What an episode of the run costs, in the unit of its budget; in visual tokens where it has none.

    Raises:
        OptionError: the unit is operations, and nothing counts them; or the table of a device cannot be read.
    """
    budget = config.rollout_budget()
    if budget is None or budget.unit == "visual":
        return visual
    if budget.unit == "ms":
        return against_full(DeviceTable.read(Path(config.device_table)), config.rollout_menu(), checkpoint.budget)
    if flops is None:
        raise OptionError("budget flops: nothing counts operations; give make_trainer or train flops=evals.cost.flops_of")
    return against_full(flops(checkpoint.model.config), config.rollout_menu(), checkpoint.budget)


def totals(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """Of the free members of groups whose cost is known: how many, how many kept the format, sums of their cost and of that of
    always-full, and the least and the largest share."""
    free = [r for group in groups for r in group if r.forced is None and r.transcript.stop_reason is not StopReason.POLICY_ERROR]
    known = [(r.score, r.score.cost) for r in free if r.score.cost is not None]
    shares = [cost / score.full for score, cost in known]
    return {
        "count": len(known),
        "kept": sum(score.format > 0 for score, _ in known),
        "cost": sum(cost for _, cost in known),
        "full": sum(score.full for score, _ in known),
        "least": min(shares, default=math.inf),
        "most": max(shares, default=-math.inf),
    }


class Credited(_Trainer):
    """For the trainer of TRL: a class that names this one before it takes advantages from the run's credit."""

    config: TrainConfig
    step: SampledStep
    credit: Credit
    budget: Budget | None
    dual: Dual
    _seen: Seen | None

    def credit_by(self, config: TrainConfig) -> None:
        """Begin with the run's credit, and with a price of 0 where it has a budget."""
        self.credit, self.budget, self.dual, self._seen = config.rollout_credit(), config.rollout_budget(), Dual(), None

    @property
    def price(self) -> float:
        """What a cost of always-full takes from the advantage in this step."""
        return self.budget.per_cost(self.dual) if self.budget else self.credit.price

    def varies(self, group: Sequence[Rollout]) -> bool:
        """Whether a group has anything to compare, by the run's credit."""
        return self.credit.varies([member(rollout) for rollout in group], self.price)

    def weigh(self, groups: Sequence[Sequence[Rollout]]) -> None:
        """Look at what the policy as it is costs, before groups are chosen for what can be learnt from them."""
        if not self.budget:
            return
        mine = totals(groups)
        values = torch.tensor(list(mine.values()), dtype=torch.float64, device=self.accelerator.device)
        gathered = self.accelerator.gather(values).view(-1, len(mine)).cpu().numpy()
        of = dict(zip(mine, gathered.T, strict=True))  # by name, one value for each process
        count, kept, cost, full = (float(of[name].sum()) for name in ("count", "kept", "cost", "full"))
        least, most = float(of["least"].min()), float(of["most"].max())
        self._seen = Seen(cost=cost, full=full, least=least, most=most, form=kept / count) if count else None
        if self._seen:
            self._log_metric("budget/cost", self._seen.share)
            self._log_metric("budget/used", self._seen.share / self.budget.share)
        self._log_metric("budget/price", self.dual.price)
        self._log_metric("budget/lambda", self.dual.weight)
        self._log_metric("budget/mean_lambda", self.dual.mean)
        at_ceiling = self.dual.price > 0 and self.dual.price >= self.budget.bound(self.dual, self.config.group_size)
        self._log_metric("budget/at_ceiling", float(at_ceiling))
        self._log_metric("budget/held", float(self.dual.held))

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.credit.by_trl:
            output["advantages"] = self._advantages(output["completion_ids"])
        if self.budget and self._seen:
            self.dual, self._seen = self.budget.after(self.dual, self._seen, self.config.group_size), None
        return output

    def _advantages(self, completion_ids: torch.Tensor) -> torch.Tensor:
        """[rows] or [rows, ids], in the order in which the step was sampled."""
        size = self.config.group_size
        members = [member(rollout) for rollout in self.step.rollouts]
        groups = [members[i : i + size] for i in range(0, len(members), size)]
        rows = self.credit.advantages(groups, self.price, self._summed)
        per_id = any(row.ndim for row in rows)
        found = completion_ids.new_zeros(completion_ids.shape if per_id else len(rows), dtype=torch.float32)
        for i, row in enumerate(rows):
            values = torch.as_tensor(row, dtype=torch.float32)
            if per_id:
                found[i, : len(row)] = values.to(found.device)
            else:
                found[i] = values
        return found

    def _summed(self, array: np.ndarray) -> np.ndarray:
        mine = torch.as_tensor(array, dtype=torch.float64, device=self.accelerator.device)
        total: np.ndarray = self.accelerator.gather(mine).view(-1, *array.shape).sum(0).cpu().numpy()
        return total

    def _save_rng_state(self, output_dir: str) -> None:
        if self.budget and self.accelerator.is_main_process:
            replace_json(Path(output_dir) / STATE, dataclasses.asdict(self.dual))
        super()._save_rng_state(output_dir)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if self.budget and checkpoint:
            self.dual = stored_dual(Path(checkpoint) / STATE)


def stored_dual(path: Path) -> Dual:
    """
    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        dual: Dual = records.read(Dual, records.parse(path.read_bytes()))
        if not all(math.isfinite(value) for value in vars(dual).values() if value is not None):
            raise ValueError("its numbers must be finite")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged or missing ({error}); delete the checkpoint to go on from an earlier one") from error
    return dual
