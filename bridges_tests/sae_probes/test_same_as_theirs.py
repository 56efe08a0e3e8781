"""sae-probes itself on the activations that `itda probe --sets sae-probes` kept: the same features and measures."""

import json
import os
import shlex
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from hooked import hooked
from page_blocks import blocks, run_blocks
from sae_probes.constants import DATA_PATH
from sae_probes.generate_model_activations import generate_single_dataset_activations
from sae_probes.run_baselines import run_baseline_dataset_layer
from sae_probes.run_sae_evals import run_sae_evals
from transformers import AutoModelForCausalLM

import itda
from itda.bridges.sae_probes import last_activations, probe_sets
from itda.bridges.sae_probes_sets import find_sets
from itda.cli import main
from itda.config import Probe
from itda.sources.models.names import TINY

SETS = ("5_hist_fig_ismale", "100_news_fake")
SITE, HOOK, LATENTS = itda.Site(3), "blocks.3.hook_resid_post", (1, 2, 16)
# Regressions of a weak penalty stop before they have converged, so that the last bits move a test row or two of 2,000.
WITHIN = {"code": 1e-3, "similarity": 2e-3}
MEASURES = ("test_auc", "test_acc", "test_f1", "val_auc")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    texts = ["import os\nclass A:\n    def f(self): return 1\n", "for line in open(path): print(line)\n"] * 40
    folder = tmp_path_factory.mktemp("run") / "run"
    itda.train("tiny", texts, layers=[3], k=8, atoms=200, window=64, out=folder, progress=False, refine=1)
    return folder


@pytest.fixture(scope="module")
def ours(run):
    """The scores of the run, the last 16 tokens of each prompt: what the activations are is no matter here."""
    options = Probe(run=run, sets="sae-probes", only=SETS, latents=LATENTS, prompt_tokens=16)
    return probe_sets(options).sites[SITE]


class Readout:
    """What sae-probes asks of an SAE."""

    def __init__(self, encode):
        self.encode = encode


@pytest.mark.parametrize("reader", ["code", "similarity"])
def test_their_evaluation_of_our_readouts_is_ours(run, ours, reader, tmp_path):
    dictionary = itda.ITDA.from_pretrained(run / "layer_3")
    encode = {"code": lambda x: dictionary.encode(x).dense(len(dictionary)), "similarity": dictionary.similarity}
    cache = run / "sae-probes" / "tokens_16"
    run_sae_evals(
        Readout(encode[reader]),
        model_name="tiny",
        hook_name=HOOK,
        reg_type="l2",
        setting="normal",
        ks=list(LATENTS),
        results_path=tmp_path,
        model_cache_path=cache,
        datasets=list(SETS),
        device="cpu",
    )
    for name in SETS:
        found = json.loads((tmp_path / "sae_probes_tiny" / "normal_setting" / f"{name}_{HOOK}_l2.json").read_text())
        for theirs, mine in zip(found, ours[reader][name], strict=True):
            assert theirs["indices"] == mine["indices"]
            near = pytest.approx([mine[each] for each in MEASURES], abs=WITHIN[reader])
            assert [theirs[each] for each in MEASURES] == near
            assert set(theirs) <= set(mine)


def test_their_baseline_is_our_neurons(run, ours, tmp_path):
    for name in SETS:
        given = {"model_name": "tiny", "model_cache_path": run / "sae-probes" / "tokens_16", "results_path": tmp_path}
        run_baseline_dataset_layer(HOOK, name, "logreg", **given)
        [path] = tmp_path.glob(f"baseline_results_tiny/normal_setting/{name}_*.json")
        [theirs] = json.loads(path.read_text())
        mine = ours["neurons"][name][-1]
        assert mine["k"] is None
        # Of 192 features that are far from one another in size, lbfgs stops before it has converged.
        assert [theirs[each] for each in MEASURES] == pytest.approx([mine[each] for each in MEASURES], abs=0.01)


def test_their_activations_are_ours(tmp_path, monkeypatch):
    """The first 40 prompts of a set, under TransformerLens, truncated to 24 tokens."""
    import pandas as pd

    read = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **given: read(path, **given)[:40])
    model = hooked(AutoModelForCausalLM.from_pretrained(TINY), TINY)
    path = DATA_PATH / "cleaned_data" / f"{SETS[0]}.csv.zst"
    generate_single_dataset_activations(model, "tiny", path, [HOOK], tmp_path, device="cpu", max_seq_len=24)
    theirs = torch.load(tmp_path / "model_activations_tiny" / f"{SETS[0]}_{HOOK}.pt")
    prompts = find_sets(None).load(SETS[0], None, 0).prompts[:40]
    mine = last_activations(itda.load_model("tiny"), prompts, [SITE], "auto", 24)[SITE]
    assert np.abs((theirs - mine).numpy()).max() < 1e-3 * mine.abs().max()


def test_the_classes_are_theirs():
    from sae_probes.utils_data import get_dataset_sizes, get_numbered_binary_tags, get_yvals

    sets = find_sets(None)
    assert list(sets.names) == get_numbered_binary_tags()
    for name in SETS:
        mine = sets.load(name, None, 0)
        assert mine.size == get_dataset_sizes()[name]
        assert mine.classes.tolist() == get_yvals(name)[:5000].tolist()


def test_the_blocks_of_the_page_run(run, ours, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "RUN")
    for each in list(Path("RUN/sae-probes/tokens_16").iterdir()):  # as if they were of 1,024 tokens
        each.rename(Path("RUN/sae-probes") / each.name)
    Path("sae_probes-0.4.2-py3-none-any.whl").symlink_to(DATA_PATH.parent)  # a folder does for a wheel
    for line in "".join(blocks("bridges.md", "sae-probes", "sh")).splitlines():
        main([*shlex.split(line)[1:], "--prompt-tokens", "16"])
    assert "the mean over 1 sets" in capsys.readouterr().out
    dictionary = itda.ITDA.from_pretrained(run / "layer_3")
    sae = Readout(lambda x: dictionary.encode(x).dense(len(dictionary)))
    run_blocks("bridges.md", "sae-probes", {"sae": sae})
    [path] = Path("results").rglob("5_hist_fig_ismale*.json")
    assert [each["indices"] for each in json.loads(path.read_text())] == [
        each["indices"] for each in ours["code"]["5_hist_fig_ismale"][:2]
    ]
