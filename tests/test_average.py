"""The mean of several models: what it is, what it says of itself, and what has none."""

from dataclasses import replace

import numpy as np
import pytest

import fracjax
from fracjax import average, bundle, finish, metrics
from fracjax.card import render_card
from fracjax.configs import Optimizer
from fracjax.errors import BundleError, DataError, UsageError
from fracjax.models import weights_file
from fracjax.task import prepare


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Draw few bootstrap samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.intervals, "BOOTSTRAP_SAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiny_config, tiny_variables, data_dir):
    """Two bundles that began with one file of weights, and were trained otherwise."""
    folder = tmp_path_factory.mktemp("ingredients")
    preprocess = tiny_config.preprocess
    channels = preprocess.channel_mean, preprocess.channel_std
    facts = weights_file.Facts(tiny_config.model, 1, *channels, "0" * 64, "none")
    weights_file.write(folder / "first.safetensors", facts, tiny_variables)
    configs = (
        tiny_config,
        replace(tiny_config, optimizer=replace(tiny_config.optimizer, epochs=3)),
    )
    rng = np.random.default_rng(0)
    for number, config in enumerate(configs):
        moved = {
            name: (value * rng.uniform(0.99, 1.01, value.shape)).astype(np.float32)
            for name, value in tiny_variables.items()
        }
        task = prepare(config, data_dir, folder / "first.safetensors")
        (folder / str(number)).mkdir()
        finish.write_bundle(
            config,
            moved,
            folder / str(number),
            begin=task.begin,
            learned=task.learned,
            tuned_on=task.selecting,
            valid=task.valid,
            note="made up",
        )
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def averaged(sources, data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "mean"
    return workdir, average.average(sources, workdir, data_dir=data_dir, image_size=48)


def test_weights_are_the_mean_as_they_are_stored(sources, averaged):
    loaded = [bundle.load(source) for source in (*sources, averaged[0])]
    for name, value in loaded[2].variables.items():
        one, other = (each.variables[name] for each in loaded[:2])
        kind = np.float16 if name.endswith("kernel") else np.float32
        np.testing.assert_array_equal(value, ((one + other) / 2).astype(kind).astype(np.float32))
        assert not np.array_equal(one, other) or not one.any()


def test_the_bundle_scores_and_says_what_it_is(sources, averaged):
    workdir, manifest = averaged
    scorer = fracjax.load(workdir, engine="xla")
    assert scorer.manifest == manifest
    assert manifest.preprocess.image_size == manifest.training.preprocess.image_size == 48
    assert np.isfinite(scorer.score(np.zeros((1, 48, 48), np.float32)).likelihoods).all()
    first, second = (bundle.load(source).manifest for source in sources)
    assert manifest.provenance.averaged == (
        bundle.Ingredient(first.model_id, first.training),
        bundle.Ingredient(second.model_id, second.training),
    )
    assert replace(manifest.provenance, averaged=()) == first.provenance
    assert manifest.measured_on == first.measured_on
    assert manifest.gate.images == first.gate.images
    assert manifest.gate.sha256 != first.gate.sha256
    card = render_card(manifest)
    first_id, second_id = first.model_id, second.model_id
    assert f"mean of the weights of 2 models: {first_id} (`preprocess.image_size=32`)" in card
    assert f"{second_id} (`preprocess.image_size=32`, `optimizer.epochs=3`)" in card
    assert "the state after its run's last step" in card
    assert "The model is" not in card
    assert (workdir / finish.PREDICTIONS_NAME).exists()


def test_a_bundle_that_is_there_is_left_alone(sources, averaged, data_dir):
    with pytest.raises(BundleError, match="exists already"):
        average.average(sources, averaged[0], data_dir=data_dir)


def test_another_data_set_is_refused(sources, averaged, data_dir, tmp_path, monkeypatch):
    right = bundle.load

    def fewer(source):
        loaded = right(source)
        made = replace(loaded.manifest.provenance, train_images=7)
        return replace(loaded, manifest=replace(loaded.manifest, provenance=made))

    monkeypatch.setattr(bundle, "load", fewer)
    with pytest.raises(DataError, match=r"training images, and .* was trained on 7"):
        average.average(sources, tmp_path / "mean", data_dir=data_dir)
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "abnormality"}, "the target"),
        ({"measured_on": "other images"}, "data.valid"),
        ({"provenance": {"initial_weights": "1" * 64}}, "the first weights"),
        ({"provenance": {"train_images": 1}}, "the images learned from"),
        ({"preprocess": {"clahe": 2.0}}, r"preprocess \(but for the size\)"),
        ({"model": {"norm_epsilon": 1e-5}}, "the network"),
        ({"training": {"data": {"select": 0.1}}}, "data.select"),
    ],
)
def test_models_that_differ_in_more_than_their_training_have_no_mean(sources, change, said):
    first, second = (bundle.load(source).manifest for source in sources)
    average.check_alike([first, second])
    with pytest.raises(UsageError, match=f"differ in .*{said}.*, so that there is no mean"):
        average.check_alike([first, changed(second, change)])


def changed(value, change):
    """Replace fields of dataclasses, and of those in them."""
    return replace(
        value,
        **{
            name: changed(getattr(value, name), new) if isinstance(new, dict) else new
            for name, new in change.items()
        },
    )


def test_size_dropout_and_training_may_differ(sources):
    first, second = (bundle.load(source).manifest for source in sources)
    change = {
        "preprocess": {"image_size": 64},
        "model": {"dropout": 0.5},
        "training": {"optimizer": Optimizer(epochs=9)},
    }
    average.check_alike([first, changed(second, change)])


def test_one_model_or_one_that_began_at_random_has_no_mean(sources):
    first, second = (bundle.load(source).manifest for source in sources)
    with pytest.raises(UsageError, match="give two bundles or more"):
        average.check_alike([first])
    with pytest.raises(UsageError, match="are the same model"):
        average.check_alike([first, first])
    random = [changed(each, {"provenance": {"initial_weights": ""}}) for each in (first, second)]
    with pytest.raises(UsageError, match="began with random weights"):
        average.check_alike(random)
