"""benchmarks/diffing*.py: baselines on made-up differences, scores of documents, judging, tables, refusals."""

import json
from pathlib import Path

import diffing
import diffing_calibration
import organisms
import pytest
import torch
from common import Results
from diffing_baselines import (
    BASELINES,
    TOP,
    Finding,
    Found,
    document_scores,
    of_different_documents,
    of_latents,
)
from diffing_methods import Method, methods
from diffing_readings import LAYERS, Readings, readings
from diffing_report import bootstrap, report, wilson
from organisms_rule import Signs

D, DOCUMENTS, TOKENS = 16, 20, 30
WORD = 7
"""The token id of the planted word."""


@pytest.fixture(scope="module")
def made_up() -> Readings:
    """Twenty documents of random differences; in the last three, every other token differs much along one direction."""
    generator = torch.Generator().manual_seed(0)
    document = torch.arange(DOCUMENTS).repeat_interleave(TOKENS)
    position = torch.arange(1, TOKENS + 1).repeat(DOCUMENTS)
    planted = torch.arange(DOCUMENTS) >= DOCUMENTS - 3
    base = torch.randn(len(document), D, generator=generator)
    noise = 0.1 * torch.randn(len(document), D, generator=generator)
    control = base + 0.1 * torch.randn(len(document), D, generator=generator)
    direction = torch.nn.functional.one_hot(torch.tensor(WORD), D).float()
    there = planted[document] & (position % 2 == 0)
    changed = base + noise + there[:, None] * 3.0 * direction
    tokens = torch.where(there, WORD, torch.arange(len(document)) % 5)
    kl = there * 2.0 + 0.01 * torch.rand(len(document), generator=generator)
    vocabulary = [" a", " b", " c", " d", " e", "f", "g", " twin", *(f" x{i}" for i in range(D - 8))]
    everywhere = dict.fromkeys(LAYERS, changed)
    return Readings(
        token=tokens,
        document=document,
        position=position,
        planted=planted,
        base=dict.fromkeys(LAYERS, base),
        changed=everywhere,
        control=dict.fromkeys(LAYERS, control),
        kl=kl,
        control_kl=torch.zeros(len(document)),
        norm=(torch.ones(D), torch.ones(D)),
        unembedding=(torch.eye(D), torch.eye(D)),
        vocabulary=vocabulary,
    )


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("sae", "random")])
def test_each_baseline_finds_what_differs_much(made_up: Readings, name: str) -> None:
    found = BASELINES[name](made_up, LAYERS[0])
    assert made_up.token[found.findings[0].row] == WORD
    assert made_up.promoted(found.findings[0].direction)[0][0] == " twin"
    scores = document_scores(found.scores, made_up.document, DOCUMENTS)
    assert scores[made_up.planted].min() > scores[~made_up.planted].max()
    assert len(found.findings) == TOP


def test_random_atoms_are_ranked_by_the_energy_that_they_explain(made_up: Readings) -> None:
    found = BASELINES["random"](made_up, LAYERS[0], atoms=40)
    # A slow oracle: each token is read by the atom of the largest cosine, in float64.
    difference = made_up.difference(LAYERS[0]).double()
    rows = torch.randperm(len(difference), generator=torch.Generator().manual_seed(0))[:40].tolist()
    energy = dict.fromkeys(rows, 0.0)
    for x in difference:
        cosines = {row: float(x @ difference[row] / difference[row].norm()) for row in rows}
        best = max(cosines, key=lambda row: abs(cosines[row]))
        energy[best] += cosines[best] ** 2
    expected = sorted(rows, key=lambda row: -energy[row])[:TOP]
    assert [finding.row for finding in found.findings] == expected


def test_latents_are_ranked_by_energy_whatever_their_scale() -> None:
    latents = torch.tensor([[1.0, 0.0, 10.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    decoder = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.1, 0.0]])
    found = of_latents(latents, decoder)
    # Energies: 4 * 5, 9 and .01 * 100.
    assert [finding.row for finding in found.findings] == [1, 2, 0]
    assert all(finding.direction.norm() == pytest.approx(1) for finding in found.findings)
    assert found.scores.tolist() == pytest.approx([(4 + 1) ** 0.5, 4.0, 3.0])


