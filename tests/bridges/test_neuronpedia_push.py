"""Atoms are pushed by Neuronpedia's own client to a stub of its server, which fails, is slow, and is left half-way."""

import json
import re
import shlex

import pytest
from bridges.conftest import SITES
from bridges.neuronpedia_stub import KEY, Fault, Stub, serving
from made_up_run import make_run
from page_blocks import blocks

from itda import Site
from itda.bridges import neuronpedia_client, neuronpedia_push
from itda.bridges.neuronpedia import places
from itda.bridges.neuronpedia_client import Client
from itda.bridges.neuronpedia_push import Model, Push, PushedSource, state_file
from itda.cli import main
from itda.errors import ItdaError, SettingError, StoreError
from itda.files import locked
from itda.store.records import open_record

pytest.importorskip("neuronpedia", reason="pip install -e '.[dev]'")


@pytest.fixture
def stub():
    with serving(Stub(models={"gpt2-small": {"id": "gpt2-small", "layers": 12, "dimension": 16}})) as served:
        yield served


@pytest.fixture
def slept(monkeypatch):
    """The seconds that a push has waited, which take no time here; batches are of 10 atoms."""
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    monkeypatch.setattr(neuronpedia_push, "BATCH", 10)
    return []


@pytest.fixture
def pushing(stub, slept, run, sources):
    """Push the first site, or another; what it said is in `said`."""

    def push(number=0, *, vectors=(), name="my-set", model="gpt2-small", **more):
        client = Client(stub.address, said.append, slept.append)
        place = places(open_record(run), [SITES[number]], model, name)[0]
        return Push(client, lambda _: None, said.append, **more).run(sources[number], place, vectors)

    said = push.said = []
    yield push
    for file in run.glob("neuronpedia-*.json"):
        file.unlink()


def used(source):
    return [atom for atom in range(source.index.atoms) if (source.index.uses(atom)[1] > 0).any()]


def uploads(stub):
    return [path for _, path, _ in stub.requests if path == "feature/upload-batch"]


def check_whole(stub, source, name="1-my-set"):
    """Every used atom is there once, with its label and examples."""
    there = stub.features["gpt2-small", name]
    assert sorted(there) == used(source)
    assert stub.activations == sum(len(each["activations"]) for each in there.values())
    for atom, each in there.items():
        positive = source.index.uses(atom)[1]
        positive = positive[positive > 0]
        assert each["density"] == pytest.approx(len(positive) / source.index.ordinary)
        assert f"«{source.dictionary.labels[atom].token}»".replace("\0", "␀") in each["explanations"][0]["text"]
        first = each["activations"][0]
        assert max(first["values"]) >= positive[0] * (1 - 1e-6)
        assert first["quantileFraction"] is None
        assert all(0 < band["quantileFraction"] < 1 for band in each["activations"] if band["quantileMin"] is not None)


def test_all_atoms_are_sent_with_what_the_real_server_checks(stub, pushing, sources):
    made, number = pushing(), len(used(sources[0]))
    address = stub.address.removesuffix("/api") + "/gpt2-small/1-my-set"
    assert made == PushedSource("gpt2-small", "1-my-set", number, {}, address)
    check_whole(stub, sources[0])
    assert len(uploads(stub)) == 3
    assert stub.sets["gpt2-small", "my-set"]["description"] == "ITDA: 24 atoms, resid_post, each a token of words"
    assert pushing.said == [f"{24 - len(used(sources[0]))} atoms of 1-my-set are left out: no indexed token uses them"]


def test_a_push_that_is_done_sends_nothing_again(stub, pushing, sources):
    pushing(vectors=[3])
    before = len(stub.requests)
    pushing(vectors=[3])
    assert [path for _, path, _ in stub.requests[before:]] == ["source-set/gpt2-small/my-set"]
    check_whole(stub, sources[0])
    assert len(stub.vectors) == 1


