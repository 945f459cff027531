"""Every method against an oracle in NumPy written from its formula, in float64, by loops."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from visionthink.compress.baselines import Random, Uniform
from visionthink.compress.clusters import cluster_means, clusters_of, recyclable
from visionthink.compress.fastv import FastV
from visionthink.compress.names import NAMES, parse
from visionthink.compress.picking import count, top
from visionthink.compress.selection import LayerContext, VisionContext
from visionthink.compress.sparsevlm import SparseVLM, gravity
from visionthink.compress.todre import ToDRE, diverse
from visionthink.compress.visiondrop import VisionDrop
from visionthink.compress.visionzip import VisionZip, zipped
from visionthink.errors import OptionError
from visionthink.evals.policy_spec import METHODS

SEEDS = range(40)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vision(seed, images=(24,), width=8, dtype=torch.float32):
    tokens = sum(images)
    features, keys = random(seed, tokens, width).to(dtype), random(seed + 2, tokens, 6).to(dtype)
    received = random(seed + 1, tokens).abs()
    return VisionContext(features=features, images=images, layers=32, received=received, keys=keys)


def layer(seed, rows, tokens=24, at=3, layers=32, dtype=torch.float32, total=None, before=3, behind=7):
    """`before` text positions, visual ones, `behind` text positions."""
    length = before + tokens + behind
    visual = torch.zeros(length, dtype=torch.bool)
    visual[before : before + tokens] = True
    index = {"last": torch.tensor([length - 1]), "text": torch.arange(before + tokens, length), "visual": visual.nonzero()[:, 0]}[
        rows
    ]
    scores = 2 * random(seed, 4, len(index), length)
    scores = scores.masked_fill(torch.arange(length)[None, :] > index[:, None], -torch.inf)
    hidden, embeddings = random(seed + 1, length, 8).to(dtype), random(seed + 2, length, 8).to(dtype)
    keys, rotary = random(seed + 3, length, 6).to(dtype), (random(seed + 4, length, 4), random(seed + 5, length, 4))
    attention = scores.softmax(-1).to(dtype)
    return LayerContext(
        layer=at,
        layers=layers,
        hidden=hidden,
        visual=visual,
        embeddings=embeddings,
        attention=attention,
        rows=index,
        keys=keys,
        total=total or tokens,
        rotary=rotary,
    )


def wide(tensor):
    return tensor.double().numpy()


def visual_of(context, tensor):
    return wide(tensor)[context.visual.numpy()]


def highest(scores, k):
    """The k highest, the lower index first among equals, ascending."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])


def check(selection, keep, values=None, case=""):
    """`case` says in a failure which of many it was."""
    assert selection.keep.dtype == torch.int64, case
    assert selection.keep.tolist() == list(keep), case
    if values is None:
        assert selection.values is None, case
    else:
        np.testing.assert_allclose(wide(selection.values), values, rtol=1e-4, atol=1e-5, err_msg=case)


# ------------------------------------------------------------------------------------------------------------ steps


def test_counts_are_never_none_of_some_and_never_too_many():
    assert [count(0.5, n) for n in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 2]  # halves to the even neighbour
    assert (count(0.01, 10), count(1, 10), count(0.3, 0)) == (1, 10, 0)


def test_among_equal_scores_the_lower_index_is_kept():
    assert top(torch.tensor([1.0, 3, 2, 3, 3, 2]), 2).tolist() == [1, 3]
    assert top(torch.zeros(1000), 5).tolist() == [0, 1, 2, 3, 4]
    for seed in SEEDS:
        scores = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
        assert top(scores, 17).tolist() == highest(wide(scores.float()), 17)


# ------------------------------------------------------------------------------------------------------------ FastV


def test_fastv_is_the_formula():
    for seed in SEEDS:
        case = f"seed {seed}"
        tokens, keep = 3 + seed, (0.1, 0.3, 0.5, 0.9)[seed % 4]
        context = layer(seed, "last", tokens)
        score = [sum(wide(context.attention)[h, 0, j] for h in range(4)) / 4 for j in range(3, 3 + tokens)]
        check(FastV(keep=keep).select(context), highest(score, max(1, round(keep * tokens))), case=case)


