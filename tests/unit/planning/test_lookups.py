"""Look-ups of the rules, asked without Snakemake: what a rule is given for its wildcards."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import families
import pico
import pytest
from lookupcase import APP, PAIR, VARIANT, Wildcards

from loraport.errors import LoraportError
from loraport.planning import contenders, layout, needs, preflight
from loraport.planning.lookups import Lookups, Told, told
from loraport.planning.prospect import Prospect
from loraport.planning.specs import read


def test_a_variant_reads_its_own_heads_and_the_pairs_other_artifacts(made):
    assert made().maps_inputs(Wildcards(pair="p", method="v")) == {
        "old_spec": "artifacts/models/old/spec.json",
        "new_spec": "artifacts/models/new/spec.json",
        "layers": "artifacts/p/layers.json",
        "embedding": "artifacts/p/embedding.h5",
        "heads": "artifacts/p/variants/v/heads.h5",
    }


def test_an_adapter_of_experts_needs_their_match_and_a_method_of_pairs(made, tmp_path):
    base = families.make_model(tmp_path / "base", "mixtral", seed=1)
    given = {"targets": ["q_proj"], "target_parameters": ["experts.down_proj"]}
    pico.make_adapter(tmp_path / "given", base, seed=2, **given)
    assert made().other_inputs(APP) == {"experts": "artifacts/p/experts.h5"}
    assert made().other_inputs(Wildcards(pair="p", app="b")) == {}
    with pytest.raises(LoraportError, match="does not carry adapters of experts"):
        made().other_inputs(Wildcards(pair="p", app="a", method="aligned_sequential"))


def test_maps_of_one_adapter_are_asked_for_in_its_folder(made):
    look = made(transfer={"method": "aligned_sequential"})
    b = Wildcards(pair="p", app="b")
    assert look.transfer_inputs(b)["maps"] == "artifacts/p/b/maps/aligned_sequential.h5"
    assert made().transfer_inputs(b)["maps"] == "artifacts/p/maps/lorasuite.h5"
    with pytest.raises(LoraportError, match="maps of method 'aligned_sequential' have another"):
        look.maps_inputs(Wildcards(pair="p", method="aligned_sequential"))


def test_an_adapter_that_is_made_here_is_a_folder_and_a_given_one_its_files(made):
    look = made()
    assert look.old_adapter(Wildcards(pair="p", app="b")) == "artifacts/models/old/b/lora_trained"
    files = look.adapter_inputs("", "artifacts/p/b/lora_transferred", "given")
    assert files == [
        "artifacts/p/b/lora_transferred",
        ("given", "given/adapter_config.json"),
        ("given", "given/adapter_model.safetensors"),
    ]
    with pytest.raises(LoraportError, match="no adapter 'c' of model 'old'"):
        look.old_adapter(Wildcards(pair="p", app="c"))


def test_what_stands_against_adapters_is_told_of_all_of_the_model(made, pico_pair, tmp_path):
    """Where the one that is asked for is at fault; a good one is carried beside bad ones."""
    rows = ["app\tmodel\tsource\ttask", f"good\told\t{pico_pair.adapter}\t"]
    for name, base in (("one", pico_pair.new), ("two", pico_pair.new)):
        folder = pico.make_adapter(tmp_path / name, base, seed=4, targets=["q_proj"])
        rows.append(f"{name}\told\t{folder}\t")
    rows.append("gone\told\tnowhere/\t")
    Path("adapters.tsv").write_text("\n".join(rows) + "\n")
    sources = {"old": {"source": str(pico_pair.old)}, "new": {"source": str(pico_pair.new)}}
    look = made(models=sources)
    assert look.old_adapter(Wildcards(pair="p", app="good"))
    with pytest.raises(LoraportError) as refused:
        look.old_adapter(Wildcards(pair="p", app="two"))
    told = str(refused.value)
    assert "3 adapters can't be carried, for 3 reasons:" in told
    assert all(f"{tmp_path / name} " in told for name in ("one", "two")) and "nowhere" in told


def test_a_revision_of_a_model_is_the_one_that_is_looked_at(made, pico_pair, monkeypatch):
    asked = []

    def at_hand(source, revision=""):
        asked.append((source, revision))

    monkeypatch.setattr(preflight, "_config_at_hand", at_hand)
    Path("adapters.tsv").write_text(f"app\tmodel\tsource\ttask\na\told\t{pico_pair.adapter}\t\n")
    names = {"known_as": [str(pico_pair.old)], "revision": "v1.2"}
    models = {"old": {"source": "hub/old", **names}, "new": {"source": "hub/new"}}
    made(models=models).old_adapter(APP)
    assert asked == [("hub/old", "v1.2"), ("hub/new", "")]


def test_everything_is_each_adapter_of_each_pair_that_is_run(made):
    assert made().everything() == [f"artifacts/p/{app}/lora_transferred" for app in "ab"]
    whole = made(transfer={"merged_model": "base"}).everything()
    assert whole[:2] == ["artifacts/p/a/lora_transferred", "artifacts/p/a/model_merged"]


def test_a_transfer_records_what_the_adapter_was_called_and_no_path(made, monkeypatch):
    monkeypatch.setattr(Lookups, "_known_as", lambda *names: [])
    Path("adapters.tsv").write_text(
        "app\tmodel\tsource\ttask\na\told\t/home/me/tickets\t\nb\told\towner/name\t\n"
    )
    look = made()
    named = [look.transfer_params(Wildcards(pair="p", app=app))["of"]["source"] for app in "ab"]
    assert named == ["tickets", "owner/name"]


def test_where_things_are_is_no_part_of_what_a_result_is(made):
    look = made()
    assert look.sources(PAIR)["old"] == "hub/old" and json.dumps(look.sources(PAIR)) == "{}"
    reading = look.reading(PAIR)
    assert "texts.txt" not in json.dumps(reading) and reading["texts_version"]


def test_texts_that_are_gone_are_told_unless_the_model_is_described(made):
    look = made(calibration={"texts": "gone.txt"})
    with pytest.raises(LoraportError, match=r"gone\.txt"):
        look.texts_version(Wildcards(model="old"))
    spec = Path(layout.path(layout.SPEC, model="old"))
    spec.parent.mkdir(parents=True)
    spec.write_text("{}")
    assert look.texts_version(Wildcards(model="old")) == ""


def test_maps_are_fitted_while_moments_are_summed_where_these_are_not_to_be_kept(made, specs):
    pair = SimpleNamespace(**specs)
    aligned, variant, sequential, lorasuite = (
        Wildcards(pair="p", method=name)
        for name in ("aligned", "v", "aligned_sequential", "lorasuite")
    )
    for keep in (True, False):
        look = made(
            calibration={"texts": "texts.txt"},
            mapping={"keep_moments": keep},
            variants={"v": {"method": "aligned", "mapping": {"keep_moments": not keep}}},
        )
        for wildcards, stays in ((aligned, keep), (variant, not keep)):
            inputs, summed = look.maps_inputs(wildcards), look.summed_in_turn(wildcards)
            assert ("moments" in inputs) == stays == (summed == {})
            assert "layers" in inputs and "old_spec" in inputs
            if not stays:
                assert set(summed) == {"reading", "modules"} and summed["modules"]
                asked = needs.need("maps_in_turn", *read(pair))
                assert look.mem_mb("maps")(wildcards, pair, 1) == asked.mib
        logs = contenders.shared_logs(look.config, "p", "aligned")
        assert ("artifacts/p/logs/moments.log" in logs) == keep
        assert look.summed_in_turn(lorasuite) == look.summed_in_turn(sequential) == {}
        assert "moments" not in look.maps_inputs(lorasuite)
        assert "moments" in look.output_maps_inputs(sequential)


def test_what_the_code_is_follows_the_script_and_the_method(made):
    look = made()
    codes = [look.code("spec"), look.code("maps"), look.code_with_method("maps")(VARIANT)]
    assert len({each["code"] for each in codes}) == 3
    assert {"python", "torch"} <= set(codes[0]["versions"])


def test_errors_are_told_also_of_functions_that_a_look_up_returns(made):
    errors = []
    look = Told(made(), errors.append)
    lost = Wildcards(pair="nowhere", app="a")
    assert look.pair_specs(lost) is None
    assert look.spec_of("new")(lost) is None
    assert ["pairs has no 'nowhere'" in str(error) for error in errors] == [True, True]
    assert look.merges() == "(?!)"  # what is not called is given as it is
    with pytest.raises(AttributeError):
        look.pair_specs(Wildcards())


def test_a_told_function_keeps_its_parameters(made):
    look = Told(made(), print)
    assert list(inspect.signature(look.mem_mb("maps")).parameters) == [
        *("wildcards", "input", "attempt"),
    ]
    assert told(3, print) == 3


def test_what_adapters_lose_is_told_before_the_first_job(made, pico_pair, tmp_path, monkeypatch):
    sources = {"old": {"source": str(pico_pair.old)}, "new": {"source": str(pico_pair.new)}}
    rows = ["app\tmodel\tsource\ttask", f"a\told\t{pico_pair.adapter}\t", "b\told\t\tsums"]
    Path("adapters.tsv").write_text("\n".join(rows) + "\n")
    look = made(models=sources)

    def job(rule, **wildcards):
        return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=Wildcards(**wildcards))

    jobs = [job("spec", model="old"), *(job("transferred", pair="p", app=a) for a in "aab")]
    assert look.notes(jobs) == []
    monkeypatch.setattr(preflight, "told_of_transfer", lambda *of: Prospect("by maps", [], ["x"]))
    assert look.notes(jobs) == ["a: left behind: x"]
