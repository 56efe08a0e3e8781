"""The typical coefficients of a run's atoms, from its code index."""

from __future__ import annotations

from itda.core.site import Site
from itda.core.typical import Typical
from itda.explorer.code_index import FOLDER, INDEX_FORMAT, RECORD, CodeIndex
from itda.explorer.steering import typical_of_index
from itda.files import read_json
from itda.recipes.runs import Run


def typical_of_run(run: Run, site: Site) -> Typical:
    """Return the typical coefficients of a site's atoms in the corpus that was indexed. Raises `StoreError`."""
    return typical_of_index(CodeIndex.open(run.folder, site))


def is_indexed(run: Run, site: Site) -> bool:
    """Return True if a run's index has a site; whether it is whole, its opening tells."""
    file = run.folder / FOLDER / RECORD
    return file.exists() and str(site) in read_json(file, INDEX_FORMAT).get("sites", {})
