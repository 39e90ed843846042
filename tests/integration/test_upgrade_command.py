"""`loraport upgrade` as users call it: several adapters, a bad one among them, one process."""

import csv
import json
import shutil

import pico
import pytest

from loraport.adapters.attach import attach
from loraport.cli import main
from loraport.commands import _fleet_run
from loraport.models.loading import load_base

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["--rates", "1e-2", "--epochs", "3", "--new-tokens", "5", "--temperature", "0.01"]
QUICK += ["--device", "cpu", "--cores", "1", "--teacher", "old", "--margin", "50"]


@pytest.fixture(scope="module")
def folder(pico_pair, tmp_path_factory):
    """Two adapters called `final`, one that can't be read, and prompts."""
    root = tmp_path_factory.mktemp("fleet")
    for name, alpha in (("customer", 6), ("legal", 6.5)):
        pico.make_adapter(root / name / "final", pico_pair.old, seed=3, alpha=alpha)
    shutil.copytree(root / "legal/final", root / "broken")
    (root / "broken/adapter_model.safetensors").write_bytes(b"no tensors")
    lines = [json.dumps({"prompt": f"the word {n} is"}) for n in range(140)]
    (root / "p.jsonl").write_text("\n".join(lines))
    return root


def called(pair, root, out, *more, adapters=("customer/final", "broken", "legal/final")):
    named = [pair.old, pair.new, *(root / each for each in adapters), out]
    files = ["--prompts", root / "p.jsonl", "--calibration", pair.texts, "--work", root / "work"]
    return main(["upgrade", *map(str, [*named, *files]), *QUICK, *more])


def test_a_fleet_has_a_row_each_and_a_bad_adapter_stops_no_other(
    pico_pair, folder, monkeypatch, capsys
):
    out = folder / "out"
    status = called(pico_pair, folder, out)
    with (out / "fleet.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["customer_final", "broken", "legal_final"]
    assert status == 3 and rows["broken"]["verdict"] == "FAILED" and rows["broken"]["why"]
    assert "customer_final" in capsys.readouterr().out
    fleet = json.loads((out / "fleet.json").read_text())
    assert [each["source"] for each in fleet["rows"]] == [
        str(folder / each) for each in ("customer/final", "broken", "legal/final")
    ]
    for name in ("customer_final", "legal_final"):
        report = json.loads((out / name / "upgrade.json").read_text())
        assert set(report["start"]["tried"]) == {"aligned"}
        assert report["adapter"].endswith("final")
        model, _ = load_base(pico_pair.new, device="cpu")
        attach(model, out / name)
        assert (
            json.loads((out / name / "verdict.json").read_text())["verdict"]
            == rows[name]["verdict"]
        )
    # a run that was killed goes on: what is done is taken as it is
    shutil.rmtree(out / "legal_final")
    done = []
    real = _fleet_run.upgrade
    monkeypatch.setattr(
        _fleet_run, "upgrade", lambda *a, **k: done.append(k["about"]["name"]) or real(*a, **k)
    )
    called(pico_pair, folder, out)
    assert done == ["legal_final"]
    with (out / "fleet.csv").open() as file:
        again = {row["name"]: row["verdict"] for row in csv.DictReader(file)}
    assert again == {name: row["verdict"] for name, row in rows.items()}
    assert called(pico_pair, folder, out, "--seed", "1") == 1  # another upgrade lies there
    assert "is there already" in capsys.readouterr().err


def test_strict_refuses_a_bad_adapter_before_anything_is_done(pico_pair, folder, capsys):
    assert called(pico_pair, folder, folder / "strict", "--strict") == 1
    assert "broken" in capsys.readouterr().err and not (folder / "strict").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--teacher", "odl"], "unknown teacher"),
        (["--rates", "fast"], "learning rates"),
        (["--prompts", "p.jsonl"], "one for each adapter"),
    ],
)
def test_what_is_asked_wrongly_is_told_first(pico_pair, folder, capsys, more, told):
    assert called(pico_pair, folder, folder / "wrong", *more) == 1
    assert told in capsys.readouterr().err and not (folder / "wrong").exists()
