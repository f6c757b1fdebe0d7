"""Files that appear whole or not at all, and cells that no spreadsheet runs."""

import csv
import stat
import unicodedata

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracjax_jobs.tables import LINKAGE, WORKLIST, CsvWriter, TableWriter

ROW = {
    "file_key": "a",
    "path": "b",
    "study_key": None,
    "study_instance_uid": None,
    "accession_number": None,
    "sop_instance_uid": None,
}


def write(path, rows, *, publish=True):
    with TableWriter(path, LINKAGE) as table:
        for row in rows:
            table.append(row)
        table.finish({"n": len(rows)})
        if publish:
            table.publish()


def test_a_table_has_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "t.parquet"
    write(path, [ROW], publish=False)
    assert list(tmp_path.iterdir()) == []
    write(path, [ROW] * 5000)
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pq.read_table(path).num_rows == 5000


def test_the_same_rows_leave_an_older_file_as_it_is(tmp_path):
    path = tmp_path / "t.parquet"
    write(path, [ROW])
    before = path.stat()
    write(path, [ROW])
    assert path.stat().st_ino == before.st_ino
    write(path, [ROW, ROW])
    assert path.stat().st_ino != before.st_ino


def test_what_a_killed_run_left_is_overwritten(tmp_path):
    path = tmp_path / "t.parquet"
    (tmp_path / ".t.parquet.partial").write_bytes(b"half")
    write(path, [ROW])
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_an_older_file_that_others_may_read_is_made_private(tmp_path):
    path = tmp_path / "t.parquet"
    write(path, [ROW])
    path.chmod(0o644)
    write(path, [ROW])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_link_is_followed_on_writing(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".t.parquet.partial").symlink_to(victim)
    write(tmp_path / "t.parquet", [ROW])
    assert victim.read_bytes() == b"mine"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8)
starts = st.sampled_from(
    ["", "=", "+", "-", "@", "\t", " =", "'", "\uff1d", "\u2212", "A;=", 'A";@']
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=starts, rest=texts, items=st.lists(texts, max_size=3))
def test_no_cell_of_text_begins_like_a_formula(tmp_path, start, rest, items):
    row = dict.fromkeys(WORKLIST.names)
    row |= {"accession_number": start + rest, "notes": items, "likelihood": 0.25, "rank": 3}
    path = tmp_path / "w.csv"
    with CsvWriter(path) as table:
        table.append(row)
        table.finish()
        table.publish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(encoding="utf-8-sig", newline="") as file:
        (read,) = csv.DictReader(file)
    # A spreadsheet whose decimal point is a comma takes a semicolon for the end of a cell.
    for cell in (part for value in read.values() for part in value.split(";")):
        begins = unicodedata.normalize("NFKC", cell).lstrip(' "')[:1]
        assert begins not in {"=", "+", "-", "@", "\N{MINUS SIGN}"}
        assert cell[:1] not in {"\t", "\r", "\n"}
    assert read["accession_number"].replace("'", "") == f"{start}{rest}".replace("'", "")
    assert (read["likelihood"], read["rank"], read["study_key"]) == ("0.25", "3", "")


@pytest.mark.parametrize("value", ["A77", "123", "1.2.3", "", "a=b", "x-1", "a;b"])
def test_other_text_stays_as_it_is(tmp_path, value):
    with CsvWriter(tmp_path / "w.csv") as table:
        table.append(dict.fromkeys(WORKLIST.names) | {"accession_number": value})
        table.finish()
        table.publish()
    with (tmp_path / "w.csv").open(encoding="utf-8-sig", newline="") as file:
        (read,) = csv.DictReader(file)
    assert read["accession_number"] == value
