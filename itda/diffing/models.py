"""The models of a diff: a base, what it was changed to, and controls, each loaded once and none changed in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from itda.diffing.adapters import CONFIG, adapter_folder, has_adapter, own_module, with_adapter
from itda.errors import ModelError
from itda.sources.models.base import ActivationModel
from itda.sources.models.identity import files_of, fingerprint
from itda.sources.models.named import NamedModel
from itda.sources.models.transformers import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AnyModel = str | Path | ActivationModel | torch.nn.Module
"""A model's name; or a model in memory: of this package, of transformers, or of PEFT."""

Load = Callable[[str, str | None], ActivationModel]
"""Loads a model, given its name and revision."""


@dataclass(frozen=True)
class Opening:
    """How the models of a diff are loaded.

    `load` loads those that are named, by default into memory. `merge` adds an adapter's product to the weights of its
    copy of the base, which must be in memory.
    """

    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None
    """The commit, branch or tag of the base."""
    changed_revision: str | None = None
    """That of the changed model."""
    merge: bool = True
    load: Load | None = None

    def model(self, name: str, revision: str | None) -> ActivationModel:
        """Load a model by its name."""
        if self.load is not None:
            return self.load(name, revision)
        return LanguageModel.load(name, revision=revision, **self._options)

    def copy_of(self, name: str) -> PreTrainedModel:
        """Load the base once more, on the CPU."""
        return self.named(name, self.revision).model()

    def named(self, name: str, revision: str | None) -> NamedModel:
        """Find a model by its name, without loading it."""
        return NamedModel.named(name, revision=revision, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, "trust_remote_code": self.trust_remote_code}


@dataclass(frozen=True, eq=False)
class Models:
    """The models of a diff, loaded."""

    base: ActivationModel
    changed: ActivationModel
    controls: Sequence[ActivationModel] = ()
    same: bool = False
    """True if the changed model is the base: the same object, or files with the same contents."""


def open_models(
    base: AnyModel, changed: AnyModel, controls: Sequence[AnyModel] = (), opening: Opening | None = None
) -> Models:
    """Load a base, a changed model and controls; those in memory are taken as they are. Raises `ModelError`.

    A model is named as everywhere. The changed model and the controls may also be PEFT adapters, each by its folder or
    Hub id: it is put into a copy of the base of its own, so that the base stays as it is. A transformers or PEFT model
    in memory is read with the base's tokenizer. An adapter that was put into the base model itself is refused: both
    would be the same model then.

    >>> models = open_models("tiny", "tiny")
    >>> models.same, models.base is models.changed
    (True, True)
    """
    opening = opening or Opening()
    if isinstance(base, str | Path) and adapter_folder(str(base), opening.revision) is not None:
        raise ModelError(f"{base} is an adapter: name its base model first, and the adapter after it")
    first = _Opened.of_base(base, opening)
    others = [first.another(changed, opening.changed_revision), *(first.another(each, None) for each in controls)]
    return Models(first.model, others[0], others[1:], same=others[0] is first.model)


@dataclass(frozen=True, eq=False)
class _Opened:
    """The base, once it is there, beside which the other models are opened."""

    given: AnyModel
    model: ActivationModel
    opening: Opening

    @staticmethod
    def of_base(base: AnyModel, opening: Opening) -> _Opened:
        if isinstance(base, ActivationModel):
            return _Opened(base, base, opening)
        if isinstance(base, str | Path):
            return _Opened(base, opening.model(str(base), opening.revision), opening)
        raise ModelError(
            f"the base is a {type(base).__name__}: give its name, or load_model(model, tokenizer), for its tokenizer"
        )

    def another(self, given: AnyModel, revision: str | None) -> ActivationModel:
        """Open a model beside the base; the base itself if it is the same one."""
        if isinstance(given, str | Path):
            return self._named(str(given), revision)
        if isinstance(given, ActivationModel):
            self._check_apart(given, getattr(given, "model", None))
            return given
        module = own_module(given) or given
        if not isinstance(module, transformers.PreTrainedModel):
            raise ModelError(f"a {type(given).__name__} is no language model: give a name, or a transformers model")
        self._check_apart(given, module)
        if module is getattr(self.model, "model", None):
            return self.model
        return LanguageModel(module, self._tokenizer(), getattr(module, "name_or_path", "") or "changed")

    def _check_apart(self, given: object, module: object) -> None:
        """Raises `ModelError` if an adapter was put into the base model itself."""
        own = getattr(self.model, "model", None)
        if given is not self.model and module is own and own is not None and has_adapter(own):
            raise ModelError(
                "the adapter was put into the base model itself, so that both are one model: give the base by its "
                "name, or load it a second time"
            )

    def _named(self, name: str, revision: str | None) -> ActivationModel:
        folder = adapter_folder(name, revision)
        if folder is not None:
            return self._adapted(name, folder)
        if isinstance(self.given, str | Path) and self._is_same(name, revision):
            return self.model
        return self.opening.model(name, revision)

    def _is_same(self, name: str, revision: str | None) -> bool:
        """Return True if a name means the base: the same commit, or files with the same contents."""
        mine = self.opening.named(str(self.given), self.opening.revision)
        other = self.opening.named(name, revision)
        prints = mine.fingerprint(), other.fingerprint()
        if prints != (None, None):
            return prints[0] == prints[1]
        return (mine.source, mine.gguf, mine.commit) == (other.source, other.gguf, other.commit)

    def _adapted(self, name: str, folder: Path) -> LanguageModel:
        """Load a copy of the base with an adapter in it."""
        if not isinstance(self.model, LanguageModel):
            raise ModelError(
                f"{name} is an adapter, which a model that is read block by block or runs elsewhere cannot have: give "
                "the base more memory with --model-memory, or merge both with peft, save the model and name its folder"
            )
        named = isinstance(self.given, str | Path)
        module = self.opening.copy_of(str(self.given)) if named else copy.deepcopy(self.model.model)
        adapted = with_adapter(module, name, folder, base=self.model.name, merge=self.opening.merge)
        torch.nn.Module.to(adapted, self.model.device)
        return LanguageModel(adapted, self._tokenizer(), name)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        inner = getattr(self.model, "inner", self.model)
        found = getattr(inner, "tokenizer", None)
        if not isinstance(found, transformers.PreTrainedTokenizerBase):
            raise ModelError(f"{self.model.name} brings no tokenizer for the other model: give that one's name")
        return found


def adapter_fingerprint(folder: Path) -> str:
    """Return a hash of an adapter's files."""
    return fingerprint([*files_of(folder), folder / CONFIG])
