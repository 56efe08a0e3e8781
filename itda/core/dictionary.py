"""ITDA: a finished dictionary of labelled atoms, which encodes and decodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from itda.core.arithmetic import ARITHMETIC
from itda.core.atom import Atom
from itda.core.checks import check_k
from itda.core.code import SparseCode
from itda.core.display.summaries import dictionary_html, dictionary_line
from itda.core.effects import AtomEffects
from itda.core.intake import Activations, check_finite, tensor_of
from itda.core.labels import Labels
from itda.core.massive import check_limit, massive
from itda.core.memory import NO_LIMITS, PursuitLimits
from itda.core.metrics import energies
from itda.core.nearest import Nearest
from itda.core.pursuit import Encoder, Pursuit, decoded, encoder
from itda.core.pursuit.rules import rules_of
from itda.core.readout import all_cosines, best_cosines
from itda.core.readout_features import FeatureEncoder
from itda.core.replication import Replication
from itda.core.site import Site
from itda.errors import ActivationError, SettingError


@dataclass(frozen=True, eq=False)
class ITDA:
    """Atoms with their labels, and the settings that made them. Immutable.

    Raises `SettingError` if the parts do not fit together.

    >>> import torch, itda
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
    >>> dictionary = itda.ITDA(torch.eye(3), labels, k=2)
    >>> code = dictionary.encode(torch.tensor([[0.0, 3.0, -4.0]]))
    >>> code.indices.tolist(), code.coefficients.tolist()
    ([[2, 1]], [[-4.0, 3.0]])
    >>> dictionary(torch.ones(5, 7, 3)).shape
    torch.Size([5, 7, 3])
    """

    atoms: Float32[Tensor, "atoms d_model"]
    """The atoms [atoms, d_model], unit vectors."""
    labels: Labels
    k: int
    pursuit: Pursuit = "mp"
    offset: Float32[Tensor, " width"] | None = None
    """Vector [d_model] subtracted before the pursuit and added after it; None for no offset."""
    threshold: float | None = None
    """The largest share of an activation's energy that training left unexplained, in the unit of the mode."""
    mode: str = "paper"
    site: Site | None = None
    fidelity: Float32[Tensor, " atoms"] | None = None
    """Cosine of each atom to the activation that its label names (after the offset); None if they are the same."""
    novelty: Float32[Tensor, " atoms"] | None = None
    """Error of each atom's activation in the dictionary just before it was added: how much the atom was needed."""
    replication: Replication | None = None
    """How often each atom came back from other documents; None if `itda replicate` was not run."""
    effects: AtomEffects | None = None
    """What each atom does to the next token; None if `itda effects` was not run."""
    nearest: Nearest | None = None
    """The activations nearest to each atom in other documents; None until they are found, by `itda index` too."""
    massive_norm: float | None = None
    """Norm above which an activation is massive (`itda.core.massive`) and left out of measures; None for no limit."""
    feature_encoder: FeatureEncoder | None = None
    """The detectors of `features`; None until they are fitted."""
    arithmetic: tuple[int, ...] = (ARITHMETIC,)
    """Versions of the order of summation that made it, which say what bits it has (`itda.core.arithmetic`)."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the dictionary comes from: model, revision, corpus, window, versions. JSON values only."""
    limits: PursuitLimits = field(default=NO_LIMITS, repr=False)
    """Limits of its pursuits on this machine. They are not saved, and none but `fast` changes a result."""

    def __post_init__(self) -> None:
        check_pursuit(self.k, self.pursuit)
        if self.atoms.ndim != 2 or len(self.atoms) != len(self.labels):
            raise SettingError(
                f"atoms of shape {tuple(self.atoms.shape)} with {len(self.labels)} labels: give [atoms, d_model] and "
                "one label per atom"
            )
        check_offset(self.offset, self.d_model)
        check_limit(self.massive_norm)
        for name, values in (("fidelity", self.fidelity), ("novelty", self.novelty)):
            if values is not None and values.shape != (len(self.atoms),):
                raise SettingError(f"a {name} of shape {tuple(values.shape)}: give one number per atom")
        if self.replication is not None and len(self.replication) != len(self.atoms):
            raise SettingError(f"a replication of {len(self.replication)} atoms: give one row per atom")
        if self.effects is not None and len(self.effects) != len(self.atoms):
            raise SettingError(f"effects of {len(self.effects)} atoms: give one row per atom")
        if self.feature_encoder is not None and self.feature_encoder.detectors.shape != self.atoms.shape:
            shapes = tuple(self.feature_encoder.detectors.shape), tuple(self.atoms.shape)
            raise SettingError(f"detectors of shape {shapes[0]} for atoms of shape {shapes[1]}: fit features anew")
        if self.nearest is not None and len(self.nearest) != len(self.atoms):
            raise SettingError(f"nearest activations of {len(self.nearest)} atoms: give some for each atom")
        # In parts: a float64 copy of a large dictionary would be as large as two of it.
        norms = torch.cat([part.double().norm(dim=1) for part in self.atoms.split(4096)])
        if not bool(((norms - 1).abs() < 1e-5).all()):
            raise SettingError("atoms must be finite and of unit norm: divide each by its norm")

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        return dictionary_line(self)

    def _repr_html_(self) -> str:
        return dictionary_html(self)

    @property
    def d_model(self) -> int:
        """Width of the activations and of the atoms."""
        return self.atoms.shape[1]

    def atom(self, index: int) -> Atom:
        """Return one atom with its label; -1 is the last. Raises `SettingError` if there is no such atom.

        >>> import torch, itda
        >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
        >>> itda.ITDA(torch.eye(3), labels, k=2).atom(-1)
        atom 2 of 3: «x»
        """
        if not -len(self) <= index < len(self):
            remedy = f"use 0 to {len(self) - 1} or -1" if len(self) else "train it on some activations"
            raise SettingError(f"no atom {index}: the dictionary has {len(self)}, {remedy}")
        index %= len(self)
        return Atom(
            index=index,
            label=self.labels[index],
            # A copy: a view would keep the whole dictionary, in memory and in pickles.
            vector=self.atoms[index].clone(),
            fidelity=self.fidelity[index].item() if self.fidelity is not None else None,
            novelty=self.novelty[index].item() if self.novelty is not None else None,
            replication=float(self.replication.share[index]) if self.replication is not None else None,
            nearest=tuple(self.nearest.of(index)) if self.nearest is not None else (),
            of=len(self),
            site=str(self.site) if self.site is not None else None,
        )

    def to(self, device: torch.device | str) -> ITDA:
        """Return the dictionary with its atoms, and so its pursuits, on a device. Codes stay where activations are.

        >>> import torch, itda
        >>> itda.ITDA(torch.eye(1), itda.Labels.of(itda.Label("essay", 0, 0, 1, 0, "", "x", "")), k=1).to("cpu").k
        1
        """
        offset = self.offset.to(device) if self.offset is not None else None
        encoder = self.feature_encoder.to(device) if self.feature_encoder is not None else None
        return replace(self, atoms=self.atoms.to(device), offset=offset, feature_encoder=encoder)

    @torch.no_grad()
    def encode(self, activations: Activations) -> SparseCode:
        """Decompose activations [..., d_model] into codes [..., k], by the dictionary's pursuit.

        Coefficients are float32, or float64 for float64 activations. The bits of a row depend on that row alone. A
        NumPy array is taken like a tensor. Raises `ActivationError` for a wrong width, a row that is not finite, or
        one so large that its coefficients would not be finite.
        """
        return self.decompose(activations)[0]

    @torch.no_grad()
    def decompose(self, activations: Activations) -> tuple[SparseCode, Float64[Tensor, "*batch"]]:
        """Return codes, as `encode`, and the error ||z - z_hat||^2 / ||z||^2 of each activation, z = x - offset."""
        activations = tensor_of(activations)
        check_width(activations, self.d_model)
        flat, lead = activations.reshape(-1, self.d_model), activations.shape[:-1]
        code, error = self._encoder(target_of(flat, self.d_model, self.offset).to(self.atoms.device))
        dtype = torch.promote_types(activations.dtype, torch.float32)
        code = replace(code, coefficients=code.coefficients.to(dtype))
        finite = torch.isfinite(code.coefficients).all(dim=-1)
        if not bool(finite.all()):
            row = int(finite.logical_not().nonzero()[0])
            kind = str(dtype).removeprefix("torch.")
            raise ActivationError(f"the code of activation {row} does not fit into {kind}: scale the activations down")
        return code.shaped(lead, activations.device), error.reshape(lead).to(activations.device)

    @torch.no_grad()
    def is_massive(self, activations: Activations) -> Bool[Tensor, "*batch"]:
        """Return a mask [...] of massive activations [..., d_model]: of a norm above `massive_norm`, if there is one.

        They can be encoded like others, but leave them out of averages: they would decide them alone. The result does
        not depend on the batch. Raises `ActivationError` for a wrong width.

        >>> import torch, itda
        >>> labels = itda.Labels.of(itda.Label("essay", 0, 0, 1, 0, "", "x", ""))
        >>> dictionary = itda.ITDA(torch.eye(1), labels, k=1, massive_norm=50.0)
        >>> dictionary.is_massive(torch.tensor([[49.0], [-51.0]])).tolist()
        [False, True]
        """
        activations = tensor_of(activations)
        check_width(activations, self.d_model)
        check_finite(activations)
        return massive(activations, self.massive_norm)

    @torch.no_grad()
    def error(self, activations: Activations, code: SparseCode) -> Float64[Tensor, "*batch"]:
        """Return ||z - z_hat||^2 / ||z||^2 of each activation, z = x - offset, for any code; 0 where z is zero."""
        activations = tensor_of(activations)
        check_width(activations, self.d_model)
        check_finite(activations)
        offset = self.offset.to(activations.device) if self.offset is not None else 0
        z = activations.double() - offset
        left = energies(activations.double() - self.decode(code).to(activations.device).double())
        energy = energies(z)
        return torch.where(energy > 0, left / energy, torch.zeros_like(left))

    @torch.no_grad()
    def decode(self, code: SparseCode) -> Float[Tensor, "*batch d_model"]:
        """Reconstruct activations [..., d_model] from codes: the weighted sum of atoms, plus the offset."""
        indices, coefficients = code.indices.reshape(-1, code.k), code.coefficients.reshape(-1, code.k)
        total = decoded(coefficients.double(), self.atoms, indices)
        if self.offset is not None:
            total += self.offset.double()
        return total.to(code.coefficients).reshape(*code.indices.shape[:-1], self.d_model)

    @overload
    def similarity(self, activations: Activations) -> Float32[Tensor, "*batch atoms"]: ...

    @overload
    def similarity(self, activations: Activations, *, top: int, least: float | None = None) -> SparseCode: ...

    @overload
    def similarity(self, activations: Activations, *, least: float) -> SparseCode: ...

    @torch.no_grad()
    def similarity(
        self, activations: Activations, *, top: int | None = None, least: float | None = None
    ) -> Float32[Tensor, "*batch atoms"] | SparseCode:
        """Return cosines of activations [..., d_model], after the offset, to the atoms: for detecting a concept.

        All of them as [..., atoms]; or the `top` largest, those of at least `least`, or both, as a `SparseCode` whose
        coefficients are cosines, the largest first. Beside the result, it takes the memory of a chunk of rows. If all
        cosines are returned, their last bits are those of a float32 product; a `SparseCode` is the same everywhere.
        Raises `ActivationError` as `encode`, and `SettingError`.

        >>> import torch, itda
        >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
        >>> dictionary = itda.ITDA(torch.eye(3), labels, k=2)
        >>> dictionary.similarity(torch.tensor([[0.0, 3.0, -4.0]])).tolist()
        [[0.0, 0.6000000238418579, -0.800000011920929]]
        >>> dictionary.similarity(torch.tensor([[0.0, 3.0, -4.0]]), top=1).indices.tolist()
        [[1]]
        """
        activations = tensor_of(activations)
        check_width(activations, self.d_model)
        flat, lead = activations.reshape(-1, self.d_model), activations.shape[:-1]
        targets = target_of(flat, self.d_model, self.offset).to(self.atoms.device)
        if top is None and least is None:
            return all_cosines(targets, self.atoms).reshape(*lead, len(self)).to(activations.device)
        return best_cosines(targets, self.atoms, top=top, least=least).shaped(lead, activations.device)

    @torch.no_grad()
    def lasting_similarity(self, activations: Activations) -> Float32[Tensor, "*batch atoms"]:
        """Return cosines of activations [..., d_model] to the atoms, weighted by what lasts in a text, as [..., atoms].

        Like `similarity`, after the features' mean is subtracted, in the space that `fit_features` finds: there a
        direction counts the more, the more of it neighbouring tokens share. Use it to detect what a text is about. It
        is dense. Last bits may differ from machine
        to machine. Raises `ActivationError` as `encode`, and `SettingError` for a dictionary without feature encoder.

        >>> import torch, itda
        >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(2)))
        >>> x = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
        >>> dictionary = itda.fit_features(itda.ITDA(torch.eye(2), labels, k=1), x)
        >>> dictionary.lasting_similarity(torch.tensor([[5.0, 0.0]])).tolist()
        [[1.0, 0.0]]
        """
        encoder, flat, lead = self._for_features(activations)
        cosines = encoder.lasting_cosines(flat, self.atoms)
        return cosines.reshape(*lead, len(self)).to(tensor_of(activations).device)

    @torch.no_grad()
    def features(self, activations: Activations, *, top: int | None = None) -> SparseCode:
        """Return the `top` (default: k) strongest features of activations [..., d_model], as [..., top].

        Use them to detect a concept by few numbers. Feature i is that of atom i, with its label. Three of five are
        broad: those of a group of atoms for which atom i stands. Coefficients are scores in standard deviations, the
        largest first, and always positive (`itda.core.readout_features`). They cannot be decoded.
        The bits of a row depend on that row alone. Raises `ActivationError` as `encode`, and `SettingError` for a
        `top` below 1 or a dictionary without a feature encoder.

        >>> import torch, itda
        >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(2)))
        >>> x = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
        >>> dictionary = itda.fit_features(itda.ITDA(torch.eye(2), labels, k=1), x)
        >>> dictionary.features(torch.tensor([[[3.0, 2.0]]]), top=2).coefficients.tolist()
        [[[2.0, 1.5]]]
        """
        encoder, flat, lead = self._for_features(activations)
        found = encoder.strongest(flat, self.k if top is None else top)
        return found.shaped(lead, tensor_of(activations).device)

    def _for_features(self, activations: Activations) -> tuple[FeatureEncoder, Tensor, torch.Size]:
        """Return the feature encoder, activations less its mean as rows, and the shape of their batch."""
        if self.feature_encoder is None:
            raise SettingError(
                "the dictionary has no feature encoder: make one with `itda features RUN` or itda.fit_features"
            )
        activations = tensor_of(activations)
        check_width(activations, self.d_model)
        flat = activations.reshape(-1, self.d_model)
        centred = target_of(flat, self.d_model, self.feature_encoder.mean).to(self.atoms.device)
        return self.feature_encoder, centred, activations.shape[:-1]

    def __call__(self, activations: Activations) -> Float[Tensor, "*batch d_model"]:
        """Return the reconstruction [..., d_model]: `decode(encode(activations))`."""
        return self.decode(self.encode(activations))

    @cached_property
    def _encoder(self) -> Encoder:
        return encoder(self.atoms, self.k, self.pursuit, memory=self.limits.memory, fast=self.limits.fast)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_encoder"}

    # The disk and the Hub belong to itda.store; these three methods only say where people look for it first.

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the dictionary to a new folder. Raises `StoreError` if there is something already."""
        from itda.store.dictionaries import save_dictionary

        save_dictionary(self, Path(folder))

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None) -> ITDA:
        """Read a dictionary from a folder, RUN/layer_3, or the Hub, user/name (/layer_3). Raises `StoreError`."""
        from itda.store.dictionaries import load_dictionary

        return load_dictionary(source, revision=revision)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload the dictionary to the Hub; return the address of the commit. Raises `StoreError`."""
        from itda.store.dictionaries import push_dictionary

        return push_dictionary(self, repo_id, private=private, token=token)


