"""Whether a Ray cluster of hosts says what one machine says, though a host is cut off midway.

    sudo .venv/bin/python benchmarks/hosts.py --images FOLDER [--folder WORK]

The hosts are namespaces of this machine (Linux, root): each has an address, a network, and ``/tmp``
and ``/dev/shm`` of its own, one core for Ray, and the same export at the same path. Ray is started
in each as docs/cluster.md says, and asks for a token. When the last host works on its first piece,
its network cable is pulled. Then one machine scores the export without a cluster, and its
tables are compared with the cluster's; the state that the cluster left is given to a run without
one, which must change no byte. Also printed are the ports that hosts reached at each other.
"""

import hashlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import psutil
import pyarrow.parquet as pq
import ray
import typer

from scoring import EXPORTS, job, write_export

HOSTS = 3
BRIDGE = "fracjax"
NETWORK = "10.203.0"
PORT = 6379
RAY = Path(sys.executable).parent / "ray"
FIXED = ("--node-manager-port=6380", "--object-manager-port=6381", "--disable-usage-stats")
NODE = ("--num-cpus=1", f"--object-store-memory={300 * 2**20}")
SUFFIXES = (".parquet", ".files.parquet", ".linkage.parquet")


@dataclass(frozen=True)
class Host:
    """A host: the process that keeps its namespaces, and its place in the network."""

    number: int
    keeper: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        """Where the others reach it."""
        return f"{NETWORK}.{self.number + 1}"

    @property
    def cable(self) -> str:
        """The end of its network that is plugged into the bridge."""
        return f"{BRIDGE}{self.number}"

    def does(self, *command: str | Path) -> list[str]:
        """Give the command that does something on the host."""
        inside = ("nsenter", "-t", str(self.keeper.pid), "--net", "--mount")
        return [*inside, *map(str, command)]


