"""`itda plan`: what published configurations take, and that it is what a streamed model does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sources.models.families import FAMILIES, LLAMA_LIKE, Family, build
from transformers import MambaConfig

import itda
from itda.cli import main
from itda.config import Plan
from itda.core.batch import Site
from itda.core.training.growth_bytes import block_bytes
from itda.errors import ModelError, StoreError
from itda.parsing import parse_bytes, parse_layers
from itda.recipes import measuring, measuring_dictionaries, rates_kept
from itda.recipes import plan as recipe
from itda.recipes.plan import GPU, LAPTOP, plan
from itda.recipes.rates_kept import Measured
from itda.report import WIDTH, plan_summary
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.names import TINY
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel
from itda.sources.streamed.model_shape import ModelShape
from itda.sources.streamed.planning import Machine, Work, estimate
from itda.sources.streamed.rates import Cost, DictionaryCosts, Rates

CONFIGS = Path(__file__).parent / "configs"
FREE = DictionaryCosts(Cost(1.0, 0.0), Cost(1.0, 0.0), Cost(1.0, 0.0))
RATES = Rates(1.0, 1.0, 1.0, FREE, FREE)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """What was measured on this machine is not to decide a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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
    assert made.evaluation[GPU].bytes_read == made.shape.bytes
    assert not made.training[LAPTOP].fits
    assert not any(made.whole.values())
    # The dictionaries of one layer fit into half of what evaluation leaves of the GPU, those of three do not.
    assert made.evaluation[GPU].fits
    assert not made.evaluation[GPU].on_gpu
    assert planned("405B", "40", atoms=4_000).evaluation[GPU].on_gpu
    text = plan_summary(made)
    for said in (
        "6.38 GB a block",
        "On disk 812 GB",
        "GPU: fits, read block by block",
        "laptop: does not fit",
        "Assumed",
    ):
        assert said in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_card_too_small_is_said_to_be():
    made = planned("405B", "40", gpu_memory=16 * 2**30)
    assert not made.training[GPU].fits
    assert "GPU: does not fit: it needs a GPU of 18.7 GB, or a lower --batch-size" in plan_summary(made)


def test_8b_need_not_be_streamed_and_a_laptop_streams_it():
    made = planned("8B", "16", gpu_memory=80 * 2**30)
    assert made.whole == {GPU: True, LAPTOP: False}
    assert made.training[LAPTOP].dtype == "float32"
    assert made.training[LAPTOP].fits
    # On a CPU the budget is for weights too.
    assert made.training[LAPTOP].weights + made.training[LAPTOP].states < parse_bytes("8G")
    assert planned("8B", "16", dtype="bfloat16").training[LAPTOP].dtype == "bfloat16"


def test_less_memory_means_more_flights_and_scratch_as_many_as_before():
    little = planned("70B", "40", model_memory=4 * 2**30, recipe=1)
    found = little.training[GPU]
    assert found.flights == 4
    assert found.states <= parse_bytes("4G")
    assert found.bytes_read == pytest.approx(4 * planned("70B", "40").training[GPU].bytes_read, rel=0.05)
    assert "GPU: fits, read block by block: hidden states of only 262,144 tokens fit" in " ".join(
        plan_summary(little).split()
    )
    assert "laptop: barely fits, read block by block: hidden states of only 1,024" in " ".join(
        plan_summary(little).split()
    )
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
    machine = Machine(None, 2**30, None, memory, 0, RATES)
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
    assert "fits as a whole: all weights are" in capsys.readouterr().out


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
        (["tiny", "--layers", "1", "--disk-gbps", "inf"], "--disk-gbps must be more than 0"),
        (["tiny", "--layers", "1", "--window", "0"], "--window must be at least 1"),
        (["tiny", "--layers", "1", "--refine", "-1"], "-1 passes of refinement: it must be at least 0"),
        (["tiny", "--layers", "1", "--measure", "--assumed"], "--measure and --assumed exclude each other"),
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
    assert "2 sites, the last in block 4 of blocks 0 to 5;" in " ".join(shown.split())
    large = " ".join(plan_summary(planned("405B", "125")).split())
    assert "405.9 billion parameters, 126 blocks" in large
    assert "1 site in block 125 of blocks 0 to 125;" in large


