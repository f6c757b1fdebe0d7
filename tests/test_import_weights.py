"""Published weights in our networks: the same numbers come out as in the libraries they are of.

``tests/reference`` holds what those libraries put out, and the programs that asked them.
"""

import contextlib
import functools
import io
import json
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from fracjax import initial
from fracjax.configs import CAFFE_BGR_MEAN, Model, Preprocess
from fracjax.errors import UsageError, WeightsError
from fracjax.models import Network, source_file, weights_file
from fracjax.models.import_weights import EPSILONS, PIXELS, import_weights, translate
from fracjax.models.naming import canonical, source_of
from fracjax.models.source_file import read_tensors
from reference.random_weights import PICTURES, pictures, random_tensor

REFERENCE = Path(__file__).parent / "reference"
EXPECTED = {
    **json.loads((REFERENCE / "torch.json").read_text()),
    **json.loads((REFERENCE / "keras.json").read_text()),
}
LEVEL = "xla_backend_optimization_level"
RANDOM = sorted(name for name in EXPECTED if not name.startswith("keras_first"))


@functools.cache
def network_of(model, outputs):
    return Network(model, outputs=outputs)


def tensors_of(model, naming, outputs=1000):
    """Make the random tensors of a network as the library has them."""
    network = network_of(model, outputs)
    sources = [source_of(name, network, naming) for name in network.shapes]
    return {s.name: random_tensor(s.name, s.shape) for s in sources if s is not None}


def agree(found, expected, scale):
    """Compare to a ten-thousandth of the largest value."""
    expected = np.asarray(expected)
    found = np.asarray(found)[:, : expected.shape[1]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("reference", RANDOM)
def test_a_network_puts_out_what_the_library_does(reference):
    naming, name, strides = reference.split("/")
    expected = EXPECTED[reference]
    model = Model(name, strides, norm_epsilon=EPSILONS[naming])
    tensors = tensors_of(model, naming)
    variables, outputs, _ = translate(Path("weights"), tensors, model, naming)
    assert outputs == 1000
    network = network_of(model, outputs)
    of_keras_vgg = naming == "keras" and name.startswith("vgg")
    x = pictures(*((1, 224, 224, 3) if of_keras_vgg else PICTURES))
    # Compiling costs more than running: let it do little.
    run = jax.jit(network.logits_and_features, compiler_options={LEVEL: 0})
    logits, features = run(variables, x)
    agree(logits, expected["logits"], expected["scale"])
    agree(features, expected["features"], np.abs(features).max())


def test_the_references_tell_strides_apart():
    v1, v15 = (EXPECTED[f"torchvision/resnet50/{strides}"] for strides in ("v1", "v1.5"))
    assert np.abs(np.subtract(v1["logits"], v15["logits"])).max() > 1e-2 * v1["scale"]


def test_real_weights_put_out_what_pytorch_does(shared):
    expected = EXPECTED["keras_first/resnet50/v1"]
    path = shared / "weights/resnet50_v1_imagenet1k.safetensors"
    network = Network(Model("resnet50"), outputs=1000)
    begin = initial.read(path, network, ("fracture",), Preprocess())
    assert set(begin.variables) == set(network.shapes)
    logits, features = jax.jit(network.logits_and_features)(
        begin.variables, 50 * pictures(*PICTURES)
    )
    agree(logits, expected["logits"], expected["scale"])
    agree(features, expected["features"], np.abs(features).max())


# Files of torch.save


def small_state_dict():
    shared = np.arange(24, dtype=np.float32)
    return {
        "plain": shared.reshape(2, 3, 4),
        "part": shared[5:9],
        "transposed": shared.reshape(4, 6).T,
        "every_other": shared[::2],
        "half": np.array([0.5, -2.0], np.float16),
        "bfloat16": np.array([1.5, -3.0], jax.numpy.bfloat16),
        "double": np.array([1 / 3], np.float64),
        "long": np.array(7),
        "parameter": np.ones(3, np.float32),
        "empty": np.empty((0, 4), np.float32),
    }


def read(path, data=None):
    return read_tensors(path, path.read_bytes() if data is None else data)


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth", "wrapped.pth"])
def test_files_of_pytorch_hold_what_was_saved(name):
    found, expected = read(REFERENCE / name), small_state_dict()
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        np.testing.assert_array_equal(found[key], array, key)


def test_a_file_is_read_on_a_machine_of_the_other_byte_order(tmp_path):
    source = zipfile.ZipFile(REFERENCE / "zip.pth")
    swapped = io.BytesIO()
    with zipfile.ZipFile(swapped, "w") as archive:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("byteorder"):
                data = b"big"
            archive.writestr(entry.filename, data)
    found = read(tmp_path / "big.pth", swapped.getvalue())
    np.testing.assert_array_equal(found["half"].byteswap(), small_state_dict()["half"])
    np.testing.assert_array_equal(found["plain"].byteswap(), small_state_dict()["plain"])


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def refusal(action, *arguments, error=WeightsError, **options):
    with pytest.raises(error) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_module_is_refused_by_the_name_of_what_it_would_run():
    message = refusal(read, REFERENCE / "module.pth")
    assert "torch.nn.modules.linear.Linear" in message
    assert "state_dict" in message


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused(protocol, tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps({"w": Bomb()}, protocol))
    assert "exec" in refusal(read, tmp_path / "bomb.pth", bomb.getvalue())
    start = (REFERENCE / "stream.pth").read_bytes()[:14]
    bomb = start + b"." + pickle.dumps(Bomb(), protocol)
    assert "exec" in refusal(read, tmp_path / "bomb.pth", bomb)


def test_a_pickle_outside_torch_is_no_weights_file(tmp_path):
    assert "not a readable weights file" in refusal(
        read, tmp_path / "bomb.pth", pickle.dumps(Bomb())
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["zip.pth", "stream.pth"])
def test_damage_is_one_line(name, data):
    whole = bytearray((REFERENCE / name).read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(8, len(whole) - 1))]
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(REFERENCE / name, bytes(whole))
    except WeightsError as error:
        assert len(str(error).splitlines()) == 1


