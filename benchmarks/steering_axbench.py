"""AxBench's concepts on SmolLM2-135M-Instruct (4-bit weights): does a direction of a concept make a model speak of it?

    python benchmarks/meaning.py concepts dictionaries saes ...   # activations, dictionaries: see there
    python benchmarks/steering_axbench.py --model $MODEL --axbench axbench/concept10

A vector is added at layer 10 at every token of the prompt and the reply; its length is a share of the median norm of
activations there. Directions of each of the ten concepts:

- `difference of means`: of the tokens of its training texts less those of the negatives;
- `itda atom`, `TopK latent`: the one of 2,048 whose largest cosine in a text tells training texts of the concept from
  negatives best (AUROC);
- `random atom`: an atom drawn at random, the control.

Replies are judged by rules, each from 0 to 2, and by their harmonic mean, as AxBench has it of a language model's
judgement. *Concept*: the probability by a logistic regression on words, fitted on the concept's training texts.
*Instruction*: F1 of the words of the reply and those of the instruction and the untouched reply. *Fluency*: exp(-d),
where d is by how many nats a token the untouched model finds the reply less likely than its own. Few instructions and
short replies bound the time; the intervals (bootstrap over concepts) say what that costs.
"""

import argparse
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import RESULTS
from meaning_model import load
from meaning_text import Concepts, load_concepts
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

import itda
from itda.sources.models.blocks import tensor_of, with_tensor
from itda.sources.models.generation import prompt_ids
from itda.sources.models.hooks import hooked

FILE = RESULTS / "steering_axbench.jsonl"
CACHE = Path.home() / ".cache" / "itda-meaning"
LAYER, MOST = 10, 24
INSTRUCTIONS = ("Tell me about your favorite season.", "How do I make a good cup of coffee?")
FACTORS = (0.06, 0.12, 0.25, 0.5)
METHODS = ("difference of means", "itda atom", "TopK latent", "random atom")


@dataclass(frozen=True)
class Reply:
    method: str
    factor: float
    concept: int
    instruction: int
    text: str


def mean_cosine_choice(known: Concepts, concept: int, atoms: Tensor) -> int:
    """The direction whose largest cosine in a text tells a concept's training texts best."""
    rows = known.rows(concept, train=True)
    inside = np.isin(known.text, rows)
    place = torch.from_numpy(np.searchsorted(rows, known.text[inside]))
    x = torch.nn.functional.normalize(known.x[torch.from_numpy(inside)])
    cosines = x @ torch.nn.functional.normalize(atoms).T
    best = torch.full((len(rows), len(atoms)), -torch.inf)
    best.scatter_reduce_(0, place[:, None].expand_as(cosines), cosines, "amax")
    order = best.argsort(dim=0).argsort(dim=0).double()
    positive = torch.from_numpy(known.positive[rows] & (known.concept[rows] == concept))
    number = int(positive.sum())
    score = (order[positive].sum(dim=0) - number * (number - 1) / 2) / (number * (len(rows) - number))
    return int(score.argmax())


def directions(known: Concepts) -> dict[str, list[Tensor]]:
    """Unit vectors of each method, one for each concept."""
    atoms = pickle.loads((CACHE / "made" / f"{LAYER}_2048_20_a_recipe_2_0.pkl").read_bytes()).model.atoms.float()
    latents = torch.load(CACHE / "made" / f"{LAYER}_2048_20_a_topk_0.pt")["W_dec"].float()
    concepts = sorted(set(known.concept.tolist()) - {-1})
    found: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    random = np.random.default_rng(0)
    negative = known.train & (known.concept == -1)
    for concept in concepts:
        positive = known.train & known.positive & (known.concept == concept)
        means = [known.x[torch.from_numpy(each[known.text])].mean(dim=0) for each in (positive, negative)]
        found["difference of means"].append(means[0] - means[1])
        found["itda atom"].append(atoms[mean_cosine_choice(known, concept, atoms)])
        found["TopK latent"].append(latents[mean_cosine_choice(known, concept, latents)])
        found["random atom"].append(atoms[int(random.integers(len(atoms)))])
    return {name: [torch.nn.functional.normalize(each, dim=0) for each in several] for name, several in found.items()}


@torch.inference_mode()
def replies(lm: Any, vectors: Tensor, instruction: str) -> list[str]:
    """Reply to an instruction once for each vector, which is added at every token."""
    ids = torch.tensor([prompt_ids(lm, instruction, chat=True)]).expand(len(vectors), -1)
    place = lm.places([itda.Site(LAYER)])[itda.Site(LAYER)]

    def add(output: Any) -> Any:
        return with_tensor(output, tensor_of(output) + vectors[:, None])

    with hooked([(place.module, add)]):
        made = lm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST, do_sample=False
        )
    return [lm.tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in made]


