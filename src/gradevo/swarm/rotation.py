"""Rotations of the axes along which a swarm is pulled (REMPSO)."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Givens:
    """Plane rotations of disjoint pairs of axes: O(dims), no matrix.

    Attributes:
        i: first axes of the pairs.
        j: second axes.
        cos: of the angle.
        sin: of the angle.
    """

    i: Tensor
    j: Tensor
    cos: float
    sin: float

    def forward(self, d: Tensor) -> Tensor:
        """A d, for `(..., dims)`; `d` is overwritten."""
        return self._turn(d, self.sin)

    def back(self, d: Tensor) -> Tensor:
        """A^T d; `d` is overwritten."""
        return self._turn(d, -self.sin)

    def _turn(self, d: Tensor, sin: float) -> Tensor:
        a, b = d.index_select(-1, self.i), d.index_select(-1, self.j)
        d.index_copy_(-1, self.i, self.cos * a - sin * b)
        return d.index_copy_(-1, self.j, sin * a + self.cos * b)


def givens(
    dims: int, rotated: float, angle: float, generator: Generator | None, like: Tensor
) -> Givens:
    """Rotations by `angle` of a random share of the axes, taken two by two.

    Args:
        dims: number of axes.
        rotated: share of the axes, in [0, 1]; at least one pair where there are two axes.
        angle: radians.
        generator: draws the axes.
        like: a tensor on the device wanted.
    """
    pairs = max(int(rotated * dims) // 2, 1 if rotated > 0 and dims > 1 else 0)
    axes = torch.randperm(dims, generator=generator, device=like.device)[: 2 * pairs]
    first = axes[:pairs].sort().values  # in the order of memory; each pair is as random as before
    return Givens(first, axes[pairs:], math.cos(angle), math.sin(angle))


@dataclass(frozen=True)
class Basis:
    """One orthonormal basis a swarm, `(swarms, dims, dims)`, its vectors in columns."""

    vectors: Tensor

    def forward(self, d: Tensor) -> Tensor:
        """A d, for `(swarms, particles, dims)`."""
        return d @ self.vectors

    def back(self, d: Tensor) -> Tensor:
        """A^T d."""
        return d @ self.vectors.mT


def principal_axes(x: Tensor) -> Basis:
    """Eigenvectors of the covariance of each swarm's positions, `(swarms, particles, dims)`."""
    centred = x - x.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / x.shape[1]  # (swarms, dims, dims)
    return Basis(torch.linalg.eigh(covariance).eigenvectors)
