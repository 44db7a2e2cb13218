"""Products of small matrices of vectors, one product for each lane.

Strides are counted in vectors, and every element is a vector of its own, so a transposed
matrix costs nothing: outputs, gradients of weights and gradients of inputs are one function.
"""

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types

from gradevo.engines.simd.vector import (
    BYTES,
    FLOATS,
    LANES,
    WORD,
    call_llvm,
    integer,
    intrinsic,
    pointer,
)

# Sums that stay in registers: 24 of 32 wide ones, 8 of at least 16 narrow ones.
ROWS, COLUMNS = (4, (6, 4, 3, 2, 1)) if LANES == 16 else (2, (4, 3, 2, 1))


def _tile(rows: int, columns: int) -> Any:
    """C[m, n] = sum over k of A[m, k] B[k, n], or more of it, for so many rows and columns.

    Arguments: addresses of A and B, each with its two strides; that of C and its rows' stride;
    the length of the sum; whether to add to C; whether to keep only what is above zero.
    """
    places = [(m, n) for m in range(rows) for n in range(columns)]

    def emit(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        a, am, ak, b, bk, bn, c, cm, length, add, relu = values

        def at(base: Any, *steps: tuple[Any, Any]) -> Any:
            index = ir.Constant(WORD, 0)
            for count, stride in steps:
                whole = ir.Constant(WORD, count) if isinstance(count, int) else count
                index = builder.add(index, builder.mul(whole, stride))
            return pointer(builder, base, index, BYTES, FLOATS)

        one = ir.Constant(WORD, 1)
        zero = ir.Constant(FLOATS, [0.0] * LANES)
        sums = {place: cgutils.alloca_once_value(builder, zero) for place in places}
        with builder.if_then(builder.icmp_signed("!=", add, ir.Constant(WORD, 0))):
            for (m, n), total in sums.items():
                builder.store(builder.load(at(c, (m, cm), (n, one)), align=4), total)
        with cgutils.for_range(builder, length) as loop:
            right = [builder.load(at(b, (loop.index, bk), (n, bn)), align=4)
                     for n in range(columns)]  # fmt: skip
            for m in range(rows):
                left = builder.load(at(a, (loop.index, ak), (m, am)), align=4)
                for n in range(columns):
                    total = sums[m, n]
                    added = call_llvm(builder, "fmuladd", left, right[n], builder.load(total))
                    builder.store(added, total)
        cut = builder.icmp_signed("!=", relu, ir.Constant(WORD, 0))
        for (m, n), total in sums.items():
            value = builder.load(total)
            positive = builder.select(builder.fcmp_unordered(">", value, zero), value, zero)
            result = builder.select(cut, positive, value)
            builder.store(result, at(c, (m, cm), (n, one)), align=4)
        return context.get_dummy_value()

    found = types.void(*[integer] * 11), emit
    return intrinsic(lambda typing, a, am, ak, b, bk, bn, c, cm, length, add, relu: found)


def _strip(columns: int) -> Any:
    """All rows of so many columns."""
    high, low = _tile(ROWS, columns), _tile(1, columns)

    @njit(error_model="numpy")
    def strip(a, am, ak, b, bk, bn, c, cm, m, length, add, relu):
        i = 0
        while i + ROWS <= m:
            high(a + BYTES * i * am, am, ak, b, bk, bn, c + BYTES * i * cm, cm,
                 length, add, relu)  # fmt: skip
            i += ROWS
        while i < m:
            low(a + BYTES * i * am, am, ak, b, bk, bn, c + BYTES * i * cm, cm,
                length, add, relu)  # fmt: skip
            i += 1

    return strip


_strips = {columns: _strip(columns) for columns in COLUMNS}
_six = _strips.get(6, _strips[4])
_four, _three, _two, _one = _strips[4], _strips[3], _strips[2], _strips[1]
WIDEST = COLUMNS[0]
DEPTH = 64  # terms of a sum at a time


@njit(error_model="numpy")
def _product(a, am, ak, b, bk, bn, c, cm, m, n, length, add, relu):
    """A part of the sum, a strip of columns at a time."""
    j = 0
    while j < n:
        left = n - j
        bj, cj = b + BYTES * j * bn, c + BYTES * j
        if left >= WIDEST:
            _six(a, am, ak, bj, bk, bn, cj, cm, m, length, add, relu)
            j += WIDEST
        elif left >= 4:
            _four(a, am, ak, bj, bk, bn, cj, cm, m, length, add, relu)
            j += 4
        elif left == 3:
            _three(a, am, ak, bj, bk, bn, cj, cm, m, length, add, relu)
            j += 3
        elif left == 2:
            _two(a, am, ak, bj, bk, bn, cj, cm, m, length, add, relu)
            j += 2
        else:
            _one(a, am, ak, bj, bk, bn, cj, cm, m, length, add, relu)
            j += 1


@njit(error_model="numpy")
def multiply(a, am, ak, b, bk, bn, c, cm, m, n, length, add, relu):
    """C (m, n) = A (m, length) B (length, n), or added to C, or with relu after it.

    Long sums are taken in parts, so that a part of a strip of B stays in the nearest cache.
    """
    start = 0
    while start < length:
        part = min(DEPTH, length - start)
        last = relu if start + part == length else 0
        _product(a + BYTES * start * ak, am, ak, b + BYTES * start * bk, bk, bn, c, cm, m, n,
                 part, add, last)  # fmt: skip
        add = 1
        start += part
