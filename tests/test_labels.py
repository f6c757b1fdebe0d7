"""What is known of images, and what it weighs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fracjax import data, labels
from fracjax.configs import Loss
from fracjax.errors import DataError

IMAGE = data.Example(
    encoded=b"",
    label=1,
    target="fracture",
    body_part="hand+leg",
    view="",
    study_id="s",
    group="g",
    source="a.jpg",
    boxes=np.zeros((0, 4), np.float32),
    hardware=-1,
    findings=("cast", "ao:23-M/3.1"),
    truncated=False,
)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("fracture", 1),
        ("hardware", labels.UNKNOWN),
        ("body_part:hand", 1),
        ("body_part:leg", 1),
        ("body_part:hip", 0),
        ("cast", 1),
        ("ao:23-M/3.1", 1),
        ("ao:23-M/2.1", 0),
    ],
)
def test_what_an_image_says_of_a_label(label, value):
    assert labels.value(IMAGE, label) == value


def test_an_image_without_a_body_part_says_nothing_of_it():
    assert labels.value(replace(IMAGE, body_part=""), "body_part:hand") == labels.UNKNOWN


def test_a_label_that_cannot_be_learned_is_refused_with_those_that_exist():
    facts = [IMAGE, replace(IMAGE, label=0, findings=())]
    assert labels.known(facts, ("fracture", "cast")).tolist() == [[1, 1], [0, 0]]
    for label in ("hardware", "body_part:hand", "osteopenia"):
        with pytest.raises(DataError, match=f"both classes of '{label}'.*ao:23.*body_part:leg"):
            labels.known(facts, ("fracture", label))


tables = hnp.arrays(np.int8, st.tuples(st.integers(2, 30), st.just(2)), elements=st.integers(-1, 1))


def holds_both(table):
    return all({0, 1} <= set(column.tolist()) for column in table.T)


@given(table=tables.filter(holds_both))
def test_balanced_classes_count_alike_and_weigh_one_on_average(table):
    weighed = labels.weights(table, ["hand"] * len(table), Loss(weights="balanced"))
    negatives, positives = weighed.sum(axis=0).T
    np.testing.assert_allclose(negatives, positives, rtol=1e-5)
    np.testing.assert_allclose(negatives + positives, (table >= 0).sum(axis=0), rtol=1e-5)
    assert ((weighed > 0).sum(-1) == (table >= 0)).all()


def test_without_weights_each_known_label_counts_once():
    table = np.array([[0, -1], [1, 1], [1, 0]], np.int8)
    weighed = labels.weights(table, ["hand"] * 3, Loss(weights="none"))
    assert weighed.tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]], [[0, 1], [1, 0]]]


def test_the_weights_of_the_mura_paper_are_those_of_each_body_part():
    # Of the wrist, 1 of 4 is abnormal; of the hand, 2 of 3. The paper gives a positive the share of
    # the negatives, and a negative that of the positives.
    table = np.array([[1], [0], [0], [0], [1], [1], [0]], np.int8)
    parts = ["wrist"] * 4 + ["hand"] * 3
    weighed = labels.weights(table, parts, Loss(weights="mura"))[:, 0]
    np.testing.assert_allclose(weighed[0], [0, 3 / 4])
    np.testing.assert_allclose(weighed[1:4], [[1 / 4, 0]] * 3)
    np.testing.assert_allclose(weighed[4:6], [[0, 1 / 3]] * 2, rtol=1e-6)
    np.testing.assert_allclose(weighed[6], [2 / 3, 0], rtol=1e-6)
