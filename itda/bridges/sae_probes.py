"""`itda probe RUN --sets sae-probes`: its 113 labelled data sets, by its protocol, on each readout of a run.

Activations are kept in RUN/sae-probes as sae-probes itself reads them, so that `sae_probes.run_sae_evals(...,
model_cache_path="RUN/sae-probes")` loads no model. Results are kept in its form too, one file for each data set,
readout and site. Called again, it goes on with what is not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itda import config as settings
from itda.bridges.sae_probes_scores import scores, split
from itda.bridges.sae_probes_sets import LabelledSet, ProbeSets, find_sets
from itda.core.dictionary import ITDA
from itda.core.levels import two_levels
from itda.core.site import Site
from itda.errors import CorpusError, SettingError, StoreError
from itda.files import explained, first_line, locked, sha256_of, whole_file, write_json, write_whole
from itda.recipes.runs import Bar, Run, Say, limits_of, no_bar, open_run, unsaid
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import dressing
from itda.sources.tokenizing.windows import Group
from itda.store.hub import AGAIN

FOLDER, ABOUT = "sae-probes", "about.json"
SEED = 42
"""The seed of sae-probes."""
TOKENS = 1024
"""Tokens of a prompt that sae-probes reads."""
PADDED = 4096
"""Tokens of prompts that the model reads at once, padding included."""


@dataclass(frozen=True)
class SetScores:
    """The measures of a run's readouts on data sets."""

    folder: Path
    """Where activations and results are kept."""
    counts: Sequence[int | None]
    """Latents that regressions read; None for all, of activations alone."""
    sites: Mapping[Site, Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]]
    """By site, readout and data set, one entry for each number of latents."""


def probe_sets(options: settings.Probe, bar: Bar = no_bar, say: Say = unsaid) -> SetScores:
    """`itda probe RUN --sets sae-probes`: read activations that are not there yet, then fit what is not there yet.

    `say` is told what the user should know. Raises an `ItdaError` for bad input.
    """
    run, sets = open_run(options.run), find_sets(options.data)
    names = _chosen(sets, options.only)
    folder = run.folder / FOLDER / _shortened(options)
    with explained(f"write to {run.folder}", "copy the run where you may write"):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(run.folder, "probed"):
        _read(run, sets, names, folder, options, bar, say)
        found = _scored(run, sets, names, folder, options, bar, say)
    return SetScores(folder, _counts(options), found)


def _shortened(options: settings.Probe) -> str:
    """Return a folder's name for other activations than those that sae-probes makes itself; "" for these."""
    rows = [] if options.rows is None else [f"rows_{options.rows}"]
    tokens = [] if options.prompt_tokens == TOKENS else [f"tokens_{options.prompt_tokens}"]
    return "_".join(rows + tokens)


def _counts(options: settings.Probe) -> tuple[int | None, ...]:
    if any(count < 1 for count in options.latents):
        raise SettingError(f"--latents are {options.latents}: each must be at least 1")
    return (*sorted(set(options.latents)), None)


def _chosen(sets: ProbeSets, only: Sequence[str]) -> list[str]:
    unknown = [name for name in only if name not in sets.names]
    if unknown:
        raise SettingError(f"no set {unknown[0]!r} in {sets.place}: use one of {', '.join(sets.names[:3])} ...")
    return [name for name in sets.names if not only or name in only]


# Activations.


def model_name(run: Run) -> str:
    """Return the name of a run's model without what a file's name cannot have: `model_name` of sae-probes."""
    return Path(str(run.record["model"])).name.replace(":", "_")


def activations_file(folder: Path, run: Run, name: str, site: Site) -> Path:
    """Return the file in which sae-probes looks for the activations of a data set."""
    return folder / f"model_activations_{model_name(run)}" / f"{name}_{site.hook_name}.pt"


