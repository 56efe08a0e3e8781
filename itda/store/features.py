"""The feature encoder of a dictionary on disk: one file beside the dictionary's own, absent until it is fitted."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from itda.core.readout_features import FeatureEncoder
from itda.errors import SettingError, StoreError
from itda.files import FEATURES_FILE, first_line, whole_file

FEATURES_FORMAT = "itda-features"
FEATURES_VERSION = 2  # 1 had no broad features
REMEDY = "delete it, or make it anew with `itda features`"


def write_features(encoder: FeatureEncoder, folder: Path) -> None:
    """Write the encoder into the folder of its dictionary, whole, in place of one that is there. Raises `OSError`."""
    about = {
        "format": FEATURES_FORMAT,
        "format_version": FEATURES_VERSION,
        "scale": encoder.scale,
        "tokens": encoder.tokens,
        "ridge": encoder.ridge,
    }
    tensors = {"detectors": encoder.detectors, "mean": encoder.mean, "broad": encoder.broad}
    if encoder.lasting is not None:
        tensors["lasting"] = encoder.lasting
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(folder / FEATURES_FILE, alone=True) as partial:
        save_file(tensors, partial, {"itda": json.dumps(about)})  # one entry: the order of several is not fixed


def read_features(folder: Path) -> FeatureEncoder | None:
    """Read the encoder in the folder of a dictionary; None if there is none. Raises `StoreError` for a damaged one."""
    path = folder / FEATURES_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["itda"])
            if about["format"] != FEATURES_FORMAT:
                raise StoreError(f"{path} is not an {FEATURES_FORMAT} file: {REMEDY}")
            if (version := about["format_version"]) != FEATURES_VERSION:
                raise StoreError(f"{path} has format version {version}, this itda reads {FEATURES_VERSION}: {REMEDY}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        lasting = tensors.pop("lasting", None)
        return FeatureEncoder(
            **tensors, scale=about["scale"], tokens=about["tokens"], ridge=about["ridge"], lasting=lasting
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, SettingError) as error:
        raise StoreError(f"{path} is damaged or incomplete ({first_line(error)}): {REMEDY}") from error
