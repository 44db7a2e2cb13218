"""Losses of the kernel: a mean over a batch, and its gradient with respect to the outputs."""

from numba import njit

from gradevo.engines.simd import maths
from gradevo.engines.simd.layout import Frame, Layer, Loss
from gradevo.engines.simd.vector import (
    BYTES,
    absolute,
    fma,
    full,
    if_above,
    if_equal,
    larger,
    load,
    load_word,
    store,
)

compiled = njit(error_model="numpy")


@compiled
def gradient_of_loss(frame, layers, y, y_stride, rows, scratch, delta):
    """Some rows' share of the loss; their gradient goes to `delta`, with the outputs' stride."""
    inputs, outputs = load_word(frame, Frame.INPUTS), load_word(frame, Frame.OUTPUTS)
    batch, kind = load_word(frame, Frame.BATCH), load_word(frame, Frame.LOSS_KIND)
    wants = load_word(frame, Frame.LOSS)
    stride = load_word(layers, Layer.X_STRIDE)
    targets = scratch + BYTES * (load_word(layers, Layer.X) + inputs + 1)
    total, lost = full(0.0), full(0.0)  # summed with what rounding loses: batches are long
    for r in range(rows):
        z, d = y + BYTES * r * y_stride, delta + BYTES * r * y_stride
        target = targets + BYTES * r * stride
        value = full(0.0)
        if kind == Loss.CROSS_ENTROPY:
            value = cross_entropy(z, d, load(target, 0), outputs, batch, wants)
        else:
            share = full(1.0 / (batch * outputs))
            for c in range(outputs):
                value = value + elementwise(kind, load(z, c), load(target, c), d, c, share, wants)
        more = value - lost
        raised = total + more
        lost = (raised - total) - more
        total = raised
    return total


@compiled
def cross_entropy(z, d, target, classes, batch, wants):
    """Of one row; the target is the number of a class."""
    share = full(1.0 / batch)
    top = load(z, 0)
    for c in range(1, classes):
        top = larger(top, load(z, c))
    total, picked, number = full(0.0), full(0.0), full(0.0)
    for c in range(classes):
        below = load(z, c) - top
        value = maths.exp(below)
        store(d, c, value)
        total = total + value
        picked = if_equal(target, number, below, picked)
        number = number + full(1.0)
    scale, number = share / total, full(0.0)
    for c in range(classes):
        own = if_equal(target, number, share, full(0.0))
        store(d, c, fma(load(d, c), scale, full(0.0) - own))
        number = number + full(1.0)
    if wants == 0:
        return full(0.0)
    return share * (maths.log(total) - picked)


@compiled
def elementwise(kind, z, t, d, c, share, wants):
    """A number's share of a mean over all outputs, and of its gradient."""
    one, zero = full(1.0), full(0.0)
    if kind == Loss.DOT:
        store(d, c, t)
        return zero
    away = z - t
    if kind == Loss.MSE:
        store(d, c, (share + share) * away)
        return share * away * away
    if kind == Loss.MAE:
        sign = if_above(away, zero, one, if_above(zero, away, zero - one, away * zero))
        store(d, c, share * sign)
        return share * absolute(away)
    if kind == Loss.BCE_LOGITS:
        store(d, c, share * (maths.sigmoid(z) - t))
        if wants == 0:
            return zero
        return share * (larger(z, zero) - z * t + maths.log(one + maths.exp(zero - absolute(z))))
    store(d, c, share * away / larger((one - z) * z, full(1e-12)))
    if wants == 0:
        return zero
    yes, no = larger(maths.log(z), full(-100.0)), larger(maths.log(one - z), full(-100.0))
    yes, no = if_above(z, zero, yes, full(-100.0)), if_above(one, z, no, full(-100.0))
    return zero - share * fma(t, yes - no, no)
