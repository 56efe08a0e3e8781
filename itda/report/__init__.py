"""Plain text of 80 columns that the commands show: functions from results to strings.

A name is imported when it is first used, so that a command that shows a record loads no tensors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itda.report.bridges import atoms_summary, export_summary, push_summary, set_scores
    from itda.report.comparisons import comparison
    from itda.report.diff import diff_summary
    from itda.report.effects import effects_summary
    from itda.report.fingerprint_comparisons import fingerprint_comparison
    from itda.report.fingerprints import fingerprint_summary
    from itda.report.measures import evaluation, probes
    from itda.report.plans import plan_summary
    from itda.report.replication import replication_summary
    from itda.report.runs import features_summary, harvest_summary, index_summary, run_summary
    from itda.report.steering import proposed, reasons, steered
    from itda.report.text import WIDTH, prompt, table, visible
    from itda.report.tokens import decomposition, uses

__all__ = [
    "WIDTH",
    "atoms_summary",
    "comparison",
    "decomposition",
    "diff_summary",
    "effects_summary",
    "evaluation",
    "export_summary",
    "fingerprint_comparison",
    "features_summary",
    "fingerprint_summary",
    "harvest_summary",
    "index_summary",
    "plan_summary",
    "probes",
    "prompt",
    "proposed",
    "reasons",
    "push_summary",
    "replication_summary",
    "run_summary",
    "set_scores",
    "steered",
    "table",
    "uses",
    "visible",
]

_HOMES = {
    "bridges": ("atoms_summary", "export_summary", "push_summary", "set_scores"),
    "comparisons": ("comparison",),
    "diff": ("diff_summary",),
    "effects": ("effects_summary",),
    "fingerprint_comparisons": ("fingerprint_comparison",),
    "fingerprints": ("fingerprint_summary",),
    "measures": ("evaluation", "probes"),
    "plans": ("plan_summary",),
    "replication": ("replication_summary",),
    "runs": ("features_summary", "harvest_summary", "index_summary", "run_summary"),
    "steering": ("proposed", "reasons", "steered"),
    "text": ("WIDTH", "prompt", "table", "visible"),
    "tokens": ("decomposition", "uses"),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'itda.report' has no attribute {name!r}")
    return getattr(import_module(f"itda.report.{home}"), name)
