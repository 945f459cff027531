"""Credit from forced members: each branch is tried k times, so it is known what an action is worth that the policy never takes.

Q(a) = mean accuracy of the members that were forced to a, less lambda (c_a - least c); A(a) = Q(a) - sum over b of pi(b) Q(b) for
the decision of a free member. Tokens after the decision, of forced members too, are compared within their branch, or else the
credit of having been made to look would leak into the answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from visionthink.rewards.members import Member, Members


def action_values(
    accuracy: Mapping[Hashable, Sequence[float]], cost: Mapping[Hashable, float], price: float, *, shrink: float = 0.0
) -> dict[Hashable, float]:
    """Q of each action.

    Args:
        accuracy: of the members that were forced to each action.
        cost: of each action, relative to always-full.
        price: of a cost of always-full.
        shrink: Q moves towards the mean of all actions as if so many members had been there.
    """
    least = min(cost.values(), default=0.0)
    means = {action: float(np.mean(of_action)) for action, of_action in accuracy.items()}
    middle = float(np.mean(list(means.values()))) if means else 0.0
    kept = {action: len(of_action) / (len(of_action) + shrink) for action, of_action in accuracy.items()}
    return {a: middle + kept[a] * (means[a] - middle) - price * (cost[a] - least) for a in means}


def decision_advantages(values: Mapping[Hashable, float], probabilities: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """A(a) = Q(a) - sum over b of pi(b) Q(b)."""
    mean = sum(probability * values[action] for action, probability in probabilities.items())
    return {action: value - mean for action, value in values.items()}


def branch_credit(members: Members, price: float, *, shrink: float) -> list[np.ndarray]:
    """Advantages of the ids of all members, each [ids]."""
    found = []
    for group in members.groups:
        of_group = [members.members[i] for i in group]
        decisions = _decisions(of_group, price, shrink)
        within = _within_branches(of_group)
        for member, decided, rest in zip(of_group, decisions, within, strict=True):
            advantages = np.full(len(member.turns), rest)
            if not member.forced and member.decision is not None:
                advantages[member.decision] = decided
            elif not member.forced and member.last:  # all that was said before the look is how it was asked for
                advantages[member.turns == 0] = decided
            found.append(advantages)
    return found


def _branch(member: Member, known: Mapping[Hashable, object]) -> Hashable:
    """The branch of an action: itself where it was forced too, else its kind."""
    return member.action if member.action in known else member.kind


def _decisions(group: Sequence[Member], price: float, shrink: float) -> list[float]:
    """For each member the advantage of its decision; 0 where its branch was not tried. A kind is worth what its forced members
    are worth on average."""
    accuracy: dict[Hashable, list[float]] = {}
    cost: dict[Hashable, list[float]] = {}
    of_kind: dict[str, list[Hashable]] = {}
    for member in group:
        scored, share = member.channels.accuracy, member.channels.share
        if member.forced and scored is not None and share is not None:
            accuracy.setdefault(member.action, []).append(scored)
            cost.setdefault(member.action, []).append(share)
            of_kind.setdefault(member.kind, []).append(member.action)
    values = action_values(accuracy, {a: float(np.mean(of_action)) for a, of_action in cost.items()}, price, shrink=shrink)
    values |= {kind: float(np.mean([values[action] for action in actions])) for kind, actions in of_kind.items()}
    taken = {i: branch for i, member in enumerate(group) if (branch := _branch(member, values)) in values}
    free = {i: branch for i, branch in taken.items() if not group[i].forced}
    advantages = decision_advantages(values, _probabilities(group, free, [b for i, b in taken.items() if group[i].forced]))
    return [advantages[free[i]] if i in free else 0.0 for i in range(len(group))]


def _probabilities(group: Sequence[Member], free: Mapping[int, Hashable], tried: Sequence[Hashable]) -> dict[Hashable, float]:
    """Probability of each branch under the policy: as it was sampled where one id decides, and else how often free members took
    it. What no free member took shares what is left."""
    known = {branch: group[i].probability for i, branch in free.items()}
    if not known:
        return {}
    if any(p is None for p in known.values()):
        counted = list(free.values())
        return {branch: counted.count(branch) / len(counted) for branch in known}
    of_known = {branch: p for branch, p in known.items() if p is not None}
    others = set(tried) - set(of_known)
    left = max(0.0, 1 - sum(of_known.values()))
    if not others:
        return {branch: p / sum(of_known.values()) for branch, p in of_known.items()}
    return of_known | dict.fromkeys(others, left / len(others))


def _within_branches(group: Sequence[Member]) -> list[float]:
    """Outcome of each member less the mean of the members that took the same action; 0 where it is unscored."""
    outcomes: dict[Hashable, list[float]] = {}
    for member in group:
        if member.channels.outcome is not None:
            outcomes.setdefault(member.action, []).append(member.channels.outcome)
    return [0.0 if m.channels.outcome is None else m.channels.outcome - float(np.mean(outcomes[m.action])) for m in group]
