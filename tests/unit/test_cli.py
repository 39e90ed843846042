"""`loraport inspect`: an adapter told in a few lines, or why it can't be carried."""

import json

import pico

from loraport.cli import main


def test_inspect_tells_kind_base_ranks_and_norms(pico_pair, capsys):
    assert main(["inspect", str(pico_pair.adapter), "--base", str(pico_pair.old)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "lora"]
    assert lines[1].split() == ["base", str(pico_pair.old)]
    assert lines[2].split() == ["modules", "21"]
    down = next(line for line in lines if "down_proj" in line)
    assert "3 layers   rank 4   shape 32×56" in down


def test_inspect_tells_what_is_wrong(pico_pair, tmp_path, capsys):
    assert main(["inspect", str(pico_pair.adapter), "--base", str(pico_pair.new)]) == 1
    assert "another base model" in capsys.readouterr().err
    adapter = pico.make_adapter(tmp_path / "pissa", pico_pair.old, seed=1, targets=["q_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": "pissa"}))
    assert main(["inspect", str(adapter)]) == 1
    assert "changed its base" in capsys.readouterr().err
