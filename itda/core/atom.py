"""One atom of a dictionary, to look at: its vector, and the token whose activation it is."""

from __future__ import annotations

import html
from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

from itda.core.display import markup
from itda.core.labels import Label
from itda.core.replication import no_finding


@dataclass(frozen=True, eq=False, repr=False)
class Atom:
    """An atom with what its dictionary knows of it. A notebook shows its token in its prompt.

    >>> import torch
    >>> Atom(1, Label("essay", 1, 2, 5, 9, "To", " be", " or"), torch.ones(1), None, None, 3, "layer_4")
    atom 1 of 3 at layer_4: To« be» or
    """

    index: int
    label: Label
    vector: Float32[Tensor, " d_model"]
    """The atom itself [d_model], a unit vector."""
    fidelity: float | None
    """Cosine to the activation that the label names; None if the atom is that direction."""
    novelty: float | None
    """Error of the atom's activation in the dictionary just before the atom was added; None if not kept."""
    of: int
    """Number of atoms in its dictionary."""
    site: str | None
    replication: float | None = None
    """Share of draws of other documents in which the atom came back; None if `itda replicate` was not run."""
    nearest: tuple[tuple[Label, float], ...] = ()
    """The labels of the nearest activations of other documents with their cosines, the nearest first; none until
    `itda index`, `itda replicate` or `find_nearest` finds them."""

    def __repr__(self) -> str:
        where = f" at {self.site}" if self.site is not None else ""
        return f"atom {self.index} of {self.of}{where}: {markup.one_line(self.label)}"

    def _repr_html_(self) -> str:
        label = self.label
        where = f" at {markup.escaped(markup.clip(self.site, 100))}" if self.site is not None else ""
        rows = []
        if not label.whole:
            rows = [
                ("document", f"<bdi>{markup.escaped(markup.clip(label.document, 200))}</bdi>"),
                ("token", f"{markup.chip(label.token)}, number {label.position:,} of the document"),
                ("characters", f"{label.char_start:,} to {label.char_end:,}"),
            ]
        if self.novelty is not None:
            rows.append(("novelty", f"{markup.share(self.novelty)} of it was unexplained by the atoms before it"))
        if self.fidelity is not None:
            shown = f"{markup.bar(0.0, self.fidelity, markup.SHARE)} {self.fidelity:.3f}"
            rows.append(("fidelity", f"{shown}, its cosine to the token's activation"))
        if self.replication is not None:
            word = ": it does not replicate, so it is no finding" if no_finding(self.replication) else ""
            rows.append(("replication", f"it came back in {self.replication:.0%} of the draws{word}"))
        source = "this text" if label.whole else "the marked token"
        # A centre of a group, or an atom that was refined, is near the activation that names it, and not that one.
        named = "the activation of" if self.fidelity is None else "named by the activation of"
        title = f"<div><b>Atom {self.index:,}</b> of {self.of:,}{where}: {named} {source}</div>"
        table = markup.facts("Where it comes from", rows) if rows else ""
        return f"<div>{title}{markup.passage(label)}{table}{self._nearest()}</div>"

    def _nearest(self) -> str:
        """Return a table of the nearest activations, each in its prompt; nothing where none are known."""
        if not self.nearest:
            return ""
        rows = [
            (
                f"{cosine:.3f}",
                f'<span title="{html.escape(markup.plain(markup.clip(label.document, 100)))}" '
                f'style="font-family:monospace;white-space:pre-wrap">{markup.in_prompt(label)}</span>',
            )
            for label, cosine in self.nearest
        ]
        return markup.facts("Nearest activations in other documents, by the cosine to the atom", rows)
