"""Vectors added at single tokens: going on from keys and values gives what whole passes give, in every family."""

import pytest
import torch
from sources.models.families import VOCABULARY, shared

from itda.core.site import Site
from itda.sources.models import pushed
from itda.sources.models.pushed import PushedText
from itda.sources.models.transformers import LanguageModel

FAMILIES = ("llama", "gpt2", "gpt-j", "gpt-neox", "gemma-2", "opt", "falcon-serial")
SITES = (Site(1), Site(0, "mlp_out"), Site(2, "attn_out"))
FALLS_BACK = {"falcon-serial": "its alibi has no place for masks of rows"}
"""Families that make whole passes, and why."""
TOLERANCE = 1e-5
"""Nats, of log-probabilities in float32."""


def text(lm: LanguageModel, site: Site, **options) -> PushedText:
    generator = torch.Generator().manual_seed(0)
    return PushedText(lm, site, torch.randint(2, VOCABULARY, (7,), generator=generator), **options)


def some_vectors(made: PushedText, rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    at = torch.arange(rows) % len(made.ids)
    size = made.activations.norm(dim=1).mean() / made.activations.shape[1] ** 0.5
    return at, size * torch.randn(rows, made.activations.shape[1], generator=generator)


def by_hand(lm: LanguageModel, made: PushedText, at: int, vector: torch.Tensor) -> torch.Tensor:
    """One pass over the text up to the token, with a plain hook of torch."""

    def add(_module, _inputs, output):
        whole = output[0] if isinstance(output, tuple) else output
        flat = whole.clone().view(-1, whole.shape[-1])
        flat[-1] += vector / made.place.scale
        changed = flat.view(whole.shape)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = made.place.module.register_forward_hook(add)
    try:
        with torch.no_grad():
            logits = lm.model(input_ids=made.ids[None, : at + 1], use_cache=False).logits
    finally:
        handle.remove()
    return logits[0, -1].log_softmax(dim=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_for_each_vector_gives_what_both_ways_give(family):
    lm = shared(family)
    for site in SITES:
        made = text(lm, site)
        at, vectors = some_vectors(made)
        expected = torch.stack([by_hand(lm, made, int(i), vector) for i, vector in zip(at, vectors, strict=True)])
        whole = text(lm, site, whole=True).log_p(at, vectors)
        assert torch.allclose(whole, expected, rtol=0, atol=TOLERANCE), site
        assert (whole - made.clean[at]).abs().max() > 1e-3, site
        assert made.trial() == (family not in FALLS_BACK), site
        if family not in FALLS_BACK:
            assert torch.allclose(made.log_p(at, vectors), expected, rtol=0, atol=TOLERANCE), site


def test_nothing_added_leaves_the_text_as_it_is():
    lm = shared("llama")
    made = text(lm, Site(1))
    found = made.log_p(torch.arange(7), torch.zeros(7, made.activations.shape[1]))
    assert torch.allclose(found, made.clean, rtol=0, atol=TOLERANCE)


def test_rows_do_not_see_each_other():
    made = text(shared("gpt2"), Site(0, "mlp_out"))
    at, vectors = some_vectors(made)
    together = made.log_p(at, vectors)
    alone = torch.cat([made.log_p(at[[i]], vectors[[i]]) for i in range(len(at))])
    assert torch.allclose(together, alone, rtol=0, atol=TOLERANCE)
    again = made.log_p(at, vectors)
    assert torch.equal(together, again)  # the cache is what it was


def test_a_way_that_gives_something_else_fails_the_trial(monkeypatch):
    made = text(shared("llama"), Site(1))
    assert made.trial()
    real = PushedText._from_the_site

    def wrong(self, at, vectors):
        return real(self, at, 1.001 * vectors)

    monkeypatch.setattr(PushedText, "_from_the_site", wrong)
    assert not made.trial()
    monkeypatch.setattr(pushed, "replaced", None)
    monkeypatch.setattr(PushedText, "_from_the_site", real)
    assert not made.trial()


def test_a_sliding_window_that_is_shorter_than_the_text_is_found_out_or_right():
    lm = shared("mistral")  # its window has 8 tokens
    made = PushedText(lm, Site(0), torch.arange(2, 22))
    at, vectors = torch.tensor([3, 12, 19]), 5 * torch.ones(3, made.activations.shape[1])
    if not made.trial():
        made = PushedText(lm, Site(0), torch.arange(2, 22), whole=True)
    expected = torch.stack([by_hand(lm, made, int(i), v) for i, v in zip(at, vectors, strict=True)])
    assert torch.allclose(made.log_p(at, vectors), expected, rtol=0, atol=TOLERANCE)
