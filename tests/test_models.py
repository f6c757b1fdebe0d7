"""Networks: their shapes, their frozen parts, and published weights in them."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax import lax
from safetensors.numpy import load_file, save_file

from fracjax.configs import CAFFE_BGR_MEAN, Model
from fracjax.errors import WeightsError
from fracjax.models import Network, load_keras_resnet
from fracjax.models.import_weights import keras_name
from fracjax.models.resnet import PointwiseConv

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


@pytest.mark.parametrize(
    ("name", "variables", "values"),
    [("resnet50", 320, 25_636_712), ("resnet101", 626, 44_707_176), ("resnet152", 932, 60_419_944)],
)
def test_counts_are_those_of_the_published_networks(name, variables, values):
    shapes = Network(Model(name), outputs=1000).shapes
    assert len(shapes) == variables
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == values


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
    _, moved = jax.jit(network.train_logits)(tiny_variables, x)
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


# Published weights


@pytest.fixture(scope="module")
def weights_file(shared):
    return shared / "weights/resnet50_v1_imagenet1k.safetensors"


def test_published_weights_know_a_cat_and_a_coffee(weights_file):
    photographs = pytest.importorskip("skimage.data", reason="scikit-image has the photographs")
    network = Network(Model("resnet50"), outputs=1000)
    weights = load_keras_resnet(weights_file, network, with_head=True)
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


def test_the_head_stays_out_unless_asked_for(weights_file):
    network = Network(Model("resnet50"))
    weights = load_keras_resnet(weights_file, network)
    assert set(network.shapes) - set(weights) == {"head/kernel", "head/bias"}
    with pytest.raises(WeightsError, match=r"fc1000/(bias|kernel) has shape"):
        load_keras_resnet(weights_file, network, with_head=True)


@pytest.fixture(scope="module")
def keras_tensors(tiny_variables):
    """The weights of a resnet14 as Keras would have named and shaped them."""
    tensors = {}
    for name, value in tiny_variables.items():
        source = keras_name(name)
        is_convolution = source.endswith("/kernel") and not source.startswith("fc")
        tensors[source] = value[None, None] if is_convolution and value.ndim == 2 else value
    return tensors


def test_a_file_of_keras_names_comes_back(keras_tensors, tiny_variables, tmp_path):
    save_file(keras_tensors, tmp_path / "weights.safetensors")
    weights = load_keras_resnet(
        tmp_path / "weights.safetensors", Network(Model("resnet14")), with_head=True
    )
    assert set(weights) == set(tiny_variables)
    for name, value in weights.items():
        np.testing.assert_array_equal(value, tiny_variables[name])


def refusal(path, model=Model("resnet14")):  # noqa: B008 - frozen
    with pytest.raises(WeightsError) as caught:
        load_keras_resnet(path, Network(model))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


def test_weights_that_are_no_weights_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    assert "not a readable safetensors file" in refusal(text)
    assert "not a readable safetensors file" in refusal(tmp_path)


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
    names = {keras_name(name) for name in Network(Model("resnet50")).shapes}
    assert names == set(load_file(weights_file))
