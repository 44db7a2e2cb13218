"""The compiled pass over swarms; see `lanes`."""

from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, types

from gradevo.engines.simd import cached, layout, maths, vector
from gradevo.engines.simd.entry import version_of
from gradevo.engines.simd.layout import Loss
from gradevo.engines.simd.vector import (
    BYTES,
    absolute,
    fma,
    full,
    if_above,
    if_at_most,
    if_equal,
    larger,
    load,
    load_float,
    smaller,
    store,
    uniform,
)
from gradevo.swarm import lanes_moves as moves

NEAR = 2  # the estimators from here on are the swarm's own: near, starred
LARGEST = 3.4028234663852886e38
compiled = njit(error_model="numpy")


@compiled
def swarms(w, target, found, lost, scratch, numbers, weights, blocks, dims, wide, particles,
           kind, estimator, iterations, per_entry, seed):  # fmt: skip
    """All swarms, a block of lanes at a time."""
    visited = particles * (iterations + 1)
    points, losses = scratch, scratch + BYTES * visited * dims
    swarm = losses + BYTES * visited
    for b in range(blocks):
        mine, goal = w + BYTES * dims * b, target + BYTES * wide * b
        own = seed + b * 0x632BE59BD9B4E019
        scatter(mine, points, numbers, dims, particles, own)
        evaluate(kind, points, losses, goal, particles, dims)
        if iterations > 0 or estimator >= NEAR:
            moves.begin(points, losses, swarm, numbers, particles, dims)
        for t in range(iterations):
            before = points + BYTES * particles * dims * t
            after, values = before + BYTES * particles * dims, losses + BYTES * particles * (t + 1)
            moves.move(before, after, swarm, numbers, particles, dims, t, per_entry, own)
            evaluate(kind, after, values, goal, particles, dims)
            moves.score(after, values, swarm, particles, dims)
        best, worst = load(losses, 0), load(losses, 0)
        for i in range(1, visited):
            best, worst = smaller(load(losses, i), best), larger(load(losses, i), worst)
        out, away = found + BYTES * dims * b, full(0.0)
        for d in range(dims):
            away = away + load(mine, d) * full(0.0)  # not a number where an output is none
        if estimator >= NEAR:
            starred = estimator > NEAR
            moves.towards_best(mine, out, swarm, numbers, particles, dims, starred)
        else:
            informed = if_above(worst, best, full(1.0), full(0.0))
            weigh(mine, points, losses, out, weights, visited, dims, estimator, best, informed)
        for d in range(dims):
            store(out, d, load(out, d) + away)
        hopeless = if_above(best, full(LARGEST), full(1.0), full(0.0))
        store(lost, b, if_equal(away, full(0.0), hopeless, full(0.0)))


@compiled
def evaluate(kind, points, losses, target, particles, dims):
    """Losses of points; what is not finite is infinite."""
    for i in range(particles):
        value = loss_of(kind, points + BYTES * dims * i, target, dims)
        finite = if_at_most(absolute(value), full(LARGEST), value, full(LARGEST) * full(2.0))
        store(losses, i, finite)


@compiled
def weigh(w, points, losses, out, weights, visited, dims, estimator, best, informed):
    """w minus the weighted mean of the points."""
    for d in range(dims):
        store(out, d, full(0.0))
    for i in range(visited):
        if estimator == 0:
            share = of_rank(losses, weights, visited, i)
        else:
            share = of_best(losses, visited, i, best)
        for d in range(dims):
            step = load(w, d) - load(points, dims * i + d)
            store(out, d, fma(share * informed, step, load(out, d)))


@compiled
def scatter(w, points, numbers, dims, particles, seed):
    """Points uniform in a cube around w, within bounds."""
    spread, low, high = (
        full(load_float(numbers, moves.SPREAD)),
        full(load_float(numbers, moves.LOW)),
        full(load_float(numbers, moves.HIGH)),
    )
    for i in range(particles):
        for d in range(dims):
            drawn = uniform(i * dims + d, seed) * full(2.0) - full(1.0)
            point = fma(drawn, spread, load(w, d))
            store(points, dims * i + d, smaller(larger(point, low), high))


@compiled
def of_rank(losses, weights, particles, i):
    """Weight of a point by the rank of its loss; equal losses share their ranks' weights."""
    own, below, equal = load(losses, i), full(0.0), full(0.0)
    for j in range(particles):
        other = load(losses, j)
        below = below + if_above(own, other, full(1.0), full(0.0))
        equal = equal + if_equal(own, other, full(1.0), full(0.0))
    total, rank = full(0.0), full(0.0)
    for j in range(particles):
        inside = if_above(below + equal, rank, full(1.0), full(0.0))
        inside = if_above(below, rank, full(0.0), inside)
        total = fma(inside, full(load_float(weights, j)), total)
        rank = rank + full(1.0)
    return total / equal


@compiled
def of_best(losses, particles, i, best):
    """The same weight for all points that share the best loss."""
    count = full(0.0)
    for j in range(particles):
        count = count + if_equal(load(losses, j), best, full(1.0), full(0.0))
    return if_equal(load(losses, i), best, full(1.0), full(0.0)) / count


@compiled
def loss_of(kind, x, target, dims):
    """The loss of a point: of a row, the mean over its entries."""
    if kind == Loss.CROSS_ENTROPY:
        top = load(x, 0)
        for d in range(1, dims):
            top = larger(load(x, d), top)
        total, picked, number = full(0.0), full(0.0), full(0.0)
        for d in range(dims):
            below = load(x, d) - top
            total = total + maths.exp(below)
            picked = if_equal(load(target, 0), number, below, picked)
            number = number + full(1.0)
        return maths.log(total) - picked
    total, zero, one = full(0.0), full(0.0), full(1.0)
    for d in range(dims):
        z, t = load(x, d), load(target, d)
        if kind == Loss.MSE:
            total = fma(z - t, z - t, total)
        elif kind == Loss.MAE:
            total = total + absolute(z - t)
        elif kind == Loss.BCE_LOGITS:
            tail = maths.log(one + maths.exp(zero - absolute(z)))
            total = total + (larger(z, zero) - z * t + tail)
        else:
            yes = if_above(z, zero, larger(maths.log(z), full(-100.0)), full(-100.0))
            no = if_above(one, z, larger(maths.log(one - z), full(-100.0)), full(-100.0))
            total = total - fma(t, yes - no, no)
    return total / full(1.0 * dims)


@cache
def entry() -> Any:
    """The compiled pass, kept on disk where there is a place for it."""
    parts = (maths, vector, layout, moves)
    files = (Path(__file__), *(Path(str(part.__file__)) for part in parts))
    version = version_of(*files)

    def make() -> Any:
        try:
            return _of_version(version, True)
        except RuntimeError:
            return _of_version(version, False)

    return cached.compiled(make, types.void(*[types.intp] * 16), "lanes_kernel")


def _of_version(version: str, kept: bool) -> Any:
    @njit(cache=kept, nogil=True, error_model="numpy")
    def run(w, target, found, lost, scratch, numbers, weights, blocks, dims, wide, particles,
            kind, estimator, iterations, per_entry, seed):  # fmt: skip
        if len(version) > 0:  # a closure's variables are part of the cache's key
            swarms(w, target, found, lost, scratch, numbers, weights, blocks, dims, wide,
                   particles, kind, estimator, iterations, per_entry, seed)  # fmt: skip

    return run
