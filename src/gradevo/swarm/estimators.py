"""A gradient from evaluated points: the papers' two forms, and better ones.

An estimator is a pure function of a `Cloud`: points around w and their losses, for many
independent swarms at once. It returns the *ascent* direction, as autograd would, `(swarms,
dims)`; the AdaSwarm paper writes w <- w + eta df/dw, so its sign is the opposite.

    near        (c1 r1 + c2 r2) / eta (w - gbest), eq. (15)
    starred     -v + [c1 r1 (w - pbest) + c2 r2 (w - gbest)] / eta, the form of eq. (19)
    regression  slope of a least-squares plane through the losses
    covariance  slope of the losses on each coordinate alone
    rank        w minus the mean of the points, weighted by the rank of their losses
    tie         w minus the mean of all points that share the best loss

`regression` and `covariance` have a gradient's size. The others are directions: their size
is that of the cloud, not that of the gradient. Where all losses are equal, the last four are
exactly zero. Where the cloud is not centred on w, since its points were clipped to bounds, `rank`
and `tie` contain the way from w to its middle: a pull inwards, which also helps flat losses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gradevo.swarm.dynamics import Swarm
from gradevo.validation import positive


@dataclass(frozen=True)
class Cloud:
    """Evaluated points.

    Attributes:
        w: where the gradient is wanted, `(swarms, dims)`.
        points: `(swarms, n, dims)`.
        losses: `(swarms, n)`; NaN counts as infinity.
        swarm: the swarm that visited them, for the papers' forms.
        eta: the papers' learning rate, in their forms only.
    """

    w: Tensor
    points: Tensor
    losses: Tensor
    swarm: Swarm | None = None
    eta: float = 0.1


Estimator = Callable[[Cloud], Tensor]


def rate(name: str, value: Any) -> float:
    """A learning rate by which the papers' forms can divide in float32."""
    found = float(positive(name, value))
    if not 1e-30 <= found <= 1e30:
        raise ValueError(f"{name}: must be a number from 1e-30 to 1e30, got {value!r}")
    return found


def near(cloud: Cloud) -> Tensor:
    """The paper's gradient near a minimum (eq. 15): towards gbest, whatever the losses are."""
    swarm = _swarm(cloud, "near")
    return (swarm.cr1 + swarm.cr2)[:, 0] / cloud.eta * (cloud.w - swarm.gbest)


def starred(cloud: Cloud) -> Tensor:
    """The paper's gradient away from a minimum (eq. 19), by the particle that leads.

    The velocity's sign is turned like that of the other terms, since here the gradient ascends.
    """
    swarm = _swarm(cloud, "starred")
    own = swarm.cr1[:, 0] * (cloud.w - swarm.of_leader(swarm.pbest))
    return (own + swarm.cr2[:, 0] * (cloud.w - swarm.gbest)) / cloud.eta - swarm.of_leader(swarm.v)


def _swarm(cloud: Cloud, name: str) -> Swarm:
    if cloud.swarm is None:
        raise ValueError(f"estimator: {name!r} needs the swarm that visited the points, got none")
    return cloud.swarm


def regression(cloud: Cloud) -> Tensor:
    """Least squares on the differences from the mean; nearer points weigh more.

    With at least dims + 1 points the plane is determined. With fewer, the shortest slope
    that explains the losses.
    """
    offsets = cloud.points - cloud.w.unsqueeze(1)
    distance = offsets.square().mean(dim=2)  # (swarms, n)
    width = distance.mean(dim=1, keepdim=True) + torch.finfo(distance.dtype).tiny
    weights = torch.exp(-0.5 * distance / width) * cloud.losses.isfinite()
    design, losses = _centred(offsets, cloud.losses, weights)
    root = weights.sqrt()
    design, losses = root.unsqueeze(2) * design, root * losses
    n, dims = design.shape[1:]
    if n > dims:
        return _solve(design.mT @ design, (design.mT @ losses.unsqueeze(2)))
    return (design.mT @ _solve(design @ design.mT, losses.unsqueeze(2)).unsqueeze(2)).squeeze(2)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Symmetric systems `(swarms, k, k)`, none singular thanks to a ridge of rounding size."""
    k, limits = matrix.shape[1], torch.finfo(matrix.dtype)
    size = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    ridge = (8 * limits.eps * k) * size + limits.tiny
    eye = torch.eye(k, dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(matrix + ridge[:, None, None] * eye)
    return torch.cholesky_solve(right, factor).squeeze(2)


def covariance(cloud: Cloud) -> Tensor:
    """Covariance of losses and coordinates over the coordinates' variances."""
    weights = cloud.losses.isfinite().to(cloud.points.dtype)
    offsets, losses = _centred(cloud.points, cloud.losses, weights)
    slope = torch.bmm(losses.unsqueeze(1), offsets)[:, 0]  # (swarms, dims)
    spread = torch.bmm(weights.unsqueeze(1), offsets.square())[:, 0]
    return slope / (spread + torch.finfo(spread.dtype).tiny)


