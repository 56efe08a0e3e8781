"""`itda fingerprint` on the bundled model: of the model's own activations, whatever was killed on the way."""

import json
import math

import numpy as np
import pytest
import torch
from test_cli import printed, refused

import itda
from itda import Fingerprint, Site
from itda import config as settings
from itda.core.similarity.fingerprint import FingerprintSettings, fingerprint_of
from itda.recipes import fingerprint as recipe
from itda.recipes import run_in_progress
from itda.recipes.fingerprint import fingerprint
from itda.recipes.harvest import harvest
from itda.recipes.run_in_progress import Stopped
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

SITES = [Site(1), Site(1, "mlp_out"), Site(4), Site(4, "mlp_out")]
HOW = FingerprintSettings(segment=400)
COLUMNS = ("novelty", "bits", "norm")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(24):
        text = f"import os\n\n\ndef naïve_{i}(path):\n    return os.path.join(path, '🙂 {i} 日本<|bos|>')\n" * 4
        (folder / f"{i:02}.py").write_text(text)
    return folder


def options(corpus, out=None, **given) -> settings.Fingerprint:
    usual = {"model": "tiny", "layers": (1, 4), "streams": ("resid_post", "mlp_out"), "tokens": 1500, "window": 48}
    return settings.Fingerprint(out=out, **{"corpus": str(corpus), "batch_size": 4, "seed": 3, **usual, **given})


@pytest.fixture(scope="module")
def whole(corpus) -> Fingerprint:
    return fingerprint(options(corpus), how=HOW)


def same(a: Fingerprint, b: Fingerprint) -> bool:
    tokens = all(
        np.array_equal(getattr(a.tokens, n), getattr(b.tokens, n)) for n in ("document", "position", "char_end")
    )
    return (
        tokens
        and a.tokens.documents == b.tokens.documents
        and list(a.sites) == list(b.sites)
        and all(np.array_equal(getattr(a[site], name), getattr(b[site], name)) for site in a.sites for name in COLUMNS)
    )


def test_it_is_the_fingerprint_of_the_models_activations_with_their_tokens(corpus, whole):
    documents = open_corpus(str(corpus)).shuffled(3)
    source = ModelSource(LanguageModel.load("tiny"), documents, SITES, window=48, batch_size=4, tokens=1500)
    batches = list(source)
    for site in SITES:
        found = fingerprint_of(torch.cat([batch[site].activations for batch in batches]), HOW)
        assert all(getattr(found, name).tolist() == getattr(whole[site], name).tolist() for name in COLUMNS)
    keys = [key for batch in batches for key in batch[SITES[0]].labels.keys()]  # noqa: SIM118
    read = whole.tokens
    columns = ([read.documents[i] for i in read.document], read.position.tolist(), read.char_end.tolist())
    assert list(zip(*columns, strict=True)) == keys


def test_how_the_stream_comes_in_batches_changes_nothing(corpus, whole):
    assert same(fingerprint(options(corpus, batch_size=4, stream=True, model_memory=10**8), how=HOW), whole)


def test_activations_on_disk_have_the_same_fingerprint(corpus, whole, tmp_path):
    made = {"layers": (1, 4), "streams": ("resid_post", "mlp_out"), "tokens": 1500, "window": 48, "batch_size": 4}
    harvest(settings.Harvest(model="tiny", corpus=str(corpus), out=tmp_path / "x", seed=3, part="all", **made))
    read = settings.Fingerprint(activations=tmp_path / "x", tokens=1500)
    found = fingerprint(read, how=HOW)
    assert same(found, whole)
    assert (found.about["model"], found.about["window"]) == ("tiny", 48)


