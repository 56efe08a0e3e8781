"""k-sparse probing of the readouts of a dictionary and of TopK SAEs of the same size, on Python's own classes.

python benchmarks/probing.py --layers 3 4 --sizes 2048

Activations are tiny's on python-docs. Dictionaries and SAEs are made from the first 50,000 tokens of its training
documents in a shuffled order; probes from 128-token windows of all other documents, split by document.
"""

import json
import pickle
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import arguments_for, number, paragraph, results_for, table
from saelens_sae import TrainedSae, fvu_of
from torch import Tensor
from versus_cells import built, prepare, sae

from itda import ITDA, Labels, Site, SparseCode
from itda.core.bootstrap import interval
from itda.core.levels import two_levels
from itda.evaluation.probing import ProbeResult, balanced_accuracy, held_out, pooled, probe, sparse_features
from itda.evaluation.python_classes import CLASSES, SYNTAX, classes_of
from itda.sources.corpora.corpus import Corpus, Document, python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

WIDTH, WINDOW = 192, 128
TOKENS = 50_000
PASSES = 8
CHARACTERS = 1100
"""Of a document, where it is cut: about two windows, of which the first whole one counts."""
TEST_SHARE = 0.4
PROBED = 20_000
"""Tokens that the probes of tokens see, evenly spaced: windows of whole documents are many and alike."""
SIZES = (1, 5, 20, None)
SHARES = {"docstring": 0.5, "comment": 0.4, "string": 0.4, "operator": 0.3, "keyword": 0.13}
"""A text is a member where so large a share of its tokens with a syntax class have this one."""
TEXTS, DOCUMENTS = 30, 6
"""The least that a class of texts must have, all in all; and 2 documents on either side of the split."""
SMALLER = (256, 1024)
SMALL = (256, 512)


@dataclass(frozen=True, eq=False)
class Probes:
    """Tokens to probe with, and their classes."""

    x: dict[int, Tensor]  # by layer
    document: np.ndarray
    window: np.ndarray
    token_classes: np.ndarray  # tokens CLASSES; False in what is not Python

    @cached_property
    def test(self) -> np.ndarray:
        return held_out(self.document, TEST_SHARE)

    @cached_property
    def tokens(self) -> np.ndarray:
        """The rows of the probes of tokens: those with a syntax class."""
        rows = np.flatnonzero(self.token_classes[:, : len(SYNTAX)].any(axis=1))
        return rows[np.linspace(0, len(rows) - 1, min(PROBED, len(rows))).astype(np.int64)]

    @cached_property
    def text_classes(self) -> dict[str, np.ndarray]:
        """By name, which texts are members: what most of a text is, and the package that it is from."""
        names, first, text = np.unique(self.window, return_index=True, return_inverse=True)
        order = np.argsort(first)  # as `pooled`
        syntax = self.token_classes[:, : len(SYNTAX)]
        counts = np.stack([np.bincount(text, column, len(names)) for column in syntax.T.astype(float)], axis=1)[order]
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        document, test = self.document[first[order]], self.test[first[order]]
        package = np.array([parts[1] if len(parts := name.split("/")) > 2 else "" for name in document])
        found = {f"mostly {name}": shares[:, SYNTAX.index(name)] > least for name, least in SHARES.items()}
        found |= {name: package == name for name in np.unique(package) if name}
        return {
            name: member
            for name, member in found.items()
            if member.sum() >= TEXTS
            and len(np.unique(document[member])) >= DOCUMENTS
            and min(len(np.unique(document[member & side])) for side in (test, ~test)) >= 2
        }

    def judge(self, features: Any, texts: bool) -> list[ProbeResult]:
        """Probes of the features [tokens, latents], one by one or averaged over each text."""
        if not texts:
            rows = self.tokens
            return probe(
                features[rows], self.token_classes[rows], self.document[rows], latent_counts=SIZES, test=self.test[rows]
            )
        averaged, first = pooled(features, self.window)
        classes = np.stack(list(self.text_classes.values()), axis=1)
        return probe(averaged, classes, self.document[first], latent_counts=SIZES, test=self.test[first])


