"""What a run keeps of its work, and what it does about damage to it."""

import contextlib
import dataclasses
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracjax.errors import JobError, UsageError
from fracjax.image import Header, Reason
from fracjax_jobs.account import Account, Record
from fracjax_jobs.restart import set_aside
from fracjax_jobs.state import State
from fracjax_jobs.walk import Entry

CLAIM = {"model_id": "one", "policy": {"max_frames": 4}}
THUMBNAIL = bytes(range(256))


def entry(name, signature="1", file_set=None):
    """A file of an export, as a walk gives it."""
    return Entry(
        path=Path("/export") / name,
        member=(),
        name=name,
        size=1,
        mtime_ns=10**18,
        signature=signature,
        obstacle=None,
        detail="",
        file_set=file_set,
    )


def begin(state, claim=CLAIM, seconds=60.0, memory=2.0**32, key_prefix="abc123", restart=False):
    state.begin(
        claim,
        key_prefix=key_prefix,
        reference="2026-01-02T03:04:05+00:00",
        given={"seconds_per_file": seconds, "bytes_per_worker": memory},
        restart=restart,
    )


def account(number, **changes):
    header = Header(sop_instance_uid=f"1.{number}", study_instance_uid="1.2.3")
    facts = Account(header=header, format="dicom", likelihood=number / 8, notes=("a", "b"))
    return dataclasses.replace(facts, **changes)


