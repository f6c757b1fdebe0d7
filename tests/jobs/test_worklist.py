"""The command as a night shift runs it: what it writes, says, and leaves alone."""

import csv
import dataclasses
import json
import os
import pty
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import chdir, closing, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from exports import (
    archive,
    check_conserved,
    dicom,
    listing,
    outcome,
    pixels,
    plain,
    put,
    read_run,
    score,
    table_paths,
)
from PIL import Image, PngImagePlugin
from pydicom.config import disable_value_validation

from fracjax import cli
from fracjax.bundle import load
from fracjax.image import ReadPolicy, Reason
from fracjax.notice import NOTICE
from fracjax_jobs import tables
from fracjax_jobs.identifiers import Identifiers
from fracjax_jobs.state import State
from fracjax_jobs.studies import Band
from fracjax_jobs.worklist import Paths, Presentation

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs/worklist.md"

PATIENT = {
    "PatientName": "BURNS^MONTGOMERY",
    "PatientID": "MRN4711815",
    "PatientBirthDate": "19310415",
    "OtherPatientIDs": "ALT0815471",
    "PatientAddress": "1000 Mammon Street",
    "PatientComments": "nemesis of Simpson",
    "ReferringPhysicianName": "RIVIERA^NICK",
    "InstitutionName": "Springfield General",
    "StudyDescription": "Hand of Montgomery",
    "SeriesDescription": "BURNS hand",
    "ProtocolName": "Riviera special",
    "BodyPartExamined": "BURNS",
    "ViewPosition": "MONTGOMERY",
    "Laterality": "BURNS",
    "StudyID": "MRN4711815",
}
MARKERS = (
    *("BURNS", "MONTGOMERY", "MRN4711815", "4711815", "19310415", "1931-04-15", "ALT0815471"),
    *("Mammon", "nemesis", "RIVIERA", "Springfield"),
)
"""Parts of the identifiers, looked for without regard to case."""


