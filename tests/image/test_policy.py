"""Settings that cannot be meant are refused, with what may be."""

import dataclasses
import json

import pytest

from fracjax.configs import override
from fracjax.errors import UsageError
from fracjax.image import ReadPolicy
from fracjax.image.anatomy import LIMBS


def test_modalities_are_taken_in_upper_case():
    policy = override(ReadPolicy(), ["modalities=cr,Dx", "secondary_modalities=ot"])
    assert (policy.modalities, policy.secondary_modalities) == (("CR", "DX"), ("OT",))
    assert override(ReadPolicy(), ["secondary_modalities="]).secondary_modalities == ()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("modalities=CR,XR", ["modalities='XR'", "XA"]),
        ("secondary_modalities=SMITHERS", ["secondary_modalities='SMITHERS'"]),
        ("body_parts=hands", ["body_parts='hands'", "hand"]),
        ("body_parts=HAND", ["body_parts='HAND'"]),
        ("sop_classes=1.2.840.10008.5.1.4.1.1.1.11", ["1.2.840.10008.5.1.4.1.1.1.1"]),
        ("sop_classes=1.2.840.10008.1.2", ["sop_classes='1.2.840.10008.1.2'"]),  # a syntax
        ("max_frames=0", ["max_frames=0", "1 or more"]),
    ],
)
def test_terms_that_nobody_knows_are_refused(setting, named):
    with pytest.raises(UsageError) as caught:
        override(ReadPolicy(), [setting])
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message
    field, _, value = setting.partition("=")
    value = int(value) if field == "max_frames" else tuple(value.split(","))
    with pytest.raises(UsageError, match=field):
        ReadPolicy(**{field: value})


def test_what_is_known_is_taken_as_it_is():
    policy = ReadPolicy(body_parts=tuple(sorted(LIMBS)), max_frames=1)
    assert policy.body_parts == tuple(sorted(LIMBS))
    assert ReadPolicy(secondary_modalities=()).secondary_modalities == ()
    again = ReadPolicy(**json.loads(json.dumps(dataclasses.asdict(policy)), object_hook=tuples))
    assert again == policy


def tuples(fields):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
