"""Steps of training for a block of members, one in each lane: forward, backward and update."""

from numba import njit

from gradevo.engines.simd import maths
from gradevo.engines.simd.layout import RULE_ROWS, Frame, Kind, Layer, Loss, Update
from gradevo.engines.simd.losses import gradient_of_loss
from gradevo.engines.simd.product import multiply
from gradevo.engines.simd.update import adam, clip, follow, mask, sgd
from gradevo.engines.simd.vector import (
    BYTES,
    LANES,
    fma,
    full,
    gather,
    if_above,
    if_at_most,
    load,
    load_float,
    load_word,
    sqrt,
    store,
    uniform_of,
)

FIELD_BYTES = 8 * Layer.FIELDS
compiled = njit(error_model="numpy")


@compiled
def steps(frame, block, first, last, scratch):
    """Steps `first` to `last` of one block.

    Args:
        frame: address of the numbers of `Frame`.
        block: which members.
        first, last: which columns of indices, in batches.
        scratch: address of memory of this thread's own.
    """
    size, weights = load_word(frame, Frame.SIZE), load_word(frame, Frame.WEIGHTS)
    state = load_word(frame, Frame.STATE) + BYTES * size * block
    kind, blocks = load_word(frame, Frame.UPDATE), load_word(frame, Frame.BLOCKS)
    offset = BYTES * weights * block
    one, two = load_word(frame, Frame.FIRST) + offset, load_word(frame, Frame.SECOND) + offset
    left = load_word(frame, Frame.GRADIENT)
    gradient = left + offset if left != 0 else scratch
    for s in range(first, last):
        passes(frame, block, s, state, gradient, scratch)
        if kind == Update.NONE:
            continue
        row = 4 * s if load_word(frame, Frame.SAME) != 0 else BYTES * (s * blocks + block)
        rule = load_word(frame, Frame.RULE) + RULE_ROWS * row
        if load_word(frame, Frame.MASK) != 0:
            mask(gradient, load_word(frame, Frame.MASK) + offset, weights)
        if load_word(frame, Frame.CLIPS) != 0:
            clip(frame, gradient)
        if kind == Update.ADAM:
            adam(frame, state, gradient, one, two, rule)
        else:
            sgd(frame, state, gradient, one, rule)
        if load_word(frame, Frame.MEAN) != 0:
            mean = load_word(frame, Frame.MEAN) + BYTES * size * block
            follow(mean, state, size, load_float(load_word(frame, Frame.RATES), s))


@compiled
def passes(frame, block, s, state, gradient, scratch):
    """The gradient of one batch, a tile of rows at a time."""
    batch, tile = load_word(frame, Frame.BATCH), load_word(frame, Frame.TILE)
    layers, count = load_word(frame, Frame.LAYERS), load_word(frame, Frame.LAYER_COUNT)
    output = layers + FIELD_BYTES * (count - 1)
    y = scratch + BYTES * load_word(output, Layer.Y)
    y_stride = load_word(output, Layer.Y_STRIDE)
    delta = scratch + BYTES * load_word(frame, Frame.DELTAS)
    columns, wide = load_word(frame, Frame.COLUMNS), load_word(frame, Frame.OUTPUTS)
    indices = load_word(frame, Frame.INDICES) + 4 * (LANES * columns * block + s * batch)
    outputs, losses = load_word(frame, Frame.OUTPUT), load_word(frame, Frame.LOSS)
    seed = load_word(load_word(frame, Frame.SEEDS), s)
    own = load_word(frame, Frame.OWN) + BYTES * block
    learns = load_word(frame, Frame.LOSS_KIND) != Loss.NONE
    total = full(0.0)
    row = 0
    while row < batch:
        rows = min(tile, batch - row)
        take(frame, indices + 4 * row, rows, layers, scratch)
        for i in range(count):
            forward(frame, layers + FIELD_BYTES * i, i, state, rows, row, seed, own, scratch)
        if outputs != 0:
            for r in range(rows):
                for c in range(wide):
                    place = (batch * block + row + r) * wide + c
                    store(outputs, place, load(y, r * y_stride + c))
        if learns:
            total = total + gradient_of_loss(frame, layers, y, y_stride, rows, scratch, delta)
            backward(frame, layers, count, state, gradient, rows, row, scratch)
        row += rows
    if losses != 0:
        store(losses, block, total)


