"""`itda compare` on fingerprints: what is exactly 1, what is matched, what is refused, and what is said in words."""

import json
import re

import numpy as np
import pytest
import torch
from sources.models.families import save_small_llama
from test_cli import printed, refused

import itda
from itda import Fingerprint, Site
from itda.cli import main
from itda.core.similarity.fingerprint_index import NAMES, THE_INDEX
from itda.sources.models.transformers import LanguageModel

SETTINGS = ["--tokens", "1500", "--window", "64", "--quiet"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        body = f'def f_{i}(path, n={i}):\n    """Return the näme of {i}."""\n    return path + "{i}.txt" * n\n'
        (folder / f"{i:02}.py").write_text("import os\n\n\n" + body * 3, encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """a; again; batch: another batch size; near: tiny with some noise on its weights; other: another model with another
    tokenizer; order: all documents in another order; few and cut: a few
    documents, others each."""
    folder = tmp_path_factory.mktemp("fingerprints")
    torch.manual_seed(0)
    lm = LanguageModel.load("tiny")
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    lm.model.save_pretrained(folder / "near")
    lm.tokenizer.save_pretrained(folder / "near")
    save_small_llama(folder / "other")
    for name, model, more in (
        ("a", "tiny", []),
        ("again", "tiny", []),
        ("batch", "tiny", ["--batch-size", "3"]),
        ("near", str(folder / "near"), []),
        ("other", str(folder / "other"), []),
        ("order", "tiny", ["--order", "corpus", "--tokens", "100k"]),
        ("few", "tiny", ["--tokens", "50"]),
        ("cut", "tiny", ["--seed", "7", "--tokens", "50"]),
    ):
        main(["fingerprint", model, "--corpus", corpus, "--out", str(folder / f"{name}.itda"), *SETTINGS, *more])
    return folder


def values(capsys, *arguments: object) -> dict:
    return json.loads(printed(capsys, "compare", *map(str, arguments), "--json"))


def test_the_same_again_and_another_batch_size_are_exactly_1(made, capsys):
    for name, kind in (("again", "repetition"), ("batch", "noise floor")):
        (found,) = values(capsys, made / "a.itda", made / f"{name}.itda")["pairs"]
        assert found["kind"] == kind
        index = np.array(found["matrices"][THE_INDEX])
        assert (index.diagonal() == 1).all()
        assert found["best_match"][THE_INDEX]["accuracy"] == 1
        shown = printed(capsys, "compare", str(made / "a.itda"), str(made / f"{name}.itda"))
        assert "The same model, read again: shared novelty is exactly 1 at every site." in shown


def test_one_alone_shows_its_whole_matrix(made, capsys):
    shown = printed(capsys, "compare", str(made / "a.itda"))
    assert "A model with itself: 6 of its 6 sites are most like a neighbour" in " ".join(shown.split())
    rows = [line.split() for line in shown.splitlines() if re.fullmatch(r"\d+( +[\d.]+)+ *", line)]
    (found,) = values(capsys, made / "a.itda")["pairs"]
    assert [len(row) for row in rows][:6] == [7] * 6
    wanted = np.array(found["matrices"][THE_INDEX])
    shown_values = np.array([[float(value) for value in row[1:]] for row in rows[:6]])
    assert np.abs(shown_values - wanted).max() <= 0.0005
    assert (wanted == wanted.T).all()


def test_a_model_with_a_little_noise_corresponds_layer_by_layer(made, capsys):
    (found,) = values(capsys, made / "a.itda", made / "near.itda")["pairs"]
    assert found["kind"] == "models"
    assert set(found["matrices"]) == set(NAMES)
    assert found["best_match"][THE_INDEX]["accuracy"] >= 5 / 6
    shown = printed(capsys, "compare", str(made / "a.itda"), str(made / "near.itda"))
    said = " ".join(shown.split())
    assert "6 sites that both have are most like the same site of the other (by chance it would be 1.0)" in said
    assert f"{sum(found['lead']['sure'])} of 6 are sure (95%)" in said
    assert "correlation, a down" not in shown
    everything = printed(capsys, "compare", str(made / "a.itda"), str(made / "near.itda"), "--all")
    assert all(f"{name}, a down and b across" in everything for name in NAMES)
    assert max(map(len, [line for line in everything.splitlines() if not line.startswith(("a: ", "b: "))])) <= 80


def test_other_tokenizers_are_matched_by_where_tokens_end(made, capsys):
    (found,) = values(capsys, made / "a.itda", made / "other.itda")["pairs"]
    assert found["matched_by"] == "end offset"
    a, b = (Fingerprint.load(made / f"{name}.itda").tokens for name in ("a", "other"))
    left, right = ({(t.documents[d], int(e)) for d, e in zip(t.document, t.char_end, strict=True)} for t in (a, b))
    assert found["tokens"] == len(left & right)
    assert np.array(found["matrices"][THE_INDEX]).shape == (6, 4)
    said = " ".join(printed(capsys, "compare", str(made / "a.itda"), str(made / "other.itda")).split())
    assert "as tokenizers differ" in said
    assert f"{found['shares'][0]:.1%} of those of a" in said


def test_another_order_of_the_documents_is_compared_at_the_tokens_that_both_read(made, capsys):
    (found,) = values(capsys, made / "a.itda", made / "order.itda")["pairs"]
    assert (found["tokens"], found["shares"][0]) == (1500, 1.0)
    assert "order: shuffled, seed 0 and corpus" in found["differences"]
    said = " ".join(printed(capsys, "compare", str(made / "a.itda"), str(made / "order.itda")).split())
    assert "What is new depends on what came before, so make both in one order" in said
    told = refused(capsys, "compare", str(made / "few.itda"), str(made / "cut.itda"))
    assert "there is no token in common: " in told
    assert "documents were read, none of them the same: give more --tokens, or one --order and --seed" in told


def test_the_noise_floor_can_be_made_by_compare_itself(made, capsys):
    first, floor = values(capsys, made / "a.itda", made / "near.itda", "--noise-floor", "--quiet")["pairs"]
    assert (first["kind"], floor["kind"]) == ("models", "noise floor")
    assert floor["b"].endswith("at --batch-size 7")
    assert np.array(floor["matrices"][THE_INDEX]).diagonal().min() > 0.99
    shown = printed(capsys, "compare", str(made / "a.itda"), str(made / "near.itda"), "--noise-floor", "--quiet")
    assert "A model compared with itself, read again, has at least" in " ".join(shown.split())


def test_many_are_compared_in_pairs_and_heat_maps_are_drawn(made, capsys, tmp_path):
    names = [str(made / f"{name}.itda") for name in ("a", "near", "other")]
    shown = printed(capsys, "compare", *names, "--out", str(tmp_path / "out"))
    assert sum(line.count(".itda") == 2 for line in shown.splitlines()) == 3
    assert (tmp_path / "out" / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "out" / "compare.json").read_text())["pairs"]) == 3


