"""benchmarks/model_families.py in its small form: stacked models are transformers' own, and every member comes out."""

import json

import families_model
import families_train
import model_families as families
import numpy as np
import pytest
import torch
from families_text import CONTEXT, VOCABULARY
from transformers import AutoModelForCausalLM

ARCHITECTURES = ("gpt2", "llama", "neox")


@pytest.fixture
def cache(tmp_path):
    """Made-up tokens and a tokenizer that no text was needed for."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    for kind in ("code", "prose"):
        values = np.random.default_rng(len(kind)).integers(2, VOCABULARY, 5000)
        np.save(tmp_path / f"{kind}.npy", values.astype(np.int16))
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(tmp_path / "tokenizer")
    return tmp_path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_member_has_the_loss_that_transformers_computes(architecture):
    shape = families_model.Shape(architecture, width=32, blocks=3, heads=2, inner=48)
    parameters = families_model.new_parameters(shape, [3, 4])
    random = torch.Generator().manual_seed(0)
    parameters = {name: p + 0.1 * torch.randn(p.shape, generator=random) for name, p in parameters.items()}
    tokens = torch.randint(VOCABULARY, (2, 3, CONTEXT), generator=random)
    found = families_model.losses(shape, parameters, tokens)
    for member in range(2):
        model = AutoModelForCausalLM.from_config(shape.config()).eval()
        model.load_state_dict(families_model.member_state(parameters, member), strict=False)
        model.tie_weights()
        with torch.no_grad():
            loss = model(input_ids=tokens[member], labels=tokens[member]).loss
        torch.testing.assert_close(found[member], loss, rtol=1e-4, atol=1e-4)


def test_a_member_learns_the_same_alone_as_beside_others(cache):
    shape = families_model.Shape("neox", width=32, blocks=2, heads=2, inner=48)
    kept = {}
    for seeds in ((1,), (1, 2)):
        name = f"d-{len(seeds)}"
        families_train.train(families_train.Family(name, shape, "code", 3, seeds), cache, "cpu", float("inf"))
        kept[len(seeds)] = torch.load(cache / f"{name}.pt", weights_only=True)["parameters"]
    for name, values in kept[1].items():
        torch.testing.assert_close(values[0].float(), kept[2][name][0].float(), rtol=0, atol=2e-3)


def test_a_run_that_goes_on_ends_with_the_same_weights(cache, monkeypatch):
    family = families.SMALL[0]
    families_train.train(family, cache, "cpu", float("inf"))
    whole = torch.load(cache / f"{family.name}.pt", weights_only=True)["parameters"]
    monkeypatch.setattr(families_train, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(families_train, "LOOK_EVERY", 2)
    step = families_train.Optimizer.step

    def ended(optimizer, number, factors):
        if number == 4:
            raise KeyboardInterrupt
        step(optimizer, number, factors)

    monkeypatch.setattr(families_train.Optimizer, "step", ended)
    with pytest.raises(KeyboardInterrupt):
        families_train.train(family, cache, "cpu", float("inf"))
    monkeypatch.setattr(families_train.Optimizer, "step", step)
    about = families_train.train(family, cache, "cpu", float("inf"))
    assert about["steps"] == family.steps
    again = torch.load(cache / f"{family.name}.pt", weights_only=True)["parameters"]
    assert all(torch.equal(values, again[name]) for name, values in whole.items())


def test_a_shorter_member_stops_and_time_ends_a_run(cache):
    shape = families_model.Shape("llama", width=32, blocks=2, heads=2, inner=48)
    family = families_train.Family("d-x", shape, "code", 1000, (1, 2), (1.0, 0.5))
    about = families_train.train(family, cache, "cpu", families_train.time.monotonic() + 1.5)
    assert 0 < about["steps"] < 1000
    assert families_train.factor(1.0 / 0.5) == 0 == families_train.factor(1.0)
    assert families_train.factor(0.3) == 1


def test_packed_families_become_models_that_transformers_opens(cache, capsys, monkeypatch):
    monkeypatch.setattr(families, "PART", 100_000)
    only = ["d-gpt2-small", "d-llama-small", "h-neox-small"]
    for family in families.SMALL:
        if family.name in only:
            families._train_one(family, cache, "cpu", float("inf"), 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["family"] for line in lines] == only
    chosen = [family for family in families.SMALL if family.name in only]
    written = families.pack(chosen, cache, cache / "packed")
    assert len(written) > 1
    assert all(path.stat().st_size < 100_000 + 40_000 for path in written)
    families.main(["--cache", str(cache), "--only", *only, "--unpack", str(cache / "packed")])
    for family in chosen[:2]:
        kept = torch.load(cache / f"{family.name}.pt", weights_only=True)["parameters"]
        for member, folder in enumerate(families.members(family, cache)):
            state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
            for name, values in families_model.member_state(kept, member).items():
                assert torch.equal(state[name], values.float())
    with pytest.raises(SystemExit, match="no models of h-neox-small"):
        families.members(chosen[2], cache)
