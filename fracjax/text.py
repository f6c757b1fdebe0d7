"""Text for a terminal, a log or a report."""

import shlex
from collections.abc import Sequence


def without_folders(arguments: Sequence[str]) -> str:
    """Give a command as it was typed, but of each path the last part alone.

    >>> without_folders(["evaluate", "/of/Meier/model", "--split", "fold_0", "--out=a/b c"])
    "evaluate model --split fold_0 '--out=b c'"
    """

    def shortened(argument: str) -> str:
        option, mark, value = argument.partition("=")
        if mark and option.startswith("--"):
            return f"{option}={shortened(value)}"
        return argument.rstrip("/").rpartition("/")[2] or argument

    return shlex.join(map(shortened, arguments))


def printable(text: str) -> str:
    r"""Escape what is not printable, so that a file's name cannot drive a terminal.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
