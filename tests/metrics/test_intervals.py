"""Intervals: what is drawn, how often they cover, and where there are none."""

import contextlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from fracjax.figure import Figure, Undefined
from fracjax.metrics import (
    Bounded,
    Sample,
    decisions,
    delong,
    difference,
    intervals,
    measure,
    measure_each,
    ranking,
    reliability,
)

AUROC = Bounded(ranking.auroc)
SENSITIVITY, SPECIFICITY, PRECISION = (
    decisions.at_threshold(decisions.RATES[name], 0.5)
    for name in ("sensitivity", "specificity", "precision")
)


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Draw less often: what holds for many draws of the bootstrap holds for some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 200)
        yield


def auroc(labels, scores, groups, **how):
    return measure(AUROC, Sample.of(labels, scores, groups), **how)


def sample(n, seed):
    """Labels of both classes, and scores that tell them apart a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3 == 0
    return labels.astype(int), rng.normal(labels, 1.5).round(1)


def clustered(seed, groups, spread, rate=0.4, distance=1):
    """Draw patients with two images each, which share a part of how hard they are."""
    rng = np.random.default_rng(seed)
    members = np.arange(groups).repeat(2)
    labels = (rng.random(groups) < rate).astype(int)[members]
    shared = rng.normal(0, spread, groups)[members]
    scores = distance * labels + shared + rng.normal(0, np.sqrt(1 - spread**2), 2 * groups)
    return Sample.of(labels, scores, members)


def test_by_hand():
    # Of the 2 x 3 pairs, the positive is above in 4 and level in 1: 4.5 of 6.
    figure = auroc([1, 1, 0, 0, 0], [0.9, 0.4, 0.4, 0.1, 0.6], list("abcde"))
    assert figure.value == pytest.approx(4.5 / 6)
    assert (figure.n, figure.positives, figure.groups) == (5, 2, 5)


@settings(max_examples=5, deadline=None)
@given(n=st.integers(12, 40), seed=st.integers(0, 1000))
def test_agrees_with_sklearn_inside_its_interval(n, seed):
    labels, scores = sample(n, seed)
    groups = [f"patient {i // 2}" for i in range(n)]
    figure = auroc(labels, scores, groups)
    assert figure.value == pytest.approx(roc_auc_score(labels, scores))
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
@given(n=st.integers(8, 40), groups=st.integers(4, 9), seed=st.integers(0, 1000))
def test_the_intervals_are_those_of_sklearn_on_each_draw(n, groups, seed):
    labels, scores = sample(n, seed)
    others = -(scores**2)
    groups = min(n, groups)
    members = np.arange(n) % groups
    areas, differences = [], []
    for weights in intervals.weights_of(members, seed):
        for times in weights.astype(int):
            shown = labels.repeat(times)
            if 0 < shown.sum() < len(shown):
                areas.append(roc_auc_score(shown, scores.repeat(times)))
                differences.append(areas[-1] - roc_auc_score(shown, others.repeat(times)))
    cases = Sample.of(labels, scores, members)
    figure = measure(AUROC, cases, seed=seed)
    rarer = len(set(members[labels == 1]))
    if rarer < 2:
        assert (figure.low, figure.high) == (0, 1)
        return
    widened = stats.t.ppf(0.975, min(rarer, groups) - 1) * np.sqrt(groups / (groups - 1))
    area = roc_auc_score(labels, scores)
    apart = area - roc_auc_score(labels, others)
    assume(0 < area < 1 and abs(apart) < 1)  # ends have no slope, and an interval of their own
    reach = widened * np.std(areas, ddof=1) / (area * (1 - area))
    expected = special.expit(special.logit(area) + np.array([-reach, reach]))
    assert (figure.low, figure.high) == pytest.approx(expected)
    figure = difference(ranking.auroc, cases, others, seed=seed)
    assert figure.value == pytest.approx(apart)
    reach = widened * np.std(differences, ddof=1) / (1 - apart**2) * 2
    expected = 2 * special.expit(special.logit((1 + apart) / 2) + np.array([-reach, reach])) - 1
    assert (figure.low, figure.high) == pytest.approx(expected)


def test_a_draw_holds_whole_groups():
    members = np.array([0, 0, 1, 2, 2, 2])
    for weights in intervals.weights_of(members, 0):
        assert (weights.sum(axis=1) > 0).all()
        for group in range(3):
            assert (np.ptp(weights[:, members == group], axis=1) == 0).all()
        drawn = weights[:, [0, 2, 3]]
        assert (drawn.sum(axis=1) == 3).all()


def test_a_model_is_no_better_than_itself():
    labels, scores = sample(30, 2)
    figure = difference(ranking.auroc, Sample.of(labels, scores, np.arange(30)), 2 * scores)
    assert figure.value == 0
    unseen = 1 - 0.025 ** (1 / 10)  # one of ten positives might have shown a difference
    assert (figure.low, figure.high) == pytest.approx((-unseen, unseen))


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


def test_nothing_is_certain_because_no_case_was_missed():
    """Of 10 groups that were all right, each as one case: 0.025 ** (1 / 10)."""
    labels = [0, 1] * 10
    figure = auroc(labels, labels, np.arange(20))
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(stats.binomtest(10, 10).proportion_ci(0.95).low)
    inverted = auroc(labels, [-label for label in labels], np.arange(20))
    assert (inverted.value, inverted.low) == (0, 0)
    assert inverted.high == pytest.approx(1 - figure.low)


@pytest.mark.parametrize(
    ("labels", "groups", "reason"),
    [
        ([1, 1, 1], "abc", "there are no negatives"),
        ([0, 0, 0], "abc", "there are no positives"),
    ],
)
def test_where_there_is_no_figure_it_says_why(labels, groups, reason):
    figure = auroc(labels, np.arange(len(labels)), list(groups))
    assert figure == Undefined(reason, len(labels), sum(labels), len(set(groups)))
    assert str(figure).startswith(f"undefined: {reason} (n = {len(labels)}")


@pytest.mark.parametrize("groups", ["aabc", "abcc", "aaaa"])
def test_of_one_group_nothing_is_known_but_the_value(groups):
    cases = Sample.of([1, 1, 0, 0], [0.9, 0.3, 0.5, 0.1], list(groups))
    figure = measure(AUROC, cases)
    assert (figure.value, figure.low, figure.high) == (0.75, 0, 1)
    apart = difference(ranking.auroc, cases, -cases.scores)
    assert (apart.low, apart.high) == (-1, 1)


def test_no_alarm_has_no_precision():
    cases = Sample.of([0, 1] * 5, np.zeros(10), np.arange(10))
    figure = measure(PRECISION, cases)
    assert isinstance(figure, Undefined)
    assert figure.reason == "nothing was called positive"


@pytest.mark.parametrize(
    ("name", "alarms", "value", "exact"),
    [
        ("precision", [1, 1], 1, stats.binomtest(2, 2)),
        ("precision", [0, 0], 0, stats.binomtest(0, 2)),
        ("npv", [0, 0], 1, stats.binomtest(2, 2)),
    ],
)
def test_a_rate_at_its_bound_rests_on_what_it_divides_by(name, alarms, value, exact):
    """Of 200 studies, as many as here are alarms (silences), with these labels."""
    rate = (decisions.RATES | decisions.PREDICTIVE)[name]
    labels = np.array([*alarms, *[0, 1] * 99])
    scores = np.array([1] * len(alarms) + [0] * 198)
    if name == "npv":
        scores = 1 - scores
    figure = measure(
        decisions.at_threshold(rate, 0.5), Sample.of(labels, scores, np.arange(len(labels)))
    )
    interval = exact.proportion_ci(0.95)
    assert figure.value == value
    assert (figure.low, figure.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("prevalence", [0.01, 0.1, 0.5])
def test_a_ppv_without_a_false_alarm_is_moved_to_the_prevalence_that_it_is_said_of(prevalence):
    """Of 3 right alarms among 10 positives and 15 negatives: the exact PPV, by Bayes' rule."""
    labels, scores = np.array([1] * 10 + [0] * 15), np.array([1] * 3 + [0] * 22)
    cases = Sample.of(labels, scores, np.arange(25))
    exact = stats.binomtest(3, 3).proportion_ci(0.95).low
    odds = exact / (1 - exact) * (prevalence / (1 - prevalence)) / (10 / 15)
    ppv, alarms = (
        measure(
            decisions.at_threshold(
                decisions.at_prevalence(decisions.PREDICTIVE[name], prevalence), 0.5
            ),
            cases,
        )
        for name in ("ppv", "false_alarms_per_true_alarm")
    )
    assert (ppv.value, ppv.high) == (1, 1)
    assert ppv.low == pytest.approx(odds / (1 + odds))
    assert alarms.high == pytest.approx(1 / odds)