def _read(
    run: Run, sets: ProbeSets, names: Sequence[str], folder: Path, options: settings.Probe, bar: Bar, say: Say
) -> None:
    """Write the activations of the sets that are not there yet."""
    about = {"model": model_name(run), "tokens": options.prompt_tokens, "rows": options.rows}
    about |= {key: run.record.get(key) for key in ("revision", "model_fingerprint", "dtype", "bos", "prefix")}
    _renew(folder / f"model_activations_{model_name(run)}", about)
    missing = [name for name in names if not all(activations_file(folder, run, name, s).exists() for s in run.sites)]
    if not missing:
        return
    model = run.model(options, say)
    with bar("sets", len(missing)) as progress:
        for name in missing:
            found = last_activations(
                model, sets.load(name, options.rows, SEED).prompts, list(run.sites), run.bos, options.prompt_tokens
            )
            for site, x in found.items():
                with (
                    explained(f"write to {folder}", f"free some space, and {AGAIN}"),
                    whole_file(activations_file(folder, run, name, site)) as partial,
                ):
                    torch.save(x, partial)
            progress.update(1)


def last_activations(
    model: LanguageModel, prompts: Sequence[str], sites: Sequence[Site], bos: Any, most: int
) -> dict[Site, Tensor]:
    """Return the activations [prompts, d_model] of the last token of each prompt, by site, in float32.

    A prompt of more than `most` tokens, the special ones in front included, loses its beginning.
    """
    front, _ = dressing(model.tokenizer, bos)
    if most <= len(front):
        raise SettingError(f"--prompt-tokens is {most}: it must be more than the {len(front)} special tokens in front")
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    texts = [[*front, *each[-(most - len(front)) :]] for each in ids]
    empty = next((row for row, each in enumerate(texts) if not each), None)
    if empty is not None:
        raise CorpusError(f"prompt {empty} has no token: leave its set out")
    rows: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(texts) for site in sites}
    for batch in _batches([len(text) for text in texts]):
        longest = max(len(texts[row]) for row in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for place, row in enumerate(batch):
            tokens[place, : len(texts[row])] = torch.tensor(texts[row])
            mask[place, : len(texts[row])] = 1
        for site, x in model.activations(Group((), tokens, mask, mask.bool(), len(front)), sites).items():
            for place, row in enumerate(batch):
                rows[site][row] = x[place, len(texts[row]) - 1].float().cpu()
    return {site: torch.stack(each) for site, each in rows.items()}


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of rows in batches of about `PADDED` tokens, the short rows together; every row once."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and (len(batch) + 1) * lengths[row] > PADDED:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


# Results.


def readouts(dictionary: ITDA) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return functions from activations [rows, d_model] to latents [rows, latents], by the readout's name."""
    atoms, levels = len(dictionary), two_levels(dictionary)
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "code": lambda x: dictionary.encode(x).dense(atoms),
        "code, two levels": lambda x: levels.encode(x).dense(atoms),
        "similarity": dictionary.similarity,
    }
    if dictionary.feature_encoder is not None:
        found["features"] = lambda x: dictionary.features(x).dense(atoms)
    return found | {"neurons": lambda x: x}


