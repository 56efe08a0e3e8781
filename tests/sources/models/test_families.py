"""What is read, and replaced, in every family of models is what the model computes, to the last bit."""

import pytest
import torch
from sources.models.families import (
    CAUSAL,
    FAMILIES,
    LAYERS,
    SITES,
    STREAMS,
    WIDTH,
    language_model,
    ragged_group,
    real,
    shared,
)
from torch import nn

from itda.core.batch import Site
from itda.sources.models.blocks import find_blocks
from itda.sources.models.streams import site_module

ALL = pytest.mark.parametrize("name", FAMILIES)
PRE_NORM = [name for name in FAMILIES if name != "bert"]


def hidden_states(name, group):
    with torch.inference_mode():
        model = shared(name).model.base_model
        return model(group.input_ids, attention_mask=group.attention_mask, output_hidden_states=True).hidden_states


def capture(module, group, model, *, inputs=False):
    """The first output (or input) of a module in a plain run of the model."""
    seen = []

    def read(_module, args, kwargs, output):
        value = (args[0] if args else kwargs["hidden_states"]) if inputs else output
        seen.append((value[0] if isinstance(value, tuple) else value).clone())

    handle = module.register_forward_hook(read, with_kwargs=True)
    with torch.inference_mode():
        model(group.input_ids, attention_mask=group.attention_mask)
    handle.remove()
    return seen[0]


def hooks(model):
    """Transformers keeps some of its own on a model, once it was asked for hidden states."""
    return [list(module._forward_hooks) for module in model.model.modules()]


@ALL
def test_the_group_is_ragged_and_has_an_empty_row(name):
    lengths = real(ragged_group(shared(name))).sum(dim=1).tolist()
    assert len(set(lengths[:3])) == 3
    assert lengths[3] == 0


@ALL
@pytest.mark.parametrize("layer", range(LAYERS - 1))
def test_resid_post_below_the_last_layer_is_the_models_own_hidden_state(name, layer):
    group = ragged_group(shared(name))
    found = shared(name).activations(group, [Site(layer)])[Site(layer)]
    assert torch.equal(found[real(group)], hidden_states(name, group)[layer + 1][real(group)])


@ALL
def test_the_final_norm_of_the_last_resid_post_is_the_models_last_hidden_state(name):
    group, norm = ragged_group(shared(name)), FAMILIES[name].norm
    found = shared(name).activations(group, [Site(LAYERS - 1)])[Site(LAYERS - 1)]
    final = shared(name).model.base_model.get_submodule(norm) if norm else nn.Identity()
    with torch.inference_mode():
        assert torch.equal(final(found)[real(group)], hidden_states(name, group)[-1][real(group)])


@ALL
def test_last_resid_post_is_the_hidden_state_of_the_model_without_its_final_norm(name):
    model, norm = language_model(name), FAMILIES[name].norm
    group = ragged_group(model)
    found = model.activations(group, [Site(LAYERS - 1)])[Site(LAYERS - 1)]
    if norm:
        model.model.base_model.set_submodule(norm, nn.Identity())
    with torch.inference_mode():
        last = model.model.base_model(group.input_ids, attention_mask=group.attention_mask).last_hidden_state
    assert torch.equal(found[real(group)], last[real(group)])


@ALL
def test_all_sites_have_the_groups_shape(name):
    group = ragged_group(shared(name))
    shapes = {site: tuple(x.shape) for site, x in shared(name).activations(group, SITES).items()}
    assert shapes == dict.fromkeys(SITES, (4, 24, WIDTH))


@ALL
def test_all_sites_at_once_equal_one_site_at_a_time(name):
    group = ragged_group(shared(name))
    together = shared(name).activations(group, SITES)
    for site in SITES:
        assert torch.equal(together[site], shared(name).activations(group, [site])[site]), site


@ALL
def test_sites_come_back_in_the_order_asked_for(name):
    sites = [Site(2), Site(0, "mlp_out"), Site(1)]
    assert list(shared(name).activations(ragged_group(shared(name)), sites)) == sites


@ALL
def test_activations_at_real_positions_do_not_depend_on_the_other_rows(name):
    model, site = shared(name), Site(LAYERS - 1)
    group = ragged_group(model)
    alone = model.windower(24).group(group.windows[1:2], 4)
    mask = real(alone)[0]
    torch.testing.assert_close(
        model.activations(group, [site])[site][1][mask], model.activations(alone, [site])[site][0][mask]
    )


@ALL
def test_reading_an_early_layer_runs_no_later_block(name):
    model, ran = language_model(name), []
    model.check([Site(1)])  # the trial runs them all
    for i, block in enumerate(find_blocks(model.model)):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    model.activations(ragged_group(model), [Site(1), Site(0)])
    assert ran == [0, 1]


@ALL
def test_reading_leaves_no_hook_behind(name):
    model = shared(name)
    before = hooks(model)
    model.activations(ragged_group(model), SITES)
    assert hooks(model) == before


