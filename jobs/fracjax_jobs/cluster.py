"""Reads and scores on the nodes of a Ray cluster (https://docs.ray.io), a few files at a time.

The nodes compute; the account is kept here, as by a run on one machine. Ray places the work, tells
what a node or process took down with it, and uses nodes that come later. A process keeps the
network and its reading processes from one piece of work to the next.
"""

import logging
import math
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice, starmap
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fracjax import interrupt
from fracjax.bundle import Bundle
from fracjax.engine import Scorer
from fracjax.errors import FracjaxError, JobError, UsageError
from fracjax.forward import EngineName, probes
from fracjax.image import ReadPolicy, Reason
from fracjax.privacy import forbid_core_dumps
from fracjax_jobs.account import Account, Record
from fracjax_jobs.claims import difference, software
from fracjax_jobs.pool import Limits, Readers
from fracjax_jobs.read import can_be_read
from fracjax_jobs.scoring import Done, score_all
from fracjax_jobs.state import Task

FILES_PER_CORE = 16
"""Of one piece of work: seconds, so that neither Ray nor a sudden end costs much beside it."""

PIECES_AHEAD = 3
"""For each that the cluster can do at once, so that no node waits for this process."""

RETRIES = 3
"""How often a piece is done again that was lost, or a file that its process died at."""

_OF_THE_PROCESS = (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError)
"""What a file may be to blame for, or the node."""

SECONDS_BETWEEN_CHECKS = 0.5
"""After which a signal, or a node that has come, is noticed."""


@dataclass(frozen=True, slots=True)
class _Result:
    """What a process found.

    Attributes:
        node: What Ray calls its node.
        address: Of that node.
        records: Of each file.
    """

    node: str
    address: str
    records: list[list[Record]]