def test_alarms_of_which_none_was_right_are_not_said_to_be_none():
    labels, scores = np.array([1] * 10 + [0] * 10), np.array([0] * 10 + [1] * 10)
    rate = decisions.PREDICTIVE["false_alarms_per_true_alarm"]
    figure = measure(decisions.at_threshold(rate, 0.5), Sample.of(labels, scores, np.arange(20)))
    assert figure.reason == "no alarm was right"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, 0.02, 0.4]))
def test_false_alarms_are_those_that_the_ppv_beside_them_tells(right, wrong, prevalence):
    labels = np.array([1] * 10 + [0] * 60)
    scores = np.array([1] * right + [0] * (10 - right) + [1] * wrong + [0] * (60 - wrong))
    cases = Sample.of(labels, scores, np.arange(70))
    ppv, alarms = (
        measure(
            decisions.at_threshold(
                rate if prevalence is None else decisions.at_prevalence(rate, prevalence), 0.5
            ),
            cases,
        )
        for rate in map(decisions.PREDICTIVE.get, ("ppv", "false_alarms_per_true_alarm"))
    )
    for told, part in ((alarms.value, ppv.value), (alarms.low, ppv.high), (alarms.high, ppv.low)):
        assert told == pytest.approx((1 - part) / part)


@pytest.mark.parametrize("positives", [3, 10, 11, 17])
def test_what_is_told_of_the_prevalence_is_told_of_its_whole_interval(positives):
    cases = Sample.of([1] * positives + [0] * (20 - positives), np.zeros(20), np.arange(20))
    base, majority, uncertainty = (
        measure(
            decisions.at_threshold(decisions.Rate(decisions.prevalence, "all", then=then), 0.5),
            cases,
        )
        for then in (None, decisions.majority_rate, reliability.uncertainty)
    )
    parts = np.linspace(base.low, base.high, 100_001)
    for figure, told in (
        (majority, np.maximum(parts, 1 - parts)),
        (uncertainty, parts * (1 - parts)),
    ):
        assert (figure.low, figure.high) == pytest.approx((told.min(), told.max()), abs=1e-5)
        assert figure.low <= figure.value <= figure.high


