"""The tables that the job writes: their schemas, and a writer that never leaves half a file.

``docs/worklist.md`` documents each column.
"""

import csv
import filecmp
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from fracjax.errors import UsageError

SCHEMA_VERSION = 2
METADATA_KEY = b"fracjax"

PRIVATE = 0o600
"""Mode of all that the job writes: for the user who ran it alone."""

_FORMULA = ("=", "+", "-", "@", "\N{MINUS SIGN}")
_CONTROLS = ("\t", "\r", "\n")
ROWS_PER_GROUP = 4096

_TIME = pa.timestamp("ms", tz="UTC")
_TEXTS = pa.list_(pa.string())

WORKLIST = pa.schema(
    [
        pa.field("rank", pa.int32()),
        pa.field("band", pa.string(), nullable=False),
        pa.field("is_overdue", pa.bool_(), nullable=False),
        pa.field("likelihood", pa.float32()),
        pa.field("raw_likelihood", pa.float32()),
        pa.field("target", pa.string(), nullable=False),
        pa.field("calls", _TEXTS, nullable=False),
        pa.field("triage", pa.string()),
        pa.field("study_key", pa.string(), nullable=False),
        pa.field("study_instance_uid", pa.string()),
        pa.field("accession_number", pa.string()),
        pa.field("study_datetime", pa.string()),
        pa.field("acquisition_datetime", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("body_parts", _TEXTS, nullable=False),
        pa.field("body_parts_tagged", _TEXTS, nullable=False),
        pa.field("series_instance_uids", _TEXTS, nullable=False),
        pa.field("images_found", pa.int32(), nullable=False),
        pa.field("images_scored", pa.int32(), nullable=False),
        pa.field("images_set_aside", pa.int32(), nullable=False),
        pa.field("image_raw_likelihoods", pa.list_(pa.float32()), nullable=False),
        pa.field("image_file_keys", _TEXTS, nullable=False),
        pa.field("top_sop_instance_uid", pa.string()),
        pa.field("top_file_key", pa.string()),
        pa.field("top_frame", pa.int32()),
        pa.field("reasons", _TEXTS, nullable=False),
        pa.field("notes", _TEXTS, nullable=False),
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("weights_sha256", pa.string(), nullable=False),
        pa.field("scored_at", _TIME),
        pa.field("notice", pa.string(), nullable=False),
    ]
)
"""One row for each study."""

FILES = pa.schema(
    [
        pa.field("file_key", pa.string(), nullable=False),
        pa.field("frame", pa.int32()),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("is_failure", pa.bool_(), nullable=False),
        pa.field("study_key", pa.string()),
        pa.field("sop_instance_uid", pa.string()),
        pa.field("raw_likelihood", pa.float32()),
        pa.field("distance", pa.float32()),
        pa.field("body_part", pa.string()),
        pa.field("body_part_source", pa.string()),
        pa.field("view_position", pa.string()),
        pa.field("laterality", pa.string()),
        pa.field("format", pa.string()),
        pa.field("transfer_syntax", pa.string()),
        pa.field("decoder", pa.string()),
        pa.field("voi_source", pa.string()),
        pa.field("polarity_source", pa.string()),
        pa.field("notes", _TEXTS, nullable=False),
        pa.field("scored_at", _TIME),
    ]
)
"""One row for each file and archive member, or for each frame of it."""

LINKAGE = pa.schema(
    [
        pa.field("file_key", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("study_key", pa.string()),
        pa.field("study_instance_uid", pa.string()),
        pa.field("accession_number", pa.string()),
        pa.field("sop_instance_uid", pa.string()),
    ]
)
"""Which path a file key stands for, and which study a hash. A path may carry a patient's name:
keep it inside."""


def discard_partial(path: Path) -> None:
    """Remove what a killed run has left of a table.

    Raises:
        UsageError: It cannot be removed.
    """
    partial = _partial_of(path)
    try:
        partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{partial} cannot be removed: {error.strerror}; remove it, or give another --out"
        ) from None


def _partial_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")  # the same at each run


class _Partial:
    """A file under a temporary name; it takes its own when it is published.

    It can be read by the user who ran the job alone. A ``UsageError`` says that it cannot be
    written, as on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = _partial_of(path)

    def open(self) -> BinaryIO:
        """Open the file for writing."""
        with self.writing():
            self._partial.unlink(missing_ok=True)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self._partial, flags, PRIVATE), "wb")
        return self._file

    def finish(self) -> None:
        """Bring what was written to the disk."""
        with self.writing():
            self._file.flush()
            os.fsync(self._file.fileno())

    def publish(self) -> bool:
        """Give the file its name, in the place of an older one; one with the same bytes stays.

        Returns:
            Whether it differs from an older one.
        """
        with self.writing():
            is_same = self.path.is_file() and filecmp.cmp(self._partial, self.path, shallow=False)
            if is_same:
                self.path.chmod(PRIVATE)
            else:
                self._partial.replace(self.path)
        return not is_same

    def close(self) -> None:
        """Remove what was not published."""
        with suppress(OSError):  # a failed run gives up what is not yet written
            self._file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Tell of a failure to write in one line."""
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written: {error.strerror or error}; once that is mended, "
                "the same command goes on; or give another --out"
            ) from None


