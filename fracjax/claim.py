"""Which run a working directory belongs to, so that none goes on as another, or twice at once."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fracjax import files
from fracjax.errors import UsageError

NOT_OPENED = ""
"""In a claim, instead of the digest of the validation images: by a trial of a sweep."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Hold a working directory, which is made if need be, until this process ends in any way.

    Raises:
        UsageError: Another process holds it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    directory = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process is at work in {workdir}; wait for it, or give another --workdir"
            ) from None
        except OSError as error:  # as of Lustre where it is mounted without locks
            logger.warning(
                "%s cannot be locked (%s); see to it that one process at a time works in it",
                workdir,
                error.strerror,
            )
        yield
    finally:
        os.close(directory)


def check_claim(path: Path, claim: dict[str, Any]) -> None:
    """Make sure that a working directory belongs to no other run."""
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UsageError(f"{path} is damaged; give another --workdir") from None
    if there.get("valid_images") == NOT_OPENED:  # now they are, to make a model of the trial
        there["valid_images"] = claim["valid_images"]
    if there != claim:
        raise UsageError(
            f"{path.parent} holds a run of another configuration or other images "
            f"({'; '.join(_differences(there, claim))}); give another --workdir, or those settings"
        )


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Say where two claims differ."""
    for name in sorted(there.keys() | here.keys()):
        old, new = (claim.get(name, "nothing") for claim in (there, here))
        path = name if prefix in ("", "config.") else prefix + name  # as --set takes it
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{path}.")
        elif old != new:
            yield f"{path}: {_shown(old)} there, {_shown(new)} here"


def _shown(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def write_claim(path: Path, claim: dict[str, Any]) -> None:
    """Write the claim whole or not at all: a torn one would refuse its own run."""
    text = json.dumps(claim, indent=2)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)
