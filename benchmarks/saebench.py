"""SAEBench 0.6 on a run's dictionary, on random atoms and on a TopK SAE, offline: its JSON, and a table of it.

    python benchmarks/saebench.py --out saebench                             # a run on the bundled model is made first
    python benchmarks/saebench.py --run runs/a --layer 3 --model MODEL --out saebench

To be run by the Python that `scripts/bridges_env.sh saebench` makes. What needs no network of SAEBench is run: `core`,
on the held-out documents of the run's corpus, and `sparse_probing_sae_probes`. The others ask the Hub for data sets and
models (absorption, mdl, meta_structure, ravel, scr_and_tpp, sparse_probing, unlearning) or OpenAI for words
(autointerp); they take the same objects.
"""

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import saelens_sae
import torch
from sae_bench.evals.core import main as core  # pyright: ignore[reportMissingImports]
from sae_bench.evals.core.eval_config import CoreEvalConfig  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing_sae_probes import main as probes  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing_sae_probes.eval_config import SparseProbingSaeProbesEvalConfig  # pyright: ignore[reportMissingImports]
from sae_bench.sae_bench_utils import general_utils  # pyright: ignore[reportMissingImports]
from sae_lens import SAE  # pyright: ignore[reportMissingImports]
from transformer_lens import HookedTransformer  # pyright: ignore[reportMissingImports]
from transformer_lens import loading_from_pretrained as loading  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer

import itda
from itda.bridges.sae_probes import model_name, probe_sets
from itda.bridges.saelens import as_sae
from itda.config import CorpusOptions, Probe
from itda.sources.models.names import TINY

CONTEXT, BATCHES, PROMPTS, READ = 128, 8, 8, 20_000
SETS = ("5_hist_fig_ismale", "100_news_fake")
SHOWN = {
    "ce_loss_score": "model_performance_preservation",
    "explained_variance_legacy": "reconstruction_quality",
    "cossim": "reconstruction_quality",
    "l0": "sparsity",
}


class Store:
    """Windows of token ids, where SAEBench would stream a data set from the Hub."""

    def __init__(self, windows: torch.Tensor) -> None:
        self.windows, self.next = windows, 0
        self.context_size, self.store_batch_size_prompts = windows.shape[1], PROMPTS

    def reset_input_dataset(self) -> None:
        self.next = 0

    def get_batch_tokens(self, batch_size: int | None = None) -> torch.Tensor:
        size = batch_size or PROMPTS
        rows = [(self.next + i) % len(self.windows) for i in range(size)]
        self.next += size
        return self.windows[rows]


def windows_of(lm, corpus, number: int) -> torch.Tensor:
    """Windows of one length, each begun by a BOS, of the documents that were held out."""
    front = [lm.tokenizer.bos_token_id] if lm.tokenizer.bos_token_id is not None else []
    rows, each = [], CONTEXT - len(front)
    for document in corpus:
        ids = lm.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        rows += [front + ids[start : start + each] for start in range(0, len(ids) - each + 1, each)]
        if len(rows) >= number:
            break
    return torch.tensor(rows[:number])


def hooked(folder: str) -> HookedTransformer:
    """A model in a folder under TransformerLens, its weights as they are."""
    config = loading.get_pretrained_model_config(folder, device="cpu")
    found = HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(folder), move_to_device=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    off = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    found.load_and_process_state_dict(
        loading.get_pretrained_state_dict(folder, config, model), **dict.fromkeys(off, False)
    )
    return found.eval()


def candidates(run, site, lm, corpus, steps: int):
    """The run's dictionary, one of as many activations drawn at random, and a TopK SAE of the same size, as SAEs."""
    ours = run[site]
    with itda.harvest(lm, corpus, layers=site.layer, tokens=READ) as batches:
        parts = [batch[site] for batch in batches]
    x = torch.cat([part.activations for part in parts]).float()
    labels = itda.Labels.concatenate([part.labels for part in parts])
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: len(ours)]
    z = x[rows] - (ours.offset if ours.offset is not None else 0)
    atoms = z / z.norm(dim=1, keepdim=True)
    random = itda.ITDA(atoms, labels[rows.numpy()], k=ours.k, pursuit=ours.pursuit, offset=ours.offset, site=site)
    with TemporaryDirectory() as folder:  # what is trained gives sparse tensors, what is loaded dense ones
        saelens_sae.train("topk", x, latents=len(ours), k=ours.k, steps=steps).sae.save_inference_model(folder)
        topk = SAE.load_from_disk(folder)
    found = {"itda": as_sae(ours), "random": as_sae(random), "topk": topk}
    for sae in found.values():
        about = sae.cfg.metadata
        about.model_name, about.hook_name, about.context_size = model_name(run), site.hook_name, CONTEXT
        about.hook_layer, about.prepend_bos = site.layer, True
    return found


