"""One picture has one score, however it comes in; and the model that ships is what it says."""

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
    assert np.ptp(evaluated) > 1e-3, "the scores do not differ, so nothing is compared"
    for example, likelihood in zip(images, evaluated, strict=True):
        path = tmp_path / "image"
        path.write_bytes(example.encoded)
        assert scorer.predict(path).likelihood == pytest.approx(likelihood, abs=1e-6)


def test_a_plain_image_and_a_dicom_of_it_score_alike(scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    (tmp_path / "dicom").write_bytes(dicom_bytes(pixels.astype(np.uint32), bits=8))
    plain, dicom = (scorer.predict(tmp_path / name).likelihood for name in ("plain.png", "dicom"))
    assert dicom == pytest.approx(plain, abs=1e-6)


def test_the_last_batch_scores_as_a_full_one(scorer):
    inputs = np.random.default_rng(1).random((7, 64, 64), np.float32)
    whole = scorer.score(inputs)
    alone = np.concatenate([scorer.score(inputs[i : i + 1]) for i in range(len(inputs))])
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    assert scorer.score(inputs[:0]).shape == (0,)


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
    assert abs(roc_auc_score(labels, shipped.score(np.stack(inputs))) - figure.value) < slack


def test_a_bundle_of_another_network_is_refused(tiny_bundle):
    loaded = bundle.load(tiny_bundle)
    missing = {name: value for name, value in loaded.variables.items() if name != "head/bias"}
    with pytest.raises(fracjax.errors.BundleError, match="head/bias"):
        Scorer(bundle.Bundle(loaded.manifest, missing))
