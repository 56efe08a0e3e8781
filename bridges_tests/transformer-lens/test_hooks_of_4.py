"""TransformerLens 4: what its hooks read is what we read at the site of that name, old or new."""

import pytest
import torch
from sources.models.families import SITES, build, language_model, ragged_group
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from itda import ActivationBatch, Site


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "gemma-2", "gpt-neox"])
def test_activations_under_a_hook_are_those_of_the_site_that_it_names(family, tmp_path):
    lm = language_model(family)
    group = ragged_group(lm)
    rows = len(group.windows)
    found = {}
    for _, by_site in lm.harvest([group], SITES):
        found |= by_site
    build(family).save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=build(family), tokenizer=tokenizer, device="cpu"
    )
    ids, kept = group.input_ids[:rows], group.is_activation[:rows]
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
    for site in SITES:
        batch = ActivationBatch.from_cache(cache, ids, site.hook_name, tokenizer=tokenizer, mask=kept)
        torch.testing.assert_close(batch.activations, found[site], rtol=1e-4, atol=1e-5)
        assert batch.labels.token_id.tolist() == group.labels().token_id.tolist()
    own = "blocks.1.hook_out"
    assert torch.equal(cache[own], cache["blocks.1.hook_resid_post"])
    assert Site.of(own) == Site.of("blocks.1.hook_resid_post")
