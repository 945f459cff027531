"""What an endpoint is called, what it does not take, and what is said when that, or the client, is missing."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from servers import replying, said

from visionthink.addresses import is_endpoint
from visionthink.cli import main
from visionthink.data import synth
from visionthink.endpoint import Endpoint, connection
from visionthink.errors import OptionError
from visionthink.model import load
from visionthink.rewards.judge import Answer
from visionthink.rewards.llm.judge import LLMJudge, Sampling
from visionthink.rewards.llm.preset import preset
from visionthink.rewards.spec import read_judge

EXAMPLE = dataclasses.replace(synth.draw("digits", 1), answer="7")
NEWER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
"""OpenAI's words."""


def refused(words: str, **more) -> tuple[int, dict]:
    return 400, {"error": {"message": words, "type": "invalid_request_error", **more}}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 600)
    with replying(lambda _: (200, said({"content": "<answer>7</answer>"}))) as server:
        yield server


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_max_tokens_is_sent_under_its_newer_name_from_the_first_refusal_on(server, caplog):
    server.replies[:] = [refused(NEWER, param="max_tokens", code="unsupported_parameter")]
    model = load(server.url, max_new_tokens=64, concurrency=1)
    with caplog.at_level(logging.WARNING):
        transcripts = model.run([EXAMPLE, EXAMPLE])
    model.policy.close()
    assert [t.answer for t in transcripts] == ["7", "7"]
    names = [sorted(body.keys() - {"model", "messages", "seed", "temperature"}) for body in server.sent]
    assert names == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]
    assert server.sent[1]["max_completion_tokens"] == 64
    [told] = caplog.messages
    assert told.endswith("max_tokens is sent as max_completion_tokens, as the server asks for")


