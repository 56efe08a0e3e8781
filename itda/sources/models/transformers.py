"""Activations from any decoder-only or encoder model that transformers loads, by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.steering import Edit
from itda.errors import ModelError, SettingError
from itda.sources.models.blocks import Place, find_blocks, text_config
from itda.sources.models.edited import Editing, check_fits, edited_twin
from itda.sources.models.generation import Prompt, generate
from itda.sources.models.hooks import Hook, evaluating, hooked
from itda.sources.models.limits import context_of, predicts_next, rows_of
from itda.sources.models.named import NamedModel
from itda.sources.models.splicing import Read, Replace, ResumableModel, Splice, Spliced
from itda.sources.models.trial import places
from itda.sources.tokenizing.identity import tokenizer_hash
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, Windower

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Stop(Exception):  # noqa: N818 - not an error: the last site has been read
    """Raised to end a forward pass."""


@dataclass(eq=False, repr=False)
class LanguageModel(ResumableModel):
    """A transformers model with its tokenizer, whose sites can be read and replaced, from many threads at once.

    >>> model = LanguageModel.load("tiny")
    >>> model.layers, model.d_model
    (6, 192)
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = "model"
    commit: str | None = None
    """The commit of a model from the Hub."""
    found_by_name: bool = False
    """True if `load` made it, so that its name is enough to find it again."""
    runs_ahead = True

    @staticmethod
    def load(
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> LanguageModel:
        """Load a Hub id, a local folder, or `tiny`, the bundled model.

        `device` auto is a GPU where there is one; `dtype` auto is float32 on a CPU and the model's own elsewhere.
        Raises `ModelError` if there is no such model, or it cannot be reached or read.
        """
        named = NamedModel.named(
            name, revision=revision, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        with named.explained():
            model, tokenizer = named.model(), named.tokenizer()
            torch.nn.Module.to(model, named.device)
        return LanguageModel(model.eval(), tokenizer, name, named.commit, found_by_name=True)

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(find_blocks(self.model))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return text_config(self.model).hidden_size

    @property
    def context(self) -> int | None:
        """The most tokens that the model reads, where its configuration says so."""
        return context_of(self.model)

    @property
    def is_causal(self) -> bool:
        """True if it predicts the next token."""
        return predicts_next(self.model)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that it chooses the next one from."""
        return self.model.config.get_text_config().vocab_size

    @property
    def revision(self) -> str | None:
        """The commit of a model from the Hub."""
        return self.commit

    @property
    def dtype(self) -> str:
        """The dtype of its weights: float32, bfloat16, ..."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """The device that it runs on: cpu, cuda:0, ..."""
        return str(self.model.device)

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 of the tokenizer's definition: models with the same one cut text into the same tokens."""
        return tokenizer_hash(self.tokenizer)

    def windower(self, window: int, bos: Bos = "auto") -> Windower:
        """Return what cuts documents into windows for this model. Raises `SettingError` for more tokens than it reads.

        `bos` says which token each begins with: `itda.sources.tokenizing.special`.
        """
        made = Windower(self.tokenizer, window, context=self.context, bos=bos)
        if made.pad >= rows_of(self.model):  # a token that was added, and the embedding left as it was
            made.pad = 0  # padding is masked
        return made

    @torch.inference_mode()
    def activations(self, group: Group, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "windows tokens d_model"]]:
        """Return the activations at every position of a group, as the model computes them; stop after the last site.

        Raises `ModelError` for a site that the model does not have.
        """
        return self._pass(group, sites, lambda x: x)[0]

    def _pass(
        self, group: Group, sites: Sequence[Site], keep: Callable[[Tensor], Tensor], *, head: bool = False
    ) -> tuple[dict[Site, Tensor], Any]:
        """Return what `keep` makes of a group's activations, and with `head` the model's output after them."""
        found: dict[Site, Tensor] = {}
        places, output = self.places(sites), None

        def reader(site: Site) -> Hook:
            def read(output: Any) -> None:
                found[site] = keep(places[site].read(output, group.input_ids.shape, self.d_model))
                if not head and len(found) == len(places):
                    raise _Stop

            return read

        with hooked([(place.module, reader(site)) for site, place in places.items()]), suppress(_Stop):
            output = self.forward(self.model if head else self.model.base_model, group)
        missing = [str(site) for site in places if site not in found]
        if missing:
            raise ModelError(f"{self.name} ran without reaching {missing[0]}: choose another layer")
        return {site: found[site] for site in sites}, output

    @torch.inference_mode()
    def places(self, sites: Sequence[Site]) -> dict[Site, Place]:
        """Return where the activations of some sites are, by trial before their first use: `itda.sources.models.trial`.

        Raises `ModelError` for a site that the model does not have, or that cannot be read.
        """
        return places(self.model, self.tokenizer, sites, lambda group: self.forward(self.model.base_model, group))

    def flight(self, tokens: int, branches: int = 1) -> int:  # noqa: ARG002
        """Return 1: the model is in memory, and to run several groups together saves nothing."""
        return 1

    def harvest(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, dict[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the activations of each group where its `is_activation` is true: see `ActivationModel`."""
        for place, group in enumerate(groups):
            found = self.activations(group, sites)
            yield place, {site: x[group.is_activation.to(x.device)] for site, x in found.items()}

    @torch.inference_mode()
    def logits(
        self, group: Group, site: Site | None = None, replace: Replace | None = None
    ) -> Float[Tensor, "windows tokens vocabulary"]:
        """Return next-token logits; with `replace`, a function of activations [n, d_model], spliced in at `site`.

        Only positions with a token of the text are replaced. Raises `ModelError` for a model without logits.
        """
        if not self.is_causal:
            raise ModelError(f"{self.name} does not predict the next token: evaluate a causal language model")
        mask = group.is_activation.to(self.model.device)

        if site is None or replace is None:
            return self.forward(self.model, group).logits
        place = self.places([site])[site]

        def splice(output: Any) -> Any:
            activations = place.read(output, mask.shape, self.d_model)[mask]
            return place.write(output, replace(activations), mask)

        with hooked([(place.module, splice)]):
            return self.forward(self.model, group).logits

    def spliced(self, groups: Sequence[Group], sites: Sequence[Site], splice: Splice) -> Iterator[Spliced]:
        """Yield the predictions of some groups, clean and with other activations at each site, by whole passes.

        For each group, the clean logits come before those of each replacement. A model that predicts nothing yields
        nothing. `itda.evaluation.resumption` does the same in less time.
        """
        for place, group in enumerate(groups):
            predicts, rows = group.predicts.to(self.model.device), torch.arange(int(group.predicts.sum()))
            scored = self.is_causal and len(rows) > 0
            if scored:
                yield Spliced(place, None, rows, self.logits(group)[predicts])
            for site, activations in self.activations(group, sites).items():
                x = activations[group.is_activation.to(activations.device)]
                replacements = splice(place, site, x)
                for name, values in replacements.items() if scored else ():
                    logits = self.logits(group, site, lambda _, values=values: values)
                    yield Spliced(place, (site, name), rows, logits[predicts])

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 40,
        seed: int | None = None,
        chat: bool = False,
        bos: Bos = "auto",
        **options: Any,
    ) -> str:
        """Return what the model writes after a prompt, without the prompt: transformers' own `generate`.

        `prompt` is a text, or the messages of a chat, for which the model's chat template is used; with `chat` a text
        is one message of a user. The most likely token is taken each time; with a `seed`, or any option of sampling
        (`temperature`, `top_p`, ...), tokens are drawn, with the same seed the same ones. All other options of
        transformers' `generate` are taken too. Raises `SettingError` for a prompt that is empty or too long, and for
        options that transformers refuses, `ModelError` for a model that predicts no next token.

        >>> LanguageModel.load("tiny").generate("for line in open(path", max_new_tokens=2)
        ", '"
        """
        return generate(self, prompt, max_new_tokens=max_new_tokens, seed=seed, chat=chat, bos=bos, **options)

    def read(self, groups: Sequence[Group], sites: Sequence[Site]) -> Iterator[Read | Spliced]:
        """Yield the activations of each group, and then its predictions, by one pass: see `SpliceableModel`."""
        for place, group in enumerate(groups):
            yield from self._read(place, group, sites)

    @torch.inference_mode()
    def _read(self, place: int, group: Group, sites: Sequence[Site]) -> list[Read | Spliced]:
        predicts, rows = group.predicts.to(self.model.device), torch.arange(int(group.predicts.sum()))
        scored = self.is_causal and len(rows) > 0
        mask = group.is_activation
        found, output = self._pass(group, sites, lambda x: x[mask.to(x.device)], head=scored)
        read: list[Read | Spliced] = [Read(place, site, x) for site, x in found.items()]
        return [*read, Spliced(place, None, rows, output.logits[predicts])] if scored else read

    def without(
        self,
        dictionary: ITDA,
        atoms: int | Sequence[int],
        *,
        site: Site | str | int | None = None,
        residual: bool = True,
    ) -> LanguageModel:
        """Return this model without some atoms of a dictionary: a model of its own, on the same weights.

        In every pass the atoms' share of each activation's code is taken away at the dictionary's site, or at `site`:
        as `itda.steer(..., ablate=atoms)` does, for good. What the code leaves over stays; with `residual=False` the
        reconstruction without the atoms takes the activation's place; `without(dictionary, [], residual=False)` is the
        model on its reconstructions. Padding, special tokens in front of a text and massive activations stay. This
        model stays as it is, and weights are shared, so little memory is needed. It can be evaluated, generate and be
        steered like any other; its `model` is a transformers model for other tools. What the removal costs, beside a
        control: `itda.steering.cost_of_removal`. Raises `SettingError` for an atom that is not there, and `ModelError`
        for a dictionary that does not fit.

        >>> import itda
        >>> lm = LanguageModel.load("tiny")
        >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=3, k=2, atoms=8, progress=False)
        >>> lm.without(run["layer_3"], [0, 5])
        <LanguageModel tiny without atoms 0, 5: 6 layers of width 192, float32 on cpu>
        """
        check_fits(self.name, self.d_model, self.tokenizer_hash, dictionary)
        where = Site.of(site) if site is not None else dictionary.site
        if where is None:
            raise SettingError(
                "the dictionary does not say of which site it is: give one, as site=3 or site='3.mlp_out'"
            )
        numbers = [atoms] if isinstance(atoms, int) else list(atoms)
        edit = Edit.of(dictionary, ablate=numbers, residual=residual)
        editing = Editing(self.name, self.tokenizer, self.d_model, edit)
        named = ", ".join(map(str, numbers[:3])) + f" and {len(numbers) - 3} more" * (len(numbers) > 3)
        made = edited_twin(self.model, self.places([where])[where], editing)
        what = f"without atoms {named}" if numbers else "unchanged" if residual else f"with {where} rebuilt"
        return LanguageModel(made, self.tokenizer, f"{self.name} {what}", self.commit)

    def forward(self, model: torch.nn.Module, group: Group, **options: Any) -> Any:
        """Return the output of the model, or of its base model, for a group; `options` are those of its forward pass.

        A model in train mode is in evaluation mode meanwhile. Raises `ModelError` for a token that the model does not
        have.
        """
        device, rows = self.model.device, rows_of(self.model)
        highest = int(group.input_ids.max())
        if highest >= rows:
            raise ModelError(
                f"the text has token {highest}, and {self.name} has embeddings for {rows} tokens: use the tokenizer "
                "that it was trained with"
            )
        ids, mask = group.input_ids.to(device), group.attention_mask.to(device)
        with evaluating(self.model):
            return model(input_ids=ids, attention_mask=mask, use_cache=False, **options)
