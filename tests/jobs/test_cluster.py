"""Spread over the nodes of a Ray cluster, the job says what it says on one machine.

The nodes are two, of one core each, on this machine: real processes that are killed for real.
"""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import count, cycle
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest.mock import ANY, MagicMock

import psutil
import pytest
import ray
from exports import (
    CONTENTS,
    check_conserved,
    command,
    content,
    dicom,
    put,
    read_run,
    score,
    table_paths,
    wait_for_state,
)
from hypothesis import example, given
from hypothesis import strategies as st
from ray.cluster_utils import Cluster
from ray.exceptions import (
    NodeDiedError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from fracjax.errors import JobError, UsageError
from fracjax.image import ReadPolicy, Reason
from fracjax_jobs import cluster as ray_cluster
from fracjax_jobs import read
from fracjax_jobs import score_dir as job
from fracjax_jobs.account import Account, Record
from fracjax_jobs.inventory import Inventory
from fracjax_jobs.pool import Limits
from fracjax_jobs.state import Task
from fracjax_jobs.walk import Entry
from fracjax_jobs.worklist import Paths

SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


SECONDS_TO_BEGIN = 300
"""In which a process of the cluster comes to work, on a machine that has others to do."""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core; and what a process needs to find them."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    nodes.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
    nodes.wait_for_nodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Everything that an export may hold, and enough radiographs for several pieces of work."""
    root = tmp_path_factory.mktemp("spread") / "export"
    for number, (kind, (data, _)) in enumerate(CONTENTS.items()):
        put(root, f"{number % 3}/{kind}", data)
    for number in range(300):
        put(root, f"many/{number // 40}/IM{number:03d}", dicom(number, f"1.2.{number // 2}"))
    return root


@pytest.fixture(scope="module")
def whole(export, scorer, reading_here, tmp_path_factory):
    """What a run on one machine says."""
    with reading_here():
        return score(export, tmp_path_factory.mktemp("whole") / "w.parquet", scorer)


def start(nodes, export, out, bundle, *options):
    """Start the job on a cluster."""
    arguments = (export, "--out", out, "--bundle", bundle, "--batch-size", 4, *options)
    return subprocess.Popen(
        command(*arguments, "--engine-cluster", "ray"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"RAY_ADDRESS": nodes.address},
    )


def wait_for_work(node):
    """Wait till a process of a node scores; give it."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    deadline = time.monotonic() + SECONDS_TO_BEGIN
    while time.monotonic() < deadline:
        for process in raylet.children():
            with suppress(psutil.NoSuchProcess):
                if "_score" in " ".join(process.cmdline()):
                    return process
        time.sleep(0.02)
    raise AssertionError("no process has begun to score")


def test_a_process_and_a_node_lost_midway_cost_nothing_and_one_machine_finds_nothing_to_add(
    cluster, export, whole, tiny_bundle, scorer, tmp_path
):
    out = tmp_path / "w.parquet"
    process = start(cluster, export, out, tiny_bundle)
    wait_for_state(process, Paths(out).state)
    (lost,) = cluster.worker_nodes
    wait_for_work(cluster.head_node).kill()
    wait_for_work(lost)
    cluster.remove_node(lost, allow_graceful=False)
    assert process.poll() is None
    _, errors = process.communicate(timeout=300)
    cluster.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
    assert (process.returncode, errors) == (1, b"")  # 1: some of what lies there is broken
    run = read_run(out)
    check_conserved(run)
    assert content(run) == content(whole)
    before = {path: path.read_bytes() for path in table_paths(out)}
    summary = job.score_dir(export, out, scorer)
    assert not summary.is_news
    assert {path: path.read_bytes() for path in table_paths(out)} == before


def kept(state):
    """What a state has of pictures that were scored, by file and frame; another process has it."""
    connection = sqlite3.connect(f"file:{state}?mode=ro&immutable=1", uri=True)
    with closing(connection), suppress(sqlite3.DatabaseError):
        query = "SELECT number, frame, account FROM image WHERE digest IS NOT NULL"
        return {tuple(place): account for *place, account in connection.execute(query)}
    return {}


def test_what_the_cluster_did_is_kept_when_the_job_is_ended_or_killed(
    cluster, export, whole, tiny_bundle, tmp_path
):
    out = tmp_path / "w.parquet"
    state, before = Paths(out).state, {}
    for stop, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        process = start(cluster, export, out, tiny_bundle)
        deadline = time.monotonic() + SECONDS_TO_BEGIN
        while not state.exists() or len(kept(state)) <= len(before):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code
        if stop == signal.SIGTERM:
            assert errors == b"fracjax: stopped; the same command goes on from here\n"
        now = kept(state)
        assert before.items() <= now.items()
        before = now
    process = start(cluster, export, out, tiny_bundle)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (1, b"")
    assert before.items() < kept(state).items()  # with the time at which each was scored
    run = read_run(out)
    check_conserved(run)
    assert content(run) == content(whole)


def test_a_file_that_kills_each_process_costs_itself_though_there_is_no_other(
    cluster, export, scorer, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setattr(ray_cluster, "_score", kill_the_process)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    lethal = Task(1, Entry(export, (), "x"))
    with ray_cluster.joined():
        limits = Limits(workers=1)
        ((found,),) = ray_cluster.score_on_nodes(export, scorer, [lethal], ReadPolicy(), limits)
    assert found == (lethal, [Record(Account(reason=Reason.DECODER_CRASHED, detail=ANY))])


def kill_the_process(run, setup, tasks):
    """Do as a file does that a process dies at."""
    if tasks:
        os.kill(os.getpid(), signal.SIGKILL)
    return ray_cluster._Result(ray.get_runtime_context().get_node_id(), "1.2.3.4", [])


def test_more_cores_than_a_node_has_and_no_cluster_are_one_line(
    cluster, export, tiny_bundle, tmp_path
):
    process = start(cluster, export, tmp_path / "w.parquet", tiny_bundle, "--workers", 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.endswith(b"has 2 cores for a piece of work; give --workers 1 or fewer\n")
    assert errors.count(b"\n") == 1


def test_where_there_is_no_cluster_or_no_ray_the_way_out_is_told(
    export, scorer, tmp_path, monkeypatch
):
    options = job.Options(cluster="ray")
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster.ray, "init", no_cluster)
        with pytest.raises(UsageError, match="start this on a machine of one, after ray start"):
            job.score_dir(export, tmp_path / "w.parquet", scorer, options)
    monkeypatch.setattr(job.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "fracjax\[ray\]"'):
        job.score_dir(export, tmp_path / "w.parquet", scorer, options)
    assert list(tmp_path.iterdir()) == []


def no_cluster(**_):
    raise ConnectionError("Could not find any running Ray instance.")


def test_a_node_that_is_not_alike_or_does_not_see_the_export_is_told(export, scorer, tmp_path):
    """What a node does before its first piece of work, without a cluster."""
    facts = ray_cluster._facts(scorer)
    fit = ray_cluster._Setup(
        scorer.bundle, 4, scorer.engine.name, export, ReadPolicy(), Limits(workers=1), facts
    )
    ray_cluster._Worker("run", fit).stop()
    other = facts | {"software": facts["software"] | {"pydicom": "2.4.0"}}
    with pytest.raises(JobError, match=r"software\.pydicom: 2\.4\.0, now .*make them alike"):
        ray_cluster._Worker("run", replace(fit, facts=other))
    for unseen in (tmp_path, tmp_path / "gone"):
        with pytest.raises(JobError, match="does not see the export; mount it there"):
            ray_cluster._Worker("run", replace(fit, root=unseen))


# What becomes of pieces of work, with a Ray that does as it is told


NODES = tuple(f"{number:056x}" for number in range(1, 6))


class ScriptedRay:
    """Does pieces of work, of numbered files, as a function says: of each, records or an error.

    At nodes that are broken each process dies, and pieces that are lost, by their number, come to
    no end. Where a piece is done if nothing is said, and which is done next, is left to chance.
    """

    def __init__(self, does, broken=(), lost=(), chance=None):
        self.does, self.broken, self.lost = does, broken, lost
        self.chance = chance or Random(0)  # noqa: S311 - a test's
        self.begun, self.places, self.named = [], [], set()
        self.exceptions = ray_cluster.ray.exceptions

    def remote(self, function):
        def options(scheduling_strategy, max_retries, **_):
            assert max_retries == 0
            return SimpleNamespace(remote=partial(self.begin, scheduling_strategy))

        return SimpleNamespace(options=options)

    def begin(self, place, run, setup, tasks):
        if place == "SPREAD":
            node = self.chance.choice(NODES)
        else:
            assert not place.soft
            node = place.node_id
            self.named.add(len(self.begun))
        self.begun.append([task.number for task in tasks])
        self.places.append(node)
        return len(self.begun) - 1

    def wait(self, references, **_):
        return [self.chance.choice(references)], None

    def get(self, reference):
        node = self.places[reference]
        if reference in self.lost:
            raise TaskUnschedulableError("") if reference in self.named else NodeDiedError("gone")
        if node in self.broken:
            raise WorkerCrashedError
        done = [self.does(number) for number in self.begun[reference]]
        for each in done:
            if isinstance(each, Exception):
                raise each
        return ray_cluster._Result(node, "1.2.3.4", done)

    def nodes(self):
        return [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2.0}} for node in NODES]


def run_pieces(monkeypatch, does, *sizes, **more):
    """Do pieces of files; give what became of each file, and the Ray that did them."""
    scripted = ScriptedRay(does, **more)
    monkeypatch.setattr(ray_cluster, "ray", scripted)
    pieces = ray_cluster._Pieces("run", "setup", ray_cluster._Share.of_nodes(0, uses_gpu=False))
    numbers, found = count(), {}
    for size in sizes:
        tasks = [Task(next(numbers), Entry(Path("/nowhere"), (), "x")) for _ in range(size)]
        pieces.begin(tasks)
    while pieces.under_way:
        for some in pieces.done(0.1):
            for task, (record,) in some:
                assert task.number not in found
                found[task.number] = record.account.reason
    return found, scripted


SCORED_RECORD = [Record(Account())]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    lethal=st.sets(st.integers(0, 35)),
    broken=st.sets(st.sampled_from(NODES), max_size=1),
    lost=st.sets(st.integers(0, 50), max_size=ray_cluster.RETRIES - 1),
    chance=st.randoms(use_true_random=False),
)
@example(sizes=[1], lethal={0}, broken=set(), lost=set(), chance=None)
def test_files_that_kill_their_process_cost_themselves_and_nodes_cost_no_file(
    sizes, lethal, broken, lost, chance
):
    """No file comes to no end more often than it may: at the broken node, and where it is lost."""

    def does(number):
        return WorkerCrashedError() if number in lethal else SCORED_RECORD

    with pytest.MonkeyPatch.context() as patch:
        found, scripted = run_pieces(patch, does, *sizes, broken=broken, lost=lost, chance=chance)
    assert found == {
        number: Reason.DECODER_CRASHED if number in lethal else None for number in range(sum(sizes))
    }
    for number in lethal & found.keys():
        assert scripted.begun.count([number]) > ray_cluster.RETRIES


