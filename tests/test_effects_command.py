"""`itda effects` on the bundled model: what is kept, shown, gone on with, and refused."""

import json
import shutil

import numpy as np
import pytest

import itda
from itda import cli
from itda import config as settings
from itda.recipes import effects
from itda.recipes.effects import PARTIAL, measure_run
from itda.recipes.runs import open_run
from itda.store.effects import EFFECTS

FEW = ("--contexts", "5", "--tokens", "200", "--quiet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("effects")
    (root / "texts").mkdir()
    for i in range(12):
        text = f"import os, sys\n\ndef f{i}(path):\n    return [os.stat(path).st_size, {i}, 'name{i}', sys.argv]\n"
        (root / "texts" / f"{i}.py").write_text(text * 2)
    itda.train(
        "tiny", root / "texts", layers=3, k=6, atoms=48, mode="paper", part="all", out=root / "run", progress=False
    )
    return root / "run"


@pytest.fixture(scope="module")
def measured(trained):
    folder = trained.parent / "measured"
    shutil.copytree(trained, folder)
    return folder, measure_run(options(folder))


def options(folder, **given) -> settings.Effects:
    return settings.Effects(**{"run": folder, "contexts": 5, "tokens": 200, "quiet": True, **given})


def run(capsys, *arguments: str) -> str:
    cli.main(list(arguments))
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        cli.main(list(arguments))
    assert error.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_what_is_found_is_kept_with_the_dictionary_and_shown(measured, capsys):
    folder, made = measured
    assert made.new
    found = open_run(folder)["layer_3"].effects
    assert found is not None
    assert np.array_equal(found.p("added"), next(iter(made.sites.values())).p("added"), equal_nan=True)
    assert not (folder / "layer_3" / PARTIAL).exists()
    known = found.summary()["measures"]["added"]["beyond_control"] is not None
    assert known == ("Effects: each atom was added" in (folder / "layer_3" / "README.md").read_text())
    text = run(capsys, "effects", str(folder), *FEW)
    assert "It was measured already: nothing to do." in text
    assert "added: its continuation" in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(folder) not in line)
    assert "Effects at layer_3: each atom was added" in run(capsys, "info", str(folder))
    values = json.loads(run(capsys, "info", str(folder), "--json"))["dictionaries"]["layer_3"]["effects"]
    assert values == json.loads(json.dumps(found.summary()))


def test_json_has_every_atom(measured, capsys):
    folder, made = measured
    values = json.loads(run(capsys, "effects", str(folder), *FEW, "--json"))
    atoms = values["sites"]["layer_3"]["atoms"]
    assert [each["atom"] for each in atoms] == list(range(48))
    found = next(iter(made.sites.values()))
    assert atoms[5]["promoted"] == list(found.promoted[5])
    for atom, each in enumerate(atoms):
        effect, shown = found.measures["added_promoted"].effect[atom], each["measures"]["added_promoted"]["effect"]
        assert shown is None if np.isnan(effect) else shown == pytest.approx(effect, abs=1e-6)


def test_python_gives_the_same(measured):
    folder, _ = measured
    found = itda.effects(folder, contexts=5, tokens=200, progress=False)
    assert found["layer_3"].uses.sum() > 0
    assert "It was measured already" in repr(found)
    table = found.to_pandas()
    assert len(table) == 48
    assert {"added_promoted_effect", "continuation", "token"} <= set(table.columns)


def test_a_killed_process_goes_on_and_gives_the_same_bytes(trained, measured, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    monkeypatch.setattr(effects, "SAVE_EVERY_S", 0.0)
    real, counts = effects._save, []

    def killed(measuring, path, own):
        real(measuring, path, own)
        counts.append(measuring.done)
        if measuring.done == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(effects, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_run(options(folder))
    assert (folder / "layer_3" / PARTIAL).exists()
    assert not (folder / "layer_3" / EFFECTS).exists()
    measure_run(options(folder))
    assert counts == list(range(1, counts[-1] + 1))  # nothing was done twice
    assert not (folder / "layer_3" / PARTIAL).exists()
    assert (folder / "layer_3" / EFFECTS).read_bytes() == (measured[0] / "layer_3" / EFFECTS).read_bytes()


def test_other_settings_measure_anew_and_what_was_half_done_in_another_way_is_left(measured, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(measured[0], folder)
    (folder / "layer_3" / PARTIAL).write_bytes(b"nothing that could be read")
    again = measure_run(options(folder, strength=2.0))
    assert again.new
    assert next(iter(again.sites.values())).about["strength"] == 2.0
    assert open_run(folder)["layer_3"].effects.about["strength"] == 2.0


def test_bad_input_is_one_line(trained, capsys, tmp_path):
    assert "no run folder" in refused(capsys, "effects", str(tmp_path / "nowhere"))
    run = str(trained)
    assert "the run has no layer 5" in refused(capsys, "effects", run, "--layer", "5")
    assert "--contexts is 2: it must be at least 5" in refused(capsys, "effects", run, "--contexts", "2")
    assert "--strength is -1.0" in refused(capsys, "effects", run, "--strength", "-1")
    (tmp_path / "short.txt").write_text("import os")
    said = refused(capsys, "effects", run, "--corpus", str(tmp_path / "short.txt"), *FEW)
    assert "no text of over 8 tokens" in said
    assert not (trained / "layer_3" / EFFECTS).exists()
