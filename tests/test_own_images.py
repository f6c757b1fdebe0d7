"""Images of one's own: what people bring, what becomes of it, and what they are told."""

import csv
import io
import logging
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import make_dummy_data as dummy
from fracjax import data
from fracjax.errors import DataError
from fracjax.image import Header, read_picture
from tfds_mura.own_images import own_images_dataset_builder as own
from tfds_mura.own_images.labels import Labelled

EXACT = {"png": 1, "jpg": 1, "tif": 1}


@pytest.fixture
def prepare(tmp_path):
    """Prepare a folder; gives all its images by source."""

    def run(folder):
        splits = data.prepare("own_images", folder, tmp_path / "tfds")
        images = data.load("own_images", list(splits), tmp_path / "tfds")
        return {image.source: image for image in images}

    return run


@pytest.fixture
def folder(tmp_path):
    """A copy of the dummy folder."""
    dummy.make_own_images(tmp_path / "mine")
    return tmp_path / "mine"


def read_rows(folder):
    return list(csv.DictReader(io.StringIO((folder / "labels.csv").read_text())))


def write_rows(folder, rows, *, delimiter=",", encoding="utf-8"):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    (folder / "labels.csv").write_bytes(text.getvalue().encode(encoding))


def assert_refused(folder, tmp_path, *words):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(DataError) as refusal:
        data.prepare("own_images", folder, tmp_path / "tfds")
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message, message
    assert not (tmp_path / "tfds" / "own_images").exists()
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    return message


# What is built of a table


def test_the_table_says_what_an_image_is(data_dir):
    splits = [f"fold_{fold}" for fold in range(5)]
    images = {image.source: image for image in data.load("own_images", splits, data_dir)}
    assert len(images) == 20
    one = images["images/patient1_1.deep.png"]
    assert (one.label, one.target, one.hardware) == (1, "fracture", 1)
    assert (one.body_part, one.view) == ("wrist", "frontal")
    assert images["images/patient3_2.tif"].findings == ("cast",)
    assert images["images/patient2_2.jpg"].findings == ()
    dicom = images["images/patient4_1.dcm"]
    assert (dicom.body_part, dicom.view, dicom.hardware) == ("wrist", "lateral", -1)
    assert dicom.study_id == images["images/patient4_2.dcm"].study_id != one.study_id


def test_plain_eight_bit_files_keep_their_bytes(data_dir):
    splits = [f"fold_{fold}" for fold in range(5)]
    archive = dummy.REPOSITORY / "tfds_mura/own_images/dummy_data"
    for image in data.load("own_images", splits, data_dir):
        own_bytes = (archive / image.source).read_bytes()
        assert (image.encoded == own_bytes) == (image.source.split(".", 1)[1] in EXACT)


def test_boxes_in_pixels_frame_the_finding(data_dir):
    splits = [f"fold_{fold}" for fold in range(5)]
    for image in data.load("own_images", splits, data_dir):
        assert len(image.boxes) == image.label
        pixels = image.pixels().astype(float)
        height, width = pixels.shape
        for box in image.boxes:
            top, left, bottom, right = np.rint(box * [height, width, height, width]).astype(int)
            assert pixels[top + 1 : bottom - 1, left + 1 : right - 1].min() > 140
            pixels[top - 2 : bottom + 2, left - 2 : right + 2] = 0
            assert pixels.max() < 140


def test_no_identifier_is_stored(data_dir):
    splits = [f"fold_{fold}" for fold in range(5)]
    for image in data.load("own_images", splits, data_dir):
        assert re.fullmatch(r"group\d{5}", image.group)
        assert re.fullmatch(r"study\d{5}", image.study_id)
    written = b"".join(p.read_bytes() for p in (data_dir / "own_images").rglob("*") if p.is_file())
    for identifier in (b"MRN", b"Doe", b"1.2.826.0.1.3680043.10.8888"):
        assert identifier not in written


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_come_as_spreadsheets_write_them(delimiter, encoding, folder, prepare):
    rows = read_rows(folder)
    for row in rows:
        row["image"] = row["image"].replace("/", "\\")
        row["fracture"] += ".0"
    write_rows(folder, rows, delimiter=delimiter, encoding=encoding)
    images = prepare(folder)
    assert sum(image.label for image in images.values()) == 10


