"""What a compiled kernel reads: the places of its fields, and the numbers that stand for kinds.

The kernel takes one address, of a frame of 64-bit integers; lists of layers are tables of
them. Both sides name the places by these constants.
"""

from enum import IntEnum


class Frame(IntEnum):
    """Addresses and numbers of a call."""

    STATE = 0  # weights and statistics, (blocks, size) vectors
    FIRST = 1  # the optimiser's first and second moments, laid out like the weights
    SECOND = 2
    MEAN = 3  # running mean of the state, or 0
    MASK = 4  # 1 where a weight is there, or 0: all are
    GRADIENT = 5  # where to leave gradients, or 0
    OUTPUT = 6  # where to leave outputs, (blocks, batch, classes), or 0
    LOSS = 7  # where to leave losses, (blocks,), or 0
    RULE = 8  # the optimiser's numbers, (steps, blocks, RULE_ROWS), or float32 (steps, RULE_ROWS)
    RATES = 9  # float32, weight of the newest in the mean, (steps,)
    DATA = 10  # float32, (rows, width): inputs, 1, targets, zeros
    INDICES = 11  # int32, rows of the data, (blocks * lanes, columns)
    SEEDS = 12  # for dropout, (steps,)
    LAYERS = 13  # (layers, LAYER_FIELDS)
    SEGMENTS = 14  # ranges of weights that learn, (segments, 2)
    NUMBERS = 15  # float32: clip, then two for each layer
    SIZE = 16  # vectors of a block's state
    WEIGHTS = 17  # of them, weights
    WIDTH = 18  # floats of a data row
    COLUMNS = 19  # indices of a lane
    BATCH = 20  # rows of a step
    TILE = 21  # rows at a time
    LAYER_COUNT = 22
    SEGMENT_COUNT = 23
    INPUTS = 24
    OUTPUTS = 25
    LOWEST = 26  # the first layer whose input needs a gradient comes after this one
    DELTAS = 27  # vectors of scratch memory before the two buffers of gradients
    SPAN = 28  # vectors of one such buffer
    LOSS_KIND = 29
    UPDATE = 30
    BLOCKS = 31
    CLIPS = 32  # whether gradients are clipped
    SAME = 33  # whether all members have the same numbers in the rule
    OWN = 34  # int32, what tells members' random numbers apart, (blocks, lanes)
    LENGTH = 35


class Layer(IntEnum):
    """Fields of a layer; places in scratch memory and in the state are in vectors."""

    KIND = 0
    IN = 1
    OUT = 2
    WEIGHT = 3  # of a linear layer (in + bias, stride); of a norm its scale, then its shift
    STRIDE = 4
    BIAS = 5
    RELU = 6
    X = 7
    X_STRIDE = 8
    Y = 9
    Y_STRIDE = 10
    EXTRA = 11  # what backward needs: normal values and scales, or masks
    STATS = 12
    ACTIVE = 13  # in train mode
    FIELDS = 14


class Kind(IntEnum):
    LINEAR = 0
    NORM = 1
    RELU = 2
    TANH = 3
    SIGMOID = 4
    GELU = 5
    DROPOUT = 6


class Loss(IntEnum):
    CROSS_ENTROPY = 0
    MSE = 1
    MAE = 2
    BCE_LOGITS = 3
    BCE = 4
    DOT = 5  # with given gradients of the outputs
    NONE = 6  # forward only


class Update(IntEnum):
    NONE = 0
    ADAM = 1
    SGD = 2


class Adam(IntEnum):
    """Numbers of a step; bias corrections are in them."""

    RATE = 0
    ROOT = 1  # factor of the second moment's root
    KEEP = 2  # of a weight, where its decay is decoupled
    DECAY = 3  # of a weight that is added to its gradient
    NEW = 4  # weight of the gradient in the first moment
    OLD_SQUARE = 5
    NEW_SQUARE = 6
    EPS = 7


class Sgd(IntEnum):
    """Numbers of a step."""

    RATE = 0
    DECAY = 1
    OLD = 2  # weights of the momentum and of the gradient in the next momentum
    NEW = 3
    PLAIN = 4  # and in the step
    MOMENTUM = 5


RULE_ROWS = 8
