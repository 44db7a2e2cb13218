"""A vector register as a Numba type: one number of each of several members.

A plain loop of sixteen stays scalar in Numba, ten times slower; a type of LLVM's own vectors
does not. Addresses are integers and places are counted in vectors, so that one compiled
function serves every size.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import extending
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

intrinsic: Any = extending.intrinsic


def _lanes() -> int:
    """Floats that a register of this processor holds."""
    target: Any = cpu_target
    features = target.target_context.codegen().magic_tuple()[2]
    return 16 if "+avx512f" in features else 8 if "+avx" in features else 4


LANES = _lanes()
BYTES = 4 * LANES

FLOAT, INT, WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)
FUSE = ("contract",)  # a product and a sum may be one instruction


class Vector(types.Type):
    """The Numba type of `LANES` floats."""

    def __init__(self) -> None:
        super().__init__("lanes")


vector = Vector()
integer = types.intp


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


# --- arithmetic ------------------------------------------------------------------------


def _arithmetic(symbol: Any, emit: Callable[..., Any]) -> None:
    """Let an operator of Python work on two vectors."""

    class Operator(ConcreteTemplate):
        cases = [signature(vector, vector, vector)]  # noqa: RUF012

    cast(Any, infer_global(symbol))(Operator)

    @lower_builtin(symbol, vector, vector)
    def lower(_context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return emit(builder, *operands)


_arithmetic(operator.add, lambda builder, x, y: builder.fadd(x, y, flags=FUSE))
_arithmetic(operator.sub, lambda builder, x, y: builder.fsub(x, y, flags=FUSE))
_arithmetic(operator.mul, lambda builder, x, y: builder.fmul(x, y, flags=FUSE))
_arithmetic(operator.truediv, lambda builder, x, y: builder.fdiv(x, y))


def _of_vectors(count: int, emit: Callable[..., Any]) -> Any:
    """A function of so many vectors that gives a vector."""
    kinds = (vector,) * count

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    found = signature(vector, *kinds), generate
    if count == 1:
        return intrinsic(lambda typing, x: found)
    if count == 2:
        return intrinsic(lambda typing, x, y: found)
    if count == 3:
        return intrinsic(lambda typing, x, y, z: found)
    return intrinsic(lambda typing, x, y, z, w: found)


def call_llvm(builder: Any, name: str, *values: Any) -> Any:
    """LLVM's own function on vectors of this width."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * len(values))
    function = get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, values)


def _constant(value: float) -> Any:
    return ir.Constant(FLOATS, [value] * LANES)


def _whole(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)


sqrt = _of_vectors(1, lambda b, x: call_llvm(b, "sqrt", x))
absolute = _of_vectors(1, lambda b, x: call_llvm(b, "fabs", x))
nearest = _of_vectors(1, lambda b, x: call_llvm(b, "rint", x))
fma = _of_vectors(3, lambda b, x, y, z: call_llvm(b, "fmuladd", x, y, z))  # x y + z
# What is not a number stays so: it is the first argument, and the comparison is unordered.
larger = _of_vectors(2, lambda b, x, y: b.select(b.fcmp_unordered(">", x, y), x, y))
smaller = _of_vectors(2, lambda b, x, y: b.select(b.fcmp_unordered("<", x, y), x, y))
if_above = _of_vectors(4, lambda b, x, y, p, q: b.select(b.fcmp_ordered(">", x, y), p, q))
if_equal = _of_vectors(4, lambda b, x, y, p, q: b.select(b.fcmp_ordered("==", x, y), p, q))
if_at_most = _of_vectors(4, lambda b, x, y, p, q: b.select(b.fcmp_ordered("<=", x, y), p, q))


def _power_of_two(b: Any, x: Any) -> Any:
    exponent = b.shl(b.add(b.fptosi(x, INTS), _whole(127)), _whole(23))
    return b.bitcast(exponent, FLOATS)


def _exponent(b: Any, x: Any) -> Any:
    bits = b.lshr(b.bitcast(x, INTS), _whole(23))
    return b.sitofp(b.sub(bits, _whole(126)), FLOATS)


def _mantissa(b: Any, x: Any) -> Any:
    bits = b.and_(b.bitcast(x, INTS), _whole(0x007FFFFF))
    return b.bitcast(b.or_(bits, _whole(0x3F000000)), FLOATS)


power_of_two = _of_vectors(1, _power_of_two)  # of whole numbers from -126 to 127
exponent = _of_vectors(1, _exponent)  # e of x = m 2^e, m in [0.5, 1), for normal x > 0
mantissa = _of_vectors(1, _mantissa)  # and m


# --- memory ----------------------------------------------------------------------------


