"""Names of devices: checks that one is well formed, and that this machine has it."""

import re

from itda.errors import SettingError

NAMES = re.compile(r"auto|cpu|mps|(cuda|xpu|hpu|npu|mlu|musa)(:\d+)?")


def check_device(name: str) -> None:
    """Raises `SettingError` for a text that is not the name of a device."""
    if not NAMES.fullmatch(name):
        raise SettingError(f"no device {name!r}: use auto, cpu, cuda, cuda:1 or mps")


def usable_device(name: str) -> str:
    """Return the device of a name; auto is a GPU where there is one. Raises `SettingError` if this machine lacks it."""
    import torch

    check_device(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise SettingError(f"no --device {name} here (torch finds no GPU that CUDA can use): use --device cpu")
        if int(number or 0) >= torch.cuda.device_count():
            raise SettingError(f"no --device {name} here: there is cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    elif kind != "cpu":
        try:
            torch.zeros(1, device=name)
        except Exception as error:  # each kind of device has errors of its own
            raise SettingError(f"no --device {name} here (torch cannot use it): use --device cpu") from error
    return name
