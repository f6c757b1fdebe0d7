"""Evaluations of a bundle and of a worklist, as the command line gives them."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fracjax as fj
from fracjax import audit, bundle, data, tuning
from fracjax.card import render_card
from fracjax.cli import app
from fracjax.errors import DataError, UsageError
from fracjax.evaluate import Settings, evaluate_images, evaluate_site, report, write_report
from fracjax.evaluate.measuring import ALL
from fracjax.figure import Figure
from fracjax.metrics import Sample, intervals
from fracjax.notice import NOTICE


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Draw less often: what holds for many draws of the bootstrap holds for some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "BOOTSTRAP_SAMPLES", 50)
        yield


@pytest.fixture
def images(data_dir):
    """All the images of the dummy FracAtlas, which the tiny bundle has not learned from."""
    return data.load("frac_atlas", data.splits("frac_atlas", data_dir), data_dir)


def command(*arguments):
    """Run a command in this process, where draws are few."""
    app([*map(str, arguments)], standalone_mode=False)


def test_an_evaluation_says_of_what_and_how_it_was_made(tuned_bundle, images, tmp_path):
    scorer = fj.load(tuned_bundle)
    evaluated = evaluate_images(scorer, images, Settings(prevalence=0.1, command="evaluate x"))
    write_report(evaluated, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["notice"] == NOTICE
    assert report["model_id"] == scorer.manifest.model_id
    assert report["target"] == "fracture"
    assert report["data_sha256"] == images.sha256
    assert "frac_atlas:fold_0" in report["data"]
    assert report["command"] == "evaluate x"
    assert report["calibration"]["sha256"] == "tuning digest"
    assert report["thresholds"].keys() == {"high_sensitivity", "high_specificity", "youden"}
    assert report["thresholds"]["youden"]["threshold"] == (
        scorer.manifest.operating_points["youden"].threshold
    ), "it is applied as it was frozen"
    levels = {row["level"] for row in report["rows"]}
    assert levels == {"study", "image"}
    for row in report["rows"]:
        figure = row["figure"]
        assert figure["n"] > 0
        assert ("reason" in figure) or figure["low"] <= figure["value"] <= figure["high"]
    study = [row for row in report["rows"] if (row["level"], row["subset"]) == ("study", ALL)]
    assert {row["name"] for row in study} >= {"accuracy", "majority_rate", "kappa", "auroc", "ece"}


def test_the_page_needs_nothing_else_and_holds_every_figure(tuned_bundle, images, tmp_path):
    evaluated = evaluate_images(fj.load(tuned_bundle), images)
    write_report(evaluated, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert NOTICE in page
    assert images.sha256 in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page), "something outside is named"
    assert "default-src 'none'" in page
    for row in evaluated.evaluation.rows:
        if isinstance(row.figure, Figure):
            assert f"{row.figure.low:.3f} to {row.figure.high:.3f}" in page


def test_the_same_evaluation_has_the_same_figures(tuned_bundle, images):
    one, other = (evaluate_images(fj.load(tuned_bundle), images).evaluation for _ in range(2))
    assert one.rows == other.rows


def test_a_model_is_not_measured_on_what_it_learned_from(tiny_bundle, images, tmp_path):
    manifest = json.loads((tiny_bundle / "bundle.json").read_text())
    assert manifest["provenance"]["learned"] == []
    scorer = fj.load(tiny_bundle)
    learned = scorer.manifest.provenance.__class__(
        **{
            name: getattr(scorer.manifest.provenance, name)
            for name in scorer.manifest.provenance.__slots__
        }
        | {"learned": ("frac_atlas:fold_1",)}
    )
    object.__setattr__(scorer.manifest, "provenance", learned)
    with pytest.raises(UsageError, match="has learned from frac_atlas:fold_1"):
        evaluate_images(scorer, images)


def test_fracture_and_abnormality_are_not_taken_for_one_another(tiny_bundle, data_dir):
    mura = data.load("mura", data.splits("mura", data_dir), data_dir)
    with pytest.raises(UsageError, match="trained for fracture, and the labels are of abnormality"):
        evaluate_images(fj.load(tiny_bundle), mura)
    across = evaluate_images(fj.load(tiny_bundle), mura, Settings(across_targets=True)).evaluation
    assert any("abnormality" in remark for remark in across.remarks)
    assert len({row.figure.n for row in across.rows if row.subset == ALL}) == 2, "studies are fewer"


def test_without_operating_points_it_says_that_nobody_chose_one(tiny_bundle, images):
    evaluation = evaluate_images(fj.load(tiny_bundle), images).evaluation
    assert list(evaluation.thresholds) == ["0.5"]
    assert any("no operating points" in remark for remark in evaluation.remarks)
    assert any("not calibrated" in remark for remark in evaluation.remarks)


def test_points_of_the_mean_are_not_applied_to_anything_else(tuned_bundle, images):
    evaluation = evaluate_images(fj.load(tuned_bundle), images, Settings("max")).evaluation
    assert not evaluation.thresholds
    assert evaluation.calibration is None
    assert {row.at for row in evaluation.rows} == {""}


def test_a_model_is_not_better_than_itself(tuned_bundle, images):
    scorer = fj.load(tuned_bundle)
    comparison = evaluate_images(scorer, images, against=scorer).evaluation.comparison
    assert comparison.other == scorer.manifest.model_id
    assert {apart.verdict for apart in comparison.differences} == {"undefined"}
    assert {(calls.only_first, calls.only_other, calls.p) for calls in comparison.discordance} == {
        (0, 0, 1.0)
    }


def test_what_another_model_turns_away_is_not_said_of_this_one(tuned_bundle, images, tmp_path):
    narrow = bundle.load(tuned_bundle)
    facts = dataclasses.replace(narrow.manifest.gate, threshold=0.0)
    manifest = dataclasses.replace(narrow.manifest, gate=facts)
    path = tmp_path / "narrow"
    weights, gate = (bundle.encode_weights(narrow.variables), bundle.encode_gate(narrow.gate))
    bundle.write(path, manifest, weights, gate, render_card(manifest))
    wide, narrow = fj.load(tuned_bundle), fj.load(path)
    for one, other, is_said in ((wide, narrow, False), (narrow, wide, True)):
        remarks = evaluate_images(one, images, against=other).evaluation.remarks
        assert any("would get no likelihood" in remark for remark in remarks) == is_said


# A hospital's own labels


@pytest.fixture
def worklist(tmp_path):
    """A worklist of 60 studies, 8 of which have no likelihood; gives its path and the labels."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 60)
    raw = 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1)))
    rows = [
        {
            "band": "ranked" if i >= 8 else "unfamiliar",
            "raw_likelihood": raw[i] if i >= 8 else None,
            "study_key": f"key{i}",
            "study_instance_uid": f"1.2.{i}",
            "accession_number": f"A{i % 50}",
            "body_parts": ["hand"] if i % 2 else ["hand", "arm"],
        }
        for i in range(60)
    ]
    footer = {
        "schema_version": 2,
        "model_id": "tiny-1",
        "weights_sha256": "abc",
        "target": "fracture",
        "prevalence": None,
        "gate": {"sha256": "def"},
        "calibration": None,
        "operating_points": {},
    }
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"fracjax": json.dumps(footer)})
    path = tmp_path / "worklist.parquet"
    pq.write_table(table, path)
    return path, labels


