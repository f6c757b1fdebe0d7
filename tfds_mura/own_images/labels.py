"""What a person says of their own images: a table beside them, or the folders they lie in."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar, get_args

from fracjax.configs import Target
from fracjax.errors import DataError
from fracjax.image import anatomy

TABLE = "labels.csv"

TARGETS: tuple[Target, ...] = get_args(Target)

CLASS_FOLDERS: Mapping[str, tuple[Target, int]] = {
    f"{prefix}{target}": (target, label)
    for target in TARGETS
    for prefix, label in (("", 1), ("no_", 0))
}
"""Folders by name: ``fracture``, ``no_fracture``, ``abnormality``, ``no_abnormality``."""

WAY_OUT = (
    f"give a folder with {TABLE}, whose column image names the files and whose column "
    f"{' or '.join(TARGETS)} holds 0 or 1; or with folders that say what they hold: "
    f"{', '.join(CLASS_FOLDERS)}"
)

TEXTS = ("patient", "study", "body_part", "view", "split")
OPTIONAL = (*TEXTS, "hardware", "boxes")
FINDING = "finding:"
"""Begins the name of a column that says 0 or 1 of something else."""

FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
"""As spreadsheets and pandas write them."""

SPLIT = re.compile(r"(?!all$)[A-Za-z]\w*", re.ASCII)
"""What a split may be named. TFDS means each of them by ``all``."""

NAME = re.compile(r"[\w./+:-]+")

SPLIT_WAY_OUT = "write a word of letters and digits, such as train or valid, and not all"

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the upright picture."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image with what is said of it; a text is empty where nothing is."""

    where: str
    """Where it is said, for messages: a line of the table, or the file."""
    source: str
    """The file's path inside the folder, with ``/``."""
    label: int
    target: Target
    patient: str = ""
    study: str = ""
    body_part: str = ""
    view: str = ""
    split: str = ""
    hardware: int = -1
    findings: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()


class Fault(Exception):
    """Why one image cannot be used, and the way out; in one line."""


def collect(items: Iterable[T], read: Callable[[T], Labelled], faults: list[str]) -> list[Labelled]:
    """Read all items that can be read, and add what is wrong with the others to ``faults``."""
    images = []
    for item in items:
        try:
            images.append(read(item))
        except Fault as fault:
            faults.append(str(fault))
    return images


def refuse(faults: list[str]) -> None:
    """Refuse images of which some have faults: all are counted, and the first is told.

    Raises:
        DataError: There are faults.
    """
    if faults:
        more = f" ({len(faults)} images in all have such faults)" if len(faults) > 1 else ""
        raise DataError(faults[0] + more)


def read_labels(root: Path) -> tuple[list[Labelled], list[str]]:
    """Read what is said of the images in a folder.

    Returns:
        The images, ordered by path; and names of columns that are not used.

    Raises:
        DataError: There are no labels, they are of one class only, or some are not usable.
    """
    if (root / TABLE).is_file():
        images, unused = read_table(root)
    else:
        images, unused = read_folders(root), []
    if len({image.label for image in images}) < 2:
        raise DataError(
            f"the images of {root} are of one class only, and training needs both; {WAY_OUT}"
        )
    return sorted(images, key=lambda image: image.source), unused


def read_folders(root: Path) -> list[Labelled]:
    """Read labels from the folders that images lie in.

    The class is the first folder, or the second below one that is named as a split
    (``train/fracture/``). A folder below it stands for a patient.

    Raises:
        DataError: No file lies in such a folder, both kinds of label occur, or a folder's name can
            be none of a split.
    """
    images = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        depth = next((i for i, part in enumerate(parts[:2]) if part in CLASS_FOLDERS), None)
        hidden = any(part.startswith(".") for part in parts)  # ._image1.png of macOS, .DS_Store
        if depth is None or hidden or not path.is_file():
            continue
        if depth == 1 and not SPLIT.fullmatch(parts[0]):
            raise DataError(
                f"{root} holds the folder {parts[0]!r}, which stands for a split; {SPLIT_WAY_OUT}"
            )
        target, label = CLASS_FOLDERS[parts[depth]]
        source = "/".join(parts)
        images.append(
            Labelled(
                where=source,
                source=source,
                label=label,
                target=target,
                patient=parts[depth + 1] if len(parts) > depth + 2 else "",
                split=parts[0] if depth == 1 else "",
            )
        )
    if not images:
        raise DataError(f"{root} holds no labelled images; {WAY_OUT}")
    if len({image.target for image in images}) > 1:
        raise DataError(
            f"{root} holds folders for {' and for '.join(TARGETS)}, which are different labels; "
            "prepare one of them, in a folder of its own"
        )
    return images


