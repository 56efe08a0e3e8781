"""Mode `best` through the command line: a number of atoms, refinement, the readouts, and probing."""

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cli import printed, refused

from itda import ITDA
from itda.cli import main
from itda.config import Harvest, Train
from itda.errors import SettingError
from itda.recipes import train
from itda.resolving import MODES, RECIPE_2, from_record, recipe_of, resolved, sized, to_record

PLACE = {"model": "tiny", "layers": (3,), "corpus": "c"}
BEST = ["--mode", "best", "--atoms", "60", "--k", "6", "--tokens", "3k", "--window", "64", "--quiet"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Forty short files of Python with comments, strings and docstrings, some of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        body = f'def f_{i}(path, n={i}):\n    """Return the name of {i}."""\n    # number {i}\n'
        body += f'    return path + "{i}.txt" * n\n'
        (folder / f"{i:02}.py").write_text("import os\n\n\n" + "\n\n".join([body] * 4))
    return folder


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "best"
    main(["train", "tiny", "--layers", "3", "--corpus", str(corpus), "--out", str(folder), *BEST])
    return folder


@pytest.fixture(scope="module")
def refined(corpus, tmp_path_factory) -> Path:
    """The same by recipe 1."""
    folder = tmp_path_factory.mktemp("runs") / "refined"
    main(["train", "tiny", "--layers", "3", "--corpus", str(corpus), "--out", str(folder), *BEST, "--recipe", "1"])
    return folder


def assert_narrow(shown: str, run: Path) -> None:
    """80 columns, but where the name of the run folder needs more."""
    assert [line for line in shown.splitlines() if len(line) > 80 and str(run) not in line] == []


def test_best_has_an_offset_and_the_centres_of_groups_and_nothing_grew(run):
    model = ITDA.from_pretrained(run / "layer_3")
    assert (model.pursuit, model.mode, model.novelty, model.threshold) == ("mp_refit", "best", None, None)
    assert 50 <= len(model) <= 60  # an atom without a group is left out
    assert model.offset is not None
    assert 0 < model.fidelity.min() <= model.fidelity.median() < 1
    record = json.loads((run / "run.json").read_text())
    assert (record["settings"]["recipe"], record["settings"]["refine"]) == (2, 12)
    assert record["order"] == "shuffled, seed 0"
    assert (record["found"], record["gram_rows"]) == ({}, {})
    assert record["refinement"] == {"recipe": 2, "rounds": 12, "steps": 8}
    for line in (run / "log.jsonl").read_text().splitlines():
        assert json.loads(line).keys() == {"tokens", "tokens_per_s"}


def test_recipe_1_has_exactly_the_atoms_asked_for_an_offset_and_faithful_refined_atoms(refined):
    model = ITDA.from_pretrained(refined / "layer_3")
    assert (len(model), model.pursuit, model.mode) == (60, "mp_refit", "best")
    assert model.offset is not None
    assert model.fidelity is not None
    assert 0.9 <= model.fidelity.min() <= model.fidelity.median() < 1
    record = json.loads((refined / "run.json").read_text())
    assert (record["settings"]["recipe"], record["settings"]["refine"]) == (1, 8)
    assert record["found"]["layer_3"] >= 60
    assert record["refinement"] == {"passes": 8, "min_fidelity": 0.9}


def test_best_twice_is_the_same_to_the_bit_and_another_seed_is_not(run, corpus, tmp_path):
    for name, more in (("again", []), ("seed", ["--seed", "1"])):
        main(["train", "tiny", "--layers", "3", "--corpus", str(corpus), "--out", str(tmp_path / name), *BEST, *more])
    first, again, seed = (ITDA.from_pretrained(f / "layer_3") for f in (run, tmp_path / "again", tmp_path / "seed"))
    assert first.labels.keys() == again.labels.keys()
    assert torch.equal(first.atoms, again.atoms)
    assert first.labels.keys() != seed.labels.keys()


@pytest.mark.parametrize(
    ("name", "said"), [("run", "Each is the centre of a group of activations"), ("refined", "The atoms are refined")]
)
def test_a_dictionary_is_saved_loaded_and_compared_like_any_other(name, said, request, tmp_path):
    model = ITDA.from_pretrained(request.getfixturevalue(name) / "layer_3")
    model.save_pretrained(tmp_path / "copy")
    copy = ITDA.from_pretrained(tmp_path / "copy")
    assert torch.equal(copy.fidelity, model.fidelity)
    x = 5 * torch.randn(10, model.d_model, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy(x), model(x))
    from itda import jaccard

    assert jaccard(copy.labels, model.labels) == 1
    card = (tmp_path / "copy" / "README.md").read_text()
    assert said in card
    assert ("| threshold |" in card) == (name == "refined")


@pytest.mark.parametrize(
    ("name", "said", "asked"),
    [
        ("run", "Recipe 2: each atom is the centre of a group", "asked for: 60 atoms"),
        ("refined", "Refined: each atom was moved", "found before the crop to 60 atoms: layer_3"),
    ],
)
def test_info_says_what_its_atoms_are_and_how_faithful(name, said, asked, request, capsys):
    folder = request.getfixturevalue(name)
    shown = printed(capsys, "info", str(folder))
    for each in (said, asked, "fidelity: median"):
        assert each in shown
    assert_narrow(shown, folder)
    values = json.loads(printed(capsys, "info", str(folder), "--json"))["dictionaries"]["layer_3"]
    assert 0 < values["fidelity"]["least"] <= values["fidelity"]["median"] < 1


def test_decompose_shows_fidelity_and_takes_every_readout(run, capsys):
    text = "return path"
    shown = {r: printed(capsys, "decompose", str(run), text, "--readout", r) for r in ("code", "levels", "similarity")}
    assert "fidelity" in shown["code"]
    assert "cosine" in shown["similarity"]
    assert len({*shown.values()}) == 3
    assert_narrow("".join(shown.values()), run)
    found = json.loads(printed(capsys, "decompose", str(run), text, "--readout", "similarity", "--top", "4", "--json"))
    cosines = [use["coefficient"] for use in found["tokens"][-1]["atoms"]]
    assert len(cosines) == 4
    assert cosines == sorted(cosines, reverse=True)
    assert all(-1 <= cosine <= 1 for cosine in cosines)


def test_evaluate_gives_intervals_that_hold_the_value(run, corpus, capsys):
    command = ("evaluate", str(run), "--corpus", str(corpus), "--tokens", "2k", "--json", "--quiet")
    values = json.loads(printed(capsys, *command))["sites"]["layer_3"]
    assert values["documents"] > 1
    assert values["encode_per_second"] > 0
    for name in ("fvu", "ce_loss_score", "kl"):
        low, high = values["intervals"][name]
        assert low <= values[name] <= high
        assert low < high


def test_probe_shows_every_readout_and_neurons_tell_comments_apart(run, corpus, capsys):
    command = ("probe", str(run), "--corpus", str(corpus), "--quiet", "--tokens")
    shown = printed(capsys, *command, "1k")
    assert_narrow(shown, run)
    values = json.loads(printed(capsys, *command, "3k", "--json"))
    assert set(values["sites"]["layer_3"]) == {"code", "code, two levels", "code, by group", "similarity", "neurons"}
    assert "-" in shown.splitlines()[-1]  # an interval
    assert {"comment", "string", "docstring", "name", "operator", "keyword"} <= set(values["classes"])
    everything = values["sites"]["layer_3"]["neurons"][-1]
    assert everything["latents"] is None
    assert everything["by_class"]["comment"] > 0.9


def test_probing_without_python_is_refused(run, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("to be or not to be")
    assert "Python" in refused(capsys, "probe", str(run), "--corpus", str(tmp_path), "--quiet")


def test_the_recipe_can_be_said_and_other_ones_are_refused(run, refined, corpus, tmp_path, capsys):
    command = ["train", "tiny", "--layers", "2,3", "--corpus", str(corpus), *BEST]
    main([*command, "--recipe", "2", "--out", str(tmp_path / "two")])
    first, two, one = (ITDA.from_pretrained(f / "layer_3") for f in (run, tmp_path / "two", refined))
    assert torch.equal(first.atoms, two.atoms)
    assert first.labels.keys() == two.labels.keys()
    assert one.labels.keys() != two.labels.keys()
    assert "is only for recipe 1: leave it out" in refused(capsys, *command, "--recipe", "2", "--min-fidelity", "0.9")
    assert "it must be 1" in refused(capsys, *command, "--recipe", "3")
    assert "8 steps are only for recipe 2" in refused(capsys, *command, "--recipe", "1", "--steps", "8")
    assert "-1 steps: it must be at least 0" in refused(capsys, *command, "--steps", "-1")
    assert "--recipe 2 is only for mode best" in refused(capsys, *command, "--recipe", "2", "--mode", "paper")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"min_fidelity": 0.85}, "--min-fidelity 0.85"),
        ({"massive": "atoms"}, "--massive atoms"),
        ({"refine": 0}, "--refine 0"),
    ],
)
def test_a_setting_that_recipe_1_alone_has_asks_for_it(given, why):
    assert recipe_of(Train(**PLACE, **given)) == (1, why)
    assert resolved(Train(**PLACE, **given)).recipe == 1
    with pytest.raises(SettingError, match="recipe 1"):
        resolved(Train(**PLACE, **given, recipe=2))


