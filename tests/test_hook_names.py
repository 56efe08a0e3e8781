"""Names of hooks, caches and wrapped models of TransformerLens and nnsight, where sites, activations and models go.

What their own packages make of them is tested in bridges_tests/saelens and bridges_tests/transformer-lens.
"""

import copy
import re

import nnsight
import numpy as np
import pytest
import torch
from page_blocks import run_blocks
from transformers import AutoModelForCausalLM, AutoTokenizer

import itda
from itda import ActivationBatch, Site
from itda.errors import SettingError
from itda.parsing import parse_layers, parse_some_sites
from itda.sources.models.names import TINY

TEXTS = ["for line in open(path):", "import os"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY)


def test_layers_and_sites_are_read_from_hook_names():
    assert parse_layers("blocks.3.hook_resid_post, 5-6") == (3, 5, 6)
    assert parse_some_sites("blocks.3.hook_mlp_out,4") == (Site(3, "mlp_out"), Site(4))
    with pytest.raises(SettingError, match=r"^blocks.3.hook_mlp_out is no layer: write --layers 3 --streams mlp_out$"):
        parse_layers("blocks.3.hook_mlp_out")


def test_a_cache_is_labelled_by_token_ids_without_special_tokens(tokenizer):
    ids = tokenizer(TEXTS, return_tensors="pt", padding=True).input_ids
    x = torch.randn(*ids.shape, 8)
    batch = ActivationBatch.from_cache({"blocks.3.hook_resid_post": x}, ids, "layer_3", tokenizer=tokenizer)
    kept = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(batch.activations, x[kept])
    assert 0 < len(batch) < ids.numel()
    assert batch.labels.token_id.tolist() == ids[kept].tolist()
    assert dict.fromkeys(batch.labels.document) == dict.fromkeys(TEXTS)


def test_a_cache_is_labelled_by_strings_as_activations_are(tokenizer):
    x = torch.randn(2, 2, 8)
    strings = [["To", " be"], ["or", " not"]]
    for name, site in (("blocks.3.hook_out", 3), ("blocks.3.hook_mlp_out", Site(3, "mlp_out"))):
        batch = ActivationBatch.from_cache({name: x}, strings, site, mask=[[1, 1], [0, 1]], documents=["a", "b"])
        same = ActivationBatch.of(x, tokens=strings, mask=[[1, 1], [0, 1]], documents=["a", "b"])
        assert torch.equal(batch.activations, same.activations)
        assert batch.labels.keys() == same.labels.keys()


def test_one_prompt_comes_without_the_axis_of_prompts(tokenizer):
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids[0]
    x = torch.randn(len(ids), 8)
    whole = ActivationBatch.from_cache({"blocks.3.hook_out": x[None]}, ids[None], 3, tokenizer=tokenizer)
    alone = ActivationBatch.from_cache({"blocks.3.hook_out": x}, ids, 3, tokenizer=tokenizer)
    assert torch.equal(whole.activations, alone.activations)
    assert np.array_equal(whole.labels.token_id, alone.labels.token_id)


def test_bad_input_is_one_line(tokenizer):
    cache = {"blocks.3.hook_out": torch.ones(1, 2, 8)}
    for tokens, site, given, remedy in (
        ([["a", "b"]], 2, {}, "the cache has no blocks.2.hook_resid_post (it has blocks.3.hook_out, ...): cache that"),
        ([["a", "b"]], "blocks.3.hook_z", {}, "no site 'blocks.3.hook_z': write blocks.3.hook_resid_post"),
        ([["a", "b"]], 3, {"tokenizer": tokenizer}, "with a tokenizer, tokens are ids [batch, positions]"),
        ([["a"]], 3, {}, "prompt 0 has 1 token strings: give 2"),
    ):
        with pytest.raises(SettingError, match=re.escape(remedy)) as raised:
            ActivationBatch.from_cache(cache, tokens, site, **given)
        assert "\n" not in str(raised.value)


def test_an_nnsight_model_is_read_as_the_model_that_it_wraps(tokenizer):
    lm = itda.load_model("tiny")
    traced = nnsight.TransformersModel(str(TINY), task="text-generation", tokenizer=copy.deepcopy(tokenizer))
    wrapped = itda.load_model(traced)  # in the checkpoint's dtype, float16
    traced._module.float()
    assert wrapped.name == str(TINY)
    assert wrapped.tokenizer_hash == lm.tokenizer_hash
    found = []
    for model in (lm, wrapped):
        with itda.harvest(model, TEXTS, layers=3, window=16) as batches:
            found.append(torch.cat([batch[Site(3)].activations for batch in batches]))
    assert torch.equal(*found)
    with traced.trace(TEXTS[1]):  # it works as before
        saved = traced.model.layers[3].output.save()
    torch.testing.assert_close(saved[0, 1:], found[0][-2:], rtol=1e-2, atol=1e-3)  # there the window was padded


def test_nnsight_without_a_tokenizer_asks_for_one():
    traced = nnsight.NNsight(AutoModelForCausalLM.from_pretrained(TINY))
    with pytest.raises(SettingError, match="a model of your own needs its tokenizer"):
        itda.load_model(traced)


def test_the_block_on_nnsight_in_the_docs_runs(tokenizer):
    traced = nnsight.TransformersModel(AutoModelForCausalLM.from_pretrained(TINY).float(), tokenizer=tokenizer)
    texts = ["for line in open(path): print(line)", "import os"] * 8
    found = run_blocks("bridges.md", "nnsight", {"itda": itda, "traced": traced, "texts": texts})
    assert len(found["code"].indices) == 3