def test_the_layers_of_a_run_go_to_one_set(stub, pushing, sources):
    pushing()
    pushing(1)
    assert sorted(stub.features["gpt2-small", "3-my-set"]) == used(sources[1])
    assert [path for _, path, _ in stub.requests].count("source-set/new") == 1


def test_atoms_become_vectors_to_steer_by(stub, pushing, sources):
    made = pushing(vectors=[3, 17])
    assert list(made.vectors) == [3, 17]
    for atom, vector in zip((3, 17), stub.vectors, strict=True):
        assert vector["vector"] == pytest.approx(sources[0].dictionary.atoms[atom].tolist())
        assert vector["hookName"] == "blocks.1.hook_resid_post"
        assert vector["vectorDefaultSteerStrength"] == pytest.approx(min(100, sources[0].index.strongest[atom]))
        assert made.vectors[atom] == f"gpt2-small/1-neuronpedia-resid-post/{vector['index']}"


@pytest.mark.parametrize("fault", [
    Fault("upload-batch", 500, times=3), Fault("upload-batch", None, times=3), Fault("source-set/new", 502, times=2),
    Fault("my-set", None), Fault("upload-batch", 200, body=b"<html>", times=2), Fault("vector/new", 503),
])  # fmt: skip
def test_a_server_that_fails_for_a_while_is_asked_again(stub, slept, pushing, sources, fault):
    times = fault.times
    stub.faults.append(fault)
    pushing(vectors=[3])
    check_whole(stub, sources[0])
    assert slept == [1.0, 4.0, 16.0][:times]
    assert len(stub.vectors) == 1


@pytest.mark.parametrize("fault", [
    Fault("upload-batch", None, after=True), Fault("upload-batch", 500, after=True),
    Fault("vector/new", None, after=True),
])  # fmt: skip
def test_what_a_server_did_without_saying_so_is_not_done_twice(stub, pushing, sources, fault):
    stub.faults.append(fault)
    pushing(vectors=[3])
    check_whole(stub, sources[0])
    assert len(uploads(stub)) == 3
    assert len(stub.vectors) == 1


@pytest.mark.parametrize(
    ("headers", "waited"), [({"Retry-After": "7"}, [7.0] * 2), ({}, [60.0] * 2), ({"Retry-After": "odd"}, [60.0] * 2)]
)
def test_a_server_that_is_asked_too_often_is_given_the_time_it_wants(stub, slept, pushing, sources, headers, waited):
    stub.faults.append(Fault("upload-batch", 429, times=2, headers=headers))
    pushing()
    check_whole(stub, sources[0])
    assert slept == waited
    assert pushing.said[0] == f"{stub.address} asks to wait {waited[0]:.0f} s (429)"


FAILURES = [
    (Fault("upload-batch", 500, times=4), r"answers 500: nothing is lost, and the same command goes on from here"),
    (Fault("upload-batch", None, times=4), r"does not answer \(no connection\): nothing is lost"),
    (Fault("upload-batch", 401), r"does not know the key \(401\): check NEURONPEDIA_API_KEY; nothing is lost"),
    (
        Fault("upload-batch", 429, headers={"Retry-After": "3600"}),
        r"takes no more for now \(429\), and asks for 3,600 s",
    ),
    (Fault("upload-batch", 413, times=9), r"it is too large for .* \(413\): raise the server's limit"),
    (Fault("upload-batch", 400), r"refuses it \(400, made to fail\)"),
]


@pytest.mark.parametrize(("fault", "said"), FAILURES)
@pytest.mark.parametrize("sent_before", [0, 1])
def test_a_push_that_fails_is_one_line_and_goes_on(stub, pushing, sources, fault, said, sent_before):
    fault = Fault(fault.path, fault.status, fault.times, fault.headers)
    allowed = Fault("upload-batch", 200, times=sent_before, body=b"{}", after=True)
    stub.faults += [allowed, fault]
    with pytest.raises(StoreError, match=said) as error:
        pushing()
    assert "\n" not in str(error.value)
    assert re.match(r"cannot send atoms \d+ to \d+: ", str(error.value))
    assert len(stub.features.get(("gpt2-small", "1-my-set"), {})) == 10 * sent_before
    stub.faults.clear()
    pushing()
    check_whole(stub, sources[0])


