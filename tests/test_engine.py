"""One picture has one score, however it comes in; and the model that ships is what it says."""

import importlib.metadata
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import fracjax
import fracjax.errors
from fracjax import bundle, data, evaluate
from fracjax.engine import Scorer, why_unfamiliar
from fracjax.forward import MOST_BATCH_SIZE
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


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (np.zeros((64, 64), np.float32), r"float32 \(64, 64\)"),
        (np.zeros((1, 32, 32), np.float32), r"float32 \(1, 32, 32\)"),
        (np.zeros((1, 64, 64, 1), np.float32), r"float32 \(1, 64, 64, 1\)"),
        (np.zeros((1, 64, 64), np.uint8), r"uint8 \(1, 64, 64\)"),
        (np.full((1, 64, 64), 255.0), "reach from 0 to 255"),
        (np.full((1, 64, 64), -0.5), "reach from -0.5 to 1"),
        (np.where(np.eye(64), np.nan, 0.5)[np.newaxis], "not finite"),
        (np.where(np.eye(64), np.inf, 0.5)[np.newaxis], "not finite"),
    ],
)
def test_what_is_no_picture_is_refused(inputs, what, scorer):
    with pytest.raises(ValueError, match=rf"\(n, 64, 64\) in 0\.\.1.*{what}"):
        scorer.score(inputs)


def test_rounding_and_a_wider_type_are_no_reason_to_refuse(scorer):
    whites = np.full((1, 64, 64), 1 + 1e-6, np.float32)
    picture = np.random.default_rng(2).random((1, 64, 64), np.float32)
    assert np.isfinite(scorer.score(whites).likelihoods).all()
    np.testing.assert_array_equal(
        scorer.score(picture.astype(np.float64)).likelihoods, scorer.score(picture).likelihoods
    )


@pytest.mark.parametrize("batch_size", [0, -1, MOST_BATCH_SIZE + 1, 99_999_999_999])
def test_a_batch_has_a_size(batch_size, tiny_bundle):
    with pytest.raises(fracjax.errors.UsageError, match=f"{batch_size} .* 1 to {MOST_BATCH_SIZE}"):
        fracjax.load(tiny_bundle, batch_size=batch_size)


def test_an_unfamiliar_picture_shows_no_likelihood(tiny_bundle, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    loaded = bundle.load(tiny_bundle)
    known = Scorer(loaded, batch_size=1).predict(tmp_path / "picture.png")
    assert known.familiar
    assert known.likelihood == known.raw_likelihood
    assert f"{known.raw_likelihood:.3f}  likelihood" in str(known)
    assert repr(known).startswith(f"<Prediction likelihood={known.raw_likelihood:.3f}, ")

    near = replace(loaded.manifest.gate, threshold=known.distance * 0.99)
    strict = replace(loaded, manifest=replace(loaded.manifest, gate=near))
    negative = replace(loaded, gate=loaded.gate._replace(offset=np.float32(1e9)))
    for changed, why in (
        (strict, "unlike those that the model learned from"),
        (negative, "negative"),
    ):
        strange = Scorer(changed, batch_size=1).predict(tmp_path / "picture.png")
        assert not strange.familiar
        assert strange.likelihood is None
        assert strange.raw_likelihood == pytest.approx(known.raw_likelihood, abs=1e-6)
        assert strange.distance == pytest.approx(known.distance, rel=1e-4)
        assert ("familiar up to" in str(strange)) == (changed is strict)
        for shown in (str(strange), repr(strange)):
            assert why in shown
            assert f"{strange.raw_likelihood:.3f}" not in shown
            assert "research use only" in shown.lower()
        assert repr(strange).startswith("<Prediction likelihood=None (the picture ")


def test_what_a_notebook_shows_is_one_line(scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (90, 70), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    noted = replace(scorer.predict(tmp_path / "picture.png"), notes=("truncated_rows",))
    for shown in (repr(noted), repr(scorer)):
        assert len(shown) < 200
        assert "\n" not in shown
        assert scorer.manifest.model_id in shown
        assert "target fracture" in shown
    assert "truncated_rows" in repr(noted)
    assert "2 body parts in scope, batch size 4" in repr(scorer)


def test_the_reason_of_an_unfamiliar_picture_holds_no_number():
    """It goes into tables, whose texts are the same for all pictures."""
    reasons = [why_unfamiliar(distance, 2.0) for distance in (2.0, 2.1, float("nan"))]
    assert "negative" in reasons[0]
    assert "unlike" in reasons[1]
    assert reasons[1] == reasons[2]
    assert not any(re.search("[0-9]", reason) for reason in reasons)


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


def test_all_names_are_found_and_importing_them_is_light(run_python):
    program = """
import sys
import fracjax
names = dir(fracjax)
print([name for name in ("jax", "numpy", "importlib.metadata") if name in sys.modules])
for name in fracjax.__all__:
    assert name in names, name
print(fracjax.Rejected.__module__, fracjax.BundleError.__module__)
print(fracjax.__version__, "jax" in sys.modules)
"""
    done = run_python("-c", program)
    assert done.stdout.splitlines() == [
        "[]",
        "fracjax.image.picture fracjax.errors",
        f"{importlib.metadata.version('fracjax')} False",
    ], done.stderr
    names = {"Rejected", "BundleError", "__version__", "load", "Scorer", "Prediction"}
    assert names <= set(fracjax.__all__)
    assert all(getattr(fracjax, name) for name in fracjax.__all__)
    with pytest.raises(AttributeError, match="radiograph"):
        _ = fracjax.radiograph