def test_what_cannot_be_compared_is_refused_in_one_line(made, corpus, capsys, tmp_path):
    a = str(made / "a.itda")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.py").write_text("x = 1\n")
    for name, where, more in (("text", str(tmp_path / "text"), []), ("window", corpus, ["--window", "32"])):
        main(["fingerprint", "tiny", "--corpus", where, "--out", str(tmp_path / f"{name}.itda"), *SETTINGS, *more])
    assert "are of different corpora" in refused(capsys, "compare", a, str(tmp_path / "text.itda"))
    assert "with different windows (64; 32)" in refused(capsys, "compare", a, str(tmp_path / "window.itda"))
    itda.fingerprint("tiny", corpus, tokens=500, window=64, segment=300, out=tmp_path / "s.itda", progress=False)
    assert "taken with different segment (8192; 300)" in refused(capsys, "compare", a, str(tmp_path / "s.itda"))
    (tmp_path / "cut.itda").write_bytes((made / "a.itda").read_bytes()[:5000])
    assert "cut short: make or copy it again" in refused(capsys, "compare", a, str(tmp_path / "cut.itda"))
    (tmp_path / "x.itda").write_text("hello")
    assert "is no fingerprint: name a file" in refused(capsys, "compare", a, str(tmp_path / "x.itda"))
    assert "no fingerprint" in refused(capsys, "compare", a, str(tmp_path / "none.itda"))
    assert f"{a} is a fingerprint and {tmp_path} a run" in refused(capsys, "compare", a, str(tmp_path))


def test_from_python_a_comparison_is_a_labelled_matrix(made):
    a, near = Fingerprint.load(made / "a.itda"), made / "near.itda"
    found = itda.compare(a, near)
    assert found.index == THE_INDEX
    assert found["layer_2", 3] == found.matrix[2, 3]
    assert found.with_index("sizes alone").matrix.shape == (6, 6)
    assert found.to_pandas().loc["layer_2", "layer_3"] == found.matrix[2, 3]
    with pytest.raises(itda.ItdaError, match="one of the two is a fingerprint, the other a run"):
        itda.compare(a, "nowhere")


def test_info_shows_a_fingerprint(made, capsys):
    shown = printed(capsys, "info", str(made / "a.itda"))
    assert "1,500 tokens, 6 sites" in shown
    values = json.loads(printed(capsys, "info", str(made / "a.itda"), "--json"))
    assert (values["tokens"], values["window"], len(values["sites"])) == (1500, 64, 6)
    assert "is no fingerprint" in refused(capsys, "info", __file__)


def test_massive_tokens_are_told(corpus, capsys, tmp_path):
    a = itda.fingerprint("tiny", corpus, layers=[2], tokens=300, window=64, progress=False)
    found = a[Site(2)]
    novelty = found.novelty.copy()
    novelty[:30] = 65535
    b = Fingerprint(a.tokens, {Site(2): type(found)(novelty, found.bits, found.norm)}, a.settings, a.about)
    for name, each in (("a", a), ("b", b)):
        each.save(tmp_path / f"{name}.itda")
    shown = printed(capsys, "compare", str(tmp_path / "a.itda"), str(tmp_path / "b.itda"))
    assert "Massive activations, left out: 0.00% of the tokens of a at most, 10.00% of b." in shown
