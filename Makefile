# Two commands do everything on a machine with Python 3.11, pip and git.
PYTHON ?= python3
READY = .venv/installed

.PHONY: demo test
demo: $(READY)
	.venv/bin/itda demo

test: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python
	.venv/bin/python -m pytest -n 2 --dist loadfile

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