def test_a_slope_that_most_draws_lack_is_not_told_of_the_others():
    labels = np.array([0] * 15 + [1] * 15)
    scores = np.linspace(0.05, 0.95, 30)
    bounded = Bounded(reliability.slope, intervals.ANY, lack="they part cleanly")
    assert measure(bounded, Sample.of(labels, scores, np.arange(30))).reason == bounded.lack
    scores[[14, 15]] = scores[[15, 14]]
    reason = measure(bounded, Sample.of(labels, scores, np.arange(30))).reason
    assert reason.endswith("% of draws have none")


def test_an_f1_at_a_bound_rests_on_all_that_is_positive_or_called_so():
    """Of k cases none or all are both: the part p that the exact test leaves, as 2 p / (1 + p)."""
    labels, scores = np.array([1] * 10 + [0] * 10), np.array([0] * 10 + [1] * 5 + [0] * 5)
    f1 = decisions.at_threshold(decisions.RATES["f1"], 0.5)
    figure = measure(f1, Sample.of(labels, scores, np.arange(20)))
    part = stats.binomtest(0, 15).proportion_ci().high
    assert (figure.value, figure.low) == (0, 0)
    assert figure.high == pytest.approx(2 * part / (1 + part))
    figure = measure(f1, Sample.of(labels, labels, np.arange(20)))
    part = stats.binomtest(10, 10).proportion_ci().low
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low == pytest.approx(2 * part / (1 + part))


