"""What moved the likelihoods of the studies that are read first, one picture each."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fracjax import files, heat
from fracjax.engine import Scorer, explained_by
from fracjax.errors import UsageError
from fracjax.image import ReadPolicy
from fracjax_jobs.pool import Limits, read_all
from fracjax_jobs.read import Reading
from fracjax_jobs.tables import PRIVATE
from fracjax_jobs.walk import Entry
from fracjax_jobs.worklist import Paths, Written

_OURS = re.compile(r"\d{4,}-[^/]+\.png")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which heat maps are written, and where.

    Attributes:
        directory: It holds the pictures of one worklist; those of an earlier run are replaced.
        count: Of how many studies, the first ones by rank.
    """

    directory: Path
    count: int


def check_directory(wanted: Wanted, root: Path) -> None:
    """Make sure that pictures may be written there, before what it costs to score an export.

    Raises:
        UsageError: The directory lies in the export, or holds anything but such pictures.
    """
    directory = wanted.directory
    if wanted.count < 1:
        raise UsageError(f"heat maps of {wanted.count} studies are none; give 1 or more")
    if directory.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"{directory} lies inside the export; nothing is written there, so give another"
        )
    if not directory.exists():
        if not directory.absolute().parent.is_dir():
            raise UsageError(f"{directory.parent} is no folder; make it, or give another")
        return
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise UsageError(f"{directory} is no folder that can be written to; give another")
    if any(not _OURS.fullmatch(path.name) for path in directory.iterdir()):
        raise UsageError(f"{directory} holds other things than heat maps; give a folder of its own")


def write(
    wanted: Wanted,
    paths: Paths,
    entries: Iterable[Entry],
    scorer: Scorer,
    policy: ReadPolicy,
    limits: Limits,
) -> Written:
    """Read the images that lead the worklist again, and write what moved their likelihoods.

    Each picture is named by its study's rank and its file's key, and says below what it shows.

    Args:
        wanted: Which, and where.
        paths: Of a worklist, and the linkage table beside it.
        entries: All that was found in the export.
        scorer: The model that scored it.
        policy: What was read as a radiograph.
        limits: What reading one file may cost.
    """
    rows = _first(paths, wanted.count)
    named = _names(paths, [row["top_file_key"] for row in rows])
    leading = {named[row["top_file_key"]]: row for row in rows}
    shown = {}
    for entry in entries:
        name = entry.name.encode(errors="backslashreplace").decode()
        if name in leading:
            shown[name] = entry
    wanted.directory.mkdir(mode=0o700, exist_ok=True)
    for path in wanted.directory.iterdir():
        path.unlink()
    kept = [(row, shown[name]) for name, row in leading.items() if name in shown]
    failed = [row["top_file_key"] for name, row in leading.items() if name not in shown]
    preprocess = scorer.manifest.preprocess
    reading = read_all([entry for _, entry in kept], preprocess, policy, limits, keeps_display=True)
    pictures = 0
    for (row, _), (_, outcomes) in zip(kept, reading, strict=True):
        frame = row["top_frame"]
        fitting = [
            outcome
            for outcome in outcomes
            if isinstance(outcome, Reading) and outcome.frame == frame
        ]
        if not fitting:
            failed.append(row["top_file_key"])
            continue
        path = wanted.directory / f"{row['rank']:04d}-{row['top_file_key']}.png"
        files.write_synced(path, heat.encode_png(_picture(scorer, fitting[0], row)))
        path.chmod(PRIVATE)
        pictures += 1
    return Written(pictures, tuple(failed))


def _picture(scorer: Scorer, reading: Reading, row: Mapping[str, Any]) -> NDArray[np.uint8]:
    preprocess = scorer.manifest.preprocess
    display = reading.display
    if display is None:
        raise RuntimeError("the picture was not kept")
    hot = heat.on_picture(scorer.explain(reading.input[None])[0], display, preprocess)
    caption = (
        f"rank {row['rank']}, {row['target']}: likelihood of the study {row['likelihood']:.3f}. "
        f"{explained_by(scorer.manifest, 'grad_cam')}"
    )
    grey = np.asarray(display / np.float32(255), np.float32)
    return heat.overlay(grey, hot, row["image_raw_likelihoods"][0], caption)


def _first(paths: Paths, count: int) -> list[dict[str, Any]]:
    columns = ["rank", "target", "likelihood", "image_raw_likelihoods", "top_file_key", "top_frame"]
    table = pq.read_table(paths.worklist, columns=columns, filters=[("rank", "<=", count)])
    return list(table.to_pylist())


def _names(paths: Paths, keys: list[str]) -> dict[str, str]:
    table = pq.read_table(
        paths.linkage, columns=["file_key", "path"], filters=[("file_key", "in", keys)]
    )
    return {row["file_key"]: row["path"] for row in table.to_pylist()}
