"""Reading one entry: its frames, and files that change or vanish meanwhile."""

import hashlib
import os
import zipfile

import cv2
import numpy as np
import pytest
from bombs import zip_of_zeros
from exports import archive, dicom, pixels, put
from pydicom.uid import JPEGBaseline8Bit

from fracjax.configs import Preprocess
from fracjax.image import ReadPolicy, Reason, Rejected, network_input, read_picture
from fracjax_jobs import read, walk
from fracjax_jobs.inventory import Inventory
from fracjax_jobs.read import read_entry
from image.dicom_files import dicom_bytes

PREPROCESS = Preprocess(image_size=64)


def listed(root):
    """The entries of a tree by name."""
    with Inventory(root) as inventory:
        inventory.scan()
        return {entry.name: entry for entry in inventory}


def outcomes_of(entry):
    """All outcomes of an entry."""
    return read_entry(entry, PREPROCESS, ReadPolicy())


def reading(root, name="IM1"):
    """The one outcome of the file of a name."""
    (outcome,) = outcomes_of(listed(root)[name])
    return outcome


def test_a_reading_is_what_the_network_sees_and_knows_where_it_came_from(tmp_path):
    put(tmp_path, "IM1", dicom(1))
    found, picture = reading(tmp_path), read_picture(dicom(1))
    np.testing.assert_array_equal(found.input, network_input(picture.display, PREPROCESS))
    assert found.digest == hashlib.sha256(found.input.tobytes()).digest()
    assert found.header == picture.header
    assert (found.format, found.decoder) == (picture.format, picture.decoder)
    assert (found.voi_source, found.polarity_source) == (
        picture.voi_source,
        picture.polarity_source,
    )
    assert (found.frame, found.notes) == (None, picture.notes)


def test_thumbnails_of_lossy_copies_are_alike_and_of_other_pictures_are_not(tmp_path):
    def thumbnail(seed, **options):
        smooth = cv2.resize(pixels(seed, bits=8), (300, 360), interpolation=cv2.INTER_CUBIC)
        put(tmp_path, "IM1", dicom_bytes(smooth, bits=8, **options))
        return np.frombuffer(reading(tmp_path).thumbnail, np.uint8).astype(int)

    original = thumbnail(1)
    assert original.shape == (16 * 16,)
    assert np.abs(original - thumbnail(1, syntax=JPEGBaseline8Bit)).max() <= 3
    assert np.abs(original - thumbnail(2)).mean() > 20


def test_each_frame_has_its_outcome(tmp_path):
    frames = [pixels(1).tobytes(), pixels(2).tobytes(), bytes(pixels(3).nbytes)]
    put(tmp_path, "IM1", dicom(1, NumberOfFrames=3, PixelData=b"".join(frames)))
    first, second, third = outcomes_of(listed(tmp_path)["IM1"])
    assert (first.frame, second.frame) == (1, 2)
    assert first.digest != second.digest
    assert third.reason is Reason.FLAT


def test_a_file_of_too_many_frames_has_one_outcome_for_all(tmp_path):
    put(tmp_path, "IM1", dicom(1, NumberOfFrames=9, PixelData=pixels(1).tobytes() * 9))
    rejected = reading(tmp_path)
    assert (rejected.reason, rejected.frames) == (Reason.MULTI_FRAME, 9)


def test_the_rejection_of_a_file_keeps_its_frames_and_no_cause(tmp_path):
    put(tmp_path, "IM1", dicom(1, Modality="CT"))
    rejected = reading(tmp_path)
    assert rejected.reason is Reason.NOT_A_RADIOGRAPH
    assert rejected.__cause__ is rejected.__context__ is rejected.__traceback__ is None


