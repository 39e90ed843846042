"""A real Slurm of one node, private to one folder: started by hand, stopped by its daemons' ids.

munged, slurmctld and slurmd run as the present user with their configuration, sockets, state and
logs below the folder; nothing of the system's own Slurm is touched. Two GPUs are pretended (plain
files stand for the devices), so that requests for them are scheduled.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
SYSTEM = "/usr/sbin:/sbin"
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port_of_node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
MinJobAge=3600
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm that are not installed."""
    path = f"{os.environ['PATH']}:{SYSTEM}"
    return [name for name in PROGRAMS if not shutil.which(name, path=path)]


def _memory_mib() -> int:
    """Memory of this machine, less 1 GiB for what runs beside the jobs."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_processes() -> dict[str, str]:
    """The environment in which jobs begin as they do for a user, and not as forks: see forks."""
    return {name: value for name, value in os.environ.items() if name != "LORAPORT_TEST_DOOR"}


class Slurm:
    """A running Slurm; `env` is what a process needs to use it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {
            **own_processes(),
            "PATH": f"{folder}/bin:{os.environ['PATH']}:{SYSTEM}",
            "SLURM_CONF": f"{folder}/slurm.conf",
        }
        self._write()

    def _write(self) -> None:
        for name in ("state", "spool", "log", "run", "bin"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        values = {
            "host": socket.gethostname().partition(".")[0],
            "port": _free_port(),
            "port_of_node": _free_port(),
            "user": subprocess.check_output(["id", "-un"], text=True).strip(),
            "folder": self.folder,
            "cpus": os.cpu_count(),
            "memory": _memory_mib(),
        }
        (self.folder / "slurm.conf").write_text(CONFIG.format(**values))
        devices = [self.folder / "run" / f"gpu{number}" for number in range(2)]
        for device in devices:
            device.touch()
        lines = [f"Name=gpu File={device}\n" for device in devices]
        (self.folder / "gres.conf").write_text("".join(lines))
        # the executor's job step drops SLURM_CONF before its inner srun: this one brings it back
        real = shutil.which("srun")
        wrapper = self.folder / "bin" / "srun"
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.env["SLURM_CONF"]} exec {real} "$@"\n')
        wrapper.chmod(0o755)

    def start(self, seconds: float = 60) -> None:
        """Start the daemons and wait until the node takes jobs."""
        run, log = self.folder / "run", self.folder / "log"
        self.call(
            "munged",
            "--force",  # a folder that only its owner may enter will do: nobody else uses it
            f"--key-file={self.folder}/munge.key",
            f"--socket={run}/munge.sock",
            f"--pid-file={run}/munged.pid",
            f"--log-file={log}/munged.log",
            f"--seed-file={run}/munged.seed",
        )
        self.call("slurmctld", "-f", self.env["SLURM_CONF"])
        self.call("slurmd", "-f", self.env["SLURM_CONF"])
        end = time.monotonic() + seconds
        while "idle" not in self.call("sinfo", "-h", "-o", "%t", check=False):
            if time.monotonic() > end:
                told = (log / "slurmctld.log").read_text()[-2000:]
                raise TimeoutError(f"no node of Slurm was idle within {seconds} s:\n{told}")
            time.sleep(0.3)

    def call(self, *command: str, check: bool = True) -> str:
        """Output of a command that talks to this Slurm."""
        done = subprocess.run(
            command, env=self.env, text=True, capture_output=True, check=False, timeout=120
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Job id -> what squeue knows of it, finished ones too."""
        fields = ("JobID", "State", "Comment", "MinMemory", "TimeLimit", "NumCPUs", "tres-per-job")
        form = ",".join(f"{field}:|" for field in fields)
        lines = self.call("squeue", "-h", "-t", "all", "-O", form).splitlines()
        rows = (dict(zip(fields, map(str.strip, line.split("|")), strict=False)) for line in lines)
        return {row["JobID"]: row for row in rows}

    def stop(self) -> None:
        """Cancel what is left and end the three daemons, by their ids."""
        self.call("scancel", "--user", str(os.getuid()), check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            file = self.folder / "run" / f"{name}.pid"
            if file.is_file():
                _end(int(file.read_text()))


def _end(pid: int, seconds: float = 10) -> None:
    """End a process and wait until it is gone (or a zombie, which its parent has to reap)."""
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if not is_alive(pid):
                return
            time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Slurm for the length of a block."""
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
