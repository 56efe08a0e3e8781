# These commands do everything on a machine with Python 3.11, pip and git.
PYTHON ?= python3
READY = .venv/installed

# After each change: the rules of the house, the core without what takes long, files on disk, and one run end to end.
QUICK = tests/test_imports.py tests/test_packaging.py tests/store tests/sources/tokenizing/test_cutting.py \
	tests/core/test_atom.py tests/core/test_batch.py tests/core/test_code.py tests/core/test_dictionary.py \
	tests/core/test_labels.py tests/core/test_metrics.py tests/core/pursuit/test_pursuit.py \
	tests/core/similarity/test_similarity_linear.py tests/core/training/test_trainer.py \
	tests/test_cli.py::test_a_run_folder_says_what_made_it \
	tests/test_cli.py::test_decompose_shows_each_token_with_its_atoms \
	tests/test_cli.py::test_evaluate_measures_held_out_tokens_and_keeps_the_figures

# Python keeps what it compiled: else each of the hundred processes of a test run compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick types tests bridges docs check-wheel
demo: $(READY)
	.venv/bin/itda demo

test: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(MAKE) --no-print-directory --keep-going --jobs 2 types tests

# Side by side, so that no core waits: types are checked by one thread.
types: $(READY)
	.venv/bin/pyright --pythonpath .venv/bin/python

tests: $(READY) .venv/compiled
	.venv/bin/python -m pytest -n 3 --dist loadfile

# Once, by one process, while types are checked. In a fresh checkout all the first tests' processes would do it at once.
.venv/compiled: $(READY) $(wildcard itda/core/*/*_kernel.py)
	.venv/bin/python scripts/compile_loops.py
	touch .venv/compiled

quick: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python itda
	.venv/bin/python -m pytest -n 2 --dist loadfile $(QUICK)

# The pages of docs/ as a site, in site/. A broken link, anchor or name fails, and so does what asks another host.
docs: .docs/installed
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --strict
	.docs/bin/python scripts/docs_check.py site

# The sdist and the wheel; the wheel's demo, from an empty environment outside the checkout. It takes some minutes.
check-wheel:
	scripts/check_wheel.sh

# Each bridge to a tool of others is tested in an environment of its own, with that tool: one, or all.
bridges:
	$(MAKE) --no-print-directory --keep-going $(patsubst scripts/bridges/%.txt,bridge-%,$(wildcard scripts/bridges/*.txt))

bridge-%:
	scripts/bridges_env.sh $*
	HF_HUB_OFFLINE=1 .bridges/$*/bin/python -m pytest -c bridges_tests/pytest.ini bridges_tests/$*

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

.docs/installed: docs/requirements.txt
	$(PYTHON) -m venv .docs
	.docs/bin/pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	touch .docs/installed
