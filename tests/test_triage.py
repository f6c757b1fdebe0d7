"""Bands with a guarantee: that it holds, by simulation, and that what cannot be held is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax import bundle, triage, triage_fitting
from fracjax.errors import DataError, UsageError
from fracjax.metrics import Sample
from fracjax.triage import ASSUMPTION, Claim

MODEL = {"model_id": "tiny", "weights_sha256": "abc", "gate_sha256": "def", "target": "fracture"}


def draw(seed, positives, negatives, decimals=9):
    """Draw studies of a model that tells them apart a little, worse than it says."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [positives, negatives])
    scores = 1 / (1 + np.exp(-rng.normal(2.0 * labels - 1, 1.5)))
    return Sample.of(labels, scores.round(decimals), np.arange(len(labels)))


def rates(bands, sample):
    """Give the part of positives that are ruled out, and of negatives that are ruled in."""
    missed = (sample.scores[sample.labels == 1] < bands.rule_out).mean()
    return missed, (sample.scores[sample.labels == 0] > bands.rule_in).mean()


@pytest.mark.parametrize(
    ("positives", "negatives", "claim", "decimals"),
    [
        (59, 400, Claim(), 9),
        (150, 150, Claim(0.05, 0.1, 0.9), 9),
        (300, 100, Claim(0.02, 0.05, 0.95), 2),  # with many ties
    ],
)
def test_the_guarantee_holds_as_often_as_it_says(positives, negatives, claim, decimals):
    """Over many labelled samples, each judged by a population of its own."""
    population = draw(10**6, 100_000, 100_000, decimals)
    held = []
    for seed in range(500):
        bands = triage_fitting.fit(draw(seed, positives, negatives, decimals), claim, **MODEL)
        missed, alarmed = rates(bands, population)
        held.append((missed <= claim.miss_rate, alarmed <= claim.false_alarm_rate))
    for share in np.mean(held, axis=0):
        # Of 500 at 95 %, fewer than 93 % hold with a chance of 2 %.
        assert share >= claim.confidence - 0.02


def test_the_guarantee_is_not_bought_by_ruling_nothing():
    bands = triage_fitting.fit(draw(0, 400, 2000), Claim(), **MODEL)
    sample = draw(1, 2000, 2000)
    missed, alarmed = rates(bands, sample)
    assert 0.01 < missed < 0.05
    assert 0.02 < alarmed < 0.05
    negatives = sample.scores[sample.labels == 0]
    assert (negatives < bands.rule_out).mean() > 0.3


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_one_study_less_than_needed_is_refused(rate, confidence):
    claim = Claim(rate, rate, confidence)
    needed = triage_fitting.fewest(rate, confidence)
    triage_fitting.fit(draw(0, needed, needed), claim, **MODEL)
    for positives, negatives in ((needed - 1, needed), (needed, needed - 1)):
        with pytest.raises(DataError, match=f"needs {needed} ") as caught:
            triage_fitting.fit(draw(0, positives, negatives), claim, **MODEL)
        assert "label more studies" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_fewest_by_hand():
    assert triage_fitting.fewest(0.49999999999999994, 0.5) == 2
    assert triage_fitting.fewest(0.5, 0.5) == 1
    assert triage_fitting.fewest(0.05, 0.95) == 59  # 0.95 ** 59 = 0.0485
    assert triage_fitting.fewest(0.1, 0.95) == 29


