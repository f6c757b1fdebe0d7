"""A network compiled by OpenVINO, on the cores of a CPU.

A picture is a request of its own, and several run at once, each on a part of the cores: that is
faster than batches, and what a picture gives cannot depend on others. The network reaches OpenVINO
as the ONNX graph of :mod:`fracjax.export`. What was compiled is kept in the user's cache, since
tracing and compiling take seconds; it is kept only once its answers were compared with those that
are known, and the answers of each later start are compared with those.
"""

import hashlib
import importlib.metadata
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import fracjax
from fracjax import files
from fracjax.bundle import Bundle, encode_integers
from fracjax.errors import ExportError
from fracjax.forward import Engine, probes
from fracjax.forward.quiet_openvino import openvino

CACHE_VARIABLE = "FRACJAX_CACHE_DIR"
"""Names the folder of compiled networks, in place of the user's cache."""

KEPT = 8
"""Compiled networks; of more, those used longest ago are removed."""

_FOR_INTEGERS = (
    *("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "sse4_1"),
    *("i8mm", "asimddp"),
)
"""Instructions that oneDNN has kernels for, as Linux calls them, best first: x86-64, then Arm."""

_NAMES = ("network.blob", "answers.safetensors", "sha256")
_SOFTWARE = ("fracjax", "jax", "flax", "onnx", "openvino")


class OpenVinoForward:
    """A network on the cores of this machine's CPU.

    Attributes:
        engine: What runs it.
        batch_size: As asked for; pictures are run one by one, whatever it is.
    """

    def __init__(self, bundle: Bundle, batch_size: int, cores: int = 0) -> None:
        """Compile a bundle's network, or take what was compiled before.

        Args:
            bundle: The model.
            batch_size: As asked for.
            cores: To compute on; 0 is all that this process may use.

        Raises:
            BundleError: The bundle's variables are not those of its network.
            ExportError: OpenVINO does not say what it should.
        """
        self._core = openvino.Core()
        version = importlib.metadata.version("openvino")
        if bundle.integers is None:
            self.engine = Engine("openvino", version, "CPU", "float32")
        else:
            self.engine = Engine("openvino", version, self._instructions(), "8-bit integers")
        self.batch_size = batch_size
        self._turn = threading.Lock()
        self._properties = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            # Not bfloat16, which moves likelihoods by more than they mean (docs/performance.md).
            # What multiplies integers, does so all the same.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": cores or _cores(),
            # Else all processes of a machine, as of a cluster, compute on its first cores.
            "ENABLE_CPU_PINNING": False,
        }
        pictures = probes.pictures(bundle.manifest.preprocess)
        key = self._key(bundle, pictures)
        if self._take_cached(key, pictures):
            return
        # The first start: these need JAX.
        from fracjax.export.network import onnx_of, reference

        model = self._core.read_model(onnx_of(bundle).SerializeToString())
        model.reshape([1, *pictures.shape[1:]])
        self._take(self._core.compile_model(model, "CPU", self._properties))
        answers = self(pictures)
        wanted = reference(bundle, pictures)
        allowed = probes.ALLOWED if bundle.integers is None else probes.ALLOWED_IN_INTEGERS
        probes.check(answers, wanted, str(self.engine), allowed)
        blob = self._compiled.export_model().getvalue()
        said = save_tensors({"likelihoods": answers[0], "features": answers[1]})
        contents = dict(zip(_NAMES, (blob, said, _digest(blob, said)), strict=True))
        files.keep_in_cache(_cache(), key, contents, KEPT)

    def _instructions(self) -> str:
        """Name what integers are multiplied with, which decides likelihoods a little.

        That is what Linux tells of the processor, as far as oneDNN was not told to use less;
        elsewhere it is the processor's name.
        """
        try:
            flags = set(Path("/proc/cpuinfo").read_text().split())
        except OSError:
            flags = set()
        known = next((name for name in _FOR_INTEGERS if name in flags), None)
        device = (
            f"CPU with {known}" if known else self._core.get_property("CPU", "FULL_DEVICE_NAME")
        )
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
        return f"{device}, at most {limit}" if limit else device

    def _key(self, bundle: Bundle, pictures: NDArray[np.float32]) -> str:
        """Name a compiled network by all that its answers depend on."""
        digest = hashlib.sha256(pictures.tobytes())
        for name, value in sorted(bundle.variables.items()):
            digest.update(f"{name} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        if bundle.integers is not None:
            digest.update(encode_integers(bundle.integers))
        for path in _sources():
            digest.update(path.read_bytes())
        facts = {
            "properties": self._properties,
            "processor": self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            "software": {name: importlib.metadata.version(name) for name in _SOFTWARE},
            "model": asdict(bundle.manifest.model),
            "preprocess": asdict(bundle.manifest.preprocess),
            "gate": len(bundle.gate.mean),
        }
        digest.update(json.dumps(facts, sort_keys=True).encode())
        return digest.hexdigest()[:32]

    def _take_cached(self, key: str, pictures: NDArray[np.float32]) -> bool:
        """Take what was compiled before, if it is there, whole, and says what it said then."""
        contents = files.read_cached(_cache(), key, _NAMES)
        if contents is None:
            return False
        blob, said, digest = contents
        if _digest(blob, said) != digest:
            return False
        try:
            answers = load_tensors(said)
            self._take(self._core.import_model(blob, "CPU", self._properties))
            known = answers["likelihoods"], answers["features"]
            probes.check(self(pictures), known, str(self.engine))
        except (RuntimeError, SafetensorError, ExportError):  # of OpenVINO; then it is made anew
            return False
        return True

    def _take(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests = openvino.AsyncInferQueue(compiled)
        self._widths = [output.get_partial_shape()[1].get_length() for output in compiled.outputs]

    def __call__(
        self, inputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run pictures (n, size, size); likelihoods (n, outputs) and features (n, d)."""
        likelihoods, features = (
            np.full((len(inputs), n), np.nan, np.float32) for n in self._widths
        )

        def keep(request: Any, place: int) -> None:
            for index, rows in enumerate((likelihoods, features)):
                rows[place] = request.get_output_tensor(index).data[0]

        with self._turn:  # the requests are one queue, whoever asks
            self._requests.set_callback(keep)
            try:
                for place in range(len(inputs)):
                    self._requests.start_async({0: inputs[place : place + 1]}, place)
            finally:
                self._requests.wait_all()
        return likelihoods, features


def _cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache() -> Path:
    root = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("fracjax")
    return Path(root) / "openvino"


def _digest(*contents: bytes) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in contents)).digest()


def _sources() -> Iterator[Path]:
    """Give the files of this package that decide what a network computes."""
    package = Path(fracjax.__file__).parent
    yield package / "step.py"
    for folder in ("models", "export", "forward"):
        yield from sorted((package / folder).glob("*.py"))
