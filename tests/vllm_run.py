"""The vLLM policy at work, in an interpreter that has vLLM: `vllm_run.py FOLDER MODEL` reads the folder's examples and writes
`vllm.json` there. A process of its own: vLLM starts others, which begin with this file."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from visionthink import Episode, Example, Transcript, load, run_batch
from visionthink.policies.forced import ForcedPolicy
from visionthink.types import History, ImageView, Look, Message

ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "block_size": 32,  # the smallest of a CPU: short prompts leave whole blocks in the prefix cache
    "limit_mm_per_prompt": {"image": 2, "video": 0},
}


def examples(folder: Path) -> list[Example]:
    rows = json.loads((folder / "examples.json").read_text("utf-8"))
    return [Example(name, question, folder / f"{i}.png") for i, (name, question) in enumerate(rows)]


def overlong() -> Example:
    return Example("overlong", "What colour is it? " * 1000, Image.new("RGB", (112, 112)))


def record(transcripts: Sequence[Transcript]) -> list[dict[str, Any]]:
    """All there is, ids and loss mask as well."""
    return json.loads(json.dumps([t.to_dict() | {"ids": t.token_ids, "mask": t.loss_mask} for t in transcripts]))


def full_view(episode: Episode) -> ImageView:
    [view] = episode.space.render([Look(episode.space.image_boxes, 1.0)], episode.pictures)
    return view


def showing(*views: ImageView) -> History:
    return [Message("user", (*views, "What colour is it?"))]


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    model = load(name, engine="vllm", max_new_tokens=16, engine_options=ENGINE)
    policy, asked = model.policy, examples(folder)
    many = model.run(asked)
    one_by_one = [model.run([example])[0] for example in asked]
    hits = sum(m.value for m in policy._llm.get_metrics() if m.name == "vllm:prefix_cache_hits")
    forced = run_batch([model.episode(e) for e in asked], ForcedPolicy.of(policy, model.protocol, "direct"))

    episode = model.episode(asked[0])
    view, first = full_view(episode), episode.opening()
    mistold = dataclasses.replace(view, visual_tokens=view.visual_tokens + 1)
    refused = policy.complete([first, showing(view, view, view), showing(mistold), first])

    warm = copy.copy(policy)
    warm.temperature = 2.0
    drawn = [[(c.token_ids, c.logprobs) for c in warm.seeded(n).complete([showing(view)] * 32)] for n in (1, 1, 2)]
    result = {
        "many": record(many),
        "one by one": record(one_by_one),
        "forced": record(forced),
        "overlong": record(model.run([overlong(), asked[0]])),
        "refused": [[c.finish_reason, c.error and c.error.text, c.text] for c in refused],
        "hits": hits,
        "drawn": drawn,
        "drawn from": policy.renderer.prompt_ids(showing(view)),
        "value_bytes": policy.value_bytes,
    }
    (folder / "vllm.json").write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
