"""`itda steer` and `itda.steered`: they show what steering by hand gives, and controls are what they are said to be."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import printed, refused

import itda
from itda.cli import main
from itda.core.site import Site
from itda.core.steering import Edit
from itda.explorer.code_index import CodeIndex
from itda.recipes.typical import typical_of_run
from itda.sources.prompt import read_prompt
from itda.steering.controls import POOL, matched_atoms
from itda.steering.next_token import NextToken, kl_of
from itda.steering.steering import Steering

TEXTS = ["def read(path):\n    return open(path)", "import os, sys", "for i in range(9): print(i)", "x = [1, 2, 3]"] * 6
PROMPT = "def read(path):\n    with"
ATOM = 3


@pytest.fixture(scope="module")
def lm():
    return itda.load_model("tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the bundled model, as a user makes it, with its corpus in a folder."""
    folder = tmp_path_factory.mktemp("steered")
    (folder / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "texts" / f"{number}.txt").write_text(text)
    itda.train(
        "tiny",
        folder / "texts",
        layers=3,
        k=4,
        atoms=24,
        window=64,
        mode="paper",
        out=folder / "run",
        progress=False,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def values(run):
    """What the command says in JSON, of two strengths."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        asked = f"--atom {ATOM} --strength 0,6 --tokens 6 --controls 3 --json --quiet"
        main(["steer", str(run), PROMPT, *asked.split()])
    return json.loads(out.getvalue())


def logits(lm):
    ids = torch.tensor([lm.tokenizer(PROMPT)["input_ids"]])
    with torch.inference_mode():
        return lm.model(input_ids=ids, use_cache=False).logits[0, -1]


def test_what_is_shown_is_what_steering_by_hand_gives(lm, run, values):
    dictionary = itda.open_run(run)["layer_3"]
    assert values["untouched"] == lm.generate(PROMPT, max_new_tokens=6)
    clean = logits(lm)
    way = values["ways"][1]
    with itda.steer(lm, dictionary, atom=ATOM, strength=6) as steering:
        assert way["steered"]["text"] == lm.generate(PROMPT, max_new_tokens=6)
        assert way["steered"]["next_token"]["kl"] == pytest.approx(kl_of(clean, logits(lm)))
    assert values["unit"] == [pytest.approx(steering.unit[ATOM])]
    assert way["push"] == pytest.approx(6 * steering.unit[ATOM])
    for atoms, kl in zip(way["control_atoms"], way["control_kl"], strict=True):
        push = Edit.of(dictionary, add={atoms[0]: way["push"]})
        with Steering(lm, Site(3), push):
            assert kl == pytest.approx(kl_of(clean, logits(lm)), rel=1e-4)
    assert way["beyond"] == sum(kl < way["steered"]["next_token"]["kl"] for kl in way["control_kl"])
    assert len({atoms[0] for atoms in way["control_atoms"]} | {ATOM}) == 4


def test_strength_0_is_the_untouched_model(values):
    way = values["ways"][0]
    assert way["steered"]["text"] == way["control"]["text"] == values["untouched"]
    assert way["steered"]["next_token"] == {"kl": 0.0, "promoted": [], "suppressed": []}
    assert way["control_kl"] == [0.0] * 3


def test_three_columns_fit_into_80(run, capsys):
    text = printed(capsys, "steer", str(run), PROMPT, "--atom", "3", "--strength=-4,6", "--tokens", "4", "--quiet")
    assert max(map(len, text.splitlines())) <= 80
    for said in ("untouched", "strength -4", "strength 6", "control: ", "promoted", "KL of 8 controls", "typical one"):
        assert said in text, said


def test_ablation_is_compared_with_atoms_as_strong_in_the_prompt(lm, run):
    dictionary = itda.open_run(run)["layer_3"]
    x = read_prompt(lm, PROMPT, [Site(3)], 32)[1][Site(3)]
    code = dictionary.encode(x[~dictionary.is_massive(x)])
    energy = code.dense(24).square().sum(dim=0)
    atom = int(energy.argmax())
    found = itda.steered(lm, dictionary, PROMPT, ablate=atom, tokens=3, controls=2)
    (way,) = found.ways
    assert way.strength is None
    assert way.push == 0
    assert all(energy[each[0]] > 0 for each in way.control_atoms)
    clean = logits(lm)
    with itda.steer(lm, dictionary, ablate=[atom]):
        assert way.steered.next_token.kl == pytest.approx(kl_of(clean, logits(lm)))
    assert repr(found).startswith("layer_3, ")
    assert "ablating atom" in repr(found)


def test_atoms_are_found_by_a_text(run, capsys):
    found = json.loads(
        printed(capsys, "steer", str(run), "--find", "import os, sys", "--top", "4", "--json", "--quiet")
    )["proposed"]
    cosines = [each["cosine"] for each in found]
    assert len(found) == 4
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] > 0.3
    text = printed(capsys, "steer", str(run), "--find", "import os, sys", "--quiet")
    assert f'Try one: itda steer {run} "..." --atom {found[0]["atom"]}' in text
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_a_runs_index_gives_the_unit(lm, run):
    itda.index(run, progress=False)
    opened = itda.open_run(run)
    typical = typical_of_run(opened, Site(3))
    index = CodeIndex.open(run, Site(3))
    for atom in (0, ATOM, 23):
        tokens, coefficients = index.uses(atom)
        assert typical.uses[atom] == len(tokens)
        if len(tokens) >= 5:
            assert typical.of(atom) == pytest.approx(np.median(np.abs(coefficients)))
    dictionary = opened["layer_3"]
    for sample in (opened, run, str(run), typical):
        assert itda.steer(lm, dictionary, atom=ATOM, sample=sample).unit == {ATOM: typical.of(ATOM)}


@settings(max_examples=15)
@given(
    uses=st.lists(st.integers(0, 1000), min_size=12, max_size=200),
    number=st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_controls_are_others_used_about_as_often(uses, number, seed):
    uses, atom, without = np.array(uses), 4, {0, 1}
    found = matched_atoms(uses, atom, number, seed, without)
    assert len(set(found)) == number
    assert not {atom, *without} & set(found)
    others = [each for each in range(len(uses)) if each not in {atom, *without}]
    gaps = sorted(abs(np.log1p(uses[each]) - np.log1p(uses[atom])) for each in others)
    furthest = max(abs(np.log1p(uses[each]) - np.log1p(uses[atom])) for each in found)
    assert furthest <= gaps[min(max(POOL, number), len(others)) - 1]
    assert found == matched_atoms(uses, atom, number, seed, without)


@settings(max_examples=15)
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=9), st.lists(st.floats(-5, 5), min_size=9, max_size=9))
def test_changes_of_the_next_token_are_differences_of_probability(before, after):
    p, q = torch.tensor(before), torch.tensor(after[: len(before)])
    found = NextToken.between(p, q, str, top=2)
    change = (q.double().softmax(dim=0) - p.double().softmax(dim=0)).numpy()
    for each in (*found.promoted, *found.suppressed):
        assert each.after - each.before == pytest.approx(change[int(each.token)])
    if found.promoted:
        assert found.promoted[0].after - found.promoted[0].before == pytest.approx(change.max())
    if found.suppressed:
        assert found.suppressed[0].after - found.suppressed[0].before == pytest.approx(change.min())
    P, Q = p.double().softmax(dim=0), q.double().softmax(dim=0)
    assert found.kl == pytest.approx((P * (P / Q).log()).sum().item(), abs=1e-9)


def test_decompose_says_which_atoms_mattered_for_the_next_token(lm, run, capsys):
    dictionary = itda.open_run(run)["layer_3"]
    for flags, exact in (([], False), (["--exact"], True)):
        found = itda.attribute(lm, dictionary, PROMPT, exact=exact)
        said = json.loads(printed(capsys, "decompose", str(run), PROMPT, "--why", *flags, "--json", "--quiet"))
        assert said["next_token"] == found.next_token
        assert [each["effect"] for each in said["reasons"]] == pytest.approx([each.effect for each in found.top(5)])
        assert [each["atom"] for each in said["by_atom"]] == list(found.by_atom())[:5]
    text = printed(capsys, "decompose", str(run), PROMPT, "--why", "--quiet")
    assert "by one backward pass" in text
    assert "add --why" in refused(capsys, "decompose", str(run), PROMPT, "--exact")


SLIPS = {
    "an atom that is not there": ([PROMPT, "--atom", "24"], "no atom 24: layer_3 of RUN has 24, use 0 to 23"),
    "no atom": ([PROMPT], "there is nothing to steer by: add --atom 17, --ablate 17, or --find TEXT"),
    "an atom in words": ([PROMPT, "--atom", "x"], "'x' is not a list of atoms"),
    "a strength in words": ([PROMPT, "--atom", "1", "--strength", "much"], "'much' is not a list of strengths"),
    "a strength without end": ([PROMPT, "--atom", "1", "--strength", "inf"], "'inf' is not a list of strengths"),
    "a layer that is not there": ([PROMPT, "--atom", "1", "--layer", "2"], "use one of 3"),
    "no prompt": (["--atom", "1"], "there is no text"),
    "tokens elsewhere": ([PROMPT, "--atom", "1", "--at", "middle"], "no tokens 'middle' to steer at"),
    "a token that is not there": ([PROMPT, "--atom", "1", "--at", "77"], "no token 77: the prompt has 7"),
    "a long prompt": (["x " * 300, "--atom", "1"], "tiny reads at most 256: shorten one"),
    "no chat": ([PROMPT, "--atom", "1", "--chat"], "tiny has no chat template"),
    "no control": ([PROMPT, "--atom", "1", "--controls", "0"], "compare with at least 1"),
    "too many controls": ([PROMPT, "--atom", "1", "--controls", "24"], "24 controls of a dictionary with 23 other"),
    "a find with an atom": (["--find", "x", "--atom", "1"], "--find proposes atoms: leave out"),
    "a cold temperature": ([PROMPT, "--atom", "1", "--temperature", "-1"], "does not generate with these options"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_refused_in_a_line(run, capsys, slip):
    arguments, message = SLIPS[slip]
    said = refused(capsys, "steer", str(run), *arguments, "--quiet")
    assert message.replace("RUN", str(run)) in said
    assert said.count("\n") <= 1
