"""What goes wrong in loading a model has one line with its own remedy; spelling and login are for the Hub alone."""

import errno
import json
import shutil
from pathlib import Path

import huggingface_hub.errors as hub
import pytest
import torch
from sources.models.families import byte_tokenizer
from sources.models.gguf_files import llama
from test_cli import refused

from itda.errors import ItdaError, ModelError, SettingError
from itda.sources.models import named
from itda.sources.models.devices import check_device, usable_device
from itda.sources.models.refusals import why_not
from itda.sources.models.transformers import LanguageModel
from itda.sources.streamed.model import StreamedModel

LOGIN = "hf auth login"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def removed(*patterns):
    return lambda folder: [path.unlink() for pattern in patterns for path in folder.glob(pattern)]


def written(name, content):
    def change(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def configured(**values):
    def change(folder):
        made = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps({name: each for name, each in made.items() if each is not None}))

    return change


def all_of(*changes):
    return lambda folder: [change(folder) for change in changes]


def quantised(method, **more):
    return configured(quantization_config={"quant_method": method, **more})


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:5000])


INDEX = json.dumps(
    {
        "metadata": {},
        "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"},
    }
)
ADAPTER = json.dumps({"base_model_name_or_path": "me/base", "peft_type": "LORA"})

BROKEN = {
    "cut short": (cut, "model.safetensors is damaged or cut short", "download it again"),
    "empty": (written("model.safetensors", b""), "model.safetensors is damaged or cut short", "download it again"),
    "git-lfs": (
        written("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        "a pointer",
        "git lfs pull",
    ),
    "broken zip": (
        all_of(removed("*.safetensors"), written("pytorch_model.bin", b"PK\x03\x04broken")),
        "is damaged or cut short",
        "download it again",
    ),
    "broken pickle": (
        all_of(removed("*.safetensors"), written("pytorch_model.bin", b"\x80\x02broken")),
        "is damaged or cut short",
        "download it again",
    ),
    "no weights": (removed("*.safetensors"), "holds no weights", "get the whole model, or check the path"),
    "a shard is gone": (
        all_of(removed("*.safetensors"), written("model.safetensors.index.json", INDEX)),
        "is not whole",
        "get the missing file",
    ),
    "fewer blocks": (configured(num_hidden_layers=4), "lack model.layers.2", "get all of them anew"),
    "another width": (configured(hidden_size=64), "do not fit its config.json", "get both anew, from one place"),
    "unknown quantisation": (
        all_of(quantised("mystery"), configured(num_hidden_layers=3)),
        "quantised in a way that this transformers does not read",
        "get all of them anew",
    ),
    "unknown architecture": (
        configured(model_type="frobnicator"),
        "does not know the architecture of",
        "(frobnicator): a newer one may, pip install -U transformers",
    ),
    "no model type": (configured(model_type=None), "has no model_type", "name another folder"),
    "code of its own": (
        configured(model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "needs code from its repository",
        "read that code, then add --trust-remote-code",
    ),
    "broken config": (written("config.json", "{"), "the config.json of", "is damaged: download it again"),
    "a list for a config": (written("config.json", "[]"), "has no model_type", "name another folder"),
    "no config": (removed("config.json"), "has no config.json (it holds ", "name the folder of a transformers model"),
    "dictionaries of ours": (
        all_of(removed("*"), written("run.json", "{}")),
        "holds dictionaries of itda, not a language model",
        "names the model that they were made from",
    ),
    "nothing": (removed("*"), "(it holds nothing)", "name the folder of a transformers model"),
    "a value of another kind": (configured(num_attention_heads="four"), "'num_attention_heads'", "download it again"),
    "gptq": (quantised("gptq", bits=4, group_size=128), "needs a package that is not here", "pip install optimum"),
    "awq": (quantised("awq", bits=4, group_size=128), "needs a package that is not here", "pip install gptqmodel"),
    "bitsandbytes": (quantised("bitsandbytes", load_in_4bit=True), "not here", "pip install -U bitsandbytes"),
    "compressed-tensors": (quantised("compressed-tensors"), "not here", "pip install compressed-tensors"),
    "no tokenizer": (removed("tokenizer*"), "has no tokenizer that can be read", ".save_pretrained('"),
    "broken tokenizer": (written("tokenizer.json", "{"), "the tokenizer of", "download it again"),
    "an adapter alone": (
        all_of(removed("*"), written("adapter_config.json", ADAPTER)),
        "holds an adapter, to be merged into me/base first",
        "name the folder that these make",
    ),
    "an adapter beside the model": (written("adapter_config.json", ADAPTER), "holds an adapter", "merge_and_unload"),
    "a broken adapter": (written("adapter_config.json", "["), "merged into its base model", "merge_and_unload"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_local_model_that_cannot_be_loaded_has_its_own_remedy(whole, tmp_path, case):
    change, said, remedy = BROKEN[case]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    change(folder)
    with pytest.raises(ModelError) as error:
        LanguageModel.load(str(folder), device="cpu")
    line = str(error.value)
    assert said in line
    assert remedy in line
    assert str(folder) in line
    assert "\n" not in line
    assert LOGIN not in line
    assert "spelling" not in line


def test_a_streamed_model_that_is_not_whole_is_refused_too(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "model")
    configured(num_hidden_layers=4)(tmp_path / "model")
    with pytest.raises(ModelError, match=r"lacks .* of block 2"):
        list(StreamedModel.load(str(tmp_path / "model"), device="cpu").weights.stream(4))


def test_a_head_or_a_pooler_that_nobody_asks_for_may_be_missing(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "model")
    configured(architectures=["LlamaModel"])(tmp_path / "model")
    assert not LanguageModel.load(str(tmp_path / "model"), device="cpu").is_causal


# The Hub, which is not asked: what it answers is raised here.


def answered(kind, text="", cause=None):
    """An error as the Hub's library raises it, without the answer that it was made from."""
    error = kind.__new__(kind)
    Exception.__init__(error, text or kind.__name__)
    error.__cause__ = cause
    return error


def within(text, cause):
    error = OSError(text)
    error.__cause__ = cause
    return error


HUB = {
    "no such repository": (
        within("me/m is not a local folder and is not a valid model identifier", answered(hub.RepositoryNotFoundError)),
        "check the spelling, or `hf auth login`",
    ),
    "no repository's name": (OSError("Repo id must use alphanumeric chars"), "check the spelling, or `hf auth login`"),
    "gated": (
        within("You are trying to access a gated repo.", answered(hub.GatedRepoError)),
        "is gated: ask for access at https://huggingface.co/me/m, then `hf auth login`",
    ),
    "no such revision": (
        within("x is not a valid git identifier", answered(hub.RevisionNotFoundError)),
        "check --revision against https://huggingface.co/me/m/commits",
    ),
    "no network": (
        within("We couldn't connect to 'https://huggingface.co'", answered(hub.LocalEntryNotFoundError)),
        "check the network, or use tiny",
    ),
    "a token that is not accepted": (
        within("There was a specific connection error:\n401 Client Error", answered(hub.HfHubHTTPError)),
        "does not accept this machine's token",
    ),
    "no transformers model": (
        OSError("me/m does not appear to have a file named config.json."),
        "name one that has a config.json, or a file in GGUF as owner/name:file.gguf",
    ),
    "a failing server": (answered(hub.HfHubHTTPError, "503 Server Error"), "try again later"),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), "free some, or have HF_HOME name a larger disk"),
    "a folder that may not be written": (
        PermissionError(errno.EACCES, "Permission denied"),
        "change their permissions",
    ),
}


@pytest.mark.parametrize("case", HUB)
def test_a_hub_model_that_cannot_be_had_has_its_own_remedy(monkeypatch, case):
    answer, remedy = HUB[case]

    def raising(*_arguments, **_options):
        raise answer

    monkeypatch.setattr(named, "cached_file", raising)
    with pytest.raises(ModelError) as error:
        LanguageModel.load("me/m", device="cpu")
    line = str(error.value)
    assert remedy in line
    assert "me/m" in line
    assert "\n" not in line
    assert (LOGIN in line) == (case in ("no such repository", "no repository's name", "gated") or "token" in case)
    assert ("spelling" in line) == (case in ("no such repository", "no repository's name"))


def test_an_adapter_on_the_hub_is_told_from_a_model(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text(ADAPTER)

    def found(_source, file, **_options):
        if file == "config.json":
            raise OSError("me/m does not appear to have a file named config.json.")
        return str(tmp_path / file)

    monkeypatch.setattr(named, "cached_file", found)
    with pytest.raises(ModelError, match="holds an adapter, to be merged into me/base first"):
        LanguageModel.load("me/m", device="cpu")


def test_dictionaries_of_ours_on_the_hub_are_told_from_a_model(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("{}")

    def found(_source, file, **_options):
        if file == "config.json":
            raise OSError("me/m does not appear to have a file named config.json.")
        return str(tmp_path / file) if (tmp_path / file).exists() else None

    monkeypatch.setattr(named, "cached_file", found)
    with pytest.raises(ModelError, match="holds dictionaries of itda, not a language model: `itda info me/m` names"):
        LanguageModel.load("me/m", device="cpu")


@pytest.mark.parametrize(
    ("part", "error", "said"),
    [
        ("model", MemoryError(), "--dtype bfloat16 takes half, --stream little"),
        ("model", RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "--dtype bfloat16 takes half"),
        ("model", torch.OutOfMemoryError("CUDA out of memory."), "--dtype bfloat16 takes half"),
        (
            "config",
            ValueError("GGUF model with architecture rwkv is not supported yet."),
            "name the folder of the model",
        ),
        ("model", NotImplementedError("IQ7"), "transformers does not read x.gguf"),
        ("tokenizer", ValueError("Cannot build a tokenizer from it"), "cannot rebuild the tokenizer of x.gguf"),
        (None, RuntimeError("what nobody foresaw\nin two lines"), "what nobody foresaw in two lines"),
    ],
)
def test_what_rarely_happens_has_its_line_too(tmp_path, part, error, said):
    (tmp_path / "config.json").write_text("{}")
    line = str(why_not("x", str(tmp_path), part, error, "x.gguf" if part else None))
    assert said in line
    assert "\n" not in line
    assert LOGIN not in line


# Devices.


@pytest.mark.parametrize("name", ["gpu", "meta", "CUDA", "cuda:", "cuda:x", "cuda:-1", "", "tpu", "cpu ", "GPU:0"])
def test_a_misspelt_device_is_refused_before_anything_is_loaded(capsys, name):
    with pytest.raises(SettingError, match="use auto, cpu, cuda, cuda:1 or mps"):
        check_device(name)
    train = ["train", "tiny", "--layers", "1", "--corpus", "python-docs", "--out", "nowhere"]
    assert "no device" in refused(capsys, *train, "--device", name)
    assert not Path("nowhere").exists()
    with pytest.raises(SettingError, match="no device"):
        LanguageModel.load("tiny", device=name)


def test_devices_that_this_machine_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device("auto") == "cpu"
    with pytest.raises(SettingError, match=r"no --device cuda:1 here .*: use --device cpu"):
        usable_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [usable_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(SettingError, match="there is cuda:0 to cuda:1"):
        usable_device("cuda:2")
    with pytest.raises(SettingError, match="no --device npu here"):
        usable_device("npu")


# Numbers.


@pytest.mark.parametrize("flag", ["--checkpoint-every", "--threshold", "--min-fidelity"])
def test_nan_is_no_setting(capsys, tmp_path, flag):
    train = ["train", "tiny", "--layers", "1", "--corpus", "python-docs", "--out", str(tmp_path / "run")]
    assert f"{flag}: 'nan' is not a number" in refused(capsys, *train, flag, "nan")
    assert not (tmp_path / "run").exists()


def test_time_between_checkpoints_is_not_below_nothing(capsys, tmp_path):
    train = ["train", "tiny", "--layers", "1", "--corpus", "python-docs", "--out", str(tmp_path / "run")]
    assert "give seconds, at least 0" in refused(capsys, *train, "--checkpoint-every", "-1")
    assert issubclass(SettingError, ItdaError)