def test_fastv_by_hand():
    attention = torch.tensor([[[0.1, 0.2, 0.0, 0.2, 0.1, 0.4]], [[0.1, 0.0, 0.4, 0.2, 0.1, 0.2]]])
    visual = torch.tensor([False, True, True, True, True, False])
    context = LayerContext(
        layer=3,
        layers=6,
        hidden=torch.zeros(6, 2),
        visual=visual,
        embeddings=torch.zeros(6, 2),
        attention=attention,
        rows=torch.tensor([5]),
        keys=None,
        total=4,
    )
    check(FastV(keep=0.5).select(context), [1, 2])  # means .1 .2 .2 .1
    assert FastV(layer=2).at(6) == {2: "last"}
    assert FastV(layer=2, keep=0.25).kept(4) == [1, 1, 0.25, 0.25]
    assert [list(FastV().at(n)) for n in (28, 4, 3, 2)] == [[3], [3], [2], [1]]


# -------------------------------------------------------------------------------------------------------- VisionZip


def zip_oracle(tokens, received, keys, k, contextual, merge):
    n = len(tokens)
    if k == n:
        return list(range(n)), None
    merged = min(round(contextual * k), k - 1)
    dominant = highest(received, k - merged)
    if not merged:
        return dominant, None
    rest = [i for i in range(n) if i not in dominant]
    targets = rest[:: max(1, len(rest) // merged)][:merged]
    groups = {t: [] for t in targets}
    for i in rest:
        if i not in targets:
            cosines = [keys[i] @ keys[t] / np.linalg.norm(keys[i]) / np.linalg.norm(keys[t]) for t in targets]
            groups[targets[int(np.argmax(cosines))]].append(tokens[i])
    keep, values = sorted(dominant + targets), []
    for i in keep:
        members = groups.get(i, [])
        if merge == "sum":
            values.append(tokens[i] + (np.mean(members, 0) if members else 0))
        else:
            values.append(np.mean([tokens[i], *members], 0))
    return keep, np.stack(values)


def test_visionzip_is_the_formula_in_every_image():
    for seed, merge in itertools.product(SEEDS, ["sum", "mean"]):
        case = f"seed {seed}, merge {merge}"
        images = ((30,), (12, 25), (1, 40, 2), (7, 1))[seed % 4]
        keep, contextual = (0.2, 0.5, 0.75)[seed % 3], (10 / 64, 0.4, 0, 1)[seed % 4]
        context = vision(seed, images)
        kept, values, start = [], [], 0
        for size in images:
            here = slice(start, start + size)
            tokens, received, keys = (wide(x[here]) for x in (context.features, context.received, context.keys))
            chosen, merged = zip_oracle(tokens, received, keys, max(1, round(keep * size)), contextual, merge)
            kept += [start + i for i in chosen]
            values.append(tokens[chosen] if merged is None else merged)
            start += size
        selection = VisionZip(keep=keep, contextual=contextual, merge=merge).vision(context)
        check(selection, kept, None if selection.values is None else np.concatenate(values), case=case)
        if selection.values is None:
            np.testing.assert_array_equal(np.concatenate(values), wide(context.features)[kept], err_msg=case)


def test_visionzip_by_hand():
    tokens = torch.tensor([[1.0], [2], [4], [8], [16], [32]])
    received = torch.tensor([0.0, 9, 0, 0, 0, 0])
    keys = torch.tensor([[1.0, 0], [0, 0], [1, 1], [0, 3], [2, 0], [0, 1]])
    # one dominant (1); of 0 2 3 4 5 every second: targets 0 and 3; 4 is like 0, 5 like 3, 2 between both goes to the first
    check(zipped(tokens, received, keys, 3, 0.7, "sum"), [0, 1, 3], [[1 + 10], [2], [8 + 32]])
    check(zipped(tokens, received, keys, 3, 0.7, "mean"), [0, 1, 3], [[21 / 3], [2], [20]])
    check(zipped(tokens, received, keys, 1, 0.7, "sum"), [1])


# ------------------------------------------------------------------------------------------------------- VisionDrop


def test_visiondrop_judges_visual_tokens_by_visual_tokens():
    for seed in SEEDS:
        case = f"seed {seed}"
        tokens, stage = 6 + seed, seed % 3
        total = tokens + seed % 5
        method = VisionDrop(keep=(0.2, 0.4, 0.6)[seed % 3], merge=("sum", "mean")[seed % 2])
        context = layer(seed, "visual", tokens, at=(8, 16, 24)[stage], total=total)
        attention = wide(context.attention)[:, :, 3 : 3 + tokens]
        received = [attention[:, :, j].mean() for j in range(tokens)]
        k = min(tokens, max(1, round(method.shares(context.layers)[stage + 1] * total)))
        share = (5 / 35, 4 / 26, 3 / 19)[stage]
        keep, values = zip_oracle(
            visual_of(context, context.hidden), received, visual_of(context, context.keys), k, share, method.merge
        )
        check(method.select(context), keep, values, case=case)


def test_visiondrop_leaves_what_the_authors_leave():
    method = VisionDrop(keep=32 / 576)
    assert [round(576 * share, 6) for share in method.shares(32)] == [48, 35, 26, 19]
    assert [round(576 * share) for share in method.kept(32)[::8]] == [48, 35, 26, 19]
    context = vision(0, (576,))
    assert len(method.vision(context).keep) == 48
    first = VisionZip(keep=0.6, contextual=1 / 8).vision(vision(3, (12, 9)))
    check(VisionDrop(keep=0.4).vision(vision(3, (12, 9))), first.keep.tolist(), wide(first.values))


def test_visiondrop_in_a_shallow_decoder_leaves_out_a_stage():
    assert list(VisionDrop().at(3)) == [1, 2]
    kept = VisionDrop(keep=0.5).kept(3)  # 48 : 35 : 19
    assert kept == pytest.approx([1.5 * 48 / 102, 1.5 * 35 / 102, 1.5 * 19 / 102])


def test_visiondrop_averages_to_its_target():
    for layers, keep in itertools.product([2, 3, 5, 27, 28, 32, 36, 64], [0.01, 0.1, 0.5, 0.9, 1.0]):
        case = f"layers {layers}, keep {keep}"
        shares = VisionDrop(keep=keep).kept(layers)
        assert np.mean(shares) == pytest.approx(keep, abs=1e-12), case
        assert shares == sorted(shares, reverse=True), case


# -------------------------------------------------------------------------------------------------------- SparseVLM


def cluster_oracle(tokens, clusters):
    m, width = tokens.shape
    distance = np.array([[np.linalg.norm(a - b) / np.sqrt(width) for b in tokens] for a in tokens])
    density = [np.exp(-np.mean(np.sort(distance[i])[:clusters] ** 2)) for i in range(m)]
    rank = sorted(range(m), key=lambda i: (-density[i], i))
    delta = [min([distance[i, j] for j in rank[: rank.index(i)]], default=distance.max()) for i in range(m)]
    centres = highest([density[i] * delta[i] for i in range(m)], clusters)
    groups = {c: [tokens[c]] for c in centres}
    for i in range(m):
        if i not in centres:
            groups[min(centres, key=lambda c: (distance[i, c], c))].append(tokens[i])
    return centres, np.stack([np.mean(groups[c], 0) for c in centres])


def test_clustering_is_the_formula():
    for seed in SEEDS:
        case = f"seed {seed}"
        tokens, clusters = random(seed, 5 + 2 * seed, 6), 1 + seed % 5
        centres, means = cluster_means(tokens, clusters)
        expected, values = cluster_oracle(wide(tokens), clusters)
        assert centres.tolist() == expected, case
        np.testing.assert_allclose(wide(means), values, rtol=1e-4, atol=1e-5, err_msg=case)


def test_clusters_by_hand():
    # rho is the same for 0, 1, 20 and 21; the first of them is the densest, and 20 has no denser one within 19
    centres, means = cluster_means(torch.tensor([[0.0], [1], [2.5], [20], [21], [22.5]]), 2)
    assert centres.tolist() == [0, 3]
    assert means.flatten().tolist() == pytest.approx([3.5 / 3, 63.5 / 3])
    same, mean = cluster_means(torch.ones(4, 2), 1)
    assert (same.tolist(), mean.tolist()) == ([0], [[1, 1]])


def sparse_oracle(context, method, target):
    """The scores of the visual tokens, and which are kept with what values when `target` are left."""
    tokens = int(context.visual.sum())
    rows = context.rows.tolist()
    text, visual = wide(context.embeddings)[rows], visual_of(context, context.embeddings)
    product = visual @ text.T
    related = np.exp(product - product.max(1, keepdims=True))
    related = (related / related.sum(1, keepdims=True)).mean(0)
    raters = [i for i, m in enumerate(related) if m > related.mean()]
    places = [i for i, v in enumerate(context.visual.tolist()) if v]
    attention = wide(context.attention)[:, raters][:, :, places]
    if method.version == "plus":
        cosine, sine = map(wide, context.rotary)
        ones = cosine + np.array([-1, -1, 1, 1]) * sine  # a vector of ones, turned
        attention = attention / ((ones @ ones.T) / 2)[np.ix_([rows[i] for i in raters], places)]
        attention = attention[highest([head.sum() for head in attention], len(attention) // 2)]
    scores = [attention[:, :, j].mean() for j in range(tokens)]
    if method.version == "plus" or not method.recycle:
        return highest(scores, target), None
    for best in range(target, 0, -1):
        dropped = tokens - best
        clustered = min(dropped, int(method.recycle * dropped) + 1)
        if best + int(clustered / 10) + 1 == target:
            break
    else:
        return highest(scores, target), None
    keep = highest(scores, best)
    rest = [i for i in range(tokens) if i not in keep]
    members = [rest[i] for i in highest([scores[i] for i in rest], clustered)]
    hidden = visual_of(context, context.hidden)
    centres, means = cluster_oracle(hidden[members], target - best)
    replaced = {members[c]: mean for c, mean in zip(centres, means, strict=True)}
    kept = sorted(keep + list(replaced))
    return kept, np.stack([replaced.get(i, hidden[i]) for i in kept])


def test_sparsevlm_is_the_formula():
    for seed, version in itertools.product(SEEDS, ["1", "plus"]):
        case = f"seed {seed}, version {version}"
        tokens, entry = 5 + 3 * seed, seed % 3
        method = SparseVLM(keep=(0.2, 0.4, 0.7)[seed % 3], version=version, recycle=(0.3, 0.3, 0, 1.0)[seed % 4])
        total = tokens + (0 if entry == 0 else tokens // 2)
        context = layer(seed, "text", tokens, at=(3, 7, 16)[entry], total=total, behind=5 + seed % 7)
        left = min(tokens, max(1, round(method.kept(32)[context.layer] * total)))
        selection = method.select(context)
        assert len(selection.keep) == left, case
        if left < tokens:
            check(selection, *sparse_oracle(context, method, left), case=case)
        else:
            check(selection, range(tokens), case=case)


def test_recycled_tokens_count_towards_what_is_left():
    method = SparseVLM()
    for tokens in (2, 3, 11, 40, 576):
        for left in range(1, tokens):
            best = method.best(tokens, left)
            assert best == left or best + clusters_of(tokens - best, 0.3) == left
            assert best < left or 1 + clusters_of(tokens - 1, 0.3) > left  # all by score only where clusters have no room
    assert [(recyclable(n, 0.3), clusters_of(n, 0.3)) for n in (0, 1, 29, 30, 276)] == [(0, 0), (1, 1), (9, 1), (10, 2), (83, 9)]


def test_without_a_word_that_stands_out_all_words_judge():
    context = layer(0, "text", 12, behind=1)  # one word: its share is 1, the mean is 1
    scores = wide(context.attention)[:, 0, 3:15].mean(0)
    check(SparseVLM(keep=0.5, recycle=0).select(context), highest(scores, round(12 * SparseVLM(keep=0.5).kept(32)[3])))


def test_the_schedule_averages_to_its_target_and_falls():
    for layers, keep in itertools.product([4, 12, 28, 32, 36, 80], [0.26, 1 / 3, 0.5, 0.7, 0.95, 1.0]):
        case = f"layers {layers}, keep {keep}"
        method = SparseVLM(keep=keep)
        shares, entries = method.kept(layers), sorted(method.at(layers))
        assert len(shares) == layers, case
        assert np.mean(shares) == pytest.approx(keep, abs=1e-12), case
        assert [i for i in range(1, layers) if shares[i] < shares[i - 1]] == (entries if keep < 1 else []), case
        assert shares == sorted(shares, reverse=True), case
        if keep < 1:
            ratios = [shares[i] / shares[i - 1] for i in entries]
            assert ratios == pytest.approx([ratios[0]] * 3), case
        tokens, counted = 1000, []
        for share in shares:
            counted.append(count(share, tokens))
        assert np.mean(counted) == pytest.approx(keep * tokens, abs=0.5), case


def test_the_layers_of_the_paper_scale_with_the_depth():
    assert [list(SparseVLM().at(n)) for n in (32, 28, 36, 6, 4)] == [[3, 7, 16], [3, 6, 14], [3, 8, 18], [1, 2, 3], [1, 2, 3]]
    assert list(SparseVLM().at(3)) == [1, 2]  # no room for the third
    assert SparseVLM(layers=(3, 5), keep=0.7).at(6) == {3: "text", 5: "text"}
    assert SparseVLM(layers=(3, 5), keep=0.7).kept(6)[:3] == [1, 1, 1]


def test_gravity_is_the_rotary_score_of_ones():
    length, size = 7, 8
    angles = random(0, length, size // 2)
    cosine, sine = (torch.cat((x, x), 1) for x in (angles.cos(), angles.sin()))
    rows = torch.tensor([5, 6])
    turned = [[complex(1, 1) * np.exp(1j * a) for a in row] for row in wide(angles)]
    expected = [[sum((q * c.conjugate()).real for q, c in zip(turned[r], key, strict=True)) for key in turned] for r in (5, 6)]
    np.testing.assert_allclose(wide(gravity(cosine, sine, rows)), np.array(expected) / np.sqrt(size), rtol=1e-5, atol=1e-6)


def test_plus_without_positions_says_so():
    context = layer(0, "text")
    bare = LayerContext(**{**vars(context), "rotary": None})
    with pytest.raises(OptionError, match=r"sparsevlm\+: needs the rotary embedding"):
        SparseVLM(version="plus").select(bare)
    attention, left = visual_of(bare, bare.attention.permute(2, 0, 1)), round(24 * SparseVLM().kept(32)[3])
    related = visual_of(bare, bare.embeddings) @ wide(bare.embeddings)[bare.rows.numpy()].T
    related = np.exp(related) / np.exp(related).sum(1, keepdims=True)
    attention = attention[:, :, related.mean(0) > related.mean()]
    heads = highest(attention.sum((0, 2)), 2)  # the half of the heads that sees most of the image
    check(SparseVLM(version="plus", gravity=False).select(bare), highest(attention[:, heads].mean((1, 2)), left))


# ------------------------------------------------------------------------------------------------------------ ToDRE


def similarity(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


def greedy_oracle(features, pivot, k, objective):
    """The objective of every extended set computed anew from all its pairs."""
    alike, chosen = similarity(features), [pivot]
    while len(chosen) < k:

        def cost(v, chosen=tuple(chosen)):
            if objective == "max_sum":
                return sum(alike[a, b] for a, b in itertools.combinations([*chosen, v], 2))
            return max(alike[v, c] for c in chosen)

        chosen.append(min((v for v in range(len(features)) if v not in chosen), key=cost))
    return sorted(chosen)


def test_todre_grows_its_set_greedily_in_every_image():
    for seed, objective in itertools.product(SEEDS, ["max_sum", "k_center"]):
        case = f"seed {seed}, objective {objective}"
        images = ((20,), (9, 14), (1, 15), (3, 3, 3))[seed % 4]
        keep = (0.2, 0.5, 0.8)[seed % 3]
        context, expected, start = vision(seed, images), [], 0
        for size in images:
            features, received = wide(context.features)[start : start + size], wide(context.received)[start : start + size]
            k = max(1, round(keep * size))
            expected += [start + i for i in greedy_oracle(features, int(np.argmax(received)), k, objective)]
            start += size
        check(ToDRE(keep=keep, objective=objective).vision(context), expected, case=case)


def test_greedy_against_every_set_that_holds_the_pivot():
    for seed in SEEDS:
        case = f"seed {seed}"
        features, k = random(seed, 9, 4), 2 + seed % 3
        alike = similarity(wide(features))
        others = [v for v in range(9) if v != 4]

        def spread(chosen, alike=alike):
            return sum(1 - alike[a, b] for a, b in itertools.combinations(chosen, 2))

        best = max(spread((4, *more)) for more in itertools.combinations(others, k - 1))
        found = spread(diverse(features, torch.tensor([4]), k, "max_sum").tolist())
        assert found <= best + 1e-6, case
        assert (found == pytest.approx(best, rel=1e-5)) if k == 2 else (found > 0.7 * best), case


def test_todre_by_hand():
    angles = torch.tensor([0.0, 0, 90, 180, 270]).deg2rad()
    features = torch.stack((angles.cos(), angles.sin()), 1).round()
    pivot = torch.tensor([0])
    assert diverse(features, pivot, 2, "max_sum").tolist() == [0, 3]
    assert diverse(features, pivot, 3, "max_sum").tolist() == [0, 1, 3]  # sums are 0 for 1, 2 and 4: the lowest index
    assert diverse(features, pivot, 3, "k_center").tolist() == [0, 2, 3]  # 1 is at distance 0


def test_stage_2_takes_all_visual_tokens_or_none():
    visual = torch.tensor([False, True, True, False, False])
    for mass, left in ((0.08, []), (0.12, [0, 1])):
        attention = torch.tensor([0.5, mass / 2, mass / 2, 0.5 - mass, 0]).expand(2, 2, 5)
        context = LayerContext(
            layer=28,
            layers=32,
            hidden=torch.zeros(5, 2),
            visual=visual,
            embeddings=torch.zeros(5, 2),
            attention=attention,
            rows=torch.tensor([3, 4]),
            keys=None,
            total=2,
        )
        check(ToDRE(stage2=True).select(context), left)
    assert ToDRE(stage2=True).at(28) == {24: "text"}
    assert ToDRE(stage2=True).at(32) == {28: "text"}
    assert ToDRE().at(28) == {}


def test_stage_2_reads_what_text_takes_from_the_image():
    for seed in SEEDS:
        case = f"seed {seed}"
        context = layer(seed, "text", 12)
        taken = np.mean([[row[3:15].sum() for row in head] for head in wide(context.attention)])
        check(ToDRE(stage2=True, tau=float(taken) + 1e-4).select(context), [], case=case)
        check(ToDRE(stage2=True, tau=float(taken) - 1e-4).select(context), range(12), case=case)


# -------------------------------------------------------------------------------------------------------- baselines


def test_baselines_look_at_nothing():
    for seed in range(10):
        case = f"seed {seed}"
        first, second = vision(seed, (10, 20, 10)), vision(seed + 100, (10, 20, 10))
        for method in (Random(keep=0.3, seed=seed), Uniform(keep=0.3)):
            kept = method.vision(first).keep.tolist()
            assert kept == method.vision(second).keep.tolist(), case
            assert [sum(a <= i < b for i in kept) for a, b in ((0, 10), (10, 30), (30, 40))] == [3, 6, 3], case
            assert kept == sorted(set(kept)), case
            assert kept[-3:] == [30 + i for i in kept[:3]], case  # the same size, the same tokens


def test_baselines_by_hand():
    check(Random(keep=0.5, seed=7).vision(vision(0, (6,))), sorted(np.random.default_rng([7, 6]).permutation(6)[:3].tolist()))
    assert len({tuple(Random(keep=0.5, seed=s).vision(vision(0, (20,))).keep.tolist()) for s in range(20)}) == 20
    drawn = np.zeros(8)
    for seed in range(2000):
        drawn[Random(keep=0.25, seed=seed).vision(vision(0, (8,))).keep] += 1
    assert (abs(drawn / 2000 - 0.25) < 0.05).all()
    check(Uniform(keep=0.5).vision(vision(0, (8,))), [1, 3, 5, 7])
    check(Uniform(keep=0.375).vision(vision(0, (8,))), [1, 4, 6])
    check(Uniform(keep=0.1).vision(vision(0, (8,))), [4])


# ------------------------------------------------------------------------------------------------------ all of them


ALL = [parse(f"{name}:0.5") for name in NAMES] + [VisionZip(merge="mean"), ToDRE(objective="k_center"), SparseVLM(recycle=1)]
EVERY = [type(m)(**{**vars(m), "keep": 1.0}) for m in ALL]


def asked(method, seed=0, tokens=24, images=None, dtype=torch.float32, layers=32):
    """Every selection that a method makes."""
    found = [method.vision(vision(seed, images or (tokens,), dtype=dtype))]
    found += [method.select(layer(seed, rows, tokens, at, layers, dtype)) for at, rows in method.at(layers).items()]
    return [selection for selection in found if selection is not None]


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_keep_1_keeps_everything_as_it_is(method):
    assert asked(method)
    for tokens in (1, 2, 24):
        for selection in asked(method, tokens=tokens):
            check(selection, range(tokens))
    for selection in asked(method, images=(3, 1, 5))[: not method.at(32)]:
        check(selection, range(9))
    assert method.kept(32) == [1.0] * 32


@pytest.mark.parametrize("method", ALL, ids=str)
def test_one_token_is_kept_as_it_is(method):
    assert len(asked(method, tokens=1)) == {"sparsevlm": 3, "sparsevlm+": 3, "visiondrop": 4}.get(method.name.split(":")[0], 1)
    for selection in asked(method, tokens=1):
        check(selection, [0])


@pytest.mark.parametrize("method", ALL, ids=str)
def test_a_sample_without_images(method):
    assert method.vision(vision(0, ())) is None
    assert [method.select(layer(0, rows, 0, at)) for at, rows in method.at(32).items()] == [None] * len(method.at(32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ALL, ids=str)
def test_half_precision_is_scored_in_full(method, dtype):
    def widened(context):
        return type(context)(
            **{k: v.float() if isinstance(v, torch.Tensor) and v.dtype == dtype else v for k, v in vars(context).items()}
        )

    for seed in range(5):
        seen = [(method.vision, vision(seed, (24, 9), dtype=dtype))]
        seen += [(method.select, layer(seed, rows, 33, at, 32, dtype)) for at, rows in method.at(32).items()]
        for ask, context in seen:
            half, full = ask(context), ask(widened(context))
            assert (half is None) == (full is None)
            if half is None:
                continue
            assert half.keep.tolist() == full.keep.tolist()
            if half.values is not None:
                assert half.values.dtype == dtype
                assert torch.equal(half.values, full.values.to(dtype))


@pytest.mark.parametrize("method", ALL, ids=str)
def test_images_do_not_mix_and_twice_is_once(method):
    both = vision(5, (11, 13))
    again, selection = method.vision(both), method.vision(both)
    if selection is None:
        return
    assert torch.equal(again.keep, selection.keep)
    kept, values = [], []
    for start, stop in ((0, 11), (11, 24)):
        alone = VisionContext(
            features=both.features[start:stop],
            images=(stop - start,),
            layers=32,
            received=both.received[start:stop],
            keys=both.keys[start:stop],
        )
        part = method.vision(alone)
        kept.append(part.keep + start)
        values.append(alone.features[part.keep] if part.values is None else part.values)
    assert torch.equal(selection.keep, torch.cat(kept))
    assert selection.values is None or torch.allclose(selection.values, torch.cat(values))


def test_tokens_that_are_not_merged_are_not_touched():
    """How many of 40 tokens a method keeps at each stage, and how many of those hold a mean of several."""
    stages = {
        "fastv:0.5": [(20, 0)],
        "visionzip:0.5": [(20, 3)],  # 10/64 of 20
        "visionzip:0.5 mean": [(20, 3)],
        "sparsevlm:0.5": [(28, 1), (20, 1), (14, 1)],
        "sparsevlm:0.5 recycle all": [(28, 2), (20, 3), (14, 3)],
        "sparsevlm+:0.5": [(28, 0), (20, 0), (14, 0)],
        "todre:0.5": [(20, 0)],
        "todre:0.25 k_center": [(10, 0)],
        "visiondrop:0.5": [(30, 4), (22, 3), (16, 2), (12, 2)],
        "drop-random:0.5": [(20, 0)],
        "drop-uniform:0.5": [(20, 0)],
    }
    names = [m.name + more for m, more in zip(ALL, [""] * len(NAMES) + [" mean", " k_center", " recycle all"], strict=True)]
    found = {}
    for name, method in zip(names, ALL, strict=True):
        contexts = [(vision(1, (40,)), None)]
        contexts += [(layer(1, rows, 40, at), at) for at, rows in method.at(32).items()]
        found[name] = []
        for context, at in contexts:
            selection = method.vision(context) if at is None else method.select(context)
            if selection is None:
                continue
            before = context.features if at is None else context.hidden[context.visual]
            merged = 0
            if selection.values is not None:
                merged = int((selection.values != before[selection.keep]).any(1).sum())
            found[name].append((len(selection.keep), merged))
    assert found == stages


def test_names():
    assert (*NAMES, "pool", "learned") == METHODS  # policy names are parsed without this package
    for name in NAMES:
        method = parse(f"{name}:0.5")
        assert (method.name, method.keep, method.positions) == (f"{name}:0.5", 0.5, "keep")
        assert parse(method.name) == method
    assert parse("sparsevlm+:0.25").version == "plus"
    assert parse("sparsevlm+:0.25:renumber") == SparseVLM(keep=0.25, version="plus", positions="renumber")
    assert parse("sparsevlm+:0.25:renumber").name == "sparsevlm+:0.25:renumber"
    assert [m.needs.attention for m in map(parse, ("visionzip:1", "visiondrop:1", "todre:1", "fastv:1"))] == [
        True,
        True,
        True,
        False,
    ]


def test_names_are_light():
    code = "import sys, visionthink.compress.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: parse("fastvv:0.5"),
            "unknown compression method 'fastvv'; did you mean 'fastv'\\? choose from fastv, ",
        ),
        (lambda: parse("random:0.5"), "unknown compression method 'random'"),
        (lambda: parse("fastv"), "say the share of visual tokens to keep, as in fastv:0.5"),
        (lambda: parse("fastv:half"), "say the share"),
        (lambda: parse("fastv:0.5:"), "fastv positions '': choose keep or renumber"),
        (lambda: parse("fastv:0.5:drop"), "fastv positions 'drop': choose keep or renumber"),
        (lambda: parse("fastv:nan"), "fastv keep nan: a share, above 0 and at most 1"),
        (lambda: parse("visionzip:0"), "visionzip keep 0.0: a share"),
        (lambda: parse("drop-random:1.5"), "drop-random keep 1.5: a share"),
        (lambda: FastV(keep="0.5"), "fastv keep 0.5: a share"),
        (lambda: FastV(layer=0), "fastv layer 0: a whole number of at least 1"),
        (lambda: FastV(layer=6).at(6), "fastv layer 6: this model's last layer is 5"),
        (lambda: FastV(positions="drop"), "fastv positions 'drop': choose keep or renumber"),
        (lambda: VisionZip(contextual=-0.1), "visionzip contextual -0.1: a share, from 0 and at most 1"),
        (lambda: VisionZip(merge="max"), "visionzip merge 'max': choose sum or mean"),
        (lambda: VisionDrop(merge="max"), "visiondrop merge 'max'"),
        (lambda: VisionDrop().at(1), "visiondrop: a decoder of 1 layer has no layer to read before"),
        (lambda: SparseVLM(version="2"), "sparsevlm version '2': choose 1 or plus"),
        (lambda: SparseVLM(recycle=2), "sparsevlm recycle 2: a share"),
        (lambda: SparseVLM(layers=(3, 3)), r"sparsevlm layers \(3, 3\): whole numbers"),
        (lambda: SparseVLM(layers=()), r"sparsevlm layers \(\): whole numbers"),
        (lambda: SparseVLM(layers=(0, 3)), "whole numbers from 1"),
        (lambda: SparseVLM(layers=(1, 3), keep=0.9).at(3), r"sparsevlm layers \(1, 3\): this model's last layer is 2"),
        (lambda: SparseVLM().at(1), "sparsevlm: a decoder of 1 layer has no layer to read before"),
        (
            lambda: SparseVLM(keep=0.09).at(32),
            "sparsevlm keep 0.09: must be above 0.094, since all tokens go through 3 of 32 layers",
        ),
        (lambda: ToDRE(objective="sum"), "todre objective 'sum': choose max_sum or k_center"),
        (lambda: ToDRE(tau=0), "todre tau 0: a share"),
        (lambda: Random(seed=-1), "drop-random seed -1"),
        (
            lambda: VisionZip().vision(VisionContext(features=torch.zeros(2, 2), images=(2,), layers=32)),
            "visionzip: needs the attention of the vision tower",
        ),
    ],
)
def test_bad_options_are_one_clear_line(make, line):
    with pytest.raises(OptionError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)
