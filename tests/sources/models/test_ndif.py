"""A model through nnsight: in this process to the bit, and what NDIF may answer, by a stand-in for it."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest
import torch
from sources.models.families import shared

from itda.core.batch import Site
from itda.core.labels import Labels
from itda.errors import ModelError, SettingError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models import ndif as module
from itda.sources.models.ndif import RemoteModel
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

nnsight = pytest.importorskip("nnsight")

TEXTS = ["the cat sat", "naïve 🙂 日本", "", "the cat sat on the mat and ran " * 3]
CORPUS = Corpus.from_texts(TEXTS)
# Not in the order they are computed in.
SITES = [Site(2), Site(1), Site(1, "mlp_out"), Site(1, "attn_out")]


def batches(model):
    return list(ModelSource(model, CORPUS, SITES, window=12, batch_size=3))


def assert_same(given, known):
    assert len(given) == len(known) > 1
    for a, b in zip(given, known, strict=True):
        assert list(a) == SITES
        for site in SITES:
            assert torch.equal(a[site].activations, b[site].activations)
            for field in dataclasses.fields(Labels):
                assert (getattr(a[site].labels, field.name) == getattr(b[site].labels, field.name)).all()


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["tiny", "gpt2", "llama", "bert"])
def test_the_bits_are_those_of_the_ordinary_source(name):
    model = LanguageModel.load("tiny", device="cpu") if name == "tiny" else shared(name)
    side = model.tokenizer.padding_side
    assert_same(batches(RemoteModel.over(model)), batches(model))
    assert model.tokenizer.padding_side == side


def test_a_model_by_name_that_runs_here():
    assert_same(batches(RemoteModel.load("tiny", remote=False)), batches(LanguageModel.load("tiny")))


def test_a_request_needs_nothing_but_what_the_server_has():
    model = shared("gpt2")
    assert_same(batches(RemoteModel.over(model, remote="local")), batches(model))


def test_every_window_of_a_group_is_read_where_a_block_returns_a_tensor():
    model = RemoteModel.over(shared("llama"))
    group = next(model.windower(12).groups(CORPUS, 3))
    (_, found), *_ = model.harvest([group], [Site(0)])
    assert group.is_activation[1:].any()
    assert found[Site(0)].shape == (int(group.is_activation.sum()), model.d_model)


def test_a_request_has_many_groups(monkeypatch):
    asked = []
    true_request = module._request
    monkeypatch.setattr(
        module, "_request", lambda m, groups, *rest: asked.append(groups) or true_request(m, groups, *rest)
    )
    model = RemoteModel.over(shared("llama"))
    assert model.flight(36) == 227
    batches(model)
    assert len(asked) == 1


def test_a_site_that_is_not_there():
    with pytest.raises(ModelError, match="no layer 9"):
        RemoteModel.over(shared("llama")).check([Site(9)])


def failing(times, error):
    """A request that fails so many times before it works."""
    left, true_request = [times], module._request

    def request(*arguments):
        if left[0]:
            left[0] -= 1
            raise error
        return true_request(*arguments)

    return request


class RemoteError(Exception):
    """As nnsight raises."""


def caused(error, cause):
    error.__cause__ = cause
    return error


def answered(status):
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1"))
    return caused(
        RemoteError("Failed to send request"), httpx.HTTPStatusError("no", request=response.request, response=response)
    )


def websocket_lost():
    import websocket

    return websocket.WebSocketConnectionClosedException("Connection to remote host was lost.")


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("x"),
        ConnectionResetError(),
        answered(503),
        answered(429),
        websocket_lost(),
        RemoteError("it timed out"),
    ],
    ids=repr,
)
def test_a_passing_failure_is_tried_again_after_longer_and_longer(error, monkeypatch):
    monkeypatch.setattr(module, "_request", failing(3, error))
    slept = []
    model = dataclasses.replace(RemoteModel.over(shared("llama")), sleep=slept.append)
    assert_same(batches(model), batches(shared("llama")))
    assert slept == [2, 4, 8]


def test_a_failure_that_goes_on_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "_request", failing(99, TimeoutError("too\nslow")))
    slept = []
    model = dataclasses.replace(RemoteModel.over(shared("llama")), sleep=slept.append)
    with pytest.raises(ModelError, match=r"did not answer 6 times \(TimeoutError: slow\)") as error:
        batches(model)
    one_line(error)
    assert slept == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("error", [answered(401), RemoteError("a trace\nValueError: no such module"), ValueError("x")])
def test_a_lasting_failure_is_not_tried_again(error, monkeypatch):
    monkeypatch.setattr(module, "_request", failing(1, error))
    model = dataclasses.replace(RemoteModel.over(shared("llama")), sleep=pytest.fail)
    with pytest.raises(ModelError, match="failed through nnsight") as raised:
        batches(model)
    one_line(raised)


def deployments(**states):
    return SimpleNamespace(
        deployments={
            name: {"repo_id": f"meta/{name}", "state": state, "revision": "main", "task": "text-generation"}
            for name, state in states.items()
        }
    )


@pytest.fixture
def with_key(monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "a key")


@pytest.mark.usefixtures("with_key")
def test_a_model_that_does_not_run_is_an_error_with_those_that_do(monkeypatch):
    monkeypatch.setattr(nnsight, "status", lambda: deployments(big="RUNNING", other="RUNNING", cold="DEPLOYING"))
    with pytest.raises(ModelError, match=r"^meta/small is not running on NDIF: use one that is: meta/big, meta/other$"):
        RemoteModel.load("meta/small")
    with pytest.raises(ModelError, match=r"^meta/cold is not running on NDIF \(deploying\): "):
        RemoteModel.load("meta/cold")
    with pytest.raises(ModelError, match=r"^meta/big at revision old is not running"):
        RemoteModel.load("meta/big", revision="old")


@pytest.mark.usefixtures("with_key")
def test_a_model_that_runs_is_built_without_weights(monkeypatch, tmp_path):
    tiny = LanguageModel.load("tiny", device="cpu")
    name = str(tmp_path / "model")
    tiny.model.save_pretrained(name)
    tiny.tokenizer.save_pretrained(name)
    state = {"repo_id": name, "state": "RUNNING", "revision": "main", "task": "text-generation"}
    monkeypatch.setattr(nnsight, "status", lambda: SimpleNamespace(deployments={name: state}))
    model = RemoteModel.load(name)
    assert (model.device, model.layers, model.d_model, model.dtype) == ("ndif", 6, 192, tiny.dtype)
    assert model.tokenizer_hash == tiny.tokenizer_hash
    assert {parameter.device.type for parameter in model.model.model.parameters()} == {"meta"}
    # As the server would run it: the request is made, and a server with the weights answers.
    here = RemoteModel.over(tiny)
    monkeypatch.setattr(
        module, "_request", lambda _m, groups, readers, _r, inputs=(): _served(here, groups, readers, inputs)
    )
    assert_same(batches(model), batches(tiny))


def _served(here, groups, readers, inputs, request=module._request):
    by_path = {envoy.path: envoy for envoy in here.traced.modules()}
    return request(here.traced, groups, [by_path[reader.path] for reader in readers], "local", inputs)


@pytest.mark.usefixtures("with_key")
def test_an_ndif_that_does_not_answer_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(nnsight.ndif, "_get", lambda *_a, **_k: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(ModelError, match="NDIF does not answer") as error:
        RemoteModel.load("meta/small")
    one_line(error)
    assert capsys.readouterr().err == ""


def test_a_missing_key_is_an_error_with_its_remedy(monkeypatch):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", None)
    with pytest.raises(SettingError, match=r"https://login\.ndif\.us and set NDIF_API_KEY"):
        RemoteModel.load("meta/small")


def test_nnsight_that_is_not_here_is_an_error_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(SettingError, match=r"pip install 'itda\[remote\]'"):
        RemoteModel.load("meta/small")
