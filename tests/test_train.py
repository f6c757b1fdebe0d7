"""Whole training runs, of seconds: what they write, that they resume, and what they refuse."""

import csv
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

import fracjax as fj
from fracjax import bundle, evaluate, finish, gate, gate_fitting, labels, metrics, train
from fracjax.claim import alone
from fracjax.errors import BundleError, DataError, TrainingError, UsageError, WeightsError
from fracjax.image.anatomy import SCOPES
from fracjax.task import prepare


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Report each step, and draw few bootstrap samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "RECORD_EVERY", 1)
        patch.setattr(metrics.intervals, "BOOTSTRAP_SAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_config, data_dir):
    """A run that nothing disturbed: its directory, its manifest, and what it reported."""
    workdir = tmp_path_factory.mktemp("runs") / "new/finished"
    reports = []
    manifest = train.fit(tiny_config, workdir, data_dir=data_dir, report=reports.append)
    return workdir, manifest, reports


def weights_of(workdir):
    return (workdir / "bundle" / bundle.WEIGHTS_NAME).read_bytes()


# What a run leaves


def test_a_run_reports_each_step_once(finished, tiny_config, data_dir):
    _, _, reports = finished
    images = len(fj.data.load("frac_atlas", tiny_config.data.train, data_dir))
    steps = images // 4 * 2
    assert [(report.step, report.steps) for report in reports] == [
        (i + 1, steps) for i in range(steps)
    ]
    assert reports[-1].epoch == 2
    assert all(np.isfinite(report.loss) for report in reports)


def test_a_run_writes_a_bundle_that_scores(finished, tiny_config):
    workdir, manifest, _ = finished
    loaded = bundle.load(workdir)
    assert loaded.manifest == manifest
    assert manifest.training == tiny_config
    assert manifest.target == "fracture"
    assert manifest.provenance.dataset == "frac_atlas/1.2.0"
    assert manifest.provenance.initial_weights == ""
    assert any("CC BY 4.0" in licence for licence in manifest.provenance.licences)
    assert manifest.model_id in (workdir / "bundle" / bundle.CARD_NAME).read_text()
    scores = fj.load(workdir, batch_size=1).score(np.full((1, 32, 32), 0.5, np.float32))
    assert 0 < scores.likelihoods[0] < 1


def test_figures_have_their_cases_and_agree_with_the_predictions(finished, data_dir):
    workdir, manifest, _ = finished
    valid = fj.data.load("frac_atlas", ["fold_0"], data_dir)
    for name in ("auroc_image", "auroc_study"):  # in FracAtlas, each study is one image
        figure = manifest.figures[name]
        assert figure.n == len(valid)
        assert figure.positives == sum(example.label for example in valid)
        assert figure.groups == len({example.group for example in valid})
    with (workdir / "valid_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [example.source for example in valid]
    sample = metrics.Sample.of(
        [int(row["label"]) for row in rows],
        [float(row["likelihood"]) for row in rows],
        [row["group"] for row in rows],
    )
    figure = metrics.measure(metrics.Bounded(metrics.ranking.auroc), sample)
    assert figure == manifest.figures["auroc_image"]


def test_figures_are_those_of_the_bundle_as_stored(finished, data_dir):
    workdir, _, _ = finished
    scorer = fj.load(workdir, batch_size=2)
    valid = fj.data.load("frac_atlas", ["fold_0"], data_dir)
    squares = [fj.image.network_input(ex.pixels(), scorer.manifest.preprocess) for ex in valid]
    with (workdir / "valid_predictions.csv").open(newline="") as file:
        predicted = [float(row["likelihood"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(scorer.score(np.stack(squares)).likelihoods, predicted, atol=0.01)


def test_the_best_epoch_is_the_model_and_patience_ends_a_run(
    tiny_config, data_dir, tmp_path, monkeypatch
):
    """The figures are made up. Started again, the run that ended early takes no further step."""
    figures = [0.6, 0.9, 0.5, 0.7, 0.95, 0.95]
    judged = []

    class Judge:
        def __init__(self, task):
            pass

        def __call__(self, variables):
            judged.append(variables)
            return {}, figures[len(judged) - 1]

    monkeypatch.setattr(train, "Judge", Judge)
    config = replace(
        tiny_config,
        data=replace(tiny_config.data, select=0.35),
        model=replace(tiny_config.model, name="small_cnn"),
        optimizer=replace(tiny_config.optimizer, epochs=len(figures), patience=2),
    )
    task = prepare(config, data_dir)
    for _ in range(2):
        learned = train.learn(task, tmp_path / "run")
        assert len(judged) == 4
        assert learned.keys() == judged[1].keys()
        for name, value in learned.items():
            np.testing.assert_array_equal(value, judged[1][name])
    assert any((judged[1][name] != judged[3][name]).any() for name in judged[1])


def test_a_directory_holds_one_run_at_a_time(tiny_config, data_dir, tmp_path):
    with alone(tmp_path):
        message = refusal(UsageError, tiny_config, tmp_path, data_dir=data_dir)
    assert "another process is at work" in message
    assert list(tmp_path.iterdir()) == []


# The gate


def test_a_run_fits_a_gate_and_measures_it(finished, tiny_config, data_dir):
    workdir, manifest, _ = finished
    train_images, valid_images = (
        fj.data.load("frac_atlas", splits, data_dir)
        for splits in (tiny_config.data.train, tiny_config.data.valid)
    )
    assert manifest.scope == tuple(sorted(SCOPES["frac_atlas"]))
    assert manifest.gate.images == 2 * len(train_images)
    with (workdir / "valid_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    far = [float(row["distance"]) > manifest.gate.threshold for row in rows]
    assert [row["familiar"] for row in rows] == [str(not strange) for strange in far]
    assert manifest.gate.false_reject["validation"] == gate.rate(np.array(far))
    for rates in (manifest.gate.false_reject, manifest.gate.false_accept):
        assert {rate.n for rate in rates.values()} == {len(valid_images)}
    scores = evaluate.predict(fj.load(workdir), valid_images, gate_fitting.inverted)
    assert manifest.gate.false_accept["validation, inverted"] == gate.rate(scores.familiar)


def test_the_threshold_is_of_distances_to_other_groups(finished, tiny_config, data_dir):
    """Most training images lie nearer to a gate that was fitted on them."""
    workdir, manifest, _ = finished
    images = fj.data.load("frac_atlas", tiny_config.data.train, data_dir)
    assert evaluate.predict(fj.load(workdir), images).distances.max() < manifest.gate.threshold


def test_a_gate_is_fitted_anew_on_what_was_learned_from(tiny_config, data_dir, tmp_path):
    """Not on the images that chose; and a report that is missing is written."""
    data = replace(tiny_config.data, select=0.35)
    config = replace(tiny_config, data=data, seed=1)
    told = []
    manifest = train.fit(
        config, tmp_path / "run", data_dir=data_dir, stage=lambda *stage: told.append(stage)
    )
    learned, measured = manifest.provenance.train_images, manifest.figures["auroc_image"].n
    assert learned < 16
    assert told == [
        *((f"fitting the gate, pass {number} of 3", 0, learned) for number in (1, 2, 3)),
        *((f"measuring, pass {number} of 3", 0, measured) for number in (1, 2, 3)),
        ("tuning", 0, 16 - learned),
    ]
    assert manifest.measured_on, "the digest of what the figures are of"
    assert manifest.calibration is None, "five images tune nothing"
    fitted = finish.fit_gate(tmp_path / "run", tmp_path / "new", data_dir=data_dir)
    assert fitted.gate.images == manifest.gate.images
    measured_anew = finish.measure(tmp_path / "run", tmp_path / "anew", data_dir=data_dir)
    assert measured_anew == manifest, "the same code measures the same"
    for name in (bundle.WEIGHTS_NAME, bundle.GATE_NAME):
        assert (tmp_path / "anew" / name).read_bytes() == (
            tmp_path / "run/bundle" / name
        ).read_bytes()
    (tmp_path / "run/report.html").unlink()
    assert train.fit(config, tmp_path / "run", data_dir=data_dir) == manifest
    assert (tmp_path / "run/report.html").exists()
    # It has learned from these groups, so they cannot choose once more.
    options = {"data_dir": data_dir, "initial_weights": tmp_path / "run"}
    assert "fold_1" in refusal(DataError, config, tmp_path / "again", **options)


@pytest.mark.parametrize("version", [1, 2])
def test_a_gate_can_be_fitted_anew(version, finished, data_dir, tmp_path):
    workdir, manifest, _ = finished
    old = shutil.copytree(workdir / "bundle", tmp_path / "old")
    if version == 1:
        fields = json.loads((old / bundle.MANIFEST_NAME).read_text()) | {"version": 1}
        for name in ("gate", "scope", "sha256"):
            del fields[name]
        (old / bundle.MANIFEST_NAME).write_text(json.dumps(fields))
        (old / bundle.GATE_NAME).unlink()
    noise = np.random.default_rng(0).random((5, 32, 32), np.float32)
    fitted = finish.fit_gate(old, tmp_path / "new", data_dir=data_dir, outside={"noise": noise})
    loaded = bundle.load(tmp_path / "new")
    assert loaded.manifest == fitted
    assert fitted.gate.false_accept["noise"] == gate.rate(
        fj.load(tmp_path / "new").score(noise).familiar
    )
    del fitted.gate.false_accept["noise"]
    assert fitted == manifest
    for one, other in zip(loaded.gate, bundle.load(workdir).gate, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    name = bundle.WEIGHTS_NAME
    assert (tmp_path / "new" / name).read_bytes() == (workdir / "bundle" / name).read_bytes()


def test_a_gate_is_not_fitted_for_a_place_that_is_taken(finished, tmp_path):
    workdir, _, _ = finished
    with pytest.raises(BundleError, match="exists already"):  # before the data set is missed
        finish.fit_gate(workdir, tmp_path, data_dir=tmp_path / "nothing")


def test_a_gate_is_not_fitted_on_other_images(finished, tiny_bundle, data_dir, tmp_path):
    with pytest.raises(DataError, match="trained on 18"):
        finish.fit_gate(tiny_bundle, tmp_path / "new", data_dir=data_dir)
    assert not (tmp_path / "new").exists()


# Interruption


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(step):
    def report(progress):
        if progress.step == step:
            raise Killed

    return report


def test_a_killed_run_goes_on_to_the_same_weights(finished, tiny_config, data_dir, tmp_path):
    workdir, manifest, reports = finished
    epoch = reports[-1].steps // 2
    with pytest.raises(Killed):
        train.fit(tiny_config, tmp_path, data_dir=data_dir, report=kill_at(epoch + 2))
    assert not (tmp_path / "bundle").exists()
    resumed = []
    again = train.fit(tiny_config, tmp_path, data_dir=data_dir, report=resumed.append)
    assert [report.step for report in resumed] == list(range(epoch + 1, 2 * epoch + 1))
    assert [report.loss for report in resumed] == [report.loss for report in reports[epoch:]]
    assert weights_of(tmp_path) == weights_of(workdir)
    assert replace(again, created="") == replace(manifest, created="")


def test_a_run_killed_before_its_bundle_trains_no_further(
    finished, tiny_config, data_dir, tmp_path, monkeypatch
):
    def kill(*_arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(bundle, "write", kill)
        train.fit(tiny_config, tmp_path, data_dir=data_dir)
    resumed = []
    train.fit(tiny_config, tmp_path, data_dir=data_dir, report=resumed.append)
    assert resumed == []
    assert weights_of(tmp_path) == weights_of(finished[0])


def test_a_finished_run_is_returned_as_it_is(finished, tiny_config, data_dir):
    workdir, manifest, _ = finished
    reports = []
    again = train.fit(tiny_config, workdir, data_dir=data_dir, report=reports.append)
    assert again == manifest
    assert reports == []


# What is refused


def refusal(error, config, workdir, **options):
    with pytest.raises(error) as caught:
        train.fit(config, workdir, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_another_configuration_in_the_same_directory(finished, tiny_config, data_dir):
    workdir, manifest, _ = finished
    message = refusal(UsageError, replace(tiny_config, seed=1), workdir, data_dir=data_dir)
    assert str(workdir) in message
    assert "seed: 0 there, 1 here" in message
    assert "--workdir" in message
    assert bundle.load(workdir).manifest == manifest


def test_a_refused_run_claims_no_directory(tiny_config, data_dir, tmp_path):
    workdir = tmp_path / "run"
    unprepared = tmp_path / "no data"
    message = refusal(DataError, tiny_config, workdir, data_dir=unprepared)
    assert "fracjax prepare frac_atlas" in message
    assert not (workdir / train.CLAIM_NAME).exists()


def test_a_batch_larger_than_the_data(tiny_config, data_dir, tmp_path):
    large = replace(tiny_config, optimizer=replace(tiny_config.optimizer, batch_size=1000))
    message = refusal(DataError, large, tmp_path, data_dir=data_dir)
    assert "1000" in message
    assert "smaller optimizer.batch_size" in message


@pytest.mark.parametrize("side", ["training", "validation"])
def test_splits_of_one_class(side, tiny_config, data_dir, tmp_path, monkeypatch):
    load = train.data.load

    def load_one_class(name, splits, data_dir):
        images = load(name, splits, data_dir)
        one_sided = splits == (
            tiny_config.data.train if side == "training" else tiny_config.data.valid
        )
        if one_sided:
            images._records = [record for record in images._records if record["label"] == 0]
        return images

    monkeypatch.setattr(train.data, "load", load_one_class)
    message = refusal(DataError, tiny_config, tmp_path, data_dir=data_dir)
    assert f"of the {side} splits are of one class" in message


def test_studies_need_both_classes_where_they_are_measured_only(
    tiny_config, data_dir, tmp_path, monkeypatch
):
    """Of a study with a fracture, another view may show none; to learn from, images count."""
    load = train.data.load

    def load_in_studies(name, splits, data_dir):
        images = load(name, splits, data_dir)
        if splits == mixed:
            images._records = [record | {"study_id": b"one"} for record in images._records]
        return images

    monkeypatch.setattr(train.data, "load", load_in_studies)
    mixed = tiny_config.data.train
    assert len(prepare(tiny_config, data_dir).learned) > 0
    mixed = tiny_config.data.valid
    message = refusal(DataError, tiny_config, tmp_path, data_dir=data_dir)
    assert "the studies of the validation splits" in message


def test_a_run_goes_on_with_the_images_it_began_with_only(
    finished, tiny_config, data_dir, tmp_path, monkeypatch
):
    workdir, _, _ = finished
    (tmp_path / train.CLAIM_NAME).write_bytes((workdir / train.CLAIM_NAME).read_bytes())
    monkeypatch.setattr(train.data.Radiographs, "sha256", "0" * 64)
    assert "other images" in refusal(UsageError, tiny_config, tmp_path, data_dir=data_dir)


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(
    tiny_config, data_dir, tmp_path, monkeypatch
):
    """The message says at which step, and where to find the studies of that batch by their keys."""
    weigh = labels.weights

    def spoilt(*arguments):
        weights = weigh(*arguments)
        weights[3] = np.nan
        return weights

    monkeypatch.setattr(train, "RECORD_EVERY", 100)  # so that the step lies back when it is told
    monkeypatch.setattr(labels, "weights", spoilt)
    message = refusal(TrainingError, tiny_config, tmp_path, data_dir=data_dir)
    task = prepare(tiny_config, data_dir)
    order = fj.data.shuffled(len(task.learned), epochs=2, seed=tiny_config.seed)
    batches = fj.data.batches(fj.data.indices(order), batch_size=4)
    broken = next(i for i in range(task.steps) if 3 in batches[i]["index"])
    assert f"at step {broken + 1};" in message
    assert "there is no checkpoint" in message
    assert "learning_rate" in message
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
    told = json.loads((tmp_path / train.BROKEN_NAME).read_text())
    facts = [task.learned.facts[i] for i in batches[broken]["index"].flat]
    assert told["step"] == broken + 1
    assert told["studies"] == sorted({fj.data.study_key(fact.study_id) for fact in facts})
    assert told["studies"][0] in message
    assert not any(fact.study_id in message for fact in facts)


def test_further_labels_are_learned_scored_and_measured(tiny_config, data_dir, tmp_path):
    config = replace(
        tiny_config,
        data=replace(tiny_config.data, labels=("body_part:leg",)),
        optimizer=replace(tiny_config.optimizer, epochs=1),
    )
    manifest = train.fit(config, tmp_path / "parent", data_dir=data_dir)
    assert "It also learned body_part:leg" in (tmp_path / "parent/bundle/CARD.md").read_text()
    with (tmp_path / "parent/valid_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scorer = fj.load(tmp_path / "parent")
    scores = scorer.score(np.full((2, 32, 32), 0.5, np.float32))
    assert scores.others.shape == (2, 1)
    assert all(0 < float(row["likelihood_body_part:leg"]) < 1 for row in rows)
    # A model of other labels can begin with it; its last layer is its own.
    plain = replace(tiny_config, name="child", optimizer=config.optimizer)
    options = {"data_dir": data_dir, "initial_weights": tmp_path / "parent"}
    child = train.fit(plain, tmp_path / "child", **options)
    assert child.provenance.initial_weights == manifest.weights_sha256
    refused = replace(config, data=replace(config.data, labels=("cast",)))
    assert "'cast'" in refusal(DataError, refused, tmp_path / "no", data_dir=data_dir)


def test_a_chain_of_models_remembers_what_it_learned_from(
    tiny_config, tiny_manifest, tiny_variables, tiny_gate, finished, data_dir, tmp_path
):
    """The parent learned from other splits, but its own parent from those now held out."""
    weights = bundle.encode_weights(tiny_variables)
    manifest = tiny_manifest(weights)
    held_out = tuple(f"frac_atlas:{split}" for split in tiny_config.data.valid)
    provenance = replace(manifest.provenance, learned=held_out)
    gate = bundle.encode_gate(tiny_gate)
    manifest = replace(manifest, provenance=provenance)
    bundle.write(tmp_path / "parent", manifest, weights, gate, "card")
    options = {"data_dir": data_dir, "initial_weights": tmp_path / "parent"}
    assert held_out[0] in refusal(DataError, tiny_config, tmp_path / "run", **options)


def test_random_weights_are_not_frozen(tiny_config, data_dir, tmp_path):
    frozen = replace(tiny_config, optimizer=replace(tiny_config.optimizer, frozen_stages=3))
    assert "give --weights" in refusal(UsageError, frozen, tmp_path, data_dir=data_dir)


def test_splits_that_share_a_group(tiny_config, data_dir, tmp_path, monkeypatch):
    load = train.data.load
    monkeypatch.setattr(
        train.data, "load", lambda name, _, data_dir: load(name, ["fold_0"], data_dir)
    )
    message = refusal(DataError, tiny_config, tmp_path, data_dir=data_dir)
    assert "stand in both" in message


def test_weights_that_do_not_fit(tiny_config, data_dir, tmp_path):
    options = {"data_dir": data_dir, "initial_weights": tmp_path / "absent.safetensors"}
    assert "absent.safetensors" in refusal(WeightsError, tiny_config, tmp_path / "run", **options)
    options["initial_weights"] = tmp_path
    refusal(BundleError, tiny_config, tmp_path / "run", **options)


def test_a_bundle_that_learned_from_the_held_out_images(tiny_config, finished, data_dir, tmp_path):
    other = replace(
        tiny_config, data=replace(tiny_config.data, train=("fold_0",), valid=("fold_1",))
    )
    message = refusal(DataError, other, tmp_path, data_dir=data_dir, initial_weights=finished[0])
    assert "fold_1" in message


# The command line


def test_the_command_line_trains_to_the_same_weights(
    finished, tiny_config, data_dir, tmp_path, run_python
):
    workdir, manifest, _ = finished
    arguments = ["-m", "fracjax", "train", "--workdir", tmp_path, "--data-dir", data_dir]
    arguments += ["--set", "name=tiny", "--image-size", "32", "--set", "model.name=resnet14"]
    arguments += ["--set", f"data.select={tiny_config.data.select}"]
    for section in ("augment", "optimizer"):
        for name, value in asdict(getattr(tiny_config, section)).items():
            arguments += ["--set", f"{section}.{name}={value}"]
    done = run_python(*arguments)
    assert done.returncode == 0, done.stderr
    assert manifest.model_id in done.stdout
    assert f"auroc_study: {manifest.figures['auroc_study'].value:.3f} (95 % interval" in done.stdout
    assert weights_of(tmp_path) == weights_of(workdir)
    claim = json.loads((tmp_path / train.CLAIM_NAME).read_text())
    assert claim == json.loads((workdir / train.CLAIM_NAME).read_text())

    refused = run_python(*arguments, "--set", "seed=1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("fracjax: ")
    assert len(refused.stderr.splitlines()) == 1
    assert "another configuration" in refused.stderr
