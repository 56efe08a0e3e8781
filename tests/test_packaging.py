"""What stands beside the code: one place for the version, the types, the files for those who contribute or cite."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

import itda
from itda.bridges.hub_card import CITATION
from itda.cli import main
from itda.recipes import run_in_progress

ROOT = Path(itda.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_said_in_one_place(capsys: pytest.CaptureFixture[str]):
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "itda.version.__version__"}
    said = re.findall(r"__version__ = .*", "\n".join(path.read_text() for path in (ROOT / "itda").rglob("*.py")))
    assert said == [f'__version__ = "{itda.__version__}"']
    main(["--version"])
    assert capsys.readouterr().out == f"itda {itda.__version__}\n"


def test_an_installed_itda_has_the_version_of_its_code():
    try:
        installed = version("itda")
    except PackageNotFoundError:
        pytest.skip("itda is not installed")
    assert installed == itda.__version__


def test_a_run_says_the_version_in_a_checkout_that_is_not_installed_too(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        if name == "itda":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(run_in_progress, "version", absent)
    assert run_in_progress.versions()["itda"] == itda.__version__


def test_the_types_and_the_pages_go_into_the_package():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["itda"]
    assert "py.typed" in patterns
    assert all(list((ROOT / "itda").glob(pattern)) for pattern in patterns)


def test_the_citation_names_the_paper_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == itda.__version__
    paper = citation["preferred-citation"]
    assert (paper["title"].split(":")[0], paper["year"]) == ("Inference-Time Decomposition of Activations (ITDA)", 2025)
    assert [author["family-names"] for author in paper["authors"]] == ["Leask", "Nanda", "Al Moubayed"]


def test_the_card_on_the_hub_and_the_page_have_one_entry_for_the_paper_and_this_version():
    page = (ROOT / "docs" / "cite.md").read_text()
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert CITATION in page
    assert f"version = {{{itda.__version__}}}" in page
    assert all(author["family-names"] in CITATION for author in paper["authors"])


def test_a_torch_that_is_there_stays():
    torch = next(name for name in PROJECT["project"]["dependencies"] if name.startswith("torch"))
    assert torch == "torch>=2.6"  # a range without an end: only constraints.txt pins one


def test_the_workflow_runs_what_a_clean_checkout_must_pass():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["tests"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_workflow_builds_the_docs_and_runs_the_wheel_on_each_python_that_is_promised():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert (runs["docs"], runs["wheel"]) == (["make docs"], ["make check-wheel"])
    names = [name.rpartition(" :: ")[2] for name in PROJECT["project"]["classifiers"]]
    promised = [name for name in names if re.fullmatch(r"3\.\d+", name)]
    assert jobs["wheel"]["strategy"]["matrix"]["python"] == promised


def test_hooks_before_a_commit_have_the_versions_of_the_constraints():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    ruff = next(repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit"))
    assert f"ruff=={ruff.removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text()
    assert {hook["id"] for repo in hooks for hook in repo["hooks"]} >= {"ruff-check", "ruff-format", "pyright"}


def test_the_changelog_has_this_version_or_says_that_it_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert f"[{itda.__version__}]" in text or f"will be in {itda.__version__}" in text
