"""The loss, against values computed by hand and by Optax."""

from math import exp, log

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.configs import Loss
from fracjax.losses import smooth, weighted_loss


def weights_of(labels, negative=1.0, positive=1.0):
    """Weights (n, 2) of labels that are 0, 1 or -1 for unknown."""
    labels = np.asarray(labels)
    return np.stack([negative * (labels == 0), positive * (labels == 1)], -1).astype(np.float32)


def loss(logits, weights, config=Loss()):  # noqa: B008 - frozen
    return float(weighted_loss(np.float32(logits)[:, None], weights[:, None], config))


def test_a_logit_of_zero_costs_log_2():
    assert loss([0, 0], weights_of([0, 1])) == pytest.approx(log(2))


def test_each_class_has_its_own_weight():
    # log(1 + e^-2) for the positive that is called right, log(1 + e^1) for the negative called
    # wrong.
    right, wrong = log(1 + exp(-2)), log(1 + exp(1))
    assert loss([2, 1], weights_of([1, 0], 0.5, 3.0)) == pytest.approx((3 * right + wrong / 2) / 2)


def test_extreme_logits_stay_finite():
    assert loss([1e4, -1e4], weights_of([1, 0])) == 0
    assert loss([1e4, -1e4], weights_of([0, 1])) == 1e4


def test_what_is_unknown_costs_nothing_and_is_not_learned_from():
    gradient = jax.grad(lambda z: weighted_loss(z, weights_of([-1, 1])[:, None], Loss()))
    pulls = gradient(np.float32([[3.0], [0.0]]))
    assert pulls[0, 0] == 0
    assert pulls[1, 0] < 0


def test_outputs_are_learned_as_if_each_were_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3)).astype(np.float32)
    weights = np.stack([weights_of(rng.integers(-1, 2, 6)) for _ in range(3)], axis=1)
    alone = [weighted_loss(logits[:, i : i + 1], weights[:, i : i + 1], Loss()) for i in range(3)]
    assert float(weighted_loss(logits, weights, Loss())) == pytest.approx(float(sum(alone)))


@settings(max_examples=50, deadline=None)
@given(
    logit=st.floats(-20, 20, width=32),
    label=st.integers(0, 1),
    gamma=st.floats(0, 5),
    smoothing=st.floats(0, 0.9),
)
def test_it_agrees_with_optax(logit, label, gamma, smoothing):
    soft = label * (1 - smoothing) + smoothing / 2
    config = Loss(label_smoothing=smoothing)
    expected = optax.sigmoid_binary_cross_entropy(np.float32(logit), soft)
    assert loss([logit], weights_of([label]), config) == pytest.approx(float(expected), abs=1e-5)
    expected = optax.sigmoid_focal_loss(np.float32(logit), np.float32(label), gamma=gamma)
    focal = Loss("focal", focal_gamma=gamma)
    assert loss([logit], weights_of([label]), focal) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_the_focal_loss_has_a_gradient_everywhere(gamma, logit):
    config = Loss("focal", focal_gamma=gamma)
    gradient = jax.grad(lambda z: weighted_loss(z, weights_of([1])[:, None], config))
    assert np.isfinite(gradient(np.float32([[logit]]))).all()


@given(smoothing=st.floats(0, 0.99))
def test_smoothing_keeps_how_much_a_label_counts(smoothing):
    weights = weights_of([0, 1, -1], 0.5, 3.0)
    smoothed = np.asarray(smooth(weights, smoothing))
    np.testing.assert_allclose(smoothed.sum(-1), weights.sum(-1), rtol=1e-6)
    assert (smoothed[2] == 0).all()