def test_a_batch_that_is_too_large_is_sent_in_parts(stub, pushing, sources):
    sizes = []
    pushing(name="other")
    sizes = [size for _, path, size in stub.requests if path == "feature/upload-batch"]
    stub.faults.append(Fault("upload-batch", 413, times=99, size=max(sizes) // 3))
    stub.activations = 0
    pushing()
    check_whole(stub, sources[0])
    assert len(uploads(stub)) > 9


class Stopped(BaseException):
    """The end of a process, wherever it was."""


@pytest.mark.parametrize("after", range(10))
def test_a_push_that_is_killed_anywhere_goes_on_and_sends_nothing_twice(stub, pushing, sources, monkeypatch, after):
    """It ends right after the request or the record of number `after`."""
    steps = []

    def ending(step):
        def ends(*arguments, **given):
            found = step(*arguments, **given)
            steps.append(step)
            if len(steps) == after + 1:
                raise Stopped
            return found

        return ends

    with monkeypatch.context() as patch:
        patch.setattr(neuronpedia_push.Sent, "write", ending(neuronpedia_push.Sent.write))
        patch.setattr(Client, "ask", ending(Client.ask))
        with pytest.raises(Stopped):
            pushing(vectors=[3])
    pushing(vectors=[3])
    check_whole(stub, sources[0])
    assert len(stub.vectors) == 1
    assert len(uploads(stub)) == 3


def test_a_record_of_another_dictionary_or_server_is_refused(run, sources, stub, pushing):
    pushing()
    place = places(open_record(run), [SITES[0]], "gpt2-small", "my-set")[0]
    file = state_file(run, place)
    values = json.loads(file.read_text())
    values["sources"]["1-my-set"]["of"] = "another"
    file.write_text(json.dumps(values))
    with pytest.raises(StoreError, match=r"1-my-set was begun with another dictionary or index .*: name another set"):
        pushing()
    file.write_text(json.dumps({**values, "server": "http://elsewhere/api"}))
    with pytest.raises(
        StoreError, match=r"is of a push to http://elsewhere/api: name that --server, or remove the file"
    ):
        pushing()
    file.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        pushing()


def test_a_set_of_somebody_else_is_left_alone(stub, pushing):
    stub.answer("POST", "source-set/new", {"name": "my-set", "modelId": "gpt2-small"})
    with pytest.raises(StoreError, match=r"has a set gpt2-small/my-set already: name another one with --set"):
        pushing()
    assert stub.features == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"model": "gpt3"},
            r"refuses it \(400, Model not found\): name one of its models with --model, or make this one",
        ),
        ({"number": 1, "vectors": [1]}, "layer_3.mlp_out is no site that Neuronpedia steers at"),
        ({"vectors": [24]}, "no atom 24: use one from 0 to 23"),
    ],
)
def test_what_would_be_refused_is_one_line_and_sends_nothing(stub, pushing, given, said):
    with pytest.raises(ItdaError, match=said) as error:
        pushing(**given)
    assert "\n" not in str(error.value)
    assert stub.features == {}


def test_a_model_of_fewer_layers_is_refused(stub, pushing):
    stub.models["gpt2-small"]["layers"] = 1
    with pytest.raises(SettingError, match=r"gpt2-small on .* has no layer 1: check --model"):
        pushing()


def test_a_model_of_another_width_makes_no_vector(stub, pushing):
    stub.models["gpt2-small"]["dimension"] = 768
    with pytest.raises(StoreError, match="Vector dimension does not match model dimension"):
        pushing(vectors=[1])


def test_a_new_model_is_made_once(stub, pushing):
    for name in ("a-set", "b-set"):
        pushing(name=name, model="my-model", new_model=Model(5, "org/My-Model"))
    assert stub.models["my-model"]["layers"] == 5
    assert stub.models["my-model"]["displayName"] == "org/My-Model"


