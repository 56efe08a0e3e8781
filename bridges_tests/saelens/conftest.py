"""What the tests of SAELens share: a run on the bundled model, its activations, and the model under TransformerLens."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch
from hooked import hooked
from transformers import AutoModelForCausalLM

import itda
from itda.sources.models.names import TINY

SITE = "layer_3"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Passages of this package's own source, of about 60 tokens."""
    source = "\n".join(path.read_text() for path in sorted(Path(itda.__file__).parent.glob("core/*.py")))
    return [source[start : start + 300] for start in range(0, 45_000, 300)]


@pytest.fixture(scope="session")
def lm():
    return itda.load_model("tiny")


@pytest.fixture(scope="session")
def run_folder(lm, texts, tmp_path_factory):
    """A run of two layers and an MLP, as `itda train` makes it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    given = {"streams": ["resid_post", "mlp_out"], "k": 8, "atoms": 200, "window": 64, "tokens": 4_000}
    itda.train("tiny", texts, layers=[3], out=folder, progress=False, refine=1, **given)
    return folder


@pytest.fixture(scope="session")
def dictionary(run_folder):
    return itda.ITDA.from_pretrained(run_folder / SITE)


@pytest.fixture(scope="session")
def batch(lm, texts):
    """2,000 activations of the site, with their labels."""
    with itda.harvest(lm, texts, layers=3, window=64, tokens=2_000) as batches:
        parts = [each[itda.Site(3)] for each in batches]
    labels = itda.Labels.concatenate([part.labels for part in parts])
    return itda.ActivationBatch(torch.cat([part.activations for part in parts]), labels)


@pytest.fixture(scope="session")
def tiny_hooked():
    """The bundled model as SAELens has models."""
    from sae_lens import HookedSAETransformer

    return hooked(AutoModelForCausalLM.from_pretrained(TINY), TINY, kind=HookedSAETransformer)