def test_a_member_that_claims_to_be_encrypted_is_damage():
    """One bit of a file's directory says so."""
    whole = bytearray((REFERENCE / "zip.pth").read_bytes())
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    refusal(read, REFERENCE / "zip.pth", bytes(whole))


# Files of Keras

KERAS_SIZE = (REFERENCE / "keras.h5").stat().st_size


@settings(max_examples=10, deadline=None)
@given(end=st.integers(8, KERAS_SIZE - 1), place=st.integers(8, KERAS_SIZE - 1))
def test_a_damaged_file_of_keras_is_one_line(end, place):
    whole = (REFERENCE / "keras.h5").read_bytes()
    assert "copy it again" in refusal(read, REFERENCE / "keras.h5", whole[:end])
    changed = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
    with contextlib.suppress(WeightsError):
        read(REFERENCE / "keras.h5", changed)


def test_a_file_that_crashes_its_reader_is_refused(monkeypatch, tmp_path):
    """A stand-in for the HDF5 library: which bytes crash it depends on its version."""
    crash = tmp_path / "keras_file.py"
    crash.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(source_file, "KERAS_PROGRAM", crash)
    assert "ended with -6" in refusal(read, REFERENCE / "keras.h5")
    crash.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(source_file, "KERAS_SECONDS", 0.5)
    assert "not read within" in refusal(read, REFERENCE / "keras.h5")


def test_a_file_of_keras_holds_what_was_saved():
    shapes = {
        "conv1_conv/kernel": (3, 3, 3, 4),
        **{f"conv1_bn/{field}": (4,) for field in ("gamma", "beta")},
        **{f"conv1_bn/moving_{field}": (4,) for field in ("mean", "variance")},
        **{"fc1000/kernel": (4, 2), "fc1000/bias": (2,)},
    }
    found = read(REFERENCE / "keras.h5")
    assert set(found) == set(shapes)
    for name, shape in shapes.items():
        np.testing.assert_array_equal(found[name], random_tensor(name, shape))


def test_old_names_of_arrays_in_keras_files(tmp_path):
    """In the files of VGG they are ``block1_conv1_W_1:0``; Keras goes by their order."""
    kernel, bias = np.ones((3, 3, 3, 64), np.float32), np.zeros(64, np.float32)
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"block1_conv1"]
        file.create_group("input_1").attrs["weight_names"] = []
        group = file.create_group("block1_conv1")
        group.attrs["weight_names"] = [b"block1_conv1_W_1:0", b"block1_conv1_b_1:0"]
        group["block1_conv1_W_1:0"], group["block1_conv1_b_1:0"] = kernel, bias
    found = read(tmp_path / "vgg.h5")
    np.testing.assert_array_equal(found["block1_conv1/kernel"], kernel)
    np.testing.assert_array_equal(found["block1_conv1/bias"], bias)


