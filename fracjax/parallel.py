"""Where arrays live: every local device takes an equal part of each batch."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fracjax.errors import UsageError


def data_mesh() -> Mesh:
    """Put all local devices along one axis, ``data``."""
    return jax.make_mesh((jax.local_device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Each device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Make sure that a batch divides into equal parts.

    Raises:
        UsageError: It does not.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise UsageError(
            f"a batch of {batch_size} does not divide over {mesh.size} devices; "
            f"give a multiple of {mesh.size}"
        )
