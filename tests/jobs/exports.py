"""Builds exports as a PACS leaves them, so that a test knows the right outcome of each file."""

import hashlib
import io
import json
import os
import sys
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from pydicom.uid import CTImageStorage, generate_uid

from fracjax_jobs import score_dir as job
from fracjax_jobs.studies import Band
from fracjax_jobs.tables import METADATA_KEY
from fracjax_jobs.worklist import Paths
from image.dicom_files import dicom_bytes

SCORED = "scored"


def pixels(seed, bits=12, shape=(80, 64)):
    """A picture (h, w) of its own for each seed, over the whole range of ``bits``."""
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.random((4, 4)), shape[::-1], interpolation=cv2.INTER_CUBIC)
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.round(picture * (2**bits - 1)).astype(np.uint16)


def dicom(seed, study=None, **elements):
    """A digital radiograph; of a study of its own, unless one is given."""
    uids = {
        "SOPInstanceUID": generate_uid(entropy_srcs=[f"image {seed}"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[f"series {study or seed}"]),
        "StudyInstanceUID": study or generate_uid(entropy_srcs=[f"study {seed}"]),
    }
    return dicom_bytes(pixels(seed), bits=12, **(uids | elements))


def plain(seed, file_format="PNG"):
    """A plain image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, bits=8).astype(np.uint8)).save(stream, file_format)
    return stream.getvalue()


def icon():
    """A grey picture as small as a viewer's buttons."""
    stream = io.BytesIO()
    Image.fromarray(pixels(0, bits=8, shape=(16, 16)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def archive(*members, compression=zipfile.ZIP_DEFLATED):
    """A ZIP archive of (name, content) pairs, in their order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def patched_members(data, *, flags=0, method=None, only=None):
    """An archive with flag bits set and the compression method changed in its headers.

    That is all of them, or those of the first ``only`` members.
    """
    patched = bytearray(data)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start, left = patched.find(signature), only or len(data)
        while start >= 0 and left:
            left -= 1
            patched[start + at] |= flags
            if method is not None:
                patched[start + at + 2] = method
            start = patched.find(signature, start + 4)
    return bytes(patched)


def damaged_member(name, content):
    """An archive with one stored member that does not match its checksum."""
    data = bytearray(archive((name, content), compression=zipfile.ZIP_STORED))
    data[data.index(content) + len(content) - 1] ^= 0xFF
    return bytes(data)


CONTENTS = {
    "dicom 1": (dicom(1), SCORED),
    "dicom 2": (dicom(2), SCORED),
    "png": (plain(3), SCORED),
    "icon": (icon(), "not_an_image"),
    "jpeg": (plain(4, "JPEG"), SCORED),
    "tiff": (plain(5, "TIFF"), SCORED),
    "text": (b"Dear colleague,\r\n", "not_an_image"),
    "empty": (b"", "empty"),
    "ct": (dicom(6, SOPClassUID=CTImageStorage, Modality="CT"), "not_a_radiograph"),
    "truncated": (dicom(7)[:-1000], "truncated"),
    "broken": (dicom(8, Rows=None), "corrupt"),
    "broken png": (plain(9)[:60], "corrupt"),
    "flat": (dicom(10, PixelData=b"\0" * 80 * 64 * 2), "flat"),
    "frames": (dicom(11, NumberOfFrames=9, PixelData=pixels(11).tobytes() * 9), "multi_frame"),
}
"""What a file may hold, and its outcome. A second copy of an image is a duplicate."""

DAMAGED_ARCHIVE = archive(("a", b"a"))[:-10]


@dataclass(frozen=True)
class Run:
    """The tables that a run wrote, read back."""

    worklist: list
    files: list
    linkage: list
    metadata: dict

    @property
    def paths(self):
        """The path that each file key stands for."""
        return {row["file_key"]: row["path"] for row in self.linkage}

    @property
    def outcomes(self):
        """How often each path had each outcome."""
        return Counter((self.paths[row["file_key"]], outcome(row)) for row in self.files)

    def file(self, path):
        """The row of the one file with a path."""
        (row,) = (row for row in self.files if self.paths[row["file_key"]] == path)
        return row

    def study(self, key):
        """The row of a study."""
        (row,) = (row for row in self.worklist if row["study_key"] == key)
        return row


def outcome(row):
    """The outcome of a row of the files table: ``scored``, or the reason why not."""
    return row["reason"] or row["outcome"]


def read_run(out):
    """Read the three tables of a run."""
    tables = [pq.read_table(path).to_pylist() for path in table_paths(out)]
    footers = {pq.read_metadata(path).metadata[METADATA_KEY] for path in table_paths(out)}
    assert len(footers) == 1, "the three tables of one run have the same footer"
    return Run(*tables, json.loads(footers.pop()))


def table_paths(out):
    """Where the worklist, the table of files and that of linkage lie."""
    paths = Paths(out)
    return paths.worklist, paths.files, paths.linkage


def score(root, out, scorer, **options):
    """Run the job as a library, and read what it wrote."""
    job.score_dir(root, out, scorer, job.Options(**options))
    return read_run(out)


def check_conserved(run):
    """Each file and frame has one row, and all counts agree."""
    frames = [(row["file_key"], row["frame"]) for row in run.files]
    assert len(set(frames)) == len(frames)
    keys = list(dict.fromkeys(key for key, _ in frames))
    assert keys == sorted(row["file_key"] for row in run.linkage)
    reasons = Counter()
    for row in run.files:
        reasons.update({row["reason"]: row["frames"]} if row["reason"] else {})
    scored = [row for row in run.files if row["outcome"] == SCORED]
    assert all((row["raw_likelihood"] is not None) == (row["reason"] is None) for row in run.files)
    assert run.metadata["files_found"] == len(run.linkage)
    assert run.metadata["images_scored"] == len(scored)
    assert run.metadata["set_aside"] == reasons
    in_studies = [key for study in run.worklist for key in study["image_file_keys"]]
    assert Counter(in_studies) == Counter(row["file_key"] for row in scored)
    bands = Counter(row["band"] for row in run.worklist)
    assert run.metadata["studies"] == {str(band): bands[band] for band in Band}
    assert all((row["rank"] is not None) == (row["band"] == "ranked") for row in run.worklist)
    for row in run.worklist:
        assert row["images_found"] == row["images_scored"] + row["images_set_aside"] > 0


def put(root, path, content):
    """Write a file below a folder, with the folders that it needs."""
    file = Path(root) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def listing(root):
    """Everything below a folder, with kind, size, permissions and the time of the last change."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [".", *folders, *files]:
            path = Path(folder, name)
            status = path.lstat()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def content(run):
    """What a run says, but for the times at which rows were scored, and of the run itself."""
    footer = {name: value for name, value in run.metadata.items() if name != "reference_time"}
    tables = [
        [{name: value for name, value in row.items() if name != "scored_at"} for row in rows]
        for rows in (run.worklist, run.files, run.linkage)
    ]
    return tables, footer


def command(*arguments):
    """The command line of the job."""
    return [sys.executable, "-m", "fracjax", "score-dir", *map(str, arguments)]


def wait_for_state(process, state):
    """Wait until a run has begun to keep what it does."""
    deadline = time.monotonic() + 120
    seen = digest(state)
    while digest(state) == seen or not seen:
        seen = seen or digest(state)
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def digest(path):
    """A digest of a file, if it is there."""
    return hashlib.sha256(path.read_bytes()).digest() if path.exists() else None
