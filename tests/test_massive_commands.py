"""Each command on a model with sinks: they are found, said, and kept apart from everything that is said of the rest."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sinks import WORD, save, sink_model, texts, word_id

from itda import ITDA, ActivationBatch, Labels, Site, Trainer, recipes
from itda import config as settings
from itda.cli import main
from itda.core.massive import norms
from itda.explorer.code_index import CodeIndex
from itda.explorer.pages import Explorer
from itda.recipes.decompose import decompose_text, top_uses
from itda.recipes.explore import explorer_of
from itda.sources.corpora.corpus import open_corpus
from itda.sources.source import ModelSource

SITES = (Site(0), Site(1))
TEXT = f"path of self{WORD} and name"
READ = ["--layers", "0,1", "--window", "24", "--batch-size", "4", "--tokens", "1800", "--order", "corpus", "--quiet"]
MAKE = ["--k", "4", "--threshold", "0.3", "--offset", "4096", "--refine", "2", "--min-fidelity", "0.5"]
MAKE += ["--pursuit", "mp_refit"]
TRAIN = [*READ, *MAKE]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save(tmp_path_factory.mktemp("model") / "sinks"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i, text in enumerate(texts(30)):
        (folder / f"{i:02}.txt").write_text(text)
    return str(folder)


@pytest.fixture(scope="module")
def run(model, corpus, tmp_path_factory):
    """Trained, evaluated and indexed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["train", model, "--corpus", corpus, "--out", str(folder), *TRAIN])
    main(["evaluate", str(folder), "--quiet"])
    main(["index", str(folder), "--quiet"])
    return folder


@pytest.fixture(scope="module")
def stream(corpus):
    """What training read: activations of each site, labels, and which were planted as sinks."""
    source = ModelSource(sink_model(), open_corpus(corpus).split("train"), SITES, window=24, batch_size=4, tokens=1800)
    batches = list(source)
    names = Labels.concatenate([batch[SITES[0]].labels for batch in batches])
    planted = torch.from_numpy(names.first | (names.token_id == word_id(sink_model().tokenizer)))
    return {site: torch.cat([b[site].activations for b in batches]) for site in SITES}, names, planted


def printed(capsys, *arguments):
    capsys.readouterr()
    main(list(arguments))
    return capsys.readouterr().out


@pytest.mark.parametrize("site", SITES, ids=str)
def test_train_makes_the_dictionary_of_the_stream_without_them(run, stream, site):
    activations, names, planted = stream
    x = activations[site][~planted]
    trainer = Trainer(
        x.shape[1],
        tokens=1800,
        k=4,
        threshold=0.3,
        pursuit="mp_refit",
        offset_tokens=4096,
        passes=2,
        min_fidelity=0.5,
        massive="skip",
    )
    trainer.offer(ActivationBatch(x, names[~planted]))
    expected, found = trainer.finish(), ITDA.from_pretrained(run / str(site))
    assert found.labels.keys() == expected.labels.keys()
    assert torch.equal(found.atoms, expected.atoms)
    torch.testing.assert_close(found.offset.double(), x.double().mean(dim=0), rtol=6.1e-8, atol=1e-7)
    assert found.is_massive(activations[site]).tolist() == planted.tolist()


def test_they_can_be_atoms_and_the_rule_can_be_off(run, model, corpus, stream, tmp_path):
    _, names, planted = stream
    keys = {key for key, sink in zip(names.keys(), planted.tolist(), strict=True) if sink}
    for use in ("atoms", "off"):
        main(["train", model, "--corpus", corpus, "--out", str(tmp_path / use), *TRAIN, "--massive", use])
        found = ITDA.from_pretrained(tmp_path / use / "layer_1")
        assert keys & set(found.labels.keys())
        assert (found.massive_norm is None) == (use == "off")
    assert not keys & set(ITDA.from_pretrained(run / "layer_1").labels.keys())
    record = json.loads((tmp_path / "off" / "run.json").read_text())
    assert record["massive"] == {}
    assert record["settings"]["massive"] == "off"


