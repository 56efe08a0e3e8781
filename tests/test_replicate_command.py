"""`itda replicate` on the bundled model: what comes back is what a plain loop finds, whatever was killed on the way."""

import html
import json
import shutil

import numpy as np
import pytest
import torch

import itda
from itda import Labels, Site, Trainer
from itda import config as settings
from itda.cli import main
from itda.core.replication import Replication, half_of
from itda.recipes import open_run, replication_draws
from itda.recipes.index import index_run
from itda.recipes.replicate import PARTIAL, RECORD, replicate
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.store.nearest import AFTER, BEFORE, FILE
from itda.store.replication import REPLICATION

SITES = [Site(1), Site(3)]
K, ATOMS, TOKENS = 4, 40, 1500
TRAIN = ["--k", str(K), "--atoms", str(ATOMS), "--tokens", str(TOKENS), "--window", "48", "--batch-size", "4"]
TRAIN += ["--offset", "200", "--recipe", "1", "--refine", "1", "--seed", "3", "--quiet"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = ["open", "read", "write", "close", "path", "line", "name", "value", "self", "return", "import", "class"]
    words += ["def", "for", "while"]
    for i in range(24):
        lines = [f"{words[(i * 7 + j) % 15]} = {words[(i + j * j) % 15]}({i * j})\n" for j in range(12)]
        (folder / f"{i:02}.py").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "tiny", "--layers", "1,3", "--corpus", str(corpus), "--out", str(folder), *TRAIN])
    return folder


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The run with its replication over two draws."""
    folder = tmp_path_factory.mktemp("replicated") / "run"
    shutil.copytree(trained, folder)
    made = replicate(options(folder))
    assert made.new
    return folder


def options(folder, **given) -> settings.Replicate:
    return settings.Replicate(**{"run": folder, "draws": 2, "quiet": True, **given})


def files(run) -> dict[str, bytes]:
    """All that the command writes."""
    names = [RECORD, *(f"{site}/{name}" for site in SITES for name in (REPLICATION, FILE, "README.md"))]
    return {name: (run / name).read_bytes() for name in names}


def printed(capsys, *arguments) -> str:
    capsys.readouterr()
    main(list(arguments))
    return capsys.readouterr().out


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    output, error = capsys.readouterr()
    assert (stop.value.code, output, error.count("\n")) == (2, "", 1)
    return error


def stream(corpus) -> tuple[dict[Site, torch.Tensor], Labels]:
    """What training read: activations of each site, and the labels."""
    model, documents = LanguageModel.load("tiny"), open_corpus(str(corpus)).split("train").shuffled(3)
    batches = list(ModelSource(model, documents, SITES, window=48, batch_size=4, tokens=TOKENS))
    found = {site: torch.cat([batch[site].activations for batch in batches]) for site in SITES}
    return found, Labels.concatenate([batch[SITES[0]].labels for batch in batches])


def slow(x: torch.Tensor, labels: Labels, whole: itda.ITDA, draws: int) -> Replication:
    """The replication by a plain loop over draws, atoms and tokens, with cosines in float64."""
    names = list(dict.fromkeys(labels.document.tolist()))
    counts = np.array([(labels.document == name).sum() for name in names])
    columns, halves_found, kept, tokens, chance = [], [], np.zeros(len(whole)), np.zeros(len(whole)), [0, 0]
    for draw in range(draws):
        chosen = half_of(names, counts, seed=0, draw=draw)
        in_first = np.isin(labels.document, [name for name, own in zip(names, chosen, strict=True) if own])
        halves = []
        for mask in (in_first, ~in_first):
            trainer = Trainer(
                x.shape[1],
                tokens=int(mask.sum()),
                k=K,
                atoms=ATOMS,
                pursuit="mp_refit",
                offset_tokens=200,
                passes=1,
                min_fidelity=0.9,
                massive="skip",
            )
            trainer.offer(itda.ActivationBatch(x[mask], labels[mask]))
            halves.append(trainer.finish())
        first_documents = set(labels.document[in_first].tolist())

        def other(document: str, halves=halves, first_documents=first_documents) -> itda.ITDA:
            return halves[1] if document in first_documents else halves[0]

        def nearest(vector: torch.Tensor, dictionary: itda.ITDA) -> float:
            return float((dictionary.atoms.double() @ vector.double()).abs().max())

        columns.append([nearest(whole.atoms[i], other(whole.labels[i].document)) for i in range(len(whole))])
        ordinary = ~whole.is_massive(x)
        for row in ordinary.nonzero()[:, 0].tolist():
            dictionary = other(labels.document[row])
            own, theirs = ((d, d.encode(x[row : row + 1])) for d in (whole, dictionary))
            mine, there = (d.atoms[int(c.indices[0, c.coefficients[0].abs().argmax()])] for d, c in (own, theirs))
            atom = int(own[1].indices[0, own[1].coefficients[0].abs().argmax()])
            tokens[atom] += 1
            kept[atom] += abs(float(mine.double() @ there.double())) >= 0.8
            z = x[row].double() - whole.offset.double()
            chance[0] += nearest(z / z.norm(), dictionary) >= 0.8
            chance[1] += 1
        both = [nearest(atom, b) for a, b in (halves, halves[::-1]) for atom in a.atoms]
        halves_found.append([np.mean(both), np.mean(np.array(both) >= 0.8)])
    return Replication(
        np.array(columns, np.float32).T,
        kept.astype(np.int32),
        tokens.astype(np.int32),
        np.array(halves_found, np.float32),
        chance[0] / chance[1],
    )


def test_it_is_what_a_plain_loop_finds(run, corpus):
    activations, labels = stream(corpus)
    for site in SITES:
        whole = open_run(run).dictionary(site)
        expected, found = slow(activations[site], labels, whole, draws=2), whole.replication
        assert found is not None
        assert np.allclose(found.cosines, expected.cosines, atol=1e-6)
        assert np.array_equal(found.share, expected.share)
        assert np.array_equal(found.kept, expected.kept)
        assert np.array_equal(found.tokens, expected.tokens)
        assert np.allclose(found.halves, expected.halves, atol=1e-6)
        assert found.chance == expected.chance
        assert 0 < found.share.mean() < 1


def test_the_nearest_activations_are_those_of_a_plain_loop(run, corpus):
    activations, labels = stream(corpus)
    for site in SITES:
        dictionary, x = open_run(run).dictionary(site), activations[site]
        assert dictionary.nearest is not None
        assert dictionary.offset is not None
        z = x.double() - dictionary.offset.double()
        cosines = (z / z.norm(dim=1, keepdim=True)) @ dictionary.atoms.double().T
        cosines[dictionary.is_massive(x)] = 0
        for atom in range(0, ATOMS, 7):
            best: dict[str, tuple[float, int]] = {}
            for row, document in enumerate(labels.document.tolist()):
                cosine = float(cosines[row, atom])
                if document != dictionary.labels[atom].document and cosine > best.get(document, (0.0, 0))[0]:
                    best[document] = cosine, row
            expected = sorted(best.values(), reverse=True)[:8]
            found = dictionary.nearest.of(atom)
            assert len(found) == 8
            assert [cosine for _, cosine in found] == pytest.approx([cosine for cosine, _ in expected], abs=1e-6)
            for label, cosine in found:
                row = labels.keys().index(label.key)
                assert cosine == pytest.approx(float(cosines[row, atom]), abs=1e-6)
                whole = labels[row]
                assert (label.token, label.token_id) == (whole.token, whole.token_id)
                assert (label.before, label.after) == (whole.before[-BEFORE:], whole.after[:AFTER])


def test_decompose_shows_the_tokens_of_the_three_nearest(run, trained, capsys):
    text = printed(capsys, "decompose", str(run), "open = line(3)", "--layer", "3", "--top", "2")
    assert "≈ the tokens nearest to it in other documents" in text
    assert all(len(line) <= 80 for line in text.split("In a browser")[0].splitlines() if str(run) not in line)
    values = json.loads(printed(capsys, "decompose", str(run), "open = line(3)", "--layer", "3", "--json"))
    nearest = open_run(run).dictionary(SITES[1]).nearest
    assert nearest is not None
    for token in values["tokens"]:
        for use in token["atoms"]:
            assert use["nearest"] == [label.token for label, _ in nearest.of(use["atom"])[:3]]
    first = values["tokens"][-1]["atoms"][0]["nearest"]
    assert "≈" + "".join(f"«{token}»" for token in first) in text
    assert "≈" not in printed(capsys, "decompose", str(trained), "open = line(3)", "--layer", "3")


def test_the_index_of_the_same_tokens_finds_the_same_nearest_activations_to_the_byte(run, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    index_run(settings.Index(run=tmp_path / "run", quiet=True))
    for site in SITES:
        assert (tmp_path / "run" / str(site) / FILE).read_bytes() == (run / str(site) / FILE).read_bytes()


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(run, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "again")
    replicate(options(tmp_path / "again"))
    assert files(tmp_path / "again") == files(run)
    assert not (tmp_path / "again" / PARTIAL).exists()
    replicate(options(tmp_path / "again", seed=1))
    again = open_run(tmp_path / "again").dictionary(SITES[0]).replication
    assert again is not None
    assert again.seed == 1
    assert not np.array_equal(again.cosines, open_run(run).dictionary(SITES[0]).replication.cosines)


class Stop(Exception):  # noqa: N818
    pass


def test_killed_it_goes_on_without_the_model_and_without_the_draws_that_are_done(run, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    read, drawn = [], []
    load, draw = LanguageModel.load, replication_draws.SiteDraws.draw

    def stopping(self, number, progress):
        if len(drawn) == 3:
            raise Stop
        drawn.append((self.site, number))
        return draw(self, number, progress)

    monkeypatch.setattr(LanguageModel, "load", lambda *a, **b: read.append(1) or load(*a, **b))
    monkeypatch.setattr(replication_draws.SiteDraws, "draw", stopping)
    with pytest.raises(Stop):
        replicate(options(tmp_path / "run"))
    assert drawn == [(SITES[0], 0), (SITES[0], 1), (SITES[1], 0)]
    assert len(read) == 1
    assert not (tmp_path / "run" / RECORD).exists()  # nothing is shown before all of it is there
    drawn.clear()
    counted = []
    replicate(options(tmp_path / "run"), lambda name, tokens: Counting(counted, tokens))
    assert drawn == [(SITES[1], 1)]
    assert len(read) == 1
    assert counted == [2 * (2 + 1) * TOKENS]
    assert files(tmp_path / "run") == files(run)


class Counting:
    """A progress bar that notes its sum at the end, which must be its total."""

    def __init__(self, counted, total):
        self.counted, self.total, self.done = counted, total, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert self.done == self.total
        self.counted.append(self.done)

    def update(self, n, /):
        self.done += n

    def set_postfix_str(self, s, /):
        pass


def test_activations_of_a_harvest_give_the_same_and_need_no_model(corpus, run, tmp_path, monkeypatch):
    common = ["--layers", "1,3", "--corpus", str(corpus), "--window", "48", "--batch-size", "4", "--seed", "3"]
    acts, folder = tmp_path / "acts", tmp_path / "run"
    main(["harvest", "tiny", *common, "--tokens", str(TOKENS), "--out", str(acts), "--quiet"])
    of_run = [each for each in TRAIN if each not in ("--window", "48", "--batch-size", "4", "--seed", "3")]
    of_run = ["--k", str(K), "--atoms", str(ATOMS), "--offset", "200", "--recipe", "1", "--refine", "1", "--quiet"]
    main(["train", "--activations", str(acts), "--out", str(folder), *of_run])
    monkeypatch.setattr(LanguageModel, "load", None)
    replicate(options(folder))
    for site in SITES:
        for name in (REPLICATION, FILE):
            assert (folder / str(site) / name).read_bytes() == (run / str(site) / name).read_bytes()
    assert (acts / "manifest.json").exists()
    # A harvest that is gone is read from the model again; here it cannot be.
    shutil.rmtree(acts)
    with pytest.raises(TypeError):
        replicate(options(folder, seed=2))


def test_there_already_it_does_nothing(run, capsys):
    before = files(run)
    text = printed(capsys, "replicate", str(run), "--draws", "2", "--quiet")
    assert "It was there already: nothing to do." in text
    assert files(run) == before


def test_the_table_names_atoms_of_both_ends_in_80_columns(run, capsys):
    text = printed(capsys, "replicate", str(run), "--draws", "2", "--quiet")
    assert all(len(line) <= 80 for line in text.splitlines() if str(run) not in line)
    found = open_run(run).dictionary(SITES[1])
    assert found.replication is not None
    values = found.replication.summary()
    row = next(line for line in text.splitlines() if line.startswith("layer_3 "))
    shown = [values[name] for name in ("mean", "in_all", "in_half", "in_none", "chance", "readout")]
    assert row.split()[1:] == ["40", *(f"{each:.1%}" for each in [*shown, values["halves"]["within"]])]
    assert text.count("come back most") == text.count("come back least") == 2
    order = found.replication.order()
    after = text[text.index("layer_3, come back most") :].splitlines()
    assert after[2].split()[:3] == [
        f"{found.replication.share[order[0]]:.2f}",
        f"{found.replication.cosines[order[0]].mean():.3f}",
        str(order[0]),
    ]


def test_info_and_the_card_say_it(run, trained, capsys):
    text = printed(capsys, "info", str(run))
    assert "Replication: 2 draws split the documents into two halves" in text
    assert "Replication" not in printed(capsys, "info", str(trained))
    values = json.loads(printed(capsys, "info", str(run), "--json"))
    found = open_run(run).dictionary(SITES[0]).replication
    assert found is not None
    assert values["dictionaries"]["layer_1"]["replication"] == found.summary()
    assert f"{found.share.mean():.0%} of the time an atom has one" in (run / "layer_1" / "README.md").read_text()


def test_json_has_every_atom(run, capsys):
    values = json.loads(printed(capsys, "replicate", str(run), "--draws", "2", "--json"))
    dictionary = open_run(run).dictionary(SITES[1])
    atoms = values["sites"]["layer_3"]["atoms"]
    assert (values["new"], values["tokens"], len(atoms)) == (False, TOKENS, ATOMS)
    assert [each["replication"] for each in atoms] == dictionary.replication.share.tolist()
    assert [each["token"] for each in atoms] == [label.token for label in dictionary.labels]
    assert {each["replicates"] for each in atoms} == {each["replication"] >= 0.5 for each in atoms}


def test_from_python_it_is_the_same(run):
    found = itda.replicate(run, draws=2, progress=False)
    assert found[3].share.tolist() == open_run(run)["layer_3"].replication.share.tolist()
    table = found.to_pandas()
    assert len(table) == 2 * ATOMS
    assert table.query("site == 'layer_3'")["replication"].tolist() == found["layer_3"].share.tolist()
    assert "come back most" in repr(found)
    assert html.unescape(found._repr_html_()) == f"<pre>{found!r}</pre>"  # its lines stay lines
    with pytest.raises(itda.ItdaError, match="no layer 2: use one of 1, 3"):
        found[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draws", "0"], "--draws is 0: it must be at least 1"),
        (["--cosine", "0"], "it must be above 0 and at most 1"),
        (["--cosine", "1.5"], "it must be above 0 and at most 1"),
        (["--cosine", "nan"], "'nan' is not a number"),
        (["--batch-size", "-1"], "at least 1, or 0"),
        (["--remote", "--stream"], "leave out --stream, --workers and --ray"),
        (["--model-path", "./nowhere"], "check --model-path"),
        (["--corpus-path", "./nowhere"], "no file or folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(trained, capsys, arguments, message):
    assert message in refused(capsys, "replicate", str(trained), "--quiet", *arguments)
    assert not (trained / RECORD).exists()
    assert not list(trained.glob("*/" + REPLICATION))
    assert not (trained / PARTIAL).exists()


def test_what_has_no_dictionary_or_no_halves_is_one_line(corpus, tmp_path, capsys):
    assert "no run folder" in refused(capsys, "replicate", str(tmp_path / "nowhere"))
    (tmp_path / "one.txt").write_text("import os\n" * 300)
    common = ["--layers", "1", "--k", "2", "--atoms", "10", "--tokens", "400", "--quiet"]
    main(["train", "tiny", "--corpus", str(tmp_path / "one.txt"), "--out", str(tmp_path / "one"), *common])
    assert "read one document, which cannot be split" in refused(capsys, "replicate", str(tmp_path / "one"), "--quiet")
    reference = ["--mode", "reference", "--threshold", "0.01", "--tokens", "400", "--layers", "1", "--k", "2"]
    main(["train", "tiny", "--corpus", str(corpus), "--out", str(tmp_path / "reference"), *reference, "--quiet"])
    assert "mode reference goes through a model" in refused(capsys, "replicate", str(tmp_path / "reference"))
    many = ["--layers", "1", "--k", "2", "--atoms", "600", "--tokens", "1000", "--quiet", "--offset", "0"]
    main(["train", "tiny", "--corpus", str(corpus), "--out", str(tmp_path / "many"), *many])
    error = refused(capsys, "replicate", str(tmp_path / "many"), "--quiet")
    assert "half of the documents of" in error
    assert "fewer than its 600 atoms: train it on more" in error
    assert not list(tmp_path.glob("*/" + PARTIAL))


def test_a_changed_corpus_is_refused(trained, corpus, tmp_path, capsys):
    folder, texts = tmp_path / "run", tmp_path / "corpus"
    shutil.copytree(trained, folder)
    shutil.copytree(corpus, texts)
    (texts / "00.py").write_text("changed")
    error = refused(capsys, "replicate", str(folder), "--corpus-path", str(texts), "--quiet")
    assert "has changed since the run was made" in error
