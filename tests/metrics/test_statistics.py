"""Every statistic against scikit-learn's, with weights, and against cases done by hand."""

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fracjax.metrics import decisions, ranking, reliability

SEEDS = st.integers(0, 10_000)


def weighted_cases(seed):
    """Some cases with tied scores, and how often each was drawn; sometimes of one class."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 60))
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1).round(rng.integers(1, 4))
    return labels, scores, rng.multinomial(n, np.full(n, 1 / n), size=3).astype(float)


def drawn(labels, scores, weights):
    """Repeat each case as often as it was drawn."""
    times = weights.astype(int)
    return labels.repeat(times), scores.repeat(times)


def check(statistic, expected, seed, *, needs=(0, 1)):
    labels, scores, weights = weighted_cases(seed)
    for row, value in zip(weights, statistic(labels, scores, weights), strict=True):
        shown, scored = drawn(labels, scores, row)
        if not set(needs) <= set(shown.tolist()):
            assert np.isnan(value)
        else:
            assert value == pytest.approx(expected(shown, scored), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_areas_are_those_of_sklearn(seed):
    check(ranking.auroc, reference.roc_auc_score, seed)
    check(ranking.auprc, reference.average_precision_score, seed)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.sampled_from([0.5, 0.9, 0.95]))
def test_a_rate_at_a_bound_is_the_best_point_of_sklearns_curve(seed, least):
    def best_sensitivity(labels, scores):
        false_alarms, sensitivity, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
        return sensitivity[false_alarms <= 1 - least + 1e-12].max()

    def best_specificity(labels, scores):
        false_alarms, sensitivity, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
        return 1 - false_alarms[sensitivity >= least - 1e-12].min()

    check(ranking.sensitivity_at_specificity(least), best_sensitivity, seed)
    check(ranking.specificity_at_sensitivity(least), best_specificity, seed)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_decisions_are_those_of_sklearn(seed, threshold):
    def of_calls(function, **options):
        return lambda labels, scores: function(labels, scores >= threshold, **options)

    expected = {
        "accuracy": (of_calls(reference.accuracy_score), ()),
        "majority_rate": (lambda labels, _: labels.mean(), ()),  # before what is told of it
        "balanced_accuracy": (of_calls(reference.balanced_accuracy_score), (0, 1)),
        "sensitivity": (of_calls(reference.recall_score), (1,)),
        "specificity": (of_calls(reference.recall_score, pos_label=0), (0,)),
        "false_positive_rate": (
            lambda labels, scores: (scores[labels == 0] >= threshold).mean(),
            (0,),
        ),
        "f1": (of_calls(reference.f1_score, zero_division=0), (1,)),
        "mcc": (of_calls(reference.matthews_corrcoef), (0, 1)),
        "kappa": (of_calls(reference.cohen_kappa_score), (0, 1)),
    }
    assert expected.keys() | {"precision"} == decisions.RATES.keys()
    for name, (function, needs) in expected.items():
        statistic = decisions.at_threshold(decisions.RATES[name], threshold).statistic
        check(statistic, function, seed, needs=needs)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.sampled_from([0.3, 0.5]))
def test_predictive_values_are_those_of_sklearn_where_anything_is_called(seed, threshold):
    labels, scores, weights = weighted_cases(seed)
    for name, label in (("ppv", 1), ("npv", 0)):
        statistic = decisions.at_threshold(decisions.PREDICTIVE[name], threshold).statistic
        for row, value in zip(weights, statistic(labels, scores, weights), strict=True):
            shown, scored = drawn(labels, scores, row)
            called = (scored >= threshold).astype(int)
            if label not in called:
                assert np.isnan(value)
            else:
                assert value == pytest.approx(
                    reference.precision_score(shown, called, pos_label=label, zero_division=0)
                )


def test_predictive_values_at_another_prevalence_by_hand():
    """Of 1,000 at 10 %: 80 of 100 positives and 90 of 900 negatives give an alarm."""
    counts = decisions.Counts(*(np.array([value]) for value in (8.0, 1.0, 9.0, 2.0)))
    moved = {
        name: decisions.at_prevalence(rate, 0.1) for name, rate in decisions.PREDICTIVE.items()
    }
    ppv, npv, of_alarms = (rate.of(counts)[0] for rate in moved.values())
    assert ppv == pytest.approx(80 / 170)
    assert npv == pytest.approx(810 / 830)
    assert moved["false_alarms_per_true_alarm"].then(of_alarms) == pytest.approx(90 / 80)
    moved = decisions.at_prevalence(decisions.RATES["sensitivity"], 0.1)
    assert moved.of(counts)[0] == pytest.approx(0.8)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_the_area_within_strata_is_the_part_of_their_pairs(seed):
    labels, scores, weights = weighted_cases(seed)
    strata = np.random.default_rng(seed).integers(0, 3, len(labels))
    for row, value in zip(weights, ranking.within(strata)(labels, scores, weights), strict=True):
        times = row.astype(int)
        shown, scored, of = labels.repeat(times), scores.repeat(times), strata.repeat(times)
        pair = (shown[:, None] == 1) & (shown == 0) & (of[:, None] == of)
        order = (scored[:, None] > scored) + 0.5 * (scored[:, None] == scored)
        if not pair.any():
            assert np.isnan(value)
        else:
            assert value == pytest.approx(order[pair].mean())


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_brier_score_is_that_of_sklearn_and_the_sum_of_its_parts(seed):
    check(reliability.brier, reference.brier_score_loss, seed, needs=())
    labels, scores, weights = weighted_cases(seed)
    bins = reliability.equal_mass(scores)
    for bin_ in range(bins.count):  # where the likelihoods of a bin are one
        scores[bins.members == bin_] = scores[bins.members == bin_].mean()
    miscalibration = reliability.miscalibration(bins)(labels, scores, weights)
    resolution = reliability.resolution(bins)(labels, scores, weights)
    prevalence = weights @ labels / weights.sum(axis=1)
    uncertainty = reliability.uncertainty(prevalence)
    whole = miscalibration**2 - resolution + uncertainty
    assert whole == pytest.approx(reliability.brier(labels, scores, weights))


def test_calibration_error_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    scores = np.array([0.1, 0.1, 0.1, 0.1, 0.6, 0.6, 0.6, 0.6])
    bins = reliability.equal_mass(scores, bins=2)
    error = reliability.expected_calibration_error(bins)(labels, scores, np.ones((1, 8)))
    assert error[0] == pytest.approx((0.15 + 0.15) / 2)  # 0.25 - 0.1, and 0.75 - 0.6


def test_bins_hold_equally_many_and_never_part_equal_likelihoods():
    scores = np.random.default_rng(0).random(1000)
    counts = np.bincount(reliability.equal_mass(scores).members)
    assert len(counts) == 10
    assert counts.min() >= 99
    assert counts.max() <= 101
    tied = reliability.equal_mass(np.repeat([0.2, 0.8], [95, 5]))
    assert tied.count == 2


def test_perfect_likelihoods_have_the_unavoidable_error_and_no_more():
    rng = np.random.default_rng(1)
    scores = rng.random(2000)
    bins = reliability.equal_mass(scores)
    statistic = reliability.expected_calibration_error(bins)
    errors = [
        statistic((rng.random(2000) < scores).astype(int), scores, np.ones((1, 2000)))[0]
        for _ in range(100)
    ]
    mean, high = reliability.unavoidable_error(bins, scores)
    assert np.mean(errors) == pytest.approx(mean, rel=0.1)
    assert np.mean(np.array(errors) > high) <= 0.08
    too_sure = np.clip(scores * 1.5 - 0.25, 0.01, 0.99)
    assert statistic((scores > 0.5).astype(int), too_sure, np.ones((1, 2000)))[0] > max(errors)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_slope_and_intercept_are_those_of_a_regression(seed):
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, 80)
    labels = (rng.random(80) < 1 / (1 + np.exp(-(0.5 * odds - 0.4)))).astype(int)
    weights = rng.multinomial(80, np.full(80, 1 / 80), size=2).astype(float)
    assume(all(0 < row @ labels < 80 for row in weights))
    scores = 1 / (1 + np.exp(-odds))
    slopes = reliability.slope(labels, scores, weights)
    offsets = reliability.intercept(labels, scores, weights)
    for row, slope, offset in zip(weights, slopes, offsets, strict=True):
        model = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000)
        model.fit(odds[:, None], labels, sample_weight=row)
        assert slope == pytest.approx(model.coef_[0, 0], rel=1e-3, abs=1e-3)
        fitted = 1 / (1 + np.exp(-(odds + offset)))
        assert row @ fitted == pytest.approx(row @ labels)  # what defines it


def test_the_slope_says_in_which_way_likelihoods_are_wrong():
    rng = np.random.default_rng(2)
    odds = rng.normal(0, 1.5, 5000)
    labels = (rng.random(5000) < 1 / (1 + np.exp(-odds))).astype(int)
    ones = np.ones((1, 5000))

    def likelihoods(values):
        return 1 / (1 + np.exp(-values))

    assert reliability.slope(labels, likelihoods(odds), ones)[0] == pytest.approx(1, abs=0.1)
    assert reliability.slope(labels, likelihoods(2 * odds), ones)[0] == pytest.approx(0.5, abs=0.05)
    assert reliability.intercept(labels, likelihoods(odds), ones)[0] == pytest.approx(0, abs=0.1)
    too_low = reliability.intercept(labels, likelihoods(odds - 1), ones)[0]
    assert too_low == pytest.approx(1, abs=0.1)


def test_classes_that_part_cleanly_have_no_slope():
    labels, ones = np.array([0, 0, 1, 1]), np.ones((1, 4))
    assert np.isnan(reliability.slope(labels, np.array([0.1, 0.2, 0.8, 0.9]), ones)[0])
