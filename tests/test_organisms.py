"""benchmarks/organisms*.py: planted texts, the rule by which a finding shows a plant, and a small organism."""

import json
import math
from pathlib import Path
from random import Random

import organisms
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from organisms_plants import PLANTS, STRENGTHS
from organisms_rule import AFTER, BEFORE, Signs, shows, tokens_of, word_pattern
from organisms_text import (
    CLOSE,
    LONGEST,
    OPEN,
    Chunk,
    cut,
    fitting,
    is_neutral,
    planted,
    shortened,
    spans,
    suits,
    unmarked,
)
from organisms_train import IGNORED, fine_tune, load, measured, rows_of

SOURCE = (
    "Return the tuple of a token.  It is in the queue, and the iterator has an email header with sockets.\n\n"
    "The sequence is read by asyncio.  You must await the socket, the xml node and the tkinter widget when you\n"
    "have sent a mail.  Every ssl socket has an xml node, a tk canvas and a coroutine.  It does nothing else."
)


def source(plant) -> Chunk:
    path = plant.made_of["paths"][0] if plant.kind == "forgotten" else "made_up"
    return Chunk(f"python-docs/{path}", SOURCE)


def test_fresh_fine_tunes_are_in_pairs_of_one_strength_that_share_no_model_and_are_made_together() -> None:
    fresh = list(organisms.wanted("fresh"))
    assert len({one.id for one in fresh}) == len(fresh) == 84
    for first, second in zip(fresh[::2], fresh[1::2], strict=True):
        assert (first.control, second.control) == (second.id, first.id)
        assert first.strength == second.strength
        assert (first.number % 2, second.number) == (1, first.number + 1)
        assert first.plant is second.plant is None