def test_mode_reference_has_no_such_rule(model, corpus, tmp_path, capsys):
    command = ["train", model, "--corpus", corpus, "--layers", "1", "--window", "24", "--quiet", "--tokens", "600"]
    command += ["--k", "4", "--mode", "reference"]
    main([*command, "--threshold", "0.01", "--out", str(tmp_path / "r")])
    assert ITDA.from_pretrained(tmp_path / "r" / "layer_1").massive_norm is None
    with pytest.raises(SystemExit):
        main([*command, "--massive", "skip", "--out", str(tmp_path / "s")])
    assert "mode reference has no --massive skip: leave it out" in capsys.readouterr().err


def test_training_from_a_harvest_is_the_same(run, model, corpus, tmp_path):
    shards = str(tmp_path / "shards")
    main(["harvest", model, "--corpus", corpus, "--out", shards, *READ])
    main(["train", "--activations", shards, "--out", str(tmp_path / "again"), "--quiet", *MAKE])
    for site in SITES:
        a, b = (ITDA.from_pretrained(folder / str(site)) for folder in (run, tmp_path / "again"))
        assert torch.equal(a.atoms, b.atoms)
        assert (a.massive_norm, a.provenance["massive"]) == (b.massive_norm, b.provenance["massive"])


def test_info_says_what_was_found(run, stream, capsys):
    activations, names, planted = stream
    text = printed(capsys, "info", str(run))
    number, windows = int(planted.sum()), int(names.first.sum())
    assert f"{number:,} of 1,800" in text
    assert f"{windows:,} of {windows:,}" in text
    values = json.loads(printed(capsys, "info", str(run), "--json"))["dictionaries"]
    for site in SITES:
        found = values[str(site)]["massive"]
        square = activations[site].double().square().sum(dim=1)
        assert (found["tokens"], found["first"], found["seen"]) == (number, windows, 1800)
        assert found["energy"] == pytest.approx((square[planted].sum() / square.sum()).item(), rel=1e-9)
    card = (run / "layer_1" / "README.md").read_text()
    assert f"as had {number} of 1,800 tokens of training, are massive" in " ".join(card.split())


def test_evaluate_keeps_them_apart_in_all_that_it_writes(run, capsys):
    metrics = json.loads((run / "layer_1" / "metrics.json").read_text())
    assert metrics["massive"] == "clean"
    assert 0 < metrics["massive_tokens"] < metrics["tokens"] / 5
    assert metrics["massive_energy"] > 0.99
    assert metrics["fvu_all"] > 2 * metrics["fvu"], "the sinks have no atom"
    text = printed(capsys, "evaluate", str(run), "--quiet", "--massive", "splice")
    assert "they are replaced too (--massive splice)" in " ".join(text.split())
    spliced = json.loads((run / "layer_1" / "metrics.json").read_text())
    assert spliced["massive"] == "splice"
    assert spliced["fvu"] == metrics["fvu"]
    main(["evaluate", str(run), "--quiet"])


@pytest.mark.parametrize("readout", ["code", "levels", "similarity"])
def test_decompose_marks_them_and_says_of_none_that_it_is_explained(run, capsys, readout):
    command = ["decompose", str(run), TEXT, "--layer", "1", "--readout", readout, "--quiet"]
    tokens = json.loads(printed(capsys, *command, "--json"))["tokens"]
    marked = [place for place, token in enumerate(tokens) if token["massive"] is not None]
    last = [token["label"]["token"] for token in tokens].index("k")
    assert marked == [0, last]
    assert [place for place, token in enumerate(tokens) if token["explained"] is None] == marked
    assert all(token["massive"] > 10 for token in tokens if token["massive"] is not None)
    lines = printed(capsys, *command).splitlines()
    heads = [line for line in lines if re.search(r"explained +\S+%$|massive, +\S+x$", line)]
    assert [place for place, line in enumerate(heads) if "massive" in line] == marked
    assert "how many times the median the norm is" in "\n".join(lines)


def test_a_notebook_marks_them_and_leaves_them_out_of_the_average(run):
    dictionary = ITDA.from_pretrained(run / "layer_1")
    found = decompose_text(sink_model(), dictionary, Site(1), TEXT, 24)
    html, rest = found._repr_html_(), [token.explained for token in found if token.explained is not None]
    assert f"{sum(rest) / len(rest):.1%} explained on average; 2 massive, left out of this" in html
    assert f"massive, its norm {found[0].massive:,.0f} times the median" in html
    assert "explain " not in found[0]._repr_html_()
    assert "all of them massive" in found[:1]._repr_html_()


