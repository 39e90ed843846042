"""Snakemake's executor for Slurm, but for light jobs: many of those share one job of Slurm.

A rule says by its resource `batch` how many of its jobs may. They stay jobs of their own to
Snakemake, with their own targets, logs, failures and retries; Slurm gets one job that starts
Python once (`loraport.batch`) and runs their scripts one after another.
"""

import shlex
import sys
import time
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import snakemake_executor_plugin_slurm as slurm
from snakemake.iocontainers import ResourceList
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from snakemake_executor_plugin_batched.scripts import is_light, write_script

common_settings = slurm.common_settings


@dataclass
class ExecutorSettings(slurm.ExecutorSettings):
    """Those of the executor for Slurm, by `--slurm-batched-…`, and one more."""

    longest_wait: int = field(
        default=180,
        metadata={
            "help": "Seconds between two questions to Slurm how jobs do, at the most: the executor "
            "waits ten longer each time that none ended.",
            "env_var": False,
            "required": False,
        },
    )


class Batch:
    """Jobs of a rule that share a job of Slurm; to the executor it looks like one of them."""

    def __init__(self, jobs, folder):
        first = jobs[0]
        self.jobs, self.rule, self.name, self.jobid = jobs, first.rule, first.rule.name, first.jobid
        self.tasks, self.done = folder / "tasks", folder / "done"
        self.wildcards = [f"batch_of_{len(jobs)}"]
        self.threads = max(job.threads for job in jobs)
        needs = dict(first.resources.items())
        asked = [job.resources for job in jobs]
        for name, of_all in (("mem_mb", max), ("mem_mib", max), ("runtime", sum)):
            if name in needs:
                needs[name] = of_all(each.get(name) for each in asked)
        self.resources = ResourceList(fromdict=needs)

    def is_group(self):
        return False

    def register(self, external_jobid=None):
        for job in self.jobs:
            job.register(external_jobid=external_jobid)

    def write(self, workflow):
        """Write the scripts and the list of them."""
        self.tasks.parent.mkdir(parents=True)
        names = [self.tasks.with_name(f"{number}.py") for number in range(len(self.jobs))]
        scripts = map(write_script, self.jobs, [workflow] * len(self.jobs), names)
        self.tasks.write_text("".join(f"{script}\n" for script in scripts))

    def ended(self, seconds):
        """How each job ended, for as long as a shared file system may take to show it."""
        end = time.monotonic() + seconds
        while len(found := statuses(self.done)) < len(self.jobs) and time.monotonic() < end:
            time.sleep(1)
        return [found.get(number) for number in range(len(self.jobs))]


def statuses(done):
    """Number of a task -> exit status, of those that ended."""
    lines = done.read_text().splitlines() if done.is_file() else []
    rows = [line.split() for line in lines]
    return {int(row[0]): int(row[1]) for row in rows if len(row) == 2}


class Executor(slurm.Executor):
    """Submits light jobs in batches, and all others as the executor for Slurm does."""

    def run_jobs(self, jobs):
        light = [job for job in jobs if is_light(job, self.workflow)]
        super().run_jobs([job for job in jobs if job not in light])
        for _, alike in groupby(sorted(light, key=_kind), key=_kind):
            together = list(alike)
            size = together[0].resources.batch
            for start in range(0, len(together), size):
                self._submit_batch(together[start : start + size])

    def _submit_batch(self, jobs):
        batch = Batch(jobs, Path(self.tmpdir) / f"batch{jobs[0].jobid}_{jobs[0].attempt}")
        for job in jobs:
            self.run_job_pre(job)
            self.workflow.async_run(job.prepare())
        batch.write(self.workflow)
        self._job_submission_executor.submit(self.run_job, batch)

    def format_job_exec(self, job):
        if not isinstance(job, Batch):
            return super().format_job_exec(job)
        command = [sys.executable, "-m", "loraport.batch", str(job.tasks), str(job.done)]
        return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}"

    @property
    def next_seconds_between_status_checks(self):
        wait = super().next_seconds_between_status_checks
        return min(wait, self.workflow.executor_settings.longest_wait)

    @next_seconds_between_status_checks.setter
    def next_seconds_between_status_checks(self, seconds):
        self._next_seconds_between_status_checks = seconds

    def report_job_success(self, job_info):
        if isinstance(job_info.job, Batch):
            self._report_batch(job_info, self.workflow.execution_settings.latency_wait)
        else:
            super().report_job_success(job_info)

    def report_job_error(self, job_info, msg=None, **kwargs):
        if isinstance(job_info.job, Batch):
            self._report_batch(job_info, 0, msg=msg, **kwargs)
        else:
            super().report_job_error(job_info, msg, **kwargs)

    def _report_batch(self, job_info, seconds, **told):
        codes = job_info.job.ended(seconds)
        for job, code in zip(job_info.job.jobs, codes, strict=True):
            info = SubmittedJobInfo(job, job_info.external_jobid, job_info.aux)
            if code == 0:
                super().report_job_success(info)
            else:
                super().report_job_error(info, **told)


def _kind(job):
    """What jobs have in common that share a job of Slurm."""
    return job.rule.name, job.attempt, job.resources.batch
