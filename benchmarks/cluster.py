"""What it costs to score on the nodes of a Ray cluster, against one machine with the same cores.

    python benchmarks/cluster.py --images FOLDER

Starts a cluster of two nodes of one core each on this machine, and scores the mixed export of
``scoring.py`` on two cores: by the job alone, and by the cluster. Whole commands take turns, from
their start to their end; the cluster is there before.
"""

import os
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import ray
import typer
from ray.cluster_utils import Cluster

from scoring import EXPORTS, job, seconds, write_export

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 300 * 2**20}


def main(
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    count: Annotated[int, typer.Option(help="Images of the export.")] = 192,
    rounds: int = 3,
) -> None:
    """Print a table."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("two cores are needed")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        with TemporaryDirectory() as folder:
            root, out = Path(folder) / "export", Path(folder) / "worklist.parquet"
            write_export(root, images, EXPORTS["mixed"], count)
            spread = ["--engine-cluster", "ray"]
            seconds(job(root, out, 2), cores)  # what is compiled once, and kept
            seconds([*job(root, out, 1), *spread], cores)
            alone, together = [], []
            for _ in range(rounds):
                alone.append(seconds(job(root, out, 2), cores))
                together.append(seconds([*job(root, out, 1), *spread], cores))
    finally:
        cluster.shutdown()
    ratio = statistics.median(a / b for a, b in zip(alone, together, strict=True))
    typer.echo(f"{time.strftime('%Y-%m-%d')}, Ray {ray.__version__}; {count} images of the mixed")
    typer.echo(f"export, {rounds} rounds, seconds from start to end, medians")
    typer.echo(f"one process, two cores           {statistics.median(alone):6.1f}")
    typer.echo(f"two nodes of one core            {statistics.median(together):6.1f}")
    typer.echo(f"speed of the cluster, of the one {ratio:6.2f}")


if __name__ == "__main__":
    typer.run(main)