class TableWriter:
    """Writes a Parquet file row by row; it appears whole or not at all.

    The file can be read by the user who ran the job alone. A ``UsageError`` says that it cannot be
    written, as on a full disk.

    Attributes:
        rows: Rows given so far.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._partial = _Partial(path)
        self._schema = schema
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        file = self._partial.open()
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        return self

    def append(self, row: dict[str, Any]) -> None:
        """Add a row with a value for each column; a time is text in ISO 8601."""
        self.rows += 1
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the file to its end, with ``metadata`` in its footer."""
        self._flush()
        with self._partial.writing():
            self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(metadata)})
            self._writer.close()
        self._partial.finish()

    def publish(self) -> bool:
        """Give the finished file its name; tell whether it differs from an older one."""
        return self._partial.publish()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # a failed run gives up what is not yet written
            self._writer.close()
        self._partial.close()

    def _flush(self) -> None:
        if self._rows:
            for row in self._rows:
                if row.get("scored_at") is not None:
                    row["scored_at"] = datetime.fromisoformat(row["scored_at"])
            with self._partial.writing():
                self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


class CsvWriter:
    """Writes the worklist for a spreadsheet; it appears whole or not at all, as a table does."""

    def __init__(self, path: Path) -> None:
        self._partial = _Partial(path)

    def __enter__(self) -> Self:
        # With a mark of UTF-8, without which spreadsheets take the text for another encoding.
        self._text = io.TextIOWrapper(self._partial.open(), "utf-8-sig", newline="")
        self._rows = csv.writer(self._text)
        self._write(WORKLIST.names)
        return self

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row of the worklist."""
        self._write([_cell(row[name]) for name in WORKLIST.names])

    def finish(self) -> None:
        """Write the file to its end."""
        with self._partial.writing():
            self._text.flush()
        self._partial.finish()

    def publish(self) -> bool:
        """Give the finished file its name; tell whether it differs from an older one."""
        return self._partial.publish()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._text.close()
        self._partial.close()

    def _write(self, cells: list[str]) -> None:
        with self._partial.writing():
            self._rows.writerow(cells)


def _cell(value: Any) -> str:
    """Write a value so that no spreadsheet takes it for a formula.

    What begins like one gets an apostrophe in front (OWASP, "CSV injection"), also behind a
    semicolon, which separates cells where the comma is a decimal point. Lists are joined by
    semicolons.
    """
    if value is None:
        return ""
    if isinstance(value, list):
        return _cell("; ".join(str(item) for item in value))
    if isinstance(value, str):
        return ";".join(map(_neutral, value.split(";")))
    return str(value)


def _neutral(text: str) -> str:
    begins = unicodedata.normalize("NFKC", text).lstrip(' "')[:1]  # full-width signs, too
    is_formula = text[:1] in _CONTROLS or begins in _FORMULA
    return f"'{text}" if text and begins and is_formula else text