def test_a_run_says_that_a_setting_asked_for_recipe_1(corpus, tmp_path):
    said = []
    out = tmp_path / "run"
    options = Train(
        model="tiny", layers=(3,), corpus=str(corpus), tokens=1000, k=4, atoms=20, out=out, min_fidelity=0.8
    )
    assert train(options, say=said.append).record["settings"]["recipe"] == 1
    assert said == ["recipe 1, because of --min-fidelity 0.8: see --recipe in itda train --help"]


def test_what_was_made_without_a_recipe_is_of_recipe_1():
    assert from_record({"layers": "3"}).recipe == 1
    assert resolved(from_record({"layers": "3", "model": "tiny", "corpus": "c"})).refine == 8


def test_the_number_of_atoms_and_a_threshold_exclude_each_other(corpus, tmp_path, capsys):
    command = ["train", "tiny", "--layers", "3", "--corpus", str(corpus), "--out", str(tmp_path / "run")]
    assert "exclude each other" in refused(capsys, *command, "--atoms", "50", "--threshold", "0.3")
    assert "ask for fewer or read more" in refused(capsys, *command, "--atoms", "5k", "--tokens", "1k")
    assert "it must be from 0 to 1" in refused(capsys, *command, "--mode", "best", "--min-fidelity", "1.5")
    assert "at least 0" in refused(capsys, *command, "--refine", "-1")
    paper = (*command, "--mode", "paper")
    assert "add --refine 8, or --mode best" in refused(capsys, *paper, "--min-fidelity", "0.9")
    seed = "--seed chooses a shuffled order: leave out "
    assert f"{seed}--order corpus, or the seed" in refused(capsys, *command, "--seed", "1", "--order", "corpus")
    assert f"{seed}--mode reference, or the seed" in refused(capsys, *command, "--seed", "1", "--mode", "reference")
    for name in ("--offset", "--refine"):
        assert f"mode reference has no {name}" in refused(capsys, *command, "--mode", "reference", name, "5")
    assert "mode reference has no --atoms" in refused(capsys, *command, "--mode", "reference", "--atoms", "50")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_fills_in_what_was_left_out_and_nothing_else(mode):
    place = {**PLACE, "threshold": 0.001} if mode == "reference" else PLACE
    filled = resolved(Train(**place, mode=mode))
    wanted = MODES[mode] | (RECIPE_2 if mode == "best" else {})
    assert all(getattr(filled, name) == value for name, value in wanted.items())
    if mode == "best":
        of_recipe_1 = resolved(Train(**place, mode=mode, recipe=1))
        assert all(getattr(of_recipe_1, name) == value for name, value in MODES[mode].items())
    assert (filled.threshold, filled.atoms) == (place.get("threshold"), None)
    assert resolved(filled) == filled
    without = resolved(Train(**place, mode=mode, refine=0))
    assert (without.refine, without.min_fidelity, without.recipe) == (0, 0.0, 1)
    if mode != "reference":
        assert resolved(Train(**PLACE, mode=mode, refine=3, atoms=9)).refine == 3


