"""A workflow that a command runs is told in a line a step, and each line fits."""

import io

from loraport.commands._steps import Steps

SAID = """Building DAG of jobs...
Job stats:
job                      count
---------------------  -------
spec                         1
transferred_by_method        1
total                        2

Execute 1 jobs...

[Thu Nov 26 06:08:44 2026]
localrule spec:
    input: /models/new/config.json
    jobid: 2
    reason: Missing output files: artifacts/models/new/spec.json
    wildcards: model=new
[Thu Nov 26 06:08:45 2026]
Finished jobid: 2 (Rule: spec)
1 of 2 steps (50%) done
rule transferred_by_method:
    jobid: 0
    wildcards: pair=old_to_new, app={app}, method=aligned
Finished jobid: 0 (Rule: transferred_by_method)
2 of 2 steps (100%) done
Complete log(s): /x
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(stream, app="quiz"):
    steps = Steps(stream)
    for second, line in enumerate(SAID.format(app=app).splitlines(keepends=True)):
        steps.tell(line, float(second))
    steps.end()
    return stream.getvalue()


def test_a_line_a_step_in_words_with_names_and_time():
    lines = told(io.StringIO()).splitlines()
    assert lines[0] == "2 steps to do"
    assert lines[1].split("  ")[0] == "1/2" and lines[2].split("  ")[0] == "2/2"
    assert "reads the model" in lines[1] and " new " in lines[1] and lines[1].endswith("4.0 s")
    assert "carries the adapter" in lines[2] and "old_to_new quiz aligned" in lines[2]
    assert len(lines) == 3 and all(len(line) <= 100 for line in lines)


def test_a_file_gets_no_marks_of_a_terminal_and_long_names_are_cut():
    text = told(io.StringIO(), app="a" * 80)
    assert "\r" not in text and "\033" not in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "\r" in told(Terminal())


def test_what_an_adapter_loses_is_told_before_the_steps():
    steps, note = Steps(stream := io.StringIO()), "quiz: left behind: " + "rows of tokens " * 9
    steps.tell(f"[note] {note}\n", 0.0)
    lines = stream.getvalue().splitlines()
    assert " ".join(lines) == note.strip() and len(lines) == 2
    assert all(len(line) <= 100 for line in lines)