def read_table(root: Path) -> tuple[list[Labelled], list[str]]:
    """Read ``labels.csv``: with commas, semicolons or tabs, in UTF-8 or as Excel's Unicode text.

    Returns:
        The images, and the names of columns that are not used.

    Raises:
        DataError: A column is missing, or lines have faults.
    """
    path = root / TABLE
    text = _decoded(path)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [column.strip().casefold() for column in next(reader, [])]
    lines = [(reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    targets = [target for target in TARGETS if target in columns]
    twice = [column for column, count in Counter(columns).items() if column and count > 1]
    if "image" not in columns or not targets:
        missing = "image" if targets else " or ".join(TARGETS)
        raise DataError(f"{path} has no column {missing}; {WAY_OUT}")
    if len(targets) > 1 or twice:
        odd = twice[0] if twice else " and ".join(targets)
        raise DataError(f"{path} has the columns {odd}, of which there may be one; keep that one")

    def read(line: tuple[int, list[str]]) -> Labelled:
        number, values = line
        if len(values) > len(columns):
            raise Fault(f"line {number} of {path} has more values than columns; quote its texts")
        padded = [*values, *[""] * (len(columns) - len(values))]
        row = dict(zip(columns, map(str.strip, padded), strict=True))
        return _labelled(f"line {number} of {path}", row, targets[0], root)

    faults: list[str] = []
    images = collect(lines, read, faults)
    first: dict[str, Labelled] = {}
    for image in images:
        if image is not first.setdefault(image.source, image):
            other = first[image.source].where.partition(" of ")[0]
            faults.append(f"{image.where} names the same image as {other}; keep one of them")
    refuse(faults)
    used = {"", "image", targets[0], *OPTIONAL}
    return images, [name for name in columns if name not in used and not name.startswith(FINDING)]


def _decoded(path: Path) -> str:
    """The text of a table, without a byte order mark."""
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8; save it as 'CSV UTF-8'") from None


def _labelled(where: str, row: dict[str, str], target: Target, root: Path) -> Labelled:
    """Read one line of the table.

    Raises:
        Fault: A value is not usable, or the file is not there.
    """

    def flag(column: str) -> int:
        if row[column] not in FLAGS:
            raise Fault(f"{where} has {row[column]!r} for {column}; write 0 or 1")
        return FLAGS[row[column]]

    if "patient" in row and not row["patient"]:
        raise Fault(f"{where} has no patient; fill it in, or take the column away")
    if "split" in row and not SPLIT.fullmatch(row["split"]):
        raise Fault(f"{where} has {row['split']!r} for split; {SPLIT_WAY_OUT}")
    findings = []
    for column in row:
        if column.startswith(FINDING):
            name = column.removeprefix(FINDING).strip()
            if not NAME.fullmatch(name):
                raise Fault(f"{where} is in a table with the column {column!r}; name one finding")
            if flag(column):
                findings.append(name)
    return Labelled(
        where=where,
        source=_source(where, row["image"], root),
        label=flag(target),
        target=target,
        patient=row.get("patient", ""),
        study=row.get("study", ""),
        body_part=_body_parts(where, row.get("body_part", "")),
        view=row.get("view", "").lower(),
        split=row.get("split", ""),
        hardware=flag("hardware") if row.get("hardware") else -1,
        findings=tuple(findings),
        boxes=_boxes(where, row.get("boxes", "")),
    )


def _source(where: str, name: str, root: Path) -> str:
    """The path of a file inside the folder, also where it was written on Windows."""
    if not name:
        raise Fault(f"{where} names no image; fill it in, or delete the line")
    here = root.absolute()  # . holds .. for is_relative_to
    folder = os.path.normpath(here)  # leaves links as they are
    for written in (name, name.replace("\\", "/")):
        path = Path(os.path.normpath(here / written))
        if path.is_file():
            if not path.is_relative_to(folder):
                raise Fault(
                    f"{where} names {name}, which is outside; give a path inside the folder"
                )
            return path.relative_to(folder).as_posix()
    raise Fault(f"{where} names {name}, which is no file; give its path as seen from {root}")


def _body_parts(where: str, text: str) -> str:
    """Body parts in the terms of :class:`anatomy.BodyPart`, joined by ``+``."""
    parts = []
    for word in filter(None, map(str.strip, text.split("+"))):
        part = anatomy.part_of_tag(word)
        if part is None:
            terms = list(map(str, anatomy.BodyPart))
            nearest = get_close_matches(word.lower(), terms, n=3, cutoff=0)
            raise Fault(
                f"{where} has {word!r} for body_part, which is not known; the nearest are "
                f"{', '.join(nearest)}, and it may be left empty"
            )
        parts.append(part.value)
    return "+".join(dict.fromkeys(parts))


def _boxes(where: str, text: str) -> tuple[Box, ...]:
    """Boxes as ``left top width height`` in pixels, several of them joined by ``|``."""
    boxes = []
    for written in filter(None, map(str.strip, text.split("|"))):
        try:
            left, top, width, height = map(float, written.split())
        except ValueError:
            left = top = width = height = -1
        if not (min(left, top) >= 0 and 0 < width < float("inf") and 0 < height < float("inf")):
            raise Fault(
                f"{where} has {written!r} for boxes; write 'left top width height' in pixels, "
                "and | between boxes"
            )
        boxes.append((left, top, width, height))
    return tuple(boxes)
