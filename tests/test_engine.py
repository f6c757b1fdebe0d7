"""One picture has one score, however it comes in; and the model that ships is what it says."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import fracjax
import fracjax.errors
from fracjax import bundle, data, evaluate
from fracjax.engine import Scorer
from image.dicom_files import dicom_bytes


@pytest.fixture(scope="module")
def scorer(tiny_bundle):
    return fracjax.load(tiny_bundle, batch_size=4)


@pytest.fixture(scope="module")
def shipped():
    return fracjax.load(batch_size=8)


def test_evaluation_measures_what_scoring_does(scorer, data_dir, tmp_path):
    images = data.load("frac_atlas", ["fold_0", "fold_1"], data_dir)
    evaluated = evaluate.predict(scorer, images)
    assert np.ptp(evaluated.likelihoods) > 1e-3, "the scores do not differ, so nothing is compared"
    for index, example in enumerate(images):
        path = tmp_path / "image"
        path.write_bytes(example.encoded)
        predicted = scorer.predict(path)
        assert predicted.likelihood == pytest.approx(evaluated.likelihoods[index], abs=1e-6)
        assert predicted.distance == pytest.approx(evaluated.distances[index], rel=1e-4)
        assert predicted.familiar == evaluated.familiar[index]


def test_a_plain_image_and_a_dicom_of_it_score_alike(scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    (tmp_path / "dicom").write_bytes(dicom_bytes(pixels.astype(np.uint32), bits=8))
    plain, dicom = (scorer.predict(tmp_path / name).likelihood for name in ("plain.png", "dicom"))
    assert dicom == pytest.approx(plain, abs=1e-6)


def test_the_last_batch_scores_as_a_full_one(scorer):
    inputs = np.random.default_rng(1).random((7, 64, 64), np.float32)
    whole = scorer.score(inputs)
    alone = [scorer.score(inputs[i : i + 1]) for i in range(len(inputs))]
    for name, tolerance in (("likelihoods", 1e-6), ("distances", 1e-4), ("familiar", 0)):
        one_by_one = np.concatenate([getattr(scores, name) for scores in alone])
        np.testing.assert_allclose(getattr(whole, name), one_by_one, rtol=tolerance, atol=1e-6)
        assert getattr(scorer.score(inputs[:0]), name).shape == (0,)


def test_an_unfamiliar_picture_shows_no_likelihood(tiny_bundle, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    loaded = bundle.load(tiny_bundle)
    known = Scorer(loaded, batch_size=1).predict(tmp_path / "picture.png")
    assert known.familiar
    assert known.likelihood == known.raw_likelihood
    assert f"{known.raw_likelihood:.3f}  likelihood" in str(known)

    near = replace(loaded.manifest.gate, threshold=known.distance * 0.99)
    strict = replace(loaded, manifest=replace(loaded.manifest, gate=near))
    negative = replace(loaded, gate=loaded.gate._replace(offset=np.float32(1e9)))
    for changed, why in ((strict, "familiar up to"), (negative, "negative")):
        strange = Scorer(changed, batch_size=1).predict(tmp_path / "picture.png")
        assert not strange.familiar
        assert strange.likelihood is None
        assert strange.raw_likelihood == pytest.approx(known.raw_likelihood, abs=1e-6)
        assert strange.distance == pytest.approx(known.distance, rel=1e-4)
        assert "unlike those that the model learned from" in str(strange)
        assert why in str(strange)
        assert f"{strange.raw_likelihood:.3f}" not in str(strange)
        assert "Research use only" in str(strange)


def test_a_body_part_outside_the_scope_is_no_picture(scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint32)
    for part, expected in (("HAND", None), ("CHEST", fracjax.image.Reason.OUT_OF_SCOPE)):
        (tmp_path / "dicom").write_bytes(dicom_bytes(pixels, bits=8, BodyPartExamined=part))
        if expected is None:
            assert scorer.predict(tmp_path / "dicom").likelihood > 0
        else:
            with pytest.raises(fracjax.image.Rejected) as rejected:
                scorer.predict(tmp_path / "dicom")
            assert rejected.value.reason == expected


def test_the_model_that_ships_names_its_target_and_its_measure(shipped):
    manifest = shipped.manifest
    figure = manifest.figures["auroc_study"]
    assert manifest.target == "fracture"
    assert figure.low < figure.value < figure.high
    assert figure.value >= 0.90
    assert figure.groups > 20
    assert not set(manifest.training.data.train) & set(manifest.training.data.valid)
    size = sum(file.stat().st_size for file in bundle.BUNDLED.iterdir())
    assert size < 50e6
    card = (bundle.BUNDLED / bundle.CARD_NAME).read_text()
    assert str(figure) in card
    assert "CC BY 4.0" in card
    assert "MIT" in card
    assert "Must not be used for" in card


def test_the_model_that_ships_reaches_its_figures(shipped, shared, tmp_path_factory):
    """On every fifth image that it was not trained on, from the files to the likelihood."""
    data_dir = tmp_path_factory.mktemp("real")
    data.prepare("frac_atlas", shared / "data", data_dir)
    images = data.load("frac_atlas", shipped.manifest.training.data.valid, data_dir)
    chosen = [images[index] for index in range(0, len(images), 5)]
    preprocess = shipped.manifest.preprocess
    inputs = [fracjax.image.network_input(example.pixels(), preprocess) for example in chosen]
    labels = [example.label for example in chosen]
    figure = shipped.manifest.figures["auroc_study"]
    # A fifth of the cases: the interval of all of them, and as much again, leaves room.
    slack = figure.high - figure.low
    scores = shipped.score(np.stack(inputs))
    assert abs(roc_auc_score(labels, scores.likelihoods) - figure.value) < slack
    rate = shipped.manifest.gate.false_reject["validation"]
    assert np.mean(~scores.familiar) <= rate.high + 0.01


def test_a_bundle_of_another_network_is_refused(tiny_bundle):
    loaded = bundle.load(tiny_bundle)
    missing = {name: value for name, value in loaded.variables.items() if name != "head/bias"}
    with pytest.raises(fracjax.errors.BundleError, match="head/bias"):
        Scorer(replace(loaded, variables=missing))
