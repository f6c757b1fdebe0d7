"""Checkpoints: whole states on disk, the newest ones and the best one."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from fracjax.errors import TrainingError

NEWEST_KEPT = 2
"""Should the newest be damaged by whatever befalls a disk, there is one before it."""

State = TypeVar("State")


class _Chosen:
    """Preserves one step, whichever it is by then."""

    def __init__(self) -> None:
        self.step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of a run; a context manager.

    Each appears under its step whole or not at all, written by all processes together.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._best = _Chosen()
        self._has_failed = False
        policies = ocp.training.preservation_policies
        self._orbax = ocp.training.Checkpointer(
            directory.absolute(),
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(NEWEST_KEPT), self._best]
            ),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._orbax.close()
        except Exception:
            if not self._has_failed:  # or the failed save is told of once more
                raise

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        return None if self._orbax.latest is None else self._orbax.latest.step

    def load(self, step: int, like: State) -> State:
        """Load a checkpoint, laid out over the devices as ``like`` is.

        Raises:
            TrainingError: It is damaged, or cannot be read.
            jax.errors.JaxRuntimeError: The device has no room for it.
        """
        try:
            return self._orbax.load(step, like)  # type: ignore[no-any-return]  # of the tree given
        except jax.errors.JaxRuntimeError:  # of the device, as when its memory is full
            raise
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                way_out = f"the system said {_reason(error)!r}; mend that"
            elif step == self.newest:
                way_out = (
                    f"remove {self._directory / str(step)}, and the same command goes on from the "
                    "one before"
                )
            else:
                way_out = "it was the best one, so train anew in another --workdir"
            raise TrainingError(
                f"the checkpoint of step {step} cannot be read; {way_out}"
            ) from error

    def save(self, step: int, state: Any, *, best: int | None = None) -> None:
        """Save a state, and remove what is neither among the newest nor the best.

        Args:
            step: Steps done. What is saved for it already stands.
            state: A tree of arrays.
            best: The step of the best checkpoint so far, which may be this one.

        Raises:
            TrainingError: It cannot be written; those before it stand.
        """
        if self.newest == step:
            return
        self._best.step = best
        before = self.newest
        try:
            self._orbax.save(step, state)
        except Exception as error:  # which, depends on the storage that Orbax writes through
            self._has_failed = True
            stands = "there is none before it" if before is None else f"step {before} is kept"
            raise TrainingError(
                f"the checkpoint of step {step} cannot be written ({_reason(error)}); {stands}. "
                "Make room, or mend the disk, and give the same command again"
            ) from error


def _reason(error: BaseException) -> str:
    """Give what the system said, without the paths and code places around it."""
    said = re.search(r"([A-Z][a-z ]+) \[os_error_code", str(error))
    return said[1] if said else str(getattr(error, "strerror", None) or type(error).__name__)
