"""An ONNX graph whose convolutions multiply 8-bit integers, and the ranges that it takes for it.

Integers are written as engines know them: a value goes through ``QuantizeLinear`` and
``DequantizeLinear``, kernels are stored as integers, and the engine that finds both before a
convolution multiplies integers. An engine that does not computes the same in float32.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fracjax.errors import BundleError

RANGES = "ranges"
"""The output of :func:`watched`."""

_STEPS = 255
_LARGEST = 127


def watched(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a graph the output :data:`RANGES`: what each convolution takes.

    Args:
        model: Of :func:`fracjax.export.network.onnx_of`, in float32.

    Returns:
        A model with one output, float32 (n, 2): least and largest value, of all pictures given.
    """
    model = _copy(model)
    graph = model.graph
    ends = []
    for convolution in _convolutions(graph):
        for operator in ("ReduceMin", "ReduceMax"):
            name = f"{convolution.output[0]}_{operator.lower()}"
            graph.node.append(
                helper.make_node(operator, [convolution.input[0]], [name], keepdims=0)
            )
            ends.append(name)
    shape = numpy_helper.from_array(np.asarray([-1, 2], np.int64), "ranges_shape")
    one = numpy_helper.from_array(np.asarray([1], np.int64), "ranges_one")
    graph.initializer.extend([shape, one])
    rows = [f"{name}_row" for name in ends]
    for name, row in zip(ends, rows, strict=True):
        graph.node.append(helper.make_node("Reshape", [name, one.name], [row]))
    graph.node.append(helper.make_node("Concat", rows, ["ranges_row"], axis=0))
    graph.node.append(helper.make_node("Reshape", ["ranges_row", shape.name], [RANGES]))
    declared = helper.make_tensor_value_info(RANGES, onnx.TensorProto.FLOAT, [len(ends) // 2, 2])
    del graph.output[:]
    graph.output.append(declared)
    onnx.checker.check_model(model, full_check=True)
    return model


def in_integers(model: onnx.ModelProto, ranges: NDArray[np.float32]) -> onnx.ModelProto:
    """Let convolutions of a graph multiply 8-bit integers.

    Args:
        model: Of :func:`fracjax.export.network.onnx_of`, in float32.
        ranges: float32 (n, 2), of what each convolution takes; NaN where it stays in float32.

    Raises:
        BundleError: There are not as many ranges as convolutions, or two of what they share.
    """
    model = _copy(model)
    graph = model.graph
    convolutions = _convolutions(graph)
    if len(convolutions) != len(ranges):
        raise BundleError(
            f"the bundle has the ranges of {len(ranges)} convolutions, and its network has "
            f"{len(convolutions)}; quantise it anew with this release"
        )
    writer = _Writer(graph)
    range_of: dict[str, tuple[float, float]] = {}
    for convolution, (low, high) in zip(convolutions, ranges.tolist(), strict=True):
        if np.isfinite([low, high]).all():
            if range_of.setdefault(convolution.input[0], (low, high)) != (low, high):
                raise BundleError(
                    "two convolutions of the bundle take the same by two ranges; quantise it anew "
                    "with this release"
                )
            writer.quantise(convolution, low, high)
    writer.finish()
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Puts nodes where they belong: right after what they take, and once for all who take them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {each.name: each for each in graph.initializer}
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._known: set[str] = set()

    def quantise(self, convolution: onnx.NodeProto, low: float, high: float) -> None:
        """Let a convolution take integers of a range, and hold its kernels as integers."""
        source, kernel = convolution.input
        scale = np.float32((high - low) / _STEPS)
        zero = np.uint8(np.clip(np.rint(-low / scale), 0, _STEPS)) if scale > 0 else np.uint8(0)
        scale = scale if scale > 0 else np.float32(1)
        taken = self._in_steps(source, source, scale, zero)
        strides = next(each for each in convolution.attribute if each.name == "strides")
        if _is_pointwise(self._constants[kernel]) and set(strides.ints) != {1}:
            # OpenVINO takes such strides before the integers are made, and then makes none.
            pooled = "_".join([source, "strided", *map(str, strides.ints)])
            node = helper.make_node(
                "MaxPool", [taken], [pooled], kernel_shape=[1, 1], strides=list(strides.ints)
            )
            self._add(source, node)
            taken = self._in_steps(source, pooled, scale, zero)
            strides.ints[:] = [1, 1]
        convolution.input[0] = taken
        self._quantise_kernel(kernel)

    def finish(self) -> None:
        """Write the nodes in an order in which each comes after what it takes."""
        kept = list(self._graph.node)
        del self._graph.node[:]
        sources = [*self._constants, *(each.name for each in self._graph.input)]
        for name in sources:
            self._graph.node.extend(self._after.get(name, ()))
        for node in kept:
            self._graph.node.append(node)
            for name in node.output:
                self._graph.node.extend(self._after.get(name, ()))

    def _in_steps(self, anchor: str, name: str, scale: np.float32, zero: np.uint8) -> str:
        """Round a tensor to even steps; gives the name of what is left of it."""
        steps = [
            self._constant(f"{anchor}_scale", scale),
            self._constant(f"{anchor}_zero", zero),
        ]
        integers, rounded = f"{name}_integers", f"{name}_rounded"
        self._add(anchor, helper.make_node("QuantizeLinear", [name, *steps], [integers]))
        self._add(anchor, helper.make_node("DequantizeLinear", [integers, *steps], [rounded]))
        return rounded

    def _quantise_kernel(self, name: str) -> None:
        kernel = numpy_helper.to_array(self._constants[name])
        largest = np.abs(kernel).max(axis=(1, 2, 3))
        scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
        rounded = np.rint(kernel / scale[:, np.newaxis, np.newaxis, np.newaxis])
        integers = np.clip(rounded, -_LARGEST, _LARGEST).astype(np.int8)
        self._graph.initializer.remove(self._constants[name])
        steps = [
            self._constant(f"{name}_integers", integers),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero", np.zeros(len(scale), np.int8)),
        ]
        self._add(name, helper.make_node("DequantizeLinear", steps, [name], axis=0))

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self._known:
            self._known.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, anchor: str, node: onnx.NodeProto) -> None:
        (name,) = node.output
        if name not in self._known:
            self._known.add(name)
            self._after.setdefault(anchor, []).append(node)


def _convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Give the convolutions in the order in which they are computed."""
    return [node for node in graph.node if node.op_type == "Conv"]


def _is_pointwise(kernel: onnx.TensorProto) -> bool:
    return list(kernel.dims[2:]) == [1, 1]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