def test_no_false_alarm_is_not_none_ever():
    """Of 5 right alarms: as many for each right one as the exact PPV leaves open."""
    labels, scores = np.array([1] * 5 + [0] * 20), np.array([1] * 5 + [0] * 20)
    rate = decisions.PREDICTIVE["false_alarms_per_true_alarm"]
    figure = measure(decisions.at_threshold(rate, 0.5), Sample.of(labels, scores, np.arange(25)))
    least = stats.binomtest(5, 5).proportion_ci(0.95).low
    assert (figure.value, figure.low) == (0, 0)
    assert figure.high == pytest.approx((1 - least) / least)


@pytest.mark.parametrize("name", ["balanced_accuracy", "mcc", "kappa"])
def test_what_is_the_same_in_every_draw_is_no_estimate(name):
    cases = Sample.of([0, 1] * 20, np.zeros(40), np.arange(40))
    figure = measure(decisions.at_threshold(decisions.RATES[name], 0.5), cases)
    assert figure.reason == intervals.NO_SPREAD


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 30), groups=st.integers(1, 20), seed=st.integers(0, 1000))
def test_no_interval_is_a_point_or_leaves_what_can_be(n, groups, seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, n), rng.integers(0, 4, n) / 3
    cases = Sample.of(labels, scores, rng.integers(0, groups, n))
    rates = decisions.RATES | {
        name: decisions.at_prevalence(rate, 0.3) for name, rate in decisions.PREDICTIVE.items()
    }
    statistics = {"auroc": AUROC, "auprc": Bounded(ranking.auprc)} | {
        name: decisions.at_threshold(rate, 0.5) for name, rate in rates.items()
    }
    figures = measure_each(statistics, cases)
    apart = difference(ranking.auroc, cases, rng.permutation(scores))
    bounds = {name: bounded.bounds for name, bounded in statistics.items()}
    bounds |= {"apart": (-1, 1), "majority_rate": (0.5, 1)}
    bounds["false_alarms_per_true_alarm"] = (0, np.inf)
    for name, figure in (figures | {"apart": apart}).items():
        if isinstance(figure, Figure):
            least, most = bounds[name]
            assert least <= figure.low <= figure.value <= figure.high <= most, name
            assert figure.low < figure.high, name
    if len(set(labels)) == 2:
        with contextlib.suppress(ValueError):  # of one group, or an area of 0 or 1
            crossed = delong(cases)
            assert crossed.low < crossed.high


def test_a_difference_that_no_draw_moves_keeps_its_value():
    """A perfect order against scores that are all the same: 1 less 0.5, in every draw."""
    labels = np.array([1] * 20 + [0] * 30)
    there = difference(ranking.auroc, Sample.of(labels, labels, np.arange(50)), np.zeros(50))
    back = difference(ranking.auroc, Sample.of(labels, np.zeros(50), np.arange(50)), labels)
    unseen = 1 - 0.025 ** (1 / 20)
    assert (there.value, back.value) == (0.5, -0.5)
    assert (there.low, there.high) == pytest.approx((0.5 - unseen, 0.5 + unseen))


def test_two_cases_make_no_difference_sure():
    """One model has both positives, the other none."""
    labels = np.array([1, 1] + [0] * 48)
    cases = Sample.of(labels, labels, np.arange(50))
    figure = difference(SENSITIVITY.statistic, cases, np.zeros(50))
    assert (figure.value, figure.high) == (1, 1)
    assert figure.low < 0


# Coverage, by simulation


def clustered_runs(groups, rate, distance):
    """Draw many samples, and the true area that they are of."""
    samples = (clustered(seed, groups, 0.7, rate, distance) for seed in range(400))
    return stats.norm.cdf(distance / np.sqrt(2)), samples


@pytest.mark.parametrize(
    ("groups", "rate", "distance"), [(15, 0.4, 1), (25, 0.4, 2), (60, 0.15, 2), (60, 0.4, 1)]
)
def test_intervals_of_areas_cover_as_often_as_they_say(groups, rate, distance):
    truth, samples = clustered_runs(groups, rate, distance)
    hits = [
        figure.low <= truth <= figure.high
        for cases in samples
        if isinstance(figure := measure(AUROC, cases), Figure)
    ]
    # At 95 %, fewer than 92.5 % of 400 cover with a chance of 2 %.
    assert np.mean(hits) >= 0.925


