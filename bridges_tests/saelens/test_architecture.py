"""Our folders in SAELens itself: codes, reconstructions, metadata, files, hooks, its evaluation, what is refused."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

import itda
from itda import ITDA, Labels, Unexplained
from itda.bridges.saelens import ItdaSAE, as_sae, itda_disk_loader, itda_huggingface_loader
from itda.errors import ActivationError, StoreError


@pytest.fixture(scope="module")
def sae(run_folder):
    return SAE.load_from_disk(run_folder / "layer_3", converter=itda_disk_loader)


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_codes_and_reconstructions_of_a_folder_are_ours(sae, dictionary, batch):
    x = batch.activations
    assert len(x) == 2_000
    ours = dictionary.encode(x)
    with torch.no_grad():
        codes, rebuilt = sae.encode(x), sae(x)
    assert torch.equal(codes, ours.dense(len(dictionary)))
    assert (codes < 0).any()
    assert relative(rebuilt, dictionary.decode(ours)) < 1e-6
    assert relative(sae.decode(ours.dense(len(dictionary))), dictionary.decode(ours)) < 1e-6


@pytest.mark.parametrize("pursuit", ["mp", "mp_refit", "omp"])
@pytest.mark.parametrize("offset", [False, True])
def test_codes_are_ours_for_every_pursuit_and_any_leading_axes(pursuit, offset):
    torch.manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(300, 64), dim=1)
    mean = 3 * torch.randn(64) if offset else None
    model = ITDA(atoms, Labels.of_rows(300), 10, pursuit, offset=mean)
    x = torch.randn(20, 100, 64) + (mean if mean is not None else 0)
    sae = as_sae(model)
    with torch.no_grad():
        assert torch.equal(sae.encode(x), model.encode(x).dense(300))
        assert relative(sae(x), model(x)) < 1e-6


def test_the_configuration_says_where_it_belongs(sae, dictionary):
    cfg = sae.cfg
    assert isinstance(sae, ItdaSAE)
    assert (cfg.architecture(), cfg.d_in, cfg.d_sae, cfg.k, cfg.pursuit) == (
        "itda",
        192,
        len(dictionary),
        8,
        "mp_refit",
    )
    about = cfg.metadata
    assert (about.model_name, about.hook_name, about.context_size) == ("tiny", "blocks.3.hook_resid_post", 64)
    assert about.prepend_bos is True
    assert itda.Site.of(about.hook_name) == dictionary.site
    assert torch.equal(sae.W_dec, dictionary.atoms)
    assert torch.equal(sae.W_enc, dictionary.atoms.T)
    assert torch.equal(sae.b_dec, dictionary.offset)


def test_another_stream_has_its_own_hook(run_folder):
    sae = SAE.load_from_disk(run_folder / "layer_3.mlp_out", converter=itda_disk_loader)
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_mlp_out"


def test_what_saelens_saves_it_loads_without_a_converter(sae, batch, tmp_path):
    sae.save_model(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "itda"
    again = SAE.load_from_disk(tmp_path)
    assert again.cfg == sae.cfg
    with torch.no_grad():
        assert torch.equal(again(batch.activations[:50]), sae(batch.activations[:50]))


def repository(cache, files, folder):
    """A repository user/name in the cache of the Hub, with a dictionary in a folder of it."""
    place = cache / "models--user--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(files, place / "snapshots" / ("0" * 40) / folder)


@pytest.mark.parametrize("folder", ["layer_3", "."])
def test_a_repository_of_the_hub_is_read_as_a_folder_is(folder, sae, run_folder, tmp_path, monkeypatch, batch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository(tmp_path, run_folder / "layer_3", folder)
    found = SAE.from_pretrained("user/name", folder, converter=itda_huggingface_loader)
    with torch.no_grad():
        assert torch.equal(found(batch.activations[:50]), sae(batch.activations[:50]))
    with pytest.raises(StoreError, match=r"^user/name has no dictionary in layer_9: name its folder"):
        SAE.from_pretrained("user/name", "layer_9", converter=itda_huggingface_loader)
    with pytest.raises(StoreError, match=r"^user/other cannot be read from the Hub: check the name"):
        SAE.from_pretrained("user/other", folder, converter=itda_huggingface_loader)


def test_bad_input_is_one_line(sae, tmp_path):
    with pytest.raises(StoreError, match="no folder") as raised:
        SAE.load_from_disk(tmp_path / "nothing", converter=itda_disk_loader)
    assert "\n" not in str(raised.value)
    with pytest.raises(ActivationError, match="width 5"):
        sae.encode(torch.ones(2, 5))
    with pytest.raises(ActivationError, match="not finite"):
        sae.encode(torch.full((2, 192), torch.nan))
    with pytest.raises(NotImplementedError, match="unit norm"):
        sae.fold_activation_norm_scaling_factor(2.0)


def test_changed_weights_and_settings_change_the_codes(dictionary, batch):
    sae, x = as_sae(dictionary), batch.activations[:100]
    with torch.no_grad():
        before = sae.encode(x)
        sae.W_dec[0] = -sae.W_dec[0]
        assert torch.equal(sae.encode(x)[:, 0], -before[:, 0])
        sae.cfg.k = 3
        assert int((sae.encode(x) != 0).sum(dim=1).max()) == 3
    assert torch.equal(dictionary.atoms[0], itda.bridges.saelens.as_sae(dictionary).W_dec[0])  # it was a copy


def test_half_precision_rebuilds_nearly_as_well(dictionary, batch):
    sae, x = as_sae(dictionary), batch.activations[:200]
    whole, coarse = Unexplained(192), Unexplained(192)
    with torch.no_grad():
        whole.update(x, sae(x))
        rebuilt = copy.deepcopy(sae).to(torch.bfloat16)(x)
    assert rebuilt.dtype == torch.bfloat16
    coarse.update(x, rebuilt.float())
    assert coarse.value() == pytest.approx(whole.value(), rel=0.05)


def test_hooks_cache_codes_and_take_others_and_gradients_reach_them(sae, tiny_hooked, texts):
    tokens = tiny_hooked.to_tokens(texts[0])
    _, cache = tiny_hooked.run_with_cache_with_saes(tokens, saes=[sae])
    name = "blocks.3.hook_resid_post.hook_sae_acts_post"
    with torch.no_grad():
        _, plain = tiny_hooked.run_with_cache(tokens)
    assert torch.equal(cache[name], sae.encode(plain["blocks.3.hook_resid_post"]))
    clean = tiny_hooked.run_with_saes(tokens, saes=[sae])
    ablated = tiny_hooked.run_with_hooks_with_saes(tokens, saes=[sae], fwd_hooks=[(name, lambda acts, hook: acts * 0)])
    assert not torch.allclose(clean, ablated)
    kept = []
    steered = [(name, lambda acts, hook: kept.append(acts) or acts)]
    tiny_hooked.run_with_hooks_with_saes(tokens, saes=[sae], fwd_hooks=steered, return_type="loss").backward()
    assert float(kept[0].grad.abs().sum()) > 0


def test_its_own_evaluation_runs_and_has_our_fvu(sae, tiny_hooked, texts):
    def store():
        given = {"streaming": False, "context_size": 64, "store_batch_size_prompts": 8}
        return ActivationsStore.from_sae(tiny_hooked, sae, Dataset.from_dict({"text": texts}), **given)

    config = get_eval_everything_config(8, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=3)
    found, by_latent = run_evals(sae, store(), tiny_hooked, ActivationScaler(), config)
    assert 0 < found["model_performance_preservation"]["ce_loss_score"] <= 1.1
    assert 0 < found["sparsity"]["l0"] <= 8
    assert len(by_latent["feature_density"]) == sae.cfg.d_sae
    assert by_latent["encoder_decoder_cosine_sim"] == pytest.approx([1.0] * sae.cfg.d_sae, abs=1e-5)
    # The same on the same tokens, by our measure: its store gives these batches after those of the losses.
    again, ours, size = store(), Unexplained(192), 0.0
    batches = [again.get_batch_tokens(8) for _ in range(5)][2:]
    model = sae.dictionary
    for tokens in batches:
        kept = tokens != tiny_hooked.tokenizer.bos_token_id
        with torch.no_grad():
            _, cache = tiny_hooked.run_with_cache(tokens, prepend_bos=False)
        x = cache["blocks.3.hook_resid_post"][kept]
        ours.update(x, model(x))
        size += len(x)
    assert ours.value() == pytest.approx(1 - found["reconstruction_quality"]["explained_variance"], rel=1e-4)
    assert ours.tokens == size > 1_000


def test_a_dictionary_of_no_site_is_an_sae_of_no_hook(dictionary):
    assert as_sae(replace(dictionary, site=None)).cfg.metadata.hook_name is None
