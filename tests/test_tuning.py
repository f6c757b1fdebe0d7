"""Calibration and operating points: what they are fitted on, and what holds elsewhere."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import special, stats

from fracjax import tuning
from fracjax.calibration import Calibration, check_prevalence
from fracjax.errors import UsageError
from fracjax.metrics import Sample, decisions, intervals, reliability

METHODS = ("temperature", "platt", "isotonic")


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Draw less often: what holds for many draws of the bootstrap holds for some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 100)
        yield


def studies(seed, n=600, rate=0.3, *, wrong=lambda odds: odds):
    """Draw studies by right odds, and give them likelihoods that are wrong in a given way."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(special.logit(rate), 2, n)
    labels = (rng.random(n) < special.expit(odds)).astype(int)
    return Sample.of(labels, special.expit(wrong(odds)), np.arange(n) // 2)


def made(method, scale=1.0, offset=0.0, knots=((0.0, 0.0), (1.0, 1.0)), prevalence=0.3):
    return Calibration(method, scale, offset, knots, prevalence, 100, 30, 50, "", {})


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("temperature", lambda odds: 3 * odds),
        ("platt", lambda odds: 1.5 * odds + 2),
        ("isotonic", lambda odds: np.where(odds > 0, 0.2 * odds + 1, 3 * odds + 1)),
    ],
)
def test_the_method_that_fits_is_found_and_mends_what_is_wrong(method, wrong):
    found = tuning.calibration(studies(0, 6000, wrong=wrong), "digest")
    assert found.method == method
    assert found.sha256 == "digest"
    assert min(found.log_losses.values()) == found.log_losses[method]
    elsewhere = studies(1, 6000, wrong=wrong)
    likelihoods = found(elsewhere.scores)
    ones = np.ones((1, len(elsewhere)))
    slope = reliability.slope(elsewhere.labels, likelihoods, ones)[0]
    assert slope == pytest.approx(1, abs=0.1)
    assert reliability.intercept(elsewhere.labels, likelihoods, ones)[0] == pytest.approx(
        0, abs=0.1
    )
    before, after = (
        reliability.brier(elsewhere.labels, scores, ones)[0]
        for scores in (elsewhere.scores, likelihoods)
    )
    assert after < before


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), method=st.sampled_from(METHODS), prevalence=st.floats(0.01, 0.99))
def test_no_calibration_turns_the_order_round(seed, method, prevalence):
    found = tuning._calibrated(method, studies(seed, 100))
    raw = np.linspace(0, 1, 201)
    for calibrated in (found(raw), found.at_prevalence(raw, prevalence)):
        assert (np.diff(calibrated) >= -1e-12).all()
        assert calibrated.min() >= 0
        assert calibrated.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_speak_against_the_model_do_not_turn_it_round(method):
    sample = studies(0, 200)
    found = tuning._calibrated(method, Sample(1 - sample.labels, sample.scores, sample.groups))
    assert (np.diff(found(np.linspace(0, 1, 50))) >= -1e-12).all()


def test_another_prevalence_is_bayes_rule():
    calibration = made("platt", prevalence=0.5)
    # 0.8 of 50 %: odds of 4. At 10 %, a ninth of them: 4 / 9 to 1.
    assert calibration.at_prevalence(0.8, 0.1) == pytest.approx(4 / 13)
    assert calibration.at_prevalence(0.8, 0.5) == pytest.approx(0.8)
    assert calibration.at_prevalence(0.8, None) == pytest.approx(0.8)
    certain = calibration.at_prevalence(np.array([0.0, 1.0]), 0.1)
    assert certain == pytest.approx([0, 1], abs=1e-4)
    assert 0 < certain[0] < certain[1] < 1, "nothing is certain"


def test_likelihoods_at_another_prevalence_are_frequencies_there():
    calibration = tuning.calibration(studies(0, 4000, wrong=lambda odds: 2 * odds), "")
    rng = np.random.default_rng(1)
    pool = studies(2, 40_000, wrong=lambda odds: 2 * odds)
    positives, negatives = (np.flatnonzero(pool.labels == label) for label in (1, 0))
    rows = np.concatenate([rng.choice(positives, 400), rng.choice(negatives, 7600)])  # 5 %
    rare = pool.chosen(rows)
    ones = np.ones((1, len(rare)))
    moved = calibration.at_prevalence(rare.scores, 0.05)
    assert moved.mean() == pytest.approx(0.05, abs=0.01)
    assert reliability.intercept(rare.labels, moved, ones)[0] == pytest.approx(0, abs=0.15)
    assert calibration(rare.scores).mean() > 0.1, "it needed moving"


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -1.0, 15.0, float("nan")])
def test_what_is_no_prevalence_is_refused(prevalence):
    with pytest.raises(UsageError, match="above 0 and below 1"):
        check_prevalence(prevalence)


