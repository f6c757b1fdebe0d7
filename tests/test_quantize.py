"""A model in 8-bit integers is a model of its own: what it says, and what takes it for another."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import polars as pl
import pyarrow.parquet as pq
import pytest

import fracjax
from fracjax import (
    average,
    bundle,
    checklists,
    dataset_facts,
    evaluate,
    finish,
    forward,
    metrics,
    quantize,
    triage,
)
from fracjax.card import render_card
from fracjax.cli import app
from fracjax.engine import Scorer
from fracjax.errors import BundleError, DataError, ExportError, UsageError
from fracjax.export.network import stablehlo_of
from fracjax.forward import probes
from fracjax.initial import Initial
from fracjax.task import prepare
from fracjax_jobs.score_dir import Options, score_dir

NAMES = ("fracatlas", "fracatlas/int8")


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory):
    """Draw few bootstrap samples, and keep compiled networks apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics.intervals, "BOOTSTRAP_SAMPLES", 100)
        patch.setenv("FRACJAX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_config, tiny_variables, data_dir):
    folder = tmp_path_factory.mktemp("source")
    task = prepare(tiny_config, data_dir, None)
    finish.write_bundle(
        tiny_config,
        tiny_variables,
        folder,
        begin=Initial({}, "", (), ()),
        learned=task.learned,
        tuned_on=task.selecting,
        valid=task.valid,
        note="made up",
    )
    return folder / "bundle"


@pytest.fixture(scope="module")
def made(source, data_dir):
    """The bundle in integers, as the command makes it."""
    app(["quantize", str(source), "--data-dir", str(data_dir)], standalone_mode=False)
    return source / "int8"


@pytest.fixture(scope="module")
def valid(tiny_config, data_dir):
    return prepare(tiny_config, data_dir, None).valid


def test_a_state_of_integers_is_of_one_kind_of_processor(made, tmp_path, monkeypatch):
    """An older one rounds some sums otherwise; in float32 that is beyond a likelihood's digits."""
    export, out = tmp_path / "export", tmp_path / "worklist.parquet"
    export.mkdir()
    (export / "note.txt").write_text("no image")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    first = fracjax.load(made)
    score_dir(export, out, first)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    older = fracjax.load(made)
    assert older.engine.device == f"{first.engine.device}, at most AVX2"
    with pytest.raises(UsageError, match=r"engine\.device: .*, now "):
        score_dir(export, out, older)
    assert fracjax.load(made.parent, engine="openvino").engine.device == "CPU"


def test_it_scores_what_it_says_of_itself(source, made, valid):
    scorer, exact = fracjax.load(made), fracjax.load(source, engine="openvino")
    assert str(exact.engine).endswith("on CPU, float32")
    assert str(scorer.engine).endswith(", 8-bit integers")
    found, before = (evaluate.predict(each, valid) for each in (scorer, exact))
    facts = scorer.manifest.integers
    apart = np.abs(found.likelihoods - before.likelihoods)
    assert 0 < apart.max() == pytest.approx(facts.moved.largest, abs=1e-7)
    assert facts.moved.n == len(valid)
    assert apart.max() < 0.2 * np.ptp(before.likelihoods)
    measured = evaluate.figures(valid.facts, found, ())
    assert measured == scorer.manifest.figures
    assert facts.convolutions == np.isfinite(scorer.bundle.integers.ranges[:, 0]).sum() > 10


def test_its_manifest_is_its_own_where_it_must_be(source, made):
    manifest, exact = bundle.load(made).manifest, bundle.load(source).manifest
    assert manifest.model_id == f"{exact.model_id}-int8-{manifest.integers.sha256[:8]}"
    assert manifest.gate.sha256 != exact.gate.sha256
    kept = ("target", "scope", "model", "preprocess", "weights_sha256", "training", "provenance")
    for name in kept:
        assert getattr(manifest, name) == getattr(exact, name)
    card = render_card(manifest)
    assert f"another model, {exact.model_id}" in card
    assert "8-bit integers" not in render_card(exact)


def test_the_command_says_what_it_cost(source, data_dir, tmp_path, capsys):
    shutil.copytree(source, tmp_path / "copy/bundle", ignore=shutil.ignore_patterns("int8"))
    app(["quantize", str(tmp_path / "copy"), "--data-dir", str(data_dir)], standalone_mode=False)
    said = capsys.readouterr().out
    assert f"{tmp_path / 'copy/bundle/int8'}: " in said
    assert "likelihoods differ from those in float32 by" in said
    assert "auroc_study: " in said
    assert "Research use only" in said


def test_no_other_engine_takes_it(made, monkeypatch):
    with pytest.raises(UsageError, match=r"which OpenVINO does.*--engine openvino"):
        fracjax.load(made, engine="xla")
    with pytest.raises(UsageError, match="8-bit integers"):
        Scorer(bundle.load(made))
    monkeypatch.setattr(forward, "_is_cpu_all", lambda: False)  # as where a GPU is
    assert fracjax.load(made).engine.name == "openvino"
    monkeypatch.setattr(forward, "_is_installed", lambda module: False)
    with pytest.raises(UsageError, match="pip install"):
        fracjax.load(made)


def test_what_takes_float32_refuses_it(made, source, data_dir, tmp_path):
    refused = "multiplies 8-bit integers; give the bundle that it lies in, of "
    loaded = bundle.load(made)
    for action in (
        lambda: stablehlo_of(loaded),
        lambda: finish.measure(made, tmp_path / "new", data_dir=data_dir),
        lambda: finish.fit_gate(made, tmp_path / "new", data_dir=data_dir),
        lambda: quantize.quantize(made, data_dir=data_dir),
        lambda: average.average([source, made], tmp_path / "mean", data_dir=data_dir),
    ):
        with pytest.raises(UsageError, match=refused):
            action()


def test_one_that_is_there_is_left_alone(source, made, data_dir):
    before = (made / "bundle.json").read_bytes()
    with pytest.raises(BundleError, match="exists already"):
        quantize.quantize(source, data_dir=data_dir)
    assert (made / "bundle.json").read_bytes() == before


def test_other_validation_images_are_refused(source, data_dir, tmp_path, monkeypatch):
    load = bundle.load

    def other(path):
        loaded = load(path)
        return replace(loaded, manifest=replace(loaded.manifest, measured_on="of others"))

    shutil.copytree(source, tmp_path / "copy", ignore=shutil.ignore_patterns("int8"))
    monkeypatch.setattr(bundle, "load", other)
    with pytest.raises(DataError, match="are not those that"):
        quantize.quantize(tmp_path / "copy", data_dir=data_dir)


def test_its_weights_lie_one_folder_up(source, made, tmp_path):
    shutil.copytree(made, tmp_path / "alone/int8")
    with pytest.raises(BundleError, match=r"alone/weights\.safetensors is not there.*with its"):
        bundle.load(tmp_path / "alone/int8")
    other = bundle.load(source).variables
    weights = bundle.encode_weights({name: value + 1 for name, value in other.items()})
    (tmp_path / "alone/weights.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match="sha256 differs"):
        bundle.load(tmp_path / "alone/int8")


@pytest.mark.parametrize("name", ["integers.safetensors", "gate.safetensors", "bundle.json"])
def test_damage_is_found(source, made, tmp_path, name):
    shutil.copytree(source, tmp_path / "copy")
    damaged = tmp_path / "copy/int8" / name
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-20] + bytes(20))
    with pytest.raises(BundleError):
        bundle.load(damaged.parent)


