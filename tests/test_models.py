"""Networks: their shapes, their frozen parts, and published weights in them."""

import re
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from safetensors.numpy import load_file, save_file

from fracjax import initial
from fracjax.configs import CAFFE_BGR_MEAN, Architecture, Model, Preprocess
from fracjax.errors import WeightsError
from fracjax.models import Network
from fracjax.models.layers import PointwiseConv
from fracjax.models.naming import source_of
from fracjax.models.resnet import DEPTHS
from fracjax.models.vgg import adaptive_mean

EGYPTIAN_CAT, ESPRESSO = 285, 967


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_a_pointwise_convolution_is_a_convolution(stride, size):
    layer = PointwiseConv(5, 6, stride, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, *size, 5))
    convolved = lax.conv_general_dilated(
        x,
        layer.kernel[...][None, None],
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(layer(x), convolved + layer.bias[...], rtol=1e-5, atol=1e-5)


def published():
    """Read the table of docs/weights.md: parameters and multiply-adds of each architecture."""
    text = (Path(__file__).parents[1] / "docs/weights.md").read_text()
    rows = re.findall(r"^\| `(\w+)`( v1\.5)? \| ([\d,]+) \| ([\d.]+) \|", text, re.MULTILINE)
    return [
        (name, strides.strip() or "v1", int(parameters.replace(",", "")), multiply_adds)
        for name, strides, parameters, multiply_adds in rows
    ]


def multiply_adds(jaxpr):
    """Count those of all convolutions and matrix products of a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        kernel, output = equation.invars[-1].aval.shape, equation.outvars[0].aval.shape
        match equation.primitive.name:
            case "conv_general_dilated":
                total += int(np.prod(output)) * int(np.prod(kernel[:-1]))
            case "dot_general":
                (_, contracted), _ = equation.params["dimension_numbers"]
                total += int(np.prod(output)) * int(np.prod([kernel[axis] for axis in contracted]))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += multiply_adds(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize(("name", "strides", "parameters", "giga"), published())
def test_counts_are_those_of_the_published_networks(name, strides, parameters, giga):
    network = Network(Model(name, strides), outputs=1000)
    counted = {key: int(np.prod(network.shapes[key])) for key in network.parameters}
    if name in DEPTHS and DEPTHS[name].is_bottleneck:  # torchvision's convolutions have no bias
        counted = {
            key: count
            for key, count in counted.items()
            if not re.search(r"(stem|conv\d|projection)/bias$", key)
        }
    assert sum(counted.values()) == parameters
    variables = {key: jax.ShapeDtypeStruct(s, jnp.float32) for key, s in network.shapes.items()}
    picture = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    traced = jax.make_jaxpr(network.logits_and_features)(variables, picture)
    assert f"{multiply_adds(traced.jaxpr) / 1e9:.2f}" == giga


def test_the_table_of_counts_has_all_architectures():
    assert {name for name, *_ in published()} == set(get_args(Architecture))


@pytest.mark.parametrize(
    ("name", "values"),
    [("resnet50", 25_636_712), ("resnet101", 44_707_176), ("resnet152", 60_419_944)],
)
def test_with_biases_and_statistics_counts_are_those_of_keras(name, values):
    shapes = Network(Model(name), outputs=1000).shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == values


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (9, 13), (14, 8)])
def test_cells_of_an_adaptive_mean_are_pytorchs(size):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    found = adaptive_mean(jnp.asarray(x), 7)
    height, width = size
    for i in range(7):
        for j in range(7):
            rows = slice(i * height // 7, -(-(i + 1) * height // 7))
            columns = slice(j * width // 7, -(-(j + 1) * width // 7))
            np.testing.assert_allclose(
                found[:, i, j], x[:, rows, columns].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6
            )


def test_names_and_shapes_of_variables():
    shapes = Network(Model("resnet50")).shapes
    assert shapes["stem/kernel"] == (7, 7, 3, 64)
    assert shapes["stem_norm/mean"] == (64,)
    assert shapes["stages/0/0/projection/kernel"] == (64, 256)
    assert shapes["stages/3/2/conv2/kernel"] == (3, 3, 512, 512)
    assert shapes["stages/3/2/norm3/var"] == (2048,)
    assert shapes["head/kernel"] == (2048, 1)
    assert "stages/0/1/projection/kernel" not in shapes


def test_both_kinds_of_strides_take_the_same_weights():
    assert Network(Model("resnet50", "v1")).shapes == Network(Model("resnet50", "v1.5")).shapes


def test_random_weights_come_from_the_seed(tiny_variables):
    network = Network(Model("resnet14"))
    assert {name: value.shape for name, value in tiny_variables.items()} == network.shapes
    other = network.init(1)
    assert (other["stem/kernel"] != tiny_variables["stem/kernel"]).any()


# What is frozen


@pytest.mark.parametrize("frozen", range(6))
def test_trainable_names_begin_after_the_frozen_parts(frozen):
    parts = ("stem", "stages/0", "stages/1", "stages/2", "stages/3", "head")
    trainable = Network(Model("resnet14"), frozen_stages=frozen).trainable
    assert {next(i for i, part in enumerate(parts) if name.startswith(part)) for name in trainable}
    for index, part in enumerate(parts):
        assert any(name.startswith(part) for name in trainable) == (index >= frozen)
    assert {name.rpartition("/")[2] for name in trainable} <= {"kernel", "bias", "scale"}


@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_frozen_parts_keep_their_statistics(frozen, tiny_variables):
    network = Network(Model("resnet14"), frozen_stages=frozen)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    _, moved = jax.jit(network.train_logits)(
        tiny_variables, x, jax.random.split(jax.random.key(1), 2)
    )
    parts = ("stem_norm", "stages/0", "stages/1", "stages/2", "stages/3")
    for name, value in tiny_variables.items():
        is_statistic = name.endswith(("/mean", "/var"))
        moves = is_statistic and not name.startswith(parts[:frozen])
        assert (np.asarray(moved[name]) != value).any() == moves, name


def test_scoring_does_not_look_at_the_rest_of_the_batch(tiny_variables):
    score = jax.jit(Network(Model("resnet14")).logits_and_features)
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)))
    changed = np.stack([x[0], 3 * x[1]])
    for one, other in zip(score(tiny_variables, x), score(tiny_variables, changed), strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-5, atol=1e-6)
        assert np.abs(one[1] - other[1]).max() > 1e-3


# Half precision, dropout, replicas

SMALL = ("small_cnn", "resnet18", "vgg11_bn", "densenet121")


def small(name, **changes):
    return Model(name, norm_epsilon=1e-5, head="pooled", **changes)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_half_precision_keeps_variables_and_outputs_single(name):
    network = Network(small(name), dtype=jnp.bfloat16)
    variables = network.init(0)
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    half = network.logits_and_features(variables, x)
    single = Network(small(name)).logits_and_features(variables, x)
    for one, other in zip(half, single, strict=True):
        assert one.dtype == jnp.float32
        assert 0 < np.abs(one - other).max() < 0.1 * np.abs(other).max()
    _, moved = network.train_logits(variables, x, jax.random.split(jax.random.key(0)))
    assert {value.dtype for value in moved.values()} == {np.dtype(np.float32)}


def test_dropout_is_of_the_key_and_only_in_training():
    network = Network(small("small_cnn", dropout=0.5))
    variables = network.init(0)
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    keys = jax.random.split(jax.random.key(1), (2, 4))
    first, again, other = (network.train_logits(variables, x, keys[i])[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    scored = network.logits_and_features(variables, x)[0]
    plain = Network(small("small_cnn")).logits_and_features(variables, x)[0]
    np.testing.assert_array_equal(scored, plain)


def test_replicas_share_the_statistics_of_the_whole_batch():
    variables = Network(small("small_cnn")).init(0)
    x = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    keys = jax.random.split(jax.random.key(0), 8)
    whole, moved = Network(small("small_cnn")).train_logits(variables, x, keys)
    network = Network(small("small_cnn"), axis_name="replicas")
    parts, each = jax.vmap(
        lambda part, keys: network.train_logits(variables, part, keys), axis_name="replicas"
    )(x.reshape(2, 4, 32, 32, 3), keys.reshape(2, 4))
    np.testing.assert_allclose(parts.reshape(8, 1), whole, rtol=1e-4, atol=1e-4)
    for name, value in moved.items():
        np.testing.assert_allclose(each[name][0], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("frozen", [0, 2, 5])
def test_every_network_has_five_parts_and_a_head(name, frozen):
    network = Network(small(name), frozen_stages=frozen)
    assert {network.part_of(key) for key in network.shapes} == set(range(6))
    assert {network.part_of(key) for key in network.trainable} == set(range(frozen, 6))
    assert {key for key in network.shapes if network.part_of(key) == 5} == {
        "head/kernel",
        "head/bias",
    }


# Published weights


@pytest.fixture(scope="module")
def weights_file(shared):
    return shared / "weights/resnet50_v1_imagenet1k.safetensors"


def test_published_weights_know_a_cat_and_a_coffee(weights_file):
    photographs = pytest.importorskip("skimage.data", reason="scikit-image has the photographs")
    network = Network(Model("resnet50"), outputs=1000)
    weights = initial.read(weights_file, network, ("fracture",), Preprocess()).variables
    assert {name: value.shape for name, value in weights.items()} == network.shapes

    def crop(photograph):
        top, left = ((side - 224) // 2 for side in photograph.shape[:2])
        return photograph[top : top + 224, left : left + 224].astype(np.float32)

    rgb = np.stack([crop(photographs.chelsea()), crop(photographs.coffee())])
    mean = np.float32(CAFFE_BGR_MEAN)

    def likelihoods(network, x):
        return np.asarray(jax.nn.softmax(jax.jit(network.logits_and_features)(weights, x)[0]))

    cat, coffee = likelihoods(network, rgb[..., ::-1] - mean)
    assert cat.argmax() == EGYPTIAN_CAT
    assert coffee.argmax() == ESPRESSO
    assert cat.max() > 0.6
    assert coffee.max() > 0.95
    # Strides or channels of the other kind fit the same weights, and are worse.
    strided = Network(Model("resnet50", "v1.5"), outputs=1000)
    assert likelihoods(strided, rgb[..., ::-1] - mean)[0, EGYPTIAN_CAT] < 0.45
    assert likelihoods(network, rgb - mean[::-1])[1, ESPRESSO] < 0.8


@pytest.fixture(scope="module")
def keras_tensors(tiny_variables):
    """The weights of a resnet14 as Keras would have named and shaped them."""
    network = Network(Model("resnet14"))
    sources = {name: source_of(name, network, "keras_first") for name in network.shapes}
    return {
        source.name: np.asarray(tiny_variables[name]).reshape(source.shape)
        for name, source in sources.items()
    }


def read(path, model=Model("resnet14"), outputs=1):  # noqa: B008 - frozen
    return initial.read(
        path, Network(model, outputs=outputs), ("fracture",), Preprocess()
    ).variables


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_file_of_keras_names_comes_back(outputs, keras_tensors, tiny_variables, tmp_path):
    save_file(keras_tensors, tmp_path / "weights.safetensors")
    weights = read(tmp_path / "weights.safetensors", outputs=outputs)
    missing = set(tiny_variables) - set(weights)
    assert missing == (set() if outputs == 1 else {"head/kernel", "head/bias"})
    for name, value in weights.items():
        np.testing.assert_array_equal(value, tiny_variables[name])


def refusal(path, model=Model("resnet14")):  # noqa: B008 - frozen
    with pytest.raises(WeightsError) as caught:
        read(path, model)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


def test_weights_that_are_no_weights_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    assert "not a readable safetensors file" in refusal(text)


def test_v1_weights_are_refused_by_a_v15_network(keras_tensors, tmp_path):
    save_file(keras_tensors, tmp_path / "weights.safetensors")
    message = refusal(tmp_path / "weights.safetensors", Model("resnet14", "v1.5"))
    assert "model.strides=v1" in message


def test_a_missing_tensor_is_named(keras_tensors, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v for k, v in keras_tensors.items() if k != "bn4a_branch2c/gamma"}, path)
    message = refusal(path)
    assert "bn4a_branch2c/gamma" in message
    assert "stages/2/0/norm3/scale" in message


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("conv1/kernel", (7, 7, 1, 64)),
        ("res3a_branch2a/kernel", (3, 3, 256, 128)),
        ("res3a_branch2a/kernel", (256,)),
        ("res3a_branch1/kernel", (1, 1, 256, 256)),
        ("bn_conv1/gamma", (64, 1)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named(source, shape, keras_tensors, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(keras_tensors | {source: np.zeros(shape, np.float32)}, path)
    message = refusal(path)
    assert source in message
    assert str(shape) in message


def test_real_tensors_have_the_names_we_ask_for(weights_file):
    network = Network(Model("resnet50"))
    names = {source_of(name, network, "keras_first").name for name in network.shapes}
    assert names == set(load_file(weights_file))


@pytest.mark.parametrize("name", ["small_cnn", "vgg11", "resnet18", "densenet121"])
def test_weights_of_another_kind_of_network_are_refused(name, keras_tensors, tmp_path):
    save_file(keras_tensors, tmp_path / "weights.safetensors")
    assert "import-weights" in refusal(tmp_path / "weights.safetensors", Model(name))
