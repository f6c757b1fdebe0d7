"""What README and the card say is so, and the sample comes out as its answer key has it."""

import csv
import re

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import fracjax
from fracjax import bundle
from fracjax.card import render_card
from fracjax_jobs.score_dir import score_dir
from fracjax_jobs.studies import Band


@pytest.fixture(scope="module")
def readme(request):
    return (request.config.rootpath / "README.md").read_text()


def test_the_figures_are_those_of_the_bundle(readme):
    figures = bundle.load().manifest.figures
    names = {
        "all": "auroc_study",
        "without truncated files": "auroc_image_not_truncated",
        "without metal": "auroc_image_without_metal",
        "leg": "auroc_image_leg",
        "hand": "auroc_image_hand",
    }
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (0\.\d.*) \|$", readme, re.MULTILINE))
    assert rows.keys() == names.keys()
    for label, row in rows.items():
        figure = figures[names[label]]
        interval = f"{figure.low:.3f} to {figure.high:.3f}"
        cases = f"{figure.n} | {figure.positives} | {figure.groups}"
        assert row == f"{figure.value:.3f} | {interval} | {cases}"


def test_the_card_is_that_of_the_bundle():
    card = (bundle.BUNDLED / bundle.CARD_NAME).read_text()
    assert card == render_card(bundle.load().manifest)


def test_the_sample_export_comes_out_as_readme_shows_it(readme, request, tmp_path):
    examples = request.config.rootpath / "examples"
    summary = score_dir(examples / "sample_export", tmp_path / "w.parquet", fracjax.load())
    for label, count in (
        ("files found", summary.files_found),
        ("images scored", summary.images_scored),
        ("studies ranked", summary.studies[Band.RANKED]),
    ):
        assert re.search(rf"^{label} +{count}$", readme, re.MULTILINE)
    for reason, count in summary.set_aside.items():
        assert re.search(rf"^  {reason} +{count}\b", readme, re.MULTILINE)

    paths = pq.read_table(tmp_path / "w.linkage.parquet").to_pylist()
    path_of = {row["file_key"]: row["path"] for row in paths}
    with (examples / "sample_labels.csv").open(newline="") as file:
        answers = {row["study"]: int(row["fractured"] or 0) for row in csv.DictReader(file)}
    ranked = [r for r in pq.read_table(tmp_path / "w.parquet").to_pylist() if r["rank"]]
    labels = [answers[row["study_instance_uid"] or path_of[row["top_file_key"]]] for row in ranked]
    assert 0 < sum(labels) < len(labels)
    # 18 studies say little about a model; what must not be is an order that is none.
    assert roc_auc_score(labels, [row["likelihood"] for row in ranked]) > 0.75