@pytest.mark.parametrize("name", PRE_NORM)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_block_input_and_attn_out_and_mlp_out_add_up_to_resid_post(name, layer):
    model = shared(name)
    group = ragged_group(model)
    found = model.activations(group, [Site(layer, stream) for stream in STREAMS])
    before = capture(find_blocks(model.model)[layer], group, model.model, inputs=True)
    attention, mlp = found[Site(layer, "attn_out")], found[Site(layer, "mlp_out")].view_as(before)
    torch.testing.assert_close(
        (before + attention + mlp)[real(group)], found[Site(layer)][real(group)], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("stream", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("name", PRE_NORM)
def test_attn_out_and_mlp_out_are_neither_zero_nor_the_same(name, stream):
    model = shared(name)
    group = ragged_group(model)
    found = model.activations(group, [Site(1, stream), Site(1)])
    flat = found[Site(1, stream)].reshape(-1, WIDTH)
    assert flat.norm() > 0
    assert not torch.allclose(flat, found[Site(1)].reshape(-1, WIDTH))


@pytest.mark.parametrize(("stream", "path"), [("attn_out", "attention.output.dense"), ("mlp_out", "output.dense")])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_bert_streams_are_read_at_the_dense_layers_before_the_norms(stream, path, layer):
    model = shared("bert")
    group, site = ragged_group(model), Site(layer, stream)
    module = model.model.encoder.layer[layer].get_submodule(path)  # pyright: ignore[reportAttributeAccessIssue]
    assert model.places([site])[site].module is module
    assert torch.equal(model.activations(group, [site])[site], capture(module, group, model.model))


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo-2"])
def test_blocks_that_return_a_tuple_are_read_and_replaced_as_those_that_return_a_tensor(name, monkeypatch):
    model, site = language_model(name), Site(1)
    group = ragged_group(model)
    read, doubled = model.activations(group, [site])[site], model.logits(group, site, lambda x: 2 * x)
    block, after = find_blocks(model.model)[1], find_blocks(model.model)[2]
    plain, following = block.forward, after.forward
    returned = []

    def tuple_forward(*args, **kwargs):
        returned.append((plain(*args, **kwargs), "attention weights"))
        return returned[-1]

    def takes_tuple(hidden_states, *args, **kwargs):
        assert isinstance(hidden_states, tuple)
        assert hidden_states[1] == "attention weights"
        return following(hidden_states[0], *args, **kwargs)

    assert isinstance(capture(block, group, model.model), torch.Tensor)
    monkeypatch.setattr(block, "forward", tuple_forward)
    monkeypatch.setattr(after, "forward", takes_tuple)
    assert torch.equal(model.activations(group, [site])[site], read)
    assert torch.equal(model.logits(group, site, lambda x: 2 * x), doubled)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_splicing_in_the_same_activations_leaves_the_logits_as_they_are(name, site):
    group = ragged_group(shared(name))
    assert torch.equal(shared(name).logits(group, site, lambda x: x), shared(name).logits(group))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_splicing_in_zeros_changes_the_logits(name, site):
    group = ragged_group(shared(name))
    assert not torch.equal(shared(name).logits(group, site, torch.zeros_like), shared(name).logits(group))


@pytest.mark.parametrize("name", CAUSAL)
def test_logits_are_the_models_own(name):
    group, model = ragged_group(shared(name)), shared(name).model
    with torch.inference_mode():
        own = model(input_ids=group.input_ids, attention_mask=group.attention_mask).logits
    assert torch.equal(shared(name).logits(group), own)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("stream", STREAMS)
def test_replacing_the_activations_of_one_row_does_not_change_the_other_rows(name, stream):
    model, site = shared(name), Site(1, stream)
    group = ragged_group(model)
    first = int(group.is_activation[0].sum())

    def replace(x):
        x = x.clone()
        x[:first] += 1
        return x

    before, after = model.logits(group), model.logits(group, site, replace)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


@pytest.mark.parametrize("name", CAUSAL)
def test_replacing_one_activation_changes_its_own_place_and_only_what_follows(name):
    model = shared(name)
    group = ragged_group(model)
    place = group.prefix + 3

    def replace(x):
        x = x.clone()
        x[3] += 1
        return x

    before, after = model.logits(group), model.logits(group, Site(0), replace)
    assert torch.equal(after[0, :place], before[0, :place])
    assert not torch.equal(after[0, place], before[0, place])


@pytest.mark.parametrize("name", CAUSAL)
def test_special_tokens_and_padding_are_not_replaced(name):
    model, site, replaced = shared(name), Site(0), []
    group = ragged_group(model)
    model.logits(group, site, lambda x: replaced.append(x) or x)
    clean = model.activations(group, [site])[site]
    assert torch.equal(replaced[0], clean[group.is_activation])
    module = site_module(find_blocks(model.model), Site(1))
    kept = ~group.is_activation
    spliced = []
    # The hook of the splice runs first; this one sees what it hands on.
    original = model.forward

    def forward(*args, **options):
        with_hook = module.register_forward_hook(
            lambda _m, _i, output: spliced.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            return original(*args, **options)
        finally:
            with_hook.remove()

    object.__setattr__(model, "forward", forward)
    try:
        model.logits(group, Site(1), lambda x: torch.full_like(x, 7.0))
    finally:
        object.__delattr__(model, "forward")
    clean = model.activations(group, [Site(1)])[Site(1)]
    assert bool((spliced[0][group.is_activation] == 7).all())
    assert torch.equal(spliced[0][kept], clean[kept])


@pytest.mark.parametrize("name", CAUSAL)
def test_splicing_leaves_no_hook_behind(name):
    model = shared(name)
    before = hooks(model)
    model.logits(ragged_group(model), Site(1), torch.zeros_like)
    assert hooks(model) == before


@ALL
def test_layers_width_context_and_kind_of_model(name):
    model = shared(name)
    assert (model.layers, model.d_model, model.is_causal) == (LAYERS, WIDTH, FAMILIES[name].is_causal)
    assert model.context == 64