def test_hdf5_of_another_layout_is_refused(tmp_path):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    said = refusal(read, tmp_path / "model.weights.h5")
    assert "model.save" in said
    assert "copy" not in said


def test_a_layer_that_no_network_here_has_is_named(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["layer_names"] = ["separable_1"]
        layer = file.create_group("separable_1")
        layer.attrs["weight_names"] = ["a", "b", "c"]
        for name in "abc":
            layer[name] = np.zeros(2, np.float32)
    said = refusal(read, tmp_path / "model.h5")
    assert "a layer separable_1 of 3 arrays" in said
    assert "copy" not in said


@pytest.mark.parametrize(
    ("naming", "theirs", "canonical_name"),
    [
        ("torchvision", "module.fc.weight", "fc.weight"),
        (
            "torchvision",
            "features.denseblock2.denselayer11.conv.1.weight",
            "features.denseblock2.denselayer11.conv1.weight",
        ),
        ("keras", "conv1/conv/kernel", "conv1_conv/kernel"),
        ("keras", "fc1000/bias", "predictions/bias"),
        ("keras_first", "fc1000/bias", "fc1000/bias"),
    ],
)
def test_old_names_stand_for_the_new(naming, theirs, canonical_name):
    assert canonical(theirs, naming) == canonical_name


# What is imported


@pytest.fixture(scope="module")
def small_tensors():
    """A resnet14 with four classes, as torchvision would have named it."""
    tensors = tensors_of(Model("resnet14"), "torchvision", outputs=4)
    return tensors | {"bn1.num_batches_tracked": np.array(7)}


OPTIONS = {
    "name": "resnet14",
    "naming": "torchvision",
    "strides": "v1.5",
    "licence": "BSD 3-Clause",
}
TORCH = Preprocess(channel_mean=PIXELS["rgb-imagenet"][0], channel_std=PIXELS["rgb-imagenet"][1])
FITTING = Model("resnet14", "v1.5", norm_epsilon=1e-5)


@pytest.fixture(scope="module")
def imported(small_tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    save_file(small_tensors, folder / "source.safetensors")
    summary = import_weights(folder / "source.safetensors", folder / "out.safetensors", **OPTIONS)
    return folder / "out.safetensors", summary


def test_an_imported_file_says_what_it_is(imported):
    path, summary = imported
    assert weights_file.read_facts(path) == summary.facts
    assert summary.facts.model == FITTING
    assert summary.facts.outputs == 4
    assert summary.facts.licence == "BSD 3-Clause"
    assert summary.facts.channel_mean == (123.675, 116.28, 103.53)
    assert re.fullmatch("[0-9a-f]{64}", summary.facts.source_sha256)
    assert summary.left_out == 1
    arrays = load_file(path)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert {n: a.shape for n, a in arrays.items()} == Network(FITTING, outputs=4).shapes
    assert not arrays["stem/bias"].any(), "torchvision's convolutions have no bias"


@pytest.mark.parametrize(
    ("model", "preprocess", "settings_"),
    [
        (Model("resnet14", "v1"), TORCH, ["preprocess.channel_mean=103.939,116.779,123.68"]),
        (Model("resnet14", "v1", norm_epsilon=1e-5), Preprocess(), ["model.norm_epsilon=0.001"]),
        (Model("resnet14", "v1.5"), Preprocess(), ["model.strides=v1"]),
    ],
)
def test_the_first_weights_of_keras_are_for_their_own_pixels(
    small_tensors, tmp_path, model, preprocess, settings_
):
    """Nothing in such a file says what it is for, but its naming does."""
    path = tmp_path / "keras.safetensors"
    save_file(small_tensors, path)
    said = refusal(initial.read, path, Network(model), ("fracture",), preprocess)
    for setting in settings_:
        assert f"--set {setting}" in said


@pytest.mark.parametrize("head", ["published", "pooled"])  # of a ResNet, the same
@pytest.mark.parametrize("outputs", [1, 4])
def test_training_begins_with_an_imported_file(imported, outputs, head, caplog):
    path, _ = imported
    network = Network(replace(FITTING, head=head), outputs=outputs)
    with caplog.at_level("INFO"):
        begin = initial.read(path, network, ("fracture",), TORCH)
    left = set(network.shapes) - set(begin.variables)
    assert left == (set() if outputs == 4 else {"head/kernel", "head/bias"})
    assert ("head begins at random" in caplog.text) == (outputs == 1)
    assert begin.licences == ("BSD 3-Clause",)
    stored = load_file(path)
    for name, value in begin.variables.items():
        np.testing.assert_array_equal(value, stored[name])


@pytest.mark.parametrize(
    ("model", "preprocess", "settings_"),
    [
        (replace(FITTING, strides="v1"), TORCH, ["model.strides=v1.5"]),
        (replace(FITTING, norm_epsilon=1e-3), TORCH, ["model.norm_epsilon=1e-05"]),
        (replace(FITTING, name="resnet50"), TORCH, ["model.name=resnet14"]),
        (
            FITTING,
            Preprocess(),
            [
                "preprocess.channel_mean=123.675,116.28,103.53",
                "preprocess.channel_std=58.395,57.12,57.375",
            ],
        ),
    ],
)
def test_a_run_of_other_settings_is_told_which_to_set(imported, model, preprocess, settings_):
    message = refusal(initial.read, imported[0], Network(model), ("fracture",), preprocess)
    for setting in settings_:
        assert f"--set {setting}" in message
    assert message.count("--set") == len(settings_)


def test_a_pooled_vgg_begins_with_the_stages_of_a_published_one(tmp_path):
    model = Model("vgg11", norm_epsilon=1e-5)
    network = Network(model, outputs=2)
    variables = {name: np.zeros(shape, np.float32) for name, shape in network.shapes.items()}
    facts = weights_file.Facts(model, 2, TORCH.channel_mean, TORCH.channel_std, "0" * 64, "")
    weights_file.write(tmp_path / "vgg.safetensors", facts, variables)

    def random_parts(config, outputs):
        wanted = Network(config, outputs=outputs)
        begin = initial.read(tmp_path / "vgg.safetensors", wanted, ("fracture",), TORCH)
        return {name.partition("/")[0] for name in set(wanted.shapes) - set(begin.variables)}

    assert random_parts(model, 2) == set()
    assert random_parts(model, 1) == {"head"}
    assert random_parts(replace(model, head="pooled"), 2) == {"head"}
    assert random_parts(replace(model, norm_epsilon=1e-3), 2) == set(), "it has no batch norm"


def test_a_file_without_a_head_is_imported_without_one(small_tensors, tmp_path):
    headless = {name: t for name, t in small_tensors.items() if not name.startswith("fc.")}
    save_file(headless, tmp_path / "source.safetensors")
    summary = import_weights(
        tmp_path / "source.safetensors", tmp_path / "out.safetensors", **OPTIONS
    )
    assert summary.facts.outputs == 0
    network = Network(FITTING)
    begin = initial.read(tmp_path / "out.safetensors", network, ("fracture",), TORCH)
    assert set(network.shapes) - set(begin.variables) == {"head/kernel", "head/bias"}


@pytest.mark.parametrize("kind", [np.float16, np.float64, jax.numpy.bfloat16])
def test_other_precisions_become_single(kind, small_tensors):
    tensors = {name: t.astype(kind) for name, t in small_tensors.items()}
    variables, *_ = translate(Path("weights"), tensors, FITTING, "torchvision")
    np.testing.assert_array_equal(
        variables["stem/kernel"],
        small_tensors["conv1.weight"].astype(kind).astype(np.float32).transpose(2, 3, 1, 0),
    )


# What is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer3.0.bn2.running_var": None}, ["no tensor layer3.0.bn2.running_var", "norm2/var"]),
        ({"fc.bias": None}, ["no tensor fc.bias"]),
        ({"layer1.9.conv1.weight": np.zeros(3)}, ["holds layer1.9.conv1.weight", "1 such"]),
        ({"conv1.weight": np.zeros((64, 1, 7, 7))}, ["conv1.weight has shape (64, 1, 7, 7)"]),
        ({"bn1.weight": np.zeros(64, np.int8)}, ["bn1.weight is of int8"]),
        ({"bn1.weight": np.full(64, np.nan)}, ["bn1.weight", "not finite"]),
        ({"bn1.weight": np.full(64, 1e300)}, ["bn1.weight", "not finite"]),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, words, small_tensors):
    tensors = {n: t for n, t in (small_tensors | change).items() if t is not None}
    message = refusal(translate, Path("weights"), tensors, FITTING, "torchvision")
    assert all(word in message for word in words), message


def test_weights_of_another_network_or_naming_are_refused(small_tensors):
    for name, naming in (("resnet14", "keras"), ("vgg11", "torchvision")):
        message = refusal(translate, Path("weights"), small_tensors, Model(name), naming)
        assert "none of the tensors" in message
    refusal(translate, Path("weights"), small_tensors, Model("resnet18"), "torchvision")
    refusal(translate, Path("weights"), small_tensors, Model("resnet50"), "torchvision")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strides": None}, "give --strides"),
        ({"name": "resnet50", "naming": "keras", "strides": "v1.5"}, "leave --strides out"),
        ({"name": "resnet18"}, "leave --strides out"),
        ({"name": "resnet18", "naming": "keras", "strides": None}, "keras has no resnet18"),
        ({"name": "vgg16_bn", "naming": "keras", "strides": None}, "keras has no vgg16_bn"),
        ({"name": "small_cnn", "strides": None}, "no small_cnn"),
        ({"naming": "timm"}, "give --pixels"),
    ],
)
def test_what_the_file_does_not_say_must_be_given(options, words, tmp_path):
    arguments = OPTIONS | options
    message = refusal(
        import_weights, tmp_path / "in", tmp_path / "out", error=UsageError, **arguments
    )
    assert words in message