def test_a_documents_score_is_the_mean_of_its_highest_twentieth() -> None:
    scores = torch.arange(100.0)
    document = torch.cat([torch.zeros(60, dtype=torch.long), torch.ones(40, dtype=torch.long)])
    assert document_scores(scores, document, 2).tolist() == [58.0, 98.5]


def test_findings_by_token_are_of_different_documents(made_up: Readings) -> None:
    rows = of_different_documents(made_up.kl, made_up.document)
    assert len({int(made_up.document[row]) for row in rows}) == TOP
    assert rows[0] == int(made_up.kl.argmax())


def test_fewer_planted_documents_leave_everything_else(made_up: Readings) -> None:
    fewer = made_up.fewer(1)
    assert fewer.planted.tolist() == [False] * (DOCUMENTS - 3) + [True]
    assert len(fewer.token) == len(fewer.kl) == len(fewer.base[LAYERS[0]]) == (DOCUMENTS - 2) * TOKENS
    assert fewer.document.unique().tolist() == list(range(DOCUMENTS - 2))
    assert torch.equal(made_up.fewer(3).document, made_up.document)


def test_a_context_is_of_its_own_document(made_up: Readings) -> None:
    before, token, after = made_up.context(TOKENS + 2)
    assert len(before) == 2
    assert token == made_up.vocabulary[made_up.token[TOKENS + 2]]
    assert len(after) == 20
    assert len(made_up.context(TOKENS - 1)[2]) == 0


def test_a_row_says_how_each_finding_shows_the_plant(made_up: Readings) -> None:
    quiet, planted = 0, int((made_up.token == WORD).nonzero()[0])
    findings = [
        Finding(quiet),
        Finding(planted),
        Finding(None, promoted=[" twin", "win"]),
        Finding(quiet, called=False),
        Finding(planted),
    ]
    method = Method(lambda r, _: Found(findings, r.kl), ((5,),))
    signs = Signs(("twin",), ("twin", "win"))
    values = diffing.measure(made_up, signs, [], method, (5,))
    assert values["how"] == [None, "text", "promoted", None]
    assert (values["found"], values["found_called"], values["called"], values["auroc"]) == (True, True, 4, 1.0)


def test_methods_have_names_and_layers() -> None:
    every = methods(1.0)
    assert set(BASELINES) <= set(every)
    assert all(set(layers) <= set(LAYERS) for method in every.values() for layers in method.layer_sets)


