"""An adapter of attention and experts, from the models' files to one that peft loads."""

import json

import expert_twins
import methodcase
import pico
import pytest
from inprocess import CALIBRATION, TRANSFER, PairRun
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("one_thread")


class ExpertRun(PairRun):
    """With the rule `experts` between layers and transfers."""

    def experts(self):
        inputs = {**self._specs(), "layers": self.layers()}
        reading = {
            "texts_version": "1",
            "remote_code": [False, False],
            "calibration": {**CALIBRATION, "stream": "auto"},
        }
        sources = {**self._sources(), "texts": str(self.texts)}
        return self._script("experts", "experts.h5", inputs, sources=sources, reading=reading)

    def carried(self, adapter, **more):
        params = {
            "settings": dict(TRANSFER),
            "known_as": [str(self.models["old"])],
            "base": str(self.models["new"]),
            "revision": "",
            "of": {"old": "old", "new": "new", "app": "app", "method": "lorasuite"},
        }
        inputs = {**self._specs(), "maps": self.maps(), "adapter": adapter, **more}
        name = f"carried_{len(more)}"
        return self._script("transferred", name, inputs, transfer=params)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    old, new = expert_twins.make_pair(root, "mixtral")
    return ExpertRun(root, old, new, pico.make_texts(root / "texts.txt", 60))


def test_attention_goes_through_the_maps_and_experts_through_their_match(run, tmp_path, caplog):
    adapter = pico.make_adapter(
        tmp_path / "lora",
        run.models["old"],
        seed=3,
        targets=pico.ATTENTION,
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
    )
    file = adapter / "adapter_model.safetensors"
    for name, values in (tensors := load_file(file)).items():  # lorasuite's W_h can't turn a stream
        tensors[name] = values * ("self_attn" not in name or "lora_A" in name)
    save_file(tensors, file, {"format": "pt"})
    out = run.carried(adapter, experts=run.experts())
    report = json.loads((out / "transfer.json").read_text())
    assert len(report["modules"]) == 8
    assert {entry["source"] for entry in report["experts"]["layers"].values()} == {0, 1}
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_parameters"] == sorted(config["target_parameters"])
    assert len(config["target_parameters"]) == 4 and len(config["target_modules"]) == 4
    assert methodcase.lost(run.models["old"], run.models["new"], adapter, out) < 1e-4
    with pytest.raises(SystemExit):
        run.carried(adapter)
    assert "no match of experts was given" in caplog.text
