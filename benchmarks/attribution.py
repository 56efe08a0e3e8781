"""How well the effects of atoms by one backward pass agree with those by removing each atom in turn.

    itda train tiny --layers 3 --corpus python-docs --atoms 2048 --tokens 200k --steps 3 --out runs/tiny
    python benchmarks/attribution.py runs/tiny --prompts 40

Prompts are the beginnings of lines of held-out documents: the model reads up to 24 tokens and predicts the next one.
Both ways explain the log-probability of its most likely token. Of each prompt: Spearman's rank correlation over all
entries of all codes, over those of the last token, and over those whose exact effect is at least 0.01 nats; the share
of prompts where the entry with the largest effect is the same; and the time. Intervals are bootstraps over prompts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import itda
from itda import config as settings
from itda.recipes.runs import corpus_of
from itda.steering.attribution import Attribution, attribution
from itda.store.records import chosen_site

TOKENS, LEAST = 24, 0.01
"""Tokens of a prompt, and the effect in nats from which on the third column counts entries."""


def prompts(run, number: int, seed: int) -> list[str]:
    """Texts of held-out documents, one of each, from a random line on."""
    random = np.random.default_rng(seed)
    documents = list(corpus_of(run, None, settings.Evaluate(run=run.folder), "unread").shuffled(seed))
    found = []
    for document in documents:
        lines = "".join(document.parts()).split("\n")
        start = int(random.integers(0, max(1, len(lines) - 8)))
        text = "\n".join(lines[start : start + 8]).strip()
        if len(text) > 40:
            found.append(text)
        if len(found) == number:
            break
    return found


def correlation(exact: torch.Tensor, fast: torch.Tensor) -> float:
    """Spearman's; not a number for fewer than five entries."""
    found: Any = spearmanr(exact, fast)
    return float(found.statistic) if len(exact) >= 5 else float("nan")


def compared(exact: Attribution, fast: Attribution) -> dict[str, float]:
    """The measures of one prompt."""
    used = (exact.effects != 0) | (fast.effects != 0)
    large = used & (exact.effects.abs() >= LEAST)
    last = used[-1]
    return {
        "all entries": correlation(exact.effects[used], fast.effects[used]),
        "last token": correlation(exact.effects[-1][last], fast.effects[-1][last]),
        f"effect of {LEAST:g} or more": correlation(exact.effects[large], fast.effects[large]),
        "same largest": float(exact.effects.abs().argmax() == fast.effects.abs().argmax()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = itda.open_run(given.run)
    site = chosen_site(run, None)
    lm, dictionary = run.model(settings.Evaluate(run=given.run)), run.dictionary(site)
    rows, seconds = [], np.zeros(2)
    for text in prompts(run, given.prompts, given.seed):
        ids = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:TOKENS]
        short = str(lm.tokenizer.decode(ids))
        started = time.process_time()
        fast = attribution(lm, dictionary, site, short)
        middle = time.process_time()
        exact = attribution(lm, dictionary, site, short, way="ablation")
        seconds += middle - started, time.process_time() - middle
        rows.append(compared(exact, fast))
    print(f"{len(rows)} prompts of up to {TOKENS} tokens, {len(dictionary):,} atoms, k {dictionary.k}, at {site}")
    random = np.random.default_rng(0)
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        values = values[~np.isnan(values)]
        means = [random.choice(values, len(values)).mean() for _ in range(2000)]
        low, high = np.percentile(means, [2.5, 97.5])
        print(f"{name:<24} {values.mean():.3f}  [{low:.3f}, {high:.3f}]  least {values.min():.3f}")
    print(
        f"processor seconds: gradient {seconds[0]:.1f}, ablation {seconds[1]:.1f}, {seconds[1] / seconds[0]:.0f} times"
    )


if __name__ == "__main__":
    main()
