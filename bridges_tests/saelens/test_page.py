"""The blocks of docs/bridges.md on SAELens and on TransformerLens 3, run as they stand."""

import shlex
import shutil

import pytest
import saelens_sae
import torch
from page_blocks import blocks, run_blocks
from test_architecture import repository

import itda
from itda.bridges.saelens_files import export
from itda.cli import main


@pytest.fixture
def desk(run_folder, batch, tmp_path, monkeypatch):
    """A folder with the run, its export, an SAE, and a repository in the cache of the Hub."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, "run")
    export({itda.Site(3): itda.ITDA.from_pretrained("run/layer_3")}, tmp_path / "run-saelens")
    made = saelens_sae.train("topk", batch.activations, latents=64, k=8, steps=20)
    made.sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    made.sae.save_inference_model("topk")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository(tmp_path / "cache", run_folder / "layer_3", "layer_3")
    return tmp_path


def test_the_blocks_on_saelens_run(desk, batch):
    found = run_blocks("bridges.md", "SAELens", {"activations": batch.activations[:20]})
    assert found["sae"].cfg.architecture() == "matching_pursuit"
    assert found["model"].labels[17].token
    with torch.no_grad():
        assert found["sae"].encode(found["activations"]).shape == (20, 400)


def test_the_blocks_on_transformerlens_run(desk, tiny_hooked, capsys):
    for line in "".join(blocks("bridges.md", "TransformerLens", "sh")).splitlines():
        main(shlex.split(line)[1:])
    assert "layer_3" in capsys.readouterr().out
    found = run_blocks("bridges.md", "TransformerLens", {"model": tiny_hooked, "itda": itda})
    assert [label.token for label in found["batch"].labels[[0, -1]]] == ["for", " os"]
    assert len(found["code"].indices) == len(found["batch"])
