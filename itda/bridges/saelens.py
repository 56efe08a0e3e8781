"""SAELens: dictionaries as SAEs of an architecture of their own, `itda`, which importing this registers.

    from sae_lens import SAE
    from itda.bridges.saelens import itda_disk_loader
    sae = SAE.load_from_disk("RUN/layer_4", converter=itda_disk_loader)

Latent i is atom i. Codes are dense and signed, as those of SAELens' `abstopk`. `from_sae` goes the other way, and
`label` gives the atoms that it makes labels. Without this package: `itda.bridges.saelens_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from itda.bridges.decoders import from_sae as from_sae
from itda.bridges.labelled_run import labelled_run as labelled_run
from itda.bridges.labelling import label as label
from itda.bridges.saelens_files import bias_of, configuration
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.errors import SettingError, StoreError
from itda.files import DICTIONARY_FILES
from itda.store.dictionaries import load_dictionary

try:
    from sae_lens import SAE, SAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise SettingError(
        f"SAELens cannot be imported ({error}): pip install 'itda[saelens]', or see docs/bridges.md"
    ) from error

ARCHITECTURE = "itda"


@dataclass
class ItdaSAEConfig(SAEConfig):
    """Configuration of a dictionary as an SAE: SAELens' own fields, the sparsity and the pursuit."""

    k: int = 32
    pursuit: str = "mp"

    @classmethod
    def architecture(cls) -> str:
        """The name in SAELens' registry."""
        return ARCHITECTURE


class ItdaSAE(SAE[ItdaSAEConfig]):
    """A dictionary of labelled atoms as an SAE: `W_dec` [d_sae, d_in] are the atoms, `b_dec` the offset.

    `encode` gives the codes of `ITDA.encode`, dense [..., d_sae]. To autograd they are constants: gradients reach the
    codes (attribution), and do not go on from there to the input.
    """

    cfg: ItdaSAEConfig

    def initialize_weights(self) -> None:
        """Make random unit atoms: weights are loaded into them."""
        place = {"dtype": self.dtype, "device": self.device}
        atoms = torch.randn(self.cfg.d_sae, self.cfg.d_in, **place)
        self.W_dec = nn.Parameter(nn.functional.normalize(atoms, dim=1))
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_in, **place))

    @property
    def W_enc(self) -> Tensor:  # noqa: N802 - SAELens' name
        """The atoms as columns [d_in, d_sae]: what a pursuit correlates with."""
        return self.W_dec.T

    @property
    def dictionary(self) -> ITDA:
        """The dictionary whose pursuit encodes. Its labels are numbers: `ITDA.from_pretrained` has the real ones.

        It is made anew when a weight is changed in place or assigned, which `.data` hides.
        """
        return self._pursuit()[0]

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes [..., d_sae] of activations [..., d_in]. Raises `ActivationError` for what is not finite."""
        # As SAELens' process_sae_in, but that the offset is subtracted in float64, as ITDA.encode does it.
        x = self.hook_sae_input(self.reshape_fn_in(x.to(self.dtype)))
        x = self.run_time_activation_norm_fn_in(x)
        dictionary, norms = self._pursuit()
        codes = dictionary.encode(x.detach()).dense(len(dictionary))
        codes = (codes if norms is None else codes / norms).to(self.dtype)
        if torch.is_grad_enabled():
            codes.requires_grad_()
        return self.hook_sae_acts_post(codes)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Return activations [..., d_in]: the weighted sum of the atoms, plus the offset."""
        x = feature_acts @ self.W_dec
        if self.cfg.apply_b_dec_to_input:
            x = x + self.b_dec
        x = self.run_time_activation_norm_fn_out(self.hook_sae_recons(x))
        return self.reshape_fn_out(x, self.d_head)

    def fold_W_dec_norm(self) -> None:  # noqa: N802 - SAELens' name
        """Do nothing: atoms have unit norm."""

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> NoReturn:
        """Raises NotImplementedError: atoms would lose their unit norm."""
        raise NotImplementedError("atoms have unit norm, which takes no scaling factor: scale activations instead")

    def fold_activation_whitening(self, *_matrices: Tensor, **_named: Tensor) -> NoReturn:
        """Raises NotImplementedError: a pursuit's encoder is its decoder."""
        raise NotImplementedError("a pursuit's encoder is its decoder, so whitening has no place in it: leave it out")

    def _pursuit(self) -> tuple[ITDA, Tensor | None]:
        """Return the dictionary, and the norms of its atoms where the dtype is too coarse for unit ones.

        It is kept until a weight changes.
        """
        weights = (self.W_dec, self.b_dec)
        state = tuple((w.data_ptr(), w._version, w.dtype, w.device) for w in weights), self.cfg.k, self.cfg.pursuit
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] != state:
            atoms, norms = self.W_dec.detach().float(), None
            lengths = atoms.norm(dim=1)
            if bool(((lengths - 1).abs() >= 1e-5).any()):
                atoms, norms = atoms / lengths[:, None], lengths
            offset = self.b_dec.detach().float() if self.cfg.apply_b_dec_to_input else None
            made = ITDA(atoms, Labels.of_rows(len(atoms)), self.cfg.k, self.cfg.pursuit, offset)  # pyright: ignore[reportArgumentType]
            # The weights are kept so that no others can come to lie where they lay.
            kept = self.__dict__["_kept"] = state, made, norms, weights
        return kept[1], kept[2]


