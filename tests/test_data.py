"""Labelled images: which there are, in what order, and what is refused."""

from collections import Counter

import numpy as np
import pytest

from fracjax import data
from fracjax.configs import Preprocess
from fracjax.errors import DataError
from fracjax.image import network_input

SMALL = Preprocess(image_size=32)
TRAIN = ("fold_1", "fold_2", "fold_3", "fold_4")


@pytest.fixture(scope="module")
def images(data_dir):
    return data.load("frac_atlas", TRAIN, data_dir)


def batches_of(images, seed=0, epochs=2, batch_size=4):
    return data.train_batches(images, SMALL, batch_size=batch_size, epochs=epochs, seed=seed)


def test_examples_are_those_of_their_splits(images, data_dir):
    alone = [data.load("frac_atlas", [split], data_dir) for split in TRAIN]
    assert len(images) == sum(map(len, alone))
    assert [ex.source for ex in images] == [ex.source for part in alone for ex in part]
    assert {ex.target for ex in images} == {"fracture"}
    assert {ex.label for ex in images} == {0, 1}
    assert (images.name, images.splits) == ("frac_atlas", TRAIN)
    example = images[-1]
    assert example.source == images[len(images) - 1].source
    assert example.pixels().dtype == np.uint8
    assert example.boxes.shape == (example.label, 4)
    with pytest.raises(IndexError):
        images[len(images)]


def test_neither_loading_nor_reading_imports_tensorflow(run_python, data_dir):
    code = (
        "import sys; from pathlib import Path; from fracjax import data;"
        "from fracjax.configs import Preprocess;"
        "images = data.load('frac_atlas', ['fold_0'], Path(sys.argv[1]));"
        "[example.pixels() for example in images];"
        "list(data.inputs(images, Preprocess(32), batch_size=2));"
        "print('tensorflow' in sys.modules)"
    )
    done = run_python("-c", code, data_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]


# Batches


def same(one, other):
    return all(np.array_equal(one[key], other[key]) for key in ("image", "label"))


def test_a_batch_is_the_same_whenever_it_is_asked_for(images):
    batches = batches_of(images)
    first = batches[3]
    assert first["image"].shape == (4, 32, 32)
    assert first["image"].dtype == np.uint8
    assert first["label"].shape == (4,)
    assert first["label"].dtype == np.int32
    assert same(first, batches[3])
    assert same(first, batches_of(images)[3])
    assert same(first, batches[2:][1])
    assert not same(first, batches[2])
    assert not same(first, batches_of(images, seed=1)[3])


def test_each_epoch_has_every_image_once_in_another_order(images):
    epochs = batches_of(images, epochs=3, batch_size=1)
    assert len(epochs) == 3 * len(images)
    seen = [batch["image"].tobytes() for batch in epochs]
    n = len(images)
    orders = [seen[:n], seen[n : 2 * n], seen[2 * n :]]
    for order in orders:
        assert Counter(order) == Counter(orders[0])
        assert len(set(order)) == n
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_an_image_keeps_its_label(images):
    expected = {
        np.rint(network_input(ex.pixels(), SMALL) * 255).astype(np.uint8).tobytes(): ex.label
        for ex in images
    }
    batches = batches_of(images)
    for batch in (batches[i] for i in range(len(batches))):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            assert expected[image.tobytes()] == label


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_inputs_come_in_order_and_unrounded(images, batch_size):
    batches = list(data.inputs(images, SMALL, batch_size=batch_size))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    expected = np.stack([network_input(example.pixels(), SMALL) for example in images])
    np.testing.assert_array_equal(np.concatenate(batches), expected)


# What is refused


def refusal(action, *arguments):
    with pytest.raises(DataError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_set_that_is_not_prepared_is_refused_with_the_command(tmp_path):
    message = refusal(data.load, "frac_atlas", TRAIN, tmp_path / "absent")
    assert "fracjax prepare frac_atlas" in message
    assert str(tmp_path / "absent") in message


def test_an_unknown_split_is_refused_with_the_known_ones(data_dir):
    message = refusal(data.load, "frac_atlas", ["fold_9"], data_dir)
    assert "'fold_9'" in message
    assert "fold_0, fold_1" in message


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path):
    for action in (
        lambda: data.load("chexpert", ["train"], tmp_path),
        lambda: data.prepare("chexpert", tmp_path, tmp_path),
    ):
        message = refusal(action)
        assert "'chexpert'" in message
        assert "frac_atlas, mura" in message


def test_an_archive_that_is_not_there_is_refused(tmp_path):
    message = refusal(data.prepare, "mura", tmp_path / "absent", tmp_path / "data")
    assert str(tmp_path / "absent") in message


def test_sets_that_share_a_group_are_refused(images, data_dir):
    valid = data.load("frac_atlas", ["fold_0"], data_dir)
    data.check_disjoint(images, valid)
    message = refusal(data.check_disjoint, images, images)
    groups = {example.group for example in images}
    assert message.startswith(f"{len(groups)} groups")