@given(chance=st.randoms(use_true_random=False))
def test_a_file_is_convicted_at_a_node_that_does_other_work(chance):
    def does(number):
        return WorkerCrashedError() if number == 0 else SCORED_RECORD

    with pytest.MonkeyPatch.context() as patch:
        found, scripted = run_pieces(patch, does, 1, 1, broken=NODES[:3], chance=chance)
    assert found == {0: Reason.DECODER_CRASHED, 1: None}
    last = max(index for index, numbers in enumerate(scripted.begun) if numbers == [0])
    assert scripted.places[last] in NODES[3:]
    assert last in scripted.named


def test_a_suspect_is_tried_where_other_work_was_done(monkeypatch):
    def does(number):
        return WorkerCrashedError() if number == 0 else SCORED_RECORD

    class InTurn:
        places = cycle(NODES)

        def choice(self, among):
            return next(self.places) if among is NODES else among[-1]

    found, scripted = run_pieces(monkeypatch, does, 1, 1, broken=NODES[:1], chance=InTurn())
    assert found == {0: Reason.DECODER_CRASHED, 1: None}
    assert [scripted.places[index] for index in sorted(scripted.named)] == [NODES[1]] * 2


def test_a_node_that_is_alone_gets_more_than_one_chance(monkeypatch):
    """A trial fails, as where others take the memory, and the next does not."""
    trials = []

    def does(number):
        if number == 1:
            trials.append(number)
            return WorkerCrashedError() if len(trials) == 2 else SCORED_RECORD
        return WorkerCrashedError()

    monkeypatch.setattr(sys.modules[__name__], "NODES", NODES[:1])

    latest_first = SimpleNamespace(choice=lambda among: among[-1])
    found, scripted = run_pieces(monkeypatch, does, 1, 1, chance=latest_first)
    assert found == {0: Reason.DECODER_CRASHED, 1: None}
    assert scripted.begun.count([1]) == 3