def test_without_a_key_or_a_client_the_remedy_is_named(stub, pushing, monkeypatch):
    monkeypatch.delenv("NEURONPEDIA_API_KEY")
    with pytest.raises(SettingError, match=r"no key for http.*: set NEURONPEDIA_API_KEY to yours"):
        pushing()
    with pytest.raises(SettingError, match=r"client is not installed: pip install 'itda\[neuronpedia\]'"):
        neuronpedia_client.client_package("neuronpedia.nothing")


def test_a_wrong_key_is_refused_and_nothing_is_lost(stub, pushing, monkeypatch):
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "wrong")
    with pytest.raises(StoreError, match=r"does not know the key \(401\)"):
        pushing()


def push_command(run, stub, *more):
    options = [
        "--to",
        "neuronpedia",
        "--model",
        "gpt2-small",
        "--layer",
        "1",
        "--server",
        f"{stub.address}/",
        "--quiet",
    ]
    main(["push", str(run), *options, *more])


def test_the_command_says_what_is_there_and_how_to_steer_by_it(run, sources, stub, pushing, capsys):
    number = len(used(sources[0]))
    push_command(run, stub, "--vectors", "3", "--dry-run")
    assert re.search(rf"gpt2-small/1-itda-res-24 +{number} +1\n\nNothing was sent", capsys.readouterr().out)
    assert stub.requests == []
    push_command(run, stub, "--vectors", "3")
    said = capsys.readouterr().out
    assert "Steer by atom 3: gpt2-small/1-neuronpedia-resid-post/90000000" in said
    assert f"See it: {stub.address.removesuffix('/api')}/gpt2-small/1-itda-res-24" in said
    check_whole(stub, sources[0], "1-itda-res-24")
    push_command(run, stub, "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["sources"][0]["vectors"] == {"3": "gpt2-small/1-neuronpedia-resid-post/90000000"}
    assert len(stub.vectors) == 1


def test_the_commands_of_the_page_run(stub, slept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", sites=(Site(3),), tokens=300)
    for block in blocks("bridges.md", "Neuronpedia", "sh"):
        for line in block.splitlines():
            words = shlex.split(line)
            if words[0] == "itda":
                main([*words[1:], *(["--server", stub.address] if words[1] == "push" else [])])
    assert (tmp_path / "run-neuronpedia" / "gpt2-small" / "3-itda-res-24" / "source.jsonl").exists()
    assert len(stub.vectors) == 2
    assert (tmp_path / "run" / "neuronpedia-gpt2-small-itda-res-24.json").exists()
    assert "Nothing was sent (--dry-run)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "neuronpedia"], "no model: give its id on Neuronpedia with --model"),
        (["user/name", "--to", "neuronpedia", "--model", "m2"], "a repository, --private and --index are for the Hub"),
        (["user/name", "--vectors", "3"], "--vectors is for --to neuronpedia: leave it out"),
        (
            ["--to", "neuronpedia", "--model", "m2", "--vectors", "1"],
            "--vectors are atoms of one dictionary: name its layer",
        ),
        (["--to", "neuronpedia", "--model", "m2", "--new-model", "0"], "--new-model is 0: give its number of layers"),
        (["--to", "neuronpedia", "--model", "m2", "--layer", "9"], "the run has no layer 9: use one of 1, 3.mlp_out"),
    ],
)
def test_slips_are_one_line(run, capsys, options, said):
    with pytest.raises(SystemExit) as stop:
        main(["push", str(run), *options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_two_pushes_at_once_are_refused(run, stub, pushing, capsys):
    with locked(run, "pushed"), pytest.raises(SystemExit):
        push_command(run, stub)
    assert "is being pushed by another process: wait for it, or end it" in capsys.readouterr().err


def test_the_client_prints_nothing(pushing, capsys):
    pushing(vectors=[2])
    assert capsys.readouterr() == ("", "")