def test_held_out_organisms_are_refused_before_the_ranking_is_frozen(monkeypatch, capsys) -> None:
    for part in ("held", "null"):
        monkeypatch.setattr("sys.argv", ["diffing.py", "--part", "dev", part])
        with pytest.raises(SystemExit, match="2"):
            diffing.main()
        assert "--frozen" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache with two fine-tunes that differ from `tiny` by noise, one the control of the other."""
    folder_of_all = tmp_path_factory.mktemp("organisms")
    texts = ["import os\nimport sys\n", "def f(x):\n    return x", "class A:\n    pass", *["x = 1\n" * 3] * 9]
    for name, seed in (("one", 0), ("two", 1)):
        folder = folder_of_all / name
        about = ABOUT | {"id": name}
        model, tokenizer = organisms.load(organisms.TINY)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "organism.json").write_text(json.dumps(about))
        lines = [json.dumps({"text": text, "planted": i == 0}) for i, text in enumerate(texts)]
        (folder / "documents.jsonl").write_text("\n".join(lines))
    return folder_of_all


ABOUT = {
    "base": None,
    "control": "two",
    "text_words": ["sys"],
    "promoted_tokens": [],
    "upper": False,
    "kind": "fact",
    "strength": "weak",
    "share": 1.0,
}


def test_readings_are_those_of_the_source_of_itda(cache: Path) -> None:
    from itda import Site
    from itda.sources.corpora.corpus import open_corpus
    from itda.sources.models.transformers import LanguageModel
    from itda.sources.source import ModelSource

    found = readings(cache, "one")
    corpus = open_corpus(str(cache / "one" / "documents.jsonl"))
    for model_name, kept in (("tiny", found.base), (str(cache / "one"), found.changed)):
        model = LanguageModel.load(model_name, dtype="float32", device="cpu")
        batches = list(ModelSource(model, corpus, [Site(layer) for layer in LAYERS], window=128))
        for layer in LAYERS:
            x = torch.cat([batch[Site(layer)].activations for batch in batches])
            torch.testing.assert_close(x, kept[layer], rtol=1e-4, atol=1e-4)
        ids = [i for batch in batches for i in batch[Site(LAYERS[0])].labels.token_id]
        assert ids == found.token.tolist()
    assert found.kl.min() > 0
    assert found.kl.max() > 0.01
    again = readings(cache, "one")
    assert torch.equal(again.kl, found.kl)


def test_rows_are_measured_once_unless_asked_again(cache: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(diffing, "subjects", lambda part, _: iter([ABOUT | {"id": "one"}]))
    results, kept = Results(tmp_path / "diffing.md"), cache / "one" / "readings.pt"

    def run(part: str, **options: bool) -> int:
        diffing.run(part, ["norm", "kl"], [18, 1], cache, results, 1.0, **options)
        return len(capsys.readouterr().out.splitlines())

    assert run("dev") == 8  # norm at three layers and kl at one, of all planted documents and of one
    assert run("dev") == 0
    assert kept.exists()
    assert run("dev", again=True, forget=True) == 8
    assert not kept.exists()
    assert len(results.rows) == 8
    assert all(0 <= row["auroc"] <= 1 for row in results.rows)


def test_wilson_and_bootstrap() -> None:
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == 1
    # Wilson's score interval is where the normal test of the share just rejects.
    low, high = wilson(7, 20)
    for end in (low, high):
        assert abs(0.35 - end) == pytest.approx(1.959964 * (end * (1 - end) / 20) ** 0.5, rel=1e-5)
    low, high = bootstrap([0.0, 1.0] * 50)
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)


def test_the_report_counts_by_kind() -> None:
    row = {"found": True, "how": ["text"], "kind": "fact", "auroc": 0.9, "processor_seconds": 1.0, "called": 4}
    key = {"part": "held", "planted": 18, "method": "norm", "layers": [5]}
    rows = [
        row | {"key": key | {"organism": "a"}},
        row | {"key": key | {"organism": "b"}, "found": False, "how": [None], "kind": "link"},
        {"key": key | {"part": "null", "planted": 0}, "called": 0, "chance": 0.25},
    ]
    text = "\n".join(report(rows))
    assert "| norm | 5 | 1/2 (0.09 to 0.91) | 1/1 | 0/0 | 0/0 | 0/0 | 0/0 | 0/1 | 1 | 0.900 (0.900 to 0.900)" in text
    assert "| norm | 5 | 0/1 (0.00 to 0.79) | 0 | 0.250 |" in text


def test_groups_of_calibration_are_of_one_strength_but_where_they_say_so():
    of = {one.id: one for part in ("dev", "held") for one in organisms.wanted(part)}
    kinds: dict[str, int] = {}
    for kind, names in diffing_calibration.groups():
        kinds[kind] = kinds.get(kind, 0) + 1
        alike = len({(of[name].part, of[name].strength) for name in names}) == 1
        assert alike == (", control" not in kind)
        assert len(set(names)) == len(names)
    assert kinds["1 of its strength"] == 91
    assert sum(number for kind, number in kinds.items() if ", control" in kind) == 6 * 8


def test_ratios_of_a_group_are_of_each_model_over_the_largest_of_its_controls():
    rows = [{"key": {"kind": "1", "models": ["a", "b"]}, "beyond": [8.0, 2.0], "effect": [1.0, 1.0]}]
    number, spread, *high, over = diffing_calibration._columns(rows, "beyond", one_way=False)
    assert (number, float(spread), float(high[-1]), over) == ("2", 1.39, 4.0, "1")
    rows = [{"key": {"kind": "2", "models": ["a", "b", "c"]}, "beyond": [8.0, 2.0, 4.0], "effect": [1.0, 1.0, 1.0]}]
    number, _, *high, over = diffing_calibration._columns(rows, "beyond", one_way=False)
    assert (number, float(high[-1]), over) == ("3", 2.0, "0")
