"""From gradients to weights: masks, clipping, Adam, SGD, and the running mean."""

from numba import njit

from gradevo.engines.simd.layout import Adam, Frame, Sgd
from gradevo.engines.simd.vector import (
    fma,
    full,
    load,
    load_float,
    load_word,
    smaller,
    sqrt,
    store,
)

compiled = njit(error_model="numpy")


@compiled
def mask(gradient, there, weights):
    """Weights that are gone have no gradient."""
    for i in range(weights):
        store(gradient, i, load(gradient, i) * load(there, i))


@compiled
def clip(frame, gradient):
    """Scale down the gradient of each member whose own norm is above the limit."""
    limit = full(load_float(load_word(frame, Frame.NUMBERS), 0))
    segments, count = load_word(frame, Frame.SEGMENTS), load_word(frame, Frame.SEGMENT_COUNT)
    squares = full(0.0)
    for k in range(count):
        for i in range(load_word(segments, 2 * k), load_word(segments, 2 * k + 1)):
            value = load(gradient, i)
            squares = fma(value, value, squares)
    factor = smaller(limit / (sqrt(squares) + full(1e-6)), full(1.0))
    for k in range(count):
        for i in range(load_word(segments, 2 * k), load_word(segments, 2 * k + 1)):
            store(gradient, i, factor * load(gradient, i))


@compiled
def number(frame, rule, i):
    """A number of the rule: each lane's own, or the same for all."""
    if load_word(frame, Frame.SAME) != 0:
        return full(load_float(rule, i))
    return load(rule, i)


@compiled
def adam(frame, state, gradient, first, second, rule):
    """Adam or AdamW, as the rule's decay says."""
    segments, count = load_word(frame, Frame.SEGMENTS), load_word(frame, Frame.SEGMENT_COUNT)
    rate, root = number(frame, rule, Adam.RATE), number(frame, rule, Adam.ROOT)
    keep, decay = number(frame, rule, Adam.KEEP), number(frame, rule, Adam.DECAY)
    new, eps = number(frame, rule, Adam.NEW), number(frame, rule, Adam.EPS)
    old_square = number(frame, rule, Adam.OLD_SQUARE)
    new_square = number(frame, rule, Adam.NEW_SQUARE)
    for k in range(count):
        for i in range(load_word(segments, 2 * k), load_word(segments, 2 * k + 1)):
            w = load(state, i)
            g = fma(decay, w, load(gradient, i))
            m = load(first, i)
            m = fma(new, g - m, m)
            v = fma(new_square * g, g, old_square * load(second, i))
            store(first, i, m)
            store(second, i, v)
            store(state, i, w * keep - rate * m / fma(sqrt(v), root, eps))


@compiled
def sgd(frame, state, gradient, first, rule):
    """SGD with momentum, Nesterov's too."""
    segments, count = load_word(frame, Frame.SEGMENTS), load_word(frame, Frame.SEGMENT_COUNT)
    rate, decay = number(frame, rule, Sgd.RATE), number(frame, rule, Sgd.DECAY)
    old, new = number(frame, rule, Sgd.OLD), number(frame, rule, Sgd.NEW)
    plain, ahead = number(frame, rule, Sgd.PLAIN), number(frame, rule, Sgd.MOMENTUM)
    for k in range(count):
        for i in range(load_word(segments, 2 * k), load_word(segments, 2 * k + 1)):
            w = load(state, i)
            g = fma(decay, w, load(gradient, i))
            m = fma(old, load(first, i), new * g)
            store(first, i, m)
            store(state, i, w - rate * fma(plain, g, ahead * m))


@compiled
def follow(mean, state, size, rate):
    """Move the running mean towards the state."""
    near, far = full(rate), full(1.0 - rate)
    for i in range(size):
        old, new = load(mean, i), load(state, i)
        if rate < 0.5:
            store(mean, i, fma(near, new - old, old))
        else:
            store(mean, i, new - far * (new - old))