def test_column_names_may_be_in_upper_case_and_lines_empty(folder, prepare):
    path = folder / "labels.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("image,fracture", " Image , FRACTURE "), "", ",,"]))
    with path.open("a") as file:
        file.write("\n" + "\n".join(lines[1:]) + "\n,,,\n")
    assert len(prepare(folder)) == 20


def test_splits_are_those_of_the_table(folder, tmp_path):
    rows = read_rows(folder)
    for row in rows:
        row["split"] = "valid" if row["patient"] in ("MRN 0", "MRN 1") else "train"
    write_rows(folder, rows)
    assert data.prepare("own_images", folder, tmp_path / "tfds") == {"train": 16, "valid": 4}


def test_a_label_may_be_abnormality(folder, prepare):
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace("fracture", "abnormality"))
    assert {image.target for image in prepare(folder).values()} == {"abnormality"}


def test_unused_columns_are_named(folder, prepare, caplog):
    prepare(folder)
    assert "not used: age" in caplog.text


# What is built of folders


def make_folders(root, *, split="", patients=10, nested=True, names=("fracture", "no_fracture")):
    for patient in range(patients):
        inner = f"anna_{patient}/" if nested else f"{patient}_"
        name = names[0] if patient % 2 else names[1]
        for number in (1, 2):
            path = root / split / name / f"{inner}{number}.png"
            dummy.write(path, dummy.own_image("png", patient * 10 + number, patch=patient % 2 == 1))


def test_folders_say_class_and_patient(tmp_path, prepare, caplog):
    root = tmp_path / "mine"
    make_folders(root)
    for furniture in (".DS_Store", "no_fracture/._1.png", "no_fracture/Thumbs.db"):
        dummy.write(root / furniture, b"\0\5\x16\7")
    images = prepare(root)
    assert len(images) == 20
    for source, image in images.items():
        assert image.label == source.startswith("fracture/")
        assert image.target == "fracture"
    assert len({image.group for image in images.values()}) == 10
    assert "files that are no images, and left out: 1" in caplog.text
    assert "patient" not in caplog.text


def test_folders_may_lie_in_splits(tmp_path):
    root = tmp_path / "mine"
    make_folders(root, split="train")
    make_folders(root, split="valid", patients=3, nested=False)
    assert data.prepare("own_images", root, tmp_path / "tfds") == {"train": 20, "valid": 6}


def test_one_warning_says_that_patients_are_not_known(tmp_path, prepare, caplog):
    make_folders(tmp_path / "mine", nested=False)
    images = prepare(tmp_path / "mine")
    assert len({image.group for image in images.values()}) == 20
    warnings = [
        r for r in caplog.records if r.levelno == logging.WARNING and r.name == own.__name__
    ]
    assert len(warnings) == 1
    assert "20 of 20 images" in warnings[0].getMessage()


def test_dicom_tells_patient_and_study_where_nothing_else_does(tmp_path, prepare, caplog):
    root = tmp_path / "mine"
    for patient in range(1, 11):
        name = "fracture" if patient % 2 else "no_fracture"
        for number in (1, 2):
            image = dummy.own_image("dcm", patient * 10 + number, patch=patient % 2 == 1)
            dummy.write(root / name / f"{patient}_{number}", image)  # without a suffix
    images = prepare(root).values()
    assert len({image.group for image in images}) == 10
    assert len({image.study_id for image in images}) == 10
    assert "patient" not in caplog.text


# What is grouped


@st.composite
def found_images(draw):
    some = st.sampled_from(["", "a", "b", "c"])
    count = draw(st.integers(1, 12))
    images = []
    for index in range(count):
        header = draw(
            st.none()
            | st.builds(
                Header,
                patient_tag=st.none() | st.integers(0, 2),
                study_instance_uid=st.none() | st.sampled_from(["1.2", "1.3"]),
            )
        )
        labelled = Labelled("", f"{index}.png", 0, "fracture", draw(some), draw(some))
        images.append(own.Found(labelled, header))
    return images