def test_nothing_is_overwritten_and_nothing_half_written(imported, small_tensors, tmp_path):
    path, _ = imported
    assert "exists already" in refusal(import_weights, path, path, error=UsageError, **OPTIONS)
    absent = tmp_path / "absent.pth"
    assert "does not exist" in refusal(import_weights, absent, tmp_path / "out", **OPTIONS)
    assert "is no folder" in refusal(
        weights_file.write, tmp_path / "no/out", None, {}, error=UsageError
    )
    assert not list(tmp_path.iterdir())


def test_an_imported_file_that_was_changed_is_refused(imported, tmp_path):
    facts, variables = weights_file.read_facts(imported[0]), load_file(imported[0])
    del variables["stem/kernel"]
    weights_file.write(tmp_path / "short.safetensors", facts, variables)
    arguments = (Network(FITTING), ("fracture",), TORCH)
    assert "no stem/kernel" in refusal(initial.read, tmp_path / "short.safetensors", *arguments)
    save_file({}, tmp_path / "empty.safetensors", {"format": '"fracjax-weights"', "version": "9"})
    assert "version 9" in refusal(initial.read, tmp_path / "empty.safetensors", *arguments)
    save_file({}, tmp_path / "odd.safetensors", {"format": '"fracjax-weights"', "version": "1"})
    assert "damaged" in refusal(initial.read, tmp_path / "odd.safetensors", *arguments)


# A bundle as the beginning


def test_a_bundle_gives_its_head_to_the_same_labels_only(tiny_bundle):
    stored = Preprocess()
    network = Network(Model("resnet14"))
    begin = initial.read(tiny_bundle, network, ("fracture",), stored)
    assert set(begin.variables) == set(network.shapes)
    more = Network(Model("resnet14"), outputs=2)
    begin = initial.read(tiny_bundle, more, ("fracture", "hardware"), stored)
    assert set(more.shapes) - set(begin.variables) == {"head/kernel", "head/bias"}
    # Neither is a model of fracture the beginning of one's head that tells abnormality.
    begin = initial.read(tiny_bundle, network, ("abnormality",), stored)
    assert set(network.shapes) - set(begin.variables) == {"head/kernel", "head/bias"}


def test_a_bundle_of_other_pixels_is_refused(tiny_bundle):
    message = refusal(initial.read, tiny_bundle, Network(Model("resnet14")), ("fracture",), TORCH)
    assert f"--set preprocess.channel_mean={','.join(map(str, CAFFE_BGR_MEAN))}" in message
