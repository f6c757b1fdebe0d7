"""Makes the sample PACS export that lies beside this script, out of FracAtlas radiographs.

The pictures come from split ``fold_0`` alone: the bundled model has learned from the other folds.
They were chosen by their place in the set, not by any model's score. All that a hospital would
add to them (names, numbers, dates, devices) is invented, and says so.

    python examples/make_sample_export.py --data-dir DIR_OF_PREPARED_TFDS --out sample_export

A second run writes the same bytes, as long as the encoders are of the same versions.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

import imagecodecs
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from fracjax.data import Example, load
from fracjax.errors import DataError

SPLIT = "fold_0"

NAMES = (
    *("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN", "ELEVEN"),
    *("TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN"),
)


@dataclass(frozen=True, slots=True)
class Study:
    """One invented study of one invented patient."""

    number: int
    modality: str
    body_part: str
    """BodyPartExamined, which real devices leave blank at times."""
    syntax: UID
    images: tuple[int, ...]
    """Ids of FracAtlas images of one leakage group and one label."""
    bits: int = 8
    inverted: bool = False
    """Whether the image is MONOCHROME1."""

    @property
    def patient_id(self) -> str:
        """PatientID."""
        return f"SAMPLE-{self.number:04d}"

    @property
    def accession(self) -> str:
        """AccessionNumber."""
        return f"ACC{1000 + self.number}"

    @property
    def description(self) -> str:
        """StudyDescription."""
        return self.body_part.title() or "Radiograph"

    @property
    def folder(self) -> str:
        """The study's folder in an archive that Orthanc writes."""
        return f"{self.patient_id}/{self.accession} {self.description}"


MEDIA = (
    Study(1, "CR", "HAND", ExplicitVRLittleEndian, (3770, 3771)),
    Study(2, "CR", "HIP", JPEGBaseline8Bit, (328,)),
    Study(3, "DX", "HAND", JPEGLosslessSV1, (1520, 1521, 1522), bits=12, inverted=True),
    Study(4, "CR", "SHOULDER", RLELossless, (1178,)),
    Study(5, "DX", "LEG", JPEGLSLossless, (1678, 1679)),
)
ARCHIVE = (
    Study(6, "CR", "LEG", ImplicitVRLittleEndian, (3703, 3704)),
    Study(7, "DX", "HAND", JPEG2000Lossless, (903, 904), bits=12),
    Study(8, "CR", "HIP", JPEGBaseline8Bit, (2544,)),
    Study(9, "CR", "LEG", HTJ2KLossless, (1420, 1421), inverted=True),
    Study(10, "DX", "LEG", JPEGBaseline8Bit, (106,)),
    Study(11, "CR", "SHOULDER", ExplicitVRBigEndian, (2503,), bits=12),
    Study(14, "DX", "HAND", JPEGLSLossless, (2408, 2409), inverted=True),
    Study(15, "DX", "", RLELossless, (707,), bits=12),
    Study(16, "CR", "SHOULDER", JPEG2000Lossless, (2236,)),
)
ZIPPED = (
    Study(12, "DX", "LEG", DeflatedExplicitVRLittleEndian, (3523, 3524), bits=12),
    Study(13, "CR", "HAND", JPEGBaseline8Bit, (1702, 1703)),
)
RESENT = ARCHIVE[4]
CUT_OFF = Study(17, "DX", "LEG", ExplicitVRLittleEndian, (353,))
DAMAGED = Study(18, "CR", "HAND", JPEGLosslessSV1, (3878,))
PLAIN = {"images/hip.jpg": 3892, "images/shoulder.png": 3424}

FURNITURE = {
    "media/AUTORUN.INF": b"[autorun]\r\nopen=VIEWER\\VIEWER.EXE\r\n",
    "media/README.TXT": b"Sample media. Start VIEWER\\VIEWER.EXE to see the images.\r\n",
    "media/VIEWER/VIEWER.EXE": b"A sample, not a program.\r\n",
}

# At the time of a download, the server was down.
ERROR_PAGE = b"<html><body><h1>503 Service Unavailable</h1></body></html>\n"

ENCODERS: dict[UID, Callable[[NDArray[Any], int], Any]] = {
    JPEGLosslessSV1: lambda stored, bits: imagecodecs.jpeg8_encode(
        stored, lossless=True, predictor=1, bitspersample=bits
    ),
    JPEGLSLossless: lambda stored, bits: imagecodecs.jpegls_encode(stored),
    JPEG2000Lossless: lambda stored, bits: imagecodecs.jpeg2k_encode(
        stored, codecformat="J2K", reversible=True, bitspersample=bits
    ),
    HTJ2KLossless: lambda stored, bits: imagecodecs.htj2k_encode(stored, reversible=True),
}

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of the answer key: one study, or one file that is no study's picture."""

    study_instance_uid: str
    """Or the file's path where the file is no picture of a study."""
    label: int | None
    """Whether it shows a fracture."""
    outcome: str
    """``scored``, or the reason why not (``fracjax.image.Reason``)."""
    source_images: str
    transfer_syntax: str
    files: str
    """Paths joined by ``;``. A member of an archive stands behind ``!``."""


