"""Steering in every family of causal models; by the latents of an SAE; and models that no hook reaches."""

from types import SimpleNamespace

import pytest
import torch
from sources.models.families import CAUSAL, TEXTS, WIDTH, ragged_group, real, shared

import itda
from itda.bridges.decoders import from_sae
from itda.core.site import Site
from itda.errors import ModelError, SettingError
from itda.sources.corpora.corpus import Document
from itda.sources.models.ndif import RemoteModel

SITE = Site(1)
PROMPT = "the cat sat on"


@pytest.fixture(scope="module")
def atoms():
    random = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(16, WIDTH, generator=random), dim=1)
    return itda.ITDA(directions, itda.Labels.of_rows(16), k=4, site=SITE)


def hooks_of(lm):
    modules = list(lm.model.modules())
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def read(lm, group):
    return lm.activations(group, [SITE])[SITE]


@pytest.mark.parametrize("name", CAUSAL)
def test_nothing_changes_no_bit_and_an_atom_is_added_where_text_is_and_hooks_are_gone(name, atoms):
    lm = shared(name)
    group = ragged_group(lm)
    clean, before, text = lm.logits(group), read(lm, group), lm.generate(PROMPT, max_new_tokens=3)
    hooks = hooks_of(lm)
    for asked in ({"atom": 3, "strength": 0}, {"keep": range(16)}, {"ablate": []}):
        with itda.steer(lm, atoms, **asked):
            assert torch.equal(lm.logits(group), clean)
            assert lm.generate(PROMPT, max_new_tokens=3) == text
    with itda.steer(lm, atoms, atom=3, strength=-4, sample=list(TEXTS)) as steering:
        assert hooks_of(lm) > hooks
        after, changed = read(lm, group), lm.logits(group)
    here = group.is_activation
    expected = -4 * steering.unit[3] * atoms.atoms[3]
    torch.testing.assert_close((after - before)[here], expected.expand(int(here.sum()), -1), atol=1e-3, rtol=1e-4)
    special = real(group) & ~here
    assert torch.equal(after[special], before[special])
    assert not torch.equal(changed, clean)
    with pytest.raises(KeyboardInterrupt), itda.steer(lm, atoms, ablate=[3]):
        raise KeyboardInterrupt
    assert hooks_of(lm) == hooks
    assert torch.equal(lm.logits(group), clean)


@pytest.fixture(scope="module")
def sae():
    """A made-up SAE of TopK for layer 3 of tiny; its latent 2 is dead."""
    random = torch.Generator().manual_seed(1)
    decoder = torch.randn(24, 192, generator=random)
    decoder[2] = 0
    about = SimpleNamespace(hook_name="blocks.3.hook_resid_post", model_name="tiny", context_size=64)
    config = SimpleNamespace(metadata=about, k=5)
    return SimpleNamespace(W_dec=decoder, b_dec=torch.randn(192, generator=random), cfg=config)


def test_a_latent_of_an_sae_is_steered_by_from_its_decoder_to_the_text(lm, sae):
    dictionary = from_sae(sae)
    latent = 7
    atom = [label.token for label in dictionary.labels].index(f"latent {latent}")
    assert atom == latent - 1  # the dead one has no atom
    texts = ["import os, sys", "for i in range(9): print(i)"] * 6
    with pytest.raises(SettingError, match=r"labels have no texts .* give sample=\[texts\]"):
        itda.steer(lm, dictionary, atom=atom)
    windower = lm.windower(32)
    group = windower.group(windower.windows(Document("text", texts[0])), 1)
    at = Site(3)
    before = lm.activations(group, [at])[at][group.is_activation]
    with itda.steer(lm, dictionary, atom=atom, strength=6, sample=texts) as steering:
        after = lm.activations(group, [at])[at][group.is_activation]
    expected = 6 * steering.unit[atom] * sae.W_dec[latent] / sae.W_dec[latent].norm()
    torch.testing.assert_close(after - before, expected.expand_as(before), atol=2e-3, rtol=1e-4)
    found = itda.steered(lm, dictionary, "def read(path):", atom=atom, strength=[6], tokens=4, controls=3, sample=texts)
    assert found.site == at
    assert found.labels[0].token == f"latent {latent}"
    assert len({atom, *(row[0] for row in found.ways[0].control_atoms)}) == 4
    with itda.steer(lm, dictionary, atom=atom, strength=6, sample=texts):
        assert lm.generate("def read(path):", max_new_tokens=4) == found.ways[0].steered.text
    assert "latent 7" in repr(found)


def test_a_latents_share_of_the_code_is_ablated(lm, sae):
    dictionary = from_sae(sae)
    x = torch.randn(40, 192, generator=torch.Generator().manual_seed(2)) + sae.b_dec
    code = dictionary.encode(x)
    atom = int(code.indices[0, 0])
    edit = itda.steer(lm, dictionary, ablate=[atom]).edit
    expected = x - code.dense(len(dictionary))[:, [atom]] * dictionary.atoms[atom]
    torch.testing.assert_close(edit(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["streamed", "NDIF"])
def test_models_that_no_hook_reaches_are_refused_in_a_line_by_all_that_steers(lm, dictionary, kind):
    model = itda.load_model("tiny", stream=True) if kind == "streamed" else RemoteModel(lm, None, True, "tiny")
    tries = [
        lambda: itda.steer(model, dictionary, atom=1),
        lambda: itda.steer(model, direction=torch.ones(192), site=3),
        lambda: itda.steered(model, dictionary, "import os", atom=1),
        lambda: itda.attribute(model, dictionary, "import os"),
        lambda: itda.steering.difference_of_means(model, 3, ["a"], ["b"]),
        lambda: itda.steering.cost_of_removal(model, dictionary, [1], ["import os"] * 4),
    ]
    for attempt in tries:
        with pytest.raises(ModelError, match="tiny runs where hooks of this process do not reach") as refusal:
            attempt()
        assert str(refusal.value).endswith("load it here without --stream, --workers and --remote")
        assert "\n" not in str(refusal.value)
