"""A run is opened again with the very model it was made from: the same commit, the same files, the same dtype."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
from sources.models.families import byte_tokenizer
from test_cli import printed, refused
from transformers import LlamaConfig, LlamaForCausalLM

from itda import ITDA, recipes
from itda.cli import main
from itda.config import Explore, ModelOptions, Train
from itda.core.batch import Site
from itda.errors import ModelError
from itda.recipes.explore import explorer_of
from itda.sources.models.named import NamedModel
from itda.sources.models.transformers import LanguageModel

TRAIN = ["--layers", "1", "--tokens", "300", "--k", "4", "--window", "32", "--threshold", "0.3"]
TRAIN += ["--mode", "paper", "--quiet"]
COMMITS = "a" * 40, "b" * 40


def save(folder, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def a_norm_changed(folder):
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] += 1e-3  # pyright: ignore[reportAttributeAccessIssue]
    model.save_pretrained(folder)


def quick(run):
    """Those that take no seconds where they go on: probes are judged by resampling."""
    return {name: arguments for name, arguments in commands(run).items() if name != "probe"}


def write_corpus(folder):
    folder.mkdir()
    for i in range(60):
        text = "".join(f"The cat sat on mat {i}, and so did dog {j}.\n" for j in range(3))
        (folder / f"{i:02}.py").write_text(f'"""{text}"""\n\n\ndef f_{i}(path):\n    return path + {i} * "{i}"\n')
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("texts") / "corpus")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with the model `models/mine` and the corpus `corpus`, from which `run` was made."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "models" / "mine")
    write_corpus(tmp_path / "corpus")
    main(["train", "models/mine", "--corpus", "corpus", "--out", "run", *TRAIN])
    return tmp_path


def commands(run):
    """What opens the model of a run again."""
    return {
        "decompose": ["decompose", str(run), "the cat sat"],
        "evaluate": ["evaluate", str(run), "--tokens", "50", "--quiet"],
        "index": ["index", str(run), "--tokens", "50", "--quiet"],
        "probe": ["probe", str(run), "--tokens", "1500", "--quiet"],
        "export": ["explore", str(run), "--export", "page.html", "--prompts", "the cat", "--quiet"],
    }


# Files on this machine.


def test_a_model_with_one_changed_norm_is_refused_by_all_that_open_it_again(home, capsys):
    a_norm_changed(home / "models" / "mine")
    for name, arguments in commands("run").items():
        said = refused(capsys, *arguments)
        assert "models/mine has changed since run was made" in said, name
        assert "add --changed-model to go on with this one" in said
    assert not (home / "run" / "layer_1" / "metrics.json").exists()
    assert not (home / "run" / "index").exists()
    assert not (home / "page.html").exists()


def test_the_live_explorer_refuses_a_changed_model_too(home):
    a_norm_changed(home / "models" / "mine")
    explorer = explorer_of(Explore(runs=(home / "run",)))
    with pytest.raises(ModelError, match="--changed-model"):
        explorer.answer("decompose", {"run": "run", "site": "layer_1", "text": "the cat"})


def test_changed_model_goes_on_and_it_is_said_and_recorded(home, capsys):
    before = printed(capsys, "evaluate", "run", "--tokens", "50", "--json")
    a_norm_changed(home / "models" / "mine")
    capsys.readouterr()
    main(["evaluate", "run", "--tokens", "50", "--changed-model", "--json"])
    output, error = capsys.readouterr()
    assert error.count("the dictionaries are of another model (--changed-model)") == 1
    assert json.loads(output)["sites"] != json.loads(before)["sites"]
    assert json.loads((home / "run" / "layer_1" / "metrics.json").read_text())["changed_model"] is True
    main(["index", "run", "--tokens", "50", "--changed-model", "--quiet"])
    assert json.loads((home / "run" / "index" / "index.json").read_text())["changed_model"] is True
    assert "explained" in printed(capsys, "decompose", "run", "the cat", "--changed-model")


def test_an_index_of_a_changed_model_is_made_anew_for_the_right_one(home, capsys):
    shutil.copytree("models/mine", "kept")
    a_norm_changed(home / "models" / "mine")
    main(["index", "run", "--tokens", "50", "--changed-model", "--quiet"])
    shutil.rmtree("models/mine")
    Path("kept").rename("models/mine")
    assert json.loads(printed(capsys, "index", "run", "--tokens", "50", "--json", "--quiet"))["new"] is True
    assert json.loads((home / "run" / "index" / "index.json").read_text())["changed_model"] is False


@pytest.mark.parametrize("change", ["tokenizer.json", "config.json", "corpus"])
def test_another_tokenizer_configuration_or_corpus_is_refused(home, capsys, change):
    path = home / "corpus" / "03.py" if change == "corpus" else home / "models" / "mine" / change
    path.write_text(path.read_text() + "\n")
    assert "has changed since" in refused(capsys, *commands("run")["index"])


def test_a_run_of_an_older_itda_takes_its_model_as_it_is(home, capsys):
    record = json.loads(Path("run/run.json").read_text())
    del record["model_fingerprint"]
    Path("run/run.json").write_text(json.dumps(record))
    a_norm_changed(home / "models" / "mine")
    assert "explained" in printed(capsys, "decompose", "run", "the cat")


def test_relative_paths_name_the_same_folders_from_everywhere(home, tmp_path, monkeypatch, capsys):
    record = json.loads(Path("run/run.json").read_text())
    assert (record["model"], record["corpus"]) == (str(home / "models" / "mine"), str(home / "corpus"))
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    for arguments in quick(home / "run").values():
        main(arguments)


def test_a_model_that_was_moved_is_not_asked_of_the_hub_and_can_be_named(home, capsys):
    Path("models").rename("moved")
    for arguments in commands("run").values():
        said = refused(capsys, *arguments)
        assert f"the model of run was in {home / 'models' / 'mine'}, and is not there now" in said
        assert "--model-path" in said
    for arguments in quick("run").values():
        main([*arguments, "--model-path", "moved/mine"])
    assert "check --model-path" in refused(capsys, *commands("run")["decompose"], "--model-path", "nowhere")
    save(home / "other", seed=1)
    assert "--changed-model" in refused(capsys, *commands("run")["decompose"], "--model-path", "other")


def test_a_corpus_that_was_moved_is_not_asked_of_the_hub_and_can_be_named(home, capsys):
    Path("corpus").rename("texts")
    for name in ("evaluate", "index", "probe"):
        said = refused(capsys, *commands("run")[name])
        assert f"the corpus of run was in {home / 'corpus'}, and is not there now" in said
    for name in ("evaluate", "index"):
        main([*commands("run")[name], "--corpus-path", "texts"])
    metrics = json.loads(Path("run/layer_1/metrics.json").read_text())
    assert metrics["part"] == "heldout"  # unlike with --corpus, which is all used
    (home / "texts" / "01.py").write_text("other")
    assert "has changed since the run" in refused(capsys, *commands("run")["evaluate"], "--corpus-path", "texts")


def test_activations_on_disk_know_their_model(home, capsys, monkeypatch):
    harvest = ["harvest", "models/mine", "--layers", "1", "--corpus", "corpus", "--tokens", "300", "--window", "32"]
    main([*harvest, "--out", "kept", "--quiet"])
    main(["train", "--activations", "kept", "--k", "4", "--out", "from_disk", "--quiet"])
    fingerprints = [json.loads(Path(run, "run.json").read_text())["model_fingerprint"] for run in ("run", "from_disk")]
    assert fingerprints[0] == fingerprints[1] is not None
    assert ITDA.from_pretrained("from_disk/layer_1").provenance["model_fingerprint"] == fingerprints[0]
    a_norm_changed(home / "models" / "mine")
    assert "--changed-model" in refused(capsys, *commands("from_disk")["decompose"])


# The Hub.


@pytest.fixture
def moving(tmp_path, monkeypatch):
    """The Hub model me/m with two commits, in a cache; call it with one of them to move its branch there."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--me--m"
    for seed, commit in enumerate(COMMITS):
        save(folder / "snapshots" / commit, seed)
    (folder / "refs").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def move(commit):
        (folder / "refs" / "main").write_text(commit)

    move(COMMITS[0])
    return move


