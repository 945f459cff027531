"""The LLM judge against a server that is not ours: `transformers serve` with a random language model.

It knows nothing of judging, so its replies cannot be read: every answer must end as a counted, unscored one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from servers import transformers_serve
from transformers import Qwen2Config, Qwen2ForCausalLM

from visionthink.endpoint import Endpoint
from visionthink.rewards.judge import Answer
from visionthink.rewards.llm.judge import LLMJudge, Sampling
from visionthink.rewards.llm.preset import preset

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture
def model(tmp_path, tiny):
    """A folder with a random Qwen2 of one layer."""
    config = Qwen2Config(
        vocab_size=tiny.model.config.text_config.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def served(tmp_path, model):
    """Address of the server."""
    with transformers_serve([str(Path(sys.executable).parent / "transformers"), "serve", str(model)], tmp_path) as url:
        yield url


def test_every_answer_ends_and_is_counted(served, model):
    endpoint = Endpoint(served, model=str(model), concurrency=4, timeout=60, deadline=120)
    judge = LLMJudge(endpoint, preset("verifier"), sampling=Sampling(max_tokens=4))
    found = judge.compare([Answer("Which animal is it?", f"dog {i}", ("cat",)) for i in range(6)])
    usage = judge.usage()
    assert [v.verdict for v in found] == ["unscored"] * 6
    assert all(v.reason.startswith("reply was cut off") for v in found), found[0]
    assert usage["unscored"] == 6 and usage["requests"] == 18  # each asked three times, warmer every time
    assert 18 <= usage["completion_tokens"] <= 18 * 4