def command(*arguments):
    return [sys.executable, "-m", "fracjax", "score-dir", *map(str, arguments)]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An export full of identifiers: in headers good and damaged, in names, in comments."""
    root = tmp_path_factory.mktemp("identified") / "export"
    folder = "BURNS MONTGOMERY MRN4711815/19310415 Hand"
    whole = dicom(1, "1.2.1", **PATIENT, AccessionNumber="A1")
    with disable_value_validation():
        named = dicom(22, **PATIENT, StudyInstanceUID="BURNS", SeriesInstanceUID="1.BURNS")
    at = whole.index(b"BURNS")
    files = {
        "IM1": whole,
        "IM2": dicom(2, "1.2.1", **PATIENT, AccessionNumber="MRN4711815"),
        "uid": named,
        "IM3": dicom(3, "1.2.2", **PATIENT, WindowCenter="0", WindowWidth="0"),
        "short": dicom(4, "1.2.3", **PATIENT)[:-1000],
        "cut in the name": whole[: at + 4],
        "cut in the header": whole[: at + 200],
        "odd length": whole[: at - 2] + b"\xff\xff" + whole[at:],
        "odd VR": whole[: at - 4] + b"ZZ" + whole[at - 2 :],
        "charset": dicom(5, "1.2.4", **PATIENT).replace(b"BURNS^", b"BURNS\xff"),
        "no rows": dicom(6, "1.2.5", **PATIENT, Rows=None),
        "ct": dicom(7, **PATIENT, Modality="CT"),
        "BURNS.txt": "\n".join(PATIENT.values()).encode(),
        "BURNS.json": json.dumps(PATIENT).encode(),
        "BURNS.jpg": plain(8, "JPEG")[:40] + b"BURNS MRN4711815",
        "empty": b"",
    }
    for name, data in files.items():
        put(root, f"{folder}/{name}", data)
    comments = PngImagePlugin.PngInfo()
    comments.add_text("Comment", "BURNS^MONTGOMERY MRN4711815 19310415")
    Image.frombytes("L", (40, 40), bytes(range(40)) * 40).save(
        root / folder / "BURNS.png", pnginfo=comments
    )
    put(root, "BURNS.zip", archive(("MRN4711815/IM1", dicom(9, **PATIENT)), ("RIVIERA", b"x")))
    put(root, "RIVIERA.zip", archive(("BURNS", b"x"))[:-9])
    (root / "BURNS link").symlink_to(f"{folder}/IM1")
    return root


@pytest.fixture(scope="module")
def night(export, tiny_bundle, tmp_path_factory):
    """One run of the command over that export, which may not be written to."""
    out = tmp_path_factory.mktemp("night") / "worklist.parquet"
    folders = [folder for folder, _, _ in os.walk(export)]
    for folder in folders:
        Path(folder).chmod(0o500)
    before = listing(export)
    arguments = (export, "--out", out, "--bundle", tiny_bundle, "--batch-size", 2, "--workers", 2)
    arguments += ("--csv", "--log-json")
    done = subprocess.run(command(*arguments), capture_output=True, check=False)
    after = listing(export)
    for folder in folders:
        Path(folder).chmod(0o700)
    assert done.returncode == 1, done.stderr
    return {"done": done, "out": out, "before": before, "after": after}


# What the command leaves


def test_nothing_in_the_export_changes(night):
    assert night["before"] == night["after"]


def test_its_files_are_for_the_user_alone_and_nothing_else(night):
    out = night["out"]
    assert sorted(out.parent.iterdir()) == sorted(Paths(out).all)
    for path in Paths(out).all:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_file_is_accounted_for(night, export):
    run = read_run(night["out"])
    check_conserved(run)
    lying = sum(len(files) for _, _, files in os.walk(export))
    assert len(run.files) == lying - 1 + 2  # BURNS.zip counts by its two members


def test_no_identifier_leaves_the_export(night):
    said = night["done"].stdout + night["done"].stderr
    worklist, files, _ = (pq.read_table(path).to_pylist() for path in table_paths(night["out"]))
    footers = [pq.read_metadata(path).metadata for path in table_paths(night["out"])]
    paths = Paths(night["out"])
    raw = b"".join(path.read_bytes() for path in paths.all if path != paths.linkage)
    for text in (said.decode(), repr(worklist), repr(files), repr(footers), raw.decode("latin-1")):
        found = [marker for marker in MARKERS if marker.lower() in text.lower()]
        assert not found


def test_the_linkage_alone_knows_paths(night):
    assert any("BURNS" in path for path in read_run(night["out"]).paths.values())


def test_the_summary_says_what_was_done(night):
    said = night["done"].stdout.decode()
    run = read_run(night["out"])
    assert said.startswith(NOTICE)
    assert f"files found       {len(run.files):7d}" in said
    assert f"images scored     {run.metadata['images_scored']:7d}" in said
    for reason, count in run.metadata["set_aside"].items():
        assert re.search(rf"{reason} +{count}\b", said)
    top = run.study(next(row["study_key"] for row in run.worklist if row["rank"] == 1))
    line = rf"^ *1 +{top['likelihood']:.3f} .* {top['top_file_key']}$"
    assert re.search(line, said, re.MULTILINE)
    # What is printed ends up in logs: nothing there that leads to a patient but for the linkage.
    for row in run.worklist:
        for identifier in ("study_instance_uid", "accession_number", "top_sop_instance_uid"):
            assert row[identifier] is None or row[identifier] not in said.split()


def test_lines_of_json_say_how_far_it_is_and_how_it_ended(night):
    lines = [json.loads(line) for line in night["done"].stderr.decode().splitlines()]
    assert {line["event"] for line in lines} == {"progress", "end"}
    run = read_run(night["out"])
    assert lines[-1]["event"] == "end"
    assert lines[-1]["exit_code"] == 1
    assert lines[-1]["files_found"] == lines[-2]["files_done"] == len(run.linkage)
    assert lines[-1]["studies"] == run.metadata["studies"]


def test_the_spreadsheet_has_the_rows_of_the_worklist(night):
    with Paths(night["out"]).csv.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    worklist = read_run(night["out"]).worklist
    assert [row["study_key"] for row in rows] == [row["study_key"] for row in worklist]
    assert all(row["notice"] == NOTICE for row in rows)
    for row, original in zip(rows, worklist, strict=True):
        assert row["likelihood"] == "" or float(row["likelihood"]) == pytest.approx(
            original["likelihood"]
        )


def test_the_footer_names_the_model_and_the_use(night, tiny_bundle):
    metadata = read_run(night["out"]).metadata
    manifest = load(tiny_bundle).manifest
    assert "research use" in metadata["notice"].lower()
    assert metadata["model_id"] == manifest.model_id
    assert metadata["weights_sha256"] == manifest.weights_sha256
    assert metadata["target"] == "fracture"
    assert metadata["figures"]["auroc_study"]["n"] == 4
    assert metadata["schema_version"] == tables.SCHEMA_VERSION


def test_the_tables_have_the_documented_types(night):
    schemas = (tables.WORKLIST, tables.FILES, tables.LINKAGE)
    for path, schema in zip(table_paths(night["out"]), schemas, strict=True):
        # Field names within lists aside, which Parquet sets.
        assert [str(kind) for kind in pq.read_schema(path).types] == [
            str(kind).replace("item", "element") for kind in schema.types
        ]
        assert pq.read_schema(path).names == schema.names


# Exit codes, and what is said of bad input


@pytest.fixture
def run_command(monkeypatch, capfd):
    """Run the command in this process; gives its exit code, and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fracjax", "score-dir", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_exit_code_0_and_no_training_library_where_all_is_scored(tmp_path, tiny_bundle):
    put(tmp_path, "export/IM1", dicom(1))
    put(tmp_path, "export/README.TXT", b"text is furniture")
    out = tmp_path / "worklist.parquet"
    arguments = (tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--workers", 1)
    program = f"""
import sys
from fracjax import cli
sys.argv = ["fracjax", "score-dir", *{[*map(str, arguments)]!r}]
try:
    cli.main()
finally:
    heavy = ("tensorflow", "tensorflow_datasets", "orbax", "sklearn")
    print("imported:", [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[-1] == "imported: []"
    assert len(read_run(out).worklist) == 1


def test_help_needs_neither_jax_nor_numpy():
    program = """
import sys
from fracjax import cli
sys.argv = ["fracjax", "--help"]
try:
    cli.main()
finally:
    print("imported:", [name for name in ("jax", "numpy", "cv2", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1] == "imported: []"


def test_a_dry_run_counts_by_content_and_writes_nothing(tmp_path, run_command):
    put(tmp_path, "export/IM1", dicom(1))
    put(tmp_path, "export/IM2.jpg", plain(2))
    put(tmp_path, "export/README.TXT", b"text")
    put(tmp_path, "export/x.zip", archive(("IM3", dicom(3)), ("IM4", b"")))
    arguments = (tmp_path / "export", "--out", tmp_path / "w.parquet", "--dry-run", "--log-json")
    code, said, errors = run_command(*arguments)
    kinds = {"dicom": 2, "plain_image": 1, "not_an_image": 1, "empty": 1}
    assert not code
    assert "files found             5\n" in said
    assert dict(re.findall(r"^  (\w+) +(\d+)$", said, re.MULTILINE)) == {
        kind: str(number) for kind, number in kinds.items()
    }
    counted = json.loads(errors)
    assert (counted["event"], counted["files_found"], counted["kinds"]) == ("count", 5, kinds)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_paths_are_shown_on_a_terminal_escaped(tmp_path, tiny_bundle):
    put(tmp_path, "export/PAT\x1b[2J\n1/IM1", dicom(1))
    out = tmp_path / "w.parquet"
    arguments = (tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--show-paths")
    ours, theirs = pty.openpty()
    done = subprocess.run(command(*arguments), stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    said = b""
    with suppress(OSError):  # the end of a terminal that nobody writes to any more
        while part := os.read(ours, 65_536):
            said += part
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert rb"PAT\x1b[2J\n1/IM1" in said


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_costs_no_worklist(tmp_path, tiny_bundle, closed):
    put(tmp_path, "export/IM1", dicom(1))
    out = tmp_path / "w.parquet"
    arguments = (tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--log-json")
    script = f"{shlex.join(command(*arguments))} {closed}>&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)  # noqa: S607
    assert done.returncode == 0
    assert len(read_run(out).worklist) == 1


def test_what_cannot_be_put_out_of_the_way_is_one_line_of_json(tmp_path, tiny_bundle, run_command):
    put(tmp_path, "export/IM1", dicom(1))
    out = tmp_path / "w.parquet"
    arguments = (tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--workers", 1)
    assert run_command(*arguments)[0] == 0
    for folder, options in ((".w.parquet.partial", ()), ("w.state.old", ("--restart",))):
        put(tmp_path, f"{folder}/x", b"in the way")
        code, _, errors = run_command(*arguments, "--log-json", *options)
        *_, last = map(json.loads, errors.splitlines())
        assert (code, last["event"]) == (2, "error")
        assert folder in last["message"]
        shutil.rmtree(tmp_path / folder)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nobody_who_reads_along_costs_no_worklist(tmp_path, tiny_bundle, stream):
    put(tmp_path, "export/IM1", dicom(1))
    out = tmp_path / "w.parquet"
    arguments = (tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--log-json")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command(*arguments), **streams | {stream: full}, check=False)
    assert done.returncode == 0
    assert len(read_run(out).worklist) == 1


def test_an_older_spreadsheet_is_not_left_beside_a_new_worklist(tmp_path, tiny_bundle, run_command):
    put(tmp_path, "export/IM1", dicom(1))
    out = tmp_path / "w.parquet"
    arguments = (tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--workers", 1)
    assert run_command(*arguments, "--csv")[0] == 0
    put(tmp_path, "export/IM2", dicom(2))
    code, said, errors = run_command(*arguments)
    assert (code, said, errors.count("\n")) == (2, "", 1)
    assert "w.csv" in errors
    assert "--csv" in errors
    assert len(read_run(out).worklist) == 1
    (tmp_path / ".w.csv.partial").write_bytes(b"of a run that was killed")
    Paths(out).csv.unlink()
    code, said, _ = run_command(*arguments)
    assert code == 0
    assert "Nothing has changed" not in said
    assert not (tmp_path / ".w.csv.partial").exists()
    assert "Nothing has changed" in run_command(*arguments)[1]


# What holds of any run


def test_accounts_that_do_not_add_up_fail_the_job(tmp_path, scorer, reading_here, monkeypatch):
    put(tmp_path, "export/IM1", dicom(1))
    original = State.frames
    monkeypatch.setattr(State, "frames", lambda state: original(state) + 1)
    with reading_here(), pytest.raises(RuntimeError, match="no worklist is written"):
        score(tmp_path / "export", tmp_path / "w.parquet", scorer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "w.state"]


def test_a_frame_that_went_from_the_state_fails_the_job(tmp_path, scorer, reading_here):
    frames = b"".join(pixels(seed).tobytes() for seed in (1, 2))
    put(tmp_path, "export/IM1", dicom(1, NumberOfFrames=2, PixelData=frames))
    out = tmp_path / "w.parquet"
    with reading_here():
        assert len(score(tmp_path / "export", out, scorer).files) == 2
        with closing(sqlite3.connect(Paths(out).state)) as database, database:
            database.execute("DELETE FROM image WHERE frame = 2")
        with pytest.raises(RuntimeError, match="no worklist is written"):
            score(tmp_path / "export", out, scorer)


def test_a_file_without_an_account_fails_the_job(tmp_path, scorer, reading_here, monkeypatch):
    for number in range(3):
        put(tmp_path, f"export/IM{number}", dicom(number))
    original = State.record
    monkeypatch.setattr(
        State,
        "record",
        lambda state, number, records: None if number == 2 else original(state, number, records),
    )
    with reading_here(), pytest.raises(ValueError, match="shorter"):
        score(tmp_path / "export", tmp_path / "w.parquet", scorer)
    assert not (tmp_path / "w.parquet").exists()


def test_no_footer_or_key_depends_on_a_name(tmp_path, scorer, reading_here):
    """From an unkeyed digest of a path or name, either could be guessed."""
    runs = []
    for name in ("DOE^JOHN 19700131", "ROE^JANE 19710203"):
        put(tmp_path, f"{name}/{name}/IM1", dicom(1))
        put(tmp_path, f"{name}/{name}/IM2", b"a text")
        with reading_here():
            runs.append(score(tmp_path / name, tmp_path / f"{name}.parquet", scorer))
    first, second = ({**run.metadata, "reference_time": ""} for run in runs)
    assert first == second
    assert [row["file_key"] for row in runs[0].files] == [row["file_key"] for row in runs[1].files]


def test_hashed_tables_have_hashed_keys_in_another_order(tmp_path, scorer, reading_here):
    for number in range(12):
        put(tmp_path, f"export/IM{number:02d}", plain(number))
    hashed = Presentation(identifiers=Identifiers(b"k" * 32))
    with reading_here():
        kept = score(tmp_path / "export", tmp_path / "kept.parquet", scorer)
        run = score(tmp_path / "export", tmp_path / "w.parquet", scorer, presentation=hashed)
    check_conserved(run)
    shown = repr([run.worklist, run.files])
    assert not any(row["file_key"] in shown for row in kept.files)
    paths = [run.paths[row["file_key"]] for row in run.files]
    assert sorted(paths) == [f"IM{number:02d}" for number in range(12)] != paths
    assert paths == [path for _, path in sorted((key, path) for key, path in run.paths.items())]
    for mine, other in zip(run.worklist, kept.worklist, strict=True):
        assert mine["likelihood"] == other["likelihood"]


def test_the_parts_of_a_shared_study_uid_keep_their_keys(tmp_path, scorer, reading_here):
    put(tmp_path, "export/b", dicom(1, "1.2.3", PatientID="A"))
    put(tmp_path, "export/c", dicom(2, "1.2.3", PatientID="B"))
    out = tmp_path / "w.parquet"

    def keys():
        with reading_here():
            run = score(tmp_path / "export", out, scorer)
        check_conserved(run)
        return {run.paths[row["top_file_key"]]: row["study_key"] for row in run.worklist}

    before = keys()
    assert len(set(before.values())) == 2
    put(tmp_path, "export/a", dicom(3, "1.2.3", PatientID="C"))
    after = keys()
    assert {path: after[path] for path in before} == before
    assert len(set(after.values())) == 3


def test_images_of_a_malformed_study_uid_are_one_study(tmp_path, scorer, reading_here):
    with disable_value_validation():
        for number in range(2):
            put(tmp_path, f"export/{number}", dicom(number, "{GUID-1}", PatientID="A"))
        put(tmp_path, "export/2", dicom(2, "{GUID-2}", PatientID="A"))
    with reading_here():
        run = score(tmp_path / "export", tmp_path / "w.parquet", scorer)
    assert sorted(row["images_scored"] for row in run.worklist) == [1, 2]
    assert not any(row["study_instance_uid"] for row in run.worklist)


def test_an_accession_number_that_is_withheld_is_told(tmp_path, scorer, reading_here):
    put(tmp_path, "export/1", dicom(1, "1.2.1", PatientID="4711815", AccessionNumber="A4711815"))
    put(tmp_path, "export/2", dicom(2, "1.2.2", PatientID="4711815", AccessionNumber="A77"))
    with reading_here():
        run = score(tmp_path / "export", tmp_path / "w.parquet", scorer)
    first, second = run.study("1.2.1"), run.study("1.2.2")
    assert (first["accession_number"], first["notes"]) == (None, ["accession_withheld"])
    assert (second["accession_number"], second["notes"]) == ("A77", [])


def test_exit_code_3_where_nothing_is_scored(tmp_path, tiny_bundle, run_command):
    put(tmp_path, "export/README.TXT", b"text")
    put(tmp_path, "export/IM1", dicom(1, "1.2.3")[:-1000])
    out = tmp_path / "worklist.parquet"
    code, said, errors = run_command(
        tmp_path / "export", "--out", out, "--bundle", tiny_bundle, "--workers", 1
    )
    assert (code, errors) == (3, "")
    assert NOTICE in said
    (study,) = read_run(out).worklist
    assert (study["study_key"], study["band"]) == ("1.2.3", "not_scored")


BAD_INPUTS = {
    "an empty out": "{tmp}/export --out=",
    "out named as another table": "{tmp}/export --out {tmp}/w.files.parquet",
    "a missing directory": "{tmp}/missing --out {out}",
    "a file as directory": "{tmp}/export/IM1 --out {out}",
    "a name too long": "{tmp}/" + "d" * 300 + " --out {out}",
    "an empty directory": "{tmp}/empty --out {out}",
    "out inside": "{tmp}/export --out {tmp}/export/w.parquet",
    "out inside by a link": "{tmp}/export --out {tmp}/link/w.parquet",
    "out inside by dots": "{tmp}/export --out {tmp}/empty/../export/w.parquet",
    "a link to inside as export": "{tmp}/link --out {tmp}/export/w.parquet",
    "out a directory": "{tmp}/export --out {tmp}/directory.parquet",
    "no parent of out": "{tmp}/export --out {tmp}/missing/w.parquet",
    "out not Parquet": "{tmp}/export --out {tmp}/w.csv",
    "out where nothing can be made": "{tmp}/export --out /proc/w.parquet",
    "a table's name taken": "{tmp}/export --out {tmp}/taken.parquet",
    "no bundle": "{tmp}/export --out {out} --bundle {tmp}/empty",
    "a bundle that is none": "{tmp}/export --out {out} --bundle {tmp}/json",
    "a damaged bundle": "{tmp}/export --out {out} --bundle {tmp}/damaged",
    "a bundle of next year": "{tmp}/export --out {out} --bundle {tmp}/version",
    "batch size 0": "{tmp}/export --out {out} --batch-size 0",
    "negative batch size": "{tmp}/export --out {out} --batch-size -1",
    "negative workers": "{tmp}/export --out {out} --workers -1",
    "no time": "{tmp}/export --out {out} --timeout 0",
    "a time that is no number": "{tmp}/export --out {out} --timeout nan",
    "an unknown grouping": "{tmp}/export --out {out} --group-by patient",
    "no memory": "{tmp}/export --out {out} --worker-memory 0.01",
    "a memory that is no number": "{tmp}/export --out {out} --worker-memory nan",
    "no wait": "{tmp}/export --out {out} --max-wait 0",
    "a wait that is no number": "{tmp}/export --out {out} --max-wait nan",
    "a policy without such a field": "{tmp}/export --out {out} --policy colour=yes",
    "a policy of another kind": "{tmp}/export --out {out} --policy max_frames=many",
    "an unknown way with identifiers": "{tmp}/export --out {out} --identifiers drop",
    "hashes without a key": "{tmp}/export --out {out} --identifiers hash",
    "a key without hashes": "{tmp}/export --out {out} --key-file {tmp}/key",
    "no such key": "{tmp}/export --out {out} --identifiers hash --key-file {tmp}/none",
    "a short key": "{tmp}/export --out {out} --identifiers hash --key-file {tmp}/short",
    "a key for all to read": "{tmp}/export --out {out} --identifiers hash --key-file {tmp}/open",
    "paths on no terminal": "{tmp}/export --out {out} --show-paths",
    "a state that is none": "{tmp}/export --out {tmp}/strange.parquet",
    "a state of another program": "{tmp}/export --out {tmp}/foreign.parquet",
    "a name with control characters": "'{tmp}/\x1b[2J\nx' --out {out}",
}


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory, tiny_bundle):
    """A folder with one of each bad input."""
    folder = tmp_path_factory.mktemp("bad")
    put(folder, "export/IM1", dicom(1))
    (folder / "empty").mkdir()
    (folder / "directory.parquet").mkdir()
    (folder / "taken.files.parquet").mkdir()
    (folder / "link").symlink_to("export")
    put(folder, "json/bundle.json", b"{}")
    put(folder, "key", b"k" * 32).chmod(0o600)
    put(folder, "short", b"k").chmod(0o600)
    put(folder, "open", b"k" * 32).chmod(0o644)
    put(folder, "strange.state", b"my notes, " * 500)
    with sqlite3.connect(folder / "foreign.state") as database:
        database.execute("CREATE TABLE mine (x)")
    shutil.copytree(tiny_bundle, folder / "damaged")
    weights = folder / "damaged/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    shutil.copytree(tiny_bundle, folder / "version")
    manifest = folder / "version/bundle.json"
    manifest.write_text(re.sub('"version": [0-9]+', '"version": 99', manifest.read_text()))
    return folder


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_input_is_one_line_and_exit_code_2(kind, bad_inputs, tiny_bundle, run_command):
    arguments = shlex.split(BAD_INPUTS[kind].format(tmp=bad_inputs, out=bad_inputs / "w.parquet"))
    if "--bundle" not in arguments:
        arguments += ["--bundle", tiny_bundle]
    before = set(listing(bad_inputs))
    code, said, errors = run_command(
        *arguments, *([] if "--workers" in arguments else ["--workers", 1])
    )
    assert (code, said) == (2, "")
    assert re.fullmatch(r"fracjax: [^\n]+\n", errors)
    assert errors[:-1].isprintable()
    assert set(listing(bad_inputs)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes whatever the permissions")
def test_a_folder_that_cannot_be_written_is_named(bad_inputs, tiny_bundle, run_command, tmp_path):
    tmp_path.chmod(0o500)
    code, _, errors = run_command(
        bad_inputs / "export", "--out", tmp_path / "w.parquet", "--bundle", tiny_bundle
    )
    assert code == 2
    assert re.fullmatch(r"fracjax: [^\n]+\n", errors)


# The document, and the programs that open the tables


def code_blocks(language):
    return re.findall(
        rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE
    )


def documented(heading):
    """The first two cells of each row of the tables below a heading."""
    section = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE
    )
    return dict(re.findall(r"^\| `?([\w.]+)`? \| ([^|]+) \|", section[1], re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("worklist.parquet", tables.WORKLIST),
        ("worklist.files.parquet", tables.FILES),
        ("worklist.linkage.parquet", tables.LINKAGE),
    ],
)
def test_the_document_has_each_column_with_its_type(name, schema):
    kinds = {pa.float32(): "float32", pa.list_(pa.string()): "list of string"}
    kinds[pa.list_(pa.float32())] = "list of float32"
    kinds[pa.bool_()] = "bool"
    columns = documented(name)
    columns.pop("column")
    assert columns == {field.name: kinds.get(field.type, str(field.type)) for field in schema}


def test_the_document_has_each_reason_and_exit_code():
    reasons = documented("Reasons")
    reasons.pop("reason")
    assert reasons == {str(reason): "yes" if reason.is_failure else "no" for reason in Reason}
    assert set(documented("Exit codes")) == {"code", "0", "1", "2", "3", "70", "130", "143"}


def test_the_document_has_each_band_and_each_rule():
    bands = documented("Bands")
    bands.pop("band")
    assert list(bands) == list(Band)
    rules = documented("What counts as a radiograph")
    rules.pop("field")
    assert list(rules) == [field.name for field in dataclasses.fields(ReadPolicy)]


def test_the_document_has_each_note():
    folders = ("fracjax/image", "jobs/fracjax_jobs")
    files = (file for folder in folders for file in (REPOSITORY / folder).glob("*.py"))
    sources = "".join(file.read_text() for file in files)
    for note in set(documented("Notes")) - {"note"}:
        assert f'"{note}"' in sources
    given = re.findall(r'(?:notes|file_format)[^"\n]{0,16}[({]"(\w+)"', sources)
    given += re.findall(r'notes, "(\w+)"\)', sources)
    assert len(set(given)) >= 8
    assert set(given) <= set(documented("Notes"))


def test_the_document_has_each_field_of_the_footer(night):
    text = DOCUMENT.read_text().partition("## Footer")[2]
    assert all(f"`{name}`" in text for name in read_run(night["out"]).metadata)


@pytest.mark.parametrize("query", code_blocks("sql"))
def test_its_queries_run_in_duckdb(night, query):
    duckdb = pytest.importorskip("duckdb")
    with chdir(night["out"].parent):
        rows = duckdb.sql(query).fetchall()
    assert rows


@pytest.mark.parametrize("program", code_blocks("python"))
def test_its_programs_run(night, program, capsys):
    with chdir(night["out"].parent):
        exec(program, {})  # noqa: S102 - our own document
    assert capsys.readouterr().out


def test_duckdb_and_pandas_see_the_documented_types(night):
    duckdb = pytest.importorskip("duckdb")
    pandas = pytest.importorskip("pandas")
    described = duckdb.sql(f"DESCRIBE FROM '{night['out']}'").fetchall()
    types = {name: kind for name, kind, *_ in described}
    assert (types["rank"], types["likelihood"]) == ("INTEGER", "FLOAT")
    assert (types["band"], types["image_raw_likelihoods"]) == ("VARCHAR", "FLOAT[]")
    frame = pandas.read_parquet(night["out"])
    assert frame["likelihood"].dtype == "float32"
    assert frame["images_scored"].dtype == "int32"
    assert frame["rank"].isna().sum() == (frame["band"] != "ranked").sum() > 0


def test_polars_reads_the_worklist(night):
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(night["out"])
    assert frame["rank"].null_count() > 0
    assert frame.schema["image_raw_likelihoods"] == polars.List(polars.Float32)


# Real files


def test_a_folder_of_real_and_hostile_files(shared, tmp_path, tiny_bundle, run_command):
    root, out = shared / "dicom", tmp_path / "worklist.parquet"
    code, said, errors = run_command(
        root, "--out", out, "--bundle", tiny_bundle, "--workers", 2, "--timeout", 60
    )
    run = read_run(out)
    assert code == 1
    check_conserved(run)
    lying = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    members = re.compile(r"(bombs/\w+\.zip)/.*")
    assert {members.sub(r"\1", path) for path in run.paths.values()} == lying
    assert not any(outcome(row).startswith("decoder_") for row in run.files)
    told = (said + errors + repr(run.worklist) + repr(run.files)).lower()
    for name in patient_names(root):
        assert name.lower() not in told


def patient_names(root):
    """Names of patients in real files, as far as they can be read, and are not common words."""
    names = set()
    for path in root.glob("[!b]*/**/*"):  # not the bombs, nor what is broken
        if path.is_file():
            try:
                dataset = pydicom.dcmread(path, specific_tags=["PatientName"], force=True)
                names.add(str(dataset.get("PatientName") or ""))
            except Exception:  # noqa: BLE001, S112 - any file of any kind
                continue
    return {name for name in names if len(name) >= 8}
