"""Configuration: defaults, overrides, and agreement of the files that say the same thing."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from loraport import methods
from loraport.errors import LoraportError
from loraport.planning.checks import load
from loraport.planning.queries import DEPENDS_ON

PROJECT = Path(__file__).parents[3]
SCHEMAS = PROJECT / "workflow" / "schemas"


@pytest.fixture
def minimal(tmp_path) -> dict:
    """The least that a configuration must say."""
    table = tmp_path / "adapters.tsv"
    table.write_text("app\tmodel\tsource\ttask\na\told\tx\t\n")
    models = {"old": {"source": "x"}, "new": {"source": "y"}}
    return {"models": models, "pairs": {"p": {"old": "old", "new": "new"}}, "adapters": str(table)}


def test_defaults_stand_where_sections_are_missing(minimal):
    config = load({**minimal, "calibration": {"texts": "t"}}, SCHEMAS)
    assert config.mapping("lorasuite")["wh"] == "auto"
    assert config.transfer("lorasuite") == {
        "scale": "paper",
        "new_layers": "zero",
        "dtype": "float32",
        "factors": "fresh",
        "gain": "auto",
        "allow_large": False,
    }
    assert config.content["calibration"]["examples"] == 512


def test_text_from_the_command_line_is_read_as_numbers(minimal):
    sections = {
        "calibration": {"texts": "t", "examples": "36", "batch_size": "1e2"},
        "mapping": {"max_offset": "null", "underdetermined": "true"},
        "finetune": {"seeds": ["0", "1"]},
    }
    content = load({**minimal, **sections}, SCHEMAS).content
    assert content["calibration"]["examples"] == 36
    assert repr(content["calibration"]["batch_size"]) == "100"
    assert content["mapping"]["max_offset"] is None
    assert content["mapping"]["underdetermined"] is True
    assert content["finetune"]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("given", "read"), [("0.1", 0.1), ("1e-3", 0.001), ("1", 1), ("auto", "auto"), (0.1, 0.1)]
)
def test_text_is_read_as_a_number_where_a_word_or_a_number_is_allowed(minimal, given, read):
    variants = {"v": {"method": "aligned", "mapping": {"ridge": given}}}
    sections = {"calibration": {"texts": "12"}, "mapping": {"ridge": given}, "variants": variants}
    config = load({**minimal, **sections}, SCHEMAS)
    for name in ("aligned", "v"):
        found = config.mapping(name)["ridge"]
        assert found == read and type(found) is type(read)
    assert config.texts("old") == "12"  # a path, whatever it looks like


@pytest.mark.parametrize("given", ["automatic", "-0.1", "-1e-1", 0, "null"])
def test_what_is_neither_is_told_by_what_is_allowed(minimal, given):
    with pytest.raises(LoraportError, match=r"mapping\.ridge.*auto, or a number above 0"):
        load({**minimal, "calibration": {"texts": "t"}, "mapping": {"ridge": given}}, SCHEMAS)


def test_variants_override_mapping_and_transfer(minimal):
    variant = {"method": "lorasuite", "mapping": {"wi": "paper"}, "transfer": {"scale": "norm"}}
    config = load({**minimal, "calibration": {"texts": "t"}, "variants": {"v": variant}}, SCHEMAS)
    assert config.method("v") == "lorasuite"
    assert config.mapping("v")["wi"] == "paper"
    assert config.mapping("lorasuite")["wi"] == "code"
    assert config.transfer("v")["scale"] == "norm"


def test_a_variant_has_artifacts_of_its_own_where_it_makes_others(minimal):
    settings = {"heads": {"heads": "none"}, "layers": {"layers": "last"}, "wh": {"wh": "embedding"}}
    settings |= {"own": {"wi": "paper"}}
    variants = {name: {"method": "lorasuite", "mapping": each} for name, each in settings.items()}
    config = load({**minimal, "calibration": {"texts": "t"}, "variants": variants}, SCHEMAS)
    own = {
        name: [each for each in DEPENDS_ON if "variants" in config.home("p", name, each)]
        for name in (*variants, "lorasuite")
    }
    assert own == {
        "heads": ["heads"],
        "layers": ["layers", "heads", "moments", "gradients"],
        "wh": ["embedding", "heads"],
        "own": [],
        "lorasuite": [],
    }
    every = set().union(*DEPENDS_ON.values())
    read = {each for name in methods.names() for each in methods.settings(name)}
    where = {"keep_moments"}  # says where moments lie, and not what they or maps are
    assert every | read | where == set(config.content["mapping"])  # no setting is forgotten


def test_moments_serve_every_mapping_that_may_read_them(minimal):
    variants = {
        "few": {"method": "aligned", "mapping": {"modules": ["down", "q"]}},
        "own": {"method": "aligned", "mapping": {"modules": ["k"], "layers": "last"}},
    }
    sections = {"calibration": {"texts": "t"}, "mapping": {"modules": ["v", "q"]}}
    config = load({**minimal, **sections}, SCHEMAS)
    assert config.summed_modules() == ["q", "v"]
    variants["heads"] = {"method": "lorasuite", "mapping": {"modules": ["gate"]}}  # reads none
    config = load({**minimal, **sections, "variants": variants}, SCHEMAS)
    assert config.summed_modules() == ["q", "v", "down"]  # those of "own" have a file of their own
    assert config.summed_modules("own") == ["k"]


@pytest.mark.parametrize("asked", [3, -1, 5.5])
def test_how_many_prompts_there_may_be_is_told(minimal, asked):
    with pytest.raises(LoraportError, match="Expected: 0, or a whole number of at least 5"):
        load({**minimal, "calibration": {"texts": "t"}, "mapping": {"prompts": asked}}, SCHEMAS)


def test_a_variant_has_output_maps_of_its_own_where_it_makes_others(minimal):
    settings = {"texts": {"calibrate_on": "generic"}, "prior": {"prior": "zero"}}
    settings |= {"layers": {"layers": "last"}}
    name = "aligned_sequential"
    variants = {each: {"method": name, "mapping": value} for each, value in settings.items()}
    config = load({**minimal, "calibration": {"texts": "t"}, "variants": variants}, SCHEMAS)
    owners = {each: config.outputs_of(each) for each in (*variants, name, "aligned")}
    assert owners == {
        "texts": name, "prior": "prior", "layers": "layers", name: name, "aligned": ""
    }  # fmt: skip


def test_a_method_that_is_not_offered_may_be_named_and_is_no_choice_in_a_message(minimal):
    name, given = "aligned_sequential", {**minimal, "calibration": {"texts": "t"}}
    config = load({**given, "transfer": {"method": name}, "variants": {"v": {"method": name}}},
                  SCHEMAS)  # fmt: skip
    assert config.method("v") == name
    for wrong in ({"transfer": {"method": "qq"}}, {"variants": {"v": {"method": "qq"}}}):
        with pytest.raises(LoraportError, match="one of aligned, aligned_gradients") as told:
            load({**given, **wrong}, SCHEMAS)
        assert name not in str(told.value)
    with pytest.raises(LoraportError, match="one of aligned, aligned_gradients") as told:
        config.method("qq")
    assert name not in str(told.value)


def test_unknown_names_come_with_the_nearest_known(minimal):
    config = load({**minimal, "calibration": {"texts": "t"}}, SCHEMAS)
    with pytest.raises(LoraportError, match="did you mean 'p'"):
        config.pair("pp")
    with pytest.raises(LoraportError, match="did you mean 'lorasuite'"):
        config.method("lorasuit")
    with pytest.raises(LoraportError, match="no adapter 'b' of model 'old'"):
        config.adapter("b", "old")


def test_models_of_a_pair_read_the_same_texts(minimal):
    minimal["models"]["old"]["texts"] = "other.txt"
    with pytest.raises(LoraportError, match="different calibration texts"):
        load({**minimal, "calibration": {"texts": "t"}}, SCHEMAS)


def test_a_pair_needs_calibration_texts(minimal):
    with pytest.raises(LoraportError, match="no texts for its models"):
        load(minimal, SCHEMAS)


def test_shipped_config_is_sound_and_every_key_is_commented():
    text = (PROJECT / "config/config.yaml").read_text()
    content = yaml.safe_load(text)
    content["adapters"] = str(PROJECT / content["adapters"])
    config = load(content, SCHEMAS)
    assert ("math", "qwen15") in config.adapters
    sections = ("calibration", "mapping", "transfer")
    for section in sections:
        for key in content[section]:
            line = next(line for line in text.splitlines() if re.match(rf"  {key}:", line))
            assert "#" in line, f"{section}.{key} has no comment"
        assert set(content[section]) == set(config.content[section]), "a key is not shown"


def test_environment_and_lock_agree_with_pyproject():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["workflow"], *extras["evaluation"]}
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    listed = {each for each in environment if isinstance(each, str)} | set(environment[-1]["pip"])
    listed = {each.replace("pytorch>", "torch>") for each in listed} - {"pip"}
    listed = {each for each in listed if not each.startswith("python>")}
    assert listed == wanted
    lock = (PROJECT / "requirements.lock").read_text()
    for requirement in wanted.union(*(extras[name] for name in ("export", "dev", "docs"))):
        name = re.sub("[-_]", "[-_]", re.match(r"[\w-]+", requirement)[0])
        assert re.search(rf"^{name}==", lock, re.M | re.I), f"{requirement} is not locked"
    assert "+cpu" not in lock
    assert "--hash" not in lock


def test_pairs_of_releases_are_those_that_the_page_names():
    shipped = yaml.safe_load((PROJECT / "config/config.yaml").read_text())
    page = (PROJECT / "config/README.md").read_text()
    section = page.partition("## Pairs from one release to the next")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| .+ \|$", section, re.M)
    assert len(rows) == 8
    for name, *ids in rows:
        sides = (shipped["pairs"][name][side] for side in ("old", "new"))
        assert [shipped["models"][each]["source"] for each in sides] == ids