def test_the_commit_of_a_hub_model_is_recorded_and_is_what_is_loaded_again(moving, corpus, capsys):
    main(["train", "me/m", "--corpus", str(corpus), "--out", "run", *TRAIN])
    assert json.loads(Path("run/run.json").read_text())["revision"] == COMMITS[0]
    assert ITDA.from_pretrained("run/layer_1").provenance["revision"] == COMMITS[0]
    before = printed(capsys, *commands("run")["decompose"])
    main(commands("run")["evaluate"])
    metrics = Path("run/layer_1/metrics.json").read_text()
    moving(COMMITS[1])
    assert printed(capsys, *commands("run")["decompose"]) == before
    assert recipes.open_run(Path("run")).model(ModelOptions()).revision == COMMITS[0]
    main(commands("run")["evaluate"])
    assert json.loads(Path("run/layer_1/metrics.json").read_text())["fvu"] == json.loads(metrics)["fvu"]
    main(commands("run")["index"])
    assert json.loads(Path("run/index/index.json").read_text())["revision"] == COMMITS[0]


def test_the_streamed_and_the_whole_model_are_of_one_commit(moving, corpus):
    main(["train", "me/m", "--corpus", str(corpus), "--out", "run", "--stream", *TRAIN])
    assert json.loads(Path("run/run.json").read_text())["revision"] == COMMITS[0]
    assert LanguageModel.load("me/m", revision=COMMITS[1]).revision == COMMITS[1]


