"""A traced function as an ONNX graph whose pictures lie channels second, as CPU engines want them.

What JAX traced is walked equation by equation. Values of four axes (batch, height, width,
channels) are kept as (batch, channels, height, width) throughout, so that no transpose is left
between convolutions; what is computed of constants alone is computed here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.extend.core as jex
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fracjax.errors import ExportError

OPSET = 17
"""Of the ONNX standard: old enough for engines of 2022 and later."""

IR_VERSION = 8
"""The file format that came with :data:`OPSET`."""

Shape: TypeAlias = tuple[Any, ...]
"""Lengths of axes; that of the batch may be a symbol of ``jax.export``."""

_CHANNELS_SECOND = (0, 3, 1, 2)
_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class _Constant:
    """What is known now: ``array`` broadcasts to ``shape``, in JAX's order of axes."""

    array: NDArray[Any]
    shape: Shape

    @property
    def whole(self) -> NDArray[Any]:
        """The array, of all of its shape."""
        return np.broadcast_to(self.array, self.shape)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What the graph computes.

    Attributes:
        name: In the graph.
        shape: As JAX sees it.
        stored: Lengths in the graph's order of axes, each that of ``shape``, or 1 where all along
            an axis is the same and no consumer minded yet.
        strides: Of height and width, which a consumer is yet to take; ``shape`` has them taken.
    """

    name: str
    shape: Shape
    stored: Shape
    strides: tuple[int, int] = (1, 1)


_Value: TypeAlias = _Constant | _Tensor


def to_onnx(
    function: Callable[[jax.Array], Sequence[jax.Array]],
    pictures: jax.ShapeDtypeStruct,
    names: tuple[str, Sequence[str]],
    metadata: dict[str, str],
) -> onnx.ModelProto:
    """Write a function of one array as an ONNX model.

    Args:
        function: Traceable; what it closes over becomes part of the model.
        pictures: Shape and type of its argument; the first axis may be symbolic, and the model
            then takes any number.
        names: Of the argument, and of each result.
        metadata: What the model carries about itself.

    Raises:
        ExportError: The function computes something that has no counterpart here.
    """
    traced = jax.make_jaxpr(function)(pictures)
    graph = _Graph()
    source = graph.from_jax_order(names[0], pictures.shape)
    results = graph.run(traced.jaxpr, traced.consts, [source])
    for name, result in zip(names[1], results, strict=True):
        graph.output(name, result)
    proto = helper.make_graph(
        graph.nodes,
        "fracjax",
        [_declared(names[0], pictures.shape)],
        [_declared(name, value.shape) for name, value in zip(names[1], results, strict=True)],
        graph.initializers,
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fracjax",
    )
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def _declared(name: str, shape: Shape) -> onnx.ValueInfoProto:
    lengths = [length if isinstance(length, int) else str(length) for length in shape]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, lengths)


class _Graph:
    """The nodes and constants that were written so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._count = 0

    def run(
        self, jaxpr: jex.Jaxpr, constants: Sequence[Any], arguments: Sequence[_Value]
    ) -> list[_Value]:
        """Write all equations of a trace; gives its results."""
        known: dict[Any, _Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, constant in zip(jaxpr.constvars, constants, strict=True):
            known[variable] = _constant(constant)

        def read(atom: Any) -> _Value:
            return _constant(atom.val) if isinstance(atom, jex.Literal) else known[atom]

        for equation in jaxpr.eqns:
            results = self._write(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def output(self, name: str, value: _Value) -> None:
        """Let a value be a result of the graph, under a name of its own."""
        self.nodes.append(helper.make_node("Identity", [self.in_jax_order(value)], [name]))

    def emit(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; gives the name of its result."""
        name = self._new(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def initializer(self, array: NDArray[Any]) -> str:
        """Add a constant in the graph's order of axes; gives its name."""
        name = self._new("constant")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def _write(self, equation: Any, values: list[_Value]) -> Sequence[_Value]:
        name, parameters = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = parameters[_CALLS[name]]
            return self.run(inner.jaxpr, inner.consts, values)
        shape: Shape = equation.outvars[0].aval.shape
        if name == "broadcast_in_dim":
            return [self._broadcast(values[0], shape, parameters["broadcast_dimensions"])]
        known = [value for value in values if isinstance(value, _Constant)]
        if len(known) == len(values):
            return _computed(equation, known)
        if name == "max" and _is_zero(values[1]):
            return [self._elementwise("Relu", values[:1], shape)]
        if name in _ELEMENTWISE:
            return [self._elementwise(_ELEMENTWISE[name], values, shape)]
        if name not in _WRITERS:
            raise ExportError(f"{name!r} has no counterpart in ONNX that this release writes")
        return [_WRITERS[name](self, values, shape, parameters)]

    def _elementwise(self, operator: str, values: Sequence[_Value], shape: Shape) -> _Tensor:
        names, lengths = [], []
        for value in values:
            if isinstance(value, _Constant):
                array = _to_stored(value.array)
                names.append(self.initializer(array))
                lengths.append(array.shape)
            else:
                tensor = self._strided(value)
                names.append(tensor.name)
                lengths.append(tensor.stored)
        return _Tensor(self.emit(operator, names), shape, _longest(lengths, len(shape)))

    def _broadcast(self, value: _Value, shape: Shape, places: Sequence[int]) -> _Value:
        """Give new axes a length of 1, which those who compute by element broadcast themselves."""
        if isinstance(value, _Constant):
            lengths = [1] * len(shape)
            for length, place in zip(value.array.shape, places, strict=True):
                lengths[place] = length
            return _Constant(value.array.reshape(lengths), shape)
        if len(value.shape) == len(shape):
            value = self._strided(value)
            return _Tensor(value.name, shape, value.stored)
        name = self.in_jax_order(value)
        new = [axis for axis in range(len(shape)) if axis not in places]
        name = self.emit("Unsqueeze", [name, self.initializer(np.asarray(new, np.int64))])
        held = [1] * len(shape)
        for length, place in zip(value.shape, places, strict=True):
            held[place] = length
        return self.from_jax_order(name, shape, tuple(held))

    def _strided(self, tensor: _Tensor) -> _Tensor:
        """Take the strides that are yet to be taken."""
        if tensor.strides == (1, 1):
            return tensor
        most = np.iinfo(np.int64).max
        bounds = ([0, 0], [most, most], [2, 3], list(tensor.strides))
        named = [self.initializer(np.asarray(each, np.int64)) for each in bounds]
        return _Tensor(
            self.emit("Slice", [tensor.name, *named]), tensor.shape, _stored(tensor.shape)
        )

    def whole(self, value: _Value) -> _Tensor:
        """Give a value as a tensor that has the length of its shape along each axis."""
        if isinstance(value, _Constant):
            name = self.initializer(_to_stored(value.whole))
            return _Tensor(name, value.shape, _stored(value.shape))
        value = self._strided(value)
        wanted = _stored(value.shape)
        if value.stored == wanted:
            return value
        for held, length in zip(value.stored, wanted, strict=True):
            if held == 1 and not isinstance(length, int):
                raise ExportError("what is the same for a whole batch is written by no element")
        # 1 leaves the batch as long as it is.
        lengths = [length if isinstance(length, int) else 1 for length in wanted]
        name = self.emit("Expand", [value.name, self.initializer(np.asarray(lengths, np.int64))])
        return _Tensor(name, value.shape, wanted)

    def in_jax_order(self, value: _Value) -> str:
        """Give a whole value with the axes as JAX has them."""
        tensor = self.whole(value)
        if len(tensor.shape) != len(_CHANNELS_LAST):
            return tensor.name
        return self.emit("Transpose", [tensor.name], perm=_CHANNELS_LAST)

    def from_jax_order(self, name: str, shape: Shape, held: Shape | None = None) -> _Tensor:
        """Take in what has the axes as JAX has them; of lengths ``held``, or those of ``shape``."""
        held = shape if held is None else held
        if len(shape) == len(_CHANNELS_SECOND):
            name = self.emit("Transpose", [name], perm=_CHANNELS_SECOND)
        return _Tensor(name, shape, _stored(held))

    # What single primitives become. Each takes (values, shape of the result, parameters).

    def converted(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """A change of the number format, of which there is one."""
        if parameters["new_dtype"] != np.float32:
            raise ExportError(f"{parameters['new_dtype']} is written as no ONNX; export float32")
        del shape
        return values[0]

    def power(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """A whole power."""
        exponent = _constant(np.asarray(parameters["y"], np.float32))
        return self._elementwise("Pow", [values[0], exponent], shape)

    def square(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """The square."""
        del parameters
        return self._elementwise("Mul", [values[0], values[0]], shape)

    def inverse_root(
        self, values: list[_Value], shape: Shape, parameters: dict[str, Any]
    ) -> _Value:
        """One by the square root."""
        del parameters
        return self._elementwise("Reciprocal", [self._elementwise("Sqrt", values, shape)], shape)

    def convolution(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """A convolution of pictures by constant kernels."""
        layout = parameters["dimension_numbers"]
        kernel = values[1]
        if (
            (layout.lhs_spec, layout.out_spec) != (_CHANNELS_SECOND, _CHANNELS_SECOND)
            or not isinstance(kernel, _Constant)
            or set(parameters["lhs_dilation"]) != {1}
            or parameters["batch_group_count"] != 1
        ):
            raise ExportError("a convolution is written of pictures, channels last, by constants")
        return self._conv(
            self.whole(values[0]).name,
            kernel.whole.transpose(layout.rhs_spec),
            shape,
            strides=parameters["window_strides"],
            pads=_pads(parameters["padding"]),
            dilations=parameters["rhs_dilation"],
            group=parameters["feature_group_count"],
        )

    def _conv(self, source: str, kernel: NDArray[Any], shape: Shape, **attributes: Any) -> _Tensor:
        name = self.emit("Conv", [source, self.initializer(kernel)], **attributes)
        return _Tensor(name, shape, _stored(shape))

    def product(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """A product over some axes; over channels, by a constant, it is a 1x1 convolution."""
        left, right = values
        contracted, batched = parameters["dimension_numbers"]
        is_plain = isinstance(right, _Constant) and len(right.shape) == 2 and not batched[0]
        if is_plain and isinstance(left, _Tensor) and isinstance(right, _Constant):
            if len(left.shape) == 4 and contracted == ((3,), (0,)):
                # Strides that are yet to be taken become those of the convolution.
                source = left if left.strides != (1, 1) else self.whole(left)
                kernel = right.whole.T[:, :, np.newaxis, np.newaxis]
                return self._conv(source.name, kernel, shape, strides=left.strides)
            if len(left.shape) == 2 and contracted == ((1,), (0,)):
                name = self.emit("MatMul", [self.whole(left).name, self.initializer(right.whole)])
                return _Tensor(name, shape, shape)
        letters = _letters(len(left.shape), len(right.shape), contracted, batched)
        names = [self.in_jax_order(value) for value in values]
        return self.from_jax_order(self.emit("Einsum", names, equation=letters), shape)

    def maximum_of_window(
        self, values: list[_Value], shape: Shape, parameters: dict[str, Any]
    ) -> _Value:
        """The maximum of windows; what lies beyond the picture is less than all."""
        return self._pool("MaxPool", values[0], shape, parameters)

    def sum_of_window(
        self, values: list[_Value], shape: Shape, parameters: dict[str, Any]
    ) -> _Value:
        """The sum of windows, by their mean."""
        pooled = self._pool("AveragePool", values[0], shape, parameters, count_include_pad=1)
        area = np.float32(math.prod(parameters["window_dimensions"]))
        return self._elementwise("Mul", [pooled, _constant(area)], shape)

    def _pool(
        self,
        operator: str,
        value: _Value,
        shape: Shape,
        parameters: dict[str, Any],
        **attributes: Any,
    ) -> _Tensor:
        window, strides = parameters["window_dimensions"], parameters["window_strides"]
        padding = parameters["padding"]
        dilated = {*parameters["base_dilation"], *parameters["window_dilation"]} != {1}
        ends = (window[0], window[-1], strides[0], strides[-1], *padding[0], *padding[-1])
        if len(shape) != 4 or dilated or ends != (1, 1, 1, 1, 0, 0, 0, 0):
            raise ExportError("a window is written over height and width of pictures")
        name = self.emit(
            operator,
            [self.whole(value).name],
            kernel_shape=window[1:3],
            strides=strides[1:3],
            pads=_pads(padding[1:3]),
            **attributes,
        )
        return _Tensor(name, shape, _stored(shape))

    def total(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """The sum over axes."""
        tensor = self.whole(values[0])
        axes = parameters["axes"]
        order = _order(len(tensor.shape))
        left = [axis for axis in order if axis not in axes]
        if left != sorted(left):
            raise ExportError("a sum is written where what is left keeps its order")
        named = self.initializer(np.asarray([order.index(axis) for axis in axes], np.int64))
        name = self.emit("ReduceSum", [tensor.name, named], keepdims=0)
        return _Tensor(name, shape, _stored(shape))

    def reshaped(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """Other axes for the same values; the batch stays the first."""
        before = values[0].shape
        if parameters["dimensions"] is not None:
            raise ExportError("a reshape is written that leaves the order of the values")
        lengths = [length if isinstance(length, int) else 0 for length in shape]
        if 0 in lengths[1:] or (lengths[:1] == [0] and before[0] != shape[0]):
            raise ExportError("a batch is written as the first axis, before and after")
        named = self.initializer(np.asarray(lengths, np.int64))
        return self.from_jax_order(
            self.emit("Reshape", [self.in_jax_order(values[0]), named]), shape
        )

    def transposed(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """Axes in another order."""
        name = self.in_jax_order(values[0])
        order = parameters["permutation"]
        return self.from_jax_order(self.emit("Transpose", [name], perm=order), shape)

    def sliced(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """Each so many a row and column of whole pictures."""
        tensor = values[0]
        if isinstance(tensor, _Constant) or tensor.strides == (1, 1):
            tensor = self.whole(tensor)
        strides = parameters["strides"] or (1,) * len(shape)
        is_whole = set(parameters["start_indices"]) == {0} and (
            tuple(parameters["limit_indices"]) == tensor.shape
        )
        if len(shape) != 4 or not is_whole or (strides[0], strides[3]) != (1, 1):
            raise ExportError("a slice is written if it strides over whole pictures")
        height, width = tensor.strides
        strided = height * strides[1], width * strides[2]
        return _Tensor(tensor.name, shape, _stored(shape), strided)

    def joined(self, values: list[_Value], shape: Shape, parameters: dict[str, Any]) -> _Value:
        """One after the other along an axis."""
        axis = _order(len(shape)).index(parameters["dimension"])
        name = self.emit("Concat", [self.whole(value).name for value in values], axis=axis)
        return _Tensor(name, shape, _stored(shape))


_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "div": "Div",
    "exp": "Exp",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "sub": "Sub",
}

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
}
"""What only calls another trace, once, by the parameter that holds it."""

_Writer: TypeAlias = Callable[[_Graph, list[_Value], Shape, dict[str, Any]], _Value]

_WRITERS: dict[str, _Writer] = {
    "concatenate": _Graph.joined,
    "conv_general_dilated": _Graph.convolution,
    "convert_element_type": _Graph.converted,
    "dot_general": _Graph.product,
    "integer_pow": _Graph.power,
    "reduce_sum": _Graph.total,
    "reduce_window_max": _Graph.maximum_of_window,
    "reduce_window_sum": _Graph.sum_of_window,
    "reshape": _Graph.reshaped,
    "rsqrt": _Graph.inverse_root,
    "slice": _Graph.sliced,
    "square": _Graph.square,
    "transpose": _Graph.transposed,
}


def _constant(value: Any) -> _Constant:
    array = np.asarray(value)
    return _Constant(array, array.shape)


def _is_zero(value: _Value) -> bool:
    return isinstance(value, _Constant) and not value.array.any()


def _computed(equation: Any, known: Sequence[_Constant]) -> list[_Value]:
    """Compute now what depends on constants alone."""
    results = equation.primitive.bind(*(each.whole for each in known), **equation.params)
    return list(map(_constant, results if equation.primitive.multiple_results else [results]))


def _order(axes: int) -> tuple[int, ...]:
    """Give the order in which the graph has the axes of a value, by their places in JAX."""
    return _CHANNELS_SECOND if axes == len(_CHANNELS_SECOND) else tuple(range(axes))


def _stored(shape: Shape) -> Shape:
    return tuple(shape[axis] for axis in _order(len(shape)))


def _to_stored(array: NDArray[Any]) -> NDArray[Any]:
    return array.transpose(_order(array.ndim))


def _longest(shapes: Sequence[Shape], axes: int) -> Shape:
    """Give the lengths after broadcasting: of each axis the one that is not 1, if there is one."""
    full = [shape for shape in shapes if len(shape) == axes]
    along = zip(*full, strict=True)
    return tuple(next((each for each in lengths if each != 1), 1) for lengths in along)


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Put padding as ONNX does: before each axis, then after each."""
    return [before for before, _ in padding] + [after for _, after in padding]


def _letters(left: int, right: int, contracted: tuple[Any, Any], batched: tuple[Any, Any]) -> str:
    """Write a product of axes as an equation: batch axes first, then the rest, as JAX has it."""
    free = iter("abcdefghijklmnopqrstuvwxyz")
    of_left, of_right = ([""] * count for count in (left, right))
    first = []
    for pairs, is_kept in ((batched, True), (contracted, False)):
        for one, other in zip(*pairs, strict=True):
            of_left[one] = of_right[other] = letter = next(free)
            first += [letter] if is_kept else []
    for letters in (of_left, of_right):
        for axis, letter in enumerate(letters):
            if not letter:
                letters[axis] = next(free)
                first.append(letters[axis])
    return f"{''.join(of_left)},{''.join(of_right)}->{''.join(first)}"
