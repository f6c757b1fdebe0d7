"""What README and the card say is so, and the sample comes out as its answer key has it."""

import csv
import os
import re
import subprocess
import sys
from contextlib import chdir, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import fracjax
from fracjax import bundle, checklists, dataset_facts
from fracjax.card import render_card
from fracjax.checklists.items import CLAIM, TRIPOD_AI
from fracjax.checklists.sections import SECTIONS
from fracjax.dataset_facts import FACTS
from fracjax.evaluate import evaluate_site, site
from fracjax.notice import NOTICE
from fracjax_jobs.score_dir import score_dir
from fracjax_jobs.studies import Band

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
DOCS = REPOSITORY / "docs"
NOTEBOOK = (DOCS / "notebook.md").read_text()


def code_blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A folder with the sample export, the tables of one run over it, and its summary."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    with chdir(folder):
        export = Path("examples/sample_export")
        summary = score_dir(export, Path("worklist.parquet"), fracjax.load())
    return folder, summary


class NotEvaluated(Exception):
    """A figure was asked for."""


class Unevaluated:
    """Stands for an evaluation of which nothing is known."""

    def __getattr__(self, name):
        raise NotEvaluated(name)


def test_the_figures_are_those_of_the_bundle():
    figures = bundle.load().manifest.figures
    names = {
        "all": "auroc_study",
        "without truncated files": "auroc_image_not_truncated",
        "without metal": "auroc_image_without_metal",
        "leg": "auroc_image_leg",
        "hand": "auroc_image_hand",
    }
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (0\.\d.*) \|$", README, re.MULTILINE))
    assert rows.keys() == names.keys()
    for label, row in rows.items():
        figure = figures[names[label]]
        interval = f"{figure.low:.3f} to {figure.high:.3f}"
        cases = f"{figure.n} | {figure.positives} | {figure.groups}"
        assert row == f"{figure.value:.3f} | {interval} | {cases}"


def test_the_card_is_that_of_the_bundle():
    card = (bundle.BUNDLED / bundle.CARD_NAME).read_text()
    assert card == render_card(bundle.load().manifest)


def test_the_whole_card_is_of_the_bundle_and_leaves_nothing_out():
    card = (DOCS / "model-card.md").read_text()
    manifest = bundle.load().manifest
    assert card.startswith(f"# {manifest.model_id}: model card\n\n**{NOTICE}**")
    assert manifest.weights_sha256 in card
    assert manifest.measured_on in card
    assert str(manifest.figures["auroc_study"]) in card
    facts = FACTS["frac_atlas"].with_told(dataset_facts.read(DOCS / "model-card-facts.json"))
    told = 0
    for section in SECTIONS:  # those that no evaluation is needed for
        with suppress(NotEvaluated):
            text = section.said_of(checklists.Subject(manifest, Unevaluated(), facts)).strip()
            assert f"## {section.title}\n\n{text}\n\n" in card
            told += 1
    assert told > 15
    for items in (CLAIM, TRIPOD_AI):
        for number, topic in items.items():
            assert re.search(rf"^\| {number} \| {re.escape(topic)} \| \[", card, re.MULTILINE)


def test_the_sample_export_comes_out_as_readme_shows_it(sample):
    folder, summary = sample
    for label, count in (
        ("files found", summary.files_found),
        ("images scored", summary.images_scored),
        ("studies ranked", summary.studies[Band.RANKED]),
    ):
        assert re.search(rf"^{label} +{count}$", README, re.MULTILINE)
    for reason, count in summary.set_aside.items():
        assert re.search(rf"^  {reason} +{count}\b", README, re.MULTILINE)

    paths = pq.read_table(folder / "worklist.linkage.parquet").to_pylist()
    path_of = {row["file_key"]: row["path"] for row in paths}
    with (folder / "examples/sample_labels.csv").open(newline="") as file:
        answers = {
            row["study_instance_uid"]: int(row["label"] or 0) for row in csv.DictReader(file)
        }
    ranked = [r for r in pq.read_table(folder / "worklist.parquet").to_pylist() if r["rank"]]
    labels = [answers[row["study_instance_uid"] or path_of[row["top_file_key"]]] for row in ranked]
    assert 0 < sum(labels) < len(labels)
    # 18 studies say little about a model; what must not be is an order that is none.
    assert roc_auc_score(labels, [row["likelihood"] for row in ranked]) > 0.75


def test_the_sample_is_measured_and_calibrated_by_its_own_labels(sample, tmp_path):
    """By the files as the job writes them: 16 of its studies have a UID, and so a label."""
    folder, _ = sample
    labels = folder / "examples/sample_labels.csv"
    evaluation = evaluate_site(labels, folder / "worklist.parquet").evaluation
    figure = evaluation.find("auroc").figure
    assert (figure.n, figure.positives) == (16, 6)
    assert figure.value > 0.75
    said = " ".join(evaluation.remarks)
    assert "labels of studies that the worklist lacks: " in said
    assert "lines without a label, which count for nothing: " in said
    read = site.read(labels, folder / "worklist.parquet")
    assert read.footer["gate"]["sha256"] == bundle.load().manifest.gate.sha256


def test_the_queries_show_what_a_night_shift_needs(sample):
    duckdb = pytest.importorskip("duckdb")
    folder, summary = sample
    unscored, ranked = code_blocks(README, "sql")
    with chdir(folder):
        bands = {band: studies for band, studies, _ in duckdb.sql(unscored).fetchall()}
        assert bands == {band: n for band, n in summary.studies.items() if band != Band.RANKED}
        assert all(reasons for *_, reasons in duckdb.sql(unscored).fetchall())
        result = duckdb.sql(ranked)
        names, rows = result.columns, result.fetchall()
    assert names == ["band", "rank", "likelihood", "accession_number", "reasons"]
    assert [row[:2] for row in rows] == [("ranked", rank) for rank in range(1, 11)]
    assert all(0 <= likelihood <= 1 for _, _, likelihood, *_ in rows)
    assert any(accession for _, _, _, accession, _ in rows)


def test_the_program_of_readme_runs(sample, capsys):
    (program,) = code_blocks(README, "python")
    with chdir(sample[0]):
        exec(program, {})  # noqa: S102 - our own document
    likelihood, figure = capsys.readouterr().out.splitlines()
    assert 0 < float(likelihood) < 1
    assert figure == str(bundle.load().manifest.figures["auroc_study"])


def test_the_programs_of_the_notebook_run(sample, compilation_cache, capsys):
    folder, summary = sample
    names = {}
    with chdir(folder):
        for program in code_blocks(NOTEBOOK, "python"):
            if "__main__" not in program:
                exec(program, names)  # noqa: S102 - our own document
                continue
            # In a process of its own, since its reading processes import it anew.
            Path("script.py").write_text(program)
            done = subprocess.run(
                [sys.executable, "script.py"],
                env=os.environ | compilation_cache,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout.startswith(f"{summary.files_found} {summary.images_scored} "), (
                done.stderr
            )
        seen = np.asarray(Image.open("seen.png"))
    said = capsys.readouterr().out
    size = names["scorer"].manifest.preprocess.image_size
    assert seen.shape == (size, size)
    assert np.ptp(seen) > 100
    assert "not_an_image" in said
    assert "band" in names["study"]
    assert NOTICE in said
