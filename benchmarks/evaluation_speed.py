"""How much less does evaluation cost if it runs from the site on, and are the figures the same?

    python benchmarks/evaluation_speed.py --model FOLDER --corpus FOLDER [--layers 15 --layers 10,20] [--quick]

Old: the whole model for the clean logits, up to the last site for the activations, and the whole model again for each
replacement at each site; KL from tiles of 256 tokens. New: `itda.evaluation.evaluate`. Both measure the same
dictionaries on the same windows, in turn in one process, and give the same figures, of which the largest difference
is shown. Atoms are activations of other windows, so the dictionaries are rough; what they are changes no time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from common import Results, arguments_for, number, paragraph, ratio, results_for, table

import itda.evaluation.evaluate
import itda.evaluation.sums
from itda.core import metrics
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.core.massive import limit_of, median_norm
from itda.evaluation.resumption import splicer_of
from itda.sources.corpora.corpus import Corpus, open_corpus
from itda.sources.models.splicing import WholePasses
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.tokenizing.windows import Group

WINDOW, BATCH, ATOMS, K = 128, 8, 1024, 20
TILES = 256, 2**14
FIGURES = ("fvu", "ce_clean", "ce_spliced", "ce_zero", "ce_mean", "kl")


def old_kl(p: torch.Tensor, q: torch.Tensor, *_normalizers: torch.Tensor) -> torch.Tensor:
    """KL(p || q) as it was computed before."""
    log_p, log_q = old_normalizer(p), old_normalizer(q)
    total = torch.zeros_like(log_p)
    for tokens, vocabulary in tiles(p):
        at_p = p[tokens, vocabulary].double() - log_p[tokens, None]
        at_q = q[tokens, vocabulary].double() - log_q[tokens, None]
        share = at_p.exp()
        total[tokens] += torch.where(share == 0, 0.0, share * (at_p - at_q)).sum(dim=1)
    return total


def old_normalizer(logits: torch.Tensor) -> torch.Tensor:
    """The log of the sum of exponentials as it was computed before."""
    total = torch.full((len(logits),), -torch.inf, dtype=torch.float64)
    for tokens, vocabulary in tiles(logits):
        total[tokens] = torch.logaddexp(total[tokens], logits[tokens, vocabulary].double().logsumexp(dim=1))
    return total


def tiles(logits: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Tokens and vocabulary that were computed at once."""
    for token in range(0, logits.shape[0], TILES[0]):
        for word in range(0, logits.shape[1], TILES[1]):
            yield slice(token, token + TILES[0]), slice(word, word + TILES[1])


def evaluated(
    model: LanguageModel, groups: list[Group], made: Mapping[Site, ITDA], massive: str, *, old: bool
) -> tuple[float, dict[Site, Any]]:
    """Seconds, and the figures, of one way."""
    passes: Any = itda.evaluation.evaluate  # functions are replaced in them
    sums: Any = itda.evaluation.sums
    passes.splicer_of = (lambda model, sites, _beside: WholePasses(model, sites)) if old else splicer_of
    sums.kl_divergence = old_kl if old else metrics.kl_divergence
    sums.log_normalizer = old_normalizer if old else metrics.log_normalizer
    started = time.perf_counter()
    found = passes.evaluate_groups(model, lambda: groups, made, massive=massive)
    return time.perf_counter() - started, found


def dictionaries(model: LanguageModel, corpus: Corpus, sites: list[Site]) -> dict[Site, ITDA]:
    """Some ordinary activations of each site as atoms, with the limit above which an activation is massive."""
    source = ModelSource(model, corpus, sites, window=WINDOW, batch_size=BATCH, tokens=2 * ATOMS)
    read = list(source)
    made = {}
    for site in sites:
        x = torch.cat([batches[site].activations for batches in read]).float()
        limit = limit_of(median_norm(x))
        x = x[x.norm(dim=1) < (limit or torch.inf)][:ATOMS]
        labels = Labels.of(*(Label("", i, i, i, i, "", "", "") for i in range(len(x))))
        made[site] = ITDA(x / x.norm(dim=1, keepdim=True), labels, k=K, pursuit="mp_refit", massive_norm=limit)
    return made


