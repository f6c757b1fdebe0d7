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


def batches_of(images, seed=0, epochs=2, batch_size=4, **shares):
    order = data.shuffled(len(images), epochs=epochs, seed=seed)
    samples = data.samples(order, images, weights_of(images), SMALL)
    return data.batches(samples, batch_size=batch_size, **shares)


def weights_of(images):
    """Weights that tell the images apart."""
    return np.arange(2 * len(images), dtype=np.float32).reshape(len(images), 1, 2)


def test_examples_are_those_of_their_splits(images, data_dir):
    alone = [data.load("frac_atlas", [split], data_dir) for split in TRAIN]
    assert len(images) == sum(map(len, alone))
    assert [ex.source for ex in images] == [ex.source for part in alone for ex in part]
    assert {ex.target for ex in images} == {"fracture"}
    assert {ex.label for ex in images} == {0, 1}
    assert images.name == "frac_atlas"
    assert images.splits == tuple(f"frac_atlas:{split}" for split in TRAIN)
    example = images[-1]
    assert example.source == images[len(images) - 1].source
    assert example.pixels().dtype == np.uint8
    assert example.boxes.shape == (example.label, 4)
    with pytest.raises(IndexError):
        images[len(images)]


def test_the_digest_is_of_the_pictures_too_in_any_order(images):
    def digest(records):
        return data.Radiographs("frac_atlas", "1.2.0", TRAIN, records).sha256

    records = list(images._records)
    assert digest(records) == digest(records[::-1]) == images.sha256
    assert digest(records[1:]) != images.sha256
    for change in ({"image": records[0]["image"] + b"x"}, {"label": 1 - records[0]["label"]}):
        assert digest([records[0] | change, *records[1:]]) != images.sha256
    assert images.subset(range(3)).sha256 == digest(records[:3])


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
    return all(np.array_equal(one[key], other[key]) for key in ("image", "weights"))


def test_a_batch_is_the_same_whenever_it_is_asked_for(images):
    batches = batches_of(images)
    first = batches[3]
    assert first["image"].shape == (1, 4, 32, 32)
    assert first["image"].dtype == np.uint8
    assert first["weights"].shape == (1, 4, 1, 2)
    assert first["weights"].dtype == np.float32
    assert same(first, batches[3])
    assert same(first, batches_of(images)[3])
    assert same(first, batches[2:][1])
    assert not same(first, batches[2])
    assert not same(first, batches_of(images, seed=1)[3])


def test_each_epoch_has_every_image_once_in_another_order(images):
    epochs = batches_of(images, epochs=3, batch_size=1)
    assert len(epochs) == 3 * len(images)
    seen = [batch["weights"].tobytes() for batch in epochs]
    n = len(images)
    orders = [seen[:n], seen[n : 2 * n], seen[2 * n :]]
    for order in orders:
        assert Counter(order) == Counter(orders[0])
        assert len(set(order)) == n
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_an_image_keeps_its_weights(images):
    expected = {
        weights.tobytes(): np.rint(network_input(ex.pixels(), SMALL) * 255).astype(np.uint8)
        for ex, weights in zip(images, weights_of(images), strict=True)
    }
    batches = batches_of(images)
    for batch in (batches[i] for i in range(len(batches))):
        for image, weights in zip(batch["image"][0], batch["weights"][0], strict=True):
            np.testing.assert_array_equal(expected[weights.tobytes()], image)


@pytest.mark.parametrize(("parts", "processes"), [(1, 2), (2, 1), (2, 2), (3, 2)])
def test_parts_and_processes_share_the_same_batches(parts, processes, images):
    whole = batches_of(images, batch_size=12)
    shares = [
        batches_of(images, batch_size=12, parts=parts, process=process, processes=processes)
        for process in range(processes)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for i in range(len(whole)):
        together = np.concatenate([share[i]["image"] for share in shares], axis=1)
        assert together.shape[:2] == (parts, 12 // parts)
        np.testing.assert_array_equal(together.reshape(12, 32, 32), whole[i]["image"][0])


def test_images_on_the_device_come_in_the_same_order(images):
    order = data.shuffled(len(images), epochs=2, seed=0)
    by_index = data.batches(data.indices(order), batch_size=4)
    resident = data.resident(images, weights_of(images), SMALL)
    streamed = batches_of(images)
    assert len(by_index) == len(streamed)
    for i in range(len(streamed)):
        rows = by_index[i]["index"]
        assert rows.dtype == np.int32
        assert same(streamed[i], {name: array[rows] for name, array in resident.items()})


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6])
def test_held_out_groups_are_whole_and_drawn_by_name(part, images):
    learned, out = data.hold_out(images, part, seed=1)
    assert sorted([*_sources(learned), *_sources(out)]) == sorted(_sources(images))
    assert not {fact.group for fact in learned.facts} & {fact.group for fact in out.facts}
    assert bool(len(out)) == (part > 0)
    assert [learned[i].source for i in range(len(learned))] == _sources(learned)
    # Who is held out does not depend on who else there is.
    fewer, _ = data.hold_out(images.subset(range(0, len(images), 2)), part, seed=1)
    assert set(_sources(fewer)) == set(_sources(learned)) & set(_sources(images)[::2])


def _sources(images):
    return [fact.source for fact in images.facts]


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


def test_a_split_that_is_named_twice_is_refused(data_dir):
    with pytest.raises(DataError, match="name each split once"):
        data.load("frac_atlas", ["fold_0", "fold_1", "fold_0"], data_dir)


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
