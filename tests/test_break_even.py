"""Break-even of adaptive resolution with methods that show one view: hand-computed, and real runs through the report."""

from __future__ import annotations

import csv
import json

import pytest
from episodes import record, turn

from visionthink.cli import main
from visionthink.errors import OptionError
from visionthink.evals.break_even import against, break_even, cheaper, ledger
from visionthink.evals.flops import Architecture, DecoderShape, VisionShape, decoder_flops, vision_flops
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.runs import compared, read
from visionthink.evals.routing import routing
from visionthink.model import load
from visionthink.recipes.frontier import with_method
from visionthink.transcript import Transcript
from visionthink.types import StopReason


def test_the_rate_by_hand():
    assert break_even(direct=2, request=10, other=6) == 0.5
    assert break_even(direct=2, request=10, other=1) == -0.125  # dearer even when nothing is asked for
    assert break_even(direct=2, request=10, other=12) == 1.25  # cheaper though everything is asked for
    assert break_even(direct=2, request=2, other=6) is None
    assert break_even(direct=2, request=1, other=6) is None
    assert [cheaper(rate) for rate in (-0.125, 0.0, 0.25, 1.0, 1.25)] == ["never", "never", "below", "always", "always"]


def episode(name: str, *turns: tuple[float, int, float], full: int = 16, left: tuple[int, ...] | None = None) -> Transcript:
    """Turns as (level, visual tokens first shown, seconds); `left` are those of the last context that entered each layer."""
    return record(name, *(turn(level, n, seconds=s, visual_by_layer=left) for level, n, s in turns), full=full)


LOW, HIGH, REPAIR = (0.25, 4, 1.0), (1.0, 16, 3.0), (0.25, 0, 0.5)


def test_every_episode_is_split_at_its_request():
    """Seconds before the request: 1, 1.5, 2, 1, mean 1.375; two asked, for 3 and 6 more."""
    adaptive = [
        episode("a", LOW),
        episode("b", LOW, REPAIR),
        episode("large", (0.25, 16, 2.0), (1.0, 64, 6.0), full=64),
        episode("d", LOW, HIGH),
    ]
    full = [episode(n, HIGH) for n in ("a", "b", "d", "elsewhere")] + [episode("large", (1.0, 64, 6.0), full=64)]
    found = against(ledger(adaptive, None), ledger(full, None))
    assert (found["n"], found["request_ratio"]) == (4, 0.5)
    assert found["seconds"] == {
        "direct": 1.375,
        "request": 1.375 + 4.5,
        "other": 3.75,
        "rate": (3.75 - 1.375) / 4.5,  # 0.528, and 0.5 were asked for
        "cheaper": "below",
        "cheaper_as_measured": True,
        "why": None,
    }
    # tokens before: (4 + 4 + 16 + 4) / 4 = 7; more by (64 + 16) / 2 = 40; the full views (3 * 16 + 64) / 4 = 28
    tokens = found["retained_tokens"]
    assert (tokens["direct"], tokens["request"], tokens["other"], tokens["rate"]) == (7.0, 47.0, 28.0, 0.525)
    assert found["flops"]["why"] == found["kv_bytes"]["why"] == "not known for every example"


def test_tokens_that_were_taken_out_count_by_layer():
    adaptive = ledger([episode("a", LOW), episode("b", LOW, HIGH)], None)
    halved = ledger([episode(n, HIGH, left=(16, 4, 4)) for n in "ab"], None)
    tokens = against(adaptive, halved)["retained_tokens"]
    # the mean of 16, 4 and 4 is 8; 4 before the request, 16 more behind it
    assert (tokens["other"], tokens["rate"], tokens["cheaper"], tokens["cheaper_as_measured"]) == (8.0, 0.25, "below", False)


def test_operations_and_cache_of_the_rounds():
    decoder = DecoderShape(layers=2, hidden=4, ffn=8, heads=2, kv_heads=1, head_size=2, vocabulary=10)
    vision = VisionShape(
        layers=1, hidden=2, ffn=2, gated=False, windowed=0, window=0, patch=14, merge=2, patch_values=3, mergers=1
    )
    shape = Architecture(vision, decoder)
    found = against(ledger([episode("a", LOW, HIGH)], shape), ledger([episode("a", HIGH)], shape))
    low, high = (vision_flops(vision, 28 * n, 28, 4) for n in (4, 16))
    direct, second = low + decoder_flops(decoder, 14), low + high + decoder_flops(decoder, 30)
    other = high + decoder_flops(decoder, 26)
    flops, cache = found["flops"], found["kv_bytes"]
    assert (flops["direct"], flops["request"], flops["other"]) == (direct, direct + second, other)
    assert flops["rate"] == (other - direct) / second
    # 2 * 2 layers * 1 head * 2 values * 2 bytes = 16 per token; contexts with their answer of 15, 31 and 27
    assert (cache["direct"], cache["request"], cache["other"], cache["rate"]) == (240, 496, 432, 0.75)


