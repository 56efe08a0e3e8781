"""Models read block by block: the activations of an ordinary forward pass, to the bit, whatever the family."""

import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from sources.models.families import COMMON, FAMILIES, LLAMA_LIKE, SITES, TOKENIZERS, Family, build

from itda.core.batch import Site
from itda.errors import ModelError, StoreError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.replay import form_of
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed import weights
from itda.sources.streamed.hidden_states import HiddenStates
from itda.sources.streamed.model import StreamedModel

CORPUS = Corpus.from_texts(["the cat sat on the mat. " * 9, "a dog ran to be or not to be", "x"])
EXPERTS = (*LLAMA_LIKE, ("moe_intermediate_size", 24), ("num_experts", 4), ("num_experts_per_tok", 2))
OSS = (*LLAMA_LIKE, ("num_local_experts", 4), ("num_experts_per_tok", 2), ("sliding_window", 8))
SHARED = (*LLAMA_LIKE, ("num_kv_shared_layers", 1), ("hidden_size_per_layer_input", 8), ("laurel_rank", 4))
LAYERWISE = (("vocab_size_per_layer_input", 64), ("sliding_window", 8), ("altup_num_inputs", 2))
SEVERAL = Family("Gemma3nTextConfig", "Gemma3nForCausalLM", None, (*SHARED, *LAYERWISE))
"""A family of several residual streams."""
GRANITE = Family("GraniteConfig", "GraniteForCausalLM", "norm", (*LLAMA_LIKE[:2], ("residual_multiplier", 0.22)))
BLOOM = Family("BloomConfig", "BloomForCausalLM", "ln_f")
MORE = {
    "qwen3-moe": Family("Qwen3MoeConfig", "Qwen3MoeForCausalLM", "norm", EXPERTS),
    "gpt-oss": Family("GptOssConfig", "GptOssForCausalLM", "norm", OSS),
    "granite": GRANITE,
    "bloom": BLOOM,
}
AROUND = {"gpt-j", "bloom"}
"""Families whose blocks hand on more than a state."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints by family and dtype, made when they are asked for, in shards so small that a block is in several."""
    folders: dict[tuple[str, str], Path] = {}
    FAMILIES.update(MORE)

    def of(name: str, dtype: str = "float32", shard: str = "20KB") -> Path:
        if (name, dtype) not in folders:
            folder = folders[name, dtype] = tmp_path_factory.mktemp(name)
            build(name).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
            TOKENIZERS[FAMILIES[name].tokenizer]().save_pretrained(folder)
        return folders[name, dtype]

    yield of
    for name in MORE:
        del FAMILIES[name]


def read(model, sites=SITES, **options):
    """All activations of each site, and their labels."""
    parts: dict[Site, list] = {site: [] for site in sites}
    options = {"window": 12, "batch_size": 4, **options}
    for batches in ModelSource(model, CORPUS, sites, **options):
        for site, batch in batches.items():
            parts[site].append(batch)
    return {
        site: (torch.cat([b.activations for b in batches]), [list(b.labels) for b in batches])
        for site, batches in parts.items()
    }


def same(found, expected):
    assert found.keys() == expected.keys()
    for site, (activations, labels) in found.items():
        assert torch.equal(activations, expected[site][0]), site
        assert labels == expected[site][1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_streamed_activations_are_those_of_the_ordinary_forward_to_the_bit(saved, name, dtype):
    folder = str(saved(name, dtype))
    streamed = StreamedModel.load(folder, dtype=dtype)
    assert len(list(Path(folder).glob("*.safetensors"))) > 1
    same(read(streamed), read(LanguageModel.load(folder, dtype=dtype)))
    assert streamed.replayable == (name not in AROUND)
    assert all(value.is_meta for block in streamed.blocks for value in block.parameters())  # nothing was left behind


def test_a_model_of_several_streams_is_refused_alike_in_memory_and_streamed(saved, monkeypatch):
    monkeypatch.setitem(FAMILIES, "gemma-3n", SEVERAL)
    messages = set()
    for load in (LanguageModel.load, StreamedModel.load):
        with pytest.raises(ModelError, match=r"Gemma3nForCausalLM .* \[2, 2, 7, 32\].*one residual stream") as error:
            ModelSource(load(str(saved("gemma-3n"))), CORPUS, [Site(1)], window=12)
        messages.add(str(error.value))
    assert len(messages) == 1
    assert "\n" not in messages.pop()


@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "gpt-oss"])
def test_each_byte_of_a_block_is_read_once_for_all_groups(saved, name):
    streamed = StreamedModel.load(str(saved(name)))
    groups = list(ModelSource(streamed, CORPUS, [Site(1)], window=12, batch_size=4)._groups())
    assert len(groups) == 4
    list(streamed.harvest(groups, [Site(1)]))
    assert streamed.weights.bytes_read == sum(each.bytes for stored in streamed.weights.of_block[:2] for each in stored)