def test_dictionaries_are_counted_on_the_gpu_where_they_fit_beside_the_model():
    asked = {"recipe": 1}
    there, here = (planned("405B", "40,80,120", grow_on=place, **asked).training[GPU] for place in ("auto", "cpu"))
    assert there.on_gpu
    assert not here.on_gpu
    each = 4 * 16_000 * 16_384 + 2 * 16_000**2
    assert there.dictionaries == 3 * each
    assert there.gpu - here.gpu == 3 * each + block_bytes(16_000, 16_384)
    assert here.ram - there.ram == 3 * 2 * 16_000**2  # copies of the atoms come to the CPU in any case
    assert there.gpu < parse_bytes("24G") < there.gpu + each


def test_dictionaries_that_do_not_fit_the_gpu_grow_on_the_cpu_and_a_line_says_so():
    made = planned("405B", "40,80,120", atoms=20_000, recipe=1)
    assert not made.training[GPU].on_gpu
    assert made.training[GPU].fits
    text = " ".join(plan_summary(made).split())
    assert "GPU: dictionaries grow on the CPU: with the model they would need 26.2 GB of the GPU's 25.8" in text
    assert "they are made on the CPU the CPU" in text
    forced = planned("405B", "40,80,120", atoms=20_000, grow_on="gpu", recipe=1)
    assert forced.training[GPU].on_gpu
    assert not forced.training[GPU].fits
    assert "it needs a GPU of 26.2 GB, or --grow-on cpu" in plan_summary(forced)
    assert not planned("405B", "40", grow_on="gpu").training[LAPTOP].on_gpu


def test_activations_kept_for_refinement_are_counted():
    kept = planned("405B", "40,80", recipe=1).training[GPU]
    assert kept.kept == 2 * 32_259 * 16_384 * 2  # every 31st of a million, in bfloat16: 2 GiB of float32 at most
    none = planned("405B", "40,80", refine=0).training[GPU]
    assert (none.kept, kept.ram - none.ram) == (0, kept.kept)
    assert none.pursuit_s < kept.pursuit_s
    assert planned("405B", "40,80").evaluation[GPU].kept == 0
    # An eighth of what is free: beside 405B they stay in RAM, beside 8B they are on the GPU too.
    assert kept.gpu == none.gpu
    few, without = (planned("8B", "8,16", recipe=1, refine=passes).training[GPU] for passes in (8, 0))
    assert few.gpu - without.gpu == few.kept == few.ram - without.ram > 0
    assert (
        planned("8B", "8,16", grow_on="cpu").training[GPU].gpu == without.gpu - without.dictionaries - without.growing
    )


def test_recipe_2_keeps_more_activations_and_has_one_gram_matrix_at_a_time():
    made, before = (planned("405B", "40,80", recipe=recipe).training[GPU] for recipe in (2, 1))
    kept = 1_000_000 // 8  # every 8th: 8 for each of 16,000 atoms would be more than 2 GiB
    assert made.kept == 2 * kept * 16_384 * 2
    assert made.dictionaries == 2 * 4 * 16_000 * 16_384 + 2 * 16_000**2 + 8 * 16_000 * 16_384
    assert made.pursuit_s != before.pursuit_s
    few = planned("405B", "40,80", recipe=2, refine=1).training[GPU]
    assert few.pursuit_s < made.pursuit_s
    assert planned("405B", "40", recipe=2).options.refine == 12
    assert planned("405B", "40", refine=0).options.recipe == 1
    assert planned("8B", "8", recipe=2).training[GPU].kept == kept * 4096 * 2  # 2 GiB of float32 at most


