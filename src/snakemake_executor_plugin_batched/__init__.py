"""Snakemake's own executor, but for light jobs: those share a Python that is already there.

A rule says by its resource `batch` that its script is light. Each core then keeps one process
(`loraport.runtime.batch`) that has imported what such scripts need, and runs them in forks of it.
"""

import subprocess
import sys
from queue import Empty, LifoQueue
from tempfile import TemporaryDirectory

from snakemake.exceptions import SpawnedJobError
from snakemake.executors import local

from .scripts import is_light, write_script

common_settings = local.common_settings
# -P: no file of the user's working directory stands for a module
COMMAND = ("-P", "-m", "loraport.runtime.batch")


class Worker:
    """A process that runs the scripts whose paths it reads, one at a time."""

    def __init__(self):
        command = [sys.executable, *COMMAND, "-", "-"]
        self.process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.tasks, self.answers = self.process.stdin, self.process.stdout

    def run(self, script) -> int:
        """Exit status of a script; 1 if the worker itself is gone."""
        try:
            print(script, file=self.tasks, flush=True)
            return int(self.answers.readline().split()[0])
        except (OSError, IndexError):
            return 1

    def end(self) -> None:
        self.tasks.close()
        self.process.wait()


class Executor(local.Executor):
    """Runs light jobs by workers, and all others as Snakemake does."""

    def __post_init__(self):
        super().__post_init__()
        self.folder = TemporaryDirectory(prefix="batched.", dir=".snakemake")
        self.idle: LifoQueue[Worker] = LifoQueue()

    def run_single_job(self, job):
        if not is_light(job, self.workflow):
            return super().run_single_job(job)
        self.workflow.async_run(job.prepare())
        script = write_script(job, self.workflow, f"{self.folder.name}/{job.jobid}.py")
        return self.pool.submit(self.cached_or_run, job, self.run_light, script)

    def run_light(self, script):
        """Run a script by a worker that is idle, or by a new one."""
        try:
            worker = self.idle.get_nowait()
        except Empty:
            worker = Worker()
        code = worker.run(script)
        if worker.process.poll() is None:
            self.idle.put(worker)
        script.unlink()
        if code:
            raise SpawnedJobError()

    def shutdown(self):
        super().shutdown()
        while not self.idle.empty():
            self.idle.get().end()
        self.folder.cleanup()

    cancel = shutdown
