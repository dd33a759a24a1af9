"""Eight 32-bit integers that compiled loops compute with at once, in vector instructions.

Numba's own vectorization needs loops over arrays. Here a value of eight lanes is a variable like any other: ``+``,
``-``, ``*``, ``&``, ``|``, ``<<`` and ``>>`` act on each lane, with an integer as eight equal lanes.
"""

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

LANES = 8
_operation: Any = extending.intrinsic
_INT, _FLOAT, _LONG = ir.IntType(32), ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_INT, LANES)


class LanesType(types.Type):
    """Numba's type of such values."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


lanes = LanesType()


@register_model(LanesType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _splat(builder: Any, value: Any) -> Any:
    """Vector of a value, or of an integer in all lanes."""
    if value.type == _VECTOR:
        return value
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), _narrow(builder, value), ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_VECTOR, [0] * LANES))


def _narrow(builder: Any, value: Any) -> Any:
    return builder.trunc(value, _INT) if value.type.width > _INT.width else builder.sext(value, _INT)


def _define(function: Any, build: str) -> None:
    """Define an operator on lanes."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if kws or not any(isinstance(a, LanesType) for a in args):
                return None
            return signature(lanes, *(a if isinstance(a, LanesType) else types.int64 for a in args))

    infer_global(function)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, build)(*(_splat(builder, a) for a in args))

    for kinds in ((LanesType, LanesType), (LanesType, types.Integer), (types.Integer, LanesType)):
        lower_builtin(function, *kinds)(lower)


for _function, _build in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.lshift, "shl"),
    (operator.rshift, "ashr"),
):
    _define(_function, _build)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [at])


@_operation
def take(typing, array, at):  # type: ignore[no-untyped-def]
    """Read seven entries of an array into lanes; the eighth is −1."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        found = ir.Constant(_VECTOR, [-1] * LANES)
        for i, index in enumerate(cgutils.unpack_tuple(builder, args[1])):
            one = builder.load(_pointer(context, builder, sig.args[0], args[0], index))
            found = builder.insert_element(found, _narrow(builder, one), ir.Constant(_INT, i))
        return found

    return lanes(array, at), build


@_operation
def put(typing, array, at, value):  # type: ignore[no-untyped-def]
    """Write the first lanes to entries of an array."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        for i, index in enumerate(cgutils.unpack_tuple(builder, args[1])):
            one = builder.extract_element(args[2], ir.Constant(_INT, i))
            builder.store(one, _pointer(context, builder, sig.args[0], args[0], index))
        return context.get_dummy_value()

    return types.void(array, at, value), build


@_operation
def look_up(typing, array, at, shift, begin):  # type: ignore[no-untyped-def]
    """Read the entries at ``begin`` and the high bits of seven entries of an array; the eighth lane is 0."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        found = ir.Constant(_VECTOR, [0] * LANES)
        shift = _narrow(builder, args[2])
        for i, index in enumerate(cgutils.unpack_tuple(builder, args[1])):
            one = builder.load(_pointer(context, builder, sig.args[0], args[0], index))
            place = builder.add(builder.zext(builder.lshr(one, shift), _LONG), args[3])
            one = builder.load(_pointer(context, builder, sig.args[0], args[0], place))
            found = builder.insert_element(found, one, ir.Constant(_INT, i))
        return found

    return lanes(array, at, shift, types.int64), build


@_operation
def entry(typing, array, at):  # type: ignore[no-untyped-def]
    """Read one entry at a place that is not negative."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.zext(builder.load(_pointer(context, builder, sig.args[0], args[0], args[1])), _LONG)

    return types.int64(array, types.int64), build


@_operation
def load(typing, array, at):  # type: ignore[no-untyped-def]
    """Read eight neighbouring entries."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        where = _pointer(context, builder, sig.args[0], args[0], args[1])
        return builder.load(builder.bitcast(where, _VECTOR.as_pointer()), align=4)

    return lanes(array, at), build


@_operation
def store(typing, array, at, value):  # type: ignore[no-untyped-def]
    """Write eight neighbouring entries."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        where = _pointer(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(where, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, at, value), build


@_operation
def dot(typing, a, b):  # type: ignore[no-untyped-def]
    """Sum the products, in 64 bits."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        wide = ir.VectorType(_LONG, LANES)
        found = builder.mul(*(builder.sext(x, wide) for x in args))
        for half in (LANES // 2, LANES // 4, LANES // 8):
            low, high = (
                ir.Constant(ir.VectorType(_INT, half), list(range(first, first + half))) for first in (0, half)
            )
            found = builder.add(builder.shuffle_vector(found, found, low), builder.shuffle_vector(found, found, high))
        return builder.extract_element(found, ir.Constant(_INT, 0))

    return types.int64(a, b), build


@_operation
def high_bits(typing, a, shift):  # type: ignore[no-untyped-def]
    """Shift right, with zeros from the left."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.lshr(args[0], _splat(builder, args[1]))

    return lanes(a, shift), build


@_operation
def divide(typing, a, b):  # type: ignore[no-untyped-def]
    """Divide positive integers below 2²⁴, in float32, and round down: exact where a < 2²³."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        real = ir.VectorType(_FLOAT, LANES)
        a, b = (builder.sitofp(x, real) for x in args)
        return builder.fptosi(builder.fdiv(a, b), _VECTOR)

    return lanes(a, b), build


@_operation
def least(typing, a, b):  # type: ignore[no-untyped-def]
    """Take the smaller one, lane by lane."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        a, b = (_splat(builder, x) for x in args)
        return builder.select(builder.icmp_signed("<", a, b), a, b)

    return lanes(a, b), build


@_operation
def equal(typing, array, at):  # type: ignore[no-untyped-def]
    """Read an entry into all lanes."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _splat(builder, builder.load(_pointer(context, builder, sig.args[0], args[0], args[1])))

    return lanes(array, at), build


@_operation
def all_at_least(typing, a, least):  # type: ignore[no-untyped-def]
    """Whether no lane is smaller."""

    def build(context, builder, sig, args):  # type: ignore[no-untyped-def]
        fits = builder.icmp_signed(">=", args[0], _splat(builder, args[1]))
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("==", builder.bitcast(fits, bits), ir.Constant(bits, -1))

    return types.boolean(a, least), build
