"""OpenVINO without its telemetry.

On import it tells its makers that it was imported, over the network, and leaves a number for this
machine in the home folder. Where its telemetry package is missing it does neither, so that is kept
from it.
"""

import sys

_TELEMETRY = "openvino_telemetry"

_imported = sys.modules.get(_TELEMETRY)
sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # this makes its import fail
try:
    import openvino
finally:
    if _imported is None:
        del sys.modules[_TELEMETRY]
    else:
        sys.modules[_TELEMETRY] = _imported

__all__ = ["openvino"]