@compiled
def take(frame, indices, rows, layers, scratch):
    """Each lane's own rows of the data, into the first layer's input."""
    data, width = load_word(frame, Frame.DATA), load_word(frame, Frame.WIDTH)
    columns = load_word(frame, Frame.COLUMNS)
    x = scratch + BYTES * load_word(layers, Layer.X)
    stride = load_word(layers, Layer.X_STRIDE)
    for r in range(rows):
        for column in range(0, width, 4):
            place = x + BYTES * (r * stride + column)
            gather(data, width, column, indices + 4 * r, columns, place)


@compiled
def forward(frame, layer, i, state, rows, row, seed, own, scratch):
    """One layer on some rows; a linear layer may have relu after it."""
    kind, outs = load_word(layer, Layer.KIND), load_word(layer, Layer.OUT)
    x, xs = scratch + BYTES * load_word(layer, Layer.X), load_word(layer, Layer.X_STRIDE)
    y, ys = scratch + BYTES * load_word(layer, Layer.Y), load_word(layer, Layer.Y_STRIDE)
    if kind == Kind.LINEAR:
        weight = state + BYTES * load_word(layer, Layer.WEIGHT)
        length = load_word(layer, Layer.IN) + load_word(layer, Layer.BIAS)
        stride = load_word(layer, Layer.STRIDE)
        multiply(x, xs, 1, weight, stride, 1, y, ys, rows, outs, length, 0,
                 load_word(layer, Layer.RELU))  # fmt: skip
    elif kind == Kind.NORM:
        normalise(frame, layer, i, state, rows, scratch)
    elif kind == Kind.DROPOUT:
        drop(frame, layer, i, rows, row, seed, own, scratch)
    else:
        for r in range(rows):
            for c in range(outs):
                store(y, r * ys + c, activation(kind, load(x, r * xs + c)))


@compiled
def activation(kind, x):
    if kind == Kind.RELU:
        return if_above(full(0.0), x, full(0.0), x)
    if kind == Kind.TANH:
        return maths.tanh(x)
    if kind == Kind.SIGMOID:
        return maths.sigmoid(x)
    return x * maths.normal(x)[0]


@compiled
def slope(kind, x, y):
    """Derivative of an activation at x, where it is y."""
    if kind == Kind.RELU:
        return if_at_most(y, full(0.0), full(0.0), full(1.0))
    if kind == Kind.TANH:
        return full(1.0) - y * y
    if kind == Kind.SIGMOID:
        return y - y * y
    share, bell = maths.normal(x)
    return fma(x * bell, full(0.3989422804014327), share)


@compiled
def drop(frame, layer, i, rows, row, seed, own, scratch):
    """Zero some numbers and scale the others, for each member its own."""
    outs, extra = load_word(layer, Layer.OUT), scratch + BYTES * load_word(layer, Layer.EXTRA)
    x, xs = scratch + BYTES * load_word(layer, Layer.X), load_word(layer, Layer.X_STRIDE)
    y, ys = scratch + BYTES * load_word(layer, Layer.Y), load_word(layer, Layer.Y_STRIDE)
    p = full(load_float(load_word(frame, Frame.NUMBERS), 1 + 2 * i))
    scale = full(load_float(load_word(frame, Frame.NUMBERS), 2 + 2 * i))
    seed += i * 0x1F83D9ABFB41BD6B
    for r in range(rows):
        for c in range(outs):
            drawn = uniform_of(own, (row + r) * outs + c, seed)
            factor = if_above(p, drawn, full(0.0), scale)
            store(extra, r * outs + c, factor)
            store(y, r * ys + c, factor * load(x, r * xs + c))


