"""Made pictures, and parts of headers, that several tests share."""

import numpy as np
import pytest
from pydicom import Dataset

from fracjax.image import Rejected, read_dicom

TOLERANCE = 1e-5  # of float32 arithmetic on 16-bit values


def picture(bits, seed=0, shape=(72, 64)):
    """Values (h, w) that use the whole range, darkest and brightest included."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (sum(shape) - 2)
    noisy = np.clip(ramp + rng.normal(0, 0.02, shape), 0, 1)
    values = np.round(noisy * (2**bits - 1)).astype(np.int64)
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    return values


def radiograph(seed, shape=(90, 70)):
    """A bright bone in soft tissue in noisy air, none of them at the sides' full length."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    tissue = np.exp(-4 * (columns + 0.2 * rows) ** 2)
    bone = np.exp(-60 * (columns - 0.1) ** 2)
    return (1000 + 1500 * tissue + 1200 * bone + rng.normal(0, 80, shape)).astype(np.float32)


def reason_of(data):
    with pytest.raises(Rejected) as caught:
        read_dicom(data)
    detail = caught.value.detail
    assert detail and "\n" not in detail and "SMITHERS" not in detail
    return caught.value.reason


def lut(entries, first, bits, order="<"):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.asarray(entries, f"{order}u2").tobytes()
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item["LUTData"].VR = "OW"
    return [item]


def palette(entries):
    """A header's palette of greys: the same 16-bit entries in all three colours."""
    data = np.asarray(entries, "<u2").tobytes()
    return {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [len(entries), 0, 16]), ("Data", data))
    }


def voi(kind, bits, low, slope, order="<"):
    """A header's VOI that shows modality values low .. low + slope * (2**bits - 1) as 0..1."""
    span = slope * (2**bits - 1)
    if kind == "LINEAR":  # its ends lie at c - w / 2 and c + w / 2 - 1 (C.11.2.1.2.1)
        return {"WindowCenter": low + span / 2 + 0.5, "WindowWidth": span + 1}
    if kind == "LINEAR_EXACT":
        return {
            "WindowCenter": [low + span / 2, 1],
            "WindowWidth": [span, 1],
            "VOILUTFunction": kind,
        }
    if kind == "LUT":
        return {"VOILUTSequence": lut(np.arange(2**bits), round(low), bits, order)}
    return {}
