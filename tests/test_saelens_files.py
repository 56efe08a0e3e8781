"""What is written for SAELens, without SAELens: `bridges_tests/saelens` has the real one read it."""

import json
import shutil

import numpy as np
import pytest
import torch
from made_up_run import make_run
from safetensors.torch import load_file

import itda
from itda import ITDA, Labels, Site
from itda.bridges.saelens_files import export, metadata_of
from itda.cli import main


def their_pursuit(x, weights, config):
    """SAELens' matching pursuit, as a slow loop: of positive correlations the largest, as often as the folder says."""
    assert config["architecture"] == "matching_pursuit"
    assert (config["residual_threshold"], config["stop_on_duplicate_support"]) == (0, False)
    atoms, bias = (weights[name].double().numpy() for name in ("W_dec", "b_dec"))
    assert atoms.shape == (config["d_sae"], config["d_in"])
    codes = np.zeros((len(x), len(atoms)))
    for row, z in enumerate(x.double().numpy() - bias):
        for _ in range(config["max_iterations"]):
            correlations = np.maximum(atoms @ z, 0)
            pick = correlations.argmax()
            codes[row, pick] += correlations[pick]
            z = z - correlations[pick] * atoms[pick]
    return codes


@pytest.mark.parametrize("offset", [False, True])
def test_their_pursuit_over_atoms_and_negatives_gives_the_codes_of_mp(offset, tmp_path):
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(60, 12, generator=generator), dim=1)
    mean = torch.randn(12, generator=generator) if offset else None
    model = ITDA(atoms, Labels.of_rows(60), 6, offset=mean, site=Site(2), provenance={"model": "gpt2"})
    x, said = torch.randn(40, 12, generator=generator), []
    export({Site(2): model}, tmp_path, say=said.append)
    folder = tmp_path / "layer_2"
    weights, config = load_file(folder / "sae_weights.safetensors"), json.loads((folder / "cfg.json").read_text())
    codes = their_pursuit(x, weights, config)
    np.testing.assert_allclose(codes[:, :60] - codes[:, 60:], model.encode(x).dense(60), atol=1e-5)
    assert (codes[:, :60] > 0).any()
    assert (codes[:, 60:] > 0).any()
    assert said == []
    assert config["metadata"] == {**metadata_of(model)}
    assert config["metadata"]["hook_name"] == "blocks.2.hook_resid_post"


def test_a_run_needs_no_index_and_one_without_labels_is_refused(tmp_path, capsys):
    make_run(tmp_path / "run", sites=(Site(1),))
    shutil.rmtree(tmp_path / "run" / "index")
    made = itda.export(tmp_path / "run", to="saelens", progress=False)
    files = sorted(path.name for path in (made.folder / "layer_1").iterdir())
    assert files == ["cfg.json", "labels.jsonl", "sae_weights.safetensors"]
    (tmp_path / "run" / "layer_1" / "labels.parquet").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "run"), str(tmp_path / "other"), "--to", "saelens"])
    assert stop.value.code == 2
    assert "layer_1 is damaged or incomplete" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