# What goes wrong on the way


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError])
def test_frames_that_the_reader_fails_at_stay_with_their_study(tmp_path, monkeypatch, error):
    """A defect of the reader costs the frames that it fails at, and their study knows."""
    calls = []

    def network_input(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise error
        return original(*arguments)

    original = read.network_input
    frames = b"".join(pixels(seed).tobytes() for seed in (1, 2, 3))
    put(tmp_path, "IM1", dicom(1, "1.2.3", NumberOfFrames=3, PixelData=frames))
    put(tmp_path, "IM2", dicom(2, "1.2.3"))
    monkeypatch.setattr(read, "network_input", network_input)
    first, *rest = outcomes_of(listed(tmp_path)["IM1"])
    assert not isinstance(first, Rejected)
    assert [(one.reason.is_failure, one.header.study_instance_uid, one.frames) for one in rest] == [
        (True, "1.2.3", 1)
    ] * 2
    calls[:] = [None]
    assert reading(tmp_path, "IM2").header.study_instance_uid == "1.2.3"


def test_what_may_hold_images_is_told_from_clutter(tmp_path):
    disc = bytes(32_769) + b"CD001" + bytes(4096)
    put(tmp_path, "cd.iso", disc)
    put(tmp_path, "cd.zip", archive(("cd.iso", disc)))
    put(tmp_path, "zeros", bytes(65_536))
    found = {name: outcomes_of(entry)[0].reason for name, entry in listed(tmp_path).items()}
    assert found == {
        "cd.iso": Reason.UNSUPPORTED,
        "cd.zip/cd.iso": Reason.UNSUPPORTED,
        "zeros": Reason.NOT_AN_IMAGE,
    }


def test_a_damaged_member_is_corrupt_however_it_is_compressed(tmp_path):
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        data = bytearray(archive(("IM1", dicom(1)), compression=method))
        data[60:400] = bytes(340)
        put(tmp_path, f"{method}.zip", bytes(data))
    for name, entry in listed(tmp_path).items():
        assert outcomes_of(entry)[0].reason is Reason.CORRUPT, name


def test_members_of_an_archive_that_lacks_bytes_are_corrupt_or_read(tmp_path):
    """Their places are counted from its end, and the first lie before its beginning."""
    whole = archive(*((f"IM{n}", dicom(1)) for n in range(3)), compression=zipfile.ZIP_STORED)
    put(tmp_path, "x.zip", whole[:200] + whole[400:])
    found = {name: outcomes_of(entry)[0] for name, entry in listed(tmp_path).items()}
    assert found["x.zip/IM0"].reason is Reason.CORRUPT
    assert not isinstance(found["x.zip/IM2"], Rejected)


# Files that change or vanish


def test_a_file_that_vanishes_is_unreadable(tmp_path):
    put(tmp_path, "a/IM1", dicom(1))
    put(tmp_path, "x.zip", archive(("IM1", dicom(1))))
    for name, entry in listed(tmp_path).items():
        entry.path.unlink()
        (rejected,) = outcomes_of(entry)
        assert rejected.reason is Reason.UNREADABLE, name
        assert rejected.detail == "gone since it was found"


def test_a_link_or_pipe_that_takes_the_place_of_a_file_is_not_opened(tmp_path):
    put(tmp_path, "outside", dicom(1))
    entry = listed(put(tmp_path, "export/IM1", dicom(2)).parent)["IM1"]
    entry.path.unlink()
    entry.path.symlink_to("../outside")
    assert outcomes_of(entry)[0].reason is Reason.UNREADABLE
    entry.path.unlink()
    os.mkfifo(entry.path)
    assert outcomes_of(entry)[0].reason is Reason.UNREADABLE


def meddle(monkeypatch, change, times):
    """Change a file each time that it has been read, so often."""
    left = [times]

    def check_kind(head):
        if left[0]:
            left[0] -= 1
            change()
        return original(head)

    original = read.check_kind
    monkeypatch.setattr(read, "check_kind", check_kind)


@pytest.mark.parametrize("data", [dicom(1), b"not yet an image"])
def test_a_file_that_changes_once_is_read_again(tmp_path, monkeypatch, data):
    file = put(tmp_path, "IM1", data)
    entry = listed(tmp_path)["IM1"]
    meddle(monkeypatch, lambda: put(tmp_path, file, dicom(2) + b"\0" * 8), times=1)
    (outcome,) = outcomes_of(entry)
    assert outcome.header.sop_instance_uid == read_picture(dicom(2)).header.sop_instance_uid


@pytest.mark.parametrize("data", [dicom(1), b"not yet an image"])
def test_a_file_that_keeps_changing_is_unreadable(tmp_path, monkeypatch, data):
    put(tmp_path, "IM1", data)
    entry = listed(tmp_path)["IM1"]

    def append():
        with entry.path.open("ab") as file:
            file.write(b"\0\0")

    meddle(monkeypatch, append, times=99)
    (rejected,) = outcomes_of(entry)
    assert rejected.reason is Reason.UNREADABLE
    assert rejected.detail == "changes while it is read; run again later"


@pytest.mark.parametrize("is_known", [True, False])
def test_no_member_is_read_in_the_place_of_another(tmp_path, is_known):
    put(tmp_path, "x.zip", archive(("IM1", dicom(1)), ("IM2", dicom(2))))
    entries = listed(tmp_path)
    if is_known:  # as when the members before it have been read
        assert not isinstance(outcomes_of(entries["x.zip/IM1"])[0], Rejected)
    put(tmp_path, "x.zip", archive(("IM0", dicom(3)), ("IM1", dicom(1))))
    (rejected,) = outcomes_of(entries["x.zip/IM2"])
    assert rejected.reason is Reason.UNREADABLE
    assert rejected.detail == "its archive has changed since; run again later"


def test_a_member_of_a_nested_archive_is_itself(tmp_path):
    inner = [archive((f"IM{n}", dicom(n)), (f"IM{n + 1}", dicom(n + 1))) for n in (1, 3)]
    put(tmp_path, "x.zip", archive(("a", inner[0]), ("b", inner[1])))
    for name, entry in listed(tmp_path).items():
        (outcome,) = outcomes_of(entry)
        expected = read_picture(dicom(int(name[-1]))).header
        assert outcome.header.sop_instance_uid == expected.sop_instance_uid


# Archives that inflate to much


def test_what_inflates_as_no_image_does_is_refused_and_padding_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "SMALL_MEMBER_BYTES", 2**20)
    padded = dicom(1, PixelData=pixels(1).tobytes() + bytes(400_000))  # 50:1
    put(tmp_path, "1.zip", archive(("IM1", padded)))
    put(tmp_path, "2.zip", zip_of_zeros(4, dicom(1)))
    put(tmp_path, "3.zip", zip_of_zeros(4, b"a log of a viewer"))
    found = [outcomes_of(entry)[0] for entry in listed(tmp_path).values()]
    reasons = [getattr(outcome, "reason", None) for outcome in found]
    assert reasons == [None, Reason.TOO_LARGE, Reason.NOT_AN_IMAGE]


