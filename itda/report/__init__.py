"""What the commands show a person: plain text, 80 columns wide. Pure functions from results to strings."""

from itda.report.comparisons import comparison
from itda.report.measures import evaluation, probes
from itda.report.plans import plan_summary
from itda.report.runs import harvest_summary, index_summary, run_summary
from itda.report.text import WIDTH, prompt, table, visible
from itda.report.tokens import decomposition, uses

__all__ = [
    "WIDTH",
    "comparison",
    "decomposition",
    "evaluation",
    "harvest_summary",
    "index_summary",
    "plan_summary",
    "probes",
    "prompt",
    "run_summary",
    "table",
    "uses",
    "visible",
]
