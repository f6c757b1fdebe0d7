"""Heat maps, likelihoods at a prevalence, and bands, as a run shows them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from exports import archive, dicom, plain, put, read_run, score

from fracjax import tuning
from fracjax.bundle import Bundle
from fracjax.engine import Scorer
from fracjax.errors import UsageError
from fracjax.metrics import Sample
from fracjax.triage import FORMAT, VERSION, Claim, Triage
from fracjax_jobs import score_dir as job
from fracjax_jobs.heatmaps import Wanted
from fracjax_jobs.worklist import Presentation


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    root = tmp_path_factory.mktemp("heated") / "export"
    put(root, "Doe^Jane/1", dicom(1))
    put(root, "Doe^Jane/2.zip", archive(("inner", dicom(2))))
    put(root, "a.png", plain(3))
    put(root, "b.jpg", plain(4, "JPEG"))
    put(root, "broken", dicom(5)[:-1000])
    return root


def run(export, out, scorer, **options):
    return job.score_dir(export, out, scorer, job.Options(**options))


def test_the_first_studies_have_a_picture_named_by_rank_and_key(export, scorer, tmp_path):
    heat = tmp_path / "heat"
    out = tmp_path / "w.parquet"
    summary = run(export, out, scorer, heatmaps=Wanted(heat, 3))
    assert (summary.heatmaps.pictures, summary.heatmaps.failed) == (3, ())
    first = {row["rank"]: row for row in read_run(out).worklist if row["rank"]}
    names = sorted(path.name for path in heat.iterdir())
    assert names == [f"{rank:04d}-{first[rank]['top_file_key']}.png" for rank in (1, 2, 3)]
    for path in heat.iterdir():
        picture = cv2.imread(str(path))
        assert picture.shape[1] == 64, "the pixels of the radiograph"
        assert path.stat().st_mode & 0o777 == 0o600
    assert heat.stat().st_mode & 0o777 == 0o700


def test_another_run_replaces_the_pictures_of_the_one_before(export, scorer, tmp_path):
    heat, out = tmp_path / "heat", tmp_path / "w.parquet"
    run(export, out, scorer, heatmaps=Wanted(heat, 4))
    before = {path.name: path.read_bytes() for path in heat.iterdir()}
    assert len(before) == 4
    run(export, out, scorer, heatmaps=Wanted(heat, 2))
    after = {path.name: path.read_bytes() for path in heat.iterdir()}
    assert after == {name: before[name] for name in sorted(before)[:2]}


def test_heat_maps_go_where_nothing_else_is(export, scorer, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("do not delete")
    for directory, reason in (
        (export / "heat", "inside the export"),
        (other, "other things than heat maps"),
        (tmp_path / "no" / "folder", "no folder"),
        (other / "thesis.txt", "no folder"),
    ):
        with pytest.raises(UsageError, match=reason):
            run(export, tmp_path / "w.parquet", scorer, heatmaps=Wanted(directory, 2))
    assert (other / "thesis.txt").exists()
    assert not (tmp_path / "w.parquet").exists(), "it is refused before anything is scored"


# Calibration, operating points and bands


@pytest.fixture(scope="module")
def tuned(scorer):
    """The same network with a calibration and operating points, around what it says here."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores = 1 / (1 + np.exp(-rng.normal(0.4 * (labels - 0.5), 0.3)))
    sample = Sample.of(labels, scores, np.arange(400))
    manifest = replace(
        scorer.manifest,
        calibration=tuning.calibration(sample, "digest"),
        operating_points=tuning.operating_points(sample),
    )
    return Scorer(Bundle(manifest, scorer.bundle.variables, scorer.bundle.gate), 4)


def ranked(run):
    return [row for row in run.worklist if row["rank"] is not None]


def test_a_likelihood_is_the_calibrated_one_and_the_raw_one_stands_beside(export, tuned, tmp_path):
    scored = score(export, tmp_path / "w.parquet", tuned)
    calibration = tuned.manifest.calibration
    for row in ranked(scored):
        assert row["likelihood"] == pytest.approx(
            float(calibration(row["raw_likelihood"])), abs=1e-6
        )
        assert row["raw_likelihood"] == pytest.approx(
            np.mean(row["image_raw_likelihoods"]), abs=1e-6
        )
        reached = [
            name
            for name, point in tuned.manifest.operating_points.items()
            if row["raw_likelihood"] >= point.threshold
        ]
        assert row["calls"] == reached
        assert row["triage"] is None
    assert "calibrated" in scored.metadata["likelihood"]
    assert scored.metadata["calibration"]["sha256"] == "digest"
    assert scored.metadata["operating_points"].keys() == tuned.manifest.operating_points.keys()


def test_another_prevalence_moves_likelihoods_and_scores_nothing_again(export, tuned, tmp_path):
    out = tmp_path / "w.parquet"
    before = ranked(score(export, out, tuned))
    after = ranked(score(export, out, tuned, presentation=Presentation(prevalence=0.05)))
    assert read_run(out).metadata["prevalence"] == 0.05
    for one, other in zip(before, after, strict=True):
        assert other["likelihood"] < one["likelihood"]
        for name in ("rank", "raw_likelihood", "calls", "scored_at"):
            assert other[name] == one[name]


def test_a_model_that_is_not_calibrated_has_no_prevalence(export, scorer, tmp_path):
    with pytest.raises(UsageError, match="is not calibrated"):
        score(export, tmp_path / "w.parquet", scorer, presentation=Presentation(prevalence=0.05))
    scored = score(export, tmp_path / "w.parquet", scorer)
    assert "not calibrated" in scored.metadata["likelihood"]
    for row in ranked(scored):
        assert row["likelihood"] == row["raw_likelihood"]
        assert row["calls"] == []


def test_a_sites_bands_are_told_and_are_of_one_model(export, scorer, tmp_path):
    out = tmp_path / "w.parquet"
    raw = sorted(row["raw_likelihood"] for row in ranked(score(export, out, scorer)))
    bands = Triage(
        FORMAT,
        VERSION,
        "notice",
        scorer.manifest.model_id,
        scorer.manifest.weights_sha256,
        scorer.manifest.gate.sha256,
        "fracture",
        rule_out=raw[1],
        rule_in=raw[-2],
        claim=Claim(),
        studies=100,
        positives=60,
        bands={},
        labels_sha256="",
        created="2026-01-01",
        remarks=(),
    )
    scored = score(export, out, scorer, presentation=Presentation(site=bands))
    triage = [row["triage"] for row in ranked(scored)]
    assert triage == ["rule_in", "uncertain", "uncertain", "rule_out"]
    assert {row["triage"] for row in scored.worklist if row["rank"] is None} == {None}
    assert scored.metadata["site"]["assumption"]
    other = Presentation(site=replace(bands, weights_sha256="other"))
    with pytest.raises(UsageError, match="label a worklist of this model"):
        score(export, out, scorer, presentation=other)
