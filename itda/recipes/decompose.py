"""`itda decompose`: the tokens of a text with their atoms; and the tokens that use an atom most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, SupportsIndex, overload

import torch

from itda import config as settings
from itda.checks import check_text
from itda.core.batch import ActivationBatch, Site
from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.display.decomposition import decomposition, one_token
from itda.core.display.decomposition_text import decomposition_text
from itda.core.display.markup import one_line
from itda.core.labels import Label
from itda.core.levels import two_levels
from itda.core.massive import massive_medians
from itda.errors import SettingError
from itda.recipes.runs import limits_of, open_run
from itda.sources.models.base import ActivationModel
from itda.sources.prompt import read_prompt
from itda.sources.tokenizing.special import Bos
from itda.store.notes import AtomNotes, read_notes
from itda.store.records import chosen_site

if TYPE_CHECKING:
    from pandas import DataFrame

Readout = Literal["code", "levels", "similarity", "features"]

NUMBERS: dict[Readout, str] = {"similarity": "cosine", "features": "deviations"}
"""What the number of an atom is, where it is no coefficient."""


@dataclass(frozen=True)
class AtomUse:
    """One atom in the decomposition of one token."""

    atom: int
    """The number of the atom in its dictionary."""
    coefficient: float
    """The atom's coefficient in the code; of the readout "similarity" its cosine to the activation, of "features" its
    score in standard deviations."""
    label: Label
    """The label of the atom; in the results of `top_uses`, that of the activation."""
    fidelity: float | None = None
    """The cosine of a refined atom to the activation that its label names; None if atoms were not refined."""
    nearest: tuple[str, ...] = ()
    """The tokens of the three activations nearest to the atom in other documents, if `itda index` found them."""
    replication: float | None = None
    """The share of draws in which the atom came back; None if `itda replicate` was not run. Below half, no finding."""
    name: str = ""
    """The name that a reader gave the atom in the explorer; empty if it has none."""


@dataclass(frozen=True)
class TokenDecomposition:
    """One token with the atoms that its activation is a sum of."""

    label: Label
    explained: float | None
    """Share of the activation's energy that the atoms explain, 1 - ||z - z_hat||^2 / ||z||^2; None for a massive one,
    where it would say nothing."""
    atoms: list[AtomUse]
    """The atoms in pick order, the most important first."""
    massive: float | None = None
    """The norm of a massive activation (`ITDA.is_massive`) in medians of the norms of training's first tokens; None for
    others."""

    def __repr__(self) -> str:
        # The default one would have the prompt of every atom.
        return f"<{one_line(self.label)} with {len(self.atoms)} atoms>"

    def _repr_html_(self) -> str:
        # Not "coefficient" or "cosine": a token does not know its readout.
        return one_token(self, "weight")


class Decomposition(list[TokenDecomposition]):
    """The tokens of a text with their atoms: a list that a notebook shows as a shaded text, a terminal as a table.

    >>> Decomposition([], site="layer_4")
    0 tokens at layer_4
    """

    def __init__(
        self, tokens: Iterable[TokenDecomposition] = (), *, site: str | None = None, readout: Readout = "code"
    ) -> None:
        super().__init__(tokens)
        self.site = site
        self.readout: Readout = readout

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> TokenDecomposition: ...

    @overload
    def __getitem__(self, index: slice, /) -> Decomposition: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> TokenDecomposition | Decomposition:
        if isinstance(index, slice):
            return Decomposition(super().__getitem__(index), site=self.site, readout=self.readout)
        return super().__getitem__(index)

    def __repr__(self) -> str:
        # Short: the default one would have the prompt of every atom of every token.
        place = f" at {self.site}" if self.site is not None else ""
        number = NUMBERS.get(self.readout, "coefficient")
        shown = f"\ntoken, share explained, strongest atoms: number «own token» {number}" if self else ""
        return decomposition_text(self, f"{len(self)} tokens{place}{shown}")

    def to_pandas(self) -> DataFrame:
        """Return a table with a row for each atom of each token: token, explained share, atom and the atom's prompt."""
        from pandas import DataFrame

        return DataFrame(
            [
                {
                    "position": token.label.position,
                    "token": token.label.token,
                    "explained": token.explained,
                    "massive": token.massive,
                    "atom": use.atom,
                    "atom_name": use.name,
                    "coefficient": use.coefficient,
                    "fidelity": use.fidelity,
                    "replication": use.replication,
                    "atom_token": use.label.token,
                    "atom_before": use.label.before,
                    "atom_after": use.label.after,
                    "atom_document": use.label.document,
                }
                for token in self
                for use in token.atoms
            ]
        )

    def _repr_html_(self) -> str:
        return decomposition(self, self.site, NUMBERS.get(self.readout, "coefficient"))