def test_no_rate_where_there_is_none():
    full = ledger([episode(n, HIGH) for n in "ab"], None)
    nobody = against(ledger([episode("a", LOW), episode("b", LOW)], None), full)["seconds"]
    assert (nobody["rate"], nobody["request"], nobody["why"]) == (None, None, "no episode asked")
    assert (nobody["direct"], nobody["other"], nobody["cheaper_as_measured"]) == (1.0, 3.0, True)
    free = against(ledger([episode("a", LOW, (1.0, 16, 0.0))], None), full)["seconds"]
    assert (free["rate"], free["why"]) == (None, "asking cost nothing more")
    assert against(ledger([episode("elsewhere", LOW)], None), full) == {"n": 0}
    silent = record("a", *episode("a", LOW).turns, stop_reason=StopReason.POLICY_ERROR, answer=None)
    assert ledger([silent], None) == {}


def test_which_runs_show_one_view():
    shown = ["full", "resize:0.5", "fastv:0.5", "resize:0.5+fastv:0.5", "visionzip:0.25", "low+fastv:0.5"]
    others = ["adaptive", "adaptive+fastv:0.5", "low", "random:0.5", "oracle", "forced:direct"]
    assert [p for p in shown + others if PolicySpec.parse(p).shows_one_view] == shown


def test_resize_is_one_view_without_the_tool():
    model = load("tiny")
    lane = routing(PolicySpec.parse("resize:0.5"), model)(None)
    assert lane.menu.ladder.levels == (0.5,) and lane.policy is model.policy
    assert routing(PolicySpec.parse("resize:1"), model)(None).menu == model.menu.full()
    opened = with_method(PolicySpec.parse("resize:0.5+drop-uniform:0.5"), model)
    assert opened.policy.method.name == "drop-uniform:0.5"
    for name in ("resize", "resize:0", "resize:1.5", "resize:nan", "resize:half"):
        with pytest.raises(OptionError, match=f"--policy '{name}': expected resize:R with R above 0 and up to 1"):
            routing(PolicySpec.parse(name), model)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    policies = "adaptive,full,resize:0.5,resize:0.5+drop-uniform:0.5,adaptive+drop-uniform:0.5"
    assert main(["eval", "mini", "--limit", "24", "--max-new-tokens", "8", "--policy", policies, "--out", str(out)]) == 0
    return out


def test_compressed_runs_in_the_report(runs, tmp_path, capsys):
    folders = sorted(p for p in runs.iterdir() if p.is_dir())
    assert main(["report", *map(str, folders), "--out", str(tmp_path / "r.html"), "--json"]) == 0
    found = {r["policy"]: r for r in json.loads(capsys.readouterr().out)["runs"]}
    halved = found["resize:0.5+drop-uniform:0.5"]
    # the tiny model's views of 16 tokens are 9 at half of the pixels, and 4 of 9 are left
    assert (halved["visual_tokens"], halved["retain_cumulative"], halved["retain_layers"]) == (9, 9 / 16, 4 / 16)
    assert halved["cost_unknown"] == 0 and halved["selection_flops"] == 0
    assert halved["vision_flops"] == found["resize:0.5"]["vision_flops"] and halved["flops"] < found["resize:0.5"]["flops"]
    assert found["adaptive"]["break_even"] is None and found["adaptive+drop-uniform:0.5"]["break_even"] is None
    for policy in ("full", "resize:0.5", "resize:0.5+drop-uniform:0.5"):
        even, own = found[policy]["break_even"], found["adaptive"]
        assert (even["n"], even["request_ratio"]) == (24, own["request_ratio"])
        for figure in ("flops", "seconds", "kv_bytes"):
            measured = even[figure]["direct"] + own["request_ratio"] * (even[figure]["request"] - even[figure]["direct"])
            assert measured == pytest.approx(own[figure]) and even[figure]["other"] == pytest.approx(found[policy][figure])
            assert even[figure]["cheaper_as_measured"] == (own[figure] < found[policy][figure])
    # 4 tokens, and 16 more where it asks: x = (16 - 4) / 16, and nothing to gain on a run that keeps 4
    assert found["full"]["break_even"]["retained_tokens"]["rate"] == 0.75
    none = found["resize:0.5+drop-uniform:0.5"]["break_even"]["retained_tokens"]
    assert (none["rate"], none["cheaper"]) == (0.0, "never")
    page = (tmp_path / "r.html").read_text()
    assert "Break-even with adaptive resolution" in page and "mean layer" in page
    row = next(r for r in csv.DictReader((tmp_path / "r.csv").read_text().splitlines()) if r["policy"] == "full")
    assert row["break_even.retained_tokens.rate"] == "0.75"


def test_without_an_adaptive_run_there_is_no_break_even(runs, tmp_path):
    assert main(["report", str(runs / "tiny-full"), str(runs / "tiny-resize-0.5"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Break-even" not in page and "mean layer" not in page
    assert [r.break_even for r in compared([read(runs / "tiny-full")])] == [None]
