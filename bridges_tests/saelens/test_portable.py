"""What `export` writes is SAELens' own matching pursuit, without this package: the same codes as the pursuit `mp`."""

import json
from dataclasses import replace

import pytest
import torch
from sae_lens import SAE, MatchingPursuitSAE

from itda import ITDA, Site
from itda.bridges.saelens_files import export
from itda.cli import main


@pytest.fixture(scope="module")
def exported(dictionary, tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("exported"), []
    export({Site(3): dictionary}, folder, say=said.append)
    assert said == ["layer_3: SAELens' pursuit is mp, without the refit of mp_refit: codes differ somewhat"]
    return folder / "layer_3"


@pytest.fixture(scope="module")
def sae(exported):
    return SAE.load_from_disk(exported)


def test_it_is_their_own_architecture_over_each_atom_and_its_negative(sae, dictionary):
    assert type(sae) is MatchingPursuitSAE
    assert torch.equal(sae.W_dec, torch.cat([dictionary.atoms, -dictionary.atoms]))
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_post"


def test_codes_and_reconstructions_equal_ours_but_for_ties(sae, dictionary, batch):
    model, x = replace(dictionary, pursuit="mp"), batch.activations
    code = model.encode(x)
    ours, number = code.dense(len(model)).double(), len(model)
    with torch.no_grad():
        codes, rebuilt = sae.encode(x).double(), sae(x)
    theirs = codes[:, :number] - codes[:, number:]
    same = ((theirs != 0) == (ours != 0)).all(dim=1)
    # Where a pick differs, two atoms were as good within float32: both codes leave as much over.
    assert float(same.double().mean()) > 0.999
    left = [float((x[~same] - each[~same]).double().norm()) for each in (rebuilt, model.decode(code))]
    assert left[0] == pytest.approx(left[1], rel=1e-3)
    assert float((theirs - ours)[same].norm() / ours[same].norm()) < 1e-5
    assert float((rebuilt.double() - model(x).double()).norm() / x.double().norm()) < 1e-4


def test_each_latent_has_the_label_of_its_atom(exported, dictionary):
    rows = [json.loads(line) for line in (exported / "labels.jsonl").read_text().splitlines()]
    assert [row["latent"] for row in rows] == list(range(2 * len(dictionary)))
    for row in (rows[7], rows[len(dictionary) + 7]):
        label = dictionary.labels[7]
        assert (row["atom"], row["token"], row["document"]) == (7, label.token, label.document)
    assert [rows[7]["negative"], rows[len(dictionary) + 7]["negative"]] == [False, True]


def test_paths_of_this_machine_are_left_out(dictionary, tmp_path):
    made = {**dictionary.provenance, "model": "/home/someone/models/tiny"}
    export({Site(3): replace(dictionary, provenance=made)}, tmp_path)
    assert json.loads((tmp_path / "layer_3" / "cfg.json").read_text())["metadata"]["model_name"] == "tiny"


def test_the_command_writes_the_same(run_folder, tmp_path, capsys):
    main(["export", str(run_folder), str(tmp_path / "out"), "--to", "saelens", "--layer", "3.mlp_out"])
    said = capsys.readouterr()
    assert "layer_3.mlp_out: SAELens' pursuit is mp, without the refit of mp_refit" in said.out + said.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["layer_3.mlp_out"]
    sae = SAE.load_from_disk(tmp_path / "out" / "layer_3.mlp_out")
    model = ITDA.from_pretrained(run_folder / "layer_3.mlp_out")
    assert torch.equal(sae.W_dec[: len(model)], model.atoms)
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_mlp_out"