@contextmanager
def joined() -> Iterator[None]:
    """Join the cluster that this machine is of, unless this process has.

    Raises:
        UsageError: It is of none that it can join.
    """
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError):
        raise UsageError(
            "no Ray cluster can be joined; start this on a machine of one, after ray start, with "
            "the versions of Ray and Python of its nodes, and its token where it asks for one"
        ) from None
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
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
            cluster does not finish a piece of work.
        SystemExit: A signal has come; what was done till then is given before.
    """
    share = _Share.of_nodes(limits.workers, uses_gpu=scorer.engine.name == "xla")
    limits = replace(limits, workers=share.cores)
    with _speaking_plainly():
        kept = ray.put(
            _Setup(
                scorer.bundle,
                scorer.batch_size,
                scorer.engine.name,
                root,
                policy,
                limits,
                _facts(scorer),
            )
        )
    pieces = _Pieces(uuid4().hex, kept, share)
    rest = iter(tasks)
    try:
        while True:
            while pieces.has_room:
                piece = list(islice(rest, FILES_PER_CORE * share.cores))
                if not piece:
                    break
                pieces.begin(piece)
            if not pieces.under_way:
                return
            yield from pieces.done(SECONDS_BETWEEN_CHECKS)
            interrupt.check()
    except (SystemExit, JobError):
        yield from pieces.finished()
        raise
    finally:
        pieces.cancel()


@dataclass(frozen=True, slots=True)
class _Share:
    """What one piece of work takes of a node."""

    cores: int
    gpus: int

    @classmethod
    def of_nodes(cls, cores: int, *, uses_gpu: bool) -> "_Share":
        nodes = list(_nodes().values())
        if not nodes:
            raise UsageError("no node of the Ray cluster offers a core; add one with ray start")
        gpus = int(uses_gpu and all(node.get("GPU") for node in nodes))
        each = [int(node["CPU"] // max(1, gpus * node.get("GPU", 0))) for node in nodes]
        if cores > max(each):
            raise UsageError(
                f"no node of the Ray cluster has {cores} cores for a piece of work; give "
                f"--workers {max(each)} or fewer"
            )
        return cls(cores or max(1, min(each)), gpus)

    def slots(self) -> dict[str, int]:
        """Count the pieces that each node of the cluster as it is now can do at once, if any.

        Raises:
            JobError: None can do one.
        """
        slots = {
            name: int(min(node["CPU"] // self.cores, node.get("GPU", 0) if self.gpus else math.inf))
            for name, node in _nodes().items()
        }
        if not any(slots.values()):
            raise JobError(
                f"no node of the Ray cluster is left that has {self.cores} cores"
                f"{' and a GPU' if self.gpus else ''}; what was scored is kept, and the same "
                "command goes on"
            )
        return {name: count for name, count in slots.items() if count}


@dataclass(frozen=True, slots=True)
class _Piece:
    """Files that are read and scored together.

    Attributes:
        tasks: The files.
        deaths: Processes that have died at it, if it is one file.
        losses: How often else it came to nothing: its node was gone, or did not see a file.
        node: Where it must be done, if that matters.
        suspect: Where this is a trial of a node: the file that a process has just died at there.
    """

    tasks: list[Task]
    deaths: int = 0
    losses: int = 0
    node: str | None = None
    suspect: "_Piece | None" = None


class _Pieces:
    """The pieces of work that the cluster has.

    Where processes die at a file again and again, either it is to blame or the nodes are. So it has
    its last try at a node that is named, and if it costs a process there, too, that node has to do
    what another has done before. If it does, the file is to blame; else the node is.

    Attributes:
        under_way: Each by what Ray calls its result.
    """

    def __init__(self, run: str, setup: "ray.ObjectRef[_Setup]", share: _Share) -> None:
        self._run, self._setup, self._share = run, setup, share
        self._remote = ray.remote(_score)
        self.under_way: dict[ray.ObjectRef[_Result], _Piece] = {}
        self._last_done: list[Task] = []
        self._nodes_that_work: set[str] = set()
        self._unfit_nodes: set[str] = set()

    @property
    def has_room(self) -> bool:
        """Whether the cluster should have more to do."""
        return len(self.under_way) < PIECES_AHEAD * sum(self._share.slots().values())

    def begin(self, tasks: list[Task]) -> None:
        """Have some files read and scored."""
        self._begin(_Piece(tasks))

    def _begin(self, piece: _Piece) -> None:
        place = NodeAffinitySchedulingStrategy(piece.node, soft=False) if piece.node else "SPREAD"
        with _speaking_plainly():
            # Ray would do for ever again what the memory of a node does not hold.
            remote = self._remote.options(
                num_cpus=self._share.cores,
                num_gpus=self._share.gpus,
                max_retries=0,
                scheduling_strategy=place,
            )
            # In a list, Ray hands the setup over as it is asked for, and not to every piece.
            self.under_way[remote.remote(self._run, [self._setup], piece.tasks)] = piece

    def done(self, seconds: float) -> Iterator[list[Done]]:
        """Give what is done, or will be soon."""
        with _speaking_plainly():
            ready, _ = ray.wait(list(self.under_way), timeout=seconds)
        for reference in ready:
            piece = self.under_way.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, ray.exceptions.RayError):
                    raise _in_one_line(error) from None
                self._again(piece, error.cause)
            except ray.exceptions.RayError as error:  # a process or node has died
                self._again(piece, error)
            else:
                yield from self._found(piece, result)

    def finished(self) -> Iterator[list[Done]]:
        """Give what is done by now, where the run ends whatever becomes of the rest."""
        for reference, piece in self.under_way.items():
            with suppress(ray.exceptions.RayError):
                ready, _ = ray.wait([reference], timeout=0)
                if ready and piece.suspect is None:
                    found = list(zip(piece.tasks, ray.get(reference).records, strict=True))
                    if not any(starmap(_is_seen_otherwise, found)):
                        yield found

    def _found(self, piece: _Piece, result: _Result) -> Iterator[list[Done]]:
        """Give what a piece of work has found."""
        found = list(zip(piece.tasks, result.records, strict=True))
        if any(starmap(_is_seen_otherwise, found)):
            lost = piece.suspect or piece
            if lost.losses == RETRIES:
                raise _not_seeing(result.address)
            self._begin(self._elsewhere(lost))
            return
        self._last_done = piece.tasks
        self._nodes_that_work.add(result.node)
        self._unfit_nodes.discard(result.node)
        if piece.suspect is None:
            yield found
        else:
            (task,) = piece.suspect.tasks
            detail = "the process that read it died"
            yield [(task, [Record(Account(reason=Reason.DECODER_CRASHED, detail=detail))])]

    def _again(self, piece: _Piece, error: Exception) -> None:
        """Begin a piece again that came to no end; of many files, each half by itself."""
        tasks = piece.tasks
        killed_it = isinstance(error, _OF_THE_PROCESS) and piece.suspect is None
        if killed_it and len(tasks) > 1:
            half = len(tasks) // 2
            self.begin(tasks[:half])
            self.begin(tasks[half:])
        elif killed_it and piece.node is not None:
            self._begin(_Piece(self._last_done, node=piece.node, suspect=piece))
        elif killed_it:
            again = replace(piece, deaths=piece.deaths + 1)
            self._begin(self._named(again) if again.deaths == RETRIES else again)
        else:
            lost = piece.suspect or piece
            if lost.losses == RETRIES:
                raise _unfinished(error)
            self._begin(self._elsewhere(lost))

    def _elsewhere(self, piece: _Piece) -> _Piece:
        """Give a piece that was lost for another try, not where it must have been done."""
        lost = replace(piece, losses=piece.losses + 1)
        if piece.node is None:
            return lost
        self._unfit_nodes.add(piece.node)
        return self._named(lost)

    def _named(self, piece: _Piece) -> _Piece:
        """Name the node of a file's last try: the least burdened of those that work, if any do."""
        nodes = set(self._share.slots())
        nodes = nodes - self._unfit_nodes or nodes
        nodes = nodes & self._nodes_that_work or nodes
        burdens = Counter(each.node for each in self.under_way.values())
        return replace(piece, node=min(sorted(nodes), key=burdens.__getitem__))

    def cancel(self) -> None:
        """Let go of what is under way."""
        with suppress(ray.exceptions.RayError):
            for reference in self.under_way:
                ray.cancel(reference, force=True)