def test_a_line_is_fitted_to_costs_and_never_falls_below_0():
    assert Cost.fitted([1, 2, 4], [3.0, 5.0, 9.0]) == Cost(1.0, 2.0)
    assert Cost.fitted([1000, 2000], [2.0, 1.0]) == Cost(1.5, 0.0)
    through_zero = Cost.fitted([1, 3], [1.0, 5.0])
    assert (through_zero.fixed, through_zero.per_atom) == (0.0, pytest.approx(1.6))
    assert Cost.fitted([7], [2.0]) == Cost(2.0, 0.0)
    assert Cost.fitted([1000, 2000], [2.0, 1.0], least=1e-4) == Cost(1.35, 1e-4)
    assert Cost.fitted([1000, 3000], [0.1, 0.1], least=1e-3) == Cost(0.0, 1e-3)
    assert Cost.fitted([1, 2, 4], [3.0, 5.0, 9.0], least=1.0) == Cost(1.0, 2.0)


def test_training_costs_what_tokens_cost_at_the_size_that_the_dictionary_has_on_the_way():
    costs = DictionaryCosts(Cost(9.0, 9.0), Cost(1.0, 0.5), Cost(2.0, 0.25))
    assert costs.training(100, 100) == pytest.approx(100 * (2 + 0.25 * 50))
    middle = 10 / (1.5 + 0.5 * 0.1)
    assert costs.training(100, 10) == pytest.approx(10 * (2 + 0.25 * middle) + 90 * (1 + 0.5 * middle))


@pytest.fixture
def measured_once(monkeypatch):
    """Let `--measure` find these rates, and count how often it is asked."""
    asked = []

    def found(shape, **given):
        asked.append((shape.name, given["tokens"], given["k"]))
        fast = DictionaryCosts(Cost(0.0, 1e-7), Cost(1e-3, 0.0), Cost(2e-3, 0.0))
        return Measured(
            "2026-11-26", 2e9, "model.safetensors", None, {"cpu": 3e12}, {"cpu": fast}, {"cpu": (500, 1000)}, 7.5
        )

    monkeypatch.setattr(recipe, "measure", found)
    return asked


