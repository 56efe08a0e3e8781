"""Heat maps of a comparison, drawn by matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from itda.core.similarity.fingerprint_index import THE_INDEX
from itda.errors import SettingError
from itda.files import whole_file
from itda.recipes.compare import Pair
from itda.recipes.compare_fingerprints import FingerprintPair

PANELS = (("weighted", "weighted Jaccard"), ("jaccard", "Jaccard"), ("size_only", "sizes alone (control)"))
"""The similarity indices drawn side by side for each pair of runs, and their titles."""

OF_FINGERPRINTS = ((THE_INDEX, "shared novelty"), ("equal sums", "at equal sums"))
OF_FINGERPRINTS += (("sizes alone", "sizes alone (control)"),)
"""The same for fingerprints."""


def check_plots() -> None:
    """Raises `SettingError` where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise SettingError("pictures need matplotlib: pip install 'itda[plots]', or leave out --out") from error


def heat_maps(pairs: Sequence[Pair] | Sequence[FingerprintPair], folder: Path) -> None:
    """Write overlap.png and overlap.svg: a row of panels for each pair, site by site; a ring marks the best of a row.

    Raises `SettingError` where matplotlib is missing.
    """
    check_plots()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = PANELS if isinstance(pairs[0], Pair) else OF_FINGERPRINTS
    rows, columns = (max(len(pair.sites[i]) for pair in pairs) for i in (0, 1))
    width, height = 1.4 + 0.32 * max(columns, 6), 1.3 + 0.32 * max(rows, 6)
    figure = Figure(figsize=(width * len(panels), height * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), len(panels), squeeze=False)
    for pair, line in zip(pairs, axes, strict=True):
        for (name, title), panel in zip(panels, line, strict=True):
            matrix = pair.matrices[name]
            # Its own scale: indices differ in height, and what is to be seen is where each is largest.
            shown = panel.imshow(matrix, cmap="viridis", aspect="equal")
            middle = (matrix.min() + matrix.max()) / 2
            for i, values in enumerate(matrix):
                for j in np.flatnonzero(values == values.max()):
                    panel.plot(j, i, "o", mfc="none", mec="white" if values[j] < middle else "black", ms=6)
            panel.set_title(title, fontsize=9)
            for axis, sites, run in ((panel.xaxis, pair.sites[1], pair.b), (panel.yaxis, pair.sites[0], pair.a)):
                axis.set_ticks(range(len(sites)), [site.short for site in sites], fontsize=7)
                axis.set_label_text(run[-28:], fontsize=8, parse_math=False)
            figure.colorbar(shown, ax=panel, shrink=0.8)
    with whole_file(folder / "overlap.png") as picture:
        figure.savefig(picture, dpi=150, format="png")
    # Without the date and random ids, so that the same comparison gives the same file.
    with rc_context({"svg.hashsalt": "itda"}), whole_file(folder / "overlap.svg") as picture:
        figure.savefig(picture, metadata={"Date": None}, format="svg")
