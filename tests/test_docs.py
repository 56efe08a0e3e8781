"""Examples in docstrings and in the README run as they stand."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import itda

# Triton is for GPUs, and not for every system; SAELens is in an environment of its own.
ABSENT = () if importlib.util.find_spec("triton") else ("gram_triton_kernel", "gram_triton")
ABSENT += () if importlib.util.find_spec("sae_lens") else ("bridges.saelens",)
MODULES = [m.name for m in pkgutil.walk_packages(itda.__path__, "itda.") if not m.name.endswith(ABSENT)]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_what_they_show(name: str):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", itda.__all__)
def test_public_names_have_an_example(name: str):
    assert ">>>" in getattr(itda, name).__doc__, f"{name} has no example"