def run(*command: str, check: bool = True) -> str:
    """Run a command; give what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextmanager
def hosts() -> Iterator[list[Host]]:
    """Make hosts that are plugged into one bridge."""
    made: list[Host] = []
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "link", "set", BRIDGE, "up")
        made.extend(map(_plugged_in, range(HOSTS)))
        yield made
    finally:
        for host in made:
            run(*host.does(RAY, "stop", "--force"), check=False)
            host.keeper.kill()
            host.keeper.wait()
            run("ip", "link", "del", host.cable, check=False)
        run("ip", "link", "del", BRIDGE, check=False)


def _plugged_in(number: int) -> Host:
    own = "mount -t tmpfs own /tmp && mount -t tmpfs own /dev/shm && echo && exec sleep infinity"
    keeper = subprocess.Popen(  # noqa: S603
        ["unshare", "--net", "--mount", "sh", "-c", own],  # noqa: S607 - whichever there is
        stdout=subprocess.PIPE,
    )
    if keeper.stdout is None or not keeper.stdout.readline():
        sys.exit("no namespaces can be made here")
    host, other = Host(number, keeper), f"{BRIDGE}{number}p"
    run("ip", "link", "add", host.cable, "type", "veth", "peer", "name", other)
    run("ip", "link", "set", other, "netns", str(keeper.pid))
    run("ip", "link", "set", host.cable, "master", BRIDGE, "up")
    run(*host.does("ip", "link", "set", "lo", "up"))
    run(*host.does("ip", "addr", "add", f"{host.address}/24", "dev", other))
    run(*host.does("ip", "link", "set", other, "up"))
    return host


def start_ray(all_hosts: list[Host]) -> None:
    """Start Ray on each host, and wait until all are there."""
    head, *others = all_hosts
    begin = (RAY, "start", *FIXED, *NODE)
    as_head = ("--head", f"--port={PORT}", "--temp-dir=/tmp/of-ray")
    run(*head.does(*begin, *as_head, f"--node-ip-address={head.address}"))
    for host in others:
        there = f"--address={head.address}:{PORT}"
        run(*host.does(*begin, there, f"--node-ip-address={host.address}"))
    deadline = time.monotonic() + 120
    while f"/{HOSTS}.0 CPU" not in run(*head.does(RAY, "status")):
        if time.monotonic() > deadline:
            sys.exit("not all hosts have come")
        time.sleep(0.5)


def ports(all_hosts: list[Host]) -> set[int]:
    """Give the ports that hosts have reached at another."""
    reached = set()
    for host in all_hosts:
        listening = {
            int(line.split()[3].rpartition(":")[2])
            for line in run(*host.does("ss", "-tlnH")).splitlines()
        }
        for line in run(*host.does("ss", "-tnH", "state", "established")).splitlines():
            here, there = line.split()[2:4]
            port = int(here.rpartition(":")[2])
            if port in listening and re.sub(r"^\[?(::ffff:)?", "", there).startswith(NETWORK):
                is_another = f"{host.address}" not in there
                reached |= {port} if is_another else set()
    return reached


def works(host: Host) -> bool:
    """Tell whether a process of the host scores."""
    network = Path(f"/proc/{host.keeper.pid}/ns/net").readlink()
    for process in psutil.process_iter(["cmdline"]):
        if any("_score" in part for part in process.info["cmdline"] or ()):
            with suppress(OSError):
                if Path(f"/proc/{process.pid}/ns/net").readlink() == network:
                    return True
    return False


def rows(out: Path) -> list[Any]:
    """Give what tables say, but for when rows were scored."""
    found: list[Any] = []
    for suffix in SUFFIXES:
        table = pq.read_table(out.with_suffix(suffix))
        kept = [name for name in table.column_names if name != "scored_at"]
        found.append(table.select(kept).to_pylist())
    return found


def digests(out: Path) -> list[str]:
    """Give a digest of each table."""
    paths = [out.with_suffix(suffix) for suffix in SUFFIXES]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def main(
    images: Annotated[Path, typer.Option(help="A folder of JPEG radiographs.")],
    folder: Annotated[Path, typer.Option(help="Not below /tmp or /dev/shm.")] = Path("/var/tmp"),  # noqa: S108
    count: Annotated[int, typer.Option(help="Images of the export.")] = 192,
) -> None:
    """Print whether the cluster and one machine say the same."""
    if os.geteuid() != 0:
        sys.exit("only root may make hosts")
    with TemporaryDirectory(dir=folder) as work, hosts() as all_hosts:
        root, out = Path(work) / "export", Path(work) / "worklist.parquet"
        write_export(root, images, EXPORTS["mixed"], count)
        token = Path(work) / "token"
        token.write_text(secrets.token_hex(32))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        start_ray(all_hosts)
        head, *_, lost = all_hosts
        began = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            head.does(*job(root, out, 1), "--engine-cluster", "ray"),
            stdout=subprocess.DEVNULL,
        )
        reached: set[int] = set()
        cut_at = 0.0
        while process.poll() is None:
            reached |= ports(all_hosts)
            if not cut_at and works(lost):
                run("ip", "link", "set", lost.cable, "down")
                cut_at = time.monotonic() - began
            time.sleep(0.1)
        code = process.returncode
        if not cut_at:
            sys.exit("the last host had nothing to do; give a larger --count")
        seconds = time.monotonic() - began
        typer.echo(f"{time.strftime('%Y-%m-%d')}, Ray {ray.__version__}, {HOSTS} hosts of one core")
        typer.echo(f"one host cut off after {cut_at:.0f} s of {seconds:.0f} s; exit code {code}")
        typer.echo(f"ports that hosts reached at another: {sorted(reached)}")
        alone = out.with_name("alone.parquet")
        run(*job(root, alone, 2))
        typer.echo(f"the tables of one machine are the same: {rows(alone) == rows(out)}")
        before = digests(out)
        again = job(root, alone, 2)
        run(*[str(out) if argument == str(alone) else argument for argument in again])
        typer.echo(f"one machine, given the state, changes no byte: {digests(out) == before}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.umask(0o077)
    typer.run(main)