@pytest.mark.parametrize("streamed", [{}, {"stream": True, "model_memory": 10**8}])
def test_killed_after_any_batch_and_begun_again_it_is_the_same_to_the_bit(
    corpus, whole, tmp_path, monkeypatch, streamed
):
    path, offer = tmp_path / "a.itda", recipe.FingerprintPass.offer
    chosen = options(corpus, path, checkpoint_every=0.0, **streamed)
    starts = []
    # All whole segments are kept after each batch, however long that takes: else the clock says what there is to go on
    # from. Eight batches make the tokens, and the third ends the first segment.
    monkeypatch.setattr(run_in_progress, "COST", math.inf)
    for die_after in (2, 1, 3, 1, 4, 3):

        def dying(self, batches, left=[die_after]):  # noqa: B006
            if not left[0]:
                raise MemoryError
            left[0] -= 1
            starts.append(self.whole)
            offer(self, batches)

        monkeypatch.setattr(recipe.FingerprintPass, "offer", dying)
        with pytest.raises(MemoryError):
            fingerprint(chosen, how=HOW)
        assert not path.exists()
    monkeypatch.setattr(recipe.FingerprintPass, "offer", offer)
    assert same(fingerprint(chosen, how=HOW), whole)
    assert same(Fingerprint.load(path), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["a.itda"]
    if not streamed:
        assert starts[-3:] == [800, 800, 800]  # it went on, and did not begin anew


def test_a_user_who_stops_it_is_told_how_to_go_on(corpus, whole, tmp_path, monkeypatch):
    path, offer = tmp_path / "a.itda", recipe.FingerprintPass.offer
    asked = []

    class Asked(recipe.Keeper):
        def __init__(self, every):
            super().__init__(every)
            asked.append(self)

    def stopping(self, batches):
        offer(self, batches)
        asked[-1].stopping = self.seen >= 900

    monkeypatch.setattr(recipe, "Keeper", Asked)
    monkeypatch.setattr(recipe.FingerprintPass, "offer", stopping)
    with pytest.raises(Stopped, match="stopped at 800 tokens; the same command goes on from there"):
        fingerprint(options(corpus, path), how=HOW)
    monkeypatch.undo()
    said = []
    assert same(fingerprint(options(corpus, path), say=said.append, how=HOW), whole)
    assert said == ["going on from 800 tokens"]


def test_what_was_begun_otherwise_is_not_gone_on_with(corpus, tmp_path, monkeypatch):
    path, offer = tmp_path / "a.itda", recipe.FingerprintPass.offer

    def dying(self, batches):
        if self.seen > 600:
            raise MemoryError
        offer(self, batches)

    monkeypatch.setattr(recipe.FingerprintPass, "offer", dying)
    with pytest.raises(MemoryError):
        fingerprint(options(corpus, path, checkpoint_every=0.0), how=HOW)
    monkeypatch.undo()
    with pytest.raises(itda.ItdaError, match=r"was begun with another window \(48, not 32\): bring it back, or remove"):
        fingerprint(options(corpus, path, window=32), how=HOW)
    with pytest.raises(itda.ItdaError, match="was begun with another settings"):
        fingerprint(options(corpus, path))
    assert not path.exists()


def test_the_command_takes_the_length_of_a_segment(corpus, whole, tmp_path, capsys):
    assert same(fingerprint(options(corpus, segment=400)), whole)
    wrong = ["fingerprint", "tiny", "--corpus", str(corpus), "--out", str(tmp_path / "a.itda"), "--segment", "1"]
    assert "--segment is 1: it must be at least 2" in refused(capsys, *wrong)


def test_all_layers_are_read_unless_some_are_named(corpus):
    made = itda.fingerprint("tiny", str(corpus), tokens=50, window=48, progress=False)
    assert list(made.sites) == [Site(layer) for layer in range(6)]


def test_a_corpus_that_ends_first_gives_what_it_has(whole):
    made = itda.fingerprint("tiny", ["import os", "x = 1"], layers=2, progress=False)
    assert 0 < len(made) < 20
    assert made.about["tokens_asked"] == 10_000


def test_the_command_writes_a_file_and_shows_what_is_new(corpus, tmp_path, capsys):
    arguments = ["fingerprint", "tiny", "--corpus", str(corpus), "--layer", "1,4", "--tokens", "500", "--window", "48"]
    shown = printed(capsys, *arguments, "--quiet", "--out", str(tmp_path / "a.itda"))
    assert "500 tokens, 2 sites" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("layer_")] == ["layer_1", "layer_4"]
    assert all(len(line) <= 80 for line in shown.splitlines()[1:-1])
    values = json.loads(printed(capsys, *arguments, "--quiet", "--json", "--out", str(tmp_path / "b.itda")))
    made = Fingerprint.load(tmp_path / "b.itda")
    assert values["sites"]["layer_4"]["atoms"] == [int(made[4].is_atom(rung).sum()) for rung in range(5)]
    assert (tmp_path / "a.itda").read_bytes() == (tmp_path / "b.itda").read_bytes()
    assert "exists already: name another file" in refused(capsys, *arguments, "--out", str(tmp_path / "a.itda"))


def test_a_layer_that_the_model_lacks_leaves_nothing_behind(corpus, tmp_path, capsys):
    wrong = ["fingerprint", "tiny", "--corpus", str(corpus), "--layers", "9", "--out", str(tmp_path / "a.itda")]
    assert "layer" in refused(capsys, *wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_without_a_token_is_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("")
    told = refused(
        capsys, "fingerprint", "tiny", "--corpus", str(tmp_path / "a.txt"), "--out", str(tmp_path / "a.itda")
    )
    assert "no " in told
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