def uid(name: str) -> UID:
    """Make a UID that is the same at every run (PS3.5 B.2)."""
    return UID(f"2.25.{uuid5(NAMESPACE_URL, f'fracjax sample export/{name}').int}")


def study_uid(study: Study) -> UID:
    """StudyInstanceUID."""
    return uid(study.accession)


def header(
    study: Study, sop_class: UID, syntax: UID, modality: str, *, series: int, instance: int
) -> Dataset:
    """Build what all objects of a study have in common."""
    series_name = f"{study.accession}/{series}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid(f"{series_name}/{instance}")
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = "SAMPLE"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyDate = f"203103{study.number:02d}"  # a year that nobody takes for a real one
    dataset.StudyTime = f"08{study.number:02d}00"
    dataset.AccessionNumber = study.accession
    dataset.Modality = modality
    dataset.Manufacturer = "Sample"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = study.description
    dataset.PatientName = f"SAMPLE^{NAMES[study.number - 1]}"
    dataset.PatientID = study.patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.StudyInstanceUID = study_uid(study)
    dataset.SeriesInstanceUID = uid(series_name)
    dataset.StudyID = str(study.number)
    dataset.SeriesNumber = series
    dataset.InstanceNumber = instance
    return dataset


def add_pixels(dataset: Dataset, stored: NDArray[Any], bits: int, photometric: str) -> None:
    """Describe grey pixels and add them, not compressed."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    native = stored.astype(stored.dtype.newbyteorder("<" if little else ">")).tobytes()
    dataset.PixelData = native + b"\0" * (len(native) % 2)
    dataset["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"


def radiograph(study: Study, instance: int, example: Example) -> bytes:
    """Wrap a FracAtlas image as DICOM. Shown by its window, it has the image's grey levels."""
    compressed = study.syntax.is_compressed and study.syntax.is_encapsulated
    digital = study.modality == "DX"
    dataset = header(
        study,
        DigitalXRayImageStorageForPresentation if digital else ComputedRadiographyImageStorage,
        ExplicitVRLittleEndian if compressed else study.syntax,
        study.modality,
        series=1,
        instance=instance,
    )
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.BodyPartExamined = study.body_part
    dataset.ViewPosition = "AP" if example.view == "frontal" else ""
    dataset.BurnedInAnnotation = "NO"
    gray = example.pixels()
    dataset.LossyImageCompression = "01"  # as FracAtlas releases it
    dataset.LossyImageCompressionRatio = f"{gray.size / len(example.encoded):.1f}"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    if digital:
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PresentationLUTShape = "INVERSE" if study.inverted else "IDENTITY"
        dataset.PixelIntensityRelationship = "LOG"
        dataset.PixelIntensityRelationshipSign = 1 if study.inverted else -1
        dataset.RescaleIntercept = "0"
        dataset.RescaleSlope = "1"
        dataset.RescaleType = "US"
    # PS3.3 C.11.2.1.2.1: this window shows 0 as black and ``white`` as white, and cuts nothing.
    white = 255 << (study.bits - 8)
    dataset.WindowCenter = f"{(white + 1) / 2:g}"
    dataset.WindowWidth = str(white + 1)
    levels = 255 - gray if study.inverted else gray
    stored = np.left_shift(levels, study.bits - 8, dtype=np.uint8 if study.bits == 8 else np.uint16)
    add_pixels(dataset, stored, study.bits, "MONOCHROME1" if study.inverted else "MONOCHROME2")
    if study.syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif compressed:
        if study.syntax == JPEGBaseline8Bit:
            frame = single_component_jpeg(example)
        else:
            frame = bytes(ENCODERS[study.syntax](stored, study.bits))
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = study.syntax
    return dicom_bytes(dataset)


def single_component_jpeg(example: Example) -> bytes:
    """Give the image's own JPEG bytes, which may stand in DICOM where they are grey."""
    if Image.open(io.BytesIO(example.encoded)).mode != "L":
        raise DataError(f"{example.source} is not stored in grey")
    return example.encoded


def report(study: Study) -> bytes:
    """Write a structured report of one sentence, as may lie in a study."""
    dataset = header(study, BasicTextSRStorage, ExplicitVRLittleEndian, "SR", series=2, instance=1)
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    title, finding, name = Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator = "11528-7", "LN"
    title.CodeMeaning = "Radiology Report"
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121071", "DCM", "Finding"
    finding.RelationshipType = "CONTAINS"
    finding.ValueType = "TEXT"
    finding.ConceptNameCodeSequence = [name]
    finding.TextValue = "An invented report. It says nothing of the images."
    dataset.ConceptNameCodeSequence = [title]
    dataset.ContentSequence = [finding]
    return dicom_bytes(dataset)