def run_core(name: str, sae, model: HookedTransformer, store: Store, out: Path) -> dict:
    """Run `core`; return its metrics, and write the JSON that SAEBench would."""
    sae_id, sae, _ = general_utils.load_and_format_sae(name, sae, "cpu")
    config = CoreEvalConfig(
        model_name=sae.cfg.model_name,
        batch_size_prompts=PROMPTS,
        n_eval_reconstruction_batches=BATCHES,
        n_eval_sparsity_variance_batches=BATCHES,
        dataset="held-out documents",
        context_size=CONTEXT,
        **dict.fromkeys(
            (
                "compute_kl",
                "compute_ce_loss",
                "compute_l2_norms",
                "compute_sparsity_metrics",
                "compute_variance_metrics",
                "compute_featurewise_density_statistics",
                "compute_featurewise_weight_based_metrics",
            ),
            True,
        ),
    )
    store.reset_input_dataset()
    tokenizer = model.tokenizer
    ignored = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
    with torch.no_grad():
        metrics, features = core.run_evals(sae, store, model, config, ignore_tokens=ignored)
    result = {"unique_id": f"{name}_{sae_id}", "sae_set": name, "sae_id": sae_id, "eval_cfg": config}
    result |= {
        "metrics": metrics | {"misc_metrics": core.calculate_misc_metrics(features)},
        "feature_metrics": features,
    }
    path = general_utils.get_results_filepath(str(out), name, sae_id)
    core.save_single_eval_result(core.replace_nans_with_negative_one(result), "offline", "-", "0.6.0", path, sae)
    return metrics


def run_probes(saes: dict, model: str, activations: Path, out: Path) -> None:
    """Run `sparse_probing_sae_probes` on activations that `itda probe` has kept: its JSON goes to `out`."""
    config = SparseProbingSaeProbesEvalConfig(
        model_name=model,
        dataset_names=list(SETS),
        reg_type="l2",
        ks=[1, 2, 5],
        results_path=str(out / "sae_probes"),
        model_cache_path=str(activations),
    )
    probes.run_eval(config, list(saes.items()), "cpu", str(out / "probes"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/saebench"))
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--model", default=TINY, help="the folder of the run's model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000, help="of the TopK SAE")
    parser.add_argument("--atoms", type=int, default=1024, help="of the run that is made")
    parser.add_argument("--no-probes", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.run.exists():
        more = {"layers": [given.layer], "k": 16, "tokens": 60_000, "atoms": given.atoms, "progress": False}
        itda.train("tiny", "python-docs", out=given.run, **more)
    run, site = itda.open_run(given.run), itda.Site(given.layer)
    corpus = run.whole_corpus(CorpusOptions())
    lm, model = itda.load_model(given.model), hooked(str(given.model))
    saes = candidates(run, site, lm, corpus.split("train"), given.steps)
    store = Store(windows_of(lm, corpus.split("heldout"), BATCHES * PROMPTS))
    given.out.mkdir(parents=True, exist_ok=True)
    print("| |", " | ".join(SHOWN), "|\n|---" + "|---" * len(SHOWN) + "|")
    for name, sae in saes.items():
        metrics = run_core(name, sae, model, store, given.out)
        print(f"| {name} |", " | ".join(f"{metrics[kind][key]:.4f}" for key, kind in SHOWN.items()), "|", flush=True)
    if not given.no_probes:
        kept = probe_sets(Probe(run=given.run, sets="sae-probes", only=SETS, prompt_tokens=32, latents=(1, 2, 5)))
        run_probes(saes, model_name(run), kept.folder, given.out)
        for name in saes:
            [path] = (given.out / "probes").glob(f"{name}_*_eval_results.json")
            said = json.loads(path.read_text())["eval_result_metrics"]["sae"]
            print(name, {key: value for key, value in said.items() if value is not None and "auc" in key})


if __name__ == "__main__":
    main()
