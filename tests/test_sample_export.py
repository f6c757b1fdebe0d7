"""The sample export is what its answer key says, and names nobody."""

import csv
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.fileset import FileSet

from fracjax.image import Reason, Rejected, looks_like_dicom, read_picture
from tfds_mura.frac_atlas import frac_atlas_dataset_builder as frac_atlas

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPORT = EXAMPLES / "sample_export"

with (EXAMPLES / "sample_labels.csv").open(newline="", encoding="utf-8") as key:
    ANSWERS = list(csv.DictReader(key))

OUTCOMES = {path: row["outcome"] for row in ANSWERS for path in row["files"].split(";")}
READABLE = sorted(path for path, outcome in OUTCOMES.items() if outcome in ("scored", "duplicate"))
REJECTED = sorted(OUTCOMES.keys() - set(READABLE))


def contents(path: str) -> bytes:
    file, _, member = path.partition("!")
    if not member:
        return (EXPORT / file).read_bytes()
    with zipfile.ZipFile(EXPORT / file) as archive:
        return archive.read(member)


def files_of_export() -> list[str]:
    files = []
    for path in sorted(EXPORT.rglob("*")):
        name = path.relative_to(EXPORT).as_posix()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                files += [f"{name}!{member}" for member in archive.namelist()]
        elif path.is_file():
            files.append(name)
    return files


def elements(dataset: Dataset) -> list:
    """All elements, those of sequences too."""
    found = list(dataset)
    for element in dataset:
        if element.VR == "SQ":
            found += [inner for item in element.value for inner in elements(item)]
    return found


def test_key_lists_each_file_once():
    listed = [path for row in ANSWERS for path in row["files"].split(";")]
    assert sorted(listed) == sorted(files_of_export())
    assert len({row["study_instance_uid"] for row in ANSWERS}) == len(ANSWERS)


@pytest.mark.parametrize("path", READABLE)
def test_picture_reads(path):
    picture = read_picture(contents(path))
    assert picture.notes == ()
    assert picture.voi_source == ("window" if picture.format == "dicom" else "none")
    assert picture.display.min() < 0.1
    assert picture.display.max() > 0.8


@pytest.mark.parametrize("path", REJECTED)
def test_other_file_is_rejected_for_the_reason_listed(path):
    with pytest.raises(Rejected) as rejected:
        read_picture(contents(path))
    assert rejected.value.reason == OUTCOMES[path]


def test_headers_agree_with_key():
    studies = [row for row in ANSWERS if row["transfer_syntax"]]
    for row in studies:
        for path in row["files"].split(";"):
            try:
                header = read_picture(contents(path)).header
            except Rejected as rejected:
                header = rejected.header
            assert header.study_instance_uid == row["study_instance_uid"]
            assert header.transfer_syntax == row["transfer_syntax"]
    assert len({row["transfer_syntax"] for row in studies}) == 10


def test_duplicate_repeats_an_instance_that_comes_before_it():
    [copy] = (path for path, outcome in OUTCOMES.items() if outcome == "duplicate")
    uids = {
        path: read_picture(contents(path)).header.sop_instance_uid
        for path in READABLE
        if looks_like_dicom(contents(path))
    }
    [original] = (path for path, uid in uids.items() if uid == uids[copy] and path != copy)
    assert original < copy
    assert len(set(uids.values())) == len(uids) - 1


def test_about_a_third_of_the_studies_is_fractured():
    scored = Counter(row["label"] for row in ANSWERS if row["outcome"] == "scored")
    assert scored.keys() == {"0", "1"}
    assert 0.25 < scored["1"] / scored.total() < 0.45
    assert {"truncated", "corrupt", "empty"} < {row["outcome"] for row in ANSWERS}
    assert {row["outcome"] for row in ANSWERS} - {"scored"} <= set(Reason)


@pytest.mark.parametrize("path", [path for path in OUTCOMES if looks_like_dicom(contents(path))])
def test_header_names_only_the_sample(path):
    dataset = dcmread(BytesIO(contents(path)), stop_before_pixels=True)
    for element in elements(dataset):
        assert not element.tag.is_private
        if element.VR == "PN":
            assert str(element.value).startswith("SAMPLE^") or element.value == ""
        if element.VR == "DA":
            assert not element.value or element.value.startswith("2031")
        if element.VR == "UI" and not element.value.startswith("1.2.840.10008."):
            assert element.value.startswith("2.25.")
    if "DirectoryRecordSequence" not in dataset:
        assert dataset.PatientID.startswith("SAMPLE-")
        assert dataset.Manufacturer == "Sample"
        assert dataset.PatientBirthDate == dataset.PatientSex == ""
        assert not {"InstitutionName", "StationName", "PatientAddress"} & set(dataset.dir())


def test_plain_images_carry_no_metadata():
    plain = [path for path in READABLE if path.startswith("images/")]
    assert {Path(path).suffix for path in plain} == {".jpg", ".png"}
    for path in plain:
        image = Image.open(BytesIO(contents(path)))
        assert not image.getexif()
        assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}


def test_dicomdir_leads_to_the_images_of_the_medium():
    media = EXPORT / "media"
    found = {
        Path(instance.path).relative_to(media.resolve()).as_posix(): instance
        for instance in FileSet(media / "DICOMDIR")
    }
    assert sorted(found) == [f"IMAGES/IM{number:06d}" for number in range(1, 10)]
    for instance in found.values():
        dataset = instance.load()
        assert dataset.SOPInstanceUID == instance.SOPInstanceUID
        assert dataset.PatientID == instance.PatientID


def test_furniture_is_there_and_the_whole_is_small():
    names = ("DICOMDIR", "AUTORUN.INF", "README.TXT", "VIEWER/VIEWER.EXE")
    assert all((EXPORT / "media" / name).is_file() for name in names)
    assert sum(path.stat().st_size for path in EXPORT.rglob("*") if path.is_file()) < 4_000_000


def test_pictures_are_of_the_fold_that_the_bundled_model_has_not_seen(shared):
    root = shared / "data/FracAtlas"
    rows = [row for row in frac_atlas.read_rows(root) if not frac_atlas.is_contradictory(root, row)]
    groups = frac_atlas.read_groups(root, [row["image_id"] for row in rows])
    fold_0 = {
        rows[index]["image_id"]: rows[index] for index in frac_atlas.assign_folds(rows, groups)[0]
    }
    for answer in ANSWERS:
        for source in filter(None, answer["source_images"].split(";")):
            row = fold_0[f"{source}.jpg"]
            assert row["fractured"] == answer["label"]
            assert row["hardware"] == "0"