OTHERS = {
    "OpenAI": (
        refused(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
        "temperature",
    ),
    "Azure, Mistral": ((422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted"}]}), "seed"),
    "Gemini": ((400, [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]), "seed"),
    "DeepSeek": (refused("deepseek-reasoner does not support the parameter `temperature`", param=None), "temperature"),
    "OpenAI, without another name": (refused("Unsupported parameter: 'max_tokens'"), "max_tokens"),
    "OpenRouter": (refused("Provider returned error", metadata={"raw": '{"error": {"message": "unknown field seed"}}'}), "seed"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_field_that_is_not_taken_is_named_with_the_remedy(name, server):
    reply, field = OTHERS[name]
    server.rest = lambda body: reply if field in body else (200, said({"content": "<answer>7</answer>"}))
    model = load(server.url)
    [transcript] = model.run([EXAMPLE])
    model.policy.close()
    assert transcript.stop_reason == "policy_error" and len(server.sent) == 1
    assert transcript.turns[-1].note.endswith(f'; leave it out (--omit {field}, or omit=["{field}"] in Python)')
    model = load(server.url, omit=(field,))
    [transcript] = model.run([EXAMPLE])
    model.policy.close()
    assert transcript.answer == "7" and field not in server.sent[-1]


def test_a_value_that_is_too_large_is_no_field_that_is_not_taken(server):
    words = "'max_tokens' or 'max_completion_tokens' is too large: 9999. This model's maximum context length is 4096 tokens."
    server.replies[:] = [refused(words, param="max_tokens")]
    model = load(server.url)
    [transcript] = model.run([EXAMPLE])
    model.policy.close()
    assert (transcript.turns[-1].note, transcript.turns[-1].failure) == (f"HTTP 400 {words}", "context")


def test_omit_names_fields_of_the_request(server):
    with pytest.raises(OptionError, match="omit 'top_k': is no field of the request; it has temperature, max_tokens, seed"):
        load(server.url, omit=["top_k"])
    with pytest.raises(OptionError, match="omit: only for an endpoint, and tiny is none; leave it out"):
        load("tiny", omit=["seed"])


def test_samples_of_one_prompt_have_seeds_of_their_own(server):
    model = load(server.url, temperature=1.0, seed=7)
    model.run([synth.draw("digits", 1)] * 3)
    assert sorted(body["seed"] for body in server.sent) == [7, 8, 9]
    load(server.url, seed=7).run([synth.draw("digits", 1)] * 2)
    assert [body["seed"] for body in server.sent[3:]] == [7, 7]  # nothing is drawn


def test_the_command_line_leaves_fields_out(server, photo, tmp_path, capsys):
    model = ["--model", server.url, "--omit", "seed, temperature"]
    assert main(["ask", photo, "-q", "Which digit?", "--json", *model]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "7"
    assert main(["eval", "mini", "--limit", "2", "--policy", "low", "--out", str(tmp_path / "o"), *model]) == 0
    assert [sorted(body) for body in server.sent] == [["max_tokens", "messages", "model"]] * 3
    assert json.loads((tmp_path / "o" / "config.json").read_text())["omit"] == ["seed", "temperature"]
    assert main(["ask", photo, "-q", "?", "--model", server.url, "--omit", "seed,"]) == 2
    curated = ["curate", "mini", "--limit", "1", "--rollouts", "1", "--difference", "1", "--out", str(tmp_path / "c"), *model]
    server.sent.clear()
    assert main(curated) == 0
    assert [sorted(body) for body in server.sent] == [["max_tokens", "messages", "model"]] * 2
    assert json.loads((tmp_path / "c" / "config.json").read_text())["omit"] == ["seed", "temperature"]


def test_an_evaluation_without_any_reply_ends_in_an_error(server, tmp_path, capsys):
    server.rest = lambda _: refused("Unsupported parameter: 'max_tokens'", param="max_tokens")
    command = ["eval", "mini", "--limit", "2", "--policy", "low", "--out", str(tmp_path / "o"), "--model", server.url]
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --model {server.url}: answered none of the 2 examples under low, 2 because of: HTTP 400 Unsupported parameter: "
        f"'max_tokens'; leave it out (--omit max_tokens, or omit=[\"max_tokens\"] in Python) (all of them: "
        f"{tmp_path / 'o' / 'transcripts.jsonl'}); the same command asks them again"
    )
    assert len((tmp_path / "o" / "transcripts.jsonl").read_text().splitlines()) == 2
    server.rest = lambda _: (200, said({"content": "<answer>7</answer>"}))
    assert main(command) == 0  # it goes on where it was


def test_an_evaluation_with_some_replies_says_what_became_of_the_others(server, tmp_path, capsys):
    server.replies[:] = [refused("no images here")]
    command = ["eval", "mini", "--limit", "3", "--policy", "low", "--out", str(tmp_path / "o"), "--model", server.url]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "1 got no reply from the model" in out and "1 unscored: HTTP 400 no images here" in out
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["unscored_reasons"] == {"HTTP 400 no images here": 1}


# ------------------------------------------------------------------------------------------------ addresses


def test_an_address_without_its_scheme(photo, capsys):
    assert main(["ask", photo, "-q", "?", "--model", "localhost:8000/v1#m"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: localhost:8000/v1#m: the address of an endpoint begins with http:// or https://; write http://localhost:8000/v1#m\n"
    )


@pytest.mark.parametrize(
    "name", ["localhost:8000", "127.0.0.1/v1", "api.openai.com/v1#gpt-4o", "ws://host/v1", "//host/v1", "gpu-3:80/v1"]
)
def test_addresses_that_lack_http(name):
    with pytest.raises(OptionError, match=r"begins with http:// or https://; write http://[^/]"):
        is_endpoint(name)
    with pytest.raises(OptionError, match="begins with http://"):
        read_judge(name)


@pytest.mark.parametrize(
    "name", ["tiny", "Qwen/Qwen2.5-VL-7B-Instruct", "runs/demo/final", "./a:b", "lmms-lab/v1.5-7b", "C:\\models\\x"]
)
def test_names_that_are_no_address(name):
    assert not is_endpoint(name)


def test_forms_of_an_address():
    after = "/chat/completions"
    for url, expected in {
        "http://h/v1": "http://h/v1/chat/completions",
        "HTTPS://h/v1/": "https://h/v1/chat/completions",
        "http://h/v1/chat/completions": "http://h/v1/chat/completions",
        "https://h/openai/deployments/d?api-version=1": "https://h/openai/deployments/d/chat/completions?api-version=1",
    }.items():
        assert is_endpoint(url) and Endpoint(url).address(after) == expected


def test_an_address_that_lacks_v1_is_told_so(server):
    server.replies[:] = [(404, {"detail": "Not Found"})]
    model = load(f"http://{server.host}#m")
    [transcript] = model.run([EXAMPLE])
    model.policy.close()
    assert transcript.turns[-1].note == "HTTP 404 Not Found (an address usually ends in /v1)"


# ------------------------------------------------------------------------------------------------ what is installed

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing}))
from visionthink.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_without(missing: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(missing=missing)
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_a_missing_client_is_named_with_its_extra(photo, tmp_path):
    needs = "error: an endpoint needs aiohttp: pip install 'visionthink[remote]'\n"
    asked = run_without({"aiohttp"}, "ask", photo, "-q", "?", "--model", "http://127.0.0.1:9/v1#m")
    assert (asked.returncode, asked.stderr) == (2, needs)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "?", "ground_truth": "cat", "prediction": "feline"}\n')
    judged = run_without({"aiohttp"}, "score", str(rows), "--judge", "http://127.0.0.1:9/v1#m")
    assert (judged.returncode, judged.stderr) == (2, needs)


def test_the_libraries_of_the_rules_are_named_with_their_extra(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "?", "ground_truth": "cat", "prediction": "feline"}\n')
    judged = run_without({"text_to_num"}, "score", str(rows), "--judge", "exact")
    assert judged.returncode == 2
    assert judged.stderr == "error: judge exact: needs text_to_num; pip install 'visionthink[judge]'\n"


def test_an_endpoint_needs_no_local_libraries(photo, server):
    asked = run_without({"torch", "transformers"}, "ask", photo, "-q", "?", "--json", "--model", server.url)
    assert asked.returncode == 0 and json.loads(asked.stdout)["answer"] == "7", asked.stderr


def test_the_extra_is_in_those_that_need_it():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert extras["remote"][0].startswith("aiohttp") and "visionthink[remote]" in extras["judge"]


# ------------------------------------------------------------------------------------------------ judges

PARTS = [{"type": "thinking", "thinking": "Score: 0?"}, {"type": "text", "text": "Score: 1"}]
CUT = "finish reason not_finished is not known, and the reply may have been cut off: Score: 1"
LOST = "the server gave thinking and no answer (finish reason stop): The same."


@pytest.mark.parametrize(
    ("message", "reason", "verdict", "why"),
    [
        ({"content": PARTS}, "stop", "correct", "Score: 1"),
        ({"content": "Score: 0", "reasoning_content": "Score: 1"}, "stop", "wrong", "Score: 0"),
        ({"content": None, "refusal": "I will not grade this."}, "stop", "unscored", "the judge refused: I will not grade this."),
        ({"content": ""}, "SAFETY", "unscored", "the judge refused: the server ended the reply as SAFETY"),
        ({"content": "", "reasoning": "The same."}, "stop", "unscored", LOST),
        ({"content": ""}, "stop", "unscored", "the server gave an empty reply (finish reason stop)"),
        ({"content": "It is the sa"}, "MAX_TOKENS", "unscored", "reply was cut off: It is the sa"),
        ({"content": "Maybe."}, "stop", "unscored", "reply cannot be read: Maybe."),
        ({"content": ""}, "abort", "unscored", "the server ended the reply as abort"),
        ({"content": "Score: 1"}, "not_finished", "unscored", CUT),
        ({"content": "[THINK]The same."}, "stop", "unscored", LOST),
        ({"content": "\u200b"}, "stop", "unscored", "the server gave an empty reply (finish reason stop)"),
    ],
)
def test_a_judge_reads_the_same_replies(message, reason, verdict, why, server):
    server.replies[:] = [(200, said({"content": "Score: 1"}))]  # an endpoint that has never answered is an error
    server.rest = lambda _: (200, said(message, reason))
    judge = LLMJudge(Endpoint(f"http://{server.host}/v1", model="m", concurrency=1), preset("paper"))
    judge.compare([Answer("?", "a cat", ("cat",))])
    [found] = judge.compare([Answer("?", "feline", ("cat",))])
    judge.close()
    assert (found.verdict, found.reason) == (verdict, why)


def test_a_failure_within_a_200_and_a_field_that_is_not_taken(server):
    judge = LLMJudge(Endpoint(f"http://{server.host}/v1", model="m"), preset("paper"), sampling=Sampling(omit=("max_tokens",)))
    server.rest = lambda _: (200, {"error": {"code": 401, "message": "Invalid API key provided"}})
    with pytest.raises(OptionError, match=r"Invalid API key provided \(401\)"):
        judge.compare([Answer("?", "feline", ("cat",))])
    server.rest = lambda _: refused("Unsupported value: 'temperature'", param="temperature")
    with pytest.raises(
        OptionError, match=r'Unsupported value: \'temperature\'; write omit = \["temperature"\] into a \.toml file'
    ):
        judge.compare([Answer("?", "feline", ("cat",))])
    judge.close()


def test_the_environment_names_a_proxy_and_no_credentials(server, monkeypatch, tmp_path):
    """What ~/.netrc holds for the host is for other programs, and must not meet the key of the endpoint."""
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{server.host}")
    monkeypatch.setenv("VISIONTHINK_API_KEY", "sk-1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine model.invalid login other password secret\n")
    model = load("http://model.invalid/v1#m", deadline=20)
    assert model.run([EXAMPLE])[0].answer == "7"
    model.policy.close()
    assert [body["model"] for body in server.sent] == ["m"]
    assert Endpoint("https://model.invalid/v1").proxy is None
    monkeypatch.setenv("no_proxy", "model.invalid")
    assert Endpoint("http://model.invalid/v1").proxy is None