class _KilledError(Exception):
    pass


def killed_after(tokens):
    """A bar of a process that is killed once it has read so many tokens."""

    class Bar:
        seen = 0

        def update(self, n):
            self.seen += n
            if self.seen > tokens:
                raise _KilledError

        def set_postfix_str(self, s):
            pass

    @contextmanager
    def bar(_name, _tokens):
        yield Bar()

    return bar


def begun(model, corpus, out):
    options = Train(
        model=model, layers=(1,), corpus=str(corpus), out=Path(out), tokens=600, k=4, window=32, threshold=0.3,
        batch_size=2, checkpoint_every=0.0,
    )  # fmt: skip
    with pytest.raises(_KilledError):
        recipes.train(options, killed_after(200))


def test_a_run_that_is_resumed_keeps_the_commit_that_it_was_begun_with(moving, corpus):
    begun("me/m", corpus, "run")
    moving(COMMITS[1])
    recipes.train(Train(resume=Path("run")))
    whole = Train(
        model="me/m", layers=(1,), corpus=str(corpus), out=Path("whole"), tokens=600, k=4, window=32, threshold=0.3,
        batch_size=2, revision=COMMITS[0],
    )  # fmt: skip
    recipes.train(whole)
    assert json.loads(Path("run/run.json").read_text())["revision"] == COMMITS[0]
    assert torch.equal(ITDA.from_pretrained("run/layer_1").atoms, ITDA.from_pretrained("whole/layer_1").atoms)


def test_a_run_of_an_unknown_commit_is_not_resumed_with_another(moving, corpus, capsys):
    begun("me/m", corpus, "run")
    noted = json.loads(Path("run/unfinished.json").read_text())
    noted["about"]["revision"] = None
    Path("run/unfinished.json").write_text(json.dumps(noted))
    assert "the commit of the model was None when run was begun" in refused(capsys, "train", "--resume", "run")


def test_a_run_is_not_resumed_with_a_changed_model(home, capsys):
    begun("models/mine", "corpus", "begun")
    a_norm_changed(home / "models" / "mine")
    assert "the model was all:" in refused(capsys, "train", "--resume", "begun")


