"""The embedded model with heads of 64: vLLM's attention on a CPU knows no heads of 40, as the tiny model's are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

HEAD = 64


def widened(source: Path, target: Path) -> Path:
    """The same function of the same tokens, saved as a checkpoint folder: what is added to the weights is zero, norms divide by
    more and scores by a larger root, and the base of the rotation is raised so that the pairs that are used turn as before."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text("utf-8"))
    text = config["text_config"]
    old, small = text["hidden_size"], text["hidden_size"] // text["num_attention_heads"]
    hidden = HEAD * text["num_attention_heads"]

    def longer(rows: torch.Tensor, to: int) -> torch.Tensor:
        return torch.cat([rows, rows.new_zeros(to - len(rows), *rows.shape[1:])])

    def heads(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([longer(half, HEAD // 2) for half in rows.split(small // 2)])  # a pair is an entry of either half

    weights = {}
    for name, stored in load_file(source / "model.safetensors").items():
        weight, part = stored.float(), name.split(".")[-2]
        if name.startswith("visual."):
            weights[name] = longer(weight, hidden) if "merger.mlp.2" in name else weight
            continue
        if part in ("q_proj", "k_proj", "v_proj"):
            weight = heads(weight) * ((HEAD / small) ** 0.5 if part == "q_proj" else 1)
        if part == "o_proj":
            weight = heads(weight.T).T
        if part in ("o_proj", "down_proj"):
            weight = longer(weight, hidden)
        elif part.endswith("norm"):
            weight = longer(weight, hidden) * (old / hidden) ** 0.5
        elif not name.endswith("bias"):
            weight = longer(weight.T, hidden).T
        weights[name] = weight.contiguous()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    text |= {"hidden_size": hidden, "rms_norm_eps": text["rms_norm_eps"] * old / hidden}
    rope = text["rope_parameters"]
    *times_and_rows, columns = rope["mrope_section"]
    rope["mrope_section"] = [*times_and_rows, columns + (HEAD - small) // 2]
    rope["rope_theta"] **= HEAD / small
    config["vision_config"]["out_hidden_size"] = hidden
    config["dtype"] = "float32"
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    return target