def test_by_default_the_mode_is_best_and_only_reference_keeps_the_order_of_the_corpus():
    assert Train().mode == "best"
    orders = {mode: resolved(Train(**PLACE, mode=mode, threshold=0.001)).order for mode in MODES}
    assert orders == {"best": "shuffled", "paper": "shuffled", "reference": "corpus"}
    assert Harvest(model="tiny", layers=(3,), corpus="c", out=Path("acts")).order == "shuffled"


@given(st.integers(1, 20_000), st.integers(1, 10**9), st.sampled_from(["best", "paper"]))
def test_the_size_by_default_is_8_for_each_dimension_and_never_more_than_a_tenth_of_the_tokens(d_model, tokens, mode):
    options, why = sized(Train(mode=mode, tokens=tokens), d_model)
    assert options.atoms == max(1, min(8 * d_model, tokens // 10))
    assert why == (
        f"8 for each of {d_model:,} dimensions"
        if 8 * d_model <= max(1, tokens // 10)
        else f"one for every 10 of {tokens:,} tokens"
    )
    assert sized(options, d_model) == (options, "")


def test_a_size_or_a_threshold_that_is_given_stays():
    for options in (Train(threshold=0.3), Train(atoms=7), resolved(Train(**PLACE, mode="reference", threshold=0.001))):
        assert sized(options, 192) == (options, "")


def test_a_run_says_how_many_atoms_it_chose_and_why(corpus, tmp_path, capsys):
    arguments = ["train", "tiny", "--layers", "1,3", "--corpus", str(corpus), "--tokens", "2k", "--window", "64"]
    main([*arguments, "--refine", "0", "--out", str(tmp_path / "run")])
    output, error = capsys.readouterr()
    reason = "one for every 10 of 2,000 tokens"
    assert f"itda: 200 atoms for each dictionary, {reason}: --atoms or --threshold say otherwise\n" in error
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["settings"]["atoms"], record["atoms_default"]) == ("200", reason)
    assert (record["order"], record["settings"]["mode"]) == ("shuffled, seed 0", "best")
    shown = " ".join(output.split())
    assert f"found before the crop to 200 atoms ({reason}, by default): layer_1" in shown
    assert "mode best, documents shuffled, in" in shown
    assert_narrow(output, tmp_path)
    main([*arguments, "--refine", "0", "--out", str(tmp_path / "told"), "--atoms", "200", "--quiet"])
    assert "by default" not in printed(capsys, "info", str(tmp_path / "told"))
    made = [ITDA.from_pretrained(tmp_path / name / "layer_3") for name in ("run", "told")]
    assert made[0].labels.keys() == made[1].labels.keys()


def test_a_corpus_that_ends_before_the_tokens_asked_for_is_said_and_gives_the_atoms_all_the_same(
    corpus, tmp_path, capsys
):
    out = tmp_path / "run"
    arguments = ["train", "tiny", "--layers", "3", "--corpus", str(corpus), "--atoms", "60", "--refine", "0"]
    main([*arguments, "--k", "6", "--out", str(out)])
    seen = json.loads((out / "run.json").read_text())["tokens"]
    error = capsys.readouterr().err
    assert f"itda: {corpus} ended after {seen:,} of 1,000,000 tokens: --tokens {seen} may give more of" in error
    assert len(ITDA.from_pretrained(out / "layer_3")) == 60


def test_reference_has_no_default_threshold_and_says_so_before_anything_is_read():
    with pytest.raises(SettingError, match=r"needs a --threshold: 2 \(1 - cos\) / d_model"):
        resolved(Train(**PLACE, mode="reference"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "bset"}, "no mode 'bset': use paper, best, reference"),
        ({"massive": "none"}, "no massive 'none': use skip, atoms, off"),
        ({"atoms": 0}, "--atoms is 0"),
        ({"atoms": 20, "tokens": 10}, "20 atoms of 10 tokens"),
        ({"k": 0}, "k is 0"),
        ({"threshold": 2.0}, "the threshold is 2.0"),
        ({"batch_size": 0}, "--batch-size and --window"),
    ],
)
def test_settings_are_checked_whole_before_anything_is_read(given, message):
    options = Train(**PLACE)
    for name, value in given.items():  # as Python callers may, whose types nobody checks
        object.__setattr__(options, name, value)
    with pytest.raises(SettingError, match=re.escape(message)):
        resolved(options)


def test_settings_recorded_by_an_older_itda_are_read_as_what_they_say():
    older = {"layers": "2,4-6", "streams": "mlp_out,resid_post", "tokens": "2k", "atoms": "1.5k", "memory": "8G"}
    read = from_record(older)
    assert (read.layers, read.streams) == ((2, 4, 5, 6), ("resid_post", "mlp_out"))
    assert (read.tokens, read.atoms, read.memory) == (2000, 1500, 8 * 2**30)
    assert to_record(read)["layers"] == "2,4,5,6"
    assert from_record(to_record(read)) == read


def test_reference_takes_no_shuffling():
    with pytest.raises(SettingError, match="no --order shuffled"):
        resolved(Train(model="tiny", layers=(3,), corpus="c", mode="reference", order="shuffled"))
