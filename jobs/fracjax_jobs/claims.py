"""What two runs were made under, compared in words."""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

_SOFTWARE = (
    "fracjax",
    "imagecodecs",
    "jax",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydicom",
)
"""What takes part in a score."""

_LONGEST = 40
"""Characters of a condition that a message shows."""


def software() -> dict[str, str]:
    """Give the versions here of what takes part in a score."""
    return {name: importlib.metadata.version(name) for name in _SOFTWARE}


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in a few words where two claims differ."""
    old, new = dict(_leaves(found)), dict(_leaves(wanted))
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if names == ["export"]:
        return "another export"
    return (
        "other conditions ("
        + ", ".join(
            f"{name}: {_short(old.get(name))}, now {_short(new.get(name))}" for name in names
        )
        + ")"
    )


def _leaves(claim: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the values of nested mappings by their dotted names."""
    for name, value in claim.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
