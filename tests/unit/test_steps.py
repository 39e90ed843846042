"""What a run says on the terminal: a line a step, errors in a paragraph, nothing else."""

import io
import logging

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_loraport.steps import Steps, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def record(text="", level=logging.INFO, created=0.0, **extra):
    made = logging.LogRecord("snakemake", level, "", 0, text, None, None)
    vars(made).update(extra, created=created)
    return made


def job(number, rule, created=0.0, **wildcards):
    return record(
        event=LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards=wildcards, created=created
    )


def told(*records, terminal=False, **how):
    stream = Terminal() if terminal else io.StringIO()
    steps = Steps(stream, **{"plain": False, "dryrun": False, **how})
    for each in records:
        steps.tell(each)
    return stream.getvalue()


RUN = record("Job stats:\n…", event=LogEvent.RUN_INFO, stats={"spec": 1, "maps": 1, "total": 2})
BANNER = [
    record("SNAKEMAKE", event=LogEvent.WORKFLOW_STARTED),
    record("Building DAG of jobs..."),
    record("Provided cores: 2", event=LogEvent.RESOURCES_INFO),
    RUN,
    record("Select jobs to execute..."),
]
STEPS = [
    job(7, "spec", created=1.0, model="old"),
    record(event=LogEvent.JOB_FINISHED, job_id=7, created=3.5),
    record(event=LogEvent.PROGRESS, done=1, total=2),
    job(8, "maps", created=4.0, pair="p", method="aligned"),
    record(event=LogEvent.JOB_FINISHED, job_id=8, created=80.0),
]


def test_a_line_a_step_and_no_banner():
    lines = told(*BANNER, *STEPS).splitlines()
    assert lines[0] == "2 steps to do"
    assert lines[1].split() == ["1/2", "spec", "old", "2.5", "s"]
    assert lines[2].split() == ["2/2", "maps", "p", "aligned", "1", "min", "16", "s"]
    assert lines[3].startswith("Done in ") and len(lines) == 4
    assert all(len(line) <= 100 for line in lines)


def test_a_failure_is_told_once_and_the_way_on():
    error = "RuleException:\nCalledProcessError in file maps.smk\nCommand '…' returned non-zero"
    said = told(
        *BANNER,
        *STEPS[:4],
        record(error, logging.ERROR, event=LogEvent.ERROR),
        record("", logging.ERROR, event=LogEvent.JOB_ERROR, jobid=8, log=["p/maps.log"]),
        record("Shutting down, this might take some time.", logging.WARNING),
        record("Exiting because a job execution failed. Look above", logging.ERROR),
        record("At least one job did not complete", logging.ERROR, event=LogEvent.ERROR),
    )
    assert said.splitlines()[2:] == [
        f"failed  {'maps':<26}  p aligned   see p/maps.log",
        "Stopped: 1 of 2 steps are done; the same command goes on from there.",
    ]


def test_refusals_and_what_is_done_already_are_told_as_they_are():
    refusal = record("[plan] no adapter 'b'. Got: b.", logging.ERROR)
    missing = record("MissingRuleException:\nNo rule", logging.ERROR, event=LogEvent.ERROR)
    nothing = record("Nothing to be done (all requested files are present and up to date).")
    assert told(refusal) == "no adapter 'b'. Got: b.\n"
    assert told(record("[note] a: left behind: x", logging.WARNING)) == "a: left behind: x\n"
    assert told(missing) == "MissingRuleException:\nNo rule\n"
    assert told(record("Unlocked working directory.")) == "Unlocked working directory.\n"
    assert told(nothing) == "Nothing to be done: all that was asked for is there.\n"


def test_a_dry_run_tells_its_table_once():
    said = told(RUN, STEPS[0], RUN, record("This was a dry-run (flag -n). The"), dryrun=True)
    assert said == "Job stats:\n…\nThis was a dry-run (flag -n). The\n"


def test_colour_and_wiped_bars_are_for_terminals_alone():
    assert "\033" not in told(*BANNER, *STEPS) and "\r" not in told(*BANNER, *STEPS)
    assert "\033[32m" in told(*BANNER, *STEPS, terminal=True)
    assert "\033[32m" not in told(*BANNER, *STEPS, terminal=True, plain=True)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (59.4, "59.4 s"), (60, "1 min 00 s"), (3600, "1 h 00 min")],
)
def test_times_in_words(seconds, words):
    assert duration(seconds) == words
