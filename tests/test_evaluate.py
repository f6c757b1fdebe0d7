"""Cases of scored images, and all that is said of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax import evaluate
from fracjax.errors import DataError
from fracjax.evaluate import cases
from fracjax.evaluate.comparing import compare
from fracjax.evaluate.measuring import ALL, HALF, RANKING, find, measure_all
from fracjax.figure import Figure, Undefined
from fracjax.labels import UNKNOWN
from fracjax.metrics import Sample, decisions, intervals


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Draw less often: what holds for many draws of the bootstrap holds for some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 100)
        yield


def image(study, label, *, group=None, part="hand", hardware=0, view="frontal", findings=()):
    return SimpleNamespace(
        study_id=study,
        label=label,
        group=group or study,
        body_part=part,
        view=view,
        hardware=hardware,
        truncated=False,
        findings=findings,
    )


def of_studies(facts, likelihoods, how="mean"):
    images = cases.of_images(facts, np.float32(likelihoods))
    return cases.of_studies(images, [fact.study_id for fact in facts], how)


def many(seed=0, n=120):
    """Studies of one image, of two body parts, and likelihoods that tell them apart a little."""
    rng = np.random.default_rng(seed)
    facts = [
        image(
            f"s{i}",
            int(rng.random() < 0.4),
            group=f"p{i // 2}",
            part=("hand", "leg")[i % 2],
            hardware=int(i < 12),
        )
        for i in range(n)
    ]
    for fact in facts[:12]:
        fact.label = 1  # metal is fractured always, as in FracAtlas
    logits = [rng.normal(1.5 * fact.label - 1) for fact in facts]
    return facts, np.float32(1 / (1 + np.exp(-np.array(logits))))


def test_a_study_is_positive_if_one_of_its_images_is():
    """In whichever order the images come."""
    facts = [
        image(study, label)
        for study, label in [("a", 1), ("a", 0), ("b", 0), ("b", 0), ("c", 0), ("d", 1)]
    ]
    likelihoods = np.float32([0.9, 0.5, 0.1, 0.3, 0.8, 0.6])
    figure = evaluate.overall(facts, likelihoods)["auroc_study"]
    assert (figure.n, figure.positives) == (4, 2)
    assert figure.value == pytest.approx(2 / 4)  # a 0.7 and d 0.6 against b 0.2 and c 0.8
    backwards = evaluate.overall(facts[::-1], likelihoods[::-1])["auroc_study"]
    assert backwards == figure


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", 0.4), ("max", 0.7), ("noisy_or", 1 - 0.3 * 0.9)]
)
def test_a_studys_likelihood_is_that_of_its_images_together(how, expected):
    studies = of_studies([image("a", 0), image("b", 1), image("a", 0)], [0.7, 0.2, 0.1], how)
    np.testing.assert_allclose(studies.sample.scores, [expected, 0.2], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=20))
def test_ways_to_put_images_together_stand_in_order(images):
    """The mean is the least, the noisy or the most; of one image, all are the image's."""
    facts = [image(str(study), 0) for study, _ in images]
    mean, top, noisy = (
        of_studies(facts, [likelihood for _, likelihood in images], how).sample.scores
        for how in cases.AGGREGATIONS
    )
    assert (mean <= top + 1e-6).all()
    assert (top <= noisy + 1e-6).all()
    assert (noisy <= 1).all()
    _, counts = np.unique([study for study, _ in images], return_counts=True)
    np.testing.assert_allclose(mean[counts == 1], noisy[counts == 1], atol=1e-6)


def test_a_study_has_the_traits_of_all_its_images():
    facts = [
        image("a", 0, part="hand", hardware=0, view="frontal"),
        image("a", 0, part="wrist", hardware=1, view=""),
        image("b", 1, part="", hardware=UNKNOWN, view="lateral", findings=("cast",)),
    ]
    traits = of_studies(facts, [0.1, 0.2, 0.3]).traits
    assert traits["body_part"].tolist() == ["hand+wrist", ""]
    assert traits["hardware"].tolist() == ["yes", ""]
    assert traits["view"].tolist() == ["frontal", "lateral"]
    assert traits["cast"].tolist() == ["no", "yes"]
    assert "cast" not in of_studies(facts[:2], [0.1, 0.2]).traits, "nobody labelled casts"


def test_every_figure_has_its_cases_and_its_interval_or_a_reason():
    facts, likelihoods = many()
    studies = of_studies(facts, likelihoods)
    rows = measure_all(studies, {HALF: 0.5}, prevalence=0.1)
    assert len({(row.name, row.subset, row.at, row.prevalence) for row in rows}) == len(rows)
    for row in rows:
        assert row.figure.n > 0
        if isinstance(row.figure, Figure):
            assert row.figure.low <= row.figure.value <= row.figure.high
        else:
            assert row.figure.reason
    subsets = {row.subset for row in rows}
    assert subsets == {
        ALL, "body_part: hand", "body_part: leg", "hardware: no", "hardware: yes"
    }  # fmt: skip
    for subset in subsets:
        named = {row.name for row in rows if row.subset == subset}
        assert named >= {*RANKING, "auroc_delong", *decisions.RATES, *decisions.PREDICTIVE}


