"""DPC-KNN: density peaks as cluster centres (Du et al. 2016), as SparseVLM uses it to recycle tokens (arXiv 2410.04417).

For m tokens of width D in c clusters, d_ij = |x_i - x_j| / sqrt(D):

    rho_i    exp(-mean of d_ij^2 over the c nearest j, i itself among them)
    delta_i  distance to the nearest token with a higher rho; for the densest token the largest distance of all
    centres  the c tokens with the highest rho delta; every other token joins the nearest centre, and a cluster becomes its mean

The authors break ties of rho, which two nearest neighbours have often, with random noise; here the lower index counts as denser.
Of d dropped tokens int(0.3 d) + 1 are clustered, ten to one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visionthink.compress.picking import top


def recyclable(dropped: int, share: float) -> int:
    """How many of the dropped tokens are clustered."""
    return min(dropped, int(share * dropped) + 1)


def clusters_of(dropped: int, share: float) -> int:
    """Into how many clusters."""
    return recyclable(dropped, share) // 10 + 1 if dropped else 0


def cluster_means(tokens: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """(centres [c] ascending, means [c, D] in float32) of `tokens` [m, D]."""
    x = tokens.float()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5
    nearest = distance.sort(-1).values[:, :clusters]
    density = (-(nearest**2).mean(-1)).exp()
    order = torch.arange(len(x), device=x.device)
    earlier = order[None, :] < order[:, None]
    denser = (density[None, :] > density[:, None]) | ((density[None, :] == density[:, None]) & earlier)
    delta = distance.masked_fill(~denser, torch.inf).min(-1).values
    delta = torch.where(denser.any(-1), delta, distance.max())
    centres = top(density * delta, clusters)
    owner = distance[:, centres].argmin(-1)
    owner[centres] = torch.arange(clusters, device=x.device)
    sums = torch.zeros(clusters, x.shape[1], device=x.device).index_add_(0, owner, x)
    return centres, sums / torch.bincount(owner, minlength=clusters).unsqueeze(-1)