def test_each_step_is_told_and_may_end_it(saved):
    streamed = StreamedModel.load(str(saved("llama")))
    groups, told = list(ModelSource(streamed, CORPUS, [Site(1)], window=12, batch_size=4)._groups()), []
    with streamed.watched(told.append):
        list(streamed.harvest(groups, [Site(1)]))
    assert told == ["block 1/2"] * 4 + ["block 2/2"] * 4

    def end(_place):
        if len(told) == 11:
            raise ZeroDivisionError
        told.append("again")

    with streamed.watched(end), pytest.raises(ZeroDivisionError):
        list(streamed.harvest(groups, [Site(1)]))
    assert all(value.is_meta for block in streamed.blocks for value in block.parameters())
    same(read(streamed), read(LanguageModel.load(str(saved("llama")))))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma-2", "qwen3-moe"])
def test_loading_around_each_block_gives_the_same_bits(saved, name):
    folder = str(saved(name))
    around = StreamedModel.load(folder)
    around.load_around_each_block()
    assert not around.replayable
    assert around.flight(48) == 1
    same(read(around), read(LanguageModel.load(folder)))
    assert all(value.is_meta for block in around.blocks for value in block.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_embeddings(tmp_path, tied):
    options = dict(LLAMA_LIKE)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**COMMON, **options, tie_word_embeddings=tied)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    TOKENIZERS["bos"]().save_pretrained(tmp_path)
    ordinary = LanguageModel.load(str(tmp_path))
    streamed = StreamedModel.load(str(tmp_path))
    same(read(streamed), read(ordinary))
    head = streamed.inner.model.get_output_embeddings()
    assert head.weight.is_meta == (not tied)  # 4 GB of a 405B model that only predictions need
    whole = StreamedModel.load(str(tmp_path), head=True)
    assert torch.equal(whole.inner.model.get_output_embeddings().weight, ordinary.model.get_output_embeddings().weight)
    same(read(whole), read(ordinary))


def test_states_in_a_mapped_file_give_the_same_bits(saved, tmp_path):
    folder = str(saved("llama"))
    mapped = StreamedModel.load(folder, memory=1, scratch=tmp_path)
    assert mapped._hidden_states(3, 48)._folder == tmp_path
    same(read(mapped), read(LanguageModel.load(folder)))
    assert list(tmp_path.iterdir()) == []  # nothing to clean up


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_is_what_was_put_last(tmp_path, dtype):
    for hidden in (HiddenStates(None), HiddenStates(tmp_path, 2)):
        first, second, third = (torch.randn(2, 3, 4).to(dtype) for _ in range(3))
        hidden.put("a", first)
        hidden.put("b", second.clone())
        hidden.put("a", third.clone())
        hidden.put("c", first)
        assert torch.equal(hidden.get("a"), third)
        assert torch.equal(hidden.get("b"), second)
        assert torch.equal(hidden.get("c"), first)
        hidden.drop("b")
        assert torch.equal(hidden.get("a"), third)


def test_no_room_for_states_is_one_line_with_a_remedy(tmp_path):
    with pytest.raises(StoreError, match=r"no room for .* name another folder with --scratch") as error:
        HiddenStates(tmp_path, 2**40).put(0, torch.ones(2**10))
    assert "\n" not in str(error.value)


def test_fewer_groups_fly_where_memory_is_short_and_there_is_no_scratch(saved):
    model = StreamedModel.load(str(saved("llama")), memory=10 * 48 * 32 * 4)
    assert model.flight(48) == 10
    assert model.flight(48, branches=4) == 2
    assert StreamedModel.load(str(saved("llama")), memory=1).flight(48) == 1
    same(read(model, window=12), read(LanguageModel.load(str(saved("llama"))), window=12))


def test_a_stream_that_is_left_early_drops_its_weights(saved):
    streamed = StreamedModel.load(str(saved("llama")))
    stream = iter(ModelSource(streamed, CORPUS, [Site(0), Site(2)], window=12, batch_size=4))
    next(stream)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(value.is_meta for block in streamed.blocks for value in block.parameters())


def damage(folder: Path, target: Path, change) -> str:
    shutil.copytree(folder, target)
    change(target)
    return str(target)