def test_a_trial_at_which_files_are_not_seen_convicts_nobody(monkeypatch):
    monkeypatch.setattr(ray_cluster, "_is_seen_otherwise", lambda task, _: task.number == 1)
    share = ray_cluster._Share(2, 0)
    monkeypatch.setattr(ray_cluster, "ray", ScriptedRay(lambda _: SCORED_RECORD))
    pieces = ray_cluster._Pieces("run", "setup", share)
    tasks = [Task(number, Entry(Path("/nowhere"), (), "x")) for number in range(2)]
    suspect = ray_cluster._Piece(tasks[:1], node=NODES[0])
    pieces._begin(ray_cluster._Piece(tasks[1:], node=NODES[0], suspect=suspect))
    assert list(pieces.done(0.1)) == []
    (again,) = pieces.under_way.values()
    assert (again.tasks, again.losses, again.suspect) == (tasks[:1], 1, None)
    assert again.node != NODES[0]


@pytest.mark.parametrize(
    ("does", "broken"),
    [(NodeDiedError("gone"), ()), (SCORED_RECORD, NODES)],
    ids=["nodes die", "no process ever lives"],
)
def test_what_no_file_is_to_blame_for_ends_the_run(monkeypatch, does, broken):
    with pytest.raises(JobError, match=r"did not finish a piece of work \(\w+Error\), though"):
        run_pieces(monkeypatch, lambda _: does, 1, 8, broken=broken)
    assert len(ray_cluster.ray.begun) > ray_cluster.RETRIES


