"""DPC-KNN: density peaks as cluster centres (Du et al. 2016), as SparseVLM uses it to recycle tokens (arXiv 2410.04417).

For m tokens of width D in c clusters, d_ij = |x_i - x_j| / sqrt(D):

    rho_i    exp(-mean of d_ij^2 over the c nearest j, i itself among them)
    delta_i  distance to the nearest token with a higher rho; for the densest token the largest distance of all
    centres  the c tokens with the highest rho delta; every other token joins the nearest centre, and a cluster becomes its mean

The authors break ties of rho, which two nearest neighbours have often, with random noise; here the lower index counts as denser.
Of d dropped tokens int(0.3 d) + 1 are clustered, ten to one. Where the number of clusters is to follow from the image (SeTok,
arXiv 2406.05127), the centres are the tokens with a rho delta above a threshold, and rho is of a fixed number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visionthink.compress.picking import solved, top


def recyclable(dropped: int, share: float) -> int:
    """How many of the dropped tokens are clustered."""
    return min(dropped, int(share * dropped) + 1)


def clusters_of(dropped: int, share: float) -> int:
    """Into how many clusters."""
    return recyclable(dropped, share) // 10 + 1 if dropped else 0


def cluster_means(tokens: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """(centres [c] ascending, means [c, D] in float32) of `tokens` [m, D]."""
    x = tokens.float()
    distance = distances(x)
    centres = top(peaks(distance, clusters), clusters)
    owner = owners(distance, centres)
    sums = torch.zeros(clusters, x.shape[1], device=x.device).index_add_(0, owner, x)
    return centres, sums / torch.bincount(owner, minlength=clusters).unsqueeze(-1)


def distances(tokens: Tensor) -> Tensor:
    """[m, m] of `tokens` [m, D]."""
    return torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / tokens.shape[1] ** 0.5


def peaks(distance: Tensor, nearest: int) -> Tensor:
    """[m] rho delta of tokens at these distances [m, m], with the density of the `nearest` tokens."""
    density = (-(distance.sort(-1).values[:, :nearest] ** 2).mean(-1)).exp()
    order = torch.arange(len(distance), device=distance.device)
    earlier = order[None, :] < order[:, None]
    denser = (density[None, :] > density[:, None]) | ((density[None, :] == density[:, None]) & earlier)
    delta = distance.masked_fill(~denser, torch.inf).min(-1).values
    return density * torch.where(denser.any(-1), delta, distance.max())


def top_above(scores: Tensor, threshold: float) -> Tensor:
    """[c] ascending: the tokens with scores above a threshold; never none, and of several never all, since a method that takes
    nothing out is taken for one that failed."""
    wanted = int((scores > threshold).sum())
    return top(scores, min(max(1, wanted), max(1, len(scores) - 1)))


def threshold_for(scores: Sequence[Tensor], keep: float) -> float:
    """The lowest threshold that leaves no more than a share of the tokens of some images, given the scores of each."""
    most = max(float(score.max()) for score in scores)
    wanted = keep * sum(map(len, scores))
    return solved(lambda threshold: -sum(len(top_above(score, threshold)) for score in scores), -wanted, most)


def owners(distance: Tensor, centres: Tensor) -> Tensor:
    """[m]: which of the centres [c] each token joins, the nearest one; a centre joins itself."""
    owner = distance[:, centres].argmin(-1)
    owner[centres] = torch.arange(len(centres), device=owner.device)
    return owner
