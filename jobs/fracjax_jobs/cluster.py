"""Reads and scores on the nodes of a Ray cluster (https://docs.ray.io), a few files at a time.

The nodes compute; the account is kept here, as by a run on one machine. Ray places the work, does
again what a node or process took down with it, and uses nodes that come later. A process keeps the
network and its reading processes from one piece of work to the next.
"""

import logging
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import ray
import ray.exceptions

from fracjax import interrupt
from fracjax.bundle import Bundle
from fracjax.engine import Scorer
from fracjax.errors import FracjaxError, JobError, UsageError
from fracjax.forward import EngineName
from fracjax.image import ReadPolicy
from fracjax_jobs.account import Record
from fracjax_jobs.claims import difference, software
from fracjax_jobs.pool import Limits, Readers
from fracjax_jobs.scoring import Done, score_all
from fracjax_jobs.state import Task

FILES_PER_CORE = 16
"""Of one piece of work: seconds, so that neither Ray nor a sudden end costs much beside it."""

PIECES_AHEAD = 3
"""For each that the cluster can do at once, so that no node waits for this process."""

RETRIES = 3
"""How often Ray does a piece again whose process or node has died."""

SECONDS_BETWEEN_CHECKS = 0.5
"""After which a signal, or a node that has come, is noticed."""

_Records: TypeAlias = list[tuple[int, list[Record]]]
"""Of files, by their numbers."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the cluster that this machine is of, or that ``RAY_ADDRESS`` names.

    Raises:
        UsageError: There is none, or it has no cores.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError):
        raise UsageError(
            "no Ray cluster is found; start this on a machine of one, after ray start, or name "
            "one in RAY_ADDRESS"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
    try:
        yield
    finally:
        ray.shutdown()


def score_on_nodes(
    root: Path,
    scorer: Scorer,
    tasks: Iterable[Task],
    policy: ReadPolicy,
    limits: Limits,
) -> Generator[list[Done], None, None]:
    """Read files and score their pictures on all nodes; give what is done, some at a time.

    Args:
        root: The export, at the same path on every node.
        scorer: What the nodes must compute alike.
        tasks: The files.
        policy: What counts as a radiograph.
        limits: What reading one file may cost; its processes are the cores of a piece of work, by
            default as many as the smallest node has, or has for each of its GPUs.

    Raises:
        UsageError: No node has so many cores.
        JobError: A node has other software, computes otherwise or does not see the export; or the
            cluster is gone.
        SystemExit: A signal has come; what was done till then is given before.
    """
    share = _Share.of_nodes(limits.workers)
    limits = replace(limits, workers=share.cores)
    setup = _Setup(
        scorer.bundle, scorer.batch_size, scorer.engine.name, root, policy, limits, _facts(scorer)
    )
    run, kept = uuid4().hex, ray.put(setup)
    remote = ray.remote(_score).options(
        num_cpus=share.cores,
        num_gpus=share.gpus,
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )
    rest = iter(tasks)
    under_way: dict[ray.ObjectRef[_Records], dict[int, Task]] = {}
    try:
        while True:
            while len(under_way) < PIECES_AHEAD * share.slots():
                piece = {task.number: task for task in islice(rest, FILES_PER_CORE * share.cores)}
                if not piece:
                    break
                # In a list, Ray hands the setup over as it is asked for, and not to every piece.
                under_way[remote.remote(run, [kept], list(piece.values()))] = piece
            if not under_way:
                return
            ready, _ = ray.wait(list(under_way), timeout=SECONDS_BETWEEN_CHECKS)
            yield from _finished(ready, under_way)
            interrupt.check()
    except SystemExit:
        ready, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=0)
        yield from _finished(ready, under_way)
        raise
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one piece of work takes of a node."""

    cores: int
    gpus: int

    @classmethod
    def of_nodes(cls, cores: int) -> "_Share":
        nodes = [node["Resources"] for node in ray.nodes() if node["Resources"].get("CPU")]
        if not nodes:
            raise UsageError("no node of the Ray cluster offers a core; add one with ray start")
        gpus = int(all(node.get("GPU") for node in nodes))
        each = [int(node["CPU"] // max(1, node.get("GPU", 0))) for node in nodes]
        if cores > max(each):
            raise UsageError(
                f"no node of the Ray cluster has {cores} cores for a piece of work; give "
                f"--workers {max(each)} or fewer"
            )
        return cls(cores or max(1, min(each)), gpus)

    def slots(self) -> int:
        """Count the pieces that the cluster as it is now can do at once."""
        return max(1, int(ray.cluster_resources().get("CPU", 0) // self.cores))


def _finished(
    ready: Iterable["ray.ObjectRef[_Records]"],
    under_way: dict["ray.ObjectRef[_Records]", dict[int, Task]],
) -> Iterator[list[Done]]:
    for reference in ready:
        piece = under_way.pop(reference)
        yield [(piece[number], records) for number, records in _result(reference)]


def _result(reference: "ray.ObjectRef[_Records]") -> _Records:
    try:
        records: _Records = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FracjaxError):
            raise JobError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:
        raise JobError(
            f"the cluster did not finish a piece of work ({type(error).__name__}), though it tried "
            f"{1 + RETRIES} times; look at ray status. What was scored is kept, and the same "
            "command goes on"
        ) from None
    return records


# What follows runs on the nodes.


@dataclass(frozen=True, slots=True)
class _Setup:
    """What a process needs before its first piece of work.

    Attributes:
        facts: What must be the same on each node.
    """

    bundle: Bundle
    batch_size: int
    engine: str
    root: Path
    policy: ReadPolicy
    limits: Limits
    facts: Mapping[str, Any]


class _Worker:
    """What a process keeps from one piece of work to the next."""

    def __init__(self, run: str, setup: _Setup) -> None:
        if not setup.root.is_dir() or next(setup.root.iterdir(), None) is None:
            raise JobError(
                f"node {_node()} does not see the export; mount it there at the same path"
            )
        self.run = run
        name: EngineName = "openvino" if setup.engine == "openvino" else "xla"
        self._scorer = Scorer(setup.bundle, setup.batch_size, name, setup.limits.processes)
        if (facts := _facts(self._scorer)) != setup.facts:
            raise JobError(
                f"node {_node()} has {difference(setup.facts, facts)} than the machine that this "
                "was started on; make them alike"
            )
        preprocess = setup.bundle.manifest.preprocess
        self._readers = Readers(preprocess, setup.policy, setup.limits)

    def score(self, tasks: list[Task]) -> _Records:
        """Read and score files."""
        groups = score_all(self._scorer, tasks, self._readers.read)
        return [(task.number, records) for group in groups for task, records in group]

    def stop(self) -> None:
        """End the reading processes."""
        self._readers.stop()


_worker: _Worker | None = None
"""Of this process, if it has one."""


def _score(run: str, setup: list["ray.ObjectRef[_Setup]"], tasks: list[Task]) -> _Records:
    global _worker  # noqa: PLW0603 - Ray calls a function, and the network outlives the call
    if _worker is not None and _worker.run != run:
        _worker.stop()
        _worker = None
    if _worker is None:
        _worker = _Worker(run, ray.get(setup[0]))
    return _worker.score(tasks)


def _facts(scorer: Scorer) -> dict[str, Any]:
    return {"engine": asdict(scorer.engine), "software": software()}


def _node() -> str:
    return str(ray.util.get_node_ip_address())