@compiled
def normalise(frame, layer, i, state, rows, scratch):
    """Batch norm; in train mode the rows are a whole batch, and statistics move."""
    outs, extra = load_word(layer, Layer.OUT), scratch + BYTES * load_word(layer, Layer.EXTRA)
    x, xs = scratch + BYTES * load_word(layer, Layer.X), load_word(layer, Layer.X_STRIDE)
    y, ys = scratch + BYTES * load_word(layer, Layer.Y), load_word(layer, Layer.Y_STRIDE)
    weight = state + BYTES * load_word(layer, Layer.WEIGHT)
    stats = state + BYTES * load_word(layer, Layer.STATS)
    tile = load_word(frame, Frame.TILE)
    eps = full(load_float(load_word(frame, Frame.NUMBERS), 1 + 2 * i))
    momentum = full(load_float(load_word(frame, Frame.NUMBERS), 2 + 2 * i))
    share, spread = full(1.0 / rows), full(rows / max(1, rows - 1))
    for c in range(outs):
        mean, var = load(stats, c), load(stats, outs + c)
        if load_word(layer, Layer.ACTIVE) != 0:
            old_mean, old_var, mean, var = mean, var, full(0.0), full(0.0)
            for r in range(rows):
                mean = fma(load(x, r * xs + c), share, mean)
            for r in range(rows):
                away = load(x, r * xs + c) - mean
                var = fma(away * share, away, var)
            store(stats, c, fma(momentum, mean - old_mean, old_mean))
            store(stats, outs + c, fma(momentum, var * spread - old_var, old_var))
        scale = full(1.0) / sqrt(var + eps)
        store(extra, tile * outs + c, scale)
        for r in range(rows):
            value = (load(x, r * xs + c) - mean) * scale
            store(extra, r * outs + c, value)
            store(y, r * ys + c, fma(value, load(weight, c), load(weight, outs + c)))


@compiled
def backward(frame, layers, count, state, gradient, rows, row, scratch):
    """From the gradient of the outputs to those of the weights, which add up over tiles."""
    span, lowest = load_word(frame, Frame.SPAN), load_word(frame, Frame.LOWEST)
    d = scratch + BYTES * load_word(frame, Frame.DELTAS)
    other = d + BYTES * span
    more = 1 if row > 0 else 0
    for i in range(count - 1, lowest - 1, -1):
        layer = layers + FIELD_BYTES * i
        kind, ds = load_word(layer, Layer.KIND), load_word(layer, Layer.Y_STRIDE)
        x, xs = scratch + BYTES * load_word(layer, Layer.X), load_word(layer, Layer.X_STRIDE)
        y, outs = scratch + BYTES * load_word(layer, Layer.Y), load_word(layer, Layer.OUT)
        extra = scratch + BYTES * load_word(layer, Layer.EXTRA)
        place = BYTES * load_word(layer, Layer.WEIGHT)
        if kind == Kind.LINEAR:
            ins, stride = load_word(layer, Layer.IN), load_word(layer, Layer.STRIDE)
            length = ins + load_word(layer, Layer.BIAS)
            if load_word(layer, Layer.RELU) != 0:
                for r in range(rows):
                    for c in range(outs):
                        value = load(d, r * ds + c)
                        opened = if_at_most(load(y, r * ds + c), full(0.0), full(0.0), value)
                        store(d, r * ds + c, opened)
            multiply(x, 1, xs, d, ds, 1, gradient + place, stride, length, outs, rows, more, 0)
            if i > lowest:
                multiply(d, ds, 1, state + place, 1, stride, other, xs, rows, ins, outs, 0, 0)
        elif kind == Kind.NORM:
            denormalise(frame, layer, state + place, gradient + place, rows, more, d, ds,
                        other, xs, extra)  # fmt: skip
        elif kind == Kind.DROPOUT:
            for r in range(rows):
                for c in range(outs):
                    store(other, r * xs + c, load(d, r * ds + c) * load(extra, r * outs + c))
        else:
            for r in range(rows):
                for c in range(outs):
                    factor = slope(kind, load(x, r * xs + c), load(y, r * ds + c))
                    store(other, r * xs + c, load(d, r * ds + c) * factor)
        d, other = other, d


@compiled
def denormalise(frame, layer, weight, gradient, rows, more, d, ds, other, xs, extra):
    """Backward through batch norm: scale and shift, then what went in."""
    outs, tile = load_word(layer, Layer.OUT), load_word(frame, Frame.TILE)
    share = full(1.0 / rows)
    for c in range(outs):
        shift, scale = full(0.0), full(0.0)
        for r in range(rows):
            value = load(d, r * ds + c)
            shift = shift + value
            scale = fma(value, load(extra, r * outs + c), scale)
        factor = load(weight, c) * load(extra, tile * outs + c)
        for r in range(rows):
            value = load(d, r * ds + c)
            if load_word(layer, Layer.ACTIVE) != 0:
                value = value - share * fma(load(extra, r * outs + c), scale, shift)
            store(other, r * xs + c, factor * value)
        if more != 0:
            scale = scale + load(gradient, c)
            shift = shift + load(gradient, outs + c)
        store(gradient, c, scale)
        store(gradient, outs + c, shift)
