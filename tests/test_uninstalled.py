"""The package runs from a checkout that nobody has installed."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from itda.recipes import run_in_progress


def test_a_checkout_that_is_not_installed_says_so_among_the_versions(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        if name == "itda":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(run_in_progress, "version", absent)
    assert run_in_progress.versions()["itda"] == "not installed"
