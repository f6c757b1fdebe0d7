"""The loss, against values computed by hand."""

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracjax.losses import balanced_class_weights, weighted_binary_cross_entropy


def loss(logits, labels, class_weights=(1.0, 1.0)):
    return float(weighted_binary_cross_entropy(np.float32(logits), np.int32(labels), class_weights))


def test_a_logit_of_zero_costs_log_2():
    assert loss([0, 0], [0, 1]) == pytest.approx(log(2))


def test_each_class_has_its_own_weight():
    # log(1 + e^-2) for the positive that is called right, log(1 + e^1) for the negative called
    # wrong.
    right, wrong = log(1 + exp(-2)), log(1 + exp(1))
    assert loss([2, 1], [1, 0], (0.5, 3.0)) == pytest.approx((3 * right + 0.5 * wrong) / 2)


def test_extreme_logits_stay_finite():
    assert loss([1e4, -1e4], [1, 0]) == 0
    assert loss([1e4, -1e4], [0, 1]) == 1e4


@given(negatives=st.integers(1, 10_000), positives=st.integers(1, 10_000))
def test_balanced_classes_count_alike_and_weigh_one_on_average(negatives, positives):
    negative, positive = balanced_class_weights(negatives, positives)
    assert negatives * negative == pytest.approx(positives * positive)
    assert negatives * negative + positives * positive == pytest.approx(negatives + positives)
