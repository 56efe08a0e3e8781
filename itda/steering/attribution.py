"""Which atoms of a prompt's code mattered for the next token: by removing each in turn, or by one backward pass.

The activation of a token is the sum of its code's atoms, and of what the code leaves over. The effect of an atom at a
token is how much lower the log-probability of the next token is without it:

    exact (ablation)     log p(next | x) - log p(next | x - c a)         one pass for each atom of each token
    fast (gradient)      c a . d log p(next | x) / dx                    one pass forward and one backward for all

The gradient tells what a small part of the atom would do, times the whole: it is the exact effect where the model is
linear between x and x - c a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.core.site import Site
from itda.errors import ModelError, SettingError
from itda.sources.corpora.corpus import Document
from itda.sources.models.blocks import Place, tensor_of, with_tensor
from itda.sources.models.generation import prompt_ids
from itda.sources.models.hooks import Hook, evaluating, hooked
from itda.sources.models.transformers import LanguageModel

Method = Literal["gradient", "ablation"]
ROWS = 32
"""Texts that run together, each with one atom of one token removed."""


@dataclass(frozen=True)
class Reason:
    """One atom of one token's code, and what it adds to the log-probability of the next token."""

    effect: float
    """In nats; negative where the next token would be more likely without it."""
    atom: int
    coefficient: float
    token: Label
    """The label of the token whose code has the atom."""
    label: Label
    """The label of the atom."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """The effects of all atoms of a text's codes on the next token."""

    dictionary: ITDA
    tokens: Labels
    """The labels of the text's tokens."""
    code: SparseCode
    """The codes of the text's activations, [tokens, k]."""
    effects: Float64[Tensor, "tokens k"]
    """The effect of each entry of `code`; 0 beyond its count, and at massive activations."""
    next_token: str
    """The token whose log-probability is explained."""
    log_probability: float
    way: Method

    def top(self, number: int = 10) -> list[Reason]:
        """Return the entries with the largest effects, of either sign, the largest first."""
        flat = self.effects.flatten()
        order = flat.abs().argsort(descending=True, stable=True)[:number].tolist()
        found = [(place, place // self.code.k, place % self.code.k) for place in order if flat[place] != 0]
        return [
            Reason(
                flat[place].item(),
                atom := int(self.code.indices[row, column]),
                float(self.code.coefficients[row, column]),
                self.tokens[row],
                self.dictionary.labels[atom],
            )
            for place, row, column in found
        ]

    def by_atom(self) -> dict[int, float]:
        """Return the sum of each used atom's effects over all tokens, the largest of either sign first."""
        total = torch.zeros(len(self.dictionary), dtype=torch.float64)
        total.index_add_(0, self.code.indices.flatten().cpu(), self.effects.flatten())
        used = sorted(total.nonzero()[:, 0].tolist(), key=lambda atom: -abs(total[atom].item()))
        return {atom: total[atom].item() for atom in used}


def attribution(
    lm: LanguageModel,
    dictionary: ITDA,
    site: Site,
    text: str,
    *,
    next_token: str | None = None,
    way: Method = "gradient",
) -> Attribution:
    """Find the effect of each atom of a text's codes on the token after it: by default the most likely one.

    Raises `SettingError` for a text that is empty or too long, and a `next_token` that is no text; `ModelError` for a
    model that predicts none.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=3, k=2, atoms=8, progress=False)
    >>> found = attribution(lm, run["layer_3"], itda.Site(3), "import")
    >>> found.effects.shape, found.way
    (torch.Size([1, 2]), 'gradient')
    """
    if not lm.is_causal:
        raise ModelError(f"{lm.name} does not predict the next token: use a causal language model")
    prompt = _Prompt(lm, dictionary, site, text)
    logits, x = prompt.read()
    target = _target(lm, next_token, logits)
    code = dictionary.encode(x)
    entries = torch.arange(code.k) < code.count[:, None]
    entries &= ~dictionary.is_massive(x)[:, None]
    found = prompt.by_gradient(code, target) if way == "gradient" else prompt.by_ablation(code, entries, target)
    effects = torch.where(entries, found, 0.0)
    said = str(lm.tokenizer.decode([target]))
    return Attribution(dictionary, prompt.labels, code, effects, said, logits.log_softmax(dim=0)[target].item(), way)


class _Prompt:
    """A text at a site of a model, to which something can be added at each token."""

    def __init__(self, lm: LanguageModel, dictionary: ITDA, site: Site, text: str) -> None:
        self.lm, self.dictionary = lm, dictionary
        bos = dictionary.provenance.get("bos", "auto")
        ids = prompt_ids(lm, text, bos=bos)
        if lm.context is not None and len(ids) > lm.context:
            raise SettingError(f"the text has {len(ids)} tokens and {lm.name} reads at most {lm.context}: shorten it")
        windower = lm.windower(len(ids) + 8 if lm.context is None else min(len(ids) + 8, lm.context), bos)
        windows = windower.windows(Document("prompt", text))
        group = windower.group(windows[:1], 1)
        own = len(windower.prefix) + len(windows[0].token_ids)  # without padding, and special tokens at the end
        self.labels = group.labels()
        self.places = group.is_activation[0, :own].nonzero()[:, 0]
        self.ids = group.input_ids[:, :own].to(lm.model.device)
        self.place: Place = lm.places([site])[site]
        if not len(self.places):
            raise SettingError("the text has only special tokens: add some words")

    def read(self) -> tuple[Float[Tensor, " vocabulary"], Float[Tensor, "tokens d_model"]]:
        """Return the logits of the next token, and the activations."""
        found: list[Tensor] = []
        with torch.inference_mode(), hooked([(self.place.module, lambda output: found.append(self._read(output)))]):
            logits = self._logits(1)[0]
        return logits.double().cpu(), found[0][self.places].float().cpu()

    def by_gradient(self, code: SparseCode, target: int) -> Float64[Tensor, "tokens k"]:
        """Return c a . gradient for each entry."""
        added = torch.zeros(1, self.ids.shape[1], self.lm.d_model, device=self.ids.device, requires_grad=True)
        with torch.enable_grad(), hooked([(self.place.module, self._adding(added))]):
            log_p = self._logits(1)[0].double().log_softmax(dim=0)[target]
        (gradient,) = torch.autograd.grad(log_p, added)
        slope = gradient[0].double().cpu()[self.places]  # tokens d_model
        atoms = self.dictionary.atoms.cpu()[code.indices].double()  # tokens k d_model
        return code.coefficients.double() * torch.einsum("tkd,td->tk", atoms, slope)

    @torch.inference_mode()
    def by_ablation(
        self, code: SparseCode, entries: Bool[Tensor, "tokens k"], target: int
    ) -> Float64[Tensor, "tokens k"]:
        """Return how much lower the log-probability is without each entry."""
        effects = torch.zeros(entries.shape, dtype=torch.float64)
        wanted = entries.nonzero()
        for part in wanted.split(ROWS):
            added = torch.zeros(len(part) + 1, self.ids.shape[1], self.lm.d_model)  # the last row is the whole text
            rows, columns = part[:, 0], part[:, 1]
            shares = code.coefficients[rows, columns, None] * self.dictionary.atoms.cpu()[code.indices[rows, columns]]
            added[torch.arange(len(part)), self.places[rows]] = -shares.float()
            with hooked([(self.place.module, self._adding(added.to(self.ids.device)))]):
                log_p = self._logits(len(added)).double().log_softmax(dim=-1)[:, target].cpu()
            effects[rows, columns] = log_p[-1] - log_p[:-1]
        return effects

    def _logits(self, rows: int) -> Float[Tensor, "rows vocabulary"]:
        ids = self.ids.expand(rows, -1)
        with evaluating(self.lm.model):
            made = self.lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return made.logits[:, -1].float()

    def _read(self, output: Any) -> Float[Tensor, "tokens d_model"]:
        return self.place.read(output, self.ids.shape, self.lm.d_model)[0]

    def _adding(self, added: Float[Tensor, "rows tokens d_model"]) -> Hook:
        def add(output: Any) -> Any:
            given = tensor_of(output)
            return with_tensor(output, given + (added / self.place.scale).to(given).view(given.shape))

        return add


def _target(lm: LanguageModel, wanted: str | None, logits: Float[Tensor, " vocabulary"]) -> int:
    """Return the number of the next token: the first of a text, or the most likely one."""
    if wanted is None:
        return int(logits.argmax())
    ids: Any = lm.tokenizer(wanted, add_special_tokens=False)["input_ids"]
    if not ids:
        raise SettingError("the next token is no text: give one, such as ' is'")
    return int(ids[0])