def test_studies_of_one_patient_count_once_for_a_label():
    sample = draw(0, 100, 100)
    twice = Sample(*(np.tile(array, 3) for array in (sample.labels, sample.scores, sample.groups)))
    once, tripled = (triage_fitting.fit(cases, Claim(), **MODEL) for cases in (sample, twice))
    assert (tripled.studies, tripled.positives) == (200, 100)
    assert (tripled.rule_out, tripled.rule_in) == (once.rule_out, once.rule_in)
    few = Sample(sample.labels, sample.scores, np.arange(200) % 50)
    with pytest.raises(DataError, match="the labels have 50"):
        triage_fitting.fit(few, Claim(), **MODEL)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_the_labels_decides_nothing(seed):
    sample = draw(seed, 80, 80)
    grouped = Sample(sample.labels, sample.scores, np.arange(160) // 2)
    order = np.random.default_rng(seed).permutation(160)
    one, other = (
        triage_fitting.fit(cases, Claim(0.1, 0.1, 0.9), **MODEL)
        for cases in (grouped, grouped.chosen(order))
    )
    assert (one.rule_out, one.rule_in) == (other.rule_out, other.rule_in)


def test_bands_never_overlap_even_of_a_model_that_parts_all():
    labels = np.repeat([1, 0], 200)
    scores = np.concatenate([np.linspace(0.9, 1, 200), np.linspace(0, 0.1, 200)])
    bands = triage_fitting.fit(Sample.of(labels, scores, np.arange(400)), Claim(), **MODEL)
    assert bands.rule_out <= bands.rule_in
    assert bands.band(0.95) == "rule_in"
    assert bands.band(0.01) == "rule_out"
    assert bands.band(bands.rule_in) == "uncertain"
    counts = bands.bands
    assert sum(count.studies for count in counts.values()) == 400
    assert counts["rule_out"].positives == 0


def test_what_is_written_is_read_again_and_says_what_it_assumes(tmp_path):
    bands = triage_fitting.fit(draw(0, 100, 100), Claim(), **MODEL)
    path = tmp_path / "site.json"
    bands.write(path)
    assert triage.read(path) == bands
    fields = json.loads(path.read_text())
    assert fields["assumption"] == ASSUMPTION
    assert "exchangeable" in ASSUMPTION
    said = "\n".join(bands.lines())
    assert ASSUMPTION in said
    assert "95 % confidence, at most 5 % of positive studies are ruled out, one of each" in said
    path.write_text(json.dumps(fields | {"version": 1}))
    with pytest.raises(DataError, match="version 1"):
        triage.read(path)
    path.write_text('{"format": 3}')
    with pytest.raises(DataError, match="describes no bands"):
        triage.read(path)
    with pytest.raises(DataError, match="cannot be read"):
        triage.read(tmp_path / "none.json")


def test_a_confidence_under_one_half_promises_nothing():
    with pytest.raises(UsageError, match=r"confidence 0.05 promises nothing; .* like 0.95"):
        Claim(confidence=0.05)


def test_where_some_patients_have_many_hard_studies_the_promise_is_of_one_of_each():
    """A tenth of patients have ten hard positives; of all studies more are missed than is promised.

    The first is what is promised, the second what ``ASSUMPTION`` warns of.
    """
    per_patient, per_study = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)

        def drawn(count, rng=rng):
            is_hard = rng.random(count) < 0.1
            members = np.repeat(np.arange(count), np.where(is_hard, 10, 1))
            return members, rng.normal(np.where(is_hard, 0, 2)[members], 1)

        members, odds = drawn(300)
        negatives = np.arange(400)
        sample = Sample.of(
            np.repeat([1, 0], [len(odds), 400]),
            1 / (1 + np.exp(-np.concatenate([odds, rng.normal(-2, 1, 400)]))),
            np.concatenate([members, 1000 + negatives]),
        )
        bands = triage_fitting.fit(sample, Claim(), **MODEL)
        members, odds = drawn(20_000)
        is_missed = 1 / (1 + np.exp(-odds)) < bands.rule_out
        per_study.append(is_missed.mean() <= 0.05)
        of_patient = np.bincount(members, is_missed) / np.bincount(members)
        per_patient.append(of_patient.mean() <= 0.05)
    assert np.mean(per_patient) >= 0.92
    assert np.mean(per_study) < 0.5


def test_bands_are_of_one_model_and_one_gate(tiny_bundle):
    manifest = bundle.load(tiny_bundle).manifest
    of_it = {
        "model_id": manifest.model_id,
        "weights_sha256": manifest.weights_sha256,
        "gate_sha256": manifest.gate.sha256,
    }
    bands = triage_fitting.fit(draw(0, 100, 100), Claim(), **(MODEL | of_it))
    triage.check_model(bands, manifest)
    for name, said in (
        ("model_id", "the bands are of 0, and the likelihoods of tiny"),
        ("weights_sha256", "the bands are of tiny"),
        ("gate_sha256", "another gate"),
    ):
        other = triage_fitting.fit(draw(0, 100, 100), Claim(), **(MODEL | of_it | {name: "0"}))
        with pytest.raises(UsageError, match=said):
            triage.check_model(other, manifest)


@pytest.mark.parametrize("wrong", [0.0, 1.0, 5.0, -1.0, float("nan")])
def test_what_is_no_claim_is_refused(wrong):
    for name in ("miss_rate", "false_alarm_rate", "confidence"):
        with pytest.raises(UsageError, match=name.replace("_", " ")):
            Claim(**{name: wrong})
