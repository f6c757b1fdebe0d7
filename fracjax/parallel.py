"""Where arrays live: every device takes an equal part of each batch.

The same pure step runs in two ways. ``jit`` sees the whole batch, which is laid out over a mesh of
all devices, and XLA finds the communication. ``pmap`` runs it once a device, on that device's part,
and the step itself averages over the axis :data:`AXIS`. Several processes (hosts) are
``jax.distributed``'s; each holds its part of a batch, and the whole state.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fracjax.errors import UsageError

AXIS = "data"
"""The axis that batches are divided along."""

Tree = TypeVar("Tree")


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of several processes that train together (``jax.distributed``).

    Args:
        coordinator: ``HOST:PORT`` of process 0; ``None`` where a TPU pod, Slurm or Open MPI tells.
        processes: How many there are; the same.
        process: Which of them this is, from 0; the same.

    Raises:
        UsageError: They do not find each other, or nothing tells which they are.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, TypeError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"the processes do not come together ({said}); give each --coordinator HOST:PORT, "
            "--processes N and --process I, and a port that all of them reach"
        ) from error


def check_alike(claim: dict[str, Any]) -> None:
    """Make sure that all processes are to train the same, or they would part without a word.

    Raises:
        UsageError: They are not.
    """
    text = json.dumps(claim, sort_keys=True).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest).reshape(-1, len(digest))
    if (digests != digests[0]).any():
        raise UsageError(
            "the processes were given different settings, weights or images; give all the same"
        )


def is_first() -> bool:
    """Tell whether this is the process that speaks and writes for all."""
    return bool(jax.process_index() == 0)


def data_mesh() -> Mesh:
    """Put all devices of this process along one axis."""
    return jax.make_mesh(
        (jax.local_device_count(),), (AXIS,), (AxisType.Auto,), devices=jax.local_devices()
    )


def global_mesh() -> Mesh:
    """Put all devices of all processes along one axis."""
    return Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Each device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch_size(batch_size: int, accumulate: int, devices: int, *, even: bool) -> None:
    """Make sure that each part of a batch divides into equal shares.

    Args:
        batch_size: Images a step.
        accumulate: Parts of a batch that are computed one after the other.
        devices: How many share each part.
        even: Whether a share must hold pairs of images, as mixing them needs.

    Raises:
        UsageError: It does not.
    """
    unit = accumulate * devices * (2 if even else 1)
    if batch_size % unit:
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        pairs = ", in pairs for augment.mixup" if even else ""
        raise UsageError(
            f"a batch of {batch_size}{parts} does not divide over {devices} devices{pairs}; "
            f"give a multiple of {unit} as optimizer.batch_size"
        )


class Jit:
    """One program over a mesh of all devices.

    Attributes:
        axis_name: What the step must average over itself: nothing.
    """

    axis_name: str | None = None

    def __init__(self) -> None:
        mesh = global_mesh()
        self._replicated = replicated(mesh)
        self._shared = NamedSharding(mesh, PartitionSpec(None, AXIS))

    def compile(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """Make ``step(state, batch, resident)`` run on all devices; it takes the state for good."""
        compiled: Callable[..., Tree] = jax.jit(
            step,
            in_shardings=(self._replicated, self._shared, self._replicated),
            out_shardings=self._replicated,
            donate_argnums=0,
        )
        return compiled

    def replicate(self, tree: Tree) -> Tree:
        """Give every device the whole of host arrays, which all processes hold alike."""
        return _map(lambda array: _from_process(array, self._replicated), tree)

    def share(self, tree: Tree) -> Tree:
        """Divide this process's share of a batch, arrays (parts, rows, ...), over its devices."""
        return _map(lambda array: _from_process(array, self._shared), tree)

    def fetch(self, tree: Tree) -> Tree:
        """Give replicated arrays as host arrays."""
        return _map(np.asarray, tree)

    def collect(self, tree: Tree) -> Tree:
        """Give replicated arrays as such of the global mesh, whichever the way to run a step."""
        return tree


class Pmap:
    """One program a device, on arrays with a leading axis of this process's devices.

    Attributes:
        axis_name: What the step must average over itself.
    """

    axis_name: str | None = AXIS

    def __init__(self) -> None:
        self._global = Jit()
        self._copies = sharded(data_mesh())

    def compile(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """Make a step run on all devices; see :class:`Jit`."""
        compiled: Callable[..., Tree] = jax.pmap(step, axis_name=AXIS, donate_argnums=0)
        return compiled

    def replicate(self, tree: Tree) -> Tree:
        """Copy host arrays along a leading axis; see :class:`Jit`."""

        def copies(array: Any) -> jax.Array:
            host = np.asarray(array)
            wanted = (jax.local_device_count(), *host.shape)
            copied: jax.Array = jax.device_put(np.broadcast_to(host, wanted), self._copies)
            return copied

        return _map(copies, tree)

    def share(self, tree: Tree) -> Tree:
        """Divide a batch along a leading axis; see :class:`Jit`."""

        def divided(array: Any) -> Any:
            parts, rows, *rest = array.shape
            devices = jax.local_device_count()
            return array.reshape(parts, devices, rows // devices, *rest).swapaxes(0, 1)

        return _map(divided, tree)

    def fetch(self, tree: Tree) -> Tree:
        """Fetch the first copy of each array; see :class:`Jit`."""
        return _map(lambda array: np.asarray(array.addressable_data(0))[0], tree)

    def collect(self, tree: Tree) -> Tree:
        """Take the first copy of each array; see :class:`Jit`."""
        return self._global.replicate(self.fetch(tree))


Parallel = Jit | Pmap
"""A way to run a step on all devices."""


def create(kind: Literal["jit", "pmap"]) -> Parallel:
    """Choose the way to run a step on all devices."""
    return Jit() if kind == "jit" else Pmap()


def _map(change: Callable[[Any], Any], tree: Tree) -> Tree:
    changed: Tree = jax.tree.map(change, tree)
    return changed


def _from_process(array: Any, sharding: NamedSharding) -> jax.Array:
    placed: jax.Array = jax.make_array_from_process_local_data(sharding, np.asarray(array))
    return placed
