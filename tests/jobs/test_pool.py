"""A file that kills or stops the process that reads it costs itself, and no other file."""

import pytest
from exports import SCORED, check_conserved, dicom, outcome, put, read_run
from lethal import Crash, Defect, Exit, Hang

from fracjax_jobs import score_dir as job
from fracjax_jobs.walk import Entry, walk

LETHAL = {"crash": Crash(), "exit": Exit(), "hang": Hang(), "defect": Defect()}


@pytest.fixture(scope="module")
def run(tmp_path_factory, scorer):
    """A run by two workers over good files, with one of each kind of lethal file among them."""
    folder = tmp_path_factory.mktemp("pool")
    for number in range(12):
        put(folder / "export", f"IM{number:02d}", dicom(number))

    def walk_with_lethal(root):
        lethal = [Entry(path, None, name) for name, path in LETHAL.items()]
        for entry in walk(root):
            yield entry
            if entry.name >= "IM04" and lethal:
                yield lethal.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "walk", walk_with_lethal)
        options = job.Options(workers=2, seconds_per_file=10)
        job.score_dir(folder / "export", folder / "worklist.parquet", scorer, options)
    return read_run(folder / "worklist.parquet")


def test_it_costs_one_file_and_the_job_ends(run):
    check_conserved(run)
    found = {run.paths[row["file_key"]]: outcome(row) for row in run.files}
    assert found == {
        **{f"IM{number:02d}": SCORED for number in range(12)},
        "crash": "decoder_crashed",
        "exit": "decoder_crashed",
        "hang": "decoder_timeout",
        "defect": "corrupt",
    }


def test_its_detail_names_the_kind_of_error_alone(run):
    assert run.file("defect")["detail"] == "the reader failed (RuntimeError)"
    assert run.file("hang")["detail"] == "not read in 10 seconds"


def test_results_keep_the_order_of_the_walk(run):
    good = [path for path in run.paths.values() if path.startswith("IM")]
    assert good == sorted(good)
    assert list(run.paths) == sorted(run.paths)


def test_a_run_that_fails_leaves_nothing_and_keeps_the_older_worklist(tmp_path, scorer):
    for number in range(6):
        put(tmp_path / "export", f"IM{number}", dicom(number))
    out = put(tmp_path, "out/worklist.parquet", b"of last night")

    def fail(done, total):
        if done == total:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        job.score_dir(tmp_path / "export", out, scorer, job.Options(workers=1), report=fail)
    assert [path.name for path in out.parent.iterdir()] == ["worklist.parquet"]
    assert out.read_bytes() == b"of last night"
    assert not any(path.exists() for path in job.table_paths(out)[1:])