def activations(layers: list[int], cache: Path) -> tuple[dict[int, Tensor], Probes]:
    """By layer, what dictionaries are made from; and the probes."""
    file = cache / f"activations_{'_'.join(map(str, layers))}_{TOKENS}.pkl"
    if file.exists():
        return pickle.loads(file.read_bytes())
    model, sites = LanguageModel.load("tiny"), [Site(layer) for layer in layers]
    train, used = _read(
        ModelSource(model, python_docs().split("train").shuffled(0), sites, window=WINDOW, tokens=TOKENS)
    )
    seen = set(used.document.tolist())
    texts = {document.id: document.text for document in python_docs() if document.id not in seen}
    cut = [part for name, text in texts.items() for part in _cuts(name, text)]
    source = ModelSource(model, Corpus("cut", lambda: iter(cut)), sites, window=WINDOW, tokens=10**7)
    x, labels = _read(source)
    kept = labels.window_start == 0  # of what was cut out, the first window
    x, labels = {layer: rows[torch.from_numpy(kept)] for layer, rows in x.items()}, labels[kept]
    window = labels.document.astype(str)
    document = np.array([name.rpartition("@")[0] for name in window])
    start = np.array([int(name.rpartition("@")[2]) for name in window])
    classes = np.zeros((len(window), len(CLASSES)), dtype=bool)
    for name in np.unique(document):
        rows = np.flatnonzero(document == name)
        spans = (labels.char_start[rows] + start[rows], labels.char_end[rows] + start[rows])
        found = classes_of(texts[name], *spans) if name.endswith(".py") else None
        if found is not None:
            classes[rows] = np.stack([found[each] for each in CLASSES], axis=1)
    both = train, Probes(x, document, window, classes)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(both))
    return both


def _read(source: ModelSource) -> tuple[dict[int, Tensor], Labels]:
    parts, labels = {site: [] for site in source.sites}, []
    for batch in source:
        for site, rows in parts.items():
            rows.append(batch[site].activations.clone())
        labels.append(batch[source.sites[0]].labels)
    return {site.layer: torch.cat(rows) for site, rows in parts.items()}, Labels.concatenate(labels)