def ct_slice(study: Study) -> bytes:
    """Write a CT slice, in reality a ramp, as may lie in a study."""
    dataset = header(study, CTImageStorage, ExplicitVRLittleEndian, "CT", series=2, instance=1)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept = "-1024"
    dataset.RescaleSlope = "1"
    ramp = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16)
    add_pixels(dataset, ramp, 12, "MONOCHROME2")
    return dicom_bytes(dataset)


def dicom_bytes(dataset: Dataset) -> bytes:
    """Write a DICOM file into memory."""
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def directory(files: Mapping[str, bytes]) -> bytes:
    """Write the DICOMDIR (PS3.3 annex F) of files that are sorted by study."""
    records: list[tuple[int, Dataset]] = []
    last_study = None
    for path, data in files.items():
        dataset = dcmread(io.BytesIO(data), stop_before_pixels=True)
        if dataset.StudyInstanceUID != last_study:  # every study has its own patient, one series
            last_study = dataset.StudyInstanceUID
            patient = ("PatientID", "PatientName")
            study = (
                *("StudyDate", "StudyTime", "AccessionNumber"),
                *("StudyDescription", "StudyInstanceUID", "StudyID"),
            )
            series = ("Modality", "SeriesInstanceUID", "SeriesNumber")
            for level, (kind, keywords) in enumerate(
                (("PATIENT", patient), ("STUDY", study), ("SERIES", series))
            ):
                records.append((level, directory_record(kind, dataset, keywords)))
        image = directory_record("IMAGE", dataset, ("InstanceNumber",))
        image.ReferencedFileID = path.split("/")
        image.ReferencedSOPClassUIDInFile = dataset.SOPClassUID
        image.ReferencedSOPInstanceUIDInFile = dataset.SOPInstanceUID
        image.ReferencedTransferSyntaxUIDInFile = dataset.file_meta.TransferSyntaxUID
        records.append((3, image))
    # Records point at each other by their place in the file. To be known, it takes a first draft.
    draft = dcmread(io.BytesIO(dicom_bytes(directory_of(records, [0] * len(records)))))
    places = [int(item.seq_item_tell) for item in draft.DirectoryRecordSequence]
    return dicom_bytes(directory_of(records, places))


def directory_record(kind: str, dataset: Dataset, keywords: tuple[str, ...]) -> Dataset:
    """Make a directory record with elements of the file's header."""
    record = Dataset()
    record.RecordInUseFlag = 0xFFFF
    record.DirectoryRecordType = kind
    for keyword in keywords:
        setattr(record, keyword, dataset[keyword].value)
    return record


def directory_of(records: list[tuple[int, Dataset]], places: list[int]) -> Dataset:
    """Link directory records, each with its level, into a tree by their places in the file."""
    levels = [level for level, _ in records]
    for index, (level, record) in enumerate(records):
        later = range(index + 1, len(records))
        # The record's own subtree ends where a record is no deeper than it.
        end = next((other for other in later if levels[other] <= level), None)
        sibling = end is not None and levels[end] == level
        record.OffsetOfTheNextDirectoryRecord = places[end] if end and sibling else 0
        lower = index + 1 < len(records) and levels[index + 1] > level
        record.OffsetOfReferencedLowerLevelDirectoryEntity = places[index + 1] if lower else 0
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = uid("DICOMDIR")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = "SAMPLE"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.FileSetID = "SAMPLE"
    dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = places[0]
    last_root = max(index for index, level in enumerate(levels) if level == 0)
    dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = places[last_root]
    dataset.FileSetConsistencyFlag = 0
    dataset.DirectoryRecordSequence = [record for _, record in records]
    return dataset


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Write a ZIP archive, without the time and the system of this run."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            member = zipfile.ZipInfo(path, date_time=(2031, 3, 14, 8, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            archive.writestr(member, data)
    return stream.getvalue()


def answer(study: Study, files: Files, examples: Mapping[int, Example], outcome: str) -> Answer:
    """Give the answer for a study.

    Raises:
        DataError: The study's images differ in label or leakage group, or show what they must not.
    """
    chosen = [examples[image] for image in study.images]
    if len({(example.label, example.group) for example in chosen}) > 1:
        raise DataError(f"study {study.number} is not of one label and one leakage group")
    if any(example.hardware or example.truncated for example in chosen):
        raise DataError(f"study {study.number} shows metal or is truncated")
    sources = ";".join(example.study_id for example in chosen)
    label = chosen[0].label
    return Answer(study_uid(study), label, outcome, sources, study.syntax, ";".join(files))


