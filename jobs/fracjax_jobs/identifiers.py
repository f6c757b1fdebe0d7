"""What stands in a table for a study UID, an accession number, an instance."""

import hashlib
import hmac
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fracjax.errors import UsageError

SHORTEST_KEY = 16
"""Bytes of a key, below which its hashes could be reversed by trying keys."""


class Mode(StrEnum):
    """What becomes of identifiers that a PACS needs to find a study again."""

    KEEP = "keep"
    """They stand as tagged."""

    HASH = "hash"
    """A keyed hash stands for each, for tables that leave the house; times are left out."""


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Shows identifiers, or hides them behind HMAC-SHA256 (RFC 2104) under a key of the site.

    The same key gives the same hashes, so that tables of several runs join; without it no hash
    can be tried out.

    Attributes:
        key: The key; ``None`` shows identifiers as they are.
    """

    key: bytes | None = None

    @property
    def mode(self) -> Mode:
        """Whether identifiers are kept or hashed."""
        return Mode.KEEP if self.key is None else Mode.HASH

    def show(self, value: str | None) -> str | None:
        """Give what stands in a table for an identifier: itself, or 32 hexadecimal digits."""
        if value is None or self.key is None:
            return value
        return hmac.new(self.key, value.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[
            :32
        ]

    def time(self, value: str | None) -> str | None:
        """Give what stands for a time of the patient's: itself, or nothing, as dates identify."""
        return value if self.key is None else None


def from_options(mode: Mode, key_file: Path | None) -> Identifiers:
    """Make what the options ask for.

    Raises:
        UsageError: There is no key where one is needed, or it is short, or others may read it.
    """
    if mode == Mode.KEEP:
        if key_file is not None:
            raise UsageError("--key-file is for --identifiers hash; give both, or neither")
        return Identifiers()
    if key_file is None:
        raise UsageError(
            "--identifiers hash needs --key-file: a private file of random bytes, as from "
            "`head -c 32 /dev/urandom`"
        )
    try:
        key = key_file.read_bytes()
        mode_bits = key_file.stat().st_mode
    except OSError as error:
        raise UsageError(f"{key_file} cannot be read: {error.strerror}; give a key file") from None
    if len(key) < SHORTEST_KEY:
        raise UsageError(
            f"{key_file} holds {len(key)} bytes, too few for a key; give {SHORTEST_KEY} or more"
        )
    if mode_bits & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"others may read {key_file}, and so undo the hashes; chmod 600 it")
    return Identifiers(key)
