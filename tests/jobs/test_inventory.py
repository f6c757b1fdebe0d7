"""The list of what an export holds: its order, its length in memory, file-sets, signatures."""

import os
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from exports import archive, dicom, plain, put
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import MediaStorageDirectoryStorage

from fracjax_jobs.inventory import Inventory

DICOMDIR = dicom(1, SOPClassUID=MediaStorageDirectoryStorage)
NOT_UTF8 = "\udcff\udcfe"  # as Python names the bytes FF FE; other systems than Linux refuse them


def listed(root):
    """The entries of a tree."""
    with Inventory(root) as inventory:
        inventory.scan()
        return list(inventory)


parts = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", ".."))
paths = st.lists(parts, min_size=1, max_size=3).map(tuple)


@settings(max_examples=40, deadline=None)
@given(wanted=st.lists(paths, min_size=1, max_size=12))
def test_the_order_is_depth_first_by_the_bytes_of_the_names(wanted):
    with tempfile.TemporaryDirectory() as folder:
        for path in wanted:
            file = Path(folder, *path)
            if not any(parent.is_file() for parent in file.parents) and not file.exists():
                put(folder, file, b"x")
        files = [path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()]
        found = [entry.name for entry in listed(Path(folder))]
    in_order = sorted(files, key=lambda path: [os.fsencode(part) for part in path.parts])
    assert found == [str(path) for path in in_order]


