"""What the monitors say, and when they keep quiet."""

from __future__ import annotations

import pytest

from visionthink.data import synth
from visionthink.episode import run_batch
from visionthink.errors import OptionError
from visionthink.model import load
from visionthink.rewards.spec import read_judge
from visionthink.train.monitors import Watch
from visionthink.train.probe import Probe
from visionthink.train.rollouts import EpisodeSource


def warnings(*logs):
    watch = Watch()
    return [text for record in logs for text in watch.see(record)]


def steps(n=20, **values):
    return [values] * n


def test_a_healthy_run_is_quiet():
    logs = [
        {
            "request_ratio": 0.5,
            "entropy": 0.1,
            "reward": 1 + i / 50,
            "accuracy/request": 1,
            "probe/direct": 0.7,
            "probe/request": 1,
        }
        for i in range(60)
    ]
    assert warnings(*logs) == []


def test_collapse_is_said_once():
    assert warnings(*steps(40, request_ratio=1.0)) == ["every rollout asks: requests have collapsed; lower theta"]
    [said] = warnings({"request_ratio": 0.5}, *steps(40, request_ratio=0.0))
    assert said.startswith("no rollout asks")
    assert warnings(*steps(40, request_ratio=0.0)) == [said]  # from the first step on
    one_level = Watch(can_ask=False)
    assert [text for logs in steps(40, request_ratio=0.0) for text in one_level.see(logs)] == []
    [said] = warnings(*steps(25, entropy=0.001))
    assert said.startswith("entropy is gone")


def test_too_few_steps_say_nothing():
    assert warnings(*steps(19, request_ratio=1.0)) == []


def test_decay_of_a_branch_needs_two_looks():
    looks = [{"probe/direct": v} for v in (0.8, 0.8, 0.6)]
    assert warnings(*looks) == []
    [said] = warnings(*looks, {"probe/direct": 0.6})
    assert said.startswith("answers without asking have decayed")


def test_decay_is_also_seen_in_members_that_are_forced():
    noisy = [{"forced/request": 1.0 if i % 2 else 0.6} for i in range(40)]
    assert warnings(*noisy) == []
    [said] = warnings(*noisy, *[{"forced/request": 1.0 if i % 2 else 0.2} for i in range(20)])
    assert said.startswith("answers after asking have decayed")


def test_answers_that_cannot_be_judged():
    [said] = warnings(*steps(20, **{"unscored/judge": 0.6}))
    assert said.startswith("half of the answers cannot be judged")
    assert warnings(*steps(40, **{"unscored/judge": 0.4})) == []


def test_a_reward_that_rises_without_the_image():
    blind = [{"reward": 0.5 + 0.1 * i, "probe/swapped_image": 0.2 + 0.1 * i} for i in range(6)]
    [said] = warnings(*blind)
    assert said.startswith("the reward rises, and so it does with another image")
    assert warnings(*[{"reward": 0.5 + 0.1 * i, "probe/swapped_image": 0.2} for i in range(6)]) == []


def test_a_probe_asks_its_judge_after_all_its_episodes():
    """Processes that generate together drive equally many: one whose judge has never answered must not leave out any."""
    model, examples, driven = load("tiny-base", max_new_tokens=8), synth.suite(4, split="train"), []
    source = EpisodeSource(examples={e.id: e for e in examples}, menu=model.menu, protocol=model.protocol, budget=model.budget)

    def run(episodes, policy, on_end=None):
        driven.append(len(episodes))
        return run_batch(episodes, policy, on_end)

    with pytest.raises(OptionError, match=r"127\.0\.0\.1:9"):
        Probe(source, model.policy, read_judge("http://127.0.0.1:9/v1#m"), list(source.examples), run=run).measure()
    assert driven == [4, 4, 4]
