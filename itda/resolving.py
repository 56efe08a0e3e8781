"""Resolving of settings: defaults of the modes, settings that exclude each other, and their record in a run."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

from itda.config import Diff, Fingerprint, Harvest, Index, Plan, Replicate, Train
from itda.core.checks import (
    check_k,
    check_number,
    check_offset_tokens,
    check_recipe,
    check_refinement,
    check_steps,
    check_threshold,
)
from itda.core.site import STREAMS, Site, Stream
from itda.errors import SettingError
from itda.parsing import listed, parse_bytes, parse_count, parse_layers, parse_streams

MODES: dict[str, dict[str, object]] = {
    "best": {
        "pursuit": "mp_refit",
        "offset": 4096,
        "order": "shuffled",
        "refine": 8,
        "min_fidelity": 0.9,
        "massive": "skip",
    },
    "paper": {"pursuit": "mp", "offset": 0, "order": "shuffled", "refine": 0, "min_fidelity": 0.0, "massive": "skip"},
    "reference": {"pursuit": "mp", "offset": 0, "order": "corpus", "refine": 0, "min_fidelity": 0.0, "massive": "off"},
}
"""Defaults of each mode for settings that the user left out."""

RECIPE = 2
"""The recipe of mode best where nothing says otherwise."""

RECIPE_2: dict[str, object] = {"refine": 12, "min_fidelity": 0.0}
"""What mode best has in place of these with recipe 2."""

ATOMS_PER_DIMENSION = 8
"""Atoms for each dimension of the model, if neither a number of atoms nor a threshold is given."""

TOKENS_PER_ATOM = 10
"""Activations for each of those atoms, at least: a dictionary of a few tokens stays smaller than their list."""

DEFAULT_TOKENS = 1_000_000
"""Activations to read from a model, if the user gives no number."""

FREE = ("out", "resume", "checkpoint_every", "stream", "model_memory", "scratch", "workers", "ray", "memory", "fast")
FREE += ("json", "quiet", "grow_on")
"""Settings of `Train` on which no result depends, so that another may be given when a run is resumed."""


def resolved(options: Train) -> Train:
    """Return the settings with the mode's defaults for those left out, checked as a whole.

    Raises `SettingError` for a value out of range and for settings that clash. Nothing is read yet.
    """
    check_source(options)
    check_values(options)
    if options.threshold is not None and options.atoms is not None:
        raise SettingError("--threshold and --atoms exclude each other: give one of them")
    for name, value in MODES["reference"].items():
        given, flag = getattr(options, name), name.replace("_", "-")
        if options.mode == "reference" and given not in (None, value):
            raise SettingError(f"mode reference has no --{flag} {given}: leave it out")
    if options.mode == "reference" and options.atoms is not None:
        raise SettingError("mode reference has no --atoms: give a --threshold")
    recipe = options.recipe if options.recipe is not None else recipe_of(options)[0]
    defaults = MODES[options.mode] | (RECIPE_2 if recipe == 2 else {}) | {"recipe": recipe}
    filled = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    if not filled.get("refine", options.refine):
        if options.min_fidelity:
            raise SettingError("--min-fidelity says how far refinement may go: add --refine 8, or --mode best")
        filled["min_fidelity"] = 0.0
    if recipe != 1 and options.mode != "best":
        raise SettingError(f"--recipe {recipe} is only for mode best: leave out --recipe, or --mode {options.mode}")
    if options.seed and filled.get("order", options.order) != "shuffled":
        what = "--mode reference" if options.mode == "reference" else "--order corpus"
        raise SettingError(f"--seed chooses a shuffled order: leave out {what}, or the seed")
    if options.mode == "reference" and options.threshold is None:
        raise SettingError(
            "mode reference needs a --threshold: 2 (1 - cos) / d_model, so 0.0008 for a cosine of 0.8 at width 512"
        )
    if options.tokens is None and options.activations is None:
        filled["tokens"] = DEFAULT_TOKENS
    whole = replace(options, **filled)
    check_dictionary(whole)
    return whole


def recipe_of(options: Train) -> tuple[int, str]:
    """Return the recipe that settings without one stand for, and why if it is not the default of mode best.

    >>> recipe_of(Train(min_fidelity=0.8))
    (1, '--min-fidelity 0.8')
    """
    if options.mode != "best":
        return 1, ""
    if options.refine == 0:
        return 1, "--refine 0"
    if options.min_fidelity is not None:
        return 1, f"--min-fidelity {options.min_fidelity:g}"
    return (1, "--massive atoms") if options.massive == "atoms" else (RECIPE, "")


def planned(options: Plan) -> Plan:
    """Return the settings of a plan with a recipe and its rounds or passes. Raises `SettingError` for other ones."""
    recipe = options.recipe if options.recipe is not None else RECIPE if options.refine != 0 else 1
    refine = options.refine
    if refine is None:
        refine = (RECIPE_2 if recipe == 2 else MODES["best"])["refine"]
    assert isinstance(refine, int)
    check_refinement(refine, 0.0)
    check_recipe(recipe, refine, 0.0, None)
    return replace(options, recipe=recipe, refine=refine)


def check_dictionary(options: Train) -> None:
    """Raises `SettingError` if no dictionary can be made with these resolved settings, as k of 0."""
    check_shape(options)
    check_k(options.k)
    if options.threshold is not None and options.mode != "reference":
        check_threshold(options.threshold)
    check_refinement(options.refine or 0, options.min_fidelity or 0.0)
    check_recipe(options.recipe or 1, options.refine or 0, options.min_fidelity or 0.0, options.massive)
    check_steps(options.steps, options.recipe or 1)
    check_offset_tokens(options.offset or 0)
    for name in ("atoms", "tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SettingError(f"--{name} is {value}: it must be at least 1")
    if options.atoms is not None and options.tokens is not None:
        check_number(options.atoms, options.tokens)


def check_shape(options: Train | Harvest | Fingerprint | Diff) -> None:
    """Raises `SettingError` if the window or the batch size is less than 1."""
    if options.batch_size < 1 or options.window < 1:
        raise SettingError("--batch-size and --window must be at least 1")


def sized(options: Train, d_model: int) -> tuple[Train, str]:
    """Return resolved settings with the default number of atoms, and a phrase that says why so many.

    Settings that have a number of atoms or a threshold stay as they are, with "" for the phrase.

    >>> sized(Train(tokens=1_000_000), 192)[0].atoms, sized(Train(tokens=5_000), 192)[1]
    (1536, 'one for every 10 of 5,000 tokens')
    """
    if options.threshold is not None or options.atoms is not None:
        return options, ""
    tokens = options.tokens or DEFAULT_TOKENS
    atoms, most = ATOMS_PER_DIMENSION * d_model, max(1, tokens // TOKENS_PER_ATOM)
    why = f"{ATOMS_PER_DIMENSION} for each of {d_model:,} dimensions"
    if atoms > most:
        atoms, why = most, f"one for every {TOKENS_PER_ATOM} of {tokens:,} tokens"
    return replace(options, atoms=atoms), why


def check_values(options: Train) -> None:
    """Raises `SettingError` for an unknown choice, for NaN, and for a negative time between checkpoints."""
    for each in fields(Train):
        value = getattr(options, each.name)
        choices = _choices(each.type)
        if choices and isinstance(value, str) and value not in choices:
            raise SettingError(f"no {each.name} {value!r}: use {', '.join(choices)}")
        if isinstance(value, float) and value != value:
            raise SettingError(f"--{each.name.replace('_', '-')} is not a number: give one")
    if options.checkpoint_every < 0:
        raise SettingError(f"--checkpoint-every is {options.checkpoint_every:g}: give seconds, at least 0")


def _choices(kind: Any) -> list[str]:
    """Return the words that a type allows, in whatever they stand: `Advanced[Literal["a", "b"] | None]` has a and b.

    >>> from typing import Literal
    >>> _choices(Literal["a", "b"] | None)
    ['a', 'b']
    """
    if isinstance(kind, str):
        return [kind]
    return [choice for part in get_args(kind) for choice in _choices(part)]


def check_source(options: Train) -> None:
    """Raises `SettingError` unless the settings name one source of activations: a model and a corpus, or a folder."""
    if options.activations is not None:
        named = {name: getattr(options, name) for name in ("model", "corpus", "stream", "workers", "ray", "remote")}
        for name, value in {**named, "bos": options.bos != "auto"}.items():
            if value:
                flag = "a model" if name == "model" else f"--{name}"
                raise SettingError(f"--activations has been read from a model and a corpus already: leave out {flag}")
        return
    if options.mode == "reference" and options.workers > 1:
        raise SettingError("mode reference goes batch by batch: leave out --workers")
    for name, given in (("model", options.model), ("--layers", options.layers), ("--corpus", options.corpus)):
        if not given:
            raise SettingError(
                f"no {name} given: itda train MODEL --layers 3 --corpus CORPUS, or itda train --resume RUN"
            )
    check_elsewhere(options)


def check_elsewhere(options: Train | Index | Replicate | Harvest | Fingerprint) -> None:
    """Raises `SettingError` for settings that name two places to run the model, or a negative number of workers."""
    if options.remote and (options.stream or options.workers or options.ray):
        raise SettingError("--remote runs the model at NDIF: leave out --stream, --workers and --ray")
    if options.workers < 0:
        raise SettingError(f"--workers is {options.workers}: it must be at least 0")


def with_free(stored: Train, given: Train) -> Train:
    """Return the settings of an unfinished run, with those of `FREE` from the command line that resumes it.

    Raises `SettingError` if the command line gives any other setting.
    """
    check_values(given)
    for each in fields(Train):
        default = each.default
        if each.name not in FREE and getattr(given, each.name) != default:
            name = each.name.replace("_", "-")
            raise SettingError(f"--resume goes on with the run's own settings: leave out {name}")
    changed = {name: getattr(given, name) for name in FREE if name != "out"}
    return replace(stored, **changed)


def check_seed(options: Harvest | Fingerprint | Diff) -> None:
    """Raises `SettingError` if there is a seed and the order is not shuffled."""
    if options.seed and options.order != "shuffled":
        raise SettingError("--seed chooses a shuffled order: leave out --order corpus, or the seed")


def sites_of(options: Train | Harvest | Plan) -> list[Site]:
    """Return the sites: each of the layers with each of the streams."""
    return crossed(options.layers, options.streams)


def crossed(layers: Sequence[int], streams: Sequence[Stream]) -> list[Site]:
    """Return a site for each of the layers with each of the streams, in the order of `STREAMS`."""
    return [Site(layer, stream) for layer in layers for stream in STREAMS if stream in streams]


RECORDED = {
    "layers": (listed, parse_layers),
    "streams": (listed, parse_streams),
    "tokens": (str, parse_count),
    "atoms": (str, parse_count),
    "memory": (str, parse_bytes),
    "model_memory": (str, parse_bytes),
}
"""Settings that run.json keeps as text, as a user may have typed them: how to write each, and how to read it."""

PATHS = ("out", "activations", "resume", "scratch")
"""Settings that are paths; run.json keeps them as text."""


def to_record(options: Train) -> dict[str, Any]:
    """Return the settings as run.json and unfinished.json keep them: JSON values."""
    values = asdict(options)
    for name, (write, _) in RECORDED.items():
        if values[name] is not None:
            values[name] = write(values[name])
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def from_record(recorded: dict[str, Any]) -> Train:
    """Read settings that `to_record` wrote, in this itda or an older one.

    A record without a recipe is of recipe 1, as there was no other. Raises `SettingError` for a value that cannot be
    read, `TypeError` for an unknown name.

    >>> from_record({"layers": "2,4-6", "tokens": "2k"}).layers
    (2, 4, 5, 6)
    """
    values = {"recipe": 1, **recorded}
    for name, (_, read) in RECORDED.items():
        if values.get(name):
            values[name] = read(values[name])
        elif name == "layers":
            values[name] = ()
    for name in PATHS:
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return Train(**values)
