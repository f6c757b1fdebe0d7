"""The accounts of a run: each file found has one outcome, and each image one study."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fracjax.engine import Scorer
from fracjax.image import Header, Reason, Rejected
from fracjax_jobs.read import Reading
from fracjax_jobs.studies import GroupBy, Study, study_group
from fracjax_jobs.tables import TableWriter
from fracjax_jobs.walk import Entry


@dataclass(slots=True)
class _Account:
    """A file whose outcome is known, but for its likelihood, if ``input`` awaits one."""

    row: dict[str, Any]
    study: Study | None
    input: NDArray[np.float32] | None


class Ledger:
    """Takes the files of a run one by one, in order, and scores their pictures in batches.

    Attributes:
        studies: What is known of each study, in the order in which they were met.
        found: Files taken.
        scored: Files scored.
        set_aside: The other files, by reason.
    """

    def __init__(
        self,
        scorer: Scorer,
        group_by: GroupBy,
        files: TableWriter,
        linkage: TableWriter,
        *,
        key_prefix: str,
    ) -> None:
        self.studies: list[Study] = []
        self.found = 0
        self.scored = 0
        self.set_aside: Counter[Reason] = Counter()
        self._scorer = scorer
        self._group_by = group_by
        self._key_prefix = key_prefix
        self._files = files
        self._linkage = linkage
        self._by_group: dict[str, Study] = {}
        self._uids: set[str] = set()
        self._copies: set[tuple[str, str | None, str]] = set()
        self._pending: list[_Account] = []
        self._inputs = 0

    def take(self, entry: Entry, result: Reading | Rejected) -> None:
        """Enter one file into the accounts."""
        self.found += 1
        file_key = f"{self._key_prefix}-{self.found:07d}"
        self._linkage.append(
            {"file_key": file_key, "path": entry.name.encode(errors="backslashreplace").decode()}
        )
        header = result.header
        uid = header.sop_instance_uid if header else None
        if isinstance(result, Reading):
            result = self._recognise(result)
        row = _file_row(file_key, header)
        study: Study | None = None
        if isinstance(result, Reading):
            study = self._study(entry.name, header, file_key)
            study.file_keys.append(file_key)
            study.sop_instance_uids.append(uid)
            study.notes.update(result.notes)
            row |= {
                "outcome": "scored",
                "format": result.format,
                "decoder": result.decoder,
                "voi_source": result.voi_source,
                "notes": list(result.notes),
            }
            self._pending.append(_Account(row, study, result.input))
            self._inputs += 1
        else:
            row |= {
                "reason": str(result.reason),
                "detail": result.detail,
                "is_failure": result.reason.is_failure,
            }
            self.set_aside[result.reason] += 1
            # An image that is lost to its study is the study's affair; furniture is not.
            lost = result.reason.is_failure and header is not None
            if lost:
                study = self._study(entry.name, header, file_key)
                study.set_aside.append(result.reason)
            self._pending.append(_Account(row, study, None))
        if self._inputs in (0, self._scorer.batch_size):  # 0: nothing to wait for
            self.score_pending()

    def _recognise(self, reading: Reading) -> Reading | Rejected:
        """Set aside a second copy of an instance; but only a copy, not whatever bears its UID."""
        header = reading.header
        if header is None or header.sop_instance_uid is None:
            return reading
        uid = header.sop_instance_uid
        digest = hashlib.sha256(reading.input.tobytes()).hexdigest()
        copy = (uid, header.study_instance_uid, digest)
        if copy in self._copies:
            return Rejected(Reason.DUPLICATE, "this SOP instance is scored already", header)
        reused = uid in self._uids
        self._copies.add(copy)
        self._uids.add(uid)
        return replace(reading, notes=(*reading.notes, "uid_reused")) if reused else reading

    def score_pending(self) -> None:
        """Score the pictures that wait, and write the rows of their files."""
        inputs = [account.input for account in self._pending if account.input is not None]
        likelihoods = iter(self._scorer.score(np.stack(inputs)).tolist() if inputs else [])
        for account in self._pending:
            if account.study is not None:
                account.row["study_key"] = account.study.key
                if account.input is not None:
                    account.row["likelihood"] = next(likelihoods)
                    account.study.likelihoods.append(account.row["likelihood"])
            self._files.append(account.row)
        self.scored += len(inputs)
        self._pending, self._inputs = [], 0

    def check(self, walked: int) -> None:
        """Check that each file has one outcome and one row, and each scored image one study.

        Args:
            walked: Files and archive members that the walk found.

        Raises:
            RuntimeError: The accounts do not add up, which is a defect of this program.
        """
        in_studies = sum(len(study.likelihoods) for study in self.studies)
        outcomes = self.scored + self.set_aside.total()
        rows = (self._files.rows, self._linkage.rows)
        if {self.found, outcomes, *rows} != {walked} or self.scored != in_studies:
            raise RuntimeError(
                f"{walked} files found, but {self.scored} scored ({in_studies} in studies), "
                f"{self.set_aside.total()} set aside and {rows} rows: no worklist is written"
            )

    def _study(self, name: str, header: Header | None, file_key: str) -> Study:
        group = study_group(name, header, self._group_by)
        study = self._by_group.get(group) if group is not None else None
        if study is None:
            uid = header.study_instance_uid if header else None
            study = Study(key=uid or file_key)
            self.studies.append(study)
            if group is not None:
                self._by_group[group] = study
        study.learn(header)
        return study


def _file_row(file_key: str, header: Header | None) -> dict[str, Any]:
    return {
        "file_key": file_key,
        "outcome": "set_aside",
        "reason": None,
        "detail": None,
        "is_failure": False,
        "study_key": None,
        "sop_instance_uid": header.sop_instance_uid if header else None,
        "likelihood": None,
        "format": None,
        "transfer_syntax": header.transfer_syntax if header else None,
        "view_position": header.view_position if header else None,
        "laterality": header.laterality if header else None,
        "decoder": None,
        "voi_source": None,
        "notes": [],
    }
