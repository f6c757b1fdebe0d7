"""Areas under the ROC curve and their intervals."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fracjax import evaluate, metrics
from fracjax.figure import Figure
from fracjax.metrics import auroc, auroc_difference


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Draw less often: what holds for many draws of the bootstrap holds for some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BOOTSTRAP_SAMPLES", 200)
        yield


def sample(n, seed):
    """Labels of both classes, and scores that tell them apart a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    return labels.astype(int), rng.normal(labels, 1.5).round(1)


def test_by_hand():
    # Of the 2 x 3 pairs, the positive is above in 4 and level in 1: 4.5 of 6.
    figure = auroc([1, 1, 0, 0, 0], [0.9, 0.4, 0.4, 0.1, 0.6], list("abcde"))
    assert figure.value == pytest.approx(4.5 / 6)
    assert (figure.n, figure.positives, figure.groups) == (5, 2, 5)


def test_perfect_and_inverted():
    labels, groups = [0, 1] * 10, [str(i) for i in range(20)]
    assert auroc(labels, labels, groups) == Figure(1.0, 1.0, 1.0, 20, 10, 20)
    assert auroc(labels, [-label for label in labels], groups).value == 0


@settings(max_examples=5, deadline=None)
@given(n=st.integers(12, 40), seed=st.integers(0, 1000))
def test_agrees_with_sklearn_inside_its_interval(n, seed):
    labels, scores = sample(n, seed)
    groups = [f"patient {i // 2}" for i in range(n)]
    figure = auroc(labels, scores, groups)
    assert figure.value == roc_auc_score(labels, scores)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert (figure.n, figure.positives, figure.groups) == (n, labels.sum(), len(set(groups)))


def test_copies_of_a_case_widen_the_interval_only_where_they_are_taken_for_cases():
    labels, scores = sample(60, 0)
    groups = np.arange(60).astype(str)
    once = auroc(labels, scores, groups)
    copied = auroc(labels.repeat(4), scores.repeat(4), groups.repeat(4))
    naive = auroc(labels.repeat(4), scores.repeat(4), np.arange(240).astype(str))
    assert copied.value == pytest.approx(once.value)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(8, 40), groups=st.integers(2, 8), seed=st.integers(0, 1000))
def test_the_intervals_are_those_of_sklearn_on_each_draw(n, groups, seed):
    labels, scores = sample(n, seed)
    others = -(scores**2)
    members = np.arange(n) % groups
    rng = np.random.default_rng(seed)
    areas, differences = [], []
    while len(areas) < metrics.BOOTSTRAP_SAMPLES:
        rows = [np.flatnonzero(members == group) for group in rng.integers(groups, size=groups)]
        drawn = np.concatenate(rows)
        if 0 < labels[drawn].sum() < len(drawn):
            areas.append(roc_auc_score(labels[drawn], scores[drawn]))
            differences.append(areas[-1] - roc_auc_score(labels[drawn], others[drawn]))
    figure = auroc(labels, scores, members, seed=seed)
    assert (figure.low, figure.high) == pytest.approx(np.quantile(areas, [0.025, 0.975]))
    figure = auroc_difference(labels, scores, others, members, seed=seed)
    assert figure.value == roc_auc_score(labels, scores) - roc_auc_score(labels, others)
    expected = np.quantile(differences, [0.025, 0.975])
    assert (figure.low, figure.high) == pytest.approx(expected, abs=1e-12)


def test_a_model_is_no_better_than_itself():
    labels, scores = sample(30, 2)
    figure = auroc_difference(labels, scores, 2 * scores, np.arange(30))
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)


def test_the_seed_decides_the_interval():
    labels, scores = sample(30, 1)
    groups = np.arange(30).astype(str)
    assert auroc(labels, scores, groups) == auroc(labels, scores, groups)
    one, other = (auroc(labels, scores, groups, seed=seed) for seed in (1, 2))
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_a_figure_in_words_has_its_cases_and_interval():
    text = str(Figure(0.8123, 0.7, 0.9, n=100, positives=20, groups=50))
    assert text == "0.812 (95 % interval 0.700 to 0.900; n = 100, 20 positive, 50 groups)"


def test_a_study_is_positive_if_one_of_its_images_is():
    """In whichever order the images come."""
    facts = [
        SimpleNamespace(study_id=study, label=label, group=study)
        for study, label in [("a", 1), ("a", 0), ("b", 0), ("b", 0), ("c", 0), ("d", 1)]
    ]
    likelihoods = np.float32([0.9, 0.5, 0.1, 0.3, 0.8, 0.6])
    figure = evaluate.overall(facts, likelihoods)["auroc_study"]
    assert (figure.n, figure.positives) == (4, 2)
    assert figure.value == pytest.approx(2 / 4)  # a 0.7 and d 0.6 against b 0.2 and c 0.8
    backwards = evaluate.overall(facts[::-1], likelihoods[::-1])["auroc_study"]
    assert backwards == figure
