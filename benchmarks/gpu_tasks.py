"""What benchmarks/gpu.py measures: the tasks of each part, in the full size, a quick one and a minute one.

The tables alone, which import nothing: what a part needs is imported by its own process.
"""

from typing import Any

Tasks = dict[str, list[dict[str, Any]]]

RANDOM, COHERENT = "random", "mean cosine .8"
RAW, CENTRED = "raw", "centred"


def _encode(data: str, d: int, rows: int = 4096, atoms: int = 16_384, k: int = 40) -> dict[str, Any]:
    return {"data": data, "d": d, "rows": rows, "atoms": atoms, "k": k}


def _train(data: str, d: int, threshold: float, tokens: int, on_cpu: int, **other: Any) -> dict[str, Any]:
    usual = {"k": 40, "pursuit": "mp"}
    return {"data": data, "d": d, "threshold": threshold, "tokens": tokens, "on_cpu": on_cpu, **usual, **other}


def _model(shape: str, tokens: int, atoms: int, mode: str, batch: int, alone: int, k: int = 40) -> dict[str, Any]:
    return {"shape": shape, "tokens": tokens, "atoms": atoms, "mode": mode, "batch": batch, "alone": alone, "k": k}


def _profile(what: str, d: int, **sizes: Any) -> dict[str, Any]:
    return {"what": what, "d": d, **sizes}


ENCODE: Tasks = {
    "full": [
        _encode(RANDOM, 768),
        _encode(RANDOM, 4096),
        _encode(COHERENT, 4096),
        _encode(RANDOM, 2304, atoms=65_536),
        _encode(COHERENT, 768),
    ],
    "quick": [_encode(data, d, 256, 1024, 10) for data, d in ((RANDOM, 64), (COHERENT, 64), (RANDOM, 256))],
    "minute": [_encode(data, 24, 6, 60, 3) for data in (RANDOM, COHERENT)],
}
LENS: Tasks = {
    "full": [_encode(RANDOM, 768)],
    "quick": [_encode(RANDOM, 64, 256, 1024, 10)],
    "minute": [_encode(RANDOM, 24, 6, 60, 3)],
}
TRAIN: Tasks = {
    # By these thresholds there are about 16,000 atoms in the end.
    "full": [
        _train(RAW, 4096, 0.09, 49_152, 4096),
        _train(CENTRED, 4096, 0.37, 49_152, 4096),
        _train(RAW, 768, 0.083, 49_152, 8192),
        _train(CENTRED, 768, 0.285, 49_152, 8192),
        _train(CENTRED, 768, 0.285, 8192, 8192, pursuit="mp_refit"),
    ],
    "quick": [
        _train(RAW, 64, 0.06, 1500, 1500, k=8),
        _train(CENTRED, 64, 0.3, 1500, 1500, k=8),
        _train(CENTRED, 64, 0.3, 800, 800, k=8, pursuit="mp_refit"),
    ],
    "minute": [_train(RAW, 16, 0.05, 48, 48, k=3), _train(CENTRED, 16, 0.3, 24, 24, k=3, pursuit="mp_refit")],
}
MODEL: Tasks = {
    "full": [_model("124M", 1_280_000, 16_000, "paper", 64, 200_000)],
    "quick": [_model("tiny", 2000, 100, "paper", 8, 1000, k=8)],
    "minute": [_model("tiny", 400, 20, "paper", 2, 256, k=2)],
}
BEST: Tasks = {
    "full": [_model("124M", 1_280_000, 16_000, "best", 64, 0)],
    "quick": [_model("tiny", 1000, 50, "best", 8, 0, k=4)],
    "minute": [],
}
PROFILE: Tasks = {
    "full": [
        _profile("train", 4096, data=RAW, tokens=16_384, threshold=0.09, k=40),
        _profile("encode", 4096, data=RANDOM, rows=4096, atoms=16_384, k=40),
        _profile("train", 768, data=RAW, tokens=16_384, threshold=0.083, k=40),
        _profile("encode", 768, data=RANDOM, rows=4096, atoms=16_384, k=40),
    ],
    "quick": [
        _profile("train", 64, data=RAW, tokens=1500, threshold=0.06, k=8),
        _profile("encode", 64, data=RANDOM, rows=256, atoms=1024, k=10),
    ],
    "minute": [
        _profile("train", 16, data=RAW, tokens=48, threshold=0.05, k=3),
        _profile("encode", 24, data=RANDOM, rows=6, atoms=60, k=3),
    ],
}
STREAMING: Tasks = {
    "full": [{"shape": "405B", "blocks": 2, "tokens": 8192}],
    "quick": [{"shape": "small", "blocks": 2, "tokens": 512}],
    "minute": [],
}
COMMANDS: Tasks = {
    "full": [{"model": "tiny", "layers": "2,4", "tokens": 8000, "devices": "cpu,cuda"}],
    "quick": [{"model": "tiny", "layers": "4", "tokens": 1500, "devices": "cpu"}],
    "minute": [],
}
