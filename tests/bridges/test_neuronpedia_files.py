"""Neuronpedia's files: each field of its tables has the right type, and the values that the index has."""

import gzip
import json
import re

import numpy as np
import pytest
from bridges.neuronpedia_tables import TABLES

from itda import Site
from itda.bridges import examples, neuronpedia
from itda.bridges.indexed import Indexed
from itda.explorer.atoms import BANDS
from itda.store.records import open_record


@pytest.fixture(scope="module")
def written(run, sources, tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("neuronpedia"), []
    places = neuronpedia.places(open_record(run), [source.site for source in sources], "gpt2-small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neuronpedia, "FILE_ATOMS", 10)
        patch.setattr(neuronpedia, "BATCH", 4)
        neuronpedia.export(sources, folder, places, lambda _: None, said.append)
    return folder, places, said


def rows_of(folder, place, kind):
    files = sorted((folder / place.model / place.source / kind).iterdir())
    assert [file.name for file in files] == [f"batch-{i}.jsonl.gz" for i in range(3)]
    return [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).split(b"\n")[:-1]]


def test_places_are_a_set_for_each_stream_and_a_source_for_each_layer(written):
    _, places, _ = written
    assert [place.source for place in places] == ["1-itda-res-24", "3-itda-mlp-24"]
    assert [place.hook for place in places] == ["blocks.1.hook_resid_post", "blocks.3.hook_mlp_out"]


@pytest.mark.parametrize("kind", ["features", "activations", "explanations"])
def test_rows_have_the_columns_and_types_of_the_tables(written, kind):
    folder, places, _ = written
    for place in places:
        for row in rows_of(folder, place, kind):
            TABLES[kind].check(row)
            assert (row["modelId"], row["layer"]) == ("gpt2-small", place.source)


@pytest.mark.parametrize("kind", ["release", "model", "sourceset", "source"])
def test_the_four_records_have_the_columns_and_types_of_the_tables(written, kind):
    folder, places, _ = written
    for place in places:
        lines = (folder / place.model / place.source / f"{kind}.jsonl").read_text().splitlines()
        assert len(lines) == 1
        TABLES[kind].check(json.loads(lines[0]))


def test_features_have_the_positive_uses_of_each_atom_and_its_vector(written, sources):
    folder, places, said = written
    for source, place, line in zip(sources, places, said, strict=True):
        rows = rows_of(folder, place, "features")
        assert [row["index"] for row in rows] == [str(i) for i in range(24)]
        unused = 0
        for atom, row in enumerate(rows):
            positive = source.index.uses(atom)[1]
            positive = positive[positive > 0]
            unused += not len(positive)
            assert row["frac_nonzero"] == len(positive) / source.index.ordinary
            assert row["maxActApprox"] == pytest.approx(max(positive, default=0))
            assert row["vector"] == pytest.approx(source.dictionary.atoms[atom].tolist())
            assert sum(row["freq_hist_data_bar_heights"]) == len(positive)
            if len(positive):
                heights, _ = np.histogram(positive.astype(np.float64), 40, (0, float(positive[0])))
                assert np.abs(heights - row["freq_hist_data_bar_heights"]).sum() <= 2  # one on an edge
        assert f"{unused} of 24 atoms of {place.source} have no example" in line


def test_activations_are_uses_with_the_tokens_around_them(written, sources):
    folder, places, _ = written
    for source, place in zip(sources, places, strict=True):
        index, rows = source.index, rows_of(folder, place, "activations")
        assert len({row["id"] for row in rows}) == len(rows) > 100
        for row in rows:
            token = int(row["id"][-9:], 16)
            atom, at = int(row["index"]), row["qualifyingTokenIndex"]
            first, last = index.text.window(token)
            around = range(max(first, token - 22), min(last, token + 13))
            assert around[at] == token
            assert len(row["tokens"]) == len(row["values"]) == len(around)
            expected = [dict(zip(*map(np.ndarray.tolist, index.codes(t)), strict=True)).get(atom, 0) for t in around]
            expected = [0 if t in index.medians(t, t + 1) else max(0, v) for t, v in zip(around, expected, strict=True)]
            assert row["values"] == pytest.approx(expected)
            assert row["maxValue"] == max(row["values"]) > 0
            assert row["maxValueTokenIndex"] == row["values"].index(row["maxValue"])
            assert row["minValue"] == min(row["values"])
            strings = index.text.token_strings(around.start, around.stop)
            for t, shown, own in zip(around, row["tokens"], strings, strict=True):
                partial = index.text.partial(t)
                assert shown == (f"<{partial}>" if partial else own.replace("\0", "␀") or "∅")


def test_examples_are_the_largest_uses_then_some_of_each_band_no_two_alike(sources):
    index = sources[0].index
    for atom in range(index.atoms):
        found = examples.Chooser(index).of([atom])
        tokens, values = index.uses(atom)
        value = dict(zip(tokens.tolist(), values.tolist(), strict=True))
        own = [value[token] for token in found.token.tolist()]
        assert all(each > 0 for each in own)
        assert len({index.text.window(token) for token in found.token.tolist()}) == len(found.token)
        top = found.band == examples.NO_BAND
        assert own[: top.sum()] == sorted(own[: top.sum()], reverse=True)
        if len(own):
            assert own[0] == values[0]
        assert top.sum() <= 10
        for low, high, each, band in zip(found.low, found.high, own, found.band, strict=True):
            assert low <= np.float32(each) <= high
            assert band < len(BANDS)


def test_places_of_a_set_that_a_user_names(run):
    found = neuronpedia.places(open_record(run), [Site(1)], "m", "my-set")
    assert [place.source for place in found] == ["1-my-set"]


def test_explanations_are_short_and_mark_the_token(written, sources):
    folder, places, _ = written
    for row in rows_of(folder, places[0], "explanations"):
        label = sources[0].dictionary.labels[int(row["index"])]
        assert f"«{label.token}»".replace("\0", "␀") in row["description"]
        assert 0 < len(row["description"]) <= 512


def test_ids_of_a_second_export_are_the_same(written, run, sources, tmp_path):
    folder, places, _ = written
    neuronpedia.export(sources, tmp_path, places, lambda _: None, lambda _: None)
    own = gzip.decompress((tmp_path / "gpt2-small/1-itda-res-24/activations/batch-0.jsonl.gz").read_bytes())
    ids = re.findall(rb'"id":"(\w+)"', own)
    assert [each.decode() for each in ids] == [row["id"] for row in rows_of(folder, places[0], "activations")]


def test_an_index_without_partial_tokens_or_labels_of_windows(bare):
    record = open_record(bare)
    source = Indexed.open(record, Site(2))
    features = neuronpedia.FeatureReader(source).read(0, 24)
    assert sum(len(features.rows(atom)) for atom in range(24)) == len(features.examples.atom)
