"""A model that runs elsewhere: on NDIF, the National Deep Inference Fabric, through nnsight."""

from __future__ import annotations

import copy
import io
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.core.batch import Site
from itda.errors import ModelError, SettingError
from itda.sources.models.added import Passed
from itda.sources.models.base import PlacedModel
from itda.sources.models.blocks import Place, find_blocks
from itda.sources.models.named import NamedModel
from itda.sources.models.streams import IN_BLOCK, in_order, site_module
from itda.sources.models.transformers import LanguageModel
from itda.sources.models.trial import check_layers, named_numbers, place_of, trial_group, tried
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, Windower

NDIF = "https://api.ndif.us"
"""The server that requests go to unless nnsight is set to another."""

REQUEST_TOKENS = 8192
"""Tokens in one request: 128 MiB of activations per site of a model that is 8,192 wide, in bfloat16."""

TRIES = 6
"""Number of times that a request is made before it counts as failed."""
FIRST_PAUSE_S = 2.0
"""Seconds before the second try; doubled before each later one, so that all take about a minute."""

PASSING = re.compile(r"time.?out|timed out|unavailable|overload|restart|try again|connection", re.IGNORECASE)
"""Matches the server's messages about failed requests that are worth another try."""

_tracing = threading.Lock()
"""Held while a request is made: nnsight can build only one at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class RemoteModel(PlacedModel):
    """A model whose forward pass runs on another machine; this one has its structure and its tokenizer.

    Only the wanted activations are sent back. A request that fails for want of a network is made again, `TRIES` times
    in all, with `sleep` between them. It is no `SpliceableModel`: nothing can be put in the place of activations there.
    """

    model: LanguageModel
    """The model's structure, without weights unless it runs in this process, and its tokenizer."""
    traced: Any
    """nnsight's wrapper around the same model."""
    remote: bool | Literal["local"]
    """True if it runs on NDIF; "local" sends requests from this process to itself, in the form that NDIF gets."""
    name: str
    sleep: Callable[[float], object] = time.sleep
    """Waits for some seconds between two tries."""

    @staticmethod
    def load(
        name: str, *, revision: str | None = None, remote: bool = True, trust_remote_code: bool = False
    ) -> RemoteModel:
        """Connect to a model that NDIF runs now; only its configuration and its tokenizer are loaded.

        Without `remote`, it is loaded whole, and runs here as it would there. Raises `SettingError` without nnsight or
        an API key, and `ModelError` if the model is not running, with those that are.
        """
        if not remote:
            return RemoteModel.over(LanguageModel.load(name, revision=revision, trust_remote_code=trust_remote_code))
        nnsight = _nnsight()
        config = nnsight.CONFIG.API
        if not config.APIKEY and config.HOST == NDIF:
            raise SettingError("NDIF needs an API key: get one at https://login.ndif.us and set NDIF_API_KEY to it")
        deployment = _deployment(nnsight, name, revision)
        options = {"trust_remote_code": True} if trust_remote_code else {}
        place = NamedModel.named(name, revision=revision, device="cpu", trust_remote_code=trust_remote_code)
        with place.explained():
            tokenizer = place.tokenizer()
            # nnsight changes the tokenizer that it is given: the side of its padding, for one.
            given = copy.deepcopy(tokenizer)
            traced = _traced(name, revision=revision, task=deployment.get("task"), tokenizer=given, **options)
        return RemoteModel(LanguageModel(traced._module, tokenizer, name), traced, True, name)

    @staticmethod
    def over(model: LanguageModel, remote: Literal[False, "local"] = False) -> RemoteModel:
        """Wrap a model of this process, to run it here through nnsight.

        Raises `SettingError` without nnsight.

        >>> tiny = RemoteModel.over(LanguageModel.load("tiny"))
        >>> tiny.layers, tiny.d_model
        (6, 192)
        """
        # The task changes nothing where token ids are given; this one needs nothing from a tokenizer.
        task = "text-generation" if model.is_causal else "feature-extraction"
        tokenizer = copy.deepcopy(model.tokenizer)
        traced = _traced(model.model, task=task, tokenizer=tokenizer)
        return RemoteModel(model, traced, remote, model.name)

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self.model.layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.d_model

    @property
    def revision(self) -> str | None:
        """The commit of a model from the Hub."""
        return self.model.revision

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 of the tokenizer's definition: models with the same one cut text into the same tokens."""
        return self.model.tokenizer_hash

    @property
    def dtype(self) -> str:
        """The dtype of its weights, by its configuration: float32, bfloat16, ..."""
        return self.model.dtype

    @property
    def device(self) -> str:
        """The device that it runs on: ndif, or a device of this machine."""
        return "ndif" if self.remote is True else self.model.device

    def windower(self, window: int, bos: Bos = "auto") -> Windower:
        """Return what cuts documents into windows for this model. Raises `SettingError` for more tokens than it reads.

        `bos` says which token each begins with: `itda.sources.tokenizing.special`.
        """
        return self.model.windower(window, bos)

    def places(self, sites: Sequence[Site]) -> dict[Site, Place]:
        """Return where the activations of some sites are, as `LanguageModel.places` does.

        For attn_out and mlp_out of a model that has no weights here, a request tries whether the modules with
        the usual names make up the change of a block. Raises `ModelError`.
        """
        if not any(value.is_meta for value in self.model.model.parameters()):
            return self.model.places(sites)
        model = self.model.model
        blocks, known = find_blocks(model), tried(model)
        check_layers(blocks, sites)
        for layer in sorted({site.layer for site in sites if site.stream != "resid_post"} - set(known.added)):
            known.learn(layer, self._passed(layer))
        return {site: place_of(model, site) for site in sites}

    def _passed(self, layer: int) -> Passed:
        """Record a pass through a block and its streams, by a request with a few tokens."""
        model = self.model.model
        block = find_blocks(model)[layer]
        parts = [site_module(find_blocks(model), Site(layer, stream)) for stream in IN_BLOCK]
        names = [next(name for name, module in block.named_modules() if module is part) for part in parts]
        readers = [self._envoy(module) for module in (block, *parts, block)]
        group = trial_group(model, self.model.tokenizer)
        before, *inside, after = (x.double() for x in self._patiently([group], readers, (0,))[0])
        outputs = dict(zip(names, inside, strict=True))
        kinds = dict(zip(names, (each.part for each in IN_BLOCK.values()), strict=True))
        return Passed(before, after, outputs, {}, kinds, named_numbers(block, model), torch.finfo(model.dtype).eps)

    def flight(self, tokens: int) -> int:
        """Return how many groups one request has."""
        return max(1, REQUEST_TOKENS // tokens)

    def harvest(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, dict[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the activations of each group, on the CPU: see `ActivationModel`. All groups go in one request.

        Raises `ModelError` if the request fails for good, or too often.
        """
        ordered = in_order(sites)
        places = self.places(sites)
        readers = [self._envoy(places[site].module) for site in ordered]
        for number, found in enumerate(self._patiently(groups, readers)):
            by_site = dict(zip(ordered, found, strict=True))
            yield number, {site: places[site].scaled(by_site[site]) for site in sites}

    def _envoy(self, module: nn.Module) -> Any:
        return next(envoy for envoy in self.traced.modules() if envoy._module is module)

    def _patiently(self, groups: Sequence[Group], readers: list[Any], inputs: Sequence[int] = ()) -> list[list[Tensor]]:
        """Make a request until it succeeds. Of the readers whose numbers are in `inputs`, their inputs are read."""
        pause = FIRST_PAUSE_S
        for last in range(1, TRIES + 1):
            try:
                with _tracing:
                    return _request(self.traced, groups, readers, self.remote, inputs)
            except Exception as error:  # nnsight's, httpx's, websocket's, torch's
                reason = _reason(error)
                if not _passes(error):
                    raise ModelError(
                        f"{self.name} failed through nnsight ({reason}): "
                        "look at https://nnsight.net/status, or run it without --remote"
                    ) from error
                if last == TRIES:
                    raise ModelError(
                        f"NDIF did not answer {TRIES} times ({reason}): look at the network and "
                        "https://nnsight.net/status, then run this again"
                    ) from error
            self.sleep(pause)
            pause *= 2
        raise AssertionError("the last try returns or raises")


@torch.inference_mode()
def _request(
    model: Any, groups: Sequence[Group], readers: list[Any], remote: bool | Literal["local"], inputs: Sequence[int] = ()
) -> list[list[Float[Tensor, "activations d_model"]]]:
    """Return the wanted activations of each group at each reader; readers are in the order of computation.

    The code in the session runs on the server, which has no itda: it uses torch and Python alone.
    """
    nnsight = _nnsight()
    jobs = [(group.input_ids, group.attention_mask, group.is_activation) for group in groups]
    with model.session(remote=remote):
        found = nnsight.save([])
        for ids, attention_mask, wanted in jobs:
            with model.trace(input_ids=ids, attention_mask=attention_mask, use_cache=False) as tracer:
                row = []
                found.append(row)
                for number, reader in enumerate(readers):
                    output = reader.input if number in inputs else reader.output
                    # A block of transformers 5 returns a tensor, whose [0] would be the first window alone.
                    output = output[0] if isinstance(output, tuple | list) else output
                    if output.shape[:-1] != wanted.shape and output.shape[:-1] != (wanted.numel(),):
                        raise ValueError(f"a block returns {list(output.shape)} for {list(wanted.shape)} tokens")
                    row.append(output.reshape(*wanted.shape, -1)[wanted.to(output.device)].cpu())
                tracer.stop()
    return found


def _nnsight() -> Any:
    try:
        import nnsight
    except ImportError as error:
        raise SettingError("--remote needs a package that is not here: pip install 'itda[remote]'") from error
    return nnsight


def _traced(model: Any, **options: Any) -> Any:
    """Return nnsight's wrapper around a model: a name, for one without weights, or a model of this process."""
    with warnings.catch_warnings():
        # It warns of BERT's module `output`; that does no harm, since modules are not found by their names here.
        warnings.filterwarnings("ignore", message=".*nnsight already serves on every module")
        return _nnsight().TransformersModel(model, **options)


def _deployment(nnsight: Any, name: str, revision: str | None) -> Mapping[str, Any]:
    """Return NDIF's record of a model that it runs. Raises `ModelError` if it does not run it."""
    with redirect_stderr(io.StringIO()):  # nnsight prints there what the errors below say
        known = list(nnsight.status().deployments.values())
    if not known:
        raise ModelError("NDIF does not answer, or runs no model: look at the network and https://nnsight.net/status")
    running = [entry for entry in known if entry["state"] == "RUNNING"]
    for entry in running:
        if entry["repo_id"].lower() == name.lower() and entry["revision"] == (revision or "main"):
            return entry
    state = next((f" ({entry['state'].lower()})" for entry in known if entry["repo_id"].lower() == name.lower()), "")
    live = ", ".join(sorted({entry["repo_id"] for entry in running})) or "none now"
    at = f" at revision {revision}" if revision else ""
    raise ModelError(f"{name}{at} is not running on NDIF{state}: use one that is: {live}")


def _passes(error: BaseException | None) -> bool:
    """Return True if another try may succeed: the network failed, or a busy server, not the request itself."""
    seen = 0
    while error is not None and seen < 8:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status in (408, 425, 429) or status >= 500
        packages = type(error).__module__.split(".")[0]
        if isinstance(error, ConnectionError | TimeoutError) or packages in ("httpx", "httpcore", "websocket"):
            return True
        if type(error).__name__ == "RemoteError" and error.__cause__ is None:
            return bool(PASSING.search(str(error)))
        error, seen = error.__cause__, seen + 1
    return False


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The last line of a traceback from the server names the error.
    return f"{type(error).__name__}: {lines[-1][:200]}" if lines else type(error).__name__