@given(found_images())
def test_images_of_one_patient_share_a_group_and_studies_stay_in_one(found):
    named = own.name_groups(found)
    for (one, as_named), (other, other_named) in combinations(zip(found, named, strict=True), 2):
        same_patient = one.labelled.patient and one.labelled.patient == other.labelled.patient
        tags = [f.header.patient_tag if f.header else None for f in (one, other)]
        same_tag = (
            not one.labelled.patient
            and not other.labelled.patient
            and tags[0] is not None
            and tags[0] == tags[1]
        )
        if same_patient or same_tag:
            assert as_named.patient == other_named.patient
        if one.labelled.patient and other.labelled.patient and not same_patient:
            assert as_named.patient != other_named.patient
        if as_named.study == other_named.study:
            assert as_named.patient == other_named.patient


# What is refused, and how


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("fracture", "yes", ("line 3", "'yes' for fracture", "0 or 1")),
        ("fracture", "", ("line 3", "'' for fracture")),
        ("image", "images/none.png", ("line 3", "images/none.png", "no file")),
        ("image", "", ("line 3", "no image")),
        ("image", "../labels.csv", ("line 3", "no file")),
        ("image", "images/patient0_1.png", ("line 3", "same image", "line 2")),
        ("image", "./images/../images/patient0_1.png", ("line 3", "same image", "line 2")),
        ("patient", " ", ("line 3", "no patient")),
        ("body_part", "Wirst", ("line 3", "'Wirst' for body_part", "wrist")),
        ("hardware", "2", ("line 3", "'2' for hardware")),
        ("finding:cast", "", ("line 3", "'' for finding:cast")),
        ("boxes", "1 2 3", ("line 3", "'1 2 3' for boxes")),
        ("boxes", "1 2 3 nan", ("line 3", "boxes")),
        ("boxes", "70 2 20 3", ("patient0_2.png", "beyond the 80 x 64")),
        ("split", "", ("line 3", "'' for split")),
        ("split", "fold 1", ("line 3", "'fold 1' for split")),
        ("split", "all", ("line 3", "'all' for split")),
    ],
)
def test_a_value_that_cannot_be_used(column, value, words, folder, tmp_path):
    rows = read_rows(folder)
    if column == "split":
        rows = [row | {"split": "train"} for row in rows]
    rows[1][column] = value
    write_rows(folder, rows)
    message = assert_refused(folder, tmp_path, *words)
    assert "in all" not in message
    assert "MRN" not in message


@pytest.mark.parametrize("given", ["whole", "."])
def test_a_file_outside_the_folder(given, folder, tmp_path, monkeypatch):
    shutil.copy(folder / "images/patient0_1.png", tmp_path / "outside.png")
    rows = read_rows(folder)
    rows[0]["image"] = "../outside.png"
    write_rows(folder, rows)
    monkeypatch.chdir(folder)
    archive = folder if given == "whole" else Path(given)
    assert_refused(archive, tmp_path, "line 2", "outside", "inside the folder")


def test_all_faults_are_counted(folder, tmp_path):
    rows = read_rows(folder)
    for row in rows[3:7]:
        row["fracture"] = "?"
    write_rows(folder, rows)
    assert_refused(folder, tmp_path, "line 5", "(4 images in all")


def test_all_unreadable_images_are_counted(folder, tmp_path):
    for name in ("patient0_1.png", "patient5_2.png"):
        (folder / "images" / name).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "images/patient3_1.tif").write_bytes(b"II*\0")
    assert_refused(folder, tmp_path, "images/patient", "corrupt", "mend it", "(3 images in all")


def test_a_file_that_is_no_radiograph(folder, tmp_path):
    (folder / "images/patient2_1.jpg").write_text("a letter")
    colour = np.zeros((64, 80, 3), np.uint8)
    colour[..., 0] = dummy.radiograph(1)
    dummy.write(folder / "images/patient0_2.png", dummy.encode(Image.fromarray(colour), "PNG"))
    message = assert_refused(folder, tmp_path, "patient2_1.jpg", "line 6", "not_an_image")
    (folder / "images/patient2_1.jpg").write_bytes(dummy.own_image("jpg", 21, patch=False))
    message = assert_refused(folder, tmp_path, "patient0_2.png", "not_a_radiograph")
    assert "in all" not in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("image,", "file,"), ("no column image", "labels.csv")),
        (("fracture,", "label,"), ("no column fracture or abnormality", "0 or 1")),
        (("view,", "abnormality,"), ("fracture and abnormality", "one")),
        (("view,", "study,"), ("study", "one")),
        (("finding:cast", "finding:"), ("'finding:'", "name")),
    ],
)
def test_odd_columns(change, words, folder, tmp_path):
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace(*change, 1))
    assert_refused(folder, tmp_path, *words)


