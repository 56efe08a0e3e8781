"""Which activations should be atoms? Rules at equal size, before and after refinement.

    python benchmarks/which_atoms.py [--corpus NAME=SPEC ...] [--layers 4] [--atoms 2048] [--k 20] [--tokens 50000]

All have the offset and are read by `mp_refit`. Besides the paper's rule (in the corpus' order, and with its documents
shuffled), random activations and k-means centres (no real activations, for comparison):

- worst share: in each block of a thousand, the worst explained ones, as many as make the number in the end;
- by lot: appended with a probability in proportion to the share that is unexplained (as k-means++ draws its centres);
- by energy unexplained: the paper's rule on ||z - z_hat||^2 itself, not as a share of ||z||^2, a block at a time;
- most energy: twice as many random activations, of which a fifth at a time is dropped, that whose coefficients'
  squares sum to the least;
- replacing: the paper's rule, then four times the 2% that capture the least energy make way for badly explained
  activations.

k-means and 'most energy' use scikit-learn and the whole stream at once; every result is kept as it comes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, Results, batches, labels_for, table
from torch import Tensor
from versus_data import Data, corpus_of

import itda
from itda.core.metrics import Unexplained
from itda.core.pursuit import encoder
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

PASSES, BLOCK = 8, 1000
FIGURES = ("raw", "refined", "faithful")


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def by_threshold(z: Tensor, atoms: int, k: int) -> Tensor:
    trainer = itda.Trainer(z.shape[1], tokens=len(z), k=k, atoms=atoms, massive="skip")
    for batch in batches(z, 1024):
        trainer.offer(batch)
    return trainer.finish().atoms


def at_random(z: Tensor, atoms: int, _k: int) -> Tensor:
    return unit(z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:atoms]])


def by_kmeans(z: Tensor, atoms: int, _k: int) -> Tensor:
    from sklearn.cluster import MiniBatchKMeans

    once: Any = 1  # scikit-learn's stubs want a string
    means = MiniBatchKMeans(atoms, batch_size=2048, n_init=once, max_iter=10, random_state=0).fit(unit(z).numpy())
    return unit(torch.from_numpy(means.cluster_centers_).float())


def in_blocks(z: Tensor, k: int, chosen: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Go through blocks; `chosen(block, errors, atoms so far)` says which rows become atoms."""
    found = z[:0]
    for block in z.split(BLOCK):
        error = torch.ones(len(block), dtype=torch.float64)
        if len(found):
            error = encoder(found, k, "mp")(block)[1]
        found = torch.cat([found, unit(block[chosen(block, error, len(found))])])
    return found