def test_top_uses_pass_them_over(run, stream, corpus):
    activations, names, planted = stream
    dictionary = ITDA.from_pretrained(run / "layer_1")

    class Source:
        sites = (Site(1),)

        def __iter__(self):
            yield {Site(1): ActivationBatch(activations[Site(1)], names)}

    sinks = {key for key, sink in zip(names.keys(), planted.tolist(), strict=True) if sink}
    for uses in top_uses(Source(), dictionary, Site(1), list(range(len(dictionary))), 5):
        assert not {use.label.key for use in uses} & sinks


def test_the_index_marks_them_and_they_use_no_atom(run, stream, capsys):
    activations, _, planted = stream
    for site in SITES:
        index, dictionary = CodeIndex.open(run, site), ITDA.from_pretrained(run / str(site))
        x = activations[site]
        code, error = dictionary.decompose(x)
        assert index.massive.tolist() == planted.nonzero()[:, 0].tolist()
        assert index.ordinary == 1800 - int(planted.sum())
        expected = norms(x)[planted] / (dictionary.massive_norm / 10)
        assert list(index.medians(0, 1800).values()) == pytest.approx(expected.tolist(), rel=1e-6)
        # By token the codes are all there; by atom those of the others alone.
        starts, _, _ = index.codes_between(0, 1800)
        assert np.diff(starts).tolist() == code.count.tolist()
        sinks = set(index.massive.tolist())
        assert all(not sinks & set(index.uses(atom)[0].tolist()) for atom in range(index.atoms))
        assert int(index.counts.sum()) == int(code.count[~planted].sum())
        np.testing.assert_array_equal(index.ordinary_errors(), error[~planted].float().numpy())
    summary = json.loads(printed(capsys, "index", str(run), "--quiet", "--json"))["sites"]["layer_1"]
    assert summary["massive"] == int(planted.sum())
    assert summary["explained"] == pytest.approx(1 - error[~planted].mean().item(), abs=1e-6)
    assert "massive, left out" in printed(capsys, "index", str(run), "--quiet")


def test_an_index_from_before_there_was_the_rule_still_opens(model, corpus, tmp_path):
    folder = tmp_path / "run"
    main(["train", model, "--corpus", corpus, "--out", str(folder), *TRAIN, "--massive", "off"])
    main(["index", str(folder), "--quiet"])
    path = folder / "index" / "layer_1.safetensors"
    tensors = load_file(path)
    assert len(tensors.pop("massive")) == len(tensors.pop("massive_medians")) == 0
    save_file(tensors, path, {"format": "itda-index"})
    index = CodeIndex.open(folder, Site(1))
    assert (index.massive.tolist(), index.ordinary, index.medians(0, 1800)) == ([], 1800, {})
    assert len(index.ordinary_errors()) == 1800


@pytest.fixture(scope="module")
def explorer(run) -> Explorer:
    return explorer_of(settings.Explore(runs=(run,), batch_size=1))


def test_the_explorer_marks_them_in_prompts_and_in_windows(run, explorer):
    asked = {"run": run.name, "site": "layer_1"}
    prompt = explorer.answer("decompose", {**asked, "text": TEXT})
    place = str(prompt["tokens"].index("k"))
    assert list(prompt["massive"]) == ["0", place]
    window = explorer.answer("window", {**asked, "token": "30"})
    assert "0" in window["massive"]
    for found in (prompt, window):
        assert {str(i) for i, share in enumerate(found["explained"]) if share is None} == set(found["massive"])
        assert all(norm > 10 for norm in found["massive"].values())