@contextmanager
def _speaking_plainly() -> Iterator[None]:
    """Turn what Ray raises where its cluster is gone into one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise _unfinished(error) from None


def _unfinished(error: Exception) -> JobError:
    return JobError(
        f"the cluster did not finish a piece of work ({type(error).__name__}), though it tried "
        f"{1 + RETRIES} times, or it is gone; look at ray status. What was scored is kept, and the "
        "same command goes on"
    )


def _in_one_line(error: ray.exceptions.RayTaskError) -> JobError:
    if isinstance(error.cause, FracjaxError):
        return JobError(str(error.cause))
    return JobError(
        f"a node failed ({type(error.cause).__name__}); check that the same versions of fracjax "
        "and Ray are installed on every node"
    )


def _is_seen_otherwise(task: Task, records: list[Record]) -> bool:
    """Tell whether a node could not read what this machine can."""
    unread = any(record.account.reason == Reason.UNREADABLE for record in records)
    return unread and task.entry.obstacle is None and can_be_read(task.entry)


def _not_seeing(address: str) -> JobError:
    return JobError(
        f"node {address} cannot read a file that this machine can; check there that the export is "
        "mounted whole, with the same permissions and times"
    )


def _nodes() -> dict[str, dict[str, float]]:
    """Give what each node offers that is there and has cores."""
    with _speaking_plainly():
        return {
            node["NodeID"]: node["Resources"]
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        }


# What follows runs on the nodes.


@dataclass(frozen=True, slots=True)
class _Setup:
    """What a process needs before its first piece of work.

    Attributes:
        facts: What must be the same on each node.
    """

    bundle: Bundle
    batch_size: int
    engine: EngineName
    root: Path
    policy: ReadPolicy
    limits: Limits
    facts: Mapping[str, Any]


class _Worker:
    """What a process keeps from one piece of work to the next."""

    def __init__(self, run: str, setup: _Setup) -> None:
        try:
            is_there = setup.root.is_dir() and next(setup.root.iterdir(), None) is not None
        except OSError:
            is_there = False
        if not is_there:
            raise JobError("it does not see the export; mount it there at the same path")
        self.run = run
        self._scorer = Scorer(setup.bundle, setup.batch_size, setup.engine, setup.limits.processes)
        if (facts := _facts(self._scorer)) != setup.facts:
            raise JobError(
                f"it has {difference(setup.facts, facts)} than the machine that this was started "
                "on; make them alike, or name an --engine that all have, or a --bundle in float32"
            )
        preprocess = setup.bundle.manifest.preprocess
        self._scorer.score(
            probes.pictures(preprocess)
        )  # should the process die of it, no file does
        self._readers = Readers(preprocess, setup.policy, setup.limits)

    def score(self, tasks: list[Task]) -> list[list[Record]]:
        """Read and score files; give the records of each, in their order."""
        groups = score_all(self._scorer, tasks, self._readers.read)
        found = {task.number: records for group in groups for task, records in group}
        return [found[task.number] for task in tasks]

    def stop(self) -> None:
        """End the reading processes."""
        self._readers.stop()


_worker: _Worker | None = None
"""Of this process, if it has one."""


def _score(run: str, setup: list["ray.ObjectRef[_Setup]"], tasks: list[Task]) -> _Result:
    global _worker  # noqa: PLW0603 - Ray calls a function, and the network outlives the call
    forbid_core_dumps()
    address = str(ray.util.get_node_ip_address())
    try:
        if _worker is not None and _worker.run != run:
            _worker.stop()
            _worker = None
        if _worker is None:
            _worker = _Worker(run, ray.get(setup[0]))
        return _Result(ray.get_runtime_context().get_node_id(), address, _worker.score(tasks))
    except FracjaxError as error:
        raise JobError(f"node {address}: {error}") from None


def _facts(scorer: Scorer) -> dict[str, Any]:
    return {"engine": asdict(scorer.engine), "software": software()}
