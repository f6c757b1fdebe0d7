"""Objects of several frames, and the scope that a policy sets."""

import tracemalloc

import numpy as np
import pytest
from dicom_files import LOSSLESS, NATIVE, codestream, dicom_bytes, pixel_data
from pictures import TOLERANCE, picture, reason_of, voi
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)

from fracjax.image import Picture, ReadPolicy, Reason, Rejected, read_picture, read_pictures

FULL = voi("LINEAR", 12, 0, 1)


def frames_of(count, syntax, *, claimed=None, **elements):
    frames = [picture(12, seed).astype(np.uint16) for seed in range(count)]
    if syntax in NATIVE:
        data = pixel_data(np.stack(frames), 12, syntax)
    else:
        data = encapsulate([codestream(frame, 12, syntax) for frame in frames])
    return frames, dicom_bytes(
        frames[0].astype(np.uint32),
        bits=12,
        syntax=syntax,
        PixelData=data,
        NumberOfFrames=count if claimed is None else claimed,
        **(FULL | elements),
    )


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_each_frame_is_a_picture(syntax):
    stored, data = frames_of(3, syntax)
    shown = list(read_pictures(data))
    assert [picture.frame for picture in shown] == [1, 2, 3]
    for frame, one in zip(stored, shown, strict=True):
        np.testing.assert_allclose(one.display, frame / 4095, atol=TOLERANCE)
        assert one.header == shown[0].header
    with pytest.raises(Rejected) as caught:
        read_picture(data)
    assert (caught.value.reason, caught.value.frames) == (Reason.MULTI_FRAME, 3)


def group(**macros):
    """An item of functional groups, with the elements of each macro's sequence."""
    groups = Dataset()
    for sequence, elements in macros.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(groups, sequence, [item])
    return groups


def scaled(factor, low):
    """Rescaling, and the window that then shows values of 12 bits as they are."""
    return {
        "PixelValueTransformationSequence": {"RescaleSlope": factor, "RescaleIntercept": low},
        "FrameVOILUTSequence": voi("LINEAR", 12, low, factor),
    }


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("shared", "own"),
    [
        ([group(**scaled(2, 100))], []),
        ([], [group(**scaled(1 + i, 50 * i)) for i in range(3)]),
        (
            [group(FrameVOILUTSequence=voi("LINEAR", 12, 900, 9))],
            [group(**scaled(1 + i, 50 * i)) for i in range(3)],
        ),
        (
            [group(FrameVOILUTSequence=voi("LINEAR", 12, 7, 3))],
            [group(PixelValueTransformationSequence={"RescaleSlope": 3, "RescaleIntercept": 7})]
            * 3,
        ),
    ],
)
def test_functional_groups_hold_the_grey_scale_of_a_frame(shared, own, syntax):
    stored, data = frames_of(
        3,
        syntax,
        SOPClassUID=MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        Modality="OT",
        SharedFunctionalGroupsSequence=shared,
        PerFrameFunctionalGroupsSequence=own,
        WindowCenter=None,
        WindowWidth=None,
    )
    for frame, one in zip(stored, read_pictures(data), strict=True):
        np.testing.assert_allclose(one.display, frame / 4095, atol=TOLERANCE)
        assert (one.voi_source, one.notes) == ("window", ())


def test_functional_groups_of_too_few_frames_leave_the_rest_to_the_header():
    stored, data = frames_of(
        3, ExplicitVRLittleEndian, PerFrameFunctionalGroupsSequence=[group(**scaled(2, 100))]
    )
    for frame, one in zip(stored, read_pictures(data), strict=True):
        np.testing.assert_allclose(one.display, frame / 4095, atol=TOLERANCE)


def test_small_frames_are_set_aside_together():
    stored = [picture(12, shape=(63, 90)).astype(np.uint16)] * 3
    data = dicom_bytes(
        stored[0].astype(np.uint32),
        bits=12,
        PixelData=pixel_data(np.stack(stored), 12, ExplicitVRLittleEndian),
        NumberOfFrames=3,
    )
    with pytest.raises(Rejected) as caught:
        read_pictures(data)
    assert (caught.value.reason, caught.value.frames) == (Reason.TOO_SMALL, 3)
    assert caught.value.header.modality == "DX"
    assert caught.value.reason.concerns_study and not caught.value.reason.is_failure


def test_one_frame_has_no_number_and_reads_either_way():
    for claimed in (1, 0, -3, ""):
        _, data = frames_of(1, ExplicitVRLittleEndian, claimed=claimed)
        (one,) = read_pictures(data)
        assert one.frame is None
        np.testing.assert_array_equal(one.display, read_picture(data).display)


def test_more_frames_than_the_policy_takes_are_set_aside_as_one():
    _, data = frames_of(5, JPEGLosslessSV1)
    with pytest.raises(Rejected) as caught:
        read_pictures(data)
    assert (caught.value.reason, caught.value.frames) == (Reason.MULTI_FRAME, 5)
    assert len(list(read_pictures(data, ReadPolicy(max_frames=5)))) == 5


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLosslessSV1])
@pytest.mark.parametrize("claimed", [3, 2**31 - 1])
def test_frames_that_are_not_there_are_one_loss_and_cost_nothing(syntax, claimed):
    stored, data = frames_of(2, syntax, claimed=claimed)
    tracemalloc.start()
    *shown, lost = read_pictures(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert [one.frame for one in shown] == [1, 2]
    np.testing.assert_allclose(shown[1].display, stored[1] / 4095, atol=TOLERANCE)
    assert isinstance(lost, Rejected) and lost.reason.is_failure
    assert lost.header == shown[0].header


def test_a_damaged_frame_costs_only_itself():
    frames = [codestream(picture(8, s).astype(np.uint8), 8, JPEGLosslessSV1) for s in range(3)]
    frames[1] = frames[1][: len(frames[1]) // 2]
    data = dicom_bytes(
        picture(8).astype(np.uint32),
        bits=8,
        syntax=JPEGLosslessSV1,
        PixelData=encapsulate(frames),
        NumberOfFrames=3,
    )
    first, second, third = read_pictures(data)
    assert isinstance(first, Picture) and isinstance(third, Picture)
    assert second.reason == Reason.TRUNCATED


def test_a_body_part_out_of_scope_is_set_aside_before_decoding():
    only_hands = ReadPolicy(body_parts=("hand", "wrist"))
    broken = {"PixelData": b"\x01\x02" * 3}  # never looked at
    for tagged, header_says in (("CHEST", "chest"), ("KNEE", "knee")):
        data = dicom_bytes(picture(8).astype(np.uint32), bits=8, BodyPartExamined=tagged, **broken)
        with pytest.raises(Rejected) as caught:
            read_picture(data, only_hands)
        assert caught.value.reason == Reason.OUT_OF_SCOPE
        assert caught.value.header.body_part == header_says
        assert reason_of(data) == Reason.TRUNCATED
    for tagged in ("HAND", "WRIST", None, "SMITHERS"):
        data = dicom_bytes(picture(8).astype(np.uint32), bits=8, BodyPartExamined=tagged)
        assert read_picture(data, only_hands).notes == ()
    _, several = frames_of(3, JPEGLosslessSV1, BodyPartExamined="CHEST")
    with pytest.raises(Rejected) as caught:
        read_pictures(several, only_hands)
    assert caught.value.frames == 3
