"""Text for a terminal or a log."""


def printable(text: str) -> str:
    r"""Escape what is not printable, so that a file's name cannot drive a terminal.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