@torch.inference_mode()
def nats(lm: Any, instruction: str, texts: Sequence[str]) -> list[float]:
    """The untouched model's mean negative log-likelihood of each reply's tokens."""
    before, found = prompt_ids(lm, instruction, chat=True), []
    for text in texts:
        after = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not after:
            found.append(float("inf"))
            continue
        ids = torch.tensor([[*before, *after]])
        log_p = lm.model(input_ids=ids, use_cache=False).logits[0, len(before) - 1 : -1].float().log_softmax(dim=-1)
        found.append(-log_p.gather(1, torch.tensor(after)[:, None]).mean().item())
    return found


def judges(folder: Path) -> tuple[list[Any], list[float]]:
    """A word-based detector of each concept, and its AUROC on texts that it was not fitted on."""
    train, test = (pd.read_parquet(folder / f"{part}_data.parquet") for part in ("train", "latent_eval"))
    negatives, made, scores = train[train.category == "negative"], [], []
    for concept in sorted(set(train.concept_id) - {-1}):
        own = train[train.concept_id == concept]
        words = TfidfVectorizer(sublinear_tf=True, stop_words="english")
        x = words.fit_transform([*own.output, *negatives.output])
        fitted = LogisticRegression(C=10, class_weight="balanced").fit(x, [1] * len(own) + [0] * len(negatives))
        rest = test[(test.concept_id == concept) & (test.category != "hard negative")]
        scores.append(
            roc_auc_score(rest.category == "positive", fitted.predict_proba(words.transform(rest.output))[:, 1])
        )
        made.append((words, fitted))
    return made, scores


def overlap(reply: str, other: str) -> float:
    """F1 of the sets of words of four letters or more."""
    a, b = (set(re.findall(r"[a-z]{4,}", text.lower())) for text in (reply, other))
    return 2 * len(a & b) / (len(a) + len(b)) if a and b else 0.0


def harmonic(*scores: float) -> float:
    return len(scores) / sum(1 / each for each in scores) if min(scores) > 0 else 0.0


def judged(lm: Any, known: list[Any], made: list[Reply], untouched: list[str]) -> list[dict[str, Any]]:
    own = [nats(lm, asked, [text])[0] for asked, text in zip(INSTRUCTIONS, untouched, strict=True)]
    rows = []
    for each in made:
        asked = INSTRUCTIONS[each.instruction]
        words, fitted = known[each.concept]
        concept = 2 * float(fitted.predict_proba(words.transform([each.text]))[0, 1])
        kept = 2 * overlap(each.text, untouched[each.instruction] + " " + asked)
        worse = max(0.0, nats(lm, asked, [each.text])[0] - own[each.instruction])
        fluent = 2 * float(np.exp(-worse))
        scores = {"concept_score": concept, "instruction_score": kept, "fluency_score": fluent}
        rows.append({**vars(each), **scores, "all": harmonic(concept, kept, fluent)})
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    lines = ["| direction | length | concept | instruction | fluency | harmonic mean |", "|---|---|---|---|---|---|"]
    for method in ("untouched", *METHODS):
        for factor in sorted({row["factor"] for row in rows if row["method"] == method}):
            some: Any = pd.DataFrame([row for row in rows if row["method"] == method and row["factor"] == factor])
            means: Any = some.groupby("concept")[["concept_score", "instruction_score", "fluency_score", "all"]].mean()
            draws = np.random.default_rng(0).integers(len(means), size=(1000, len(means)))
            low, high = np.percentile(means["all"].to_numpy()[draws].mean(axis=1), [2.5, 97.5])
            cells = [method, f"{factor:g}", *(f"{value:.2f}" for value in means.mean().tolist()[:3])]
            lines.append(f"| {' | '.join(cells)} | {means['all'].mean():.2f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--axbench", type=Path, help="AxBench's folder concept10")
    given = parser.parse_args()
    if not FILE.exists():
        torch.set_num_threads(1)
        known = load_concepts(CACHE / "concepts" / f"{LAYER}.pt")
        norm = known.x.norm(dim=1).median()
        vectors = directions(known)
        detectors, auroc = judges(given.axbench / f"prod_2b_l{LAYER}_v1")
        lm = load(given.model)
        keys = [(name, factor, concept) for name in METHODS for factor in FACTORS for concept in range(len(auroc))]
        pushed = torch.stack([norm * factor * vectors[name][concept] for name, factor, concept in keys])
        pushed = torch.cat([pushed, torch.zeros(1, pushed.shape[1])])
        made, untouched = [], []
        for number, asked in enumerate(INSTRUCTIONS):
            texts = replies(lm, pushed, asked)
            untouched.append(texts[-1])
            made += [Reply(*key, number, text) for key, text in zip(keys, texts, strict=False)]
            made += [Reply("untouched", 0.0, concept, number, texts[-1]) for concept in range(len(auroc))]
            print(asked, texts[-1], flush=True)
        rows = judged(lm, detectors, made, untouched)
        rows[0]["auroc"] = auroc
        FILE.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    said = f"AUROC of the detectors of concepts on texts they were not fitted on: {np.mean(rows[0]['auroc']):.3f}"
    text = f"# Steering: AxBench's concepts on SmolLM2-135M-Instruct (4-bit weights)\n\n{said}\n\n{report(rows)}\n"
    FILE.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