def pointer(builder: Any, address: Any, index: Any, size: int, kind: Any) -> Any:
    """Where element `index` of `size` bytes lies."""
    offset = builder.mul(index, ir.Constant(WORD, size))
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _reader(kind: Any, size: int, result: Any, convert: Callable[..., Any]) -> Any:
    def emit(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        where = pointer(builder, values[0], values[1], size, kind)
        return convert(builder, builder.load(where, align=4))

    return intrinsic(lambda typing, address, index: (result(integer, integer), emit))


load = _reader(FLOATS, BYTES, vector, lambda b, x: x)
load_word = _reader(WORD, 8, integer, lambda b, x: x)
load_float = _reader(FLOAT, 4, types.float32, lambda b, x: x)


@intrinsic
def store(_typing: Any, address: Any, index: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        where = pointer(builder, values[0], values[1], BYTES, FLOATS)
        builder.store(values[2], where, align=4)
        return context.get_dummy_value()

    return types.void(integer, integer, vector), emit


def _splat(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, _whole(0))


@intrinsic
def full(_typing: Any, value: Any) -> Any:
    """A vector of one number, which is float32 already or is rounded to it."""

    def emit(context: Any, builder: Any, found: Any, values: Any) -> Any:
        single = context.cast(builder, values[0], found.args[0], types.float32)
        return _splat(builder, single)

    return vector(value), emit


@intrinsic
def gather(
    _typing: Any, rows: Any, width: Any, column: Any, indices: Any, stride: Any, out: Any
) -> Any:
    """Four numbers of a different row for each lane, as four vectors.

    Lane q takes row `indices[q * stride]` (int32) of a table with `width` floats a row.
    """

    def emit(context: Any, b: Any, _signature: Any, values: Any) -> Any:
        table, width, column, indices, stride, out = values
        four = ir.VectorType(FLOAT, 4)
        parts = []
        for lane in range(LANES):
            place = b.mul(stride, ir.Constant(WORD, lane))
            row = b.sext(b.load(pointer(b, indices, place, 4, INT), align=4), WORD)
            start = b.add(b.mul(row, width), column)
            parts.append(b.load(pointer(b, table, start, 4, four), align=4))
        while len(parts) > 1:
            parts = [_joined(b, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        for j in range(4):
            every = ir.Constant(INTS, [4 * lane + j for lane in range(LANES)])
            picked = b.shuffle_vector(parts[0], parts[0], every)
            b.store(picked, pointer(b, out, ir.Constant(WORD, j), BYTES, FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(*[integer] * 6), emit


def _joined(builder: Any, x: Any, y: Any) -> Any:
    count = 2 * x.type.count
    order = ir.Constant(ir.VectorType(INT, count), list(range(count)))
    return builder.shuffle_vector(x, y, order)


@intrinsic
def uniform(_typing: Any, counter: Any, seed: Any) -> Any:
    """Numbers in [0, 1), another for each lane, counter and seed.

    A counter-based generator: two rounds of an integer hash with good avalanche. Nothing is
    carried from call to call.
    """

    def emit(_context: Any, b: Any, _signature: Any, values: Any) -> Any:
        lanes = ir.Constant(INTS, list(range(LANES)))
        wide = b.mul(_spread(b, b.trunc(values[0], INT)), _whole(LANES))
        low = _spread(b, b.trunc(values[1], INT))
        high = _spread(b, b.trunc(b.lshr(values[1], ir.Constant(WORD, 32)), INT))
        bits = _mixed(b, b.xor(_mixed(b, b.add(b.add(wide, lanes), low)), high))
        return b.fmul(b.uitofp(b.lshr(bits, _whole(8)), FLOATS), _constant(2.0**-24))

    return vector(integer, integer), emit


@intrinsic
def uniform_of(_typing: Any, own: Any, counter: Any, seed: Any) -> Any:
    """As `uniform`, but lanes are told apart by a vector of int32 at the address `own`."""

    def emit(_context: Any, b: Any, _signature: Any, values: Any) -> Any:
        lanes = b.load(b.inttoptr(values[0], INTS.as_pointer()), align=4)
        counter = _spread(b, b.trunc(values[1], INT))
        low = _spread(b, b.trunc(values[2], INT))
        high = _spread(b, b.trunc(b.lshr(values[2], ir.Constant(WORD, 32)), INT))
        bits = _mixed(b, b.xor(_mixed(b, b.add(counter, b.xor(low, lanes))), high))
        return b.fmul(b.uitofp(b.lshr(bits, _whole(8)), FLOATS), _constant(2.0**-24))

    return vector(integer, integer, integer), emit


def _spread(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(INTS, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, nothing, _whole(0))


def _mixed(b: Any, x: Any) -> Any:
    """Every bit of the result depends on every bit of x (Wellons' hash with low bias)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = b.mul(b.xor(x, b.lshr(x, _whole(shift))), _whole(factor))
    return b.xor(x, b.lshr(x, _whole(16)))
