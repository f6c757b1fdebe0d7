"""Expected failures: what the user is told in one line, instead of a traceback."""

from fracjax.text import printable


class FracjaxError(Exception):
    """An expected failure. The message is one line: which input, why, and the way out.

    The command line prints it and exits with ``exit_code``; a notebook sees it as an exception.
    A message never holds a patient identifier, and a path only where the user typed it.
    """

    exit_code = 2


class UsageError(FracjaxError):
    """An argument or option cannot be used as given."""


class NotScoredError(FracjaxError):
    """An image can be read, but is not to be scored."""

    exit_code = 3


class DataError(FracjaxError):
    """A data set is missing, or not in the shape that its reader expects."""


class BundleError(FracjaxError):
    """A model bundle is missing, damaged, or of a version this release does not know."""


class JobError(FracjaxError):
    """A job cannot go on."""


class TrainingError(FracjaxError):
    """Training cannot go on."""


class DivergedError(TrainingError):
    """What is learned is no longer a number.

    Attributes:
        what: What it was and when, the same however often the run was interrupted.
    """

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}; {way_out}")
        self.what = what


class ExportError(FracjaxError):
    """A model cannot be written in another format, or does not say there what it says here."""


class WeightsError(FracjaxError):
    """A weights file does not fit the network it is meant for.

    What it says may hold names out of a stranger's file, so what is not printable is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