def test_archives_beyond_their_bounds_are_refused_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "MAX_ARCHIVE_BYTES", 50_000)
    monkeypatch.setattr(walk, "MAX_TABLE_BYTES", 1_000)
    monkeypatch.setattr(walk._Guarded, "limit", 1_000)
    monkeypatch.setattr(walk, "MAX_INNER_BYTES", 5_000)
    many = [(f"IM{n}", b"") for n in range(30)]
    put(tmp_path, "inflated.zip", archive(("IM1", bytes(50_001))))
    put(tmp_path, "table.zip", archive(*many))
    nested = archive(("IM1", dicom(1)), compression=zipfile.ZIP_STORED)
    put(tmp_path, "inner.zip", archive(("small.zip", archive(("IM1", b"x")))))
    put(tmp_path, "large.zip", archive(("large.zip", nested + bytes(5_000))))
    put(tmp_path, "deep.zip", archive(("table.zip", archive(*many))))
    found = {name: entry.obstacle for name, entry in listed(tmp_path).items()}
    assert found == {
        "deep.zip/table.zip": Reason.TOO_LARGE,
        "inflated.zip": Reason.TOO_LARGE,
        "inner.zip/small.zip/IM1": None,
        "large.zip/large.zip": Reason.TOO_LARGE,
        "table.zip": Reason.TOO_LARGE,
    }


def test_real_bombs_are_refused(shared):
    for entry in listed(shared / "dicom/bombs").values():
        (outcome,) = outcomes_of(entry)
        is_text = "slip.zip/" in entry.name
        assert outcome.reason is (Reason.NOT_AN_IMAGE if is_text else Reason.TOO_LARGE)
