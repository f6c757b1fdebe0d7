"""The tables that the job writes: their schemas, and a writer that never leaves half a file.

``docs/worklist.md`` documents each column.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from fracjax.errors import UsageError

SCHEMA_VERSION = 1
METADATA_KEY = b"fracjax"
ROWS_PER_GROUP = 4096

WORKLIST = pa.schema(
    [
        pa.field("rank", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("likelihood", pa.float32()),
        pa.field("target", pa.string(), nullable=False),
        pa.field("study_key", pa.string(), nullable=False),
        pa.field("study_instance_uid", pa.string()),
        pa.field("accession_number", pa.string()),
        pa.field("study_datetime", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("body_part", pa.string()),
        pa.field("series_instance_uids", pa.list_(pa.string()), nullable=False),
        pa.field("images_scored", pa.int32(), nullable=False),
        pa.field("images_set_aside", pa.int32(), nullable=False),
        pa.field("image_likelihoods", pa.list_(pa.float32()), nullable=False),
        pa.field("image_file_keys", pa.list_(pa.string()), nullable=False),
        pa.field("top_sop_instance_uid", pa.string()),
        pa.field("top_file_key", pa.string()),
        pa.field("set_aside_reasons", pa.list_(pa.string()), nullable=False),
        pa.field("notes", pa.list_(pa.string()), nullable=False),
        pa.field("model_id", pa.string(), nullable=False),
    ]
)
"""One row for each study."""

FILES = pa.schema(
    [
        pa.field("file_key", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("is_failure", pa.bool_(), nullable=False),
        pa.field("study_key", pa.string()),
        pa.field("sop_instance_uid", pa.string()),
        pa.field("likelihood", pa.float32()),
        pa.field("view_position", pa.string()),
        pa.field("laterality", pa.string()),
        pa.field("format", pa.string()),
        pa.field("transfer_syntax", pa.string()),
        pa.field("decoder", pa.string()),
        pa.field("voi_source", pa.string()),
        pa.field("notes", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row for each file and archive member."""

LINKAGE = pa.schema(
    [
        pa.field("file_key", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
    ]
)
"""Which path a file key stands for. A path may carry a patient's name: keep it inside."""


class TableWriter:
    """Writes a Parquet file row by row under a temporary name; it takes its own when published.

    The file can be read by the user who ran the job alone. A ``UsageError`` says that it cannot be
    written, as on a full disk.

    Attributes:
        rows: Rows given so far.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._path = path
        self._schema = schema
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with self._writing():
            descriptor, name = tempfile.mkstemp(".partial", ".fracjax-", self._path.parent)
        self._partial = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        return self

    def append(self, row: dict[str, Any]) -> None:
        """Add a row with a value for each column."""
        self.rows += 1
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the file to its end, with ``metadata`` in its footer."""
        self._flush()
        with self._writing():
            self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(metadata)})
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())

    def publish(self) -> None:
        """Give the finished file its name, in the place of an older one."""
        with self._writing():
            self._partial.replace(self._path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # a failed run gives up what is not yet written
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._rows:
            with self._writing():
                self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"{self._path} cannot be written: {error.strerror or error}; give another --out"
            ) from None