def test_too_few_studies_of_a_label_tune_nothing():
    rare = studies(0, 60, rate=0.02)
    assert rare.labels.sum() < tuning.FEWEST_OF_A_CLASS
    assert tuning.calibration(rare, "") is None
    assert tuning.operating_points(rare) == {}
    common = studies(0, 200)
    one_group = Sample(common.labels, common.scores, np.zeros(200))
    assert tuning.calibration(one_group, "") is None
    assert tuning.operating_points(one_group) == {}


def test_nothing_is_certain_after_isotonic_regression():
    apart = Sample.of([0] * 50 + [1] * 50, np.linspace(0, 1, 100), np.arange(100))
    likelihoods = tuning._calibrated("isotonic", apart)(np.linspace(0, 1, 11))
    assert likelihoods.min() == pytest.approx(1 / 102)
    assert likelihoods.max() == pytest.approx(1 - 1 / 102)


def test_points_do_on_the_tuning_studies_what_their_rules_say():
    sample = studies(3)
    points = tuning.operating_points(sample)
    assert points.keys() == {"high_sensitivity", "high_specificity", "youden"}
    ones = np.ones((1, len(sample)))

    def rate(of, threshold):
        bounded = decisions.at_threshold(decisions.RATES[of], threshold)
        return bounded.statistic(sample.labels, sample.scores, ones)[0]

    high = points["high_sensitivity"]
    assert rate("sensitivity", high.threshold) >= 0.95
    above = sample.scores[sample.scores > high.threshold].min()
    assert rate("sensitivity", above) < 0.95
    sure = points["high_specificity"]
    assert rate("specificity", sure.threshold) >= 0.95
    below = sample.scores[sample.scores < sure.threshold].max()
    assert rate("specificity", below) < 0.95
    best = points["youden"].threshold
    sums = [rate("sensitivity", t) + rate("specificity", t) for t in sample.scores]
    assert rate("sensitivity", best) + rate("specificity", best) == max(sums)
    for point in points.values():
        assert point.low <= point.threshold <= point.high
        assert point.sensitivity.value == rate("sensitivity", point.threshold)
        assert point.specificity.n == len(sample)
    assert high.threshold < best < sure.threshold


@pytest.mark.parametrize(("positives", "least"), [(20, 0.94), (40, 0.94), (80, 0.92)])
def test_intervals_of_thresholds_cover_as_often_as_they_say(positives, least):
    """Of the likelihood that 5 % of all positives lie below; percentiles would cover 65 to 89."""
    truth = stats.norm.cdf(stats.norm.ppf(0.05, 1, 1))
    hits = []
    for seed in range(300):
        scores = stats.norm.cdf(np.random.default_rng(seed).normal(1, 1, positives))
        sample = Sample.of(np.ones(positives), scores, np.arange(positives))
        low, high = tuning.quantile_interval(sample, 0.05)
        hits.append(low <= truth <= high)
    assert np.mean(hits) >= least


def test_the_interval_of_a_quantile_by_hand():
    """Of 20 cases none is low enough; fewer than 3 of them lie below it with a chance of 98 %."""
    sample = Sample.of(np.ones(20), np.arange(1, 21) / 20, np.arange(20))
    assert tuning.quantile_interval(sample, 0.05) == (0, 4 / 20)
    assert tuning.quantile_interval(sample, 0.95) == (17 / 20, 1)
    grouped = Sample(sample.labels, sample.scores, np.arange(20) // 4)
    assert tuning.quantile_interval(grouped, 0.05) == (0, 2 / 5)


def test_where_the_top_is_a_negative_the_sure_point_calls_nothing():
    labels = [1] * 40 + [0] * 22
    sample = Sample.of(labels, [0.5] * 40 + [1.0] * 2 + [0.2] * 20, np.arange(62))
    assert tuning.operating_points(sample)["high_specificity"].threshold > 1


def test_what_was_tuned_survives_json():
    for method in METHODS:
        found = tuning._calibrated(method, studies(0, 100))
        text = json.dumps(asdict(found))
        assert TypeAdapter(Calibration).validate_json(text) == found
