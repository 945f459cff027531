"""Two processes (gloo) do what one does with the same global batch, however the weights are spread over them: see
`distributed_run.py` for what they sample."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from environments import deepspeed_python
from launching import fsdp, on_processes, zero

from visionthink.errors import ModelError
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.local import LocalPolicy
from visionthink.train.together import padding

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "distributed_run.py"
LORA = {"lora_rank": 4, "learning_rate": 0.5}


# what `accelerate launch` puts into the environment
LAUNCHED: dict[str, dict[str, str]] = {
    "ddp": {},
    "zero2": zero(2),
    "zero3": zero(3),
    "fsdp2": fsdp("SHARDED_STATE_DICT"),
    "zero3-lora": zero(3),
    "fsdp2-lora": fsdp("FULL_STATE_DICT"),
}
SPREAD = [pytest.param(m, marks=[pytest.mark.network] if "zero" in m else []) for m in LAUNCHED]
WHOLE_MODEL = [p for p in SPREAD if "lora" not in str(p.values[0])]
ADAPTER = [p for p in SPREAD if "lora" in str(p.values[0])]


@cache
def interpreter(mode: str) -> str:
    """One that has DeepSpeed, where it is needed."""
    return str(deepspeed_python()) if "zero" in mode else sys.executable


def run(mode: str, out: Path, processes: int = 2, **settings: object) -> subprocess.CompletedProcess[str]:
    options = [text for name, value in settings.items() for text in (f"--{name}", json.dumps(value))]
    return on_processes(processes, SCRIPT, out, *options, python=interpreter(mode), environment=LAUNCHED[mode])


def completed(mode: str, out: Path, processes: int = 2, **settings: object) -> Path:
    result = run(mode, out, processes, **settings)
    assert result.returncode == 0, result.stderr[-6000:]
    (out / "stderr.txt").write_text(result.stderr)
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return completed("ddp", tmp_path_factory.mktemp("one") / "run", processes=1, steps=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """With whole weights on every process, and not killed."""
    return completed("ddp", tmp_path_factory.mktemp("two") / "run")


@pytest.fixture(scope="module")
def two_adapters(tmp_path_factory) -> Path:
    return completed("ddp", tmp_path_factory.mktemp("two") / "adapter", **LORA)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """By mode, a run whose second process is killed (-9) in its second step, and which is then resumed."""

    @cache
    def killed(mode: str) -> Path:
        out, settings = tmp_path_factory.mktemp(mode) / "run", LORA if "lora" in mode else {}
        result = run(mode, out, die_at=2, **settings)
        assert result.returncode != 0 and "SIGKILL" in result.stderr
        assert [p.name for p in out.glob("checkpoint-*")] == ["checkpoint-1"]
        return completed(mode, out, resume=True, **settings)

    return killed


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(out / f"weights-{step}.pt")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max()) for k in one)


def rollouts(out: Path, step: int) -> list[list[dict]]:
    """Of each process."""
    return [json.loads(file.read_text()) for file in sorted(out.glob(f"rollouts-{step}-*.json"))]


def test_rollouts_and_rewards(one, two):
    [alone], (first, second) = rollouts(one, 1), rollouts(two, 1)
    assert alone == first + second
    assert [(r["example"], r["requested"], r["stop"], r["reward"]) for r in alone] == [
        ("0", False, "answered", 1.5),
        ("0", False, "answered", 0.5),
        ("0", False, "answered", 0.5),
        ("0", False, "answered", 0.5),
        ("1", True, "answered_after_request", 1.5),
        ("1", True, "policy_error", None),
        ("1", False, "empty", None),
        ("1", False, "answered", 0.4),
    ]
    replaced, asked = rollouts(two, 2)
    assert {r["example"] for r in replaced} != {"2"} and {r["example"] for r in asked} == {"3"}
    assert [r["turns"] for r in asked] == [2, 2, 2, 2]


def test_two_processes_are_one(one, two):
    start = open_checkpoint("tiny-base").model.state_dict()
    assert distance(weights(one, 1), start) > 1e-4
    assert distance(weights(one, 1), weights(two, 1)) < 1e-6


@pytest.mark.parametrize("credit", ["dtpo:first=0.5", "gdpo"])
def test_what_credit_counts_over_all_processes(tmp_path, credit):
    """Tokens of first and of last turns, and a mean over the step; and a budget spends what all of them spend."""
    settings = {"steps": 1, "credit": credit, "budget": "visual=0.6", "refill": 0}
    found = [completed("ddp", tmp_path / str(n), processes=n, **settings) for n in (1, 2)]
    assert distance(weights(found[0], 1), open_checkpoint("tiny-base").model.state_dict()) > 1e-4
    assert distance(*(weights(out, 1) for out in found)) < 1e-6
    lines = [json.loads((out / "metrics.jsonl").read_text()) for out in found]
    assert lines[0]["budget/cost"] == lines[1]["budget/cost"] > 0.25
    states = [json.loads((out / "checkpoint-1" / "budget.json").read_text()) for out in found]
    assert states[0] == states[1]


@pytest.mark.parametrize("mode", WHOLE_MODEL)
def test_a_killed_run_ends_like_one_with_whole_weights(two, killed, mode):
    """Turns differ in number between the processes, and where weights are spread over them, all must generate together."""
    out = killed(mode)
    for step in (1, 2, 3):
        assert rollouts(out, step) == rollouts(two, step)
        assert distance(weights(out, step), weights(two, step)) < 1e-6
    assert distance(weights(out, 3), weights(out, 2)) > 1e-4
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("mode", WHOLE_MODEL)
def test_what_is_saved_is_what_was_trained(killed, mode):
    out = killed(mode)
    ours = open_checkpoint(str(out / "final")).model
    stock = transformers.AutoModelForImageTextToText.from_pretrained(out / "final", dtype=torch.float32)
    trained = weights(out, 3)
    for model in (ours, stock):
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("mode", ADAPTER)
def test_an_adapter_is_gathered_and_merged(two_adapters, killed, mode):
    from peft import PeftModel

    out = killed(mode)
    for step in (1, 3):
        assert distance(weights(out, step), weights(two_adapters, step)) < 1e-6
    merged = open_checkpoint(str(out / "final"))
    base = transformers.AutoModelForImageTextToText.from_pretrained(resolve("tiny-base"), dtype=torch.float32)
    apart = PeftModel.from_pretrained(base, out / "final" / "adapter").eval()
    policy, prompt = LocalPolicy(merged), padding(merged.budget)
    inputs = policy.model_inputs([policy.renderer.prompt_ids(prompt)], [prompt])
    with torch.inference_mode():
        said, same, before = (
            m(**inputs).logits.log_softmax(-1) for m in (merged.model, apart, open_checkpoint("tiny-base").model)
        )
    assert float((said - before).abs().max()) > 0.1
    assert float((said - same).abs().max()) < 1e-5 * float(said.abs().max())


def test_checkpoints_of_split_weights(killed):
    """Where they are gathered, they can be opened."""
    with pytest.raises(
        ModelError, match="checkpoint-3: holds shards of weights, which only --resume reads; take the run's final/"
    ):
        open_checkpoint(str(killed("fsdp2") / "checkpoint-3"))
    with pytest.raises(ModelError, match="is an adapter, not a model; take final"):
        open_checkpoint(str(killed("fsdp2-lora") / "checkpoint-3"))


@pytest.mark.network
def test_a_checkpoint_of_stage_3_is_whole(killed):
    out = killed("zero3")
    opened = open_checkpoint(str(out / "checkpoint-3")).model.state_dict()
    assert all(torch.equal(value, weights(out, 3)[name]) for name, value in opened.items())


def test_a_process_waits_for_the_others_as_long_as_it_is_told(two):
    assert (two / "waits.txt").read_text() == "0:07:00"


def test_one_process_speaks_for_all(two):
    said = (two / "stderr.txt").read_text()
    assert said.count("training: 0 of 3") == 1
    assert "All reward functions returned None" not in said


def test_prefixes_are_shared_where_every_process_has_whole_weights(two, killed):
    """The processes of the other tests have trained with them, and those whose weights are divided have said that they do not."""
    assert "computed for every rollout anew" not in (two / "stderr.txt").read_text()
    assert "prefixes are computed for every rollout anew: weights are divided among processes" in (
        (killed("fsdp2") / "stderr.txt").read_text()
    )