def _cuts(name: str, text: str) -> Iterator[Document]:
    """Up to 3 parts of a document, evenly spaced, from the start of a line, as documents NAME@START."""
    if len(text) < CHARACTERS:
        return
    count = min(3, max(1, len(text) // 2500))
    for i in range(count):
        start = text.find("\n", (len(text) - CHARACTERS) * i // count) + 1
        yield Document(f"{name}@{start}", text[start : start + CHARACTERS])


@dataclass(frozen=True, eq=False)
class Bench:
    """One layer and size."""

    layer: int
    size: int
    k: int
    passes: int
    train: Tensor
    probes: Probes
    cache: Path

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made before under this name."""
        file = self.cache / f"{self.layer}_{self.size}_{self.k}_{self.passes}_{name}.pkl"
        if not file.exists():
            file.write_bytes(pickle.dumps(make()))
        return pickle.loads(file.read_bytes())

    def dictionary(self, atoms: int) -> tuple[ITDA, dict[str, Any]]:
        settings = {"k": self.k, "atoms": atoms, "pursuit": "mp_refit", "passes": self.passes}
        return self.kept(f"itda_{atoms}", lambda: built(self.train, **settings))

    def sae(self, times: int) -> tuple[TrainedSae, dict[str, Any]]:
        seconds = times * self.dictionary(self.size)[1]["seconds"]
        cell: Any = SimpleNamespace(size=self.size, k=self.k)

        def make() -> tuple[TrainedSae, dict[str, Any]]:
            made, costs = sae("topk", self.train, cell, seconds)
            return replace(made, sae=None), costs  # SAELens' object is not to be pickled

        return self.kept(f"topk_{times}", make)

    @cached_property
    def plain(self) -> SparseCode:
        return self.kept("code", lambda: self.dictionary(self.size)[0].encode(self.probes.x[self.layer]))

    def of(self, readout: str) -> tuple[Any, SparseCode | None, Any, float | None]:
        """Features [tokens, latents]; and where they are a code, the code, what decodes it, and seconds of training."""
        x = self.probes.x[self.layer]
        name, _, given = readout.partition(" ")
        if name == "neurons":
            return x.numpy(), None, None, None
        if name == "topk":
            made, costs = self.sae(int(given.removesuffix("x")))
            coded = made.encode(x)
            return sparse_features(coded, self.size), coded, made, costs["seconds"]
        atoms = int(given) if name in ("code", "small") and given else self.size
        model, costs = self.dictionary(atoms)
        if name == "code":
            code = model.encode(x) if given else self.plain
            return sparse_features(code, atoms), code, model, costs["seconds"]
        if name == "cosines":
            cosines = model.similarity(x)
            assert isinstance(cosines, Tensor)
            return cosines.numpy(), None, None, None
        levels = two_levels(model, broad=int(given) if given and name != "small" else None)
        match name:
            case "groups":
                code = levels.grouped(self.plain)
            case "similar":
                code = levels.similar(x, top=self.k)
            case "two-level" | "small":
                code = levels.encode(x)
                return sparse_features(code, atoms), code, model, costs["seconds"]
            case _:
                raise ValueError(readout)
        return sparse_features(code, atoms), code, None, None

    def reference(self, unit: str, sums: list[np.ndarray] | None) -> list[np.ndarray]:
        """The sums of the probes of `topk 1x`."""

        def make() -> list[np.ndarray]:
            return sums or [each.sums for each in self.probes.judge(self.of("topk 1x")[0], unit == "text")]

        return self.kept(f"sums_{unit}", make)

    def measure(self, readout: str) -> dict[str, Any]:
        x = self.probes.x[self.layer]
        features, code, decoder, seconds = self.of(readout)
        values: dict[str, Any] = {
            "latents": features.shape[1],
            "l0": None if code is None else float(code.count.double().mean()),
            "fvu": None if decoder is None else fvu_of(x, torch.cat([decoder.decode(part) for part in _parts(code)])),
            "seconds": seconds,
        }
        for unit in ("token", "text"):
            results = self.probes.judge(features, unit == "text")
            sums = [result.sums for result in results]
            reference = self.reference(unit, sums if readout == "topk 1x" else None)
            values[unit] = [_ends(result.mean) for result in results]
            values[f"{unit}_over_topk"] = [_difference(*pair) for pair in zip(sums, reference, strict=True)]
        return values


def _parts(code: SparseCode | None) -> Iterator[SparseCode]:
    assert code is not None
    columns = (column.split(4096) for column in (code.indices, code.coefficients, code.count))
    for part in zip(*columns, strict=True):
        yield SparseCode(*part)


def _ends(found: Any) -> list[float]:
    return [float(found.value), float(found.low), float(found.high)]


def _difference(sums: np.ndarray, other: np.ndarray) -> list[float]:
    """Of the mean accuracies, on the same documents."""

    def measure(both: np.ndarray) -> np.ndarray:
        one, two = np.split(both, 2, axis=-1)
        return balanced_accuracy(one).mean(axis=-1) - balanced_accuracy(two).mean(axis=-1)

    return _ends(interval(np.hstack([sums, other]), measure))


READOUTS = (
    "topk 1x",
    "neurons",
    "cosines",
    "code",
    "groups",
    "two-level",
    "two-level 64",
    "similar",
    "similar 64",
    *(f"code {atoms}" for atoms in SMALLER),
    *(f"small {atoms}" for atoms in SMALL),
    "topk 10x",
)
EXPLAINED = """`topk 1x`: TopK SAE trained by SAELens for the CPU seconds of `code`'s dictionary, `10x`: for ten times
as many. `neurons`: the activations. `cosines`: to all atoms. `code`: of the dictionary, or of a smaller one. `groups`:
the code with the coefficients of each group of atoms added up. `two-level`: `itda.core.levels`, with 2 k broad atoms or
the number given. `similar`: the k largest cosines to the broad atoms. `small`: on two levels, with 2 k broad atoms, of
a dictionary of so many atoms."""


def report(benches: list[Bench], rows: dict[tuple[int, int, str], dict[str, Any]]) -> list[str]:
    probes = benches[0].probes
    tokens, texts = probes.token_classes[probes.tokens], probes.text_classes
    documents = Counter(probes.test[np.unique(probes.document, return_index=True)[1]].tolist())
    parts = [
        paragraph(
            f"""Balanced accuracy of probes that read 1, 5, 20 or all latents, averaged over classes, [95%] by bootstrap
            over documents: {documents[False]} to fit, {documents[True]} to test, none that a dictionary or SAE saw.
            Tokens: {len(tokens):,}; classes {", ".join(CLASSES)}. Texts: {len(np.unique(probes.window)):,}, the mean of
            each latent over a window; classes {", ".join(texts)}."""
        ),
        paragraph(EXPLAINED),
    ]
    for bench in benches:
        mine = [(name, row) for name in READOUTS if (row := rows.get((bench.layer, bench.size, name)))]
        parts.append(f"## Layer {bench.layer}, {bench.size} latents, k = {bench.k}")
        head = ["readout", "latents", "l0", "fvu", "seconds"]
        body = [
            [name, row["latents"], number(row["l0"]), number(row["fvu"]), number(row["seconds"], 2)]
            for name, row in mine
        ]
        parts.append(table(head, body))
        sizes = [str(size or "all") for size in SIZES]
        for unit in ("token", "text"):
            parts.append(f"Per {unit}:")
            parts.append(table(["readout", *sizes], ([name, *map(_cell, row[unit])] for name, row in mine)))
            parts.append(f"Per {unit}, less `topk 1x` on the same documents, in points:")
            rest = [pair for pair in mine if pair[0] != "topk 1x"]
            cells = ([name, *map(_points, row[f"{unit}_over_topk"])] for name, row in rest)
            parts.append(table(["readout", *sizes], cells))
    return parts


def _cell(ends: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*ends)


def _points(ends: list[float]) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * end for end in ends))


def main() -> None:
    parser = arguments_for(__doc__, "probing")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048])
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--readouts", nargs="+", default=READOUTS, choices=READOUTS)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/itda-probing").expanduser())
    run(parser.parse_args())


def run(arguments: Namespace) -> None:
    prepare()
    results, passes = results_for(arguments, "probing"), 2 if arguments.quick else PASSES
    sizes = [256] if arguments.quick else arguments.sizes
    train, probes = activations(arguments.layers, arguments.cache)
    benches = [
        Bench(layer, size, arguments.k, passes, train[layer], probes, arguments.cache)
        for size in sizes
        for layer in arguments.layers
    ]
    rows: dict[tuple[int, int, str], dict[str, Any]] = {}
    order = ["topk 1x", *(name for name in READOUTS if name in arguments.readouts and name != "topk 1x")]
    for readout in order:  # what takes longest is last, for all layers
        for bench in benches:
            key = {"layer": bench.layer, "size": bench.size, "k": bench.k, "passes": passes, "tokens": TOKENS}
            key |= {"readout": readout}
            row = results.find(key) or results.add(key, bench.measure(readout))
            rows[bench.layer, bench.size, readout] = row
            shown = [[round(value[0], 3) for value in row[unit]] for unit in ("token", "text")]
            print(bench.layer, bench.size, readout, row["fvu"], json.dumps(shown), flush=True)
            results.write(report(benches, rows))


if __name__ == "__main__":
    main()