def _centred(x: Tensor, losses: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates and losses minus their weighted means; losses without weight become 0.

    Losses count from their least, so that equal ones are exactly 0, not of rounding size.
    """
    least = torch.where(losses.isfinite(), losses, torch.inf).amin(dim=1, keepdim=True)
    losses = torch.where(losses.isfinite(), losses - least, 0.0).to(x.dtype)
    share = weights / (weights.sum(dim=1, keepdim=True) + torch.finfo(weights.dtype).tiny)
    mean = torch.bmm(share.unsqueeze(1), x)
    middle = (share * losses).sum(dim=1, keepdim=True)
    return x - mean, torch.where(weights > 0, losses - middle, 0.0)


def _worst_last(losses: Tensor) -> Tensor:
    """NaN and infinities of either sign as +inf."""
    return losses.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)


def rank(cloud: Cloud) -> Tensor:
    """w minus the mean of the points under log-rank weights; equal losses share a rank."""
    losses = _worst_last(cloud.losses)
    n = losses.shape[1]
    order = losses.sort(dim=1).values
    first = torch.searchsorted(order, losses)
    last = torch.searchsorted(order, losses, right=True)
    sums = _log_ranks(n, losses.dtype, str(losses.device))  # (n + 1,)
    weights = (sums[last] - sums[first]) / (last - first)  # of each point, sums to 1
    return _away_from(cloud.w, weights, cloud.points, order[:, -1] > order[:, 0])


def _away_from(w: Tensor, weights: Tensor, points: Tensor, informed: Tensor) -> Tensor:
    """w minus the weighted mean of the points; exactly 0 where all losses are equal."""
    weights = weights.to(points.dtype)
    direction = -torch.bmm(weights.unsqueeze(1), points - w.unsqueeze(1))[:, 0]
    return direction * informed.unsqueeze(1)  # NaN stays NaN


@cache
def _log_ranks(n: int, dtype: torch.dtype, device: str) -> Tensor:
    """Running sums of the weights log((n + 1) / 2) - log(rank), cut at 0 and scaled to sum 1."""
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    weights = (math.log((n + 1) / 2) - ranks.log()).clamp(min=0)
    weights = weights / weights.sum() if n > 1 else torch.ones(1, dtype=torch.float64)
    return torch.cat([weights.new_zeros(1), weights.cumsum(0)]).to(device, dtype)


def tie(cloud: Cloud) -> Tensor:
    """w minus the mean of the points that share the best loss."""
    losses = _worst_last(cloud.losses)
    best = (losses == losses.amin(dim=1, keepdim=True)).to(cloud.points.dtype)
    count = best.sum(dim=1, keepdim=True)
    return _away_from(cloud.w, best / count, cloud.points, count[:, 0] < losses.shape[1])


ESTIMATORS: dict[str, Estimator] = {
    "near": near,
    "starred": starred,
    "regression": regression,
    "covariance": covariance,
    "rank": rank,
    "tie": tie,
}
SIZED = ("regression", "covariance")  # these have a gradient's size, and so contain row weights
OF_SWARM = ("near", "starred")  # these need the swarm itself, not only the points
DIRECTIONS = ("rank", "tie")  # these have the size of the cloud, whatever the losses are
