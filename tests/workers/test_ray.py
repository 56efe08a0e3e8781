"""A model and trainers on a Ray cluster of two nodes, on this machine: the bits of one process, whatever dies."""

import itertools
import os
import signal
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch

import itda
import itda.workers.model
from itda.core.batch import Site
from itda.core.labels import Labels
from itda.core.training.trainer import Trainer
from itda.errors import ActivationError, ModelError, SettingError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.workers.cluster import Packed, RayCluster
from itda.workers.model import RayModel
from itda.workers.trainers import RayTrainers

SITES = [Site(1), Site(3, "mlp_out")]
TOKENS = 2500
CORPUS = Corpus.from_texts([path.read_text() for path in sorted(Path(itda.__file__).parent.glob("core/b*.py"))])
TINY = partial(LanguageModel.load, "tiny", device="cpu")


@pytest.fixture(scope="module")
def cluster(address):
    with RayCluster.connect(address) as connected:
        yield connected


@pytest.fixture(scope="module")
def alone():
    """By the number of threads: what one process gives."""
    before, found = torch.get_num_threads(), {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found[threads] = list(source(TINY()))
    torch.set_num_threads(before)
    return found


def source(model, **options):
    return ModelSource(model, CORPUS, SITES, **{"window": 64, "batch_size": 4, "tokens": TOKENS, **options})


def new_trainers():
    """One that grows, and one of recipe 2, which does not."""
    sizes = ({"threshold": 0.3, "passes": 1}, {"atoms": 60, "passes": 4, "recipe": 2})
    return {
        site: Trainer(192, tokens=TOKENS, k=8, offset_tokens=500, **sizes[number % 2])
        for number, site in enumerate(SITES)
    }


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for given, known in zip(batches, expected, strict=True):
        for site in SITES:
            assert torch.equal(given[site].activations, known[site].activations)
            assert_same_labels(given[site].labels, known[site].labels)


def assert_same_labels(given, known):
    for field in fields(Labels):
        assert (getattr(given, field.name) == getattr(known, field.name)).all(), field.name


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_worker_gives_the_bits_of_one_process_with_as_many_threads(cluster, alone):
    with RayModel(cluster, TINY, threads=2) as model:
        assert (model.name, model.layers, model.d_model, model.dtype) == ("tiny", 6, 192, "float32")
        assert (model.device, model.revision, model.tokenizer_hash) == ("cpu", None, TINY().tokenizer_hash)
        assert_same(list(source(model)), alone[2])
        with pytest.raises(ModelError, match=r"^no layer 9: the model has layers 0 to 5$"):
            model.check([Site(9)])
        with pytest.raises(SettingError, match="reads at most"):
            model.windower(10**6)
        assert [model.windower(24, bos).prefix for bos in ("auto", "never")] == [TINY().windower(24).prefix, []]


def test_two_workers_do_it_where_there_is_no_room_for_the_third(cluster, alone):
    with RayModel(cluster, TINY, workers=3, cpus=2) as model:
        assert_same(list(source(model)), alone[1])
        assert len(model.processes) <= 2


def test_a_killed_worker_of_two_costs_nothing_but_time(cluster, alone, capsys):
    with RayModel(cluster, TINY, workers=2) as model:
        batches = []
        for number, batch in enumerate(source(model)):
            batches.append(batch)
            if number == 0:
                before = set(model.processes)
                busy = next(worker for worker in model._workers if worker.is_ready)
                os.kill(cluster.get(busy.started), signal.SIGKILL)
        assert_same(batches, alone[1])
        assert set(model.processes) != before
        # And what is asked of it then is as good as before.
        assert_same(list(source(model)), alone[1])
    assert "raylet" not in capsys.readouterr().out


def test_trainers_side_by_side_go_on_from_a_state_and_give_what_one_process_does(cluster, alone):
    middle, here = len(alone[1]) // 2, new_trainers()
    for batch in alone[1][:middle]:
        for site, trainer in here.items():
            trainer.offer(batch[site])
    with RayTrainers(cluster, new_trainers(), ahead=2) as trainers:
        trainers.restore({site: trainer.state() for site, trainer in here.items()})
        for batch in alone[1][middle:]:
            trainers.offer(batch)
            for site, trainer in here.items():
                trainer.offer(batch[site])
        growing = {site: trainer for site, trainer in here.items() if trainer.grows}
        assert 0 < len(growing) < len(SITES)
        assert trainers.atom_counts() == {site: len(trainer) for site, trainer in growing.items()}
        first = {site: alone[1][0][site].activations[:5] for site in SITES}
        errors = trainers.errors(first)
        assert errors.keys() == growing.keys()
        for site, error in errors.items():
            assert torch.equal(error, here[site].error(first[site]))
        states = trainers.training_states()
        found = trainers.finish({SITES[0]: {"mode": "best"}})
    assert found[SITES[0]].mode == "best"
    again = new_trainers()
    for site, trainer in here.items():
        again[site].restore(states[site])
        for known in (trainer.finish(), again[site].finish()):
            assert torch.equal(found[site].atoms, known.atoms)
            assert_same_labels(found[site].labels, known.labels)


def test_a_trainer_that_refuses_or_dies_is_an_error_with_a_remedy(cluster, alone):
    batch = alone[1][0][SITES[0]]
    bad = itda.ActivationBatch(torch.full_like(batch.activations, torch.nan), batch.labels)
    with RayTrainers(cluster, {SITES[0]: new_trainers()[SITES[0]]}) as trainers:
        trainers.offer({SITES[0]: bad})
        with pytest.raises(ActivationError) as error:
            trainers.atom_counts()
        one_line(error)
        trainers.offer({SITES[0]: batch})  # the bad batch is left out, and that is all
        assert trainers.atom_counts() == {SITES[0]: 0}
        cluster.kill(trainers._actors[SITES[0]])
        end = time.monotonic() + 30
        answers = iter(trainers.atom_counts, None)
        with pytest.raises(ModelError, match=r"trains layer_1 died.*resume") as error:
            list(itertools.takewhile(lambda _: time.monotonic() < end, answers))  # it may answer before it dies
        one_line(error)


def test_what_goes_wrong_in_a_worker_is_one_line(cluster, monkeypatch):
    def broken():
        raise RuntimeError("first\nsecond")

    def fatal():
        os._exit(1)

    with pytest.raises(ModelError, match=r"^no folder '/nowhere'"):
        RayModel(cluster, partial(LanguageModel.load, "/nowhere"))
    with pytest.raises(ModelError, match=r"a Ray worker failed \(RuntimeError: first\)") as error:
        RayModel(cluster, broken)
    one_line(error)
    monkeypatch.setattr(itda.workers.model, "TRIES", 1)
    with pytest.raises(ModelError, match="1 Ray workers died while they loaded the model") as error:
        RayModel(cluster, fatal)
    one_line(error)


def test_too_few_resources_is_an_error_and_not_a_wait(cluster):
    started = time.monotonic()
    with pytest.raises(SettingError, match=r"no room for a Ray worker in 0\.5 s: it asks for 99 CPUs") as error:
        RayModel(cluster, TINY, cpus=99, patience=0.5)
    assert "the cluster has 4 CPUs" in one_line(error)
    with pytest.raises(SettingError, match=r"no room for 2 Ray workers in 0\.5 s: each asks for 99 CPUs"):
        RayTrainers(cluster, new_trainers(), cpus=99, patience=0.5)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999999"])
def test_an_address_where_nothing_listens_is_known_at_once(address, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(SettingError, match=r"address|cluster at") as error:
        RayCluster.connect(address)
    one_line(error)


def test_ray_that_is_not_here_is_an_error_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install 'itda\[ray\]'"):
        RayCluster.connect("auto")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_tensors_travel_bit_by_bit(dtype, shape):
    x = torch.randn(shape).to(dtype)
    assert torch.equal(Packed.of(x).tensor(), x)
    assert Packed.of(x).tensor().dtype == dtype