SAE_CLASS_REGISTRY.pop(ARCHITECTURE, None)  # of this module before it was reloaded
register_sae_class(ARCHITECTURE, ItdaSAE, ItdaSAEConfig)


def as_sae(dictionary: ITDA, device: str = "cpu") -> ItdaSAE:
    """Return a dictionary that is in memory as an SAE of SAELens, on a device. It shares no memory with it.

    >>> from itda import ITDA, Labels
    >>> as_sae(ITDA(torch.eye(3), Labels.of_rows(3), k=2))(torch.tensor([[0.0, 3.0, -4.0]])).tolist()
    [[0.0, 3.0, -4.0]]
    """
    converter = partial(_converted, dictionary)
    return SAE.load_from_disk("a dictionary in memory", device, converter=converter)


def itda_disk_loader(
    path: str | Path, device: str = "cpu", cfg_overrides: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a dictionary's folder for `SAE.load_from_disk(RUN/layer_4, converter=itda_disk_loader)`.

    Raises `StoreError`.
    """
    return _converted(load_dictionary(path), path, device, cfg_overrides)


def itda_huggingface_loader(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor], None]:
    """Read a dictionary from the Hub for `SAE.from_pretrained(user/name, layer_4, converter=itda_huggingface_loader)`.

    The folder is that of a site in a run that was pushed, or "." for a repository that is one dictionary. Raises
    `StoreError`.
    """
    from huggingface_hub import snapshot_download

    within = Path(folder_name or ".")
    wanted = [(within / name).as_posix() for name in DICTIONARY_FILES]
    try:
        copy = Path(snapshot_download(repo_id, allow_patterns=wanted, force_download=force_download))
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise StoreError(
            f"{repo_id} cannot be read from the Hub: check the name, the network and `hf auth whoami`"
        ) from error
    if not (copy / within / "config.json").exists():
        raise StoreError(
            f"{repo_id} has no dictionary in {folder_name}: name its folder, such as layer_4, or . for all"
        )
    return *_converted(load_dictionary(copy / within), repo_id, device, cfg_overrides), None


def _converted(
    dictionary: ITDA, _path: str | Path, device: str, cfg_overrides: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return SAELens' configuration and weights of a dictionary, on a device."""
    config = configuration(dictionary, ARCHITECTURE, k=dictionary.k, pursuit=dictionary.pursuit)
    config |= {"device": device, **(cfg_overrides or {})}
    weights = {"W_dec": dictionary.atoms, "b_dec": bias_of(dictionary)}
    dtype = getattr(torch, str(config["dtype"]).removeprefix("torch."))
    return config, {name: weight.to(device, dtype, copy=True) for name, weight in weights.items()}
