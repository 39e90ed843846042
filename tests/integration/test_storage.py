"""Artifacts kept by a storage plugin in place of the working directory."""

import importlib.util
import shutil

import pytest
from workdir import Workdir

PLUGIN = "snakemake_storage_plugin_fs"
ADAPTER = "artifacts/p/a/lora_transferred"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec(PLUGIN) is None or shutil.which("rsync") is None,
    reason="needs snakemake-storage-plugin-fs and rsync",
)
def test_a_pair_is_mapped_into_a_folder_elsewhere(tmp_path):
    work = Workdir(tmp_path)
    store = tmp_path / "store"
    store.mkdir()
    storage = ["--default-storage-provider", "fs", "--default-storage-prefix", str(store)]
    storage += ["--local-storage-prefix", str(tmp_path / "scratch"), "--shared-fs-usage"]
    storage += ["persistence", "software-deployment", "sources", "source-cache", "--"]
    work.run(*storage, ADAPTER)
    for artifact in ("models/new/spec.json", "p/maps/lorasuite.h5", "p/a/lora_transferred"):
        assert (store / "artifacts" / artifact).exists()
    assert (store / ADAPTER / "adapter_model.safetensors").is_file()
    assert not (tmp_path / ADAPTER).exists()
    assert work.planned(*storage, ADAPTER) == {}
