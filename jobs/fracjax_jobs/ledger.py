"""Enters the outcomes of files into the state, with the study that each is of."""

from collections.abc import Iterable
from dataclasses import replace

from fracjax.image import Reason
from fracjax_jobs.account import Account, Record
from fracjax_jobs.scoring import Done
from fracjax_jobs.state import State, Task
from fracjax_jobs.studies import GroupBy, study_group

_NOT_OPENED = frozenset({Reason.NOT_A_FILE, Reason.UNREADABLE, Reason.EMPTY})
"""Nothing is known of what such a file holds; it may as well be furniture."""


class Ledger:
    """Takes files as they are done; what it took lasts, whatever happens next."""

    def __init__(self, group_by: GroupBy, state: State) -> None:
        self._group_by = group_by
        self._state = state

    def take(self, done: Iterable[Done]) -> None:
        """Enter files."""
        for task, records in done:
            self._state.record(task.number, [self._of_study(task, record) for record in records])
        self._state.commit()

    def _of_study(self, task: Task, record: Record) -> Record:
        account, digest, name = record.account, record.digest, task.entry.name
        if digest is None and not _may_be_image(account):
            return record
        folder = self._state.folder_of(name)
        study = study_group(name, folder, account.header, self._group_by)
        if study is None:  # a picture is one with its copies
            study = f"file:{task.number}" if digest is None else f"picture:{digest.hex()}"
        return replace(record, study=study)


def _may_be_image(account: Account) -> bool:
    """Whether a study lacks this file; that of the file alone, where no header names another."""
    if account.reason is None:
        return True
    if account.header is not None:
        return account.reason.concerns_study
    return account.reason.is_failure and account.reason not in _NOT_OPENED