def decompose(
    options: settings.Decompose, say: Callable[[str], object] = lambda _line: None
) -> tuple[Site, Decomposition]:
    """`itda decompose`: decompose a text; return the site and the tokens with their atoms.

    `say` is told what the user should know. Raises an `ItdaError` for bad input.
    """
    run = open_run(options.run)
    site = chosen_site(run, options.layer)
    check_text(options.text)
    dictionary, model = run.dictionary(site, limits_of(options)), run.model(options, say)
    window, readout = run.record["window"], options.readout
    tokens = decompose_text(
        model, dictionary, site, options.text, window, options.batch_size, readout, options.top, run.bos
    )
    tokens = named(tokens, read_notes(options.run).of(str(site)))
    if options.token is None:
        return site, tokens
    if not -len(tokens) <= options.token < len(tokens):
        raise SettingError(f"no token {options.token}: the text has {len(tokens)}, use 0 to {len(tokens) - 1} or -1")
    return site, Decomposition([tokens[options.token]], site=str(site), readout=readout)


def decompose_text(
    model: ActivationModel,
    dictionary: ITDA,
    site: Site,
    text: str,
    window: int,
    batch_size: int = 1,
    readout: Readout = "code",
    top: int = 5,
    bos: Bos = "auto",
) -> Decomposition:
    """Decompose every token of a text. Raises `SettingError` if it is longer than the model reads at once.

    Where the text fits, the model runs in the shape of the training run, `batch_size` windows of `window` tokens, so
    that a prompt of the training corpus gives to the bit the activations that became atoms. `readout` chooses the
    atoms: those of the code, those of the code on two levels, the `top` closest ones by cosine, or the `top` strongest
    features.
    """
    labels, found_at = read_prompt(model, text, [site], window, batch_size, bos)
    x = found_at[site]
    code, error = dictionary.decompose(x)
    if readout == "similarity":
        found = dictionary.similarity(x, top=top)
        assert isinstance(found, SparseCode)
        code = found
    if readout == "features":
        code = dictionary.features(x, top=top)
    if readout == "levels":
        code = two_levels(dictionary).encode(x)
        error = dictionary.error(x, code)
    massive = massive_medians(x, dictionary.massive_norm)
    explained = [None if apart is not None else 1 - each for apart, each in zip(massive, error.tolist(), strict=True)]
    fidelity = dictionary.fidelity.tolist() if dictionary.fidelity is not None else None
    replication = dictionary.replication.share.tolist() if dictionary.replication is not None else None
    tokens = [
        TokenDecomposition(
            label,
            explained[row],
            [
                AtomUse(
                    atom,
                    code.coefficients[row, place].item(),
                    dictionary.labels[atom],
                    fidelity[atom] if fidelity is not None else None,
                    nearest_tokens(dictionary, atom),
                    replication[atom] if replication is not None else None,
                )
                for place, atom in enumerate(code.indices[row, : code.count[row]].tolist())
            ],
            massive[row],
        )
        for row, label in enumerate(labels)
    ]
    return Decomposition(tokens, site=str(site), readout=readout)


def named(tokens: Decomposition, notes: Mapping[int, AtomNotes]) -> Decomposition:
    """Return the tokens with the names that a reader gave their atoms, where the label is still the one named."""

    def use_of(use: AtomUse) -> AtomUse:
        written = notes.get(use.atom)
        return replace(use, name=written.name) if written and written.label == use.label.key else use

    each = (replace(token, atoms=[use_of(use) for use in token.atoms]) for token in tokens)
    return Decomposition(each, site=tokens.site, readout=tokens.readout) if notes else tokens


def nearest_tokens(dictionary: ITDA, atom: int) -> tuple[str, ...]:
    """Return the tokens of the three activations nearest to an atom in other documents; none if they are not known."""
    return tuple(label.token for label, _ in dictionary.nearest.of(atom)[:3]) if dictionary.nearest is not None else ()


def top_uses(
    source: Iterable[Mapping[Site, ActivationBatch]], dictionary: ITDA, site: Site, atoms: list[int], most: int
) -> list[list[AtomUse]]:
    """Find for each of some atoms the `most` activations of a source that have it with the largest coefficient.

    Massive activations are left out. Each `AtomUse` has the label of the activation. Equal coefficients stay in
    reading order.
    """
    found: list[list[AtomUse]] = [[] for _ in atoms]
    for batches in source:
        batch = batches[site]
        if dictionary.atoms.device != batch.activations.device:
            dictionary = dictionary.to(batch.activations.device)
        ordinary = ~dictionary.is_massive(batch.activations)
        code, labels = dictionary.encode(batch.activations[ordinary]), batch.labels[ordinary.cpu()]
        code = code.shaped(code.count.shape, torch.device("cpu"))
        for uses, atom in zip(found, atoms, strict=True):
            coefficient = torch.where(code.indices == atom, code.coefficients, 0).sum(dim=1)
            for row in coefficient.topk(min(most, len(coefficient))).indices.tolist():
                if coefficient[row] > 0:
                    uses.append(AtomUse(atom, coefficient[row].item(), labels[row]))
            uses.sort(key=lambda use: -use.coefficient)
            del uses[most:]
    return found