def _scored(
    run: Run, sets: ProbeSets, names: Sequence[str], folder: Path, options: settings.Probe, bar: Bar, say: Say
) -> dict[Site, dict[str, dict[str, list[dict[str, Any]]]]]:
    """Fit what is not there yet; return all results. A set that has too few of a class is told, and left out."""
    counts, results = _counts(options), {}
    dictionaries = run.dictionaries(limits_of(options))
    encoders = {site: readouts(each) for site, each in dictionaries.items()}
    with bar("probes", sum(map(len, encoders.values())) * len(names)) as progress:
        for site, reads in encoders.items():
            place = folder / "results" / str(site)
            _renew(place, _made_of(run, site, options))
            sizes = {reader: _counts_of(reader, counts, dictionaries[site]) for reader in reads}
            results[site] = {reader: {} for reader in reads}
            for name in names:
                files = {reader: result_file(place / _slug(reader), run, name, site) for reader in reads}
                kept = {reader: _kept(path, sizes[reader]) for reader, path in files.items()}
                missing = {reader: sizes[reader] for reader, each in kept.items() if each is None}
                progress.update(len(reads) - len(missing))
                if missing:
                    x = activations_file(folder, run, name, site)
                    try:
                        found = _fitted(sets.load(name, options.rows, SEED), x, {r: reads[r] for r in missing}, missing)
                    except CorpusError as error:
                        say(str(error))
                        progress.update(len(missing))
                        continue
                    for reader, each in found:
                        kept[reader] = [{**one, **_named(name, site)} for one in each]
                        _write(files[reader], kept[reader])
                        progress.update(1)
                for reader, each in kept.items():
                    results[site][reader][name] = each or []
    return results


def _fitted(
    wanted: LabelledSet,
    file: Path,
    reads: Mapping[str, Callable[[Tensor], Tensor]],
    counts: Mapping[str, Sequence[int | None]],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the measures of each readout on one data set, whose activations are in a file. Raises `CorpusError`."""
    rows = split(wanted.classes, wanted.size, SEED, wanted.name)
    x = _activations(file, wanted)
    for reader, read in reads.items():
        yield reader, scores(read(x).float().cpu(), wanted.classes, counts[reader], rows, SEED)


def _made_of(run: Run, site: Site, options: settings.Probe) -> dict[str, Any]:
    """Return what the results of a site depend on, as JSON values."""
    files = {name: run.sites[site] / name for name in ("atoms.safetensors", "features.safetensors", "config.json")}
    made = {name: sha256_of(path) if path.exists() else None for name, path in files.items()}
    about = {"tokens": options.prompt_tokens, "rows": options.rows}
    return {**about, **made, "model": run.record.get("model_fingerprint"), "revision": run.record.get("revision")}


def _counts_of(reader: str, counts: Sequence[int | None], dictionary: ITDA) -> list[int | None]:
    """Return the numbers of latents to read of a readout: no more than it has, and all of activations alone."""
    if reader == "neurons":
        return [count for count in counts if count is None or count <= dictionary.d_model]
    return [count for count in counts if count is not None and count <= len(dictionary)]


def _slug(reader: str) -> str:
    return reader.replace(", ", "_").replace(" ", "_")


def _named(name: str, site: Site) -> dict[str, Any]:
    return {"dataset": name, "hook_name": site.hook_name, "reg_type": "l2", "binarize": False}


def result_file(folder: Path, run: Run, name: str, site: Site) -> Path:
    """Return the file in which sae-probes keeps the results of a data set."""
    return folder / f"sae_probes_{model_name(run)}" / "normal_setting" / f"{name}_{site.hook_name}_l2.json"


def _kept(path: Path, counts: Sequence[int | None]) -> list[dict[str, Any]] | None:
    """Return results that are kept, for these numbers of latents; None if there are none for one of them."""
    try:
        known = {each["k"]: each for each in json.loads(path.read_text())}
        return [known[count] for count in counts]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, found: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found, indent=1))


def _activations(path: Path, wanted: LabelledSet) -> Tensor:
    try:
        x = torch.load(path, weights_only=True)
    except Exception as error:  # torch's own, of many kinds
        raise StoreError(f"{path} is damaged ({first_line(error)}): remove it, and run the command again") from error
    if len(x) < len(wanted.prompts):
        raise StoreError(f"{path} has {len(x)} rows, not {len(wanted.prompts)}: remove it, and run the command again")
    return x[: len(wanted.prompts)]


def _renew(folder: Path, about: Mapping[str, Any]) -> None:
    """Empty a folder that was made of something else, and say in it what it is made of."""
    known = json.loads(json.dumps(about))
    try:
        same = json.loads((folder / ABOUT).read_text()) == known
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / ABOUT, known)
