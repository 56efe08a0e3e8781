"""The next tokens of a text after something is added at one of its tokens, for thousands of vectors and tokens at once.

What is added at a token changes nothing before it, and only the blocks after it see it. So a text is read once. Then
each vector costs one token through the blocks from the site on: the keys and values of the tokens before it are those
of the first pass. All vectors of a text run as the tokens of one sequence, and a mask lets each see the text before its
own token, and itself, but no other.

That rests on how a family handles masks, positions and caches. `PushedText.trial` finds out by comparing a few vectors
with whole passes; where they differ, whole passes are made for all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from itda.core.site import Site
from itda.sources.models.blocks import Place, find_blocks, tensor_of, with_tensor
from itda.sources.models.hooks import Hook, evaluating, hooked
from itda.sources.models.replay import passing, replaced
from itda.sources.models.transformers import LanguageModel

ROWS = 256
"""Vectors that run together."""
WHOLE_ROWS = 32
"""Whole passes that run together."""
TRIED = 12
"""Vectors of a trial."""
ROUNDINGS = 64
"""Roundings of the largest logit by which a trial may differ: sums of other shapes are added in another order."""


class PushedText:
    """A text whose next tokens are predicted with vectors added at single tokens, at one site.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> lm = LanguageModel.load("tiny")
    >>> text = PushedText(lm, Site(3), torch.tensor([5, 6, 7]))
    >>> text.activations.shape, text.log_p(torch.tensor([2, 2]), torch.zeros(2, 192)).shape
    (torch.Size([3, 192]), torch.Size([2, 4096]))
    """

    def __init__(self, lm: LanguageModel, site: Site, ids: Int64[Tensor, " tokens"], *, whole: bool = False) -> None:
        """Read the text. With `whole` each vector costs a whole pass."""
        self.lm, self.whole = lm, whole
        self.ids = ids.to(lm.model.device)
        self.place: Place = lm.places([site])[site]
        self._blocks = find_blocks(lm.model)
        self._at_end = self.place.module is self._blocks[site.layer]
        self._first = site.layer + self._at_end
        """The first block that is run again."""
        self._read()

    @torch.inference_mode()
    def _read(self) -> None:
        found: dict[str, Any] = {}
        shape = (1, len(self.ids))

        def at_site(output: Any) -> None:
            found["activations"] = self.place.read(output, shape, self.lm.d_model)[0]

        def before(output: Any) -> None:
            found["handed"] = output

        hooks: list[tuple[nn.Module, Hook]] = [(self.place.module, at_site)]
        if self._first:
            hooks.append((self._blocks[self._first - 1], before))
        with hooked(hooks), evaluating(self.lm.model):
            made = self.lm.model(
                input_ids=self.ids[None], attention_mask=torch.ones_like(self.ids)[None], use_cache=True
            )
        self.activations: Float[Tensor, "tokens d_model"] = found["activations"]
        self.clean: Float32[Tensor, "tokens vocabulary"] = made.logits[0].float().log_softmax(dim=-1)
        self._largest = made.logits.float().abs().max().item()
        self._cache: Any = None
        self._cache, self._handed = getattr(made, "past_key_values", None), found.get("handed")

    @torch.inference_mode()
    def log_p(
        self, at: Int64[Tensor, " rows"], vectors: Float[Tensor, "rows d_model"]
    ) -> Float32[Tensor, "rows vocabulary"]:
        """Return the log-probabilities of the token after each token `at`, with a vector added to its activation.

        Rows are independent of each other; give about `ROWS` at once.
        """
        at = at.to(self.ids.device)
        vectors = vectors.to(self.activations) / self.place.scale
        run = self._whole if self.whole else self._from_the_site
        return run(at, vectors).float().log_softmax(dim=-1)

    def trial(self) -> bool:
        """Return True if the fast way gives what whole passes give: for `TRIED` vectors of the size of activations."""
        device, last = self.ids.device, len(self.ids) - 1
        at = torch.linspace(min(1, last), last, TRIED).long().to(device)
        vectors = self.activations.roll(1, dims=0)[at] - self.activations[at]
        exact = self._tried(self._whole, at, vectors)
        try:
            fast = self._tried(self._from_the_site, at, vectors)
        except Exception:
            return False
        allowed = ROUNDINGS * torch.finfo(self.activations.dtype).eps * max(self._largest, 1.0)
        return fast.shape == exact.shape and bool(((fast - exact).abs() <= allowed).all())

    @torch.inference_mode()
    def _tried(self, run: Any, at: Tensor, vectors: Tensor) -> Tensor:
        return run(at, vectors / self.place.scale).float().log_softmax(dim=-1)

    def _from_the_site(self, at: Tensor, vectors: Tensor) -> Tensor:
        """Run one token for each row, on the keys and values of the text, from the site's block on."""
        rows, tokens = len(at), len(self.ids)
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]  # they replace their tensors, and change none
        barred = torch.finfo(self.lm.model.dtype).min
        mask = torch.full((rows, tokens + rows), barred, dtype=self.lm.model.dtype, device=at.device)
        mask[:, :tokens].masked_fill_(torch.arange(tokens, device=at.device) < at[:, None], 0)
        mask[:, tokens:].fill_diagonal_(0)
        hooks, forwards = self._starting(at, vectors)
        with replaced(self._blocks[: self._first], forwards), hooked(hooks), evaluating(self.lm.model):
            made = self.lm.model(
                input_ids=self.ids[at][None],
                attention_mask=mask[None, None],
                position_ids=at[None],
                past_key_values=cache,
                use_cache=True,
            )
        return made.logits[0]

    def _starting(self, at: Tensor, vectors: Tensor) -> tuple[list[tuple[nn.Module, Hook]], list[Any]]:
        """Return the hooks that add the vectors, and what the blocks before the first that is run do instead."""
        adding: list[tuple[nn.Module, Hook]] = [(self.place.module, _adding(vectors))]
        if not self._first:
            return adding, []
        given = tensor_of(self._handed)[0, at]
        state = (given + vectors if self._at_end else given)[None]
        form = tuple if isinstance(self._handed, tuple) else Tensor
        last = lambda *_args, **_kwargs: with_tensor(self._handed, state)  # noqa: E731
        return [] if self._at_end else adding, [*(passing(form) for _ in range(self._first - 1)), last]

    def _whole(self, at: Tensor, vectors: Tensor) -> Tensor:
        """Run the whole text for each row."""
        parts: Sequence[Tensor] = []
        for some in torch.arange(len(at), device=at.device).split(WHOLE_ROWS):
            ids = self.ids.expand(len(some), -1)
            whole = vectors.new_zeros(*ids.shape, vectors.shape[1])
            own = torch.arange(len(some), device=at.device)
            whole[own, at[some]] = vectors[some]
            with hooked([(self.place.module, _adding(whole))]), evaluating(self.lm.model):
                made = self.lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            parts = [*parts, made.logits[own, at[some]]]
        return torch.cat(list(parts))


def _adding(vectors: Tensor) -> Hook:
    """Return a hook that adds vectors to a module's output, in whatever shape it has them."""

    def add(output: Any) -> Any:
        given = tensor_of(output)
        return with_tensor(output, given + vectors.to(given).view(given.shape))

    return add
