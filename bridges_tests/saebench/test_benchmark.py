"""benchmarks/saebench.py in the environment of SAEBench: its JSON for ours, random atoms and a TopK SAE."""

import json
import sys

import saebench

import itda


def test_core_says_of_ours_what_our_evaluation_says(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    itda.train("tiny", "python-docs", layers=[3], k=8, atoms=128, tokens=6_000, out=folder, progress=False)
    monkeypatch.setattr(saebench, "READ", 3_000)
    given = ["--run", str(folder), "--out", str(tmp_path / "out"), "--steps", "20", "--no-probes"]
    monkeypatch.setattr(sys, "argv", ["saebench.py", *given])
    saebench.main()
    said = {}
    for name in ("itda", "random", "topk"):
        [path] = (tmp_path / "out").glob(f"{name}_*_eval_results.json")
        said[name] = json.loads(path.read_text())["eval_result_metrics"]
    ours = said["itda"]
    assert 0 < ours["sparsity"]["l0"] <= 8
    measured = itda.evaluate(folder, tokens=2_000, progress=False)
    [measured] = measured.values()
    # Other tokens, and SAEBench replaces the BOS too: they only have to agree roughly.
    assert abs(ours["model_performance_preservation"]["ce_loss_score"] - measured.ce_loss_score) < 0.2
    assert abs(1 - ours["reconstruction_quality"]["explained_variance_legacy"] - measured.fvu) < 0.15
    assert ours["reconstruction_quality"]["cossim"] > 0.5
