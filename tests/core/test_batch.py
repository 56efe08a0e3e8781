"""Sites and batches."""

import re

import pytest
import torch
from core.helpers import labels
from hypothesis import given
from hypothesis import strategies as st

from itda import ActivationBatch
from itda.core.site import STREAMS, Site
from itda.errors import SettingError


@given(st.integers(0, 10**4), st.sampled_from(STREAMS))
def test_a_site_is_read_back_from_its_name(layer, stream):
    assert Site.parse(str(Site(layer, stream))) == Site(layer, stream)


def test_resid_post_is_the_stream_that_a_name_leaves_out():
    assert str(Site(3)) == "layer_3"
    assert str(Site(3, "attn_out")) == "layer_3.attn_out"
    assert Site.parse("7") == Site.parse("layer_7") == Site.parse("layer_7.resid_post") == Site(7)


@given(st.integers(0, 10**4), st.sampled_from(STREAMS))
def test_a_site_is_read_back_from_the_name_of_its_hook(layer, stream):
    assert Site.parse(Site(layer, stream).hook_name) == Site(layer, stream)


def test_hook_names_of_transformerlens_3_and_4_are_sites():
    for name in ("blocks.3.hook_resid_post", "blocks.3.hook_out"):
        assert Site.of(name) == Site(3)
    assert Site.of("blocks.3.hook_mlp_out") == Site(3, "mlp_out")
    assert Site.of("blocks.3.hook_attn_out") == Site(3, "attn_out")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("blocks.3.hook_resid_pre", "write blocks.2.hook_resid_post"),
        ("blocks.3.hook_in", "write blocks.2.hook_resid_post"),
        ("blocks.0.hook_resid_pre", "write blocks.3.hook_resid_post, with hook_resid_post, hook_out, hook_mlp_out"),
        ("blocks.3.mlp.hook_out", "write blocks.3.hook_mlp_out"),
        ("blocks.3.attn.hook_out", "write blocks.3.hook_attn_out"),
        ("blocks.3.attn.hook_z", "no site 'blocks.3.attn.hook_z': write blocks.3.hook_resid_post"),
        ("blocks.x.hook_out", "no site 'blocks.x.hook_out'"),
        ("blocks.", "no site 'blocks.'"),
    ],
)
def test_a_hook_that_is_no_site_is_refused_with_the_one_to_write(name, remedy):
    with pytest.raises(SettingError, match=re.escape(remedy)):
        Site.parse(name)


def test_sites_sort_by_layer_as_numbers():
    assert sorted([Site(10), Site(9), Site(9, "mlp_out")])[-1] == Site(10)


@pytest.mark.parametrize("text", ["", ".", "layer_", "layer_.mlp_out", "layer_-1", "layer_3.5", "layer 3"])
def test_a_name_that_is_no_site_is_refused_with_the_streams_there_are(text):
    with pytest.raises(SettingError, match=r"write layer_3 or layer_3\.mlp_out, with resid_post, mlp_out, attn_out"):
        Site.parse(text)


def test_a_batch_has_the_length_of_its_labels_and_refuses_another():
    assert len(ActivationBatch(torch.ones(3, 2), labels(3))) == 3
    with pytest.raises(ValueError, match="3 activations with 4 labels: give one label per activation"):
        ActivationBatch(torch.ones(3, 2), labels(4))


def test_some_rows_of_a_batch_keep_their_labels():
    batch = ActivationBatch(torch.arange(6.0).reshape(3, 2), labels(3))
    for rows in (slice(1, None), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True])):
        assert batch[rows].activations.tolist() == [[2.0, 3.0], [4.0, 5.0]]
        assert batch[rows].labels.keys() == batch.labels.keys()[1:]
    with pytest.raises(SettingError, match=r"row 1 alone is no batch: take batch\[\[1\]\]"):
        batch[1]