def worst_share(z: Tensor, atoms: int, k: int) -> Tensor:
    share = -(-atoms * BLOCK // len(z))
    return in_blocks(z, k, lambda _block, error, _number: error.topk(min(share, len(error))).indices)[:atoms]


def with_factor(z: Tensor, atoms: int, k: int, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Rows whose score exceeds a bound; the bound that gives the number is found by bisection."""
    low, high = -12.0, 12.0
    found = torch.empty(0, dtype=torch.long)
    for _ in range(9):
        bound = 2 ** ((low + high) / 2)
        found = in_blocks(
            z, k, lambda block, error, _number, bound=bound: (score(block, error) > bound).nonzero()[:, 0]
        )
        if atoms <= len(found) < 1.03 * atoms:
            break
        low, high = ((low + high) / 2, high) if len(found) > atoms else (low, (low + high) / 2)
    return found[:atoms]


def by_lot(z: Tensor, atoms: int, k: int) -> Tensor:
    def score(block: Tensor, error: Tensor) -> Tensor:
        seed = int(block[0].double().abs().sum() * 1000) % 2**31
        return error / torch.rand(len(block), generator=torch.Generator().manual_seed(seed)).clamp(min=1e-9)

    return with_factor(z, atoms, k, score)


def by_energy_unexplained(z: Tensor, atoms: int, k: int) -> Tensor:
    mean = z.double().square().sum(dim=1).mean()
    return with_factor(z, atoms, k, lambda block, error: error * block.double().square().sum(dim=1) / mean)


def captured(code: itda.SparseCode, atoms: int) -> Tensor:
    energy = torch.zeros(atoms, dtype=torch.float64)
    return energy.index_add_(0, code.indices.ravel(), code.coefficients.double().ravel().square())


def most_energy(z: Tensor, atoms: int, k: int) -> Tensor:
    found, generator = at_random(z, 2 * atoms, k), torch.Generator().manual_seed(1)
    while len(found) > atoms:
        part = z[torch.randperm(len(z), generator=generator)[:20_000]]
        kept = max(atoms, int(0.8 * len(found)))
        energy = captured(encoder(found, k, "mp_refit")(part)[0], len(found))
        found = found[energy.topk(kept).indices.sort().values]
    return found


def replacing(z: Tensor, atoms: int, k: int) -> Tensor:
    found, generator = by_threshold(z, atoms, k), torch.Generator().manual_seed(2)
    for _ in range(4):
        part = z[torch.randperm(len(z), generator=generator)[:20_000]]
        code, error = encoder(found, k, "mp")(part)
        few = len(found) // 50
        least = captured(code, len(found)).topk(few, largest=False).indices
        worst = (error * part.double().square().sum(dim=1)).topk(4 * few).indices
        drawn = worst[torch.randperm(4 * few, generator=generator)[:few]]
        found[least] = unit(part[drawn])
    return found


RULES: dict[str, tuple[Callable[[Tensor, int, int], Tensor], bool]] = {
    "paper's rule, corpus order": (by_threshold, False),
    "paper's rule, shuffled": (by_threshold, True),
    "random activations": (at_random, True),
    "k-means centres": (by_kmeans, True),
    "worst share": (worst_share, True),
    "by lot": (by_lot, True),
    "by energy unexplained": (by_energy_unexplained, True),
    "most energy": (most_energy, True),
    "replacing": (replacing, True),
}


def fvu(model: itda.ITDA, x: Tensor) -> float:
    measure = Unexplained(x.shape[1])
    measure.update(x, model(x))
    return measure.value()


def activations(data: Data, layer: int, part: str, tokens: int, shuffled: bool) -> Tensor:
    path = Path(data.cache) / f"which_{data.stem}_{part}_{tokens}_{layer}_{int(shuffled)}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        corpus = corpus_of(data).split(part)  # pyright: ignore[reportArgumentType]
        corpus = corpus.shuffled(0) if shuffled else corpus
        site = itda.Site(layer)
        source = ModelSource(LanguageModel.load(data.model), corpus, [site], window=128, tokens=tokens)
        torch.save(torch.cat([batch[site].activations.float().clone() for batch in source]), path)
    return torch.load(path)


def measure(data: Data, layer: int, atoms: int, k: int, rule: str) -> dict[str, float]:
    make, shuffled = RULES[rule]
    x, held = (
        activations(data, layer, "train", data.tokens, shuffled),
        activations(data, layer, "heldout", 10_000, True),
    )
    offset = x[:4096].double().mean(dim=0).float()
    started = time.process_time()
    found = make(x - offset, atoms, k).contiguous()
    values = {"seconds": time.process_time() - started, "atoms": len(found)}
    model = itda.ITDA(found, labels_for(len(found)), k=k, pursuit="mp_refit", offset=offset)
    values["raw"] = fvu(model, held)
    for name, least in (("refined", 0.0), ("faithful", 0.9)):
        refined = itda.refine(model, x, passes=PASSES, min_fidelity=least)
        values[name] = fvu(refined, held)
        if refined.fidelity is not None:
            values[f"{name}_fidelity"] = float(refined.fidelity.median())
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", default=["python-docs=python-docs"], metavar="NAME=SPEC")
    parser.add_argument("--layers", nargs="+", type=int, default=[4])
    parser.add_argument("--atoms", type=int, default=2048)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--cache", default="~/.cache/itda-benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(RESULTS / "which_atoms.md")
    for spec in options.corpus:
        name, source = spec.split("=", 1)
        data = Data("tiny", name, source, str(Path(options.cache).expanduser()), options.tokens, 10_000)
        for layer in options.layers:
            for rule in RULES:
                key = {"corpus": name, "layer": layer, "size": options.atoms, "k": options.k, "tokens": options.tokens}
                key |= {"rule": rule, "passes": PASSES}
                if results.find(key) is None:
                    row = results.add(key, measure(data, layer, options.atoms, options.k, rule))
                    print(name, layer, rule, *(f"{row[part]:.4f}" for part in FIGURES), flush=True)
    header = ["corpus, layer", "rule", "as chosen", "refined", "at 0.9", "fidelity"]
    rows = [
        [f"{row['key']['corpus']} {row['key']['layer']}", row["key"]["rule"]]
        + [f"{row[part]:.4f}" for part in FIGURES]
        + [f"{row['refined_fidelity']:.2f}"]
        for row in results.rows
    ]
    print(results.write([table(header, rows)]))


if __name__ == "__main__":
    main()