def test_what_is_done_when_a_run_ends_is_given_whatever_failed(monkeypatch):
    def does(number):
        return NodeDiedError("gone") if number == 1 else SCORED_RECORD

    monkeypatch.setattr(ray_cluster, "ray", ScriptedRay(does))
    pieces = ray_cluster._Pieces("run", "setup", ray_cluster._Share.of_nodes(0, uses_gpu=False))
    for number in range(3):
        pieces.begin([Task(number, Entry(Path("/nowhere"), (), "x"))])
    assert [task.number for some in pieces.finished() for task, _ in some] == [0, 2]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (JobError("node 1.2.3.4: it does not see the export"), "it does not see the export"),
        (ModuleNotFoundError("fracjax /home/x"), r"a node failed \(ModuleNotFoundError\); check"),
    ],
)
def test_what_a_node_says_is_one_line(monkeypatch, cause, said):
    with pytest.raises(JobError, match=said) as raised:
        run_pieces(monkeypatch, lambda _: RayTaskError("_score", "a traceback", cause), 2)
    assert "\n" not in str(raised.value)
    assert "/home" not in str(raised.value)


def test_a_piece_takes_what_the_smallest_node_has_or_has_for_a_gpu(monkeypatch):
    def share(cores, uses_gpu, *resources, gone=()):
        nodes = [{"Alive": True, "Resources": each} for each in resources]
        nodes += [{"Alive": False, "Resources": each} for each in gone]
        nodes = [node | {"NodeID": str(number)} for number, node in enumerate(nodes)]
        monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: nodes)
        return ray_cluster._Share.of_nodes(cores, uses_gpu=uses_gpu)

    large, small, none = {"CPU": 64.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}, {"memory": 1.0}
    assert share(0, False, large, small, none) == ray_cluster._Share(8, 0)
    assert share(0, True, large, small) == ray_cluster._Share(8, 1)
    assert ray_cluster._Share(8, 1).slots() == {"0": 4, "1": 1}
    assert ray_cluster._Share(8, 0).slots() == {"0": 8, "1": 1}
    assert share(16, True, large, small).slots() == {"0": 4}
    assert share(0, False, large, gone=[small]) == ray_cluster._Share(64, 0)
    with pytest.raises(UsageError, match="give --workers 16 or fewer"):
        share(17, True, large, small)
    with pytest.raises(UsageError, match="no node of the Ray cluster offers a core"):
        share(0, False, none, gone=[large])
    with pytest.raises(JobError, match="no node of the Ray cluster is left that has 8 cores"):
        ray_cluster._Share(8, 0).slots()


def test_a_file_that_a_node_alone_cannot_read_ends_the_run(tmp_path, monkeypatch):
    """It would be set aside by the node that sees least, and so is quickest."""
    put(tmp_path, "there", b"content")
    with Inventory(tmp_path) as inventory:
        inventory.scan()
        (entry,) = inventory
    unreadable = [Record(Account(reason=Reason.UNREADABLE))]
    assert not ray_cluster._is_seen_otherwise(Task(1, entry), SCORED_RECORD)
    assert ray_cluster._is_seen_otherwise(Task(1, entry), unreadable)
    with monkeypatch.context() as patch:
        patch.setattr(read, "open_regular", broken)
        assert not ray_cluster._is_seen_otherwise(Task(1, entry), unreadable)
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "_is_seen_otherwise", lambda *_: True)
        with pytest.raises(JobError, match=r"node 1\.2\.3\.4 cannot read a file that this machine"):
            run_pieces(patch, lambda _: SCORED_RECORD, 3)
        assert len(ray_cluster.ray.begun) == 1 + ray_cluster.RETRIES
    (tmp_path / "there").write_bytes(b"other content")
    assert not ray_cluster._is_seen_otherwise(Task(1, entry), unreadable)
    (tmp_path / "there").unlink()
    assert not ray_cluster._is_seen_otherwise(Task(1, entry), unreadable)


def broken(path):
    """Open a file on a disc with a bad sector."""
    file = MagicMock(wraps=path.open("rb"))
    file.__enter__.return_value = file
    file.read.side_effect = OSError(errno.EIO, "Input/output error")
    return file
