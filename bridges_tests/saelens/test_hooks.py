"""What a hook of TransformerLens reads is what we read at the site of that name, in both kinds of its models."""

import pytest
import torch
from hooked import hooked, saved
from sources.models.families import SITES, build, language_model, ragged_group
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from itda import ActivationBatch

FAMILIES = ("gpt2", "llama", "gemma", "gemma-2", "gpt-neox")


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_under_a_hook_are_those_of_the_site_that_it_names(family, tmp_path):
    lm = language_model(family)
    group = ragged_group(lm)
    rows = len(group.windows)
    found = {}
    for _, by_site in lm.harvest([group], SITES):
        found |= by_site
    folder = saved(build(family), lm.tokenizer, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    models = {
        "HookedTransformer": hooked(build(family), folder, family),
        "TransformerBridge": TransformerBridge.boot_transformers(
            str(folder), hf_model=build(family), tokenizer=tokenizer, device="cpu"
        ),
    }
    ids, kept = group.input_ids[:rows], group.is_activation[:rows]
    for kind, model in models.items():
        with torch.no_grad():
            _, cache = model.run_with_cache(ids)
        for site in SITES:
            at = f"{kind}, {site.hook_name}"
            torch.testing.assert_close(
                cache[site.hook_name][kept], found[site], rtol=1e-4, atol=1e-5, msg=lambda m, at=at: f"{at}: {m}"
            )
            batch = ActivationBatch.from_cache(cache, ids, site.hook_name, tokenizer=tokenizer, mask=kept)
            assert torch.equal(batch.activations, cache[site.hook_name][kept])
            assert batch.labels.token_id.tolist() == group.labels().token_id.tolist()