def test_other_arrays_are_no_ranges(tiny_gate):
    with pytest.raises(BundleError, match="holds no ranges"):
        bundle.decode_integers(bundle.encode_gate(tiny_gate))


def test_an_engine_that_says_something_else_is_not_believed(made):
    loaded = bundle.load(made)
    answers = loaded.integers.likelihoods + 0.03
    wrong = replace(loaded, integers=loaded.integers._replace(likelihoods=answers))
    with pytest.raises(ExportError, match=r"0\.02 is allowed.*give the bundle in float32"):
        Scorer(wrong, engine="openvino")
    features = loaded.integers.features + 0.04 * loaded.integers.features.max()
    wrong = replace(loaded, integers=loaded.integers._replace(features=features))
    with pytest.raises(ExportError, match=r"0\.03 is allowed"):
        Scorer(wrong, engine="openvino")
    fewer = loaded.integers._replace(likelihoods=answers[1:])
    with pytest.raises(BundleError, match="other radiographs were known; quantise it anew"):
        Scorer(replace(loaded, integers=fewer), engine="openvino")


def test_it_is_written_as_onnx_alone_that_another_program_reads(made, tmp_path, capsys):
    app(["export", str(made), "--out", str(tmp_path / "out")], standalone_mode=False)
    assert "out: CARD.md, gate.safetensors, model.json, model.onnx;" in capsys.readouterr().out
    assert not (tmp_path / "out/model.jax").exists()
    scorer = fracjax.load(made)
    inputs = probes.pictures(scorer.manifest.preprocess)
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    likelihoods, _ = session.run(None, {"pictures": inputs})
    bound = probes.ALLOWED_IN_INTEGERS.likelihood
    np.testing.assert_allclose(likelihoods[:, 0], scorer.score(inputs).likelihoods, atol=bound)
    kinds = {node.name: node.type for node in session.get_inputs()}
    assert kinds == {"pictures": "tensor(float)"}