def test_members_stand_in_the_place_of_their_archive_by_name(tmp_path):
    for name in ("b/2", "b/10", "a/z", "B", "b.txt", "c.zipped"):
        put(tmp_path, name, b"x")
    inner = archive(("z", b"x"), ("y", b"x"))
    put(tmp_path, "c.zip", archive(("2", b"x"), ("1", inner), ("0/x", b"x")))
    assert [entry.name for entry in listed(tmp_path)] == [
        *("B", "a/z", "b/10", "b/2", "b.txt"),
        *("c.zip/0/x", "c.zip/1/y", "c.zip/1/z", "c.zip/2", "c.zipped"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf_8_leads_to_its_file(tmp_path):
    put(tmp_path, f"{NOT_UTF8}/{NOT_UTF8}", b"here")
    (entry,) = listed(tmp_path)
    assert entry.path.read_bytes() == b"here"
    assert entry.name == f"{NOT_UTF8}/{NOT_UTF8}"


def test_the_memory_that_a_walk_takes_does_not_grow_with_the_files_of_a_folder(
    tmp_path, run_python
):
    """In a process of its own, where nothing else is measured along."""
    script = """
import sys, tracemalloc
from pathlib import Path
from fracjax_jobs.inventory import Inventory
for files in (500, 8000):
    root = Path(sys.argv[1]) / str(files)
    root.mkdir()
    for number in range(files):
        (root / f"{number:06d}").touch()
    tracemalloc.start()
    with Inventory(root) as inventory:
        inventory.scan()
        assert sum(1 for _ in inventory) == len(inventory) == files
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""
    done = run_python("-c", script, tmp_path)
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many < few + 50_000


def test_a_full_temporary_folder_is_one_line(tmp_path, run_python):
    for number in range(3000):
        put(tmp_path, f"{number}" + "x" * 200, b"")
    script = """
import resource, sys
from pathlib import Path
from fracjax.errors import JobError
from fracjax_jobs.inventory import Inventory
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import fracjax_jobs.inventory as module
module._SCHEMA = module._SCHEMA.replace("16384", "16")
try:
    with Inventory(Path(sys.argv[1])) as inventory:
        inventory.scan()
except JobError as error:
    print(error)
"""
    done = run_python("-c", script, tmp_path)
    assert "set TMPDIR to a folder with more room" in done.stdout, done.stderr
    assert str(tmp_path) not in done.stdout


def test_the_list_has_no_name_on_disk(tmp_path, monkeypatch):
    put(tmp_path, "export/SMITHERS^WAYLON", dicom(1))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Inventory(tmp_path / "export") as inventory:
        inventory.scan()
        assert list(inventory)
        assert not list(temporary.iterdir())


def test_the_digest_is_that_of_the_sizes_and_tells_no_name(tmp_path):
    def digest(name):
        with Inventory(tmp_path / name) as inventory:
            inventory.scan()
            return inventory.digest

    put(tmp_path, "one/SIMPSON/b", b"1")
    put(tmp_path, "two/FLANDERS/c", b"2")
    assert digest("one") == digest("two")
    put(tmp_path, "two/FLANDERS/c", b"22")
    assert digest("one") != digest("two")


# Media file-sets


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "DICOMDIR.", "DICOMDIR;1", "Dicomdir.;1"])
def test_a_dicomdir_makes_a_file_set_of_all_below_its_folder(tmp_path, name):
    put(tmp_path, f"cd/{name}", DICOMDIR)
    put(tmp_path, "cd/IHE_PDI/a/1.JPG", plain(1))
    put(tmp_path, "cd/x.zip", archive(("1.JPG", plain(1))))
    put(tmp_path, "cd.JPG", plain(1))
    put(tmp_path, "cd 2/1.JPG", plain(1))
    within = {entry.name for entry in listed(tmp_path) if entry.file_set == "cd"}
    assert within == {f"cd/{name}", "cd/IHE_PDI/a/1.JPG", "cd/x.zip/1.JPG"}


def test_a_dicomdir_at_the_top_makes_a_file_set_of_the_export(tmp_path):
    put(tmp_path, "DICOMDIR", DICOMDIR)
    put(tmp_path, "a/1.JPG", plain(1))
    assert all(entry.file_set == "" for entry in listed(tmp_path))


def test_a_dicomdir_in_an_archive_makes_a_file_set_of_its_folder(tmp_path):
    members = (("a/1.JPG", plain(1)), ("a/DICOMDIR", DICOMDIR), ("b/1.JPG", plain(1)))
    put(tmp_path, "x.zip", archive(*members))
    put(tmp_path, "y.zip", archive(("inner.zip", archive(*members))))
    put(tmp_path, "z.zip", archive(("IMAGES\\1.JPG", plain(1)), ("DICOMDIR", DICOMDIR)))
    assert {entry.name: entry.file_set for entry in listed(tmp_path)} == {
        "x.zip/a/1.JPG": "x.zip/a",
        "x.zip/a/DICOMDIR": "x.zip/a",
        "x.zip/b/1.JPG": None,
        "y.zip/inner.zip/a/1.JPG": "y.zip/inner.zip/a",
        "y.zip/inner.zip/a/DICOMDIR": "y.zip/inner.zip/a",
        "y.zip/inner.zip/b/1.JPG": None,
        "z.zip/DICOMDIR": "z.zip",
        "z.zip/IMAGES/1.JPG": "z.zip",
    }


def test_a_folder_of_web_previews_makes_a_file_set_without_a_dicomdir(tmp_path):
    put(tmp_path, "cd/IHE_PDI/1.JPG", plain(1))
    put(tmp_path, "cd/DICOM/1", plain(1))
    put(tmp_path, "1.JPG", plain(1))
    put(tmp_path, "x.zip", archive(("ihe_pdi/1.JPG", plain(1)), ("DICOM/1", plain(1))))
    found = {entry.name: entry.file_set for entry in listed(tmp_path)}
    assert found == {
        "1.JPG": None,
        "cd/DICOM/1": "cd",
        "cd/IHE_PDI/1.JPG": "cd",
        "x.zip/DICOM/1": "x.zip",
        "x.zip/ihe_pdi/1.JPG": "x.zip",
    }


def test_the_innermost_file_set_counts(tmp_path):
    put(tmp_path, "DICOMDIR", DICOMDIR)
    put(tmp_path, "cd/DICOMDIR", DICOMDIR)
    put(tmp_path, "cd/1", b"1")
    put(tmp_path, "2", b"2")
    found = {entry.name: entry.file_set for entry in listed(tmp_path)}
    assert found == {"DICOMDIR": "", "2": "", "cd/DICOMDIR": "cd", "cd/1": "cd"}


def test_a_dicomdir_in_an_archive_that_is_not_inflated_here_is_taken_at_its_word(tmp_path):
    members = (("DICOMDIR", DICOMDIR), ("1.JPG", plain(1)))
    put(tmp_path, "x.zip", archive(*members, compression=zipfile.ZIP_BZIP2))
    assert all(entry.file_set == "x.zip" for entry in listed(tmp_path))


def test_a_file_that_is_only_named_dicomdir_makes_none(tmp_path):
    put(tmp_path, "DICOMDIR", b"a list")
    put(tmp_path, "1.JPG", plain(1))
    assert not any(entry.file_set is not None for entry in listed(tmp_path))


# Signatures


def signatures(root):
    """The signature of each entry of a tree."""
    return {entry.name: entry.signature for entry in listed(root)}


def test_a_signature_changes_with_the_file_and_with_nothing_else(tmp_path):
    changed, other = put(tmp_path, "1", b"one"), put(tmp_path, "2", b"two")
    before = signatures(tmp_path)
    assert signatures(tmp_path) == before
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    assert signatures(tmp_path)["1"] != before["1"]
    assert signatures(tmp_path)["2"] == before["2"]
    put(tmp_path, other, b"three")
    assert signatures(tmp_path)["2"] != before["2"]


def test_the_signature_of_a_member_knows_its_content(tmp_path):
    file = put(tmp_path, "x.zip", archive(("1", b"one"), ("2", b"two")))
    before, times = signatures(tmp_path), file.stat()
    assert before["x.zip/1"] != before["x.zip/2"]
    put(tmp_path, "x.zip", archive(("1", b"ONE"), ("2", b"two")))
    os.utime(file, ns=(0, times.st_mtime_ns))
    after = signatures(tmp_path)
    assert after["x.zip/1"] != before["x.zip/1"]
    assert after["x.zip/2"] == before["x.zip/2"]


def test_what_stands_in_a_link_s_place_changes_its_signature(tmp_path):
    (tmp_path / "link").symlink_to("IM1")
    nowhere = signatures(tmp_path)["link"]
    put(tmp_path, "IM1", plain(1))
    there = signatures(tmp_path)["link"]
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "link")
    assert len({nowhere, there, signatures(tmp_path)["link"]}) == 3
