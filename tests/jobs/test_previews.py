"""Which plain pictures are taken for previews, and which are images of their own."""

import io

import cv2
import numpy as np
import pytest
from exports import check_conserved, dicom, pixels, plain, put, score
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import BasicTextSRStorage, CTImageStorage, MediaStorageDirectoryStorage

from fracjax_jobs import previews
from fracjax_jobs.state import State
from fracjax_jobs.walk import Entry

DICOMDIR = dicom(99, SOPClassUID=MediaStorageDirectoryStorage)


def preview(seed, *, gamma=1.0, negative=False, side=100):
    """What a viewer would make of ``dicom(seed)``: a small JPEG."""
    picture = (pixels(seed) / 4095) ** gamma
    levels = np.round(255 * (1 - picture if negative else picture)).astype(np.uint8)
    small = cv2.resize(levels, (side * 64 // 80, side), interpolation=cv2.INTER_AREA)
    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def reasons(tmp_path, scorer, reading_here):
    """A function that runs the job and gives the reason of each file, ``None`` where scored."""

    def run():
        with reading_here():
            run = score(tmp_path / "export", tmp_path / "w.parquet", scorer)
        check_conserved(run)
        keys = {key for row in run.worklist for key in row["image_file_keys"]}
        assert keys == {row["file_key"] for row in run.files if row["reason"] is None}
        return {run.paths[row["file_key"]]: row["reason"] for row in run.files}

    return run


def test_a_picture_named_like_the_dicom_file_that_it_shows_is_a_preview(tmp_path, reasons):
    root = tmp_path / "export"
    put(root, "a/IM1.dcm", dicom(1))
    put(root, "a/im1.JPG", preview(1))
    put(root, "a/IM2", dicom(2))
    put(root, "a/IM2.dcm.jpg", preview(2, negative=True))
    put(root, "a/IM3.dcm", dicom(3))
    put(root, "a/IM3.jpg", preview(4))  # another picture
    put(root, "b/IM1.jpg", preview(1))  # in another folder
    found = {path: reason for path, reason in reasons().items() if reason or "jpg" in path.lower()}
    assert found == {
        "a/im1.JPG": "preview",
        "a/IM2.dcm.jpg": "preview",
        "a/IM3.jpg": None,
        "b/IM1.jpg": None,
    }


@pytest.mark.parametrize(
    ("aside", "reason"),
    [
        ({"BodyPartExamined": "CHEST"}, "out_of_scope"),
        ({"Modality": "CT", "SOPClassUID": CTImageStorage}, "not_a_radiograph"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
    ],
)
def test_the_picture_of_what_is_set_aside_does_not_pass_by_the_header(
    tmp_path, reasons, aside, reason
):
    put(tmp_path / "export", "IM1.dcm", dicom(1, **aside))
    put(tmp_path / "export", "IM1.jpg", preview(1))
    put(tmp_path / "export", "IM2.jpg", preview(2))
    assert reasons() == {"IM1.dcm": reason, "IM1.jpg": "preview", "IM2.jpg": None}


def test_the_picture_of_what_cannot_be_read_is_all_there_is(tmp_path, reasons):
    put(tmp_path / "export", "IM1.dcm", dicom(1)[:-1000])
    put(tmp_path / "export", "IM1.jpg", preview(1))
    assert reasons() == {"IM1.dcm": "truncated", "IM1.jpg": None}


@pytest.mark.parametrize("marker", ["DICOMDIR", "IHE_PDI/INDEX.HTM"])
def test_a_medium_s_pictures_are_previews_where_they_show_its_images(tmp_path, reasons, marker):
    root = tmp_path / "export"
    put(root, f"cd/{marker}", DICOMDIR if marker == "DICOMDIR" else b"<html>")
    for number in range(3):
        put(root, f"cd/DICOM/{number}", dicom(number))
        put(root, f"cd/IHE_PDI/x/P{number}.JPG", preview(number))
        put(root, f"cd/IHE_PDI/x/T{number}.JPG", preview(number, side=80))
    put(root, "cd/own.png", plain(7))
    put(root, "own.png", preview(1))
    found = reasons()
    assert {found[f"cd/IHE_PDI/x/{kind}{n}.JPG"] for kind in "PT" for n in range(3)} == {"preview"}
    assert found["cd/own.png"] is found["own.png"] is None


def test_of_a_medium_whose_images_were_not_read_pictures_are_likely_previews(tmp_path, reasons):
    root = tmp_path / "export"
    put(root, "cd/DICOMDIR", DICOMDIR)
    for number in range(3):
        ct = {"SOPClassUID": CTImageStorage, "Modality": "CT"}
        put(root, f"cd/CT{number}", dicom(number, **ct))
        put(root, f"cd/WEB/{number}.JPG", preview(number))
    assert {found for path, found in reasons().items() if "WEB" in path} == {"likely_preview"}
    # One of them may show what could not be read, however many others there are.
    (root / "cd/WEB/0.JPG").unlink()
    whole = dicom(8)
    pixels_at = whole.index(b"\xe0\x7f\x10\x00")
    for cut in (len(whole) - 1000, pixels_at, pixels_at - 20, 300):
        put(root, "cd/DX", whole[:cut])
        assert {found for path, found in reasons().items() if "WEB" in path} == {None}, cut
    (root / "cd/DX").unlink()
    put(root, "cd/AUTORUN", b"")  # of which that is not to be feared
    assert {found for path, found in reasons().items() if "WEB" in path} == {"likely_preview"}
    put(root, "cd/WEB/0.JPG", preview(0))
    # There are more of them than of such images: some show something else.
    put(root, "cd/WEB/9.JPG", preview(9))
    assert {found for path, found in reasons().items() if "WEB" in path} == {None}


def test_pictures_beside_a_dicomdir_without_images_are_images(tmp_path, reasons):
    report = {"SOPClassUID": BasicTextSRStorage, "Modality": "SR", "PixelData": None}
    put(tmp_path / "export", "DICOMDIR", DICOMDIR)
    put(tmp_path / "export", "1.dcm", dicom(1, **report))
    put(tmp_path / "export", "1.png", plain(1))
    assert reasons() == {"1.dcm": "not_a_radiograph", "1.png": None, "DICOMDIR": "not_an_image"}


def test_a_report_explains_no_picture_of_its_name(tmp_path, reasons):
    report = {"SOPClassUID": BasicTextSRStorage, "Modality": "SR", "PixelData": None}
    put(tmp_path / "export", "1.dcm", dicom(1, **report))
    put(tmp_path / "export", "1.png", plain(1))
    assert reasons() == {"1.dcm": "not_a_radiograph", "1.png": None}


def test_many_plain_pictures_on_one_medium_take_no_square_of_time(tmp_path):
    """Of places with and without DICOM images, the time to find those with both is compared."""
    from fracjax_jobs.account import Account, Record

    def steps(count):
        """Instructions of SQLite, in thousands."""
        passed = []
        with State(tmp_path / f"{count}.state") as state:
            state.begin({}, key_prefix="a", reference="", given={})
            files = [
                Entry(tmp_path, (), f"{n}.png", signature="1", file_set="") for n in range(count)
            ]
            state.register(files)
            for number in range(1, count + 1):
                state.record(number, [Record(Account(format="png"), "s", bytes(256), b"1")])
            state.commit()
            state._database.set_progress_handler(lambda: passed.append(None), 1000)
            assert list(state.places(previews.Place.FILE_SET)) == []
        return len(passed)

    assert steps(2000) < 6 * steps(500)


def test_of_many_siblings_no_more_than_some_are_compared(tmp_path, reasons, monkeypatch):
    monkeypatch.setattr(previews, "MOST_SIBLINGS", 1)
    root = tmp_path / "export"
    put(root, "IM1.dcm", dicom(1))
    put(root, "IM1.dicom", dicom(2))
    put(root, "IM1.jpg", preview(1))
    put(root, "IM1.jpeg", preview(2))
    assert sorted(map(str, reasons().values())) == ["None", "None", "None", "preview"]


thumbnails = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 256, (5, 256), dtype=np.uint8)
)


@given(thumbnails, st.floats(0.2, 0.8), st.integers(0, 40))
def test_likeness_is_1_of_what_differs_by_its_grey_scale_alone(pictures, contrast, brightness):
    changed = np.round(pictures * contrast + brightness).astype(np.uint8)
    assert previews.likeness(changed, pictures).min() > 0.999
    assert previews.likeness(255 - changed, pictures).min() > 0.999


@given(thumbnails, thumbnails)
def test_likeness_is_the_largest_correlation_with_any(pictures, others):
    expected = np.abs(np.corrcoef(pictures, others)[:5, 5:]).max(axis=1)
    np.testing.assert_allclose(previews.likeness(pictures, others), expected, atol=1e-4)


def test_a_picture_of_one_grey_level_is_like_none():
    flat, other = np.full((1, 256), 7, np.uint8), np.arange(256, dtype=np.uint8)[np.newaxis]
    assert previews.likeness(flat, other) == previews.likeness(flat, flat) == 0
    assert previews.likeness(other, np.empty((0, 256), np.uint8)) == 0
