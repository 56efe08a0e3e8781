"""`itda diff`: what a changed model has that its base has not, in one pass of both over a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from itda import config as settings
from itda.checks import check_diff, check_free
from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.site import Site
from itda.diffing.adapters import adapter_folder
from itda.diffing.checks import Outline, check_enough, check_outlines, outlines
from itda.diffing.models import AnyModel, Models, Opening, adapter_fingerprint, open_models
from itda.diffing.pairs import PairedSource
from itda.diffing.promoted import promoted
from itda.errors import CorpusError, ItdaError, ModelError
from itda.machine import free_device_memory, free_memory
from itda.recipes.activation_source import model_loader
from itda.recipes.diff_noise import noise_values
from itda.recipes.diff_pass import DiffPass, SiteFound
from itda.recipes.diff_values import (
    Promoted,
    TokensRead,
    predictions_values,
    roles_values,
    site_columns,
    site_values,
    token_columns,
)
from itda.recipes.explore import export_diffs
from itda.recipes.explore_diffs import pages_of
from itda.recipes.run_in_progress import versions
from itda.recipes.runs import Bar, Say, finite, no_bar, now_and_then, open_spec, unsaid
from itda.resolving import crossed
from itda.sources.corpora.conversations import Conversations
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.named import NamedModel
from itda.sources.unembedding import unembeds
from itda.store.diffs import Diff, write_diff

IN_MEMORY = 0.9
"""Share of the free memory that the weights of all models may take before they are streamed."""


@dataclass(frozen=True)
class GivenModels:
    """Models in memory, in place of those that the settings name; None for those that they do."""

    base: AnyModel | None = None
    changed: AnyModel | None = None
    controls: Sequence[AnyModel] | None = None


def diff(
    options: settings.Diff,
    bar: Bar = no_bar,
    say: Say = unsaid,
    *,
    given: GivenModels | None = None,
    corpus: Corpus | None = None,
) -> Diff:
    """`itda diff`: one pass of all models; nothing is kept of the activations.

    With `options.out` the diff is written to that folder when it is whole: a process that is killed leaves nothing, and
    begins anew. Models and a `corpus` in memory are used in place of those that `options` name. Raises an `ItdaError`.
    """
    check_diff(options, in_memory=given is not None)
    if options.out is not None:
        check_free(options.out)
    names = _named(options, given or GivenModels())
    opening = Opening(
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
        changed_revision=options.changed_revision,
        merge=options.merge,
    )
    sites = crossed(options.layers, options.streams)
    known = outlines(*names, opening)
    check_outlines(known, sites)
    text = _Text.of(options, known, say, corpus)
    text.check(options)
    models = open_models(*names, _with_loader(opening, options, names))
    source = text.source(options, models, sites)
    if (why := source.why_no_shared_basis) is not None:
        say(f"differences and use are left out: {why}")
    found = _read(source, options, bar)
    if not source.read:
        raise CorpusError(f"{text.corpus.name} has no token to read: name another corpus with --corpus")
    made = _made(options, models, source, found, text, say)
    if options.out is not None:
        write_diff(made, options.out)
    if options.export is not None:
        name = options.out.resolve().name if options.out is not None else "diff"
        export_diffs(pages_of({name: made}, models=False), options.export)
    return made


def _named(options: settings.Diff, given: GivenModels) -> tuple[AnyModel, AnyModel, Sequence[AnyModel]]:
    base = given.base if given.base is not None else options.base
    changed = given.changed if given.changed is not None else options.changed
    return base, changed, given.controls if given.controls is not None else options.control


def _with_loader(
    opening: Opening, options: settings.Diff, names: tuple[AnyModel, AnyModel, Sequence[AnyModel]]
) -> Opening:
    """Return how the models are loaded: all streamed if together they need more memory than they may have."""
    several = [names[0], names[1], *names[2]]
    share = _memory_of_each(options, opening, several)

    def load(name: str, revision: str | None) -> ActivationModel:
        # Each has one block in memory, so that a pair takes no more than one model that reads ahead.
        return model_loader(name, share, revision, head=options.kl, read_ahead=False)()

    return replace(opening, load=load)


def _memory_of_each(options: settings.Diff, opening: Opening, names: Sequence[AnyModel]) -> settings.Diff:
    """Return the settings with a share of the memory for each model."""
    if options.stream or options.model_memory is not None:
        budget = options.model_memory if options.model_memory is not None else free_memory() // 2
        return replace(options, model_memory=budget // len(names))
    first = next((str(name) for name in names if isinstance(name, str | Path)), None)
    if first is None:
        return options
    named = opening.named(first, opening.revision)
    device = torch.device(named.device)
    free = free_device_memory(device) if device.type == "cuda" else free_memory()
    if _bytes(named) * len(names) > IN_MEMORY * free:
        return replace(options, stream=True, model_memory=free_memory() // 2 // len(names))
    return replace(options, model_memory=max(1, int(free // len(names))))


def _bytes(named: NamedModel) -> int:
    try:
        return named.bytes()
    except ItdaError:
        raise
    except Exception:  # a kind of model that cannot be made without its weights
        return 0


@dataclass(frozen=True, eq=False)
class _Text:
    """What is read: a corpus, or conversations with the roles of their messages."""

    corpus: Corpus
    conversations: Conversations | None
    cut_by: int
    """The number of the model whose tokenizer cuts it: that with the chat template, or the base."""
    tokenizer: Any

    @staticmethod
    def of(options: settings.Diff, known: Sequence[Outline], say: Say, corpus: Corpus | None) -> _Text:
        if not options.chat:
            whole = corpus if corpus is not None else open_spec(options.corpus, options, say)
            return _Text(_chosen(whole, options), None, 0, known[0].tokenizer)
        with_template = [i for i, each in enumerate(known) if getattr(each.tokenizer, "chat_template", None)]
        if not with_template:
            raise ModelError("no model has a chat template: leave out --chat, or name a chat model")
        tokenizer = known[with_template[0]].tokenizer
        assert tokenizer is not None
        found = Conversations.read(Path(options.corpus).expanduser(), tokenizer)
        return _Text(_chosen(found.corpus, options), found, with_template[0], tokenizer)

    def check(self, options: settings.Diff) -> None:
        """Raises `CorpusError` or `SettingError` for too little text, as far as that can be known."""
        if self.tokenizer is None:
            return
        check_enough(
            self.tokenizer,
            self.corpus,
            window=options.window,
            tokens=options.tokens,
            bos=self._bos(options),
            first_tokens=options.first_tokens,
            special_tokens=self.conversations is not None,
        )

    def _bos(self, options: settings.Diff) -> Any:
        return options.bos if self.conversations is None else "never"  # a chat template writes its own

    def source(self, options: settings.Diff, models: Models, sites: Sequence[Site]) -> PairedSource:
        """Return what the models read."""
        several = [models.base, models.changed, *models.controls]
        return PairedSource(
            models.base,
            models.changed,
            self.corpus,
            sites,
            window=options.window,
            batch_size=options.batch_size,
            tokens=options.tokens,
            bos=self._bos(options),
            controls=models.controls,
            predictions=options.kl,
            first_tokens=options.first_tokens,
            special_tokens=self.conversations is not None,
            cut_by=several[self.cut_by],
        )

    def roles(self, labels: Labels) -> Any:
        """Return the role of each token; None for text that is no conversation."""
        return self.conversations.roles(labels) if self.conversations is not None else None


def _chosen(corpus: Corpus, options: settings.Diff) -> Corpus:
    part = corpus.split(options.part)
    return part.shuffled(options.seed) if options.order == "shuffled" else part


def _read(source: PairedSource, options: settings.Diff, bar: Bar) -> DiffPass:
    """Read to the end."""
    found, shown = DiffPass(source), 0
    with bar("diff", options.tokens) as progress:
        show = now_and_then(progress.set_postfix_str)
        for model in {id(model): model for model in source.models}.values():
            model.watch = show  # these models are ours
        for each in source:
            found.offer(each)
            progress.update(found.mean_seen - shown)
            shown = found.mean_seen
    return found


def _made(options: settings.Diff, models: Models, source: PairedSource, found: DiffPass, text: _Text, say: Say) -> Diff:
    labels = found.labels()
    read = TokensRead(labels, found.predictions(), text.roles(labels))
    sites = found.finish()
    teller = _promoted(models) if source.shared_basis else None
    values = {
        **_about(options, models, source, text),
        "kl": predictions_values(read),
        "roles": roles_values(read),
        "noise": noise_values(options, source, say),
        "sites": {str(site): site_values(each, read, teller) for site, each in sites.items()},
    }
    values = finite(json.loads(json.dumps(values)))
    dictionaries = {site: made for site, each in sites.items() if (made := _dictionary(each, labels, values))}
    rows = {site: site_columns(each) for site, each in sites.items()}
    return Diff(values, dictionaries, token_columns(read), rows)


def _promoted(models: Models) -> Promoted | None:
    """Return what tells the tokens that atoms promote, by the unembedding of both models that have one here."""
    both = {"base": models.base, "changed": models.changed}
    told = {name: model for name, model in both.items() if unembeds(model)}

    def tell(atoms: torch.Tensor) -> list[dict[str, Any]]:
        columns = {name: promoted(model, atoms) for name, model in told.items()}
        return [{name: column[row] for name, column in columns.items()} for row in range(len(atoms))]

    return tell if told else None


def _about(options: settings.Diff, models: Models, source: PairedSource, text: _Text) -> dict[str, Any]:
    """Return the record of what makes the diff."""
    corpus = text.corpus
    names = ("window", "batch_size", "bos", "first_tokens", "chat", "merge")
    named = len(options.control) == len(models.controls)
    controls = options.control if named else [model.name for model in models.controls]
    return {
        "base": _model_values(models.base, options.base),
        "changed": _model_values(models.changed, options.changed),
        "controls": [_model_values(*each) for each in zip(models.controls, controls, strict=True)],
        "same": models.same,
        "shared_basis": source.shared_basis,
        "why_no_shared_basis": source.why_no_shared_basis,
        "corpus": options.corpus or corpus.name,
        "corpus_part": corpus.part,
        "corpus_revision": corpus.revision,
        "fingerprint": corpus.fingerprint,
        "order": f"shuffled, seed {options.seed}" if options.order == "shuffled" else "corpus",
        **{name: getattr(options, name) for name in names},
        "tokens": source.read,
        "documents": len({str(each) for labels in source.labels for each in labels.document}),
        "first_tokens_left_out": source.first_left_out,
        "versions": versions(),
    }


def _model_values(model: ActivationModel, name: str) -> dict[str, Any]:
    """Return the record of a model; `name` is what the settings call it."""
    path = Path(name).expanduser() if name and name != "tiny" else None
    here = path is not None and path.exists()
    adapter = adapter_folder(name) if here else None
    local = NamedModel.named(name).fingerprint() if here and adapter is None else None
    return {
        "name": str(path.absolute()) if path is not None and here else name or model.name,
        "adapter": adapter is not None,
        "revision": model.revision,
        "model_fingerprint": adapter_fingerprint(adapter) if adapter is not None else local,
        "tokenizer": model.tokenizer_hash,
        "dtype": model.dtype,
        "layers": model.layers,
        "d_model": model.d_model,
    }


def _dictionary(of: SiteFound, labels: Labels, values: dict[str, Any]) -> ITDA | None:
    """Return the difference dictionary of a site; None where there is no difference to make one of."""
    found = of.found.differences
    if found is None or not len(found.atoms):
        return None
    names = ("base", "changed", "corpus", "corpus_part", "corpus_revision", "fingerprint", "order", "window", "bos")
    provenance = {name: values[name] for name in names}
    provenance |= {"of": "differences", "scales": list(found.scales), "model": values["changed"]["name"]}
    return ITDA(
        found.atoms,
        labels[of.tokens[found.rows]],
        k=found.indices.shape[1],
        offset=found.mean.float(),
        site=of.site,
        novelty=torch.from_numpy(found.novelty).float(),
        provenance=provenance,
    )
