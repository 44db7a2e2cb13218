"""How a child differs from its parents by chance: pure functions of one stacked tensor."""

import torch
from torch import Generator, Tensor

from gradevo.operators.coins import rare_of_rows, toss
from gradevo.operators.crossover import per_row

FEW = 0.1  # rates below it draw for the chosen entries alone


def adaptive_rate(base: float, probabilities: Tensor, parents: Tensor) -> Tensor:
    """Mutation rate of each child: lower, the fitter its parents (eq. 12).

    p_q = p (1 - P_i - P_j), kept within [0, 1].

    Args:
        base: p, the base rate.
        probabilities: `(g,)`, the members' softmax fitness P.
        parents: `(n, 2)` indices of members.

    Returns:
        `(n,)`.
    """
    return (base * (1 - probabilities[parents].sum(dim=1))).clamp(0, 1)


def replace_uniform(x: Tensor, rate: Tensor, generator: Generator) -> Tensor:
    """A chosen entry becomes a uniform draw from [0, 1) (eq. 11, the paper's).

    Args:
        x: `(n, ...)`.
        rate: `(n,)`, probability of an entry to be chosen.
        generator: CPU generator.

    Returns:
        `(n, ...)`, a new tensor.

    Source: GADAM, equation 11.
    """
    if bool((rate < FEW).all()):
        places = rare_of_rows(x, rate, generator)
        drawn = torch.rand(len(places), generator=generator, dtype=x.dtype)
        return _with(x, places, drawn)
    chosen = toss(x, rate, generator)
    fresh = torch.rand(x.shape, generator=generator, dtype=x.dtype)  # rounded, 0.999 may be 1
    return torch.where(chosen.to(x.device), fresh.to(x.device), x)


def add_gaussian(x: Tensor, rate: Tensor, generator: Generator, *, strength: float = 0.5) -> Tensor:
    """A chosen entry moves by Gaussian noise in proportion to its own tensor's spread.

    The paper's replacement range of [0, 1) is far outside a layer whose weights are of size
    0.05; this keeps to the layer's own scale.

    Args:
        x: `(n, ...)`.
        rate: `(n,)`, probability of an entry to be chosen.
        generator: CPU generator.
        strength: standard deviation of the noise over that of the member's tensor.

    Returns:
        `(n, ...)`, a new tensor.
    """
    spread = x.reshape(len(x), -1).std(dim=1, correction=0)  # (n,)
    if bool((rate < FEW).all()):
        places = rare_of_rows(x, rate, generator)
        drawn = torch.randn(len(places), generator=generator).to(x)
        own = spread[(places // x[0].numel()).to(x.device)]
        return _with(x, places, x.reshape(-1)[places.to(x.device)] + strength * own * drawn)
    chosen = toss(x, rate, generator)
    noise = torch.randn(x.shape, generator=generator)
    step = strength * per_row(spread, x) * noise.to(x)
    return torch.where(chosen.to(x.device), x + step, x)


def _with(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """A copy of a tensor with other numbers at some flat positions."""
    changed = x.reshape(-1).index_copy(0, places.to(x.device), values.to(x.device))
    return changed.view(x.shape)


DECAYS = {"beta1", "beta2", "momentum", "alpha", "rho", "dampening"}  # numbers in [0, 1)


def perturb(name: str, values: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Hyper-parameters after log-normal noise; decay rates d change by their distance to 1.

    Args:
        name: the hyper-parameter's, "lr" or "beta1" for example.
        values: `(n,)`, not negative.
        deviation: standard deviation of the logarithm of the factor.
        generator: CPU generator.

    Returns:
        `(n,)`; 0 stays 0 and decay rates stay in [0, 1).
    """
    noise = torch.randn(len(values), generator=generator, dtype=values.dtype)
    factor = torch.exp(deviation * noise)
    return changed(name, values, factor)


def changed(name: str, values: Tensor, factor: Tensor | float) -> Tensor:
    """Numbers times a factor, decay rates by their distance to 1; 0 stays 0."""
    if name in DECAYS:
        nearest = torch.finfo(values.dtype).eps  # to 1 but not 1
        moved = 1 - ((1 - values) * factor).clamp(nearest, 1.0)
    else:
        moved = values * factor
    return torch.where(values > 0, moved, values)


def spread_out(name: str, values: Tensor, deviation: float, generator: Generator) -> Tensor:
    """First values around given ones: one from each part of a log-normal, in random order.

    As `perturb`, but the factors are the quantiles (i + 1/2) / n of their distribution, so that
    few members cover its range as evenly as they can.

    Args:
        name: the hyper-parameter's.
        values: `(n,)`, not negative.
        deviation: standard deviation of the logarithm of the factor.
        generator: CPU generator, for the order.

    Returns:
        `(n,)`.

    Example:
        >>> spread_out("lr", torch.ones(3), 0.0, torch.Generator())
        tensor([1., 1., 1.])
    """
    order = torch.randperm(len(values), generator=generator)
    quantiles = torch.special.ndtri((order.to(values.dtype) + 0.5) / len(values))
    return changed(name, values, torch.exp(deviation * quantiles))
