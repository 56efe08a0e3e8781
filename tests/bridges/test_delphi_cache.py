"""Delphi's cache against plain loops; bridges_tests/delphi has its own loader read it."""

import itertools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from itda.bridges import delphi

DRESSING = delphi.Dressing(prefix=[4998], filler=4999)


@pytest.fixture(scope="module", params=[False, True], ids=["positive", "both_signs"])
def cache(request, sources, tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("delphi"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delphi, "LEAST_WINDOWS", 12)
        delphi.export(sources, folder, DRESSING, "a/model", lambda _: None, said.append, both_signs=request.param)
    return folder, request.param, said


def shards(folder):
    found = [(*map(int, file.stem.split("_")), load_file(file)) for file in folder.glob("*.safetensors")]
    return sorted(found, key=lambda each: each[0])


def test_latents_have_the_uses_of_their_atoms_where_the_contexts_have_the_tokens(cache, sources):
    folder, both, _ = cache
    for source in sources:
        index, ids = source.index, source.index.text.token_id
        expected = {}
        for atom in range(index.atoms):
            for token, value in zip(*map(np.ndarray.tolist, index.uses(atom)), strict=True):
                if value > 1e-5 or (both and value < -1e-5):
                    latent = atom + (index.atoms if value < 0 else 0)
                    expected.setdefault(latent, []).append((token, float(np.float16(abs(value)))))
        found, last = {}, -1
        for first, end, arrays in shards(folder / "latents" / delphi.module_of(source.site)):
            assert first == last + 1
            last = end
            assert arrays["locations"].dtype == np.uint16
            assert arrays["activations"].dtype == np.float16
            assert arrays["tokens"].shape[1] == 256
            order = arrays["locations"][:, [2, 0, 1]].tolist()
            assert order == sorted(order)
            for (context, place, latent), value in zip(
                arrays["locations"].tolist(), arrays["activations"].tolist(), strict=True
            ):
                found.setdefault(first + latent, []).append((arrays["tokens"][context, place], value))
        assert last == index.atoms * (1 + both) - 1
        assert {k: [(ids[t], v) for t, v in sorted(own)] for k, own in expected.items()} == found


def test_each_window_begins_an_example_and_is_whole(cache, sources):
    for source in sources:
        tokens = shards(cache[0] / "latents" / delphi.module_of(source.site))[0][2]["tokens"].reshape(-1)
        starts, place = source.index.text.window_starts, 0
        for first, last in itertools.pairwise(starts):
            assert place % 32 == 0
            own = [4998, *source.index.text.token_id[first:last].tolist()]
            assert tokens[place : place + len(own)].tolist() == own
            end = place + -(-len(own) // 32) * 32
            assert (tokens[place + len(own) : end] == 4999).all()
            place = end
        assert (tokens[place:] == 4999).all()


def test_the_latents_that_delphi_will_drop_are_told_and_listed(cache, sources):
    folder, both, said = cache
    about = json.loads((folder / "delphi.json").read_text())
    assert about["signs"] == ("both" if both else "positive")
    for source, line in zip(sources, said, strict=True):
        name = delphi.module_of(source.site)
        examples = {latent: set() for latent in range(source.index.atoms * (1 + both))}
        for first, _, arrays in shards(folder / "latents" / name):
            for context, place, latent in arrays["locations"].tolist():
                examples[first + latent].add(context * 8 + place // 32)
        dropped = [latent for latent, own in examples.items() if len(own) < 12]
        assert about["dropped"][name] == dropped
        assert 0 < len(dropped) < len(examples)
        assert f"Delphi drops {len(dropped)} of {len(examples)} latents of {name}" in line
        assert "\n" not in line


def test_the_config_says_where_the_tokenizer_is(cache):
    config = json.loads((cache[0] / "latents" / "layers.3.mlp" / "config.json").read_text())
    assert (config["model_name"], config["cache_ctx_len"], config["dataset_repo"]) == ("a/model", 256, "words")


def test_coefficients_beyond_float16_are_written_in_float32(sources, tmp_path, monkeypatch):
    index = sources[0].index
    starts, tokens, values = index.uses_between(0, index.atoms)
    monkeypatch.setattr(
        type(index),
        "uses_between",
        lambda _s, a, b: (
            starts[a : b + 1] - starts[a],
            tokens[starts[a] : starts[b]],
            1e5 * values[starts[a] : starts[b]],
        ),
    )
    delphi.export(sources[:1], tmp_path, DRESSING, "m", lambda _: None, lambda _: None)
    arrays = shards(tmp_path / "latents" / "layers.1")[0][2]
    assert arrays["activations"].dtype == np.float32
    assert np.isfinite(arrays["activations"]).all()