def measure(model: LanguageModel, corpus: Corpus, layers: str, massive: str, groups: int, pairs: int) -> dict[str, Any]:
    """Both ways in turn, some pairs."""
    sites = [Site(int(layer)) for layer in layers.split(",")]
    made = dictionaries(model, corpus, sites)
    after = itertools.count()  # windows that follow those of which the atoms are
    every = (group for group in model.windower(WINDOW).groups(corpus, BATCH) if next(after) > ATOMS // WINDOW // 2)
    windows = list(itertools.islice(every, groups))
    evaluated(model, windows[:1], made, massive, old=False)  # compiles
    taken: dict[bool, list[float]] = {True: [], False: []}
    worst = 0.0
    found: dict[bool, Any] = {}
    for pair in range(pairs):
        found = {}
        for old in (True, False) if pair % 2 == 0 else (False, True):
            seconds, found[old] = evaluated(model, windows, made, massive, old=old)
            taken[old].append(seconds)
        for site, name in itertools.product(sites, FIGURES):
            before, after = getattr(found[True][site], name), getattr(found[False][site], name)
            worst = max(worst, abs(after - before) / max(abs(before), 1e-300))
    return {
        "tokens": sum(int(group.is_activation.sum()) for group in windows),
        "massive_tokens": [found[False][site].massive_tokens for site in sites],
        "old_s": taken[True],
        "new_s": taken[False],
        "ratio": ratio(taken[True], taken[False]),
        "worst": worst,
    }


def show(results: Results) -> str:
    """The table of all rows."""
    rows = []
    for row in results.rows:
        key = row["key"]
        pairs = [old / new for old, new in zip(row["old_s"], row["new_s"], strict=True)]
        spread = f"{number(row['ratio'])} ({number(min(pairs))} to {number(max(pairs))}, {len(pairs)})"
        best = min(row["old_s"]), min(row["new_s"])
        counts = "/".join(map(str, row["massive_tokens"]))
        difference = "none" if row["worst"] == 0 else f"{row['worst']:.1e}"
        rows.append([key["model"], key["layers"], f"{row['tokens']:,}", counts, key["massive"], *map(number, best)])
        rows[-1] += [spread, difference]
    header = ["model", "layers", "tokens", "massive", "in the splice", "old, s", "new, s", "old / new", "difference"]
    about = paragraph(
        f"{ATOMS:,} atoms, k = {K}, windows of {WINDOW}, {BATCH} at once. Seconds: the least. Ratio: the median of the "
        "pairs, with the least, the most and their number. Difference: the largest relative one of fvu, the four "
        "cross-entropies and KL. Massive tokens that stay what they are make ablated windows differ: those that begin "
        "with the same token are run once, the others each."
    )
    return results.write([about, table(header, rows)])


def main() -> None:
    parser = arguments_for(__doc__, "evaluation_speed")
    parser.add_argument("--model", default="tiny", help="a Hub id, a folder, or tiny")
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--layers", action="append", help="sites that are evaluated together; may be given again")
    parser.add_argument("--groups", type=int, default=8, help="groups of 8 windows")
    parser.add_argument("--pairs", type=int, default=3)
    a = parser.parse_args()
    results = results_for(a, "evaluation_speed")
    model, corpus = LanguageModel.load(a.model), open_corpus(a.corpus)
    name = a.model.rstrip("/").split("/")[-1]
    layers = a.layers or [str(model.layers // 2), f"{model.layers // 3},{2 * model.layers // 3}"]
    groups, pairs = (2, 1) if a.quick else (a.groups, a.pairs)
    for each, massive in itertools.product(layers, ("splice", "clean")):
        key = {"model": name, "layers": each, "massive": massive, "groups": groups}
        if not results.find(key):
            results.add(key, measure(model, corpus, each, massive, groups, pairs))
    print(show(results))


if __name__ == "__main__":
    main()
