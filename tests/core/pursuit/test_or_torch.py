"""A kernel is used where its first call shows the bits of torch; else torch goes on, and a warning says so."""

import pytest
import torch

from itda.core.pursuit import or_torch
from itda.core.pursuit.or_torch import KernelOrTorch

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch):
    """The forms that were called; Triton is there."""
    monkeypatch.setattr(or_torch, "missing_for_triton", lambda _: "")
    return []


def made(calls: list[str], error: Exception | None = None, off: float = 0.0) -> KernelOrTorch:
    def kernel(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append("kernel")
        if error is not None:
            raise error
        return (x + 1 + off,)

    def in_torch(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append("torch")
        return (x + 1,)

    return KernelOrTorch("adding", kernel, in_torch)


def test_a_kernel_with_the_same_bits_is_compared_once_and_then_used_alone(calls, caplog):
    function, x = made(calls), torch.ones(3)
    for _ in range(3):
        assert function.on(CPU)(x)[0].tolist() == [2.0] * 3
    assert calls == ["torch", "kernel", "kernel", "kernel"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("parts", "said"),
    [({"off": 2.0**-20}, "whose results differ"), ({"error": ValueError("no such layout\nmore")}, "no such layout")],
)
def test_a_kernel_that_differs_or_fails_is_left_alone_and_a_warning_says_so(calls, caplog, parts, said):
    function, x = made(calls, **parts), torch.ones(3)
    for _ in range(3):
        assert function.on(CPU)(x)[0].tolist() == [2.0] * 3
    assert calls == ["torch", "kernel", "torch", "torch"]
    assert said in caplog.text
    assert "adding: without Triton's kernel" in caplog.text


def test_a_call_that_tells_nothing_is_left_to_torch_and_proves_nothing(calls):
    function, x = made(calls), torch.ones(3)
    function.on(CPU, telling=lambda: False)(x)
    assert calls == ["torch"]
    function.on(CPU, telling=lambda: True)(x)
    assert calls == ["torch", "torch", "kernel"]


def test_running_out_of_memory_says_nothing_of_a_kernel(calls):
    function = made(calls, error=torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        function.on(CPU)(torch.ones(3))
    function.kernel = function.in_torch
    assert function.on(CPU)(torch.ones(3))[0].tolist() == [2.0] * 3


def test_where_triton_is_missing_there_is_torch_alone(calls, monkeypatch):
    monkeypatch.setattr(or_torch, "missing_for_triton", lambda _: "no CUDA device")
    made(calls).on(CPU)(torch.ones(3))
    assert calls == ["torch"]
