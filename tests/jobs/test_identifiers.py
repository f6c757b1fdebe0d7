"""What stands for an identifier in a table."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracjax.errors import UsageError
from fracjax_jobs.identifiers import Identifiers, Mode, from_options

keys = st.binary(min_size=16, max_size=64)
values = st.text(min_size=1)


@given(values)
def test_without_a_key_they_stand_as_tagged(value):
    assert Identifiers().show(value) == value
    assert Identifiers().time(value) == value
    assert Identifiers().mode == Mode.KEEP


@given(keys, values)
def test_with_a_key_they_are_hmac_sha256(key, value):
    expected = hmac.new(key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    assert Identifiers(key).show(value) == expected[:32]
    assert Identifiers(key).time(value) is None
    assert Identifiers(key).show(None) is None


@given(keys, keys, values, values)
def test_a_hash_depends_on_value_and_key(key, other_key, value, other):
    same = (key, value) == (other_key, other)
    # Keys that differ in trailing zeros alone are one key to HMAC, which pads with them.
    if key.rstrip(b"\0") != other_key.rstrip(b"\0") or key == other_key:
        assert (Identifiers(key).show(value) == Identifiers(other_key).show(other)) == same


def test_a_key_is_long_and_private(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    key.chmod(0o600)
    assert from_options(Mode.HASH, key) == Identifiers(b"k" * 16)
    for mode in (0o640, 0o604, 0o620):
        key.chmod(mode)
        with pytest.raises(UsageError, match="chmod 600"):
            from_options(Mode.HASH, key)