def test_a_folder_in_the_way_of_a_hub_model_is_not_taken_for_it(moving, corpus, capsys):
    main(["train", "me/m", "--corpus", str(corpus), "--out", "run", *TRAIN])
    save(Path("me/m"), seed=1)
    assert "is a folder of that name" in refused(capsys, *commands("run")["decompose"])


def test_a_model_whose_commit_cannot_be_known_is_refused(moving, corpus, capsys, monkeypatch, tmp_path):
    file = save(tmp_path / "plain") / "config.json"
    monkeypatch.setattr("itda.sources.models.named.cached_file", lambda *_args, **_options: str(file))
    said = refused(capsys, "train", "me/m", "--corpus", str(corpus), "--out", "run", *TRAIN)
    assert "cannot tell which commit of me/m this is" in said
    assert not Path("run").exists()


# The dtype.


@pytest.fixture
def halved(home):
    main(["train", "models/mine", "--corpus", "corpus", "--out", "halved", "--dtype", "bfloat16", *TRAIN])
    return home / "halved"


def test_auto_is_the_dtype_of_the_run_in_all_that_open_it_again(halved, capsys):
    main(commands("halved")["evaluate"])
    assert json.loads((halved / "layer_1" / "metrics.json").read_text())["dtype"] == "bfloat16"
    main([*commands("halved")["evaluate"], "--stream"])
    assert json.loads((halved / "layer_1" / "metrics.json").read_text())["dtype"] == "bfloat16"
    main(commands("halved")["index"])
    assert json.loads((halved / "index" / "index.json").read_text())["dtype"] == "bfloat16"
    explorer = explorer_of(Explore(runs=(Path("run"), halved)))
    assert [explorer._model(name)[0].dtype for name in ("run", "halved")] == ["float32", "bfloat16"]
    # An atom's own token gives the atom back: its activation is the one of the run, to the bit.
    dictionary, run = ITDA.from_pretrained(halved / "layer_1"), recipes.open_run(halved)
    label = dictionary.labels[0]
    text = label.before + label.token + label.after
    printed_ = json.loads(printed(capsys, "decompose", "halved", text, "--json"))
    codes = [token["atoms"] for token in printed_["tokens"] if token["label"]["char_end"] == label.char_end]
    assert [len(atoms) for atoms in codes] == [1]
    assert run.dictionary(Site(1)).d_model == 32


def test_an_index_in_another_dtype_than_the_runs_is_made_anew(halved, capsys):
    main([*commands("halved")["index"], "--dtype", "float32"])
    index = json.loads((halved / "index" / "index.json").read_text())
    index["settings"]["dtype"] = "auto"  # as an older itda wrote it, where auto was float32
    (halved / "index" / "index.json").write_text(json.dumps(index))
    assert json.loads(printed(capsys, *commands("halved")["index"], "--json"))["dtype"] == "bfloat16"


def test_compare_says_that_dtypes_differ(halved, capsys):
    assert "dtype: float32 and bfloat16" in printed(capsys, "compare", "run", "halved")


def test_compare_knows_a_model_in_another_folder_and_one_that_has_changed(home, capsys):
    shutil.copytree("models/mine", "copy")
    main(["train", "copy", "--corpus", "corpus", "--out", "again", *TRAIN])
    a_norm_changed(home / "models" / "mine")
    main(["train", "models/mine", "--corpus", "corpus", "--out", "changed", *TRAIN])
    kinds = [
        pair["kind"] for pair in json.loads(printed(capsys, "compare", "run", "again", "changed", "--json"))["pairs"]
    ]
    assert kinds == ["repetition", "models", "models"]


def test_a_dtype_that_is_asked_for_is_taken(halved, capsys):
    main([*commands("halved")["evaluate"], "--dtype", "float32"])
    assert json.loads((halved / "layer_1" / "metrics.json").read_text())["dtype"] == "float32"


def test_a_checkpoint_has_one_fingerprint_wherever_it_is(home):
    shutil.copytree("models/mine", "copy")
    assert NamedModel.named("copy").fingerprint() == NamedModel.named(str(home / "models" / "mine")).fingerprint()
    assert NamedModel.named("tiny").fingerprint().startswith("all:")