def test_a_heat_map_says_whose_numbers_it_shows(made, source, monkeypatch):
    said = []
    monkeypatch.setattr("fracjax.heat.overlay", lambda *given: said.append(given[-1]))
    picture = fracjax.image.read_picture((probes.FOLDER / "hand_fracture.jpg").read_bytes())
    for path in (made, source):
        fracjax.load(path).heat_map(picture)
    assert "grad cam in float32:" in said[0]
    assert "grad cam:" in said[1]


def test_a_name_stands_for_a_bundle_that_ships(tmp_path, monkeypatch, tiny_bundle):
    monkeypatch.chdir(tmp_path)
    assert bundle.find(Path("fracatlas/int8")) == bundle.BUNDLED / "int8"
    assert fracjax.load("fracatlas").manifest == fracjax.load().manifest
    shutil.copytree(tiny_bundle, tmp_path / "fracatlas")
    with pytest.raises(BundleError, match="fracatlas/int8"):  # of that one, not of the other
        bundle.load(Path("fracatlas/int8"))
    assert bundle.load(Path("fracatlas")).manifest.model_id.startswith("tiny-")
    with pytest.raises(BundleError, match="no_such/bundle"):
        bundle.load(Path("no_such"))


def test_the_one_that_ships_ranks_the_sample_nearly_as_the_other(tmp_path):
    root = Path(__file__).parents[1] / "examples/sample_export"
    ranked = []
    for name in NAMES:
        out = tmp_path / "worklist.parquet"
        summary = score_dir(root, out, fracjax.load(name), Options(restart=bool(ranked)))
        rows = pl.read_parquet(out)
        footer = json.loads(pq.read_metadata(out).metadata[b"fracjax"])
        numbers = "8-bit integers" if ranked else "float32"
        assert footer["engine"]["precision"] == numbers
        assert (summary.engine.endswith(numbers), summary.images_scored) == (True, 28)
        ranked.append(rows.filter(pl.col("rank").is_not_null()).sort("study_key"))
    one, other = ranked
    assert one["study_key"].equals(other["study_key"])
    apart = (one["raw_likelihood"] - other["raw_likelihood"]).abs()
    assert 0 < apart.max() < 0.05
    assert other["model_id"].unique().to_list() == [fracjax.load(name).manifest.model_id]


def test_the_one_that_ships_is_as_good_as_it_was_allowed_to_be():
    exact, integers = (bundle.load(Path(name)).manifest for name in NAMES)
    fallen = exact.figures["auroc_study"].value - integers.figures["auroc_study"].value
    assert fallen <= 0.002
    assert integers.measured_on == exact.measured_on
    card = (bundle.BUNDLED / "int8" / bundle.CARD_NAME).read_text()
    assert card == render_card(integers)


def test_an_evaluation_of_the_one_is_none_of_the_other():
    exact, integers = (bundle.load(Path(name)).manifest for name in NAMES)
    facts = dataset_facts.FACTS["frac_atlas"]
    for one, other in ((exact, integers), (integers, exact)):
        evaluation = SimpleNamespace(model_id=one.model_id, weights_sha256=one.weights_sha256)
        with pytest.raises(UsageError, match="evaluate this bundle"):
            checklists.render(checklists.Subject(other, evaluation, facts))
        bands = SimpleNamespace(
            model_id=one.model_id,
            weights_sha256=one.weights_sha256,
            gate_sha256=one.gate.sha256,
        )
        with pytest.raises(UsageError, match="the bands are of"):
            triage.check_model(bands, other)


def test_a_network_of_few_convolutions_has_none_to_spare(source, data_dir, tmp_path, monkeypatch):
    shutil.copytree(source, tmp_path / "copy", ignore=shutil.ignore_patterns("int8"))
    monkeypatch.setattr(quantize, "IN_FLOAT", 99)
    with pytest.raises(UsageError, match="the first 99 stay in float32; give a larger network"):
        quantize.quantize(tmp_path / "copy", data_dir=data_dir)
