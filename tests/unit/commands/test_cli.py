"""The `loraport` command: its files are its commands, and each tells errors in one paragraph."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import families
import pico
import pytest
import transformers

import loraport
from loraport import commands
from loraport.cli import folded, main, parser
from loraport.commands import plan
from loraport.report.summary import main as summary_main
from loraport.upgrade import fleet, teachers

HEAVY = ("torch", "numpy", "scipy", "transformers", "peft", "snakemake")


def test_every_command_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for name in commands.names():
        command = import_module(f"loraport.commands.{name}")
        assert name in told and command.__doc__ and command.HELP
        for example in command.EXAMPLES:
            parser().parse_args(shlex.split(example)[1:])


def test_help_and_configuration_name_every_teacher():
    known = Path(__file__).parents[3] / "config" / "config.yaml"
    said = known.read_text().partition("\nupgrade:")[2].partition("teacher: auto")[0]
    added = parser()._subparsers._group_actions[0].choices["upgrade"]._actions
    (helped,) = (each.help for each in added if "--teacher" in each.option_strings)
    for name in ("auto", *teachers.names()):
        assert name in re.findall(r"\w+", helped) and f" {name}: " in said


def test_help_says_which_texts_are_meant():
    """`--texts` of a transfer are what an upgrade calls `--calibration`, and another file there."""
    each = parser()._subparsers._group_actions[0].choices
    told = {
        (command, flag): action.help
        for command in ("transfer", "upgrade", "check")
        for action in each[command]._actions
        for flag in action.option_strings
    }
    calibration = "calibration texts, one a line, that both models read"
    assert told["transfer", "--texts"].startswith(calibration)
    assert "`loraport upgrade` calls it --calibration" in told["transfer", "--texts"]
    assert told["upgrade", "--calibration"].startswith(calibration)
    assert "`loraport transfer` calls it --texts" in told["upgrade", "--calibration"]
    judged = told["check", "--texts"]
    assert "the adapters cost on them" in judged and "calibration" not in judged
    assert told["upgrade", "--texts"].startswith(judged)
    assert told["upgrade", "--texts"].endswith("--calibration")


def test_bare_it_shows_the_help_and_it_knows_its_version(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: loraport") and "examples:" in told
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"loraport {loraport.__version__}"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from loraport.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: sys.exit(str([n for n in {HEAVY} if n in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("usage: loraport") and done.stderr.strip() == ""


def test_inspect_tells_kind_base_ranks_and_norms(pico_pair, capsys):
    assert main(["inspect", str(pico_pair.adapter), "--base", str(pico_pair.old)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "lora"]
    assert lines[1].split() == ["base", str(pico_pair.old)]
    assert lines[2].split() == ["modules", "21"]
    down = next(line for line in lines if "down_proj" in line)
    assert "3 layers   rank 4   shape 32×56" in down


def test_inspect_tells_all_shapes_of_modules_whose_layers_differ(tmp_path, capsys):
    base = families.make_model(tmp_path / "base", "gemma4", seed=1)
    lora = pico.make_adapter(tmp_path / "lora", base, seed=3, targets=["q_proj"])
    assert main(["inspect", str(lora), "--base", str(base)]) == 0
    assert "2 layers   rank 4   shape 48×32, 64×32   " in capsys.readouterr().out


def test_inspect_tells_of_several_in_a_row_each_and_how_they_can_be_carried(
    pico_pair, tmp_path, capsys
):
    whole = pico.make_adapter(
        tmp_path / "whole", pico_pair.old, seed=5, targets=["q_proj"], modules_to_save=["lm_head"]
    )
    missing = tmp_path / "missing"
    adapters = [str(each) for each in (pico_pair.adapter, whole, missing)]
    assert main(["inspect", *adapters, "--to", str(pico_pair.new)]) == 1
    told = capsys.readouterr().out
    rows = told.partition("\n\n")[0].splitlines()
    assert all(len(line) <= 100 for line in rows)
    told = " ".join(told.split())
    assert "by maps" in told and re.search(r"whole: refused: .*lm_head", told)
    assert re.search(r"missing: refused: .*cannot be read", told)
    assert "adapters table" not in told  # which no one wrote
    assert main(["inspect", str(pico_pair.adapter), "--to", str(pico_pair.old)]) == 0
    assert f"to {pico_pair.old}: copied or by maps" in capsys.readouterr().out


def test_what_is_noticed_of_many_adapters_is_told_once(pico_pair, tmp_path, capsys):
    folders = [tmp_path / f"adapter{n}" for n in range(5)]
    for folder in folders:
        shutil.copytree(pico_pair.adapter, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "nowhere/"
        (folder / "adapter_config.json").write_text(json.dumps(config))
    assert main(["inspect", *map(str, folders)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("its base is not at hand") == 1 and "and 2 more: warning:" in told


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_message_is_folded_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "/a/long/path/that/is/told/" + "x" * 60
    told = folded(
        f"loraport: no file {path} was there. What to do: name it by --texts.", Terminal()
    )
    assert path in told.splitlines()
    assert all(len(line) <= 60 for line in told.splitlines() if line != path)
    assert folded("a " * 100, io.StringIO()) == "a " * 100


def ended(number, verdict):
    if verdict == fleet.FAILED:
        return fleet.failed(f"app{number}", "x", 0.1, "no adapter there")
    return fleet.Row(f"app{number}", verdict, "x", f"reason {number}", 1.0, 90.0, 40.0, 89.0)


@pytest.mark.parametrize("count", [2, 40])
def test_upgrades_end_in_a_table_and_commands_that_can_be_pasted(monkeypatch, capsys, count):
    verdicts = ["RETRAIN", "DEPLOY", fleet.FAILED]
    rows = [ended(n, verdicts[n % 3]) for n in range(count)]
    monkeypatch.setattr("loraport.commands._fleet_run.upgrade_all", lambda arguments: rows)
    assert main(["upgrade", "old", "new", "app0", "app1", "my out", "--prompts", "p.txt"]) == 3
    told = capsys.readouterr().out
    assert all(len(line) <= 100 for line in told.splitlines())
    assert told.count("no adapter there") == (0 if count == 2 else 13)
    assert len(re.findall(r"reason \d", told)) == (2 if count == 2 else 0)
    commands = [line.strip() for line in told.splitlines() if line.startswith("  loraport")]
    assert commands == ["loraport report 'my out'", "loraport export 'my out/app1' --vllm"]
    for line in commands:
        parser().parse_args(shlex.split(line)[1:])


def test_inspect_tells_what_will_be_left(pico_pair, tmp_path, capsys):
    sizes = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 4}
    config = {"config_class": transformers.GPTNeoXConfig}
    other = pico.make_model(tmp_path / "neox", seed=4, vocab_words=220, **sizes, **config)
    assert main(["inspect", str(pico_pair.adapter), "--to", str(other)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "mlp.gate_proj will be left behind" in told and "gpt_neox has no such role" in told
    assert "1 or more of 3 layers" in told


def test_inspect_names_a_model_that_is_not_there(pico_pair, capsys):
    assert main(["inspect", str(pico_pair.adapter), "--to", "nowhere/at-all"]) == 1
    assert "model 'nowhere/at-all' can't be looked at" in capsys.readouterr().err


def test_inspect_tells_what_is_wrong(pico_pair, tmp_path, capsys):
    assert main(["inspect", str(pico_pair.adapter), "--base", str(pico_pair.new)]) == 1
    assert "another base model" in capsys.readouterr().err
    adapter = pico.make_adapter(tmp_path / "pissa", pico_pair.old, seed=1, targets=["q_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": "pissa"}))
    assert main(["inspect", str(adapter)]) == 1
    assert "changed its base" in capsys.readouterr().err


def test_plan_tells_sizes_memory_and_time_from_the_configs_alone(tmp_path, capsys):
    sizes = {  # as printed for Llama-2-13B and Llama-3.1-70B
        "old": (32000, 5120, 13824, 40, 40, 40, "13.0 billion"),
        "new": (128256, 8192, 28672, 80, 64, 8, "70.6 billion"),
    }
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "num_key_value_heads")  # fmt: skip
    for side, values in sizes.items():
        (tmp_path / side).mkdir()
        content = {"model_type": "llama", **dict(zip(names, values[:-1], strict=True))}
        (tmp_path / side / "config.json").write_text(json.dumps(content))
    assert main(["plan", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    told = capsys.readouterr().out
    assert all(values[-1] in told for values in sizes.values())
    rows = {line.split("  ")[0]: line for line in told.splitlines()}
    for step in ("reads the model (old)", "runs the model on the texts (new)", "makes the maps"):
        assert re.search(r" [\d,.]+ GiB +[\d,]+ (s|min|h|days) ", rows[step])
    assert "carries the adapter" in rows and "took" not in told
    reading = rows["runs the model on the texts (new)"]
    assert reading.count("GiB") == 3  # without a GPU, beside one, and on it
    assert re.search(r" 2 days .* 4 min$", reading)  # by one core, and with a GPU
    assert rows["carries the adapter"].count("–") == 3
    assert all(len(line) <= 100 for line in told.splitlines()[3:])


def test_a_plan_tells_what_was_measured_where_the_pair_is_there(pico_pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = f"{pico_pair.old.name}_to_{pico_pair.new.name}"
    record = {"status": "done", "seconds": 12.34, "peak_mib": 345.6, "wildcards": {}}
    for path, rule, wildcards in (
        (f"artifacts/models/{pico_pair.old.name}/logs/spec.log", "spec", {}),
        (f"artifacts/{pair}/logs/maps/aligned.log", "maps", {"method": "aligned"}),
        (f"artifacts/{pair}/logs/cka.log", "cka", {}),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        status = "failed" if rule == "cka" else "done"
        line = {**record, "rule": rule, "wildcards": wildcards, "status": status}
        Path(path).write_text(f"words\n{json.dumps(line)}\n")
    took = plan.measured(str(pico_pair.old), str(pico_pair.new))
    assert took == {key: ["346 MiB", "12.3 s"] for key in ["spec old", "fitted_maps"]}


def test_only_verbose_shows_where_an_error_was_raised(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told and told.count("\n") == 1 and "What to do: " in told
    assert main(["--verbose", "inspect", str(tmp_path)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_nobody_foresaw_is_told_without_a_traceback(tmp_path, capsys, monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("loraport.commands.inspect.run", broken)
    assert main(["inspect", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told == "loraport: unexpected ZeroDivisionError: oops (--verbose shows where)\n"


def test_the_upgrade_that_a_transfer_names_can_be_pasted():
    from loraport.commands import transfer

    words = ["transfer", "old", "new model", "a", "b", "out", "--texts", "t.txt"]
    given = parser().parse_args([*words, "--known-as", "old/name", "--work", "here"])
    pasted = shlex.split(shlex.join(transfer._next(given)))
    upgrade = parser().parse_args(pasted[1:])
    assert (upgrade.old, upgrade.new) == ("old", "new model")
    assert [str(each) for each in upgrade.adapters] == ["a", "b"]
    assert upgrade.calibration == "t.txt" and upgrade.known_as == ["old/name"]
    assert str(upgrade.work) == "here"


def test_the_snakefile_is_told_where_it_is(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--snakefile"])
    assert ended.value.code == 0
    assert Path(capsys.readouterr().out.strip()).name == "Snakefile"


def test_warnings_of_libraries_are_told_where_they_are_asked_for(monkeypatch, recwarn):
    def warn(arguments):
        warnings.warn("of a library", stacklevel=1)
        return 0

    monkeypatch.setattr("loraport.commands.plan.run", warn)
    assert main(["plan", "a", "b"]) == 0 and not recwarn.list
    assert main(["--verbose", "plan", "a", "b"]) == 0 and len(recwarn.list) == 1


def test_no_command_speaks_of_a_file_that_its_user_did_not_write(tmp_path, pico_pair, capsys):
    old, new, adapter = map(str, (pico_pair.old, pico_pair.new, pico_pair.adapter))
    gone, out = str(tmp_path / "gone"), str(tmp_path / "out")
    test = tmp_path / "t.jsonl"
    test.write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    for line in (
        ["transfer", gone, new, adapter, out],
        ["upgrade", old, gone, adapter, out, "--prompts", str(test)],
        ["check", gone, adapter, new, adapter, "--test", str(test)],
        ["plan", old, gone],
        ["inspect", gone],
        ["export", adapter, "--gguf", out, "--base", gone],
    ):
        assert main(line) == 1
        told = capsys.readouterr().err
        assert "gone" in told and "What to do: " in told, told
        assert "config.yaml" not in told and "adapters table" not in told, told
    with pytest.raises(loraport.LoraportError) as error:
        loraport.transfer(gone, new, adapter, out, cache=str(tmp_path / "cache"))
    assert "config.yaml" not in str(error.value)


@pytest.mark.parametrize("given", [[], ["--help"], ["nowhere"]])
def test_the_summary_of_what_is_not_there_is_refused(given, capsys):
    assert summary_main(given) == 2
    told = capsys.readouterr().err
    assert "no folder of a carried adapter was named" in told
    assert f"Got: {' '.join(given) or 'nothing'}." in told
