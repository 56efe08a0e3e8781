"""Effects of atoms on the bundled model: what one pass for each atom gives, and the same bits however it is stopped."""

import numpy as np
import pytest
import torch

import itda
from itda.core.effects import FIELDS, MEASURES, AtomEffects, EffectSettings
from itda.core.site import Site
from itda.errors import SettingError
from itda.sources.corpora.corpus import Corpus
from itda.steering.atom_effects import Measuring
from itda.steering.effect_sums import Pairs, log_mass

SITE = Site(3)
ASKED = EffectSettings(contexts=6, strength=3.0, tokens=150, seed=1)
TEXTS = [
    f"def read_{i}(path, mode='r'):\n    with open(path, mode) as file{i}:\n        return file{i}.read().strip()\n\n"
    f"for each in range({i}):\n    print(each, 'of', {i})\n    value_{i} = [each, each + 1, {{'a': {i}}}]\n"
    for i in range(14)
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS)


@pytest.fixture(scope="module")
def atoms(lm):
    """A dictionary of 60 activations."""
    windower = lm.windower(64)
    group = windower.group([windower.windows(each)[0] for each in Corpus.from_texts(TEXTS)], len(TEXTS))
    x = lm.activations(group, [SITE])[SITE][group.is_activation].clone()
    chosen = torch.linspace(3, len(x) - 1, 60).long()
    return itda.ITDA(x[chosen] / x[chosen].norm(dim=1, keepdim=True), group.labels()[chosen], k=6, site=SITE)


@pytest.fixture(scope="module")
def measuring(lm, atoms, corpus) -> Measuring:
    made = Measuring(lm, atoms, SITE, corpus, ASKED)
    for _ in made.run():
        pass
    return made


def same(a: AtomEffects, b: AtomEffects) -> bool:
    return all(
        np.array_equal(getattr(a.measures[name], field), getattr(b.measures[name], field), equal_nan=True)
        for name in MEASURES
        for field in FIELDS
    )


def pushed(lm, ids, vector) -> torch.Tensor:
    """Log-probabilities of the next token, with a vector added at the last one, by a pass with a plain hook."""

    def add(_module, _inputs, output):
        changed = (output[0] if isinstance(output, tuple) else output).clone()
        changed[0, -1] += vector
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = lm.places([SITE])[SITE].module.register_forward_hook(add)
    try:
        with torch.no_grad():
            return lm.model(input_ids=ids[None], use_cache=False).logits[0, -1].log_softmax(dim=0)
    finally:
        handle.remove()


def mass(log_p, targets) -> float:
    return sum(log_p[i].exp().item() for i in targets)


def target_ids(measuring, kind: int, atom: int) -> list[int]:
    return [i for i in measuring.added.targets[kind][atom].tolist() if i >= 0]


def test_adding_gives_what_a_pass_for_each_atom_and_context_gives(lm, atoms, measuring):
    sample, found = measuring.sample, measuring.found()
    assert not measuring.whole
    for atom in (0, 7, 33):
        for kind, name in enumerate(("added_continuation", "added_promoted")):
            targets, changes = target_ids(measuring, kind, atom), []
            if not targets:
                assert np.isnan(found.measures[name].effect[atom])
                continue
            for row in measuring.tokens:
                window = sample.window[row]
                if sample.documents[window] == atoms.labels.document[atom]:
                    continue
                ids = sample.windows[window][: sample.at[row] + 1]
                after = pushed(lm, ids, measuring.push * atoms.atoms[atom])
                before = pushed(lm, ids, torch.zeros(atoms.d_model))
                changes.append(np.log(mass(after, targets) / mass(before, targets)))
            assert found.measures[name].effect[atom] == pytest.approx(np.mean(changes), abs=1e-4)
            assert found.added[atom] == len(changes)


def test_ablating_takes_the_atom_from_codes_and_the_control_others_with_as_much_energy(lm, atoms, measuring):
    sample, entries, found = measuring.sample, measuring.ablations, measuring.found()
    atom = int(np.argmax(found.ablated))
    own, control = [], []
    for entry in np.flatnonzero(entries.atom == atom):
        row = entries.row[entry]
        window = sample.window[row]
        assert sample.documents[window] != atoms.labels.document[atom]
        ids = sample.windows[window][: sample.at[row] + 1]
        used = slice(0, int(sample.code.count[row]))
        code = dict(
            zip(sample.code.indices[row, used].tolist(), sample.code.coefficients[row, used].tolist(), strict=True)
        )
        near = sorted((abs(np.log(abs(c) / abs(code[atom]))), a) for a, c in code.items() if a != atom)
        mates = {int(sample.code.indices[row, slot]) for slot in entries.mates[entry]}
        assert mates == {a for _, a in near[:2]}
        targets = target_ids(measuring, 1, atom)
        before = mass(pushed(lm, ids, torch.zeros(atoms.d_model)), targets)
        change = {a: np.log(mass(pushed(lm, ids, -code[a] * atoms.atoms[a]), targets) / before) for a in code}
        own.append(change[atom])
        control.append(np.mean([change[a] for a in mates]))
    measure = found.measures["ablated_promoted"]
    assert len(own) == found.ablated[atom] >= 5
    assert measure.effect[atom] == pytest.approx(np.mean(own), abs=1e-4)
    assert measure.control[atom] == pytest.approx(np.mean(control), abs=1e-4)
    assert measure.low[atom] <= measure.effect[atom] - measure.control[atom] <= measure.high[atom]