def test_measured_rates_are_kept_for_the_next_plan_and_assumed_ignores_them(measured_once, tmp_path, capsys):
    model = config("8B")
    main(["plan", model, "--layers", "8", "--measure"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "read from disk, GB/s 2.00 3.00" in shown
    assert "model on the CPU, TFLOP/s 3 0.5" in shown
    assert "growth on the CPU, tokens/s 984 570" in shown
    assert "encoding on the CPU, tokens/s 625 378" in shown
    assert "Measured on this machine on 2026-11-26 in 8 s: --measure does so again, --assumed ignores it" in shown
    assert "Assumed, not measured: 50 TFLOP/s on the GPU" in shown
    assert (tmp_path / "cache" / "itda" / "rates.json").exists()

    main(["plan", model, "--layers", "4", "--tokens", "10k", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["disk"] == found["machines"]["GPU"]["rates"]["disk"] == 2e9
    assert found["machines"]["laptop"]["rates"]["flops"] == 3e12
    assert found["machines"]["laptop"]["assumed_rates"]["flops"] == 5e11
    assert found["machines"]["GPU"]["rates"]["flops"] == 5e13
    assert len(measured_once) == 1

    assert planned("8B", "4", assumed=True).machines[LAPTOP].rates.flops == 5e11
    given = planned("8B", "4", cpu_tflops=2.0, disk_gbps=1.0).machines[LAPTOP].rates
    assert (given.flops, given.disk) == (2e12, 1e9)
    other = planned("8B", "4", k=20)
    assert other.measured is None
    assert "This machine was measured for another model, dtype, k or batch" in " ".join(plan_summary(other).split())


def test_rates_of_another_machine_are_not_taken_for_those_of_this_one(measured_once, monkeypatch):
    planned("8B", "4", measure=True)
    monkeypatch.setattr(rates_kept, "this_machine", lambda: "another processor")
    made = planned("8B", "4")
    assert (made.measured, made.measured_for_others) == (None, False)
    planned("8B", "4", measure=True)
    kept = json.loads(rates_kept.rates_file().read_text())["measured"]
    assert [row["machine"] == "another processor" for row in kept] == [False, True]


def test_a_damaged_file_of_rates_is_one_line_and_can_be_measured_anew(measured_once, tmp_path, capsys):
    file = tmp_path / "cache" / "itda" / "rates.json"
    planned("8B", "4", measure=True)
    ours = '{"format": "itda-rates", "format_version": 1, "measured": [{"machine": 1}]}'
    for damage in (file.read_text()[:-9], "[]", ours):
        file.write_text(damage)
        with pytest.raises(SystemExit) as stop:
            main(["plan", config("8B"), "--layers", "4"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "rates.json cannot be read: measure again with --measure, or plan with --assumed" in error
        assert len(error.splitlines()) == 1
        assert planned("8B", "4", assumed=True).measured is None
        assert planned("8B", "4", measure=True).measured is not None
        assert planned("8B", "4").measured is not None


def test_a_cache_that_cannot_be_written_is_one_line(measured_once, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"cannot keep the rates .*: set XDG_CACHE_HOME"):
        planned("8B", "4", measure=True)
    with pytest.raises(StoreError, match=r"cannot write 256 MB .*: set XDG_CACHE_HOME"):
        measuring.reading_rate([], torch.device("cpu"))


def test_this_machine_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measuring, "WRITTEN_BYTES", 2**24)
    monkeypatch.setattr(measuring, "PRODUCT_S", 0.0)
    monkeypatch.setattr(measuring_dictionaries, "TIMED", {"cpu": 32})
    main(["plan", "tiny", "--layers", "2", "--k", "4", "--atoms", "600", "--measure", "--json"])
    shown = capsys.readouterr()
    found = json.loads(shown.out)["measured"]
    assert found["disk_of"].startswith("a file written in")
    assert not list((tmp_path / "cache" / "itda").glob(".disk-*"))
    assert found["disk"] > 1e6
    assert found["flops"]["cpu"] > 1e6
    assert found["atoms"]["cpu"] == [pytest.approx(512, abs=64)]
    costs = found["costs"]["cpu"]
    assert all(costs[part]["fixed"] + costs[part]["per_atom"] > 0 for part in ("encode", "grow", "append"))
    assert itda.plan("tiny", layers=2, k=4).measured is not None


def test_a_file_of_the_model_is_read_if_there_is_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "LEAST_FILE", 1000)
    (tmp_path / "small.safetensors").write_bytes(b"1" * 999)
    assert measuring.files_of(str(tmp_path)) == []
    for name, size in (("one", 2000), ("two", 3000)):
        save_file({"a": torch.zeros(size), "b": torch.zeros(3, 5).bfloat16()}, tmp_path / f"{name}.safetensors")
    files = measuring.files_of(str(tmp_path))
    assert [file.name for file in files] == ["two.safetensors", "one.safetensors"]
    rate, of = measuring.reading_rate(files, torch.device("cpu"))
    assert rate > 0
    assert of == str(files[0])
    assert measuring.files_of("someone/who-is-not-here") == []


def test_hidden_states_go_to_the_gpu_and_back_once_a_block():
    made = planned("405B", "40,80")
    assert made.training[GPU].moving_s == 2 * made.training[GPU].states * 81 / 6e9
    assert made.training[LAPTOP].moving_s == 0
    assert made.training[GPU].seconds == pytest.approx(
        made.training[GPU].computing_s + made.training[GPU].moving_s + made.training[GPU].pursuit_s
    )


def test_products_have_the_sides_of_a_block(tmp_path):
    assert set(ModelShape.of(config("405B")).products) == {
        (16384, 16384),
        (16384, 1024),
        (16384, 53248),
        (53248, 16384),
    }
