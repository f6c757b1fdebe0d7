"""Whatever lies in an export: each file and archive member has exactly one outcome."""

import os
import shutil
import struct
import sys
import tempfile
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from exports import (
    CONTENTS,
    DAMAGED_ARCHIVE,
    SCORED,
    archive,
    check_conserved,
    damaged_member,
    dicom,
    outcome,
    patched_members,
    plain,
    put,
    score,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fracjax.configs import Preprocess
from fracjax.image import ReadPolicy, Rejected
from fracjax_jobs import read, walk
from fracjax_jobs.inventory import Inventory
from fracjax_jobs.read import Reading, read_entry


def results(root):
    """Each entry below a folder, with its one outcome: scored, or the reason why not."""
    with Inventory(root) as inventory:
        inventory.scan()
        for entry in inventory:
            if entry.obstacle is None:
                (result,) = read_entry(entry, Preprocess(image_size=64), ReadPolicy())
                assert isinstance(result, Reading | Rejected)
                yield entry, str(result.reason) if isinstance(result, Rejected) else SCORED
            else:
                yield entry, str(entry.obstacle)


def outcomes(root):
    """The outcome of each path below a folder, without scoring."""
    found = [(entry.name, result) for entry, result in results(root)]
    assert len(found) == len(dict(found))
    return dict(found)


# Any mix

NOT_UTF8 = "\udcff\udcfe"  # as Python names the bytes FF FE; other systems than Linux refuse them
UNUSUAL_NAMES = ["A" * 255, "Müller 骨折", "-rf", "a\nb", "\x1b[31m", " "]
UNUSUAL_NAMES += [NOT_UTF8] if sys.platform == "linux" else []
names = st.one_of(
    st.sampled_from(["IM000001", "x.dcm", "README.TXT", "image.zip"]),
    st.sampled_from(UNUSUAL_NAMES),
)
folders = st.lists(st.sampled_from(["PAT 1", "ST.01", "Ümlaut"]), max_size=4)
content_kinds = st.sampled_from(sorted(CONTENTS))
members = st.lists(st.tuples(st.sampled_from(["IM1", "a/IM2", "../up", "/etc/x"]), content_kinds))
special_kinds = st.sampled_from(
    ["fifo", "link to itself", "link inside", "link out", "dangling link", "damaged archive"]
)
trees = st.lists(
    st.tuples(folders, names, st.one_of(content_kinds, special_kinds, members)), max_size=12
)
SPECIAL_OUTCOMES = {"damaged archive": "corrupt", "link inside": "duplicate"}
"""The others are not files."""


def write_tree(root, outside, tree):
    """Write a tree, and give each path with the kind of thing that was put there."""
    written = []
    for parents, name, kind in tree:
        target = Path(root, *parents, name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            continue
        if os.path.lexists(target):
            continue
        shown = str(target.relative_to(root)).encode(errors="backslashreplace").decode()
        if isinstance(kind, list):
            data = archive(*((member, CONTENTS[content][0]) for member, content in kind))
            target.write_bytes(data)
            written += [(f"{shown}/{member}", content) for member, content in kind]
            written += [] if kind else [(shown, "empty")]
        else:
            put_one(target, root, outside, kind)
            written.append((shown, kind))
    return written


def put_one(target, root, outside, kind):
    match kind:
        case "fifo":
            os.mkfifo(target)
        case "link to itself":
            target.symlink_to(target)
        case "link inside":
            target.symlink_to(root)
        case "link out":
            target.symlink_to(outside)
        case "dangling link":
            target.symlink_to("/nowhere")
        case "damaged archive":
            target.write_bytes(DAMAGED_ARCHIVE)
        case _:
            target.write_bytes(CONTENTS[kind][0])


def without_times(run):
    """The tables of a run, but for the times at which rows were scored."""
    tables = (run.files, run.linkage, run.worklist)
    return [[row | {"scored_at": None} for row in table] for table in tables]


def expected_of(kind):
    """The outcome of the only file of a kind."""
    return CONTENTS[kind][1] if kind in CONTENTS else SPECIAL_OUTCOMES.get(kind, "not_a_file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=30, deadline=None)
@given(tree=trees.filter(bool))
def test_each_file_of_any_export_has_one_outcome(tree, scorer, reading_here):
    with tempfile.TemporaryDirectory() as folder, reading_here():
        root, outside = Path(folder, "export"), put(folder, "outside/IM1", dicom(99))
        root.mkdir()
        written = write_tree(root, outside.parent, tree)
        run = score(root, Path(folder, "worklist.parquet"), scorer)
        again = score(root, Path(folder, "again.parquet"), scorer)
    check_conserved(run)
    assert without_times(run) == without_times(again)

    paths = run.paths
    assert Counter(paths.values()) == Counter(path for path, _ in written)
    expected = Counter(expected_of(kind) for _, kind in written)
    found = Counter(outcome(row) for row in run.files)
    kinds = {kind for _, kind in written if expected_of(kind) == SCORED}
    # A member of an archive may have the name of another, whose preview it then is.
    assert len(kinds) - found["preview"] <= found[SCORED] <= len(kinds)
    again_seen = ("duplicate", "preview", SCORED)
    assert sum(found.pop(name, 0) for name in again_seen) == sum(
        expected.pop(name, 0) for name in again_seen
    )
    assert found == expected


def test_the_outcome_follows_from_content_and_not_from_the_name(tmp_path):
    expected = {}
    for number, (kind, (data, known)) in enumerate(CONTENTS.items()):
        for name in ("IM", "x.dcm", "x.txt", "x.zip"):
            path = put(tmp_path, f"{number}/{kind} {name}", data)
            expected[str(path.relative_to(tmp_path))] = known
    assert outcomes(tmp_path) == expected


# Links, and what cannot be looked into


def test_where_looking_is_slow_files_are_looked_at_together_and_none_is_missed(
    tmp_path, monkeypatch
):
    count = 2 * walk.LOOKS * walk._LOOKED_AT_BY_ONE
    for number in range(count):
        put(tmp_path, f"{number // 40}/{number % 3}/{number}.txt", b"x" * number)
    put(tmp_path, "some.zip", archive(("IM0", dicom(1)), ("inner/x.png", plain(2))))
    (tmp_path / "link").symlink_to("nowhere")
    with Inventory(tmp_path) as quick:
        quick.scan()
        wanted = list(quick)
    assert len(wanted) == count + 3
    look_at_all, met = walk._look_at_all, []
    together = threading.Barrier(walk.LOOKS, action=lambda: met.append(True), timeout=60)

    def look(root, names, is_over):
        if not met and all(name.endswith(".txt") for name in names):
            together.wait()  # none goes on before all threads have come
        return look_at_all(root, names, is_over)

    monkeypatch.setattr(walk, "_look_at_all", look)
    monkeypatch.setattr(walk, "SLOW", -1.0)
    with Inventory(tmp_path) as slow:
        slow.scan()
        assert list(slow) == wanted
    assert met


def test_a_signal_is_noticed_while_a_file_is_slow_to_open(tmp_path, monkeypatch):
    """At once, and then no other file is waited for than those that are being opened."""
    for number in range(200):
        put(tmp_path, f"{number}.txt", b"")
    looked, signalled = [], threading.Event()

    def look_at(root, path, name):
        looked.append(name)
        if threading.current_thread() is not threading.main_thread():
            signalled.wait(60)
        return []

    def check():
        signalled.set()
        raise SystemExit(143)

    monkeypatch.setattr(walk, "_look_at", look_at)
    monkeypatch.setattr(walk, "SLOW", -1.0)
    monkeypatch.setattr(walk.interrupt, "check", check)
    with Inventory(tmp_path) as inventory, pytest.raises(SystemExit):
        inventory.scan()
    assert len(looked) < 200


def test_an_export_may_be_named_through_a_link(tmp_path):
    put(tmp_path, "export/IM1", dicom(1))
    (tmp_path / "link").symlink_to("export")
    assert outcomes(tmp_path / "link") == {"IM1": SCORED}


def test_a_link_is_not_followed_and_loses_nothing_that_is_found_without_it(tmp_path):
    put(tmp_path, "outside/IM1", dicom(1))
    put(tmp_path, "export/IM2", dicom(2))
    os.mkfifo(tmp_path / "export/fifo")
    links = {
        "to a file": ("IM2", "duplicate"),
        "to a folder": (".", "duplicate"),
        "to a link": ("to a file", "duplicate"),
        "to itself": ("to itself", "not_a_file"),
        "to a pipe": ("fifo", "not_a_file"),
        "to nothing": ("IM3", "not_a_file"),
        "to a file outside": ("../outside/IM1", "not_a_file"),
        "to a folder outside": ("../outside", "not_a_file"),
        "out and back": ("../outside/../export/IM2", "duplicate"),
    }
    for name, (target, _) in links.items():
        (tmp_path / "export" / name).symlink_to(target)
    expected = {name: outcome for name, (_, outcome) in links.items()}
    assert outcomes(tmp_path / "export") == expected | {"IM2": SCORED, "fifo": "not_a_file"}


def test_names_of_one_file_are_files_and_so_are_hidden_ones(tmp_path):
    hidden = put(tmp_path, ".hidden/.IM1", dicom(1))
    (tmp_path / "IM1").hardlink_to(hidden)
    assert outcomes(tmp_path) == {".hidden/.IM1": SCORED, "IM1": SCORED}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads whatever the permissions")
def test_a_folder_or_file_without_permission_is_unreadable(tmp_path):
    put(tmp_path, "closed/IM1", dicom(1))
    put(tmp_path, "IM2", dicom(2)).chmod(0)
    put(tmp_path, "open/IM3", dicom(3))
    (tmp_path / "closed").chmod(0)
    try:
        found = outcomes(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert found == {"closed": "unreadable", "IM2": "unreadable", "open/IM3": SCORED}


def test_a_path_too_long_to_open_is_unreadable(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(18):  # 18 names of 250 characters are more than any PATH_MAX
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    put(tmp_path, "z/IM1", dicom(1))
    try:
        deep, shallow = sorted(outcomes(tmp_path).items())
    finally:
        shutil.rmtree(tmp_path / ("d" * 250))
    assert deep[1] == "unreadable"
    assert shallow == ("z/IM1", SCORED)


# Archives


def overlapping_members(content):
    """An archive whose table names its one member many times, so that it inflates to more."""
    data = archive(("a", content))
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    table = data[start:end] * 9
    sizes = struct.pack("<HHIIH", 9, 9, len(table), start, 0)
    return data[:start] + table + data[end : end + 8] + sizes


ARCHIVES = {
    "nested": (archive(("inner", archive(("IM1", dicom(1))))), {"/inner/IM1": SCORED}),
    "nested and empty": (archive(("inner", archive())), {"/inner": "empty"}),
    "nested twice": (
        archive(("1", archive(("2", archive(("IM1", dicom(1))))))),
        {"/1/2": "unsupported"},
    ),
    "nested and damaged": (
        archive(("a", damaged_member("b", b"0" * 99)), ("c", DAMAGED_ARCHIVE), ("d", dicom(1))),
        {"/a/b": "corrupt", "/c": "corrupt", "/d": SCORED},
    ),
    "cut off behind an empty archive": (
        archive(("1", dicom(1)), ("2", archive()), compression=zipfile.ZIP_STORED)[:-120],
        {"": "corrupt"},
    ),
    "cut off behind an archive": (
        archive(("1", dicom(1)), ("2", archive(("3", dicom(2)))), compression=zipfile.ZIP_STORED)[
            :-120
        ],
        {"": "corrupt"},
    ),
    "overlapping": (overlapping_members(dicom(1)), {"": "corrupt"}),
    "split": (b"PK\x07\x08" + archive(("IM1", dicom(1))), {"": "unsupported"}),
    "out of the way": (
        archive(("/etc/x", dicom(1)), ("../../up", dicom(2))),
        {"//etc/x": SCORED, "/../../up": SCORED},
    ),
    "from Windows": (archive(("a\\b\\", b""), ("a\\b\\c", dicom(1))), {"/a/b/c": SCORED}),
    "names that are not UTF-8": (
        archive(("ü", dicom(1))).replace("ü".encode(), b"\xff\xfe"),
        {"": "corrupt"},
    ),
    "a document": (archive(("mimetype", b""), ("a.png", plain(1))), {"": "not_an_image"}),
    "encrypted": (patched_members(archive(("IM1", dicom(1))), flags=1), {"": "unsupported"}),
    "encrypted in part": (
        patched_members(archive(("IM1", dicom(1)), ("IM2", dicom(2))), flags=1, only=1),
        {"/IM1": "unreadable", "/IM2": SCORED},
    ),
    "a program with images": (
        archive(("META-INF/MANIFEST.MF", b"x"), ("IM1", dicom(1))),
        {"/META-INF/MANIFEST.MF": "not_an_image", "/IM1": SCORED},
    ),
    "one that unpacks images": (
        b"MZ" + bytes(9_999) + archive(("IM1", dicom(1))),
        {"": "unsupported"},
    ),
    "one that unpacks itself": (
        b"MZ" + bytes(9_999) + archive(("a.dll", b"MZ")),
        {"": "not_an_image"},
    ),
    "an image whose preamble is a part's": (b"PK\x07\x08" + dicom(1)[4:], {"": SCORED}),
    "an image whose preamble is an archive's": (b"PK\x03\x04" + dicom(1)[4:], {"": SCORED}),
    "one that unpacks images with a password": (
        b"MZ" + bytes(9_999) + patched_members(archive(("IM1", dicom(1))), flags=1),
        {"": "unsupported"},
    ),
    "one that unpacks an archive": (
        b"MZ" + bytes(9_999) + archive(("cd.zip", archive(("IM1", dicom(1))))),
        {"": "unsupported"},
    ),
    "a program with images without a preamble": (
        archive(("mimetype", b""), ("IM1", dicom(1, preamble=False))),
        {"/mimetype": "empty", "/IM1": SCORED},
    ),
    "a program with an archive": (
        archive(("mimetype", b""), ("study.zip", archive(("IM1", dicom(1))))),
        {"/mimetype": "empty", "/study.zip/IM1": SCORED},
    ),
    "a part in an archive": (
        archive(("a.z01", b"PK\x07\x08" + bytes(999))),
        {"/a.z01": "unsupported"},
    ),
    "unknown method": (patched_members(archive(("I", dicom(1))), method=9), {"/I": "unsupported"}),
    "damaged member": (damaged_member("IM1", dicom(1)), {"/IM1": "corrupt"}),
    "damaged": (DAMAGED_ARCHIVE, {"": "corrupt"}),
    "without members": (archive(), {"": "empty"}),
    "folders alone": (archive(("a/", b""), ("a/b/", b"")), {"": "empty"}),
    "with folders": (archive(("a/", b""), ("a/IM1", dicom(1))), {"/a/IM1": SCORED}),
    "named as a folder": (archive(("a/", dicom(1))), {"/a/": SCORED}),
    "without a name": (archive(("", dicom(1)), ("b", b"")), {"/": SCORED, "/b": "empty"}),
    "LZMA": (archive(("IM1", dicom(1)), compression=zipfile.ZIP_LZMA), {"/IM1": SCORED}),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_each_member_of_an_archive_has_one_outcome(tmp_path, kind):
    data, expected = ARCHIVES[kind]
    put(tmp_path, "x.zip", data)
    assert outcomes(tmp_path) == {f"x.zip{member}": known for member, known in expected.items()}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_all_read(tmp_path):
    put(tmp_path, "x.zip", archive(("IM1", dicom(1)), ("IM1", b"")))
    found = [(entry.name, entry.member, result) for entry, result in results(tmp_path)]
    assert found == [("x.zip/IM1", (0,), SCORED), ("x.zip/IM1", (1,), "empty")]


def test_an_archive_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "MAX_MEMBERS", 2)
    put(tmp_path, "2.zip", archive(("a", b"x"), ("b", b"x")))
    put(tmp_path, "3.zip", archive(("a", b"x"), ("b", b"x"), ("c", b"x")))
    assert outcomes(tmp_path) == {
        "2.zip/a": "not_an_image",
        "2.zip/b": "not_an_image",
        "3.zip": "too_large",
    }


def test_a_file_or_member_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    image = plain(1)
    monkeypatch.setattr(read, "MAX_FILE_BYTES", len(image))
    put(tmp_path, "fits", image)
    put(tmp_path, "large", image + b"\0")
    put(tmp_path, "x.zip", archive(("fits", image), ("large", image + b"\0" * 100_000)))
    assert outcomes(tmp_path) == {
        "fits": SCORED,
        "large": "too_large",
        "x.zip/fits": SCORED,
        "x.zip/large": "too_large",
    }


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_to_an_archive_stops_the_walk(data):
    inner = archive(("a", plain(2)), compression=zipfile.ZIP_LZMA)
    members = (("a/IM1", plain(1)), ("b", b"text"), ("c", inner))
    whole = archive(*members, compression=data.draw(st.sampled_from(METHODS)))
    damaged = bytearray(whole)
    directory = whole.rindex(b"PK\x01\x02")
    at = st.one_of(st.integers(4, len(whole) - 1), st.integers(directory, len(whole) - 1))
    for place, value in data.draw(st.lists(st.tuples(at, st.integers(0, 255)), max_size=4)):
        damaged[place] = value
    with tempfile.TemporaryDirectory() as folder:
        put(folder, "x.zip", bytes(damaged))
        assert list(results(Path(folder)))