def write_labels(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def all_labels(labels, **more):
    return [
        {"study_key": f"key{i}", "label": label} | {name: value(i) for name, value in more.items()}
        for i, label in enumerate(labels)
    ]


def test_a_hospitals_labels_are_measured_and_nothing_is_left_out_unsaid(worklist, tmp_path):
    path, labels = worklist
    rows = [
        *all_labels(labels, patient=lambda i: f"p{i // 2}", scanner=lambda i: "AB"[i % 2]),
        {"study_key": "elsewhere", "label": 1, "patient": "q", "scanner": "A"},
    ]
    table = write_labels(tmp_path / "labels.csv", rows)
    evaluation = evaluate_site(table, path, traits=["scanner"]).evaluation
    figure = evaluation.find("auroc").figure
    assert (figure.n, figure.positives) == (52, labels[8:].sum())
    assert figure.groups == 26
    said = " ".join(evaluation.remarks)
    assert f"studies without a likelihood (unfamiliar): 8, {labels[:8].sum()} positive" in said
    assert "labels of studies that the worklist lacks: 1, 1 positive" in said
    assert "name no patients" not in said
    subsets = {row.subset for row in evaluation.rows}
    assert subsets >= {"scanner: A", "scanner: B", "body_part: hand", "body_part: arm+hand"}


def test_labels_without_patients_say_that_intervals_are_too_narrow(worklist, tmp_path):
    path, labels = worklist
    table = write_labels(tmp_path / "labels.csv", all_labels(labels))
    evaluation = evaluate_site(table, path).evaluation
    assert any("name no patients" in remark for remark in evaluation.remarks)
    assert evaluation.find("auroc").figure.groups == 52


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"study_key": "key1", "label": "yes"}], "line 2 .* neither 0 nor 1"),
        ([{"study_key": "key1", "label": ""}], "has no labels"),
        ([{"study_key": "key1", "label": 1}] * 2, "line 3 .* second time"),
        ([{"study_key": "other", "label": 1}], "no study_key of .* is in"),
        ([{"accession_number": "A1", "label": 1}], "line 2 .* names 2 studies"),
        ([{"name": "key1", "label": 1}], "no column one of study_key"),
        ([{"study_key": "key1", "truth": 1}], "no column label"),
        ([{"study_key": "key1", "label": 1, "patient": ""}], "line 2 .* no patient"),
        ([{"study_key": " ", "label": 1}], "line 2 .* names no study"),
        ([{"study_key": f"key{i}", "label": i % 2} for i in range(8)], "none of the 8 studies"),
        ([{"study_key": f"key{i}", "label": 1} for i in range(9, 20)], "all 11 studies are pos"),
        ([{"study_key": f"key{i}", "label": 0} for i in range(9, 20)], "all 11 studies are neg"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line_that_names_no_study(
    rows, reason, worklist, tmp_path
):
    path, _ = worklist
    table = write_labels(tmp_path / "labels.csv", rows)
    with pytest.raises(DataError, match=reason) as caught:
        evaluate_site(table, path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "key1" not in message
    assert "A1" not in message


def test_spaces_and_a_byte_order_mark_are_no_part_of_a_label(worklist, tmp_path):
    path, labels = worklist
    spaced, plain = tmp_path / "spaced.csv", tmp_path / "plain.csv"
    lines = [f"key{i},{label}" for i, label in enumerate(labels)]
    plain.write_text("\n".join(["study_key,label", *lines]))
    spaced.write_text(
        "\n".join(
            ["\ufeffStudy_Key, Label", "nobody,", *(line.replace(",", " , ") for line in lines)]
        )
    )
    one, other = (evaluate_site(table, path).evaluation for table in (plain, spaced))
    assert one.rows == other.rows
    assert "lines without a label, which count for nothing: 1" in other.remarks


def test_a_value_that_few_patients_have_is_not_named(worklist, tmp_path):
    """Of A there are five patients; of B four, with as many studies; others have one of their own.

    What is told apart may be anything, a name as well.
    """
    path, labels = worklist

    def scanner(i):
        if i < 32:
            return ["A", "B"][i % 2]
        return ["", f"Meier^Hans{i // 4}"][i % 2]

    rows = all_labels(
        labels, patient=lambda i: f"p{i % 2}{(i - 8) // 2 % (5 - i % 2)}", scanner=scanner
    )
    table = write_labels(tmp_path / "labels.csv", rows)
    evaluated = evaluate_site(table, path, traits=["scanner"])
    named = {row.subset for row in evaluated.evaluation.rows if row.subset.startswith("scanner")}
    assert named == {"scanner: A", "scanner: others"}
    assert "Meier" not in evaluated.evaluation.json() + report.render(evaluated)


def test_a_table_without_a_header_shows_none_of_its_cells(worklist, tmp_path):
    path, _ = worklist
    table = tmp_path / "labels.csv"
    table.write_text("ACC123,Meier^Hans,1\nACC124,Huber^Anna,0\n")
    with pytest.raises(DataError, match="has no column label; its first line has to name") as told:
        evaluate_site(table, path)
    assert not any(part in str(told.value) for part in ("ACC", "Meier", "Huber"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("study_key,label,,\nkey9,1,,\n", "has 2 columns without a name; remove them"),
        ("study_key,Label,label\nkey9,1,0\n", "names a column twice"),
        ("study_key;label\nkey9;1\n", "separate columns by commas"),
    ],
)
def test_a_header_that_cannot_be_used_is_told_why(text, said, worklist, tmp_path):
    path, _ = worklist
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=said):
        evaluate_site(table, path)


@pytest.mark.parametrize("trait", ["patient", "study_key", "label", "name"])
def test_what_may_name_a_patient_tells_no_figures_apart(trait, worklist, tmp_path):
    path, labels = worklist
    rows = all_labels(labels, patient=lambda i: f"p{i}", name=lambda i: f"Meier{i}")
    table = write_labels(tmp_path / "labels.csv", rows)
    with pytest.raises(UsageError, match="give --by another column") as caught:
        evaluate_site(table, path, traits=[trait])
    assert "Meier" not in str(caught.value)


def test_a_value_of_a_column_may_hold_anything(worklist, tmp_path):
    path, labels = worklist
    odd = ("$x_$", "<b>")
    rows = all_labels(labels, scanner=lambda i: odd[i % 2])
    table = write_labels(tmp_path / "labels.csv", rows)
    evaluated = evaluate_site(table, path, traits=["scanner"])
    write_report(evaluated, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in page.replace("<body>", "")


def test_likelihoods_are_judged_as_the_worklist_shows_them(worklist, tmp_path):
    """At another prevalence than that of the calibration, where one was said."""
    path, labels = worklist
    table = write_labels(tmp_path / "labels.csv", all_labels(labels))
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    sample = Sample.of(truth, 1 / (1 + np.exp(-rng.normal(truth - 0.5, 1))), np.arange(200))
    calibration = tuning.calibration(sample, "digest")
    intercepts = {}
    for prevalence in (None, 0.05):
        shown = pq.read_table(path)
        footer = json.loads(shown.schema.metadata[b"fracjax"])
        footer |= {"calibration": dataclasses.asdict(calibration), "prevalence": prevalence}
        pq.write_table(shown.replace_schema_metadata({"fracjax": json.dumps(footer)}), path)
        evaluated = evaluate_site(table, path)
        intercepts[prevalence] = evaluated.evaluation.find("calibration_intercept").figure.value
        cases = list(csv.DictReader(io.StringIO(report._cases(evaluated))))
        expected = calibration.at_prevalence(
            [float(case["raw_likelihood"]) for case in cases], prevalence
        )
        assert [float(case["likelihood"]) for case in cases] == pytest.approx(list(expected))
    assert intercepts[0.05] > intercepts[None] + 1
    assert "where 5 % are positive" in report.render(evaluated)


def test_cases_tell_neither_the_order_of_labels_nor_that_of_patients(worklist, tmp_path):
    path, labels = worklist
    rows = all_labels(labels, patient=lambda i: f"p{i // 2:02d}")
    evaluated = evaluate_site(write_labels(tmp_path / "labels.csv", rows), path)
    cases = list(csv.DictReader(io.StringIO(report._cases(evaluated))))
    scores = [float(case["raw_likelihood"]) for case in cases]
    assert scores == sorted(evaluated.studies.sample.scores.tolist())
    numbers = [int(case["group"]) for case in cases]
    assert list(dict.fromkeys(numbers)) == list(range(len(set(numbers))))
    ranks = np.argsort(evaluated.studies.sample.scores)
    assert numbers != (ranks // 2).tolist()
    sizes = np.unique(np.unique(numbers, return_counts=True)[1], return_counts=True)
    expected = np.unique(evaluated.studies.sample.groups, return_counts=True)[1]
    np.testing.assert_array_equal(sizes, np.unique(expected, return_counts=True))


@pytest.mark.parametrize(
    "row", ["2,0.5,0.5,0", "1,nan,0.5,0", "1,7,0.5,0", f"1,0.5,{'0' * 200_000},0"]
)
def test_cases_that_are_none_are_refused(row, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(f"label,raw_likelihood,likelihood,group\n{row}\n")
    with pytest.raises(DataError, match="holds no cases"):
        report.read_cases(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"study_key,label\n", b"PAR1"])
def test_files_that_are_no_labels_or_no_worklist(content, worklist, tmp_path):
    path, labels = worklist
    odd = tmp_path / "odd"
    odd.write_bytes(content)
    with pytest.raises(DataError, match="odd"):
        evaluate_site(odd, path)
    good = write_labels(tmp_path / "labels.csv", all_labels(labels))
    with pytest.raises(DataError, match="no worklist"):
        evaluate_site(good, odd)
    with pytest.raises(DataError, match="cannot be read"):
        evaluate_site(good, tmp_path / "none.parquet")


def test_the_commands_join_up(worklist, tmp_path, capsys):
    """Labels of a worklist make a report, and bands for the next one."""
    path, labels = worklist
    table = write_labels(tmp_path / "labels.csv", all_labels(labels))
    command("evaluate", "--labels", table, "--worklist", path, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert said.startswith(NOTICE)
    assert "AUROC" in said
    assert (tmp_path / "out" / "report.html").is_file()
    cases = tmp_path / "out" / "cases.csv"
    assert "key" not in cases.read_text(), "no study is named"
    command("simulate-queue", cases, "--threshold", 0.5, "--days", 3)
    said = capsys.readouterr().out
    assert said.startswith(NOTICE)
    assert "ranked_with_limit" in said
    with pytest.raises(DataError, match="holds no cases"):
        command("simulate-queue", table, "--threshold", 0.5)
    site = tmp_path / "site.json"
    loose = ["--miss-rate", 0.2, "--false-alarm-rate", 0.2, "--confidence", 0.8]
    with pytest.raises(UsageError, match="no column patient"):
        command("calibrate-site", "--labels", table, "--worklist", path, "--out", site, *loose)
    loose.append("--each-its-own-patient")
    assert not site.exists()
    command("calibrate-site", "--labels", table, "--worklist", path, "--out", site, *loose)
    said = capsys.readouterr().out
    assert "80 % confidence, at most 20 % of positive studies are ruled out" in said
    for remark in ("studies without a likelihood (unfamiliar): ", "the labels name no patients"):
        assert remark in said
        assert any(remark in kept for kept in json.loads(site.read_text())["remarks"])
    assert "exchangeable" in said
    assert json.loads(site.read_text())["weights_sha256"] == "abc"
    with pytest.raises(UsageError, match="exists already, and may be in use"):
        command("calibrate-site", "--labels", table, "--worklist", path, "--out", site, *loose)
    site = tmp_path / "strict.json"
    with pytest.raises(DataError, match="needs 59 positive studies"):
        command(
            *("calibrate-site", "--labels", table, "--worklist", path, "--out", site),
            "--each-its-own-patient",
        )


@pytest.mark.parametrize(
    "option", [["--stress"], ["--across-targets"], ["--against", "b"], ["--engine", "xla"]]
)
def test_what_needs_images_is_refused_of_a_worklist(option, worklist, tmp_path):
    path, labels = worklist
    table = write_labels(tmp_path / "labels.csv", all_labels(labels))
    with pytest.raises(UsageError, match="needs images to score"):
        command("evaluate", "--labels", table, "--worklist", path, *option)


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["evaluate", "bundle"],
        ["evaluate", "bundle", "--dataset", "frac_atlas"],
        ["evaluate", "--labels", "labels.csv"],
        ["evaluate", "bundle", "--labels", "labels.csv", "--worklist", "w.parquet"],
    ],
)
def test_half_of_what_is_needed_is_refused(arguments):
    with pytest.raises(UsageError, match="give a bundle with --dataset and --split, or --labels"):
        command(*arguments)


def test_what_predicts_the_label_without_a_bone_stands_beside_the_figures(
    tuned_bundle, images, monkeypatch
):
    """The dummy images have no shortcut, so that one is put there; test_audit.py measures some."""
    measured = {"corners": Figure(0.612, 0.57, 0.65, 22, 10, 14)}
    monkeypatch.setattr(audit, "predictability", lambda pictures, report: measured)
    evaluated = evaluate_images(fj.load(tuned_bundle), images)
    assert evaluated.evaluation.shortcuts == measured
    page = report.render(evaluated)
    assert "<h2>What predicts the label without looking at the bone</h2>" in page
    for name, figure in measured.items():
        assert re.search(rf">{name}</th><td[^>]*>{figure.value:.3f}</td>", page)
        assert f"  {name:<40} {figure}" in evaluated.evaluation.lines()
