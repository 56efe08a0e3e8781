"""The stream of labelled activations, and the loading of models."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import transformers
from sources.models.families import COMMON, LAYERS, WIDTH, build, byte_tokenizer, shared
from transformers import ByT5Tokenizer

from itda.core.batch import Site
from itda.core.labels import Labels
from itda.errors import ModelError, SettingError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

TEXTS = ["the cat sat", "naïve 🙂 日本", "a<bos>dog<pad>b", "", "the cat sat on the mat and ran " * 3]
CORPUS = Corpus.from_texts(TEXTS)
SITES = [Site(0), Site(1, "mlp_out"), Site(2)]


def source(name="llama", corpus=CORPUS, sites=SITES, **options):
    return ModelSource(shared(name), corpus, sites, **{"window": 12, "batch_size": 4, **options})


def read(stream):
    batches = list(stream)
    sites = list(batches[0])
    return {
        site: (torch.cat([b[site].activations for b in batches]), Labels.concatenate([b[site].labels for b in batches]))
        for site in sites
    }


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["llama", "gpt2", "modernbert", "bert"])
def test_char_offsets_slice_the_documents_text_to_the_token(name):
    documents = {document.id: document.text for document in CORPUS}
    _, labels = read(source(name))[Site(2)]
    for label in labels:
        assert documents[label.document][label.char_start : label.char_end] == label.token
        assert label.char_end > label.char_start


def test_no_padding_or_special_token_is_among_the_activations():
    _, labels = read(source())[Site(2)]
    assert set(labels.token_id.tolist()).isdisjoint(shared("llama").tokenizer.all_special_ids)
    tokens = sum(len(shared("llama").tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS)
    assert len(labels) == tokens - 2  # but for <bos> and <pad>, which the third text has in it


def test_special_tokens_written_in_a_text_are_skipped():
    _, labels = read(source(corpus=Corpus.from_texts(["a<bos>dog<pad>b"])))[Site(2)]
    assert [label.token for label in labels] == ["a", "d", "o", "g", "b"]


def test_labels_are_in_corpus_order():
    _, labels = read(source())[Site(0)]
    keys = [(int(label.document[5:]), label.position) for label in labels]
    assert all(a < b for a, b in pairwise(keys))


def test_the_first_activation_is_the_models_own_hidden_state():
    model = shared("llama")
    activations, _ = read(source(corpus=Corpus.from_texts(["the cat"]), batch_size=1))[Site(0)]
    ids = torch.tensor([model.tokenizer("the cat")["input_ids"]])
    with torch.inference_mode():
        own = model.model(ids, output_hidden_states=True).hidden_states[1][0, 1:]
    torch.testing.assert_close(activations, own)


def test_all_sites_have_the_same_labels_and_one_row_each():
    for batch in source():
        assert list(batch) == SITES
        assert len({tuple(x.labels.keys()) for x in batch.values()}) == 1
        assert all(x.activations.shape == (len(x.labels), WIDTH) for x in batch.values())


@pytest.mark.parametrize("tokens", [1, 2, 17, 40, 41])
def test_tokens_is_the_exact_number_of_activations_and_a_prefix_of_the_stream(tokens):
    limited, all_labels = read(source(tokens=tokens)), read(source())[Site(2)]
    activations, labels = limited[Site(2)]
    assert len(activations) == tokens
    assert labels.keys() == all_labels[1].keys()[:tokens]
    assert torch.equal(activations, all_labels[0][:tokens])


def test_more_tokens_than_there_are_is_the_whole_stream():
    assert read(source(tokens=10**6))[Site(0)][1].keys() == read(source())[Site(0)][1].keys()


def test_the_tokens_limit_stops_the_reading_of_the_corpus():
    def endless():
        i = 0
        while True:
            yield from Corpus.from_texts(["the cat sat on the mat"], name=f"d{i}")
            i += 1

    assert len(read(source(corpus=Corpus("endless", endless), tokens=50))[Site(0)][1]) == 50


@pytest.mark.parametrize("name", ["llama", "gemma-3", "falcon", "modernbert"])
def test_iterating_twice_gives_the_same_bits(name):
    stream = source(name)
    first, second = read(stream), read(stream)
    assert all(torch.equal(first[site][0], second[site][0]) for site in SITES)
    assert first[Site(0)][1].keys() == second[Site(0)][1].keys()


def test_activations_do_not_depend_on_which_other_sites_are_read_to_the_bit():
    assert torch.equal(read(source(sites=[Site(2)]))[Site(2)][0], read(source())[Site(2)][0])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma-2", "falcon-serial", "modernbert"])
def test_batch_sizes_one_and_four_give_the_same_labels_and_close_activations(name):
    one, four = read(source(name, batch_size=1)), read(source(name, batch_size=4))
    for site in SITES:
        assert one[site][1].keys() == four[site][1].keys()
        torch.testing.assert_close(one[site][0], four[site][0], rtol=1e-4, atol=1e-4)


def test_the_model_sees_one_shape_only(monkeypatch):
    stream, shapes = source(batch_size=3), []
    handle = stream.model.model.get_input_embeddings().register_forward_hook(  # pyright: ignore[reportAttributeAccessIssue]
        lambda _module, inputs, _output: shapes.append(tuple(inputs[0].shape))
    )
    list(stream)
    handle.remove()
    assert len(shapes) > 2
    assert set(shapes) == {(3, 12)}


def test_every_position_gives_one_full_window_per_document():
    activations, labels = read(source(every_position=True))[Site(1, "mlp_out")]
    assert activations.shape == (4 * 12, WIDTH)  # the fifth text is empty
    assert len(labels) == 4 * 12
    assert [len(set(labels.document[i : i + 12])) for i in range(0, 48, 12)] == [1] * 4


def test_every_position_with_a_tokens_limit_is_exact():
    activations, labels = read(source(every_position=True, tokens=30))[Site(0)]
    assert len(activations) == len(labels) == 30


def test_an_empty_corpus_yields_nothing():
    assert list(source(corpus=Corpus.from_texts(["", ""]))) == []


@pytest.mark.parametrize("layer", [-1, LAYERS, 99])
def test_a_layer_out_of_range_raises_and_names_the_layers_there_are(layer):
    with pytest.raises(ModelError, match=f"^no layer {layer}: the model has layers 0 to 2$") as error:
        source(sites=[Site(0), Site(layer)])
    one_line(error)


@pytest.mark.parametrize("stream", ["attn_out", "mlp_out"])
def test_a_stream_that_is_not_what_a_block_adds_raises_with_a_remedy(stream):
    model = LanguageModel(build("llama"), byte_tokenizer())
    block = model.model.model.layers[0]
    plain = block.forward
    block.forward = lambda *args, **kwargs: 2 * plain(*args, **kwargs)
    match = f"no {stream} in block 0 of LlamaForCausalLM: .* what it adds to its input; use resid_post"
    with pytest.raises(ModelError, match=match) as error:
        ModelSource(model, CORPUS, [Site(0, stream)], window=8)
    one_line(error)
    ModelSource(model, CORPUS, [Site(0), Site(1, stream)], window=8)


def tiny_t5():
    config = transformers.T5Config(
        vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return LanguageModel(transformers.T5ForConditionalGeneration(config), byte_tokenizer(), "t5")


def test_a_model_with_encoder_and_decoder_raises_with_a_remedy():
    with pytest.raises(ModelError, match="use a decoder-only or an encoder-only model") as error:
        ModelSource(tiny_t5(), CORPUS, [Site(0)], window=8)
    assert one_line(error).startswith("T5ForConditionalGeneration")


def test_a_window_longer_than_the_context_raises():
    with pytest.raises(SettingError, match="the model reads at most 64: use --window") as error:
        source(window=65)
    one_line(error)


def test_a_slow_tokenizer_raises_with_a_remedy():
    with pytest.raises(ModelError, match=r"ByT5Tokenizer gives no character offsets.*tokenizer\.json$") as error:
        ModelSource(LanguageModel(build("llama"), ByT5Tokenizer()), CORPUS, [Site(0)], window=8)
    one_line(error)


def test_logits_of_an_encoder_raise_with_a_remedy():
    group = next(iter(source("bert").windower.groups(CORPUS, 2)))
    with pytest.raises(ModelError, match="bert does not predict the next token: evaluate a causal") as error:
        shared("bert").logits(group)
    one_line(error)


def test_reading_activations_leaves_the_config_as_it_is():
    model = LanguageModel(build("llama"), byte_tokenizer())
    assert model.model.config.use_cache is True
    list(ModelSource(model, Corpus.from_texts(["a"]), [Site(0)], window=8))
    assert model.model.config.use_cache is True


# Loading.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "gpt2"
    build("gpt2").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_a_saved_folder_loads_with_the_same_activations(saved):
    model = LanguageModel.load(str(saved), device="cpu")
    assert (model.layers, model.d_model, model.context, model.is_causal) == (LAYERS, WIDTH, 64, True)
    loaded = read(ModelSource(model, CORPUS, SITES, window=12, batch_size=4))
    original = LanguageModel(build("gpt2"), byte_tokenizer())
    expected = read(ModelSource(original, CORPUS, SITES, window=12, batch_size=4))
    for site in SITES:
        assert torch.equal(loaded[site][0], expected[site][0])
        assert loaded[site][1].keys() == expected[site][1].keys()


def test_a_saved_encoder_loads_without_a_head(tmp_path):
    build("bert").save_pretrained(tmp_path)
    shared("bert").tokenizer.save_pretrained(tmp_path)
    model = LanguageModel.load(str(tmp_path), device="cpu")
    assert type(model.model).__name__ == "BertModel"
    assert not model.is_causal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_that_of_weights_and_activations(saved, dtype):
    model = LanguageModel.load(str(saved), device="cpu", dtype=dtype)
    activations, _ = read(ModelSource(model, Corpus.from_texts(["the cat"]), [Site(1)], window=8))[Site(1)]
    assert model.model.dtype == activations.dtype == getattr(torch, dtype)
    assert bool(activations.isfinite().all())


def test_dtype_auto_on_a_cpu_is_float32(saved, tmp_path):
    build("gpt2").half().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert LanguageModel.load(str(tmp_path), device="cpu").model.dtype == torch.float32


def test_an_unknown_dtype_raises_a_setting_error_with_the_choices(saved):
    with pytest.raises((ModelError, SettingError), match="use auto, float32, bfloat16, float16") as error:
        LanguageModel.load(str(saved), dtype="int8")
    one_line(error)


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/no-such-folder", "a/b/c"])
def test_a_missing_folder_raises_with_a_remedy(name):
    with pytest.raises(ModelError, match="check the path, or name a Hub model or tiny") as error:
        LanguageModel.load(name)
    assert repr(name) in one_line(error)


def test_a_folder_without_a_config_raises_in_one_line(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"has no config.json \(it holds model.safetensors\)") as error:
        LanguageModel.load(str(tmp_path))
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize("part", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_with_a_broken_file_raises_in_one_line(saved, tmp_path, part):
    for file in saved.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.name == part else content)
    with pytest.raises(ModelError) as error:
        LanguageModel.load(str(tmp_path), device="cpu")
    assert str(tmp_path) in one_line(error)


def test_an_unknown_hub_id_offline_raises_one_line_with_a_remedy(tmp_path):
    code = (
        "from itda.sources.models.transformers import LanguageModel\n"
        "try: LanguageModel.load('no-such-owner/no-such-model')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("\n") == 1
    assert run.stdout.startswith("ModelError no-such-owner/no-such-model is not on this machine")
    assert "check the network, or use tiny" in run.stdout


def test_tiny_is_bundled():
    model = LanguageModel.load("tiny", device="cpu")
    assert (model.name, model.is_causal, model.layers, model.d_model, model.context) == ("tiny", True, 6, 192, 256)
    assert model.model.dtype == torch.float32
    assert not model.model.training
    assert model.windower(256).prefix


def test_every_model_of_the_table_fits_the_tokenizers():
    assert COMMON["vocab_size"] == len(byte_tokenizer())
