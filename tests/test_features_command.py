"""`itda features` on the bundled model: it writes the fit of the run's own activations, and all readers take it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_best import assert_narrow, corpus, run  # noqa: F401 - fixtures
from test_cli import printed, refused

import itda
from itda import ITDA
from itda.cli import main
from itda.core.batch import Site
from itda.core.readout_features_fit import ATOMS_A_BROAD
from itda.files import DICTIONARY_FILES, FEATURES_FILE
from itda.recipes.runs import open_run
from itda.sources.source import ModelSource


@pytest.fixture(scope="module")
def fitted(run, tmp_path_factory) -> Path:  # noqa: F811 - a fixture
    folder = tmp_path_factory.mktemp("fitted") / "run"
    shutil.copytree(run, folder)
    main(["features", str(folder), "--quiet"])
    return folder


def test_it_fits_on_the_activations_that_the_run_was_made_from(fitted, run):  # noqa: F811
    made, opened = ITDA.from_pretrained(fitted / "layer_3"), open_run(run)
    documents = opened.whole_corpus(itda.config.Index(run=run)).split("train").shuffled(0)
    source = ModelSource(itda.load_model("tiny"), documents, [Site(3)], window=64, tokens=opened.record["tokens"])
    x = torch.cat([batch[Site(3)].activations for batch in source])
    by_hand = itda.fit_features(ITDA.from_pretrained(run / "layer_3"), x)
    assert made.feature_encoder.tokens == by_hand.feature_encoder.tokens <= len(x)
    assert torch.equal(made.feature_encoder.detectors, by_hand.feature_encoder.detectors)
    assert torch.equal(made.features(x[:50]).coefficients, by_hand.features(x[:50]).coefficients)


def test_the_dictionary_is_otherwise_what_it_was(fitted, run):  # noqa: F811
    files = sorted(file.name for file in (fitted / "layer_3").iterdir())
    assert files == sorted([*(file.name for file in (run / "layer_3").iterdir()), FEATURES_FILE])
    for name in DICTIONARY_FILES:
        assert (fitted / "layer_3" / name).read_bytes() == (run / "layer_3" / name).read_bytes()


def test_it_is_saved_with_the_dictionary(fitted, tmp_path):
    made = ITDA.from_pretrained(fitted / "layer_3")
    made.save_pretrained(tmp_path / "copy")
    copy = ITDA.from_pretrained(tmp_path / "copy")
    one, other = made.feature_encoder, copy.feature_encoder
    assert torch.equal(one.detectors, other.detectors)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.lasting, other.lasting)
    assert one.broad.tolist() == other.broad.tolist()
    assert len(one.broad) == len(made) // ATOMS_A_BROAD
    assert (one.scale, one.tokens, one.ridge) == (other.scale, other.tokens, other.ridge)


def test_it_says_what_it_did_and_does_it_again_to_the_bit(fitted, tmp_path, capsys):
    shutil.copytree(fitted, tmp_path / "run")
    shown = printed(capsys, "features", str(tmp_path / "run"), "--quiet")
    assert "tokens fitted on" in shown
    assert "--readout features" in shown
    assert_narrow(shown, tmp_path / "run")
    again, once = tmp_path / "run" / "layer_3" / FEATURES_FILE, fitted / "layer_3" / FEATURES_FILE
    assert again.read_bytes() == once.read_bytes()
    command = ("features", str(tmp_path / "run"), "--tokens", "500", "--layer", "3", "--json", "--quiet")
    values = json.loads(printed(capsys, *command))
    assert values["tokens"] == 500
    assert values["sites"]["layer_3"]["atoms"] == 60
    assert values["sites"]["layer_3"]["tokens"] <= 500
    assert again.read_bytes() != once.read_bytes()


def test_decompose_shows_the_strongest_features(fitted, capsys):
    command = ("decompose", str(fitted), "return path", "--readout", "features", "--top", "3", "--quiet")
    shown = printed(capsys, *command)
    assert "deviations, atom" in shown
    tokens = json.loads(printed(capsys, *command, "--json"))["tokens"]
    scores = [use["coefficient"] for use in tokens[-1]["atoms"]]
    assert 1 <= len(scores) <= 3
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0
    in_python = itda.decompose("tiny", ITDA.from_pretrained(fitted / "layer_3"), "return path", readout="features")
    assert "«own token» deviations" in repr(in_python)


def test_probe_has_features_once_they_are_fitted(fitted, corpus, capsys):  # noqa: F811
    command = ("probe", str(fitted), "--corpus", str(corpus), "--quiet", "--tokens", "1k")
    assert "features" in json.loads(printed(capsys, *command, "--json"))["sites"]["layer_3"]


def test_a_run_without_them_says_in_one_line_how_to_get_them(run, capsys):  # noqa: F811
    error = refused(capsys, "decompose", str(run), "return path", "--readout", "features", "--quiet")
    assert "`itda features RUN`" in error


def test_a_damaged_file_is_refused_and_can_be_made_anew(fitted, tmp_path, capsys):
    shutil.copytree(fitted, tmp_path / "run")
    file = tmp_path / "run" / "layer_3" / FEATURES_FILE
    whole = file.read_bytes()
    older = whole.replace(b'_version\\": 2', b'_version\\": 1')
    assert older != whole
    for damaged in (older, whole[: len(whole) // 2], whole.replace(b"itda-features", b"itda-feathers"), b""):
        file.write_bytes(damaged)
        with pytest.raises(itda.ItdaError, match=r"delete it, or make it anew|newer itda"):
            ITDA.from_pretrained(tmp_path / "run" / "layer_3")
    file.unlink()
    main(["features", str(tmp_path / "run"), "--quiet"])
    assert file.read_bytes() == whole


def test_what_is_refused(run, tmp_path, capsys):  # noqa: F811
    assert "no run folder" in refused(capsys, "features", str(tmp_path / "none"))
    assert "layer" in refused(capsys, "features", str(run), "--layer", "9")
    assert "at least 1, or 0" in refused(capsys, "features", str(run), "--batch-size", "-1")
    (tmp_path / "empty.txt").write_text("")
    error = refused(capsys, "features", str(run), "--corpus", str(tmp_path / "empty.txt"), "--quiet")
    assert "empty" in error or "no token" in error
    assert not (run / "layer_3" / FEATURES_FILE).exists()
