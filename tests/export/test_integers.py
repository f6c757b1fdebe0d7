"""A graph in 8-bit integers computes what is said of it, in every engine."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fracjax.errors import BundleError
from fracjax.export.integers import in_integers, watched
from fracjax.export.onnx_graph import to_onnx
from fracjax.forward.quiet_openvino import openvino

LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = 4


def convolved(x, kernel, stride=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT)


def three_layers(kernels, inner):
    """Two layers behind one: 3x3, and 1x1 that takes every second pixel, as shortcuts do."""
    first, square, pointwise = kernels

    def function(x):
        x = inner(jax.nn.relu(convolved(x, first)))
        return (convolved(x, square), x[:, ::2, ::2] @ pointwise)

    return function


def kernels_of(seed, spread):
    rng = np.random.default_rng(seed)
    shapes = (3, 3, 1, CHANNELS), (3, 3, CHANNELS, 2), (CHANNELS, 3)
    # Outputs of kernels of very different sizes: each has its own step.
    return [
        (rng.normal(0, 1, shape) * spread ** rng.uniform(-1, 1, shape[-1])).astype(np.float32)
        for shape in shapes
    ]


def written(function):
    return to_onnx(function, jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32), ("x", ("y", "z")), {})


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


def in_steps(value, low, high):
    """Round to 256 even steps from low to high, of which 0 is one."""
    step = np.float32((high - low) / 255)
    zero = np.rint(-low / step)
    return (jnp.clip(jnp.round(value / step) + zero, 0, 255) - zero) * step


def kernel_in_steps(kernel):
    step = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127
    return np.rint(kernel / step) * step


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**16), st.floats(1, 100), st.floats(0.1, 10), st.sampled_from([0.0, 0.3, 0.8])
)
def test_inputs_and_kernels_are_rounded_and_nothing_else(seed, spread, high, below):
    low = -below * high
    kernels = kernels_of(seed, spread)
    x = np.random.default_rng(seed).normal(0, 1, (1, 8, 8, 1)).astype(np.float32)
    ranges = np.float32([[np.nan, np.nan], [low, high], [low, high]])
    found = run(in_integers(written(three_layers(kernels, lambda x: x)), ranges), x)
    rounded = [kernels[0], *map(kernel_in_steps, kernels[1:])]
    wanted = three_layers(rounded, lambda value: in_steps(value, low, high))(x)
    for one, other in zip(found, wanted, strict=True):
        # Where an input lies between two steps, either may be taken; nine outputs look at it.
        step = (high - low) / 255 * max(np.abs(kernel).max() for kernel in kernels[1:])
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2 * step)
        assert np.median(np.abs(one - other)) < 1e-5 * np.abs(other).max()


def test_ranges_are_those_of_what_each_convolution_takes():
    kernels = kernels_of(0, 3.0)
    x = np.random.default_rng(1).normal(0, 1, (1, 8, 8, 1)).astype(np.float32)
    function = three_layers(kernels, lambda x: x - 0.5)
    (found,) = run(watched(written(function)), x)
    taken = jax.nn.relu(convolved(x, kernels[0])) - 0.5
    wanted = [[x.min(), x.max()], *[[taken.min(), taken.max()]] * 2]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_as_many_ranges_as_convolutions_that_take_them():
    model = written(three_layers(kernels_of(0, 1.0), lambda x: x))
    with pytest.raises(BundleError, match="ranges of 2 convolutions, and its network has 3"):
        in_integers(model, np.float32([[0, 1]] * 2))


def test_what_two_convolutions_take_has_one_range():
    model = written(three_layers(kernels_of(0, 1), lambda x: x))
    with pytest.raises(BundleError, match="take the same by two ranges"):
        in_integers(model, np.float32([[np.nan, np.nan], [-1, 2], [-1, 3]]))


def test_what_never_varied_is_no_error():
    kernels = kernels_of(0, 1.0)
    kernels[1][..., 0] = 0
    x = np.zeros((1, 8, 8, 1), np.float32)
    model = in_integers(written(three_layers(kernels, lambda x: x)), np.zeros((3, 2), np.float32))
    for result in run(model, x):
        np.testing.assert_array_equal(result, 0)


def test_openvino_multiplies_integers():
    """Strides of 1x1 convolutions must not keep it from that; it says nothing where they do."""
    rng = np.random.default_rng(0)
    first, *rest = (rng.normal(0, 1, (64, 64)).astype(np.float32) for _ in range(4))

    def block(x):
        """Two convolutions that take every second pixel of the same, as blocks that shrink do."""
        x = jax.nn.relu(x @ first)
        one, other = (jax.nn.relu(x[:, ::2, ::2] @ kernel) for kernel in rest[:2])
        return (one @ rest[2] + other,)

    shape = jax.ShapeDtypeStruct((1, 16, 16, 64), jnp.float32)
    exact = to_onnx(block, shape, ("x", ("y",)), {})
    ranges = np.float32([[np.nan, np.nan], *[[0, 4]] * 3])
    core = openvino.Core()
    numbers = []
    for model in (exact, in_integers(exact, ranges)):
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
        facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        numbers.append(
            [
                fact["runtimePrecision"].astype(str)
                for fact in facts
                if fact["layerType"].astype(str) == "Convolution"
            ]
        )
    assert numbers[0].count("u8") == 0
    assert len(numbers[1]) == 4
    assert numbers[1].count("u8") == 3