def test_a_damaged_checkpoint_is_one_line_and_names_the_file(saved, tmp_path):
    def cut(folder):
        file = sorted(folder.glob("*.safetensors"))[1]
        file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelError, match=r"model-00002-of.* download it again") as error:
        StreamedModel.load(damage(saved("llama"), tmp_path / "cut", cut))
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_weight_is_refused_when_its_block_is_read(saved, tmp_path):
    def remove(folder):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        file = index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
        tensors = {**_tensors(folder / file)}
        del tensors["model.layers.1.mlp.up_proj.weight"]
        from safetensors.torch import save_file

        save_file(tensors, folder / file, {"format": "pt"})
        del index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    streamed = StreamedModel.load(damage(saved("llama"), tmp_path / "lacks", remove))
    with pytest.raises(ModelError, match=r"lacks mlp.up_proj.weight of block 1"):
        read(streamed)


def _tensors(file: Path):
    from safetensors.torch import load_file

    return load_file(file)


def test_a_pickled_checkpoint_is_refused_with_a_remedy(saved, tmp_path):
    def pickle(folder):
        model = LanguageModel.load(str(folder)).model
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="in safetensors are read block by block: save the model anew"):
        StreamedModel.load(damage(saved("llama"), tmp_path / "bin", pickle))


class Chain(torch.nn.Module):
    """A model of blocks, as `step` passes a state from one to the next."""

    def __init__(self, step):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
        self.step = step

    def forward(self):
        state, memory = torch.ones(2, 4), {}
        for block in self.blocks:
            state = self.step(block, state, memory)
        return state


@pytest.mark.parametrize(
    ("step", "form"),
    [
        (lambda block, state, _: block(state), torch.Tensor),
        (lambda block, state, _: block(state)[0], tuple),
        (lambda block, state, _: block(state) + state, None),
        (lambda block, state, _: block(state, state.sum()), None),
        (lambda block, state, _: block(state, (state * 2,)), None),
        (lambda block, state, memory: block(state, memory), None),
        (lambda block, state, memory: block(state.clone()), None),
    ],
    ids=["state", "tuple", "sum", "argument", "nested", "dictionary", "copy"],
)
def test_what_blocks_hand_on_is_seen(step, form):
    chain = Chain(step)
    assert form_of(chain.blocks, chain) is form


def test_each_block_s_time_is_told_by_part(saved, monkeypatch):
    model = StreamedModel.load(str(saved("llama")))
    groups = list(ModelSource(model, CORPUS, [Site(1)], window=12, batch_size=4)._groups())
    load, here, now = model.weights.load, threading.current_thread(), [0.0]
    is_waited_for, is_read = threading.Event(), threading.Event()

    def clock() -> float:
        """It goes on only while a block is read: three seconds each."""
        value = now[0]
        if threading.current_thread() is here:
            is_waited_for.set()
        return value

    def slow(layer: int) -> None:
        assert is_waited_for.wait(60)
        now[0] += 3
        load(layer)
        if layer == 1:
            is_read.set()

    monkeypatch.setattr(weights, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(model.weights, "load", slow)
    for _ in model.harvest(groups, [Site(0), Site(2)]):
        assert is_read.wait(60), "block 1 is not read while block 0's activations are used"
        time.sleep(0.02)
    assert [each.layer for each in model.times] == [0, 1, 2]
    assert [each.read for each in model.times] == [3, 3, 3]
    assert [each.waited for each in model.times[:2]] == [3, 0]
    assert 0 <= model.times[2].waited <= 3
    assert all(each.ran > 0 for each in model.times)
    assert [each.used >= 0.06 for each in model.times] == [True, False, True]
    assert model.times[1].used == 0


def test_weights_for_a_gpu_are_read_from_disk_before_they_are_copied(saved, monkeypatch):
    model, done = StreamedModel.load(str(saved("llama"))), []
    touch, convert = weights._touch, weights.convert_and_load_state_dict_in_model
    monkeypatch.setattr(weights, "_touch", lambda values: done.append(tuple(values.shape)) or touch(values))

    def copied(*given):
        done.append("copied")
        return convert(*given)

    monkeypatch.setattr(weights, "convert_and_load_state_dict_in_model", copied)
    monkeypatch.setattr(model.weights, "device", torch.device("meta"))  # as a GPU: not the CPU
    with pytest.raises(ModelError, match="lacks"):
        model.weights.load(1)
    shapes = [tuple(value.shape) for value in model.blocks[1].parameters()]
    assert sorted(done[:-1]) == sorted(shapes)
    assert done[-1] == "copied"
