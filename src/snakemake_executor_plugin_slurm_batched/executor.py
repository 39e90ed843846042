"""Snakemake's executor for Slurm, but for light jobs: many of those share one job of Slurm.

A rule says by its resource `batch` how many of its jobs may. They stay jobs of their own to
Snakemake, with their own targets, logs, failures and retries; Slurm gets one job that starts
Python once (`loraport.runtime.batch`) and runs their scripts one after another.
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

from snakemake_executor_plugin_batched import COMMAND
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
        self.rule, self.name, self.jobid = first.rule, first.rule.name, first.jobid
        self.waiting = {str(job.jobid): job for job in jobs}
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
        for job in self.waiting.values():
            job.register(external_jobid=external_jobid)

    def statuses(self):
        """Exit statuses of the jobs that ended, by the number of the job."""
        text = self.done.read_text() if self.done.is_file() else ""
        rows = [line.partition(" ") for line in text.rpartition("\n")[0].splitlines()]
        return {Path(script).stem: int(code) for code, _, script in rows}

    def ended(self):
        """Jobs that ended since this was asked before, each with its exit status."""
        statuses = self.statuses()
        return [(self.waiting.pop(key), statuses[key]) for key in statuses if key in self.waiting]


class Executor(slurm.Executor):
    """Submits light jobs in batches, and all others as the executor for Slurm does."""

    def run_jobs(self, jobs):
        """Submit light jobs in batches of a kind, and the others as the executor for Slurm does."""
        _ = self.tmpdir  # made when it is first asked for: not by two threads at once
        light = [job for job in jobs if is_light(job, self.workflow)]
        super().run_jobs([job for job in jobs if job not in light])
        for _, alike in groupby(sorted(light, key=_kind), key=_kind):
            together = list(alike)
            size = together[0].resources.batch
            for start in range(0, len(together), size):
                batch = together[start : start + size]
                for job in batch:
                    self.run_job_pre(job)
                self._job_submission_executor.submit(self._submit_batch, batch)

    def _submit_batch(self, jobs):
        folder = Path(self.tmpdir) / f"batch{jobs[0].jobid}_{jobs[0].attempt}"
        ready = [job for job in jobs if self._is_ready(job, folder)]
        if ready:
            self.run_job(Batch(ready, folder))

    def _is_ready(self, job, folder):
        """Prepare a job and list its script; one that can't be is told of and left out."""
        try:
            self.workflow.async_run(job.prepare())
            folder.mkdir(parents=True, exist_ok=True)
            script = write_script(job, self.workflow, folder / f"{job.jobid}.py")
            with (folder / "tasks").open("a") as tasks:
                tasks.write(f"{script}\n")
        except Exception as error:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), str(error))
            return False
        return True

    def format_job_exec(self, job):
        if not isinstance(job, Batch):
            return super().format_job_exec(job)
        command = [sys.executable, *COMMAND, str(job.tasks), str(job.done)]
        return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}"

    @property
    def next_seconds_between_status_checks(self):
        wait = super().next_seconds_between_status_checks
        return min(wait, self.workflow.executor_settings.longest_wait)

    @next_seconds_between_status_checks.setter
    def next_seconds_between_status_checks(self, seconds):
        self._next_seconds_between_status_checks = seconds

    async def check_active_jobs(self, active_jobs):
        for job_info in active_jobs:
            batch = job_info.job
            # of one that is over, Slurm tells
            if isinstance(batch, Batch) and batch.waiting.keys() - batch.statuses().keys():
                self._report_ended(job_info)
        async for job_info in super().check_active_jobs(active_jobs):
            yield job_info

    def report_job_success(self, job_info):
        if isinstance(job_info.job, Batch):
            self._report_batch(job_info)
        else:
            super().report_job_success(job_info)

    def report_job_error(self, job_info, msg=None, **kwargs):
        if isinstance(job_info.job, Batch):
            self._report_batch(job_info, msg=msg, **kwargs)
        else:
            super().report_job_error(job_info, msg, **kwargs)

    def _report_batch(self, job_info, **told):
        """Report a batch that is over; a shared file system may need time to show how it ended."""
        end = time.monotonic() + self.workflow.execution_settings.latency_wait
        self._report_ended(job_info, **told)
        while job_info.job.waiting and time.monotonic() < end:
            time.sleep(1)
            self._report_ended(job_info, **told)
        for job in job_info.job.waiting.values():
            self.report_job_error(_of(job, job_info), **told)

    def _report_ended(self, job_info, **told):
        for job, code in job_info.job.ended():
            if code == 0:
                self.report_job_success(_of(job, job_info))
            else:
                self.report_job_error(_of(job, job_info), **told)


def _of(job, job_info):
    """What is known of one job of a batch."""
    return SubmittedJobInfo(job, job_info.external_jobid, job_info.aux)


def _kind(job):
    """What jobs have in common that share a job of Slurm."""
    return job.rule.name, job.attempt, job.resources.batch
