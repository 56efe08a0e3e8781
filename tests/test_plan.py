"""`itda plan`: what published configurations take, and that it is what a streamed model does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sources.models.families import FAMILIES, LLAMA_LIKE, Family, build
from transformers import MambaConfig

from itda.cli import main
from itda.config import Plan
from itda.core.batch import Site
from itda.errors import ModelError
from itda.parsing import parse_bytes, parse_layers
from itda.recipes.plan import GPU, LAPTOP, plan
from itda.report import WIDTH, plan_summary
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.names import TINY
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel
from itda.sources.streamed.planning import Machine, ModelShape, Work, estimate

CONFIGS = Path(__file__).parent / "configs"


def config(size: str) -> str:
    return str(CONFIGS / f"Llama-3.1-{size}.json")


def planned(size: str, layers: str, **given):
    return plan(Plan(model=config(size), layers=parse_layers(layers), **given))


@pytest.mark.parametrize(
    ("size", "parameters", "block", "checkpoint", "embeddings", "state", "width"),
    # From the models' cards: 8.03, 70.6 and 405.9 billion parameters. GB of 10^9 bytes; KiB for a token.
    [
        ("8B", 8.03, 0.44, 16.1, 1.05, 8, 4096),
        ("70B", 70.6, 1.71, 141, 2.10, 16, 8192),
        ("405B", 405.9, 6.38, 812, 4.20, 32, 16384),
    ],
)
def test_sizes_are_those_of_the_published_models(size, parameters, block, checkpoint, embeddings, state, width):
    made = planned(size, "1")
    shape, found = made.shape, made.training[GPU]
    assert shape.parameters / 1e9 == pytest.approx(parameters, rel=1e-3)
    assert 2 * shape.blocks[0] / 1e9 == pytest.approx(block, abs=5e-3)
    assert shape.bytes / 1e9 == pytest.approx(checkpoint, rel=3e-3)
    assert 2 * shape.embeddings / 1e9 == pytest.approx(embeddings, rel=2e-3)
    assert 2 * shape.head == 2 * shape.embeddings - 2 * width  # but for the last norm
    assert found.states == -(-(10**6) // 1024) * 1024 * state * 1024
    assert shape.dtype == torch.bfloat16
    assert not shape.quantized


def test_405b_fits_one_card_of_24g_and_reads_its_weights_once():
    made = planned("405B", "40,80,120")
    found, machine = made.training[GPU], made.machines[GPU]
    assert found.fits
    assert found.gpu < machine.gpu == parse_bytes("24G")
    # Two blocks and the embeddings, to a part in a thousand: what remains is a group of windows, and CUDA.
    assert found.weights / 1e9 == pytest.approx(2 * 6.38 + 4.20, rel=1e-3)
    assert (found.flights, found.bytes_read / 1e9) == (1, pytest.approx(121 * 6.38 + 4.2, rel=1e-3))
    assert found.limit == "model"
    assert made.evaluation[GPU].fits
    assert made.evaluation[GPU].bytes_read == made.shape.bytes
    assert not made.training[LAPTOP].fits
    assert not any(made.whole.values())
    text = plan_summary(made)
    for said in ("6.38 GB a block", "On disk 812 GB", "GPU: fits, streamed", "laptop: does not fit", "Assumed"):
        assert said in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_card_too_small_is_said_to_be():
    made = planned("405B", "40", gpu_memory=16 * 2**30)
    assert not made.training[GPU].fits
    assert "GPU: does not fit, it takes a GPU of 18.7 GB" in plan_summary(made)


def test_8b_need_not_be_streamed_and_a_laptop_streams_it():
    made = planned("8B", "16", gpu_memory=80 * 2**30)
    assert made.whole == {GPU: True, LAPTOP: False}
    assert made.training[LAPTOP].dtype == "float32"
    assert made.training[LAPTOP].fits
    # On a CPU the budget is for weights too.
    assert made.training[LAPTOP].weights + made.training[LAPTOP].states < parse_bytes("8G")
    assert planned("8B", "16", dtype="bfloat16").training[LAPTOP].dtype == "bfloat16"


def test_less_memory_means_more_flights_and_scratch_as_many_as_before():
    little = planned("70B", "40", model_memory=4 * 2**30)
    found = little.training[GPU]
    assert found.flights == 4
    assert found.states <= parse_bytes("4G")
    assert found.bytes_read == pytest.approx(4 * planned("70B", "40").training[GPU].bytes_read, rel=0.05)
    assert "GPU: fits, streamed: hidden states of only 262,144 tokens fit" in " ".join(plan_summary(little).split())
    assert "laptop: barely fits, streamed: hidden states of only 1,024" in " ".join(plan_summary(little).split())
    assert "yes, read 4 times" in plan_summary(little)
    on_disk = planned("70B", "40", model_memory=4 * 2**30, scratch=100 * 2**30).training[GPU]
    assert (on_disk.flights, on_disk.states_on_disk) == (1, True)
    assert on_disk.ram < found.ram


def test_operations_are_two_for_each_parameter_and_token_and_attention():
    made = planned("8B", "31", tokens=1000, window=100)
    shape = made.shape
    matrices = sum(shape.blocks) - 32 * 2 * 4096  # but for the norms
    assert made.training[GPU].operations == pytest.approx(1000 * (2 * matrices + 32 * 4 * 100 * 4096))
    # Evaluation of the last block's output: the clean state through all, four through the head.
    assert made.evaluation[GPU].operations == pytest.approx(
        50_000 * (2 * matrices + 32 * 4 * 100 * 4096 + 4 * 2 * 4096 * 128256)
    )


def test_of_many_experts_few_multiply_a_token():
    experts = (*LLAMA_LIKE, ("moe_intermediate_size", 24), ("num_experts", 4), ("num_experts_per_tok", 2))
    FAMILIES["moe"] = Family("Qwen3MoeConfig", "Qwen3MoeForCausalLM", "norm", experts)
    try:
        model = build("moe")
    finally:
        del FAMILIES["moe"]
    shape, block = ModelShape.from_model("moe", model), model.model.layers[0]
    assert shape.blocks[0] == sum(value.numel() for value in block.parameters())
    inside = sum(v.numel() for name, v in block.named_parameters() if "experts" in name)
    others = sum(v.numel() for name, v in block.named_parameters() if "experts" not in name and v.ndim > 1)
    assert shape.active[0] == inside // 2 + others


@pytest.mark.parametrize("memory", [2**21, 2**24])
def test_a_streamed_model_does_what_was_planned(memory):
    model = StreamedModel.load("tiny", device="cpu", budget=memory)
    shape = ModelShape.of("tiny")
    work = Work([Site(1), Site(4)], 600, 32, 2, 100, 8)
    machine = Machine(None, 2**30, None, memory, 0, 1.0, 1.0, 1.0)
    found = estimate(shape, work, machine)
    assert found.weights == model.weights.bytes_in_use
    text = "import os\n" * 200
    groups = list(ModelSource(model, Corpus.from_texts([text]), work.sites, window=32, batch_size=2)._groups())
    tokens = 64 * len(groups)
    found = estimate(shape, replace(work, tokens=tokens), machine)
    flight = model.flight(work.group)
    assert found.in_flight == min(flight, len(groups)) * work.group
    assert found.flights == -(-len(groups) // flight)
    for start in range(0, len(groups), flight):
        for _ in model.harvest(groups[start : start + flight], work.sites):
            pass
    read = model.weights.bytes_read + sum(each.bytes for each in model.weights.resident)
    assert found.bytes_read == read
    # Evaluation carries as many states as were planned.
    scored = replace(work, tokens=10**6, evaluation=True)
    assert estimate(shape, scored, machine).in_flight == 64 * model.flight(64, branches=scored.branches)


def test_a_folder_with_nothing_but_a_config_will_do_and_json_has_it_all(tmp_path, capsys):
    shutil.copy(TINY / "config.json", tmp_path / "config.json")
    main(["plan", str(tmp_path), "--layers", "2,3", "--streams", "resid_post,mlp_out", "--tokens", "10k", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["sites"]) == 4
    assert found["model"]["blocks"] == [found["model"]["blocks"][0]] * 6
    assert found["model"]["bytes"] == pytest.approx((TINY / "model.safetensors").stat().st_size, rel=1e-2)
    assert found["machines"]["laptop"]["runs_whole"]
    assert found["machines"]["GPU"]["training"]["flights"] == 1
    main(["plan", "tiny", "--layers", "2"])
    assert "fits, and need not be streamed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/at/all", "--layers", "1"], "no folder 'nowhere/at/all'"),
        (["tiny", "--layers", "9"], "no layer 9: the model has layers 0 to 5"),
        (["tiny", "--layers", "x"], "not a list of layers"),
        (["tiny", "--layers", "1", "--tokens", "0"], "not a number of tokens"),
        (["tiny", "--layers", "1", "--gpu-memory", "lots"], "not a size of memory"),
        (["tiny", "--layers", "1", "--scratch", "nowhere"], "no folder 'nowhere' for --scratch"),
        (["tiny", "--layers", "1", "--tflops", "0"], "--tflops must be more than 0"),
        (["tiny", "--layers", "1", "--window", "0"], "--window must be at least 1"),
        (["tiny", "--layers", "1", "--streams", "resid"], "no stream 'resid'"),
        (["{odd}", "--layers", "1", "--streams", "attn_out"], "no attn_out in MambaBlock"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, said, tmp_path, capsys):
    MambaConfig(architectures=["MambaForCausalLM"], hidden_size=8, vocab_size=16).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["plan", *(argument.format(odd=tmp_path) for argument in arguments)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_file_that_is_no_configuration_is_one_line(tmp_path):
    (tmp_path / "notes.json").write_text('{"a": 1}')
    with pytest.raises(ModelError, match="no transformers model"):
        ModelShape.of(str(tmp_path / "notes.json"))


def test_layers_are_counted_from_0_and_small_models_have_parameters_too():
    shown = plan_summary(plan(Plan(model="tiny", layers=(2, 4))))
    assert "tiny: 3.4M parameters, 6 blocks of width 192" in shown
    assert "2 sites, the last at layer 4 of 0 to 5;" in " ".join(shown.split())
    large = " ".join(plan_summary(planned("405B", "125")).split())
    assert "405.9 billion parameters, 126 blocks" in large
    assert "1 site at layer 125 of 0 to 125;" in large