def test_a_subset_of_one_class_is_undefined_and_says_so():
    facts, likelihoods = many()
    rows = measure_all(of_studies(facts, likelihoods), {HALF: 0.5})
    metal = [row.figure for row in rows if row.subset == "hardware: yes"]
    assert metal
    assert set(metal) == {Undefined("there are no negatives", 12, 12, 6)}


def test_knowing_the_body_part_alone_is_worth_nothing_within_body_parts():
    rng = np.random.default_rng(1)
    facts = [
        image(f"s{i}", int(rng.random() < (0.7 if i % 2 else 0.1)), part=("leg", "hand")[i % 2])
        for i in range(200)
    ]
    rows = measure_all(of_studies(facts, [0.1 + 0.8 * (i % 2) for i in range(200)]), {})
    assert find(rows, "auroc").figure.low > 0.7
    assert find(rows, "auroc_within_body_part").figure.reason == intervals.NO_SPREAD


def test_a_reliability_next_to_nothing_is_not_said_to_be_anything():
    """An interval about its own log odds would reach from nothing to all."""
    rng = np.random.default_rng(2)
    likelihoods = rng.beta(0.5, 2, 600)
    facts = [
        image(f"s{i}", int(rng.random() < likelihood), group=f"g{i % 25}")
        for i, likelihood in enumerate(likelihoods)
    ]
    figure = find(measure_all(of_studies(facts, likelihoods), {}), "brier_reliability").figure
    assert 0 < figure.value < 0.003
    assert 0 < figure.low < figure.value < figure.high < 0.02


def test_predictive_values_are_said_of_the_prevalence_that_they_are_of():
    facts, likelihoods = many()
    studies = of_studies(facts, likelihoods)
    rows = measure_all(studies, {HALF: 0.5})
    assert {row.prevalence for row in rows} == {None}
    assert find(rows, "ppv", at=HALF).figure == find(rows, "precision", at=HALF).figure
    rows = measure_all(studies, {HALF: 0.5}, prevalence=0.02)
    ppv = next(row for row in rows if (row.name, row.subset) == ("ppv", ALL))
    precision = find(rows, "precision", at=HALF).figure
    assert ppv.prevalence == 0.02
    assert ppv.figure.value < precision.value


def test_what_cannot_be_measured_is_one_line():
    with pytest.raises(DataError, match="nothing can be measured"):
        evaluate.overall([image("a", 1), image("b", 1)], np.float32([0.1, 0.2]))


# Two models


def compared(first, other, labels):
    sample = Sample.of(labels, first, np.arange(len(labels)))
    return compare(cases.Cases("study", sample, {}), np.asarray(other), {"half": (0.5, 0.5)}, "b")


def test_a_better_model_is_called_better_and_the_other_worse():
    """Of 30 positives and 30 negatives the one calls all rightly, the other two thirds."""
    labels = np.repeat([1, 0], 30)
    right = np.where(labels == 1, 0.75, 0.25)
    wrong = np.arange(60) % 3 == 0
    worse = np.where(wrong, 1 - right, right)
    there, back = compared(right, worse, labels), compared(worse, right, labels)
    for comparison, verdict, sign in ((there, "better", 1), (back, "worse", -1)):
        named = {(apart.name, apart.at): apart for apart in comparison.differences}
        area = named["auroc", ""]
        assert area.verdict == verdict
        assert area.figure.value == pytest.approx(sign * 1 / 3)
        sensitivity = named["sensitivity", "half"]
        assert sensitivity.verdict == "zero is excluded"
        assert sensitivity.figure.value == pytest.approx(sign * 10 / 30)
        assert verdict in str(area)
        assert "better" not in str(sensitivity)
        assert f"the other {len(comparison.differences) - 1} intervals" in comparison.remark
    cells = [(calls.of, calls.only_first, calls.only_other) for calls in there.discordance]
    assert cells == [("positives", 10, 0), ("negatives", 10, 0)]
    assert [calls.p for calls in there.discordance] == pytest.approx([2 * 0.5**10] * 2)
    assert [(calls.only_first, calls.only_other) for calls in back.discordance] == [(0, 10)] * 2


def test_of_too_few_positives_no_model_is_called_better():
    labels = np.repeat([1, 0], [9, 50])
    comparison = compared(labels, 1 - labels, labels)
    assert {apart.verdict for apart in comparison.differences} == {"undefined"}
    assert "positives are of 9 groups only" in str(comparison.differences[0])
