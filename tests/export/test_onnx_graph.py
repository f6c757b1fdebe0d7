"""What the ONNX graph of a function says is what the function says, in a reader of others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import export, lax

from fracjax import step
from fracjax.configs import Model, Preprocess
from fracjax.errors import ExportError
from fracjax.export.onnx_graph import to_onnx
from fracjax.models import Network, vgg

SIZE = 64
PREPROCESS = Preprocess(image_size=SIZE)
NAMES = ("x", ("y",))

NETWORKS = {
    "bottlenecks, v1": Model("resnet14"),
    "bottlenecks, v1.5": Model("resnet14", strides="v1.5"),
    "basic blocks": Model("resnet18"),
    "small CNN": Model("small_cnn"),
    "VGG, batch norm": Model("vgg11_bn", head="pooled"),
    "VGG, published head": Model("vgg11", head="published"),
    "DenseNet": Model("densenet121"),
}


def pictures(count):
    return np.random.default_rng(count).uniform(0, 1, (count, SIZE, SIZE)).astype(np.float32)


def shaped(count, *rest):
    return jax.ShapeDtypeStruct((count, *rest), jnp.float32)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {model.graph.input[0].name: x})


def trained_like(network):
    """Draw variables of which each matters: statistics of batch norm too, and logits near 0."""
    rng = np.random.default_rng(0)
    variables = {
        name: value if name.endswith("kernel") else value + rng.uniform(0, 0.3, value.shape)
        for name, value in jax.device_get(network.init(0)).items()
    }
    variables = {name: np.asarray(value, np.float32) for name, value in variables.items()}
    normal = step.normalise(pictures(2), PREPROCESS)
    logits, _ = jax.jit(network.logits_and_features)(variables, normal)
    largest = np.abs(logits).max()
    return variables | {"head/kernel": variables["head/kernel"] / largest}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_says_the_same_of_any_number_of_pictures(name, monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 32)  # half a gigabyte else
    network = Network(NETWORKS[name], outputs=2)
    score = functools.partial(step.score, network, PREPROCESS, trained_like(network))
    (count,) = export.symbolic_shape("n")
    model = to_onnx(
        score, shaped(count, SIZE, SIZE), ("pictures", ("a", "b")), {"target": "fracture"}
    )
    for n in (1, 3):
        found, wanted = run(model, pictures(n)), jax.jit(score)(pictures(n))
        for one, other in zip(found, wanted, strict=True):
            assert other.std() > 0
            np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    assert {entry.key: entry.value for entry in model.metadata_props} == {"target": "fracture"}


def test_no_transpose_is_left_between_convolutions():
    network = Network(Model("resnet14"))
    score = functools.partial(step.score, network, PREPROCESS, network.init(0))
    model = to_onnx(score, shaped(1, SIZE, SIZE), ("pictures", ("a", "b")), {})
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Transpose") == 1  # of one channel, before the first
    assert "Slice" not in kinds  # strides are taken by the convolutions


KERNEL = np.random.default_rng(5).normal(0, 1, (3, 3, 4, 4)).astype(np.float32)
MATRIX = np.random.default_rng(6).normal(0, 1, (4, 5)).astype(np.float32)
PLACES = ("NHWC", "HWIO", "NHWC")

PROGRAMS = {
    "strides that are not taken by a product": lambda x: lax.slice_in_dim(x, 0, None, 2, 1) + 1,
    "strides taken twice": lambda x: lax.slice_in_dim(
        lax.slice_in_dim(x, 0, None, 2, 1), 0, None, 3, 2
    ),
    "strides before a product": lambda x: lax.slice_in_dim(x, 0, None, 2, 2) @ MATRIX,
    "a product, and a bias": lambda x: x @ MATRIX + MATRIX[0],
    "a product over height": lambda x: jnp.einsum("bhwc,hk->bkwc", x, np.ones((8, 3), np.float32)),
    "a product of two tensors": lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x * 2),
    "the negative of a root": lambda x: -jnp.sqrt(jnp.abs(x.sum((1, 2))) ** 2 + 1),
    "a convolution that pads at one end": lambda x: lax.conv_general_dilated(
        x, KERNEL, (2, 1), ((0, 1), (2, 1)), dimension_numbers=PLACES
    ),
    "a dilated convolution": lambda x: lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", rhs_dilation=(2, 1), dimension_numbers=PLACES
    ),
    "the maximum of windows that reach beyond": lambda x: lax.reduce_window(
        x - 9, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))
    ),
    "the sum of windows that reach beyond": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))
    ),
    "channels joined": lambda x: jnp.concatenate([x, x * 2], axis=-1),
    "rows joined": lambda x: jnp.concatenate([x, x * 2], axis=1),
    "a flattened picture": lambda x: x.reshape(x.shape[0], -1),
    "axes in another order": lambda x: x.transpose(0, 3, 1, 2),
    "the same for all channels": lambda x: x.sum(-1, keepdims=True) + np.zeros(4, np.float32),
    "the same for all, joined": lambda x: jnp.concatenate(
        [x, jnp.broadcast_to(x.sum((1, 2), keepdims=True), x.shape)], axis=-1
    ),
    "constants alone": lambda x: jnp.tanh(jnp.ones((2, 3)) * 2),
    "powers": lambda x: jnp.square(x) + x**3 - jnp.exp(jnp.minimum(x, 0)),
    "a value used twice": lambda x: (y := x @ MATRIX) * y - y,
    "a call": lambda x: jax.nn.relu(jax.jit(jnp.negative)(x)),
    "inverse roots": lambda x: lax.rsqrt(x * x + 1) / 2,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_thing_that_is_written_says_the_same(name):
    program = PROGRAMS[name]
    (count,) = export.symbolic_shape("n")
    model = to_onnx(lambda x: (program(x),), shaped(count, 8, 6, 4), NAMES, {})
    x = np.random.default_rng(7).normal(0, 1, (2, 8, 6, 4)).astype(np.float32)
    (found,) = run(model, x)
    np.testing.assert_allclose(found, program(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (lambda x: jnp.sort(x, axis=1), "'sort' has no counterpart"),
        (lambda x: x.astype(jnp.bfloat16), "export float32"),
        (lambda x: lax.slice_in_dim(x, 1, None, 1, 1), "strides over whole pictures"),
        (lambda x: x.reshape(-1, 8), "a batch is written as the first axis"),
        (lambda x: x.sum(1), "keeps its order"),
        (
            lambda x: jnp.concatenate(
                [(y := x.sum((1, 2))), jnp.broadcast_to(y.sum(0), y.shape)], 1
            ),
            "whole batch",
        ),
        (lambda x: lax.fori_loop(0, 3, lambda _, y: y * 2, x), "'scan' has no counterpart"),
        (jnp.tanh, "'tanh' has no counterpart"),
    ],
)
def test_what_is_not_written_is_refused(program, said):
    (count,) = export.symbolic_shape("n")
    with pytest.raises(ExportError, match=said):
        to_onnx(lambda x: (program(x),), shaped(count, 8, 6, 4), NAMES, {})