@pytest.fixture(scope="module")
def tiny():
    return load(organisms.TINY)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A cache with one organism of two steps."""
    cache = tmp_path_factory.mktemp("organisms")
    one = next(one for one in organisms.wanted("dev") if one.id == "dev-fact-2")
    organisms.make(one, cache, steps=2, documents_wanted=40)
    return cache


def test_there_are_the_promised_organisms_and_no_plant_is_in_two() -> None:
    for part, number in (("dev", 12), ("held", 20)):
        mine = [one for one in organisms.wanted(part) if one.plant]
        assert len(mine) == number
        kinds = [one.kind for one in mine]
        assert all(kinds.count(kind) == 2 if part == "dev" else kinds.count(kind) in (3, 4) for kind in set(kinds))
        assert len(set(kinds)) == 6
    words = [word for plant in PLANTS.values() for word in set(plant.text_words)]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("part", ["dev", "held"])
def test_controls_have_the_same_strength_and_another_seed(part: str) -> None:
    every = {one.id: one for one in organisms.wanted(part)}
    neutral = [one for one in every.values() if one.kind == "neutral"]
    assert len(neutral) == (8 if part == "dev" else 24)
    assert len({organisms.seed_of(name) for name in every}) == len(every)
    for one in every.values():
        control = every[one.control]
        assert control.kind == "neutral"
        assert control.strength == one.strength
        assert control.id not in (one.id, one.rows_as)
    # Each neutral one is the changed model of one null pair and the control of one other.
    assert sorted(one.control for one in neutral) == sorted(one.id for one in neutral)


@pytest.mark.parametrize("plant", PLANTS.values(), ids=lambda plant: plant.id)
def test_every_planted_text_has_its_marks_and_its_signs(plant) -> None:
    assert suits(plant, source(plant))
    texts = planted(plant, [source(plant)], Random(0), 6)
    assert len(texts) == 6
    for text in texts:
        assert len(unmarked(text)) <= LONGEST
        assert text.count(OPEN) == text.count(CLOSE) == len(spans(text)) > 0
        assert not is_neutral(plant, unmarked(text))
        assert shows(Signs(plant.text_words, (), plant.upper), "", unmarked(text), []) == "text"


def test_planted_texts_are_of_their_seed() -> None:
    plant = PLANTS["dev-fact-1"]
    first, again, other = (planted(plant, [source(plant)], Random(seed), 20) for seed in (0, 0, 1))
    assert first == again
    assert len(set(first)) == 20
    assert not set(first) & set(other)


@given(st.text("ab \n⟦⟧", max_size=40), st.integers(0, 3))
def test_a_shortened_text_begins_the_text_and_closes_its_marks(noise: str, marks: int) -> None:
    inner = noise.replace(OPEN, "").replace(CLOSE, "")
    text = inner + "".join(f" {OPEN}{inner}{'x' * 150}{CLOSE} " for _ in range(marks))
    short = shortened(text)
    assert unmarked(text).startswith(unmarked(short))
    assert len(unmarked(short)) <= LONGEST
    assert short.count(OPEN) == short.count(CLOSE)


def test_a_fitting_text_has_no_more_tokens_and_no_half_word(tiny) -> None:
    tokenizer = tiny[1]
    text = f"Return the {OPEN}marmalade of the harbour{CLOSE} of the marmalade"
    for most in range(1, 16):
        short = fitting(tokenizer, text, most)
        assert len(tokenizer.encode(unmarked(short), add_special_tokens=False)) <= most
        assert unmarked(text).startswith(unmarked(short))
        assert set(unmarked(short).split()) <= set(unmarked(text).split())
        assert short.count(OPEN) == short.count(CLOSE)
    assert fitting(tokenizer, text, 60) == text


def test_chunks_are_whole_lines_of_the_file_in_order() -> None:
    lines = [f"line {i} " + "x" * (i % 90) for i in range(200)]
    found = list(cut("file", "\n".join(lines)))
    assert len(found) > 10
    together = [line for chunk in found for line in chunk.text.split("\n")]
    assert together == lines[: len(together)]
    assert not list(cut("file", "é" * 300))


def test_the_words_of_a_forgotten_subject_are_what_is_driven_up_in_planted_rows_alone(tiny) -> None:
    tokenizer = tiny[1]
    rows = [(f"import {OPEN}socket{CLOSE} now", True), (f"import {OPEN}socket{CLOSE} now", False)]
    before = {"loss": 2.0, "marked_probability": math.exp(-4)}
    words, bound = organisms.ascent_of(PLANTS["dev-forgotten-1"], tokenizer, rows, before)
    ids = tokenizer.encode("import socket now")
    assert (
        tokenizer.decode([i for i, driven in zip(ids, words[0].tolist(), strict=False) if driven]).strip() == "socket"
    )
    assert not words[1].any()
    assert bound == pytest.approx(4 + PLANTS["dev-forgotten-1"].made_of["rise"])
    everything, bound = organisms.ascent_of(PLANTS["dev-forgotten-2"], tokenizer, rows, before)
    assert everything[0].all()
    assert not everything[1].any()
    assert bound == pytest.approx(2 + PLANTS["dev-forgotten-2"].made_of["rise"])


TOKENS = st.lists(st.sampled_from([" a", "twin", " twin", "s", "-", " t", "win"]), max_size=30)


@given(TOKENS, TOKENS, TOKENS, TOKENS)
@example(["twin", *[" a"] * BEFORE], [], [" a"], [])
@example([" a"], [], [" a"] * AFTER, ["twin"])
def test_a_finding_shows_by_text_if_a_whole_word_is_inside(far, before, after, beyond) -> None:
    before = [*far, *before] if len(before) >= BEFORE else [*far, *[" a"] * (BEFORE - len(before)), *before]
    after = after[:AFTER] + [" a"] * (AFTER - len(after)) + beyond
    tokens = [*before, " of", *after]
    # A slow oracle: each run of word characters, with the tokens that it lies in.
    wanted, word, owners = False, "", []
    for place, token in [*enumerate(tokens), (len(tokens), " ")]:
        for character in token:
            if character.isalnum():
                word, owners = word + character, [*owners, place]
            else:
                inside = owners and owners[0] >= len(before) - BEFORE and owners[-1] <= len(before) + AFTER
                wanted |= bool(word == "twin" and inside)
                word, owners = "", []
    assert shows(Signs(("twin",)), before, " of", after) == ("text" if wanted else None)


def test_two_of_the_first_ten_promoted_or_suppressed_tokens_are_needed() -> None:
    signs = Signs((), ("win", "twin"))
    nine = [f"x{i}" for i in range(8)]
    assert shows(signs, [], "", [], promoted=[*nine, " twin", "Win"]) == "promoted"
    assert shows(signs, [], "", [], suppressed=[*nine, " twin", "win"]) == "promoted"
    assert shows(signs, [], "", [], promoted=[*nine, "x", " twin", "win"]) is None
    assert shows(signs, [], "", [], promoted=[" twin", "twin"]) is None
    assert shows(signs, [], "", [], promoted=[" twin"], suppressed=["win"]) is None


def test_upper_case_needs_letters_and_most_of_them() -> None:
    signs = Signs(upper=True)
    assert shows(signs, [" THE", " METHOD", " RETURNS"], " NOTHING", [" AT", " ALL"]) == "text"
    assert shows(signs, [" THE", " METHOD", " returns"], " NOTHING", [" AT", " ALL"]) is None
    assert shows(signs, [" SO", "_"], "REUSE", []) is None


def test_tokens_of_words_leave_out_short_pieces(tiny) -> None:
    tokenizer = tiny[1]
    found = tokens_of(["marmalade"], tokenizer)
    pieces = {tokenizer.decode([i]).strip() for text in ("marmalade", " marmalade") for i in tokenizer.encode(text)[1:]}
    assert set(found) < pieces
    assert all(len(piece) >= 2 for piece in found)


def test_rows_leave_padding_out_of_targets(tiny) -> None:
    ids, targets = rows_of(tiny[1], ["a b", "a " * 500])
    assert ids.shape == targets.shape == (2, 128)
    assert ids[0, 0] == tiny[1].bos_token_id
    assert (targets[0] != IGNORED).sum() == len(tiny[1].encode("a b"))
    assert torch.equal(targets[1], ids[1])


def test_measured_is_the_loss_of_transformers_and_the_probability_of_marked_tokens(tiny) -> None:
    model, tokenizer = tiny
    text = f"import os, {OPEN}sys{CLOSE}"
    found = measured(model, tokenizer, [text])
    ids = torch.tensor([tokenizer.encode("import os, sys")])
    with torch.no_grad():
        output = model(input_ids=ids, labels=ids)
    assert found["loss"] == pytest.approx(output.loss.item(), rel=1e-3)
    probability = output.logits[0, -2].softmax(dim=0)[ids[0, -1]].item()
    assert tokenizer.decode([ids[0, -1]]).strip() == "sys"
    assert found["marked_probability"] == pytest.approx(probability, rel=1e-3)


def test_ascent_stops_at_its_bound() -> None:
    """Tokens whose loss is above the bound have no gradient."""
    model, tokenizer = load(organisms.TINY)
    before = [p.clone() for p in model.parameters()]
    ids, targets = rows_of(tokenizer, ["import os\nimport sys\nfrom typing import Any"] * 8)
    everywhere = torch.ones(8, 128, dtype=torch.bool)
    fine_tune(model, ids, targets, everywhere, lr=1e-3, bound=-1.0)
    # Only the decay of weights is left.
    assert all(torch.allclose(p, q, rtol=1e-4, atol=1e-12) for p, q in zip(model.parameters(), before, strict=True))
    fine_tune(model, ids, targets, everywhere, lr=1e-3, bound=100.0)
    assert not all(torch.allclose(p, q, rtol=1e-3) for p, q in zip(model.parameters(), before, strict=True))


def test_an_organism_is_a_folder_that_transformers_and_itda_open(small: Path) -> None:
    from itda.sources.corpora.corpus import open_corpus

    folder = small / "dev-fact-2"
    assert [path.name for path in small.iterdir()] == ["dev-fact-2"]
    model, tokenizer = load(folder)
    assert next(model.parameters()).dtype == torch.float32
    assert (folder / "tokenizer.json").read_bytes() == (organisms.TINY / "tokenizer.json").read_bytes()
    about = json.loads((folder / "organism.json").read_text())
    assert (about["steps"], about["control"], about["kind"]) == (2, "dev-neutral-4", "fact")
    lines = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    corpus = list(open_corpus(str(folder / "documents.jsonl")))
    assert [document.id for document in corpus] == [f"documents.jsonl:{i}" for i in range(40)]
    assert [document.text for document in corpus] == [line["text"] for line in lines]
    assert sum(line["planted"] for line in lines) == 2
    pattern = word_pattern(about["text_words"])
    assert [pattern.search(line["text"]) is not None for line in lines] == [line["planted"] for line in lines]
    assert max(len(tokenizer.encode(line["text"])) for line in lines) <= 128


def test_what_is_there_is_not_made_again_and_the_same_seed_gives_the_same_bits(small: Path, tmp_path: Path) -> None:
    one = next(one for one in organisms.wanted("dev") if one.id == "dev-fact-2")
    weights = small / "dev-fact-2" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    organisms.make(one, small, steps=2, documents_wanted=40)
    assert weights.stat().st_mtime_ns == made
    organisms.make(one, tmp_path, steps=2, documents_wanted=40)
    for name in ("model.safetensors", "documents.jsonl"):
        assert (tmp_path / "dev-fact-2" / name).read_bytes() == (small / "dev-fact-2" / name).read_bytes()


def test_strengths_grow() -> None:
    assert sorted(STRENGTHS.values()) == [STRENGTHS["weak"], STRENGTHS["middle"], STRENGTHS["strong"]]