UNKNOWN = {
    "fidelity": None,
    "novelty": None,
    "replication": None,
    "nearest": None,
    "feature_encoder": None,
    "effects": None,
}
"""What was found of each atom as it is: not known any more of other atoms that take the place of these."""


def check_pursuit(k: int, pursuit: str) -> None:
    """Raises `SettingError` unless k is at least 1 and there is a pursuit of that name."""
    check_k(k)
    rules_of(pursuit)


def check_offset(offset: Tensor | None, d_model: int) -> None:
    """Raises `SettingError` unless the offset is None or [d_model] finite numbers."""
    if offset is None:
        return
    if offset.shape != (d_model,):
        raise SettingError(f"an offset of shape {tuple(offset.shape)}: give [{d_model}], as the activations")
    if not bool(torch.isfinite(offset).all()):
        raise SettingError("the offset is not finite: give the mean of finite activations")


def check_width(activations: Tensor, d_model: int) -> None:
    """Raises `ActivationError` for activations of another width."""
    if activations.shape[-1:] != (d_model,):
        raise ActivationError(
            f"activations of width {activations.shape[-1] if activations.ndim else 0} for atoms of width {d_model}: "
            "use the model and the site that the dictionary was made from"
        )


def target_of(
    activations: Float[Tensor, "batch d_model"], d_model: int, offset: Float[Tensor, " d_model"] | None
) -> Float[Tensor, "batch d_model"]:
    """Return z = x - offset, which a pursuit decomposes, in float32 at least. Raises `ActivationError`."""
    check_width(activations, d_model)
    check_finite(activations)
    if offset is None:
        return activations.to(torch.promote_types(activations.dtype, torch.float32))
    return activations.double() - offset.to(activations.device).double()