def test_the_explorers_atoms_and_histograms_are_of_the_others(run, explorer, stream):
    _, _, planted = stream
    asked = {"run": run.name, "site": "layer_1"}
    sinks = set(planted.nonzero()[:, 0].tolist())
    for atom in range(explorer.answer("atoms", asked)["atoms"]):
        uses = explorer.answer("atom", {**asked, "atom": str(atom)})["uses"]
        examples = [one for group in uses["groups"] for one in group["examples"]]
        assert not sinks & {one["token"] for one in examples}
        for one in examples:
            start = one["token"] - one["at"]
            assert not sinks & {start + place for place, _ in one["weights"]}
    site = explorer.answer("overview", {"run": run.name})["sites"][1]
    assert site["use"]["massive"] == len(sinks)
    assert sum(site["use"]["explained"]["counts"]) == 1800 - len(sinks)
    assert site["massive"]["tokens"] == len(sinks)
    assert site["metrics"]["massive_tokens"] > 0


def test_an_exported_page_carries_the_marks(run, tmp_path):
    target = tmp_path / "page.html"
    main(["explore", str(run), "--export", str(target), "--prompts", TEXT, "--layer", "1", "--top", "5", "--quiet"])
    data = json.loads(re.search(r'id="data">(.*?)</script>', target.read_text(), re.DOTALL)[1])
    prompts = [value for key, value in data.get("answers", data).items() if "decompose" in key]
    assert len(prompts) > 1  # by each readout that the dictionary has
    for prompt in prompts:
        assert prompt["explained"][0] is None
        assert prompt["massive"]["0"] > 10


def test_probe_leaves_them_out(model, corpus, tmp_path, monkeypatch, run):
    from itda.recipes import probe as probe_module

    folder = tmp_path / "python"
    folder.mkdir()
    for i, text in enumerate(texts(8)):
        lines = [f"def f_{i}_{j}(path):\n    return path  # {part}{WORD}\n" for j, part in enumerate(text.split()[:6])]
        (folder / f"{i}.py").write_text("\n\n".join(lines))
    given, said = [], []

    def record(features, classes, documents, *, latent_counts):
        given.append((features, len(classes), len(documents)))
        return []

    monkeypatch.setattr(probe_module, "probe", record)
    probe_module.probe_run(settings.Probe(run=run, corpus=str(folder), tokens=1_000, quiet=True), say=said.append)
    [line] = [line for line in said if "massive" in line]
    number, total = (int(text.replace(",", "")) for text in re.match(r"(\S+) of (\S+) tokens", line).groups())
    assert 0 < number < total <= 1000
    neurons = [features for features, _, _ in given if isinstance(features, torch.Tensor)][1::2]
    assert len(neurons) == len(SITES)
    for site, x in zip(SITES, neurons, strict=True):
        assert len(x) == total - number
        assert not ITDA.from_pretrained(run / str(site)).is_massive(x).any()
    assert all(rows == documents == total - number for _, rows, documents in given)


def test_compare_says_where_the_rules_differ(run, model, corpus, tmp_path, capsys):
    main(["train", model, "--corpus", corpus, "--out", str(tmp_path / "off"), *TRAIN, "--massive", "off"])
    assert "massive: skip and off" in " ".join(printed(capsys, "compare", str(run), str(tmp_path / "off")).split())
    path = tmp_path / "off" / "run.json"
    record = json.loads(path.read_text())
    del record["settings"]["massive"], record["massive"]
    path.write_text(json.dumps(record))
    assert "massive: skip and off" in " ".join(printed(capsys, "compare", str(run), str(tmp_path / "off")).split())
    assert printed(capsys, "info", str(tmp_path / "off")).count("massive") == 0


def test_an_interrupted_run_counts_each_of_them_once(model, corpus, run, tmp_path, monkeypatch):
    from itda.recipes.trainers import LocalTrainers

    folder, offered = tmp_path / "run", []
    offer = LocalTrainers.offer

    def stop_in_the_middle(self, batches):
        offer(self, batches)
        offered.append(len(next(iter(batches.values()))))
        if sum(offered) > 900:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalTrainers, "offer", stop_in_the_middle)
        command = ["train", model, "--corpus", corpus, "--out", str(folder), *TRAIN, "--checkpoint-every", "0"]
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            main(command)
    main(["train", "--resume", str(folder), "--quiet"])
    for site in SITES:
        a, b = (ITDA.from_pretrained(each / str(site)) for each in (run, folder))
        assert torch.equal(a.atoms, b.atoms)
        assert a.provenance["massive"] == b.provenance["massive"]
    assert recipes.open_run(folder).record["massive"] == recipes.open_run(run).record["massive"]
