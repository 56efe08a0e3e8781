"""lm-evaluation-harness runs a model without some atoms: its figures are those of the model steered by ablation.

Two tasks of local files, 50 rows each, over the documentation of Python: how many bits a text takes, and which of four
continuations is the true one. The figures are printed.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from page_blocks import run_blocks

import itda
from itda.sources.corpora.any_corpus import any_corpus
from itda.sources.corpora.corpus import Document
from itda.steering.removal import cost_of_removal

ROWS, CHARACTERS, CONTEXT, REMOVED = 50, 120, 80, 8
BITS = """task: itda_bits
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
CHOICE = """task: itda_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: true_one
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def lm():
    return itda.load_model("tiny")


@pytest.fixture(scope="module")
def texts():
    found = [document.text[:CHARACTERS] for document in any_corpus("python-docs")]
    return [text for text in found if len(text) == CHARACTERS][:ROWS]


@pytest.fixture(scope="module")
def dictionary(lm, texts):
    run = itda.train(lm, texts, layers=3, k=8, atoms=100, window=64, mode="paper", progress=False)
    return run["layer_3"]


@pytest.fixture(scope="module")
def tasks(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    bits = [{"text": text} for text in texts]
    ends = [text[CONTEXT : CONTEXT + 20] for text in texts]
    choice = [
        {
            "context": text[:CONTEXT],
            "choices": [ends[(place + step) % ROWS] for step in range(4)][place % 4 :]
            + [ends[(place + step) % ROWS] for step in range(4)][: place % 4],
            "true_one": -place % 4,
        }
        for place, text in enumerate(texts)
    ]
    for name, rows, form in (("bits", bits, BITS), ("choice", choice, CHOICE)):
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        (folder / f"{name}.yaml").write_text(form.format(file=file))
    return TaskManager(include_path=str(folder), include_defaults=False)


def figures(lm, tasks) -> tuple[float, float]:
    """Bits per byte, and the share of true continuations: the block of the docs, with two tasks."""
    theirs = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=16, max_length=lm.context)
    found = simple_evaluate(theirs, tasks=["itda_bits", "itda_choice"], task_manager=tasks, bootstrap_iters=0)
    assert found is not None
    return found["results"]["itda_bits"]["bits_per_byte,none"], found["results"]["itda_choice"]["acc,none"]


def test_the_block_of_the_docs_runs(lm, dictionary, tasks):
    given = {"lm": lm, "model": dictionary, "tasks": tasks}
    found = run_blocks("bridges.md", "lm-evaluation-harness", given)["found"]
    assert 0 < found["results"]["itda_bits"]["bits_per_byte,none"] < 8


def test_their_figures_of_a_model_without_atoms_are_those_of_the_model_with_atoms_ablated(
    lm, dictionary, texts, tasks, capsys
):
    assert len(texts) == ROWS
    whole = figures(lm, tasks)
    removal = cost_of_removal(lm, dictionary, strongest(lm, dictionary, texts), texts, controls=1)
    removed, control = (list(each.atoms) for each in (removal.removed, removal.controls[0]))
    without = figures(lm.without(dictionary, removed), tasks)
    with itda.steer(lm, dictionary, ablate=removed):
        assert figures(lm, tasks) == without
    of_control = figures(lm.without(dictionary, control), tasks)
    assert whole[0] < without[0]
    with capsys.disabled():
        for name, (bits, share) in {
            "whole": whole,
            f"without the {REMOVED} strongest atoms": without,
            f"without {REMOVED} others, nearly as strong": of_control,
        }.items():
            print(f"{name}: {bits:.4f} bits per byte, {share:.2f} true continuations")


def strongest(lm, dictionary, texts) -> list[int]:
    """The atoms that have most of the texts' codes."""
    windower = lm.windower(64)
    energy = torch.zeros(len(dictionary))
    documents = (Document(str(number), text) for number, text in enumerate(texts))
    for group in windower.groups(documents, 16):
        x = lm.activations(group, [dictionary.site])[dictionary.site][group.is_activation]
        energy += dictionary.encode(x[~dictionary.is_massive(x)]).dense(len(dictionary)).square().sum(dim=0)
    return energy.topk(REMOVED).indices.tolist()