def test_percentiles_and_delong_would_cover_too_seldom():
    """Which is why the intervals are none of these: 25 groups, and a true area of 0.92."""
    truth, samples = clustered_runs(25, 0.4, 2)
    hits = {"percentile": [], "delong": []}
    for cases in samples:
        areas = np.concatenate(
            [
                ranking.auroc(cases.labels, cases.scores, w)
                for w in intervals.weights_of(cases.groups, 0)
            ]
        )
        low, high = np.nanquantile(areas, [0.025, 0.975])
        hits["percentile"].append(low <= truth <= high)
        if areas.min() < 1:
            crossed = delong(cases)
            hits["delong"].append(crossed.low <= truth <= crossed.high)
    assert np.mean(hits["percentile"]) < 0.88
    assert np.mean(hits["delong"]) < 0.88


def test_intervals_that_take_images_for_cases_cover_too_seldom():
    truth = stats.norm.cdf(1 / np.sqrt(2))
    hits = []
    for seed in range(200):
        cases = clustered(seed, 60, spread=0.98)
        rows = np.arange(len(cases)).repeat(3)  # six views a patient, of which three are alike
        alone = Sample(cases.labels[rows], cases.scores[rows], np.arange(len(rows)))
        figure = measure(AUROC, alone, seed=seed)
        hits.append(figure.low <= truth <= figure.high)
    assert np.mean(hits) < 0.7


def test_intervals_of_rates_cover_as_often_as_they_say():
    truth = stats.norm.sf(0.5 - 1)
    hits = []
    for seed in range(400):
        figure = measure(SENSITIVITY, clustered(seed, 40, spread=0.7), seed=seed)
        hits.append(figure.low <= truth <= figure.high)
    assert np.mean(hits) >= 0.92


def test_intervals_of_precision_cover_as_often_as_they_say():
    """Of few alarms: 40 groups of two, of which about one in six is called."""
    hits, truth = [], 0.4 * stats.norm.sf(1.5 - 1)
    truth /= truth + 0.6 * stats.norm.sf(1.5)
    rate = decisions.at_threshold(decisions.RATES["precision"], 1.5)
    for seed in range(400):
        figure = measure(rate, clustered(seed, 40, spread=0.7), seed=seed)
        if isinstance(figure, Figure):
            hits.append(figure.low <= truth <= figure.high)
    assert np.mean(hits) >= 0.92


def test_differences_of_equal_models_exclude_zero_as_seldom_as_they_say():
    excluded = []
    for seed in range(400):
        cases = clustered(seed, 40, spread=0.5)
        rng = np.random.default_rng(seed)
        one, other = (cases.scores + rng.normal(0, 1, len(cases)) for _ in range(2))
        figure = difference(ranking.auroc, cases.with_scores(one), other, seed=seed)
        excluded.append(figure.low > 0 or figure.high < 0)
    assert np.mean(excluded) <= 0.075


# DeLong


def test_delong_by_hand():
    """Three positives and three negatives: placements 1, 2/3, 1/3, of either class."""
    cases = Sample.of([1, 1, 1, 0, 0, 0], [5, 3, 1, 4, 2, 0], range(6))
    placements = np.array([3, 2, 1]) / 3
    variance = placements.var(ddof=1) / 3 + placements.var(ddof=1) / 3
    half = 1.959964 * np.sqrt(variance)
    figure = delong(cases)
    assert figure.value == pytest.approx(6 / 9)
    assert (figure.low, figure.high) == pytest.approx(
        (6 / 9 - half, min(1, 6 / 9 + half)), abs=1e-6
    )


def test_delong_of_copies_is_that_of_the_cases():
    labels, scores = sample(60, 3)
    once = delong(Sample.of(labels, scores, np.arange(60)))
    copied = delong(Sample.of(labels.repeat(3), scores.repeat(3), np.arange(60).repeat(3)))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_the_bootstrap_and_delong_agree():
    cases = clustered(7, 200, spread=0.5)
    drawn, crossed = measure(AUROC, cases), delong(cases)
    assert (drawn.low, drawn.high) == pytest.approx((crossed.low, crossed.high), abs=0.015)
