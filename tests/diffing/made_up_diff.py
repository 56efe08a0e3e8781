"""The values of a made-up diff, as `itda diff` keeps them, for those who show them."""

from typing import Any

SIZES = {"0.5": 0.02, "0.9": 0.1, "0.99": 0.4, "1": 0.9}
NOISE = {"0.5": 1e-7, "0.9": 2e-7, "0.99": 3e-7, "1": 1e-6}
NEXT = {"promoted": [[" jam", 3.0], [" pie", 2.5]], "suppressed": [[" stone", -2.0]]}


def token(word: str, document: str, **more: Any) -> dict[str, Any]:
    """A token in its text."""
    before, after = "They went to the market and bought a ", " for the winter, as they had every year."
    place = {"document": document, "position": 8, "char_start": len(before), "char_end": len(before) + len(word)}
    return {**place, "before": before, "token": word, "after": after, "kl": 1.5, **more}


def atom(number: int, word: str, document: str, effect: float | None, **more: Any) -> dict[str, Any]:
    """An atom of a difference dictionary, which fires in two other documents too."""
    usual = {
        "beyond": None if effect is None else effect / 2,
        "energy": 0.01,
        "novelty": 0.5,
        "users": 40,
        "documents": 12,
        "finding": False,
        "by_role": None,
    }
    examples = [token(word, f"{document}+{i}", coefficient=0.7) for i in range(2)]
    return {"atom": number, **token(word, document), "effect": effect, **usual, "examples": examples, **more}


def site(atoms: list[dict[str, Any]] | None, **more: Any) -> dict[str, Any]:
    """What was found at a site; `atoms` None without a shared basis."""
    difference = {
        "atoms_in_all": 48,
        "mean_share": 0.1,
        "mean": None,
        "scales": [1.0, 1.1],
        "ranked_by": "kl",
        "total_kl": 0.02,
    }
    difference |= {"strongest_of_controls": [0.001], "findings": 1}
    listed = {"threshold": 0.3, "atoms_of_base": 100, "only_changed": 1, "base_error": 0.2, "changed_error": 0.25}
    new = [token("plum", "a", margin=0.4)]
    labels = {"index": 0.93, "interval": [0.92, 0.94], "adjusted_jaccard": 0.8, "shared": 200, "only_base": 12}
    use = token("pear", "c", frequency=[0.01, 0.02], strength=[0.5, 0.6], change=[0.01, 0.005, 0.02], score=6.0)
    return {
        "tokens": 5000,
        "massive": {"multiple": 10.0, "seen": 5004, "left_out": 4, "in_model": [4, 4], "limits": [9.0, 9.0]},
        "unchanged": False,
        "relative_norm": SIZES,
        "difference": None if atoms is None else {**difference, "atoms": atoms},
        "transported": {**listed, "atoms": [token("plum", "b", explained=0.02, users=9)]},
        "usage": None if atoms is None else {"tested": 80, "found": 1, "atoms": [use]},
        "labels": {**labels, "only_changed": 1, "new_to_base": [], "new_to_changed": new},
        "roles": None,
        **more,
    }


def values(sites: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """All values of a diff: at layer_3 an atom of « plum» is a finding, at layer_1 little is."""
    first = atom(7, "plum", "plums.txt", 0.009, finding=True, base=NEXT, changed={**NEXT, "promoted": [[" jam", 4.0]]})
    there = {
        "layer_1": site([atom(0, "plum", "plums.txt", 0.004), atom(3, "of", "of.txt", 0.0005)]),
        "layer_3": site([first, atom(2, "the", "the.txt", 0.001)]),
    }
    return {
        "base": {"name": "tiny"},
        "changed": {"name": "/models/tuned"},
        "controls": [{"name": "/models/neutral"}],
        "same": False,
        "shared_basis": True,
        "why_no_shared_basis": None,
        "corpus": "/texts/market",
        "tokens": 5004,
        "documents": 60,
        "first_tokens_left_out": 70,
        "kl": {
            "tokens": 5000,
            "mean": 0.02,
            "quantiles": SIZES,
            "controls": [0.01],
            "control_medians": [0.016],
            "largest": [],
        },
        "roles": None,
        "noise": {"batch_size 4": {"tokens": 2000, "sites": {"layer_1": NOISE, "layer_3": NOISE}, "kl": 0.0}},
        "sites": there if sites is None else sites,
        **more,
    }
