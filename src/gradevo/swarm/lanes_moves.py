"""The compiled moves of an EMPSO swarm, and the papers' estimators; see `lanes`.

What `dynamics` and `search` do in torch, a block of swarms at a time. The points of move t lie
behind those of the moves before, so that in the end all that were visited lie in a row.
"""

from numba import njit

from gradevo.engines.simd.vector import (
    BYTES,
    fma,
    full,
    if_above,
    if_equal,
    larger,
    load,
    load_float,
    smaller,
    store,
    uniform,
)

compiled = njit(error_model="numpy")
SPREAD, LOW, HIGH, C1, C2, BETA, CORRECTED, CLAMP, ETA, BOUNCE = range(10)  # places of numbers


def size_of(particles: int, dims: int, iterations: int) -> int:
    """Vectors of scratch memory; in this order.

    Points and their losses; velocities, momenta and best points; the best losses; the swarm's
    best point and both means of c r; its loss and its leader.
    """
    visited = particles * (iterations + 1)
    return visited * (dims + 1) + particles * (3 * dims + 1) + 3 * dims + 2


@compiled
def begin(points, losses, swarm, numbers, particles, dims):
    """A swarm at rest; the first particle leads until one is better."""
    for i in range(2 * particles * dims):
        store(swarm, i, full(0.0))
    best = swarm + BYTES * 2 * particles * dims
    for i in range(particles * dims):
        store(best, i, load(points, i))
    for d in range(dims):
        store(best, particles * (dims + 1) + dims + d, full(0.5 * load_float(numbers, C1)))
        store(best, particles * (dims + 1) + 2 * dims + d, full(0.5 * load_float(numbers, C2)))
    for i in range(particles):
        store(best, particles * dims + i, load(losses, i))
    store(best, particles * (dims + 1) + 3 * dims, load(losses, 0))
    store(best, particles * (dims + 1) + 3 * dims + 1, full(0.0))
    lead(swarm, particles, dims)


@compiled
def lead(swarm, particles, dims):
    """The first particle with the lowest loss leads, if that is below the swarm's best."""
    best = swarm + BYTES * 2 * particles * dims
    gbest = best + BYTES * particles * (dims + 1)
    lowest, leader = load(gbest, 3 * dims), load(gbest, 3 * dims + 1)
    number = full(0.0)
    for i in range(particles):
        own = load(best, particles * dims + i)
        leader = if_above(lowest, own, number, leader)
        lowest = smaller(own, lowest)
        number = number + full(1.0)
    store(gbest, 3 * dims, lowest)
    store(gbest, 3 * dims + 1, leader)
    for d in range(dims):
        store(gbest, d, of_leader(best, leader, particles, dims, d))


@compiled
def of_leader(values, leader, particles, dims, d):
    """The leader's number d of `(particles, dims)`."""
    found, number = full(0.0), full(0.0)
    for i in range(particles):
        found = if_equal(leader, number, load(values, i * dims + d), found)
        number = number + full(1.0)
    return found


@compiled
def move(before, after, swarm, numbers, particles, dims, t, per_entry, seed):
    """Equations (4) to (6): velocities and points of move t, counted from 0."""
    momenta = swarm + BYTES * particles * dims
    best = momenta + BYTES * particles * dims
    gbest = best + BYTES * particles * (dims + 1)
    low, high = full(load_float(numbers, LOW)), full(load_float(numbers, HIGH))
    clamp, beta = load_float(numbers, CLAMP), load_float(numbers, BETA)
    most, kept, rest = full(clamp), full(beta), full(1.0 - beta)
    back = full(0.0 - load_float(numbers, BOUNCE))
    corrected = load_float(numbers, CORRECTED) > 0.0
    share = full(1.0 / (1.0 - beta ** (t + 1.0)) if corrected else 1.0)
    means = gbest + BYTES * dims
    for d in range(2 * dims):
        store(means, d, full(0.0))
    part = full(1.0 / particles)
    for i in range(particles):
        for d in range(dims):
            place = i * dims + d
            drawn = i * dims + (d if per_entry else 0)
            first = (1 + 2 * t) * particles * dims + drawn
            cr1 = uniform(first, seed) * full(load_float(numbers, C1))
            cr2 = uniform(first + particles * dims, seed) * full(load_float(numbers, C2))
            store(means, d, fma(cr1, part, load(means, d)))
            store(means, dims + d, fma(cr2, part, load(means, dims + d)))
            x, v = load(before, place), load(swarm, place)
            pull = cr1 * (load(best, place) - x) + cr2 * (load(gbest, d) - x)
            m = fma(kept, load(momenta, place), rest * v)  # eq. (5)
            v = smaller(larger(fma(share, m, pull), full(0.0) - most), most)  # eq. (4)
            free = x + v  # eq. (2)
            inside = smaller(larger(free, low), high)
            store(momenta, place, m)
            store(swarm, place, if_equal(inside, free, v, back * v))
            store(after, place, inside)


@compiled
def score(points, losses, swarm, particles, dims):
    """Best points after the losses of the newest are known; equal is not better."""
    best = swarm + BYTES * 2 * particles * dims
    for i in range(particles):
        old, new = load(best, particles * dims + i), load(losses, i)
        for d in range(dims):
            place = i * dims + d
            store(best, place, if_above(old, new, load(points, place), load(best, place)))
        store(best, particles * dims + i, smaller(new, old))
    lead(swarm, particles, dims)


@compiled
def towards_best(w, out, swarm, numbers, particles, dims, starred):
    """The papers' estimators: "near" (eq. 15) or "starred" (the form of eq. 19)."""
    gbest = swarm + BYTES * particles * (3 * dims + 1)
    leader, inverse = load(gbest, 3 * dims + 1), full(1.0 / load_float(numbers, ETA))
    for d in range(dims):
        pulls = (load(gbest, dims + d) + load(gbest, 2 * dims + d)) * inverse
        found = pulls * (load(w, d) - load(gbest, d))
        if starred:
            found = found - of_leader(swarm, leader, particles, dims, d)
        store(out, d, found)
