"""Make the dummy archives that the builder tests read: ``python tests/make_dummy_data.py``.

The archives are laid out as released, and hold one of each thing that a builder must get right.
The pictures are generated, from fixed seeds; none comes from a patient.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

REPOSITORY = Path(__file__).parents[1]

CONTRADICTORY_ID = 2886
MISFILED_ID = 3298
TRUNCATED_ID = 4028
ROTATED_ID = 101
"""Stored on its side, with EXIF orientation 6."""
FAR_PAIR = (1, 141)
"""In different blocks of ids, but one group in ``groups.csv``."""

BOX = (24, 8, 8, 12)
"""Left, top, width and height of the bright patch, in the upright 40 x 32 picture."""

MURA_IMAGES = (
    "train/XR_WRIST/patient00001/study1_positive/image1.png",
    "train/XR_WRIST/patient00001/study1_positive/image2.png",
    "train/XR_WRIST/patient00001/study2_negative/image1.png",
    "train/XR_HAND/patient00001/study1_negative/image1.png",
    "train/XR_ELBOW/patient00002/study1_negative/image1.png",
    "train/XR_SHOULDER/patient00003/study1_positive/image1.png",
    "valid/XR_WRIST/patient11185/study1_positive/image1.png",
    "valid/XR_WRIST/patient11185/study1_positive/image2.png",
    "valid/XR_FOREARM/patient11186/study1_negative/image1.png",
)
MURA_RGB = frozenset(MURA_IMAGES[4:7])


def gradient(seed: int, *, patch: bool = False) -> NDArray[np.uint8]:
    """Draw a dark, slightly noisy 40 x 32 gradient, with a bright patch at ``BOX`` if asked."""
    noise = np.random.default_rng(seed).integers(0, 16, (32, 40))
    picture = (noise + np.linspace(0, 80, 40)).astype(np.uint8)
    if patch:
        left, top, width, height = BOX
        picture[top : top + height, left : left + width] = 240
    return picture


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Encode a picture as a file."""
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a file, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_csv(path: Path, rows: list[list[str]]) -> None:
    """Write a csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def frac_atlas_jpeg(number: int, *, fractured: bool) -> bytes:
    """Encode a FracAtlas picture, in the way that its id stands for."""
    image = Image.fromarray(gradient(number, patch=fractured))
    if number == TRUNCATED_ID:
        whole = encode(image, "JPEG", quality=90)
        return whole[: len(whole) - 200]
    if number == ROTATED_ID:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
        return encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)
    stored = image.convert("RGB") if number % 2 else image
    return encode(stored, "JPEG", quality=90)


def make_frac_atlas(manual_dir: Path) -> None:
    """Make a small FracAtlas: 24 images, 10 of them fractured, and 2 of no known label."""
    root = manual_dir / "FracAtlas"
    ordinary = [20 * block + offset for block in range(10) for offset in (0, 1)]
    special = [CONTRADICTORY_ID, MISFILED_ID, TRUNCATED_ID]
    columns = "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count"
    table = [[*columns.split(","), "frontal", "lateral", "oblique"]]
    groups = [["image_id", "group"]]
    images, annotations = [], []
    for number in sorted([*ordinary, *special, 4100]):
        name = f"IMG{number:07d}.jpg"
        fractured = number in ordinary and number % 2 == 1
        leg = int(number % 4 == 0)
        counted = fractured or number == MISFILED_ID
        folder = "Fractured" if counted else "Non_fractured"
        flags = [1 - leg, leg, 0, int(number == 4100), int(number == 4100), int(number == 21), 0]
        table.append([name, *map(str, [*flags, int(fractured), int(counted), 1, leg, 0])])
        groups.append([name, str(FAR_PAIR[0] if number in FAR_PAIR else number // 20 + 1000)])
        write(root / "images" / folder / name, frac_atlas_jpeg(number, fractured=fractured))
        if counted:
            images.append({"id": number, "width": 40, "height": 32, "file_name": name})
            annotations.append({"id": number, "image_id": number, "category_id": 0, "bbox": BOX})
    write_csv(root / "dataset.csv", table)
    write_csv(root / "groups.csv", groups)
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "f"}]}
    write(
        root / "Annotations/COCO JSON/COCO_fracture_masks.json",
        (json.dumps(coco, indent=1) + "\n").encode(),
    )


def make_mura(manual_dir: Path) -> None:
    """Make a small MURA-v1.1: 6 images to train and 3 to validate, and one of macOS's files."""
    root = manual_dir / "MURA-v1.1"
    for number, source in enumerate(MURA_IMAGES):
        image = Image.fromarray(gradient(number + 10_000))
        stored = image.convert("RGB") if source in MURA_RGB else image
        write(root / source, encode(stored, "PNG"))
    resource_fork = (root / MURA_IMAGES[0]).with_name("._image1.png")
    write(resource_fork, b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
    for split in ("train", "valid"):
        sources = [f"MURA-v1.1/{name}" for name in MURA_IMAGES if name.startswith(split)]
        studies = list(dict.fromkeys(source.rpartition("/")[0] for source in sources))
        write_csv(root / f"{split}_image_paths.csv", [[source] for source in sources])
        write_csv(
            root / f"{split}_labeled_studies.csv",
            [[f"{study}/", str(int(study.endswith("_positive")))] for study in studies],
        )


GRAZ_COLUMNS = (
    "filestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,"
    "ao_classification,cast,diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,"
    "device_manufacturer"
)
GRAZ_PATIENTS = 12
GRAZ_UNCERTAIN = "0004_0000000004_01_WRI-L1_M009"
GRAZ_OCCULT = "0002_0000000002_01_WRI-L1_F008"
"""Of a fractured wrist, but the fracture is not seen in this projection."""


def deep(seed: int, *, patch: bool = False) -> NDArray[np.uint16]:
    """Draw the picture of :func:`gradient` with 12 bits of 16, over an offset."""
    return 500 + 12 * gradient(seed, patch=patch).astype(np.uint16)


def make_grazpedwri_dx(manual_dir: Path) -> None:
    """Make a small GRAZPEDWRI-DX: 12 patients, two 16-bit pictures each, every second fractured."""
    root = manual_dir / "GRAZPEDWRI-DX"
    table = [GRAZ_COLUMNS.split(",")]
    left, top, width, height = BOX
    box = f"{(left + width / 2) / 40} {(top + height / 2) / 32} {width / 40} {height / 32}"
    for patient in range(1, GRAZ_PATIENTS + 1):
        for projection in (1, 2):
            fractured = patient % 2 == 0
            sex = "FM"[patient // 2 % 2 == 0]
            time = f"{patient:010d}"
            stem = f"{patient:04d}_{time}_01_WRI-L{projection}_{sex}{patient // 2 + 7:03d}"
            visible = fractured and stem not in (GRAZ_OCCULT, GRAZ_UNCERTAIN)
            codes = ("23r-M/3.1; 23u-E/7" if patient == 6 else "23r-M/2.1") if fractured else ""
            table.append(
                [
                    *(stem, str(patient), "1", str(int(time)), sex, "9.0", "L", str(projection)),
                    *("1", codes, "1" if patient == 6 else ""),
                    *("1" if stem == GRAZ_UNCERTAIN else "", "1" if patient == 7 else ""),
                    *("1" if visible else "", "1" if patient == 8 else "", "0.144", "Siemens"),
                ]
            )
            part = 1 + (patient > 6)
            picture = Image.fromarray(deep(patient * 10 + projection, patch=visible))
            write(root / f"images_part{part}/{stem}.png", encode(picture, "PNG"))
            lines = ["8 0.1 0.1 0.05 0.05"]
            lines += [f"3 {box}"] if visible else []
            lines += ["5 0.5 0.5 0.2 0.2", "4 0.5 0.5 0.2 0.2"] if patient == 10 else []
            if patient != 11:  # an image without a box may have no file
                labels = root / f"folder_structure/yolov5/labels/{stem}.txt"
                write(labels, "".join(f"{line}\n" for line in lines).encode())
    write_csv(root / "dataset.csv", table)


def dicom(pixels: NDArray[np.uint16], sop_class: str, instance: int, **elements: object) -> bytes:
    """Encode 12-bit grey levels as a DICOM file, with more elements by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.10.9999.{instance}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.10.9999"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


RSNA_STUDIES = 10
RSNA_SLICES = 5
RSNA_BOXED = (3, 4)
RSNA_UNBOXED = "1.2.826.0.1.3680043.10"
"""Of a study with a fracture that nobody has boxed."""


def make_rsna_cervical_spine(manual_dir: Path) -> None:
    """Make a small RSNA 2022: ten CT studies, every second with a fracture, one of them unboxed."""
    root = manual_dir / "rsna-2022-cervical-spine-fracture-detection"
    levels = [f"C{number}" for number in range(1, 8)]
    studies = [["StudyInstanceUID", "patient_overall", *levels]]
    boxes = [["x", "y", "width", "height", "StudyInstanceUID", "slice_number"]]
    left, top, width, height = BOX
    for number in range(1, RSNA_STUDIES + 1):
        study = f"1.2.826.0.1.3680043.{number}"
        fractured = number % 2 == 0
        boxed = fractured and study != RSNA_UNBOXED
        studies.append([study, str(int(fractured)), *("0100000" if fractured else "0" * 7)])
        for position in range(1, RSNA_SLICES + 1):
            patch = boxed and position in RSNA_BOXED
            pixels = 12 * gradient(number * 100 + position, patch=patch).astype(np.uint16)
            data = dicom(
                pixels,
                CTImageStorage,
                number * 100 + position,
                Modality="CT",
                RescaleSlope=1,
                RescaleIntercept=-1024,
                WindowCenter=40,
                WindowWidth=80,
            )
            write(root / f"train_images/{study}/{position}.dcm", data)
            if patch:
                place = map(float, (left, top, width, height))
                boxes.append([*map(str, place), study, str(position)])
    write_csv(root / "train.csv", studies)
    write_csv(root / "train_bounding_boxes.csv", boxes)


OWN_PATIENTS = 10
OWN_BOX = "24 8 8 12"
OWN_DICOM_PATIENT = "MRN-0815"


def radiograph(seed: int, *, patch: bool = False) -> NDArray[np.uint8]:
    """Draw the picture of :func:`gradient` twice as large, as DICOM needs 64 pixels a side."""
    return gradient(seed, patch=patch).repeat(2, 0).repeat(2, 1)


def own_image(kind: str, seed: int, *, patch: bool) -> bytes:
    """Encode a picture as people bring them: ``png``, ``deep.png``, ``jpg``, ``tif`` or ``dcm``."""
    pixels = radiograph(seed, patch=patch)
    levels = 500 + 12 * pixels.astype(np.uint16)
    if kind == "dcm":
        return dicom(
            levels,
            DigitalXRayImageStorageForPresentation,
            seed,
            Modality="DX",
            PatientID=f"{OWN_DICOM_PATIENT}-{seed // 10}",
            PatientName="Doe^Jane",
            StudyInstanceUID=f"1.2.826.0.1.3680043.10.8888.{seed // 10}",
            BodyPartExamined="WRIST",
            ViewPosition="LATERAL",
            PixelIntensityRelationshipSign=-1,
            WindowCenter=2000,
            WindowWidth=3000,
        )
    if kind == "deep.png":
        return encode(Image.fromarray(levels), "PNG")
    return encode(Image.fromarray(pixels), {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[kind])


OWN_KINDS = ("png", "deep.png", "jpg", "tif", "dcm")


def make_own_images(manual_dir: Path) -> None:
    """Make ten patients' images with a table, two each, in all formats; every second fractured."""
    columns = "image,fracture,patient,study,body_part,view,hardware,boxes,finding:cast,age"
    table = [columns.split(",")]
    for patient in range(OWN_PATIENTS):
        fractured = patient % 2 == 1
        kind = OWN_KINDS[patient % len(OWN_KINDS)]
        for number in (1, 2):
            name = f"images/patient{patient}_{number}.{kind}"
            data = own_image(kind, patient * 10 + number, patch=fractured)
            write(manual_dir / name, data)
            part, view = ("", "") if kind == "dcm" else ("Handgelenk", "Frontal")
            box = " ".join(str(2 * int(side)) for side in OWN_BOX.split()) if fractured else ""
            hardware = "" if kind == "dcm" else str(int(patient == 1))
            table.append(
                [
                    *(name, str(int(fractured)), f"MRN {patient}", "", part, view, hardware, box),
                    *(str(int(patient == 3)), "44"),
                ]
            )
    write_csv(manual_dir / "labels.csv", table)


MAKERS = {
    "frac_atlas": make_frac_atlas,
    "mura": make_mura,
    "grazpedwri_dx": make_grazpedwri_dx,
    "rsna_cervical_spine": make_rsna_cervical_spine,
    "own_images": make_own_images,
}
"""By builder, what makes its dummy archive."""


if __name__ == "__main__":
    for name, make in MAKERS.items():
        make(REPOSITORY / "tfds_mura" / name / "dummy_data")