def sample_export(examples: Mapping[int, Example]) -> tuple[Files, list[Answer]]:
    """Make the files of the export, by their paths in it, and the answer key.

    Raises:
        DataError: An image is not in the split, or not what the lists above take it for.
    """
    studies = (*MEDIA, *ARCHIVE, *ZIPPED, CUT_OFF, DAMAGED)
    wanted = {*PLAIN.values(), *(image for study in studies for image in study.images)}
    if missing := sorted(wanted - examples.keys()):
        raise DataError(f"{SPLIT} lacks images {missing}: it is not the one they were chosen from")
    files: Files = {}
    answers: list[Answer] = []

    def pictures(study: Study) -> list[bytes]:
        return [radiograph(study, at + 1, examples[i]) for at, i in enumerate(study.images)]

    def series(study: Study) -> Files:
        folder = f"{study.folder}/{study.modality} 1/{study.modality}"
        return {f"{folder}{at:06d}.dcm": data for at, data in enumerate(pictures(study))}

    def take(path: str, data: bytes, outcome: str) -> None:
        files[path] = data
        answers.append(Answer(path, None, outcome, "", "", path))

    number = 0
    media: Files = {}
    for study in MEDIA:
        burned = {
            f"IMAGES/IM{number + at:06d}": data for at, data in enumerate(pictures(study), start=1)
        }
        number += len(burned)
        media |= burned
        burned = {f"media/{path}": data for path, data in burned.items()}
        files |= burned
        answers.append(answer(study, burned, examples, "scored"))
    for path, data in {"media/DICOMDIR": directory(media), **FURNITURE}.items():
        take(path, data, "not_an_image")

    for study in ARCHIVE:
        found = {f"archive/{path}": data for path, data in series(study).items()}
        files |= found
        answers.append(answer(study, found, examples, "scored"))

    members: Files = {}
    for study in ZIPPED:
        found = series(study)
        members |= found
        inside = {f"web_export.zip!{path}": data for path, data in found.items()}
        answers.append(answer(study, inside, examples, "scored"))
    files["web_export.zip"] = zipped(members)

    for path, image in PLAIN.items():
        example = examples[image]
        png = io.BytesIO()
        Image.fromarray(example.pixels()).save(png, format="PNG")
        files[path] = png.getvalue() if path.endswith(".png") else example.encoded
        answers.append(Answer(path, example.label, "scored", example.study_id, "", path))

    # What goes wrong in exports: a transfer that broke off, and a damaged stream.
    [(path, data)] = series(CUT_OFF).items()
    cut_off = {f"archive/{path}": data[: len(data) // 2]}
    answers.append(answer(CUT_OFF, cut_off, examples, "truncated"))
    [(path, data)] = series(DAMAGED).items()
    # Without its Huffman table, which is now a comment, nothing of the stream can be decoded.
    damaged = {f"archive/{path}": data.replace(b"\xff\xc4", b"\xff\xfe", 1)}
    answers.append(answer(DAMAGED, damaged, examples, "corrupt"))
    files |= cut_off | damaged
    take(f"archive/{CUT_OFF.folder}/DX 1/DX000001.dcm", b"", "empty")
    take(f"archive/{CUT_OFF.folder}/DX 1/DX000002.dcm", ERROR_PAGE, "not_an_image")
    with_report, with_ct = ARCHIVE[0], ARCHIVE[1]
    take(f"archive/{with_report.folder}/SR 2/SR000000.dcm", report(with_report), "not_a_radiograph")
    take(f"archive/{with_ct.folder}/CT 2/CT000000.dcm", ct_slice(with_ct), "not_a_radiograph")
    # Sent twice; this copy is the later one in the order of paths.
    [sent] = (path for path in files if path.startswith(f"archive/{RESENT.folder}/"))
    take(f"resent/{Path(sent).name}", files[sent], "duplicate")
    return files, answers


def main(
    data_dir: Annotated[Path, typer.Option(help="Where 'fracjax prepare frac_atlas' wrote to.")],
    out: Annotated[Path, typer.Option(help="A folder for the export, new or empty.")],
) -> None:
    """Write the sample export, and sample_labels.csv beside it."""
    if out.exists() and any(out.iterdir()):
        raise typer.BadParameter(f"{out} is not empty; remove it first", param_hint="--out")
    examples = {
        int(example.study_id.removeprefix("IMG")): example
        for example in load("frac_atlas", (SPLIT,), data_dir)
    }
    files, answers = sample_export(examples)
    for path, data in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
    with out.with_name("sample_labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Answer))
        writer.writerows(astuple(row) for row in answers)
    total = sum(map(len, files.values()))
    typer.echo(f"{out}: {len(files)} files, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
