"""Sequences with every shared prefix once: their layout, their positions and attention over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from visionthink.engine.attention import TreeAttention, _block_mask
from visionthink.engine.positions import rope_positions
from visionthink.engine.tree import Part, PrefixTree, row_keys, visual

PAD = 99


def rows(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int64) for sequence in sequences]


def test_sequences_that_part():
    tree = PrefixTree.of(rows([1, 2, 3], [1, 2, 4, 5]))
    assert tree.keys.tolist() == [1, 2, 3, 4, 5]
    assert tree.end.tolist() == [5, 5, 3, 5, 5]
    assert [where.tolist() for where in tree.where] == [[0, 1, 2], [0, 1, 3, 4]]


def test_duplicates_prefixes_and_strangers():
    tree = PrefixTree.of(rows([7, 8], [1, 2, 3], [1, 2], [1, 2, 3], [7, 8, 9]))
    assert tree.keys.tolist() == [1, 2, 3, 7, 8, 9]
    assert tree.end.tolist() == [3, 3, 3, 6, 6, 6]
    assert [where.tolist() for where in tree.where] == [[3, 4], [0, 1, 2], [0, 1], [0, 1, 2], [3, 4, 5]]
    assert PrefixTree.of([]).keys.tolist() == []


def test_any_sequences_are_found_again():
    draw = np.random.default_rng(0)
    for _ in range(200):
        given = [draw.integers(-2, 2, draw.integers(1, 9)) for _ in range(draw.integers(1, 9))]
        tree = PrefixTree.of(given)
        assert all((tree.keys[where] == row).all() for where, row in zip(tree.where, given, strict=True))
        prefixes = {tuple(row[: i + 1].tolist()) for row in given for i in range(len(row))}
        assert len(tree.keys) == len(prefixes)
        seen = {i: [j for j in range(i + 1) if i < tree.end[j]] for i in range(len(tree.keys))}
        for where in tree.where:
            assert all(seen[int(i)] == where[: n + 1].tolist() for n, i in enumerate(where))


def test_attention_in_parts():
    """Each segment to itself, and what hangs below a segment to it."""
    tree = PrefixTree.of(rows([1, 2, 3], [1, 2, 4, 5]))
    assert tree.parts() == [
        Part(first=0, last=2, begin=0, end=2, causal=True),
        Part(first=2, last=5, begin=0, end=2, causal=False),
        Part(first=2, last=3, begin=2, end=3, causal=True),
        Part(first=3, last=5, begin=3, end=5, causal=True),
    ]
    asking = np.array([False, True, True, True, True])
    assert tree.parts(asking) == [
        Part(first=0, last=4, begin=0, end=1, causal=False),
        Part(first=0, last=1, begin=1, end=2, causal=True),
        Part(first=1, last=4, begin=1, end=2, causal=False),
        Part(first=1, last=2, begin=2, end=3, causal=True),
        Part(first=2, last=4, begin=3, end=5, causal=True),
    ]


def test_only_some_sequences():
    tree = PrefixTree.of(rows([1, 2, 3], [1, 2, 4, 5], [6]))
    kept = np.array([True, True, False, True, True, False])
    found = tree.restricted(kept, [1])
    assert (found.keys.tolist(), found.end.tolist()) == ([1, 2, 4, 5], [4, 4, 4, 4])
    assert [where.tolist() for where in found.where] == [[0, 1, 2, 3]]


def test_visual_tokens_are_told_apart_by_their_image():
    one = row_keys([1, PAD, PAD, 2], PAD, [(0, 2)])
    other = row_keys([1, PAD, PAD, 2], PAD, [(3, 2)])
    assert one[[0, 3]].tolist() == [1, 2] and (one[1:3] < 0).all() and len({*one[1:3], *other[1:3]}) == 4
    at, numbers, places = visual(other)
    assert (at.tolist(), numbers.tolist(), places.tolist()) == ([1, 2], [3, 3], [0, 1])
    with pytest.raises(ValueError, match="the ids have room for 2 visual tokens, and the images have 3"):
        row_keys([1, PAD, PAD, 2], PAD, [(0, 3)])


def test_positions_by_hand():
    """Two tokens, an image of 2 x 3, one token."""
    keys = row_keys([5, 6, *[PAD] * 6, 7], PAD, [(0, 6)])
    positions, following = rope_positions(keys, [(2, 3)])
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert following == 6


@pytest.mark.parametrize(
    "family, model", [("qwen2_vl", Qwen2VLModel), ("qwen2_5_vl", Qwen2_5_VLModel), ("qwen3_vl", Qwen3VLModel)]
)
def test_positions_are_those_of_transformers(family, model):
    with torch.device("meta"):
        config = AutoConfig.for_model(family)
        config.vision_config.depth = config.get_text_config().num_hidden_layers = 1
        stock = model(config)
    ids = [5, 6, *[PAD] * 6, 7, 8, *[PAD] * 20, 9, PAD, 4]
    grids = [(2, 3), (5, 4), (1, 1)]
    keys = row_keys(ids, PAD, [(n, h * w) for n, (h, w) in enumerate(grids)])
    types = torch.tensor([[int(i == PAD) for i in ids]])
    merge = config.vision_config.spatial_merge_size
    patches = torch.tensor([[1, h * merge, w * merge] for h, w in grids])
    expected, _ = stock.get_rope_index(torch.tensor([ids]), types, patches)
    positions, following = rope_positions(keys, grids)
    assert positions.tolist() == expected[:, 0].tolist()
    assert following == int(expected.max()) + 1


# ------------------------------------------------------------------------------------------------ attention

TREE = PrefixTree.of(
    rows([1, 2, 3, 4, 10, 11], [1, 2, 3, 4, 10, 12, 13], [1, 2, 3, 4, 20], [1, 2, 30, 31, 32], [5, 6, 7], [5, 8, 9], [5, 6])
)
"""Leaves of equal and of different lengths, three branchings, and a sequence that ends inside another one."""


def dense(tree: PrefixTree, places: np.ndarray) -> torch.Tensor:
    i, j = places[:, None], np.arange(len(tree.keys))[None]
    return torch.from_numpy((j <= i) & (i < tree.end[None]))


@pytest.mark.parametrize("known", [0, 4])
def test_parts_are_the_whole_and_so_are_their_gradients(known):
    """Four heads of queries and two of keys; in float32, to its precision. `known`: keys and values that are there already."""
    torch.manual_seed(0)
    asking = np.arange(len(TREE.keys)) >= known
    tokens, asked = len(TREE.keys), int(asking.sum())
    query = torch.randn(1, 4, asked, 8, requires_grad=True)
    key, value = (torch.randn(1, 2, tokens, 8, requires_grad=True) for _ in range(2))
    weights = torch.randn(1, asked, 4, 8)

    def stock() -> torch.Tensor:
        keys, values = (x.repeat_interleave(2, 1) for x in (key, value))
        mask = dense(TREE, np.flatnonzero(asking))
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3).transpose(1, 2)

    if known:  # generation, which has no gradients
        with torch.no_grad():
            ours = TreeAttention(TREE, asking, torch.device("cpu"))(query, key, value, 0.3)
        assert torch.allclose(ours, stock(), atol=1e-6)
        return
    found = []
    for out in (TreeAttention(TREE, None, torch.device("cpu"))(query, key, value, 0.3), stock()):
        found.append([out, *torch.autograd.grad((out * weights).sum(), (query, key, value))])
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("known", [0, 4])
def test_the_mask_of_a_gpu_has_the_same_rule(known):
    """The rule that FlexAttention is given, evaluated here; the kernel itself needs a GPU."""
    asking = np.arange(len(TREE.keys)) >= known
    places = np.flatnonzero(asking)
    rule = _block_mask(TREE, asking, torch.device("cpu")).mask_mod
    query, key = torch.meshgrid(torch.arange(len(places)), torch.arange(len(TREE.keys)), indexing="ij")
    zero = torch.zeros_like(query)
    assert torch.equal(rule(zero, zero, query, key), dense(TREE, places))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("known", [0, 4])
def test_flex_attention_under_that_mask_is_attention_in_parts(known):
    """As torch computes it without a kernel, on a CPU and without gradients."""
    torch.manual_seed(0)
    asking = np.arange(len(TREE.keys)) >= known
    query = torch.randn(1, 4, int(asking.sum()), 16)
    key, value = (torch.randn(1, 2, len(TREE.keys), 16) for _ in range(2))
    mask = _block_mask(TREE, asking, torch.device("cpu"))
    with torch.no_grad():
        flex = flex_attention(query, key, value, block_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
        parts = TreeAttention(TREE, asking, torch.device("cpu"))(query, key, value, 0.3)
    assert torch.allclose(flex, parts, atol=1e-6)
