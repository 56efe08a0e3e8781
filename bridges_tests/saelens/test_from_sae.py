"""SAEs that SAELens trained, opened by us: its explained variance, our pursuit on its decoder, labels of latents."""

from dataclasses import replace

import pytest
import saelens_sae
import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore, GatedSAE, GatedSAEConfig, JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

import itda
from itda import Site, Unexplained
from itda.bridges.saelens import as_sae, from_sae, label
from itda.errors import SettingError

HOOK = "blocks.3.hook_resid_post"


@pytest.fixture(scope="module")
def trained(batch, tmp_path_factory):
    """A TopK SAE of the bundled model, trained for a second by SAELens, saved and loaded by it."""
    folder = tmp_path_factory.mktemp("sae")
    made = saelens_sae.train("topk", batch.activations, latents=256, k=8, steps=150)
    made.sae.save_inference_model(folder)
    sae = SAE.load_from_disk(folder)
    about = {"model_name": "tiny", "hook_name": HOOK, "context_size": 64, "prepend_bos": True}
    for name, value in about.items():
        sae.cfg.metadata[name] = value
    return sae


def fvu(x, rebuilt) -> float:
    measure = Unexplained(x.shape[1])
    measure.update(x, rebuilt)
    return measure.value()


def test_our_fvu_is_one_less_its_explained_variance_and_our_pursuit_lowers_it(trained, tiny_hooked, texts):
    def store():
        given = {"streaming": False, "store_batch_size_prompts": 8}
        return ActivationsStore.from_sae(tiny_hooked, trained, Dataset.from_dict({"text": texts}), **given)

    config = EvalConfig(compute_variance_metrics=True, n_eval_sparsity_variance_batches=3, batch_size_prompts=8)
    found, _ = run_evals(trained, store(), tiny_hooked, ActivationScaler(), config)
    again, parts = store(), []
    for _ in range(3):
        tokens = again.get_batch_tokens(8)
        with torch.no_grad():
            _, cache = tiny_hooked.run_with_cache(tokens, prepend_bos=False)
        parts.append(cache[HOOK][tokens != tiny_hooked.tokenizer.bos_token_id])
    x = torch.cat(parts)
    with torch.no_grad():
        own = fvu(x, trained(x))
    assert own == pytest.approx(1 - found["reconstruction_quality"]["explained_variance"], rel=1e-4)
    model = from_sae(trained)
    assert (model.k, model.site, model.provenance["model"]) == (8, Site(3), "tiny")
    by_pursuit = {pursuit: fvu(x, replace(model, pursuit=pursuit)(x)) for pursuit in ("mp", "mp_refit")}
    print(f"fvu: {own:.4f} by its encoder, {by_pursuit['mp']:.4f} by mp, {by_pursuit['mp_refit']:.4f} by mp_refit")
    assert by_pursuit["mp_refit"] < by_pursuit["mp"] < own


def test_atoms_are_the_latents_directions_under_their_numbers(trained):
    model = from_sae(trained)
    directions = torch.nn.functional.normalize(trained.W_dec.detach(), dim=1)
    assert torch.allclose(model.atoms, directions, atol=1e-6)
    assert torch.equal(model.offset, trained.b_dec.detach())
    assert [each.token for each in model.labels[[0, 17]]] == ["latent 0", "latent 17"]


def test_a_dictionary_that_became_an_sae_comes_back(dictionary, batch):
    back = from_sae(as_sae(dictionary), pursuit=dictionary.pursuit)
    assert torch.allclose(back.atoms, dictionary.atoms, atol=1e-7)
    assert (back.k, back.site) == (dictionary.k, dictionary.site)
    x = batch.activations[:200]
    assert torch.allclose(back(x), dictionary(x), rtol=1e-3, atol=1e-3)


def test_a_latent_gets_the_token_that_it_fits_best_for_a_label(trained, lm, texts, batch):
    model = label(from_sae(trained), lm, texts, tokens=2_000)
    x = batch.activations.double() - trained.b_dec.detach().double()
    assert model.fidelity is not None
    cosines = torch.nn.functional.normalize(x, dim=1) @ model.atoms.double().T
    best = cosines.max(dim=0)
    assert torch.allclose(model.fidelity.double(), best.values, atol=1e-6)
    assert model.labels.keys() == batch.labels[best.indices].keys()
    assert model.provenance["labels"]["tokens"] == 2_000
    found = itda.decompose(lm, model, "for line in open(path):")  # and what needs labels works
    assert [token.label.token for token in found][:2] == ["for", " line"]


def test_other_architectures_are_opened_and_what_has_no_decoder_of_its_own_is_one_line(trained):
    settings = {"d_in": 12, "d_sae": 40}
    for kind, config in ((JumpReLUSAE, JumpReLUSAEConfig), (GatedSAE, GatedSAEConfig)):
        sae = kind(config(**settings))
        assert len(from_sae(sae, k=4)) == 40
        with pytest.raises(SettingError, match=f"^{kind.__name__} has no k of its own: give k, such as its l0$"):
            from_sae(sae)
    with torch.no_grad():
        sae.W_dec[3] = 0
    short = from_sae(sae, k=4)
    assert len(short) == 39
    assert short.labels[3].token == "latent 4"
    with pytest.raises(SettingError, match=r"^Linear has no W_dec"):
        from_sae(torch.nn.Linear(3, 3), k=4)
    scaled = JumpReLUSAE(JumpReLUSAEConfig(**settings, normalize_activations="layer_norm"))
    with pytest.raises(SettingError, match=r"^the SAE scales what it reads \(layer_norm\)"):
        from_sae(scaled, k=4)
    with pytest.raises(SettingError, match=r"^the dictionary does not say of which site it is: say so"):
        label(from_sae(sae, k=4), None, ["a text"])