def test_controls_of_adding_are_other_atoms_pushed_as_far_in_the_same_contexts(measuring):
    added, found = measuring.added, measuring.found()
    uses = measuring.sample.typical.uses
    assert np.array_equal(found.uses, uses)
    atom = 7
    pairs = np.flatnonzero(added.pairs.of == atom)
    changed = np.searchsorted(added.pairs.starts, pairs, side="right") - 1
    assert sorted(changed.tolist()) == list(range(60))  # 60 atoms: all others are controls
    means = (added.total[1, atom] / added.number[atom])[added.pairs.column[pairs]]
    effect = found.measures["added_promoted"]
    assert effect.effect[atom] == pytest.approx(means[changed == atom].item(), abs=1e-6)
    assert effect.control[atom] == pytest.approx(means[changed != atom].mean(), abs=1e-6)
    assert effect.p[atom] == pytest.approx((means >= means[changed == atom]).mean(), abs=1e-6)


def test_the_same_seed_gives_the_same_bits_also_if_it_was_stopped(lm, atoms, corpus, measuring):
    stopped = Measuring(lm, atoms, SITE, corpus, ASKED)
    for _ in stopped.run():
        if stopped.done == 8:  # adding is done, ablating has begun
            break
    state = {name: value.copy() for name, value in stopped.state().items()}
    again = Measuring(lm, atoms, SITE, corpus, ASKED)
    again.resume(state)
    assert sum(again.run()) + stopped.made == measuring.made
    assert same(again.found(), measuring.found())
    assert again.found().about == measuring.found().about


def test_whole_passes_give_the_same_effects(lm, atoms, corpus, measuring, monkeypatch):
    monkeypatch.setattr("itda.sources.models.pushed.PushedText.trial", lambda _self: False)
    plain = Measuring(lm, atoms, SITE, corpus, ASKED)
    assert plain.whole
    assert next(plain.run()) == 60
    assert np.allclose(plain.added.own[..., 0], measuring.added.own[..., 0], rtol=0, atol=1e-4, equal_nan=True)
    assert np.isfinite(plain.added.own[1, :, 0]).mean() > 0.5


def test_shams_have_the_targets_of_other_atoms(measuring):
    own, sham = measuring.added.targets[1], measuring.added.targets[3]
    assert sorted(map(tuple, own.tolist())) == sorted(map(tuple, sham.tolist()))
    assert (own != sham).any(dim=1).float().mean() > 0.5


def test_pairs_and_masses_are_those_of_a_plain_loop():
    random = np.random.default_rng(0)
    controls = np.array([[j for j in random.permutation(9) if j != i][:3] for i in range(9)])
    pairs = Pairs.with_controls(controls)
    atoms = np.array([4, 4, 0, 8])
    found, rows = pairs.changing(atoms)
    triples = [(int(row), int(pairs.of[i]), int(pairs.column[i])) for i, row in zip(found, rows, strict=True)]
    expected = [
        (row, i, column)
        for row, atom in enumerate(atoms)
        for i in range(9)
        for column in range(4)
        if [i, *controls[i]][column] == atom
    ]
    assert sorted(triples) == sorted(expected)
    log_p = torch.randn(3, 11).log_softmax(dim=1)
    targets = torch.tensor([[1, 2, -1], [0, -1, -1], [-1, -1, -1]])
    got = log_mass(log_p, np.array([2, 0, 1]), targets)
    assert got[0] == pytest.approx(np.log(mass(log_p[2], [1, 2])), abs=1e-6)
    assert got[1] == pytest.approx(log_p[0, 0].item())
    assert np.isnan(got[2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"contexts": 4}, "--contexts is 4: it must be at least 5"),
        ({"tokens": 99}, "--tokens is 99: it must be at least 100"),
        ({"strength": 0.0}, "--strength is 0.0: it must be above 0, and finite"),
        ({"strength": float("nan")}, "--strength is nan"),
        ({"seed": -1}, "--seed is -1: give a number from 0"),
    ],
)
def test_numbers_out_of_range_are_refused_in_one_line(given, message):
    with pytest.raises(SettingError, match=message) as error:
        EffectSettings(**given)
    assert "\n" not in str(error.value)


def test_a_dictionary_of_too_few_atoms_is_refused(lm, atoms, corpus):
    few = itda.ITDA(atoms.atoms[:24], atoms.labels[:24], k=6, site=SITE)
    with pytest.raises(SettingError, match="24 atoms are too few for controls: use a dictionary of at least 40"):
        Measuring(lm, few, SITE, corpus, ASKED)