def test_a_line_with_too_many_values(folder, tmp_path):
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace(",44\n", ",44,45\n", 1))
    assert_refused(folder, tmp_path, "line 2", "more values", "quote")


def test_a_table_in_another_encoding(folder, tmp_path):
    path = folder / "labels.csv"
    path.write_bytes(path.read_text().replace("Handgelenk", "Hüfte").encode("cp1252"))
    assert_refused(folder, tmp_path, "not UTF-8", "CSV UTF-8")


def test_one_class_only(folder, tmp_path):
    write_rows(folder, [row for row in read_rows(folder) if row["fracture"] == "1"])
    assert_refused(folder, tmp_path, "one class only")


def test_too_few_patients_for_folds(folder, tmp_path):
    write_rows(folder, read_rows(folder)[:8])
    assert_refused(folder, tmp_path, "4 patients", "too few for 5 folds", "split")


def test_a_patient_in_two_splits(folder, tmp_path):
    rows = read_rows(folder)
    rows = [row | {"split": "train" if index % 4 else "valid"} for index, row in enumerate(rows)]
    write_rows(folder, rows)
    message = assert_refused(folder, tmp_path, "one patient", "line 2", "line 3", "valid and train")
    assert "MRN" not in message


def test_folders_of_no_known_name(tmp_path):
    make_folders(tmp_path / "mine", names=("positive", "negative"))
    assert_refused(tmp_path / "mine", tmp_path, "labels.csv", "fracture, no_fracture, abnormality")


def test_folders_for_two_labels(tmp_path):
    make_folders(tmp_path / "mine", names=("fracture", "no_abnormality"))
    assert_refused(tmp_path / "mine", tmp_path, "fracture and for abnormality")


def test_folders_of_which_some_lie_in_splits(tmp_path):
    make_folders(tmp_path / "mine")
    make_folders(tmp_path / "mine", split="valid", patients=2, nested=False)
    assert_refused(tmp_path / "mine", tmp_path, "no split", "each")


@pytest.mark.parametrize("split", ["hospital A", "all", "a,b"])
def test_folders_that_cannot_be_splits(split, tmp_path):
    make_folders(tmp_path / "mine", split=split)
    assert_refused(tmp_path / "mine", tmp_path, repr(split), "stands for a split")


@pytest.mark.parametrize("exists", [True, False])
def test_no_folder(exists, tmp_path):
    if exists:
        (tmp_path / "none").mkdir()
        assert_refused(tmp_path / "none", tmp_path, "labels.csv")
        return
    with pytest.raises(DataError, match=r"labels\.csv"):
        data.prepare("own_images", tmp_path / "none", tmp_path / "tfds")


def test_a_second_set_does_not_pass_for_the_first(folder, tmp_path, prepare):
    prepare(folder)
    with pytest.raises(DataError, match="holds own images already"):
        data.prepare("own_images", folder, tmp_path / "tfds")


def test_nothing_is_written_into_the_folder(folder):
    with pytest.raises(DataError, match="nothing is written"):
        data.prepare("own_images", folder, folder / "data")
    assert not (folder / "data").exists()


# Real DICOM files


def test_real_dicom_is_stored_as_scoring_shows_it(shared, tmp_path, prepare):
    files = [
        *sorted((shared / "dicom/radiograph").glob("*.dcm")),
        *sorted((shared / "dicom/ts").glob("RG3_*LL")),
    ]
    for index, path in enumerate(files):
        name = ("fracture", "no_fracture")[index % 2]
        dummy.write(tmp_path / "mine/train" / name / path.name, path.read_bytes())
    images = prepare(tmp_path / "mine")
    assert len(images) == len(files) > 3
    for source, image in images.items():
        picture = read_picture((tmp_path / "mine" / source).read_bytes())
        shown = np.rint(picture.display * 255).astype(np.uint8)
        np.testing.assert_array_equal(image.pixels(), shown)