def record(state, entries):
    """Give each file that has none an account."""
    for task in list(state.tasks(entries)):
        state.record(task.number, [Record(account(task.number), "uid:1.2.3", THUMBNAIL)])
    state.commit()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "worklist.state"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The state of a run over three files."""
    path = tmp_path_factory.mktemp("state") / "worklist.state"
    with State(path) as state:
        begin(state)
        files = [entry(name) for name in ("a", "b", "c")]
        state.register(files)
        record(state, files)
    return path


def content(path):
    with State(path) as state:
        begin(state)
        return list(state.images(of_study=True)), state.reference, state.key_prefix


def test_accounts_come_back_as_they_went(path):
    every = Account(
        frame=3,
        frames=1,
        reason=Reason.UNFAMILIAR,
        detail="a line",
        header=Header(*(["text"] * 13), patient_tag=7, study_tag=8, accession_withheld=True),
        format="dicom",
        decoder="imagecodecs",
        voi_source="lut",
        polarity_source="photometric",
        notes=("one", "two"),
        likelihood=0.1,
        distance=1e-30,
        scored_at="2026-01-02T03:04:05.678+00:00",
    )
    with State(path) as state:
        begin(state)
        state.register([entry("a")])
        state.record(1, [Record(every, "uid:1", THUMBNAIL, b"digest"), Record(Account(frame=4))])
        state.commit()
    with State(path) as state:
        begin(state)
        (with_study,) = state.images(of_study=True)
        (without,) = state.images(of_study=False)
    assert with_study.record == Record(every, "uid:1", THUMBNAIL, b"digest")
    assert without.record == Record(Account(frame=4))


def test_what_was_committed_is_not_done_again_and_what_was_not_is(path):
    files = [entry(name) for name in "abcd"]
    with State(path) as state:
        begin(state)
        state.register(files)
        tasks = list(state.tasks(files))
        state.record(tasks[0].number, [Record(Account())])
        state.commit()
        state.record(tasks[1].number, [Record(Account())])
    with State(path) as state:
        begin(state)
        state.register(files)
        assert [task.entry.name for task in state.tasks(files)] == ["b", "c", "d"]
        assert state.done() == 1


def test_keys_are_given_in_the_order_of_the_walk_and_stay(path):
    first, second = [entry("b"), entry("d")], [entry(name) for name in "abcd"]
    with State(path) as state:
        begin(state)
        state.register(first)
        assert [task.number for task in state.tasks(first)] == [1, 2]
        assert state.file_key(2) == "abc123-0000002"
    with State(path) as state:
        begin(state, key_prefix="fffff0")
        state.register(second)
        numbers = {task.entry.name: task.number for task in state.tasks(second)}
        assert numbers == {"a": 3, "b": 1, "c": 4, "d": 2}
        assert state.file_key(2) == "abc123-0000002"


def test_a_file_that_changed_or_went_loses_its_accounts(path):
    before = [entry("a"), entry("b"), entry("c")]
    after = [entry("a"), entry("b", signature="2")]
    with State(path) as state:
        begin(state)
        state.register(before)
        record(state, before)
        state.register(after)
        assert [task.entry.name for task in state.tasks(after)] == ["b"]
        assert len(list(state.images(of_study=True))) == 1


def test_members_of_one_name_are_told_apart(path):
    members = [dataclasses.replace(entry("x.zip/a"), member=(number,)) for number in (0, 1)]
    with State(path) as state:
        begin(state)
        state.register(members)
        assert len(list(state.tasks(members))) == 2


def test_what_may_have_been_mended_is_tried_again(path):
    reasons = {
        "a": Reason.UNREADABLE,
        "b": Reason.DECODER_TIMEOUT,
        "c": Reason.CORRUPT,
        "d": Reason.DECODER_CRASHED,
        "e": Reason.TOO_LARGE,
    }
    files = [entry(name) for name in reasons]

    def run(seconds=60, memory=1000):
        with State(path) as state:
            begin(state, seconds=seconds, memory=memory)
            state.register(files)
            tasks = list(state.tasks(files))
            for task in tasks:
                account = Account(reason=reasons[task.entry.name])
                state.record(task.number, [Record(account)])
            state.commit()
            return "".join(task.entry.name for task in tasks)

    assert run() == "abcde"
    assert run() == "a"
    assert run(seconds=30, memory=500) == "a"
    assert run(seconds=61) == "ab"
    assert run(memory=1001) == "ade"
    assert run(seconds=61, memory=1001) == "a"


def test_a_file_is_tried_again_with_all_its_frames(path):
    files = [entry("a")]
    frames = [Account(frame=1, likelihood=0.5), Account(frame=2, reason=Reason.TOO_LARGE)]

    def tasks(memory):
        with State(path) as state:
            begin(state, memory=memory)
            state.register(files)
            found = list(state.tasks(files))
            for task in found:
                state.record(task.number, [Record(account) for account in frames])
            state.commit()
            assert state.frames() == len(list(state.images(of_study=False))) == 2
            return len(found)

    assert [tasks(1000), tasks(1000), tasks(2000)] == [1, 0, 1]


def test_a_folder_that_cannot_be_looked_into_for_once_costs_no_work(path):
    whole = [entry("a/IM1"), entry("b/IM1")]
    blocked = dataclasses.replace(entry("b"), obstacle=Reason.UNREADABLE)
    with State(path) as state:
        begin(state)
        state.register(whole)
        record(state, whole)
        state.register([whole[0], blocked])
        assert [task.entry.name for task in state.tasks([whole[0], blocked])] == ["b"]
        record(state, [whole[0], blocked])
        assert state.done() == 2
        assert len(list(state.images(of_study=True))) == 2
        state.register(whole)
        assert list(state.tasks(whole)) == []
        state.register([whole[0]])  # and now it is gone indeed
        state.register(whole)
        assert [task.entry.name for task in state.tasks(whole)] == ["b/IM1"]


def test_no_key_is_given_twice(path):
    files = [entry("a"), entry("b")]
    with State(path) as state:
        begin(state)
        state.register(files)
        state.register(files[:1])
        state.register(files)
        assert [task.number for task in state.tasks(files)] == [1, 3]


def test_uids_are_reused_by_other_studies_or_patients(path):
    files = [entry(name) for name in "abcdefg"]
    given = [
        ("uid:1", "1.1", 1),
        ("uid:2", "1.1", 1),
        ("uid:1", "1.2", 1),
        ("uid:1", "1.2", 2),
        ("uid:1", "1.3", 1),
        ("uid:1", "1.3", None),
        ("uid:1", "1.3", 1),
    ]
    with State(path) as state:
        begin(state)
        state.register(files)
        for number, (study, uid, patient) in enumerate(given, start=1):
            header = Header(sop_instance_uid=uid, patient_tag=patient)
            state.record(number, [Record(Account(header=header), study, THUMBNAIL, b"1")])
        state.find_reused_uids()
        assert [state.is_reused(f"1.{n}") for n in (1, 2, 3)] == [True, True, False]


def test_it_is_for_the_user_alone_and_tells_no_path(finished):
    assert stat.S_IMODE(finished.stat().st_mode) == 0o600
    with State(finished) as state:
        begin(state)
        state.register([entry("SIMPSON BART/19800401/IM1")])
    assert b"SIMPSON" not in finished.read_bytes()


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (CLAIM | {"model_id": "two"}, "model_id: one, now two"),
        (CLAIM | {"policy": {"max_frames": 5}}, r"\(policy.max_frames: 4, now 5\)"),
        ({"model_id": "one"}, "policy.max_frames: 4, now null"),
        (CLAIM | {"export": "elsewhere"}, "another export"),
    ],
)
def test_scores_of_other_conditions_are_never_mixed(finished, claim, said):
    with State(finished) as state, pytest.raises(UsageError, match=said) as told:
        begin(state, claim)
    assert "--restart" in str(told.value)


def test_one_run_at_a_time(path):
    with State(path) as state:
        begin(state)
        with pytest.raises(UsageError, match="in use"), State(path):
            pass


def test_a_file_of_another_program_is_left_alone(path):
    path.write_bytes(b"my notes, " * 1000)
    with pytest.raises(JobError, match="damaged"), State(path):
        pass
    assert path.read_bytes() == b"my notes, " * 1000


def test_another_database_is_left_alone(path):
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="no state of fracjax"), State(path):
        pass
    assert path.read_bytes() == before


def test_a_state_of_next_year_is_refused(finished, path):
    import sqlite3

    shutil.copy(finished, path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="version 99"), State(path):
        pass


def test_a_restart_keeps_the_old_state_aside(finished, path):
    shutil.copy(finished, path)
    path.with_name("worklist.state-journal").write_bytes(b"of the old one")
    set_aside(path, CLAIM)
    assert sorted(file.name for file in path.parent.iterdir()) == ["worklist.state.old"]
    set_aside(path, CLAIM)  # nothing there: nothing to do
    with State(path) as state:
        begin(state, {"model_id": "two"})
        assert state.done() == 0


def test_a_restart_that_was_interrupted_goes_on(path):
    files = [entry("a"), entry("b")]

    def run(claim=CLAIM):
        """Begin a restart; tell how much was there."""
        set_aside(path, claim)
        with State(path) as state:
            begin(state, claim, restart=True)
            state.register(files)
            known = state.done()
            task = next(state.tasks(files), None)
            if task is not None:
                state.record(task.number, [Record(Account())])
            state.commit()
            return known

    assert [run(), run(), run()] == [0, 1, 2]
    assert run({"model_id": "two"}) == 0
    assert run({"model_id": "two"}) == 1
    with State(path) as state:
        begin(state, {"model_id": "two"})
        state.finish()
    assert run({"model_id": "two"}) == 0


def test_a_restart_leaves_a_run_that_goes_on_alone(path):
    with State(path) as state:
        begin(state)
        with pytest.raises(UsageError, match="in use"):
            set_aside(path, {"model_id": "two"})
    assert path.exists()


@pytest.mark.parametrize("data", [b"my notes, " * 1000, b""])
def test_a_restart_puts_any_damage_aside(path, data):
    path.write_bytes(data)
    path.with_name("worklist.state-journal").write_bytes(b"of the old one")
    set_aside(path, CLAIM)
    assert path.with_name("worklist.state.old").read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == ["worklist.state.old"]


@pytest.mark.parametrize("table", ["run", "image"])
def test_a_restart_that_was_interrupted_and_damaged_begins_anew(path, table):
    import sqlite3

    with State(path) as state:
        begin(state, restart=True)
        state.register([entry("a")])
        record(state, [entry("a")])
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {table} SET checksum = x'00'")  # noqa: S608
    set_aside(path, CLAIM)
    assert not path.exists()


def check_told_or_harmless(finished, data, damaged):
    damaged.write_bytes(data)
    damaged.with_name(f"{damaged.name}-journal").unlink(missing_ok=True)
    try:
        found = content(damaged)
    except (JobError, UsageError) as error:
        assert "\n" not in str(error)
        return True
    assert found == content(finished)
    return False


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damage_is_told_or_harmless(finished, path, position, bit):
    data = bytearray(finished.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    check_told_or_harmless(finished, data, path)


@pytest.mark.parametrize("pages", range(1, 12))
def test_a_cut_state_is_told_or_harmless(finished, path, pages):
    data = finished.read_bytes()
    told = check_told_or_harmless(finished, data[: pages * 4096 + 100], path)
    assert told or pages > 4  # the last pages hold what can be done without


def test_an_empty_state_is_a_new_run(path):
    path.touch()
    assert content(path)[0] == []
