"""The text of a diff: what was found in a sentence, the strongest atoms with their text, which layers moved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itda.core.diffing.ranking import TIMES
from itda.core.labels import Label
from itda.core.site import Site
from itda.diffing.summary import summary
from itda.report.text import WIDTH, end, prompt, table, visible

INDENT = "    "
TOP = 6
"""Atoms that are shown unless others are asked for."""
PLACES = 2
"""Other places of an atom that are shown."""
TOKENS = 6
"""Next tokens that are shown of each direction, as far as there is room."""
MODELS = ("base", "changed")


def diff_summary(values: Mapping[str, Any], folder: Path | None = None, top: int = TOP) -> str:
    """Return what `itda diff` found as text: the verdict, the `top` atoms, and a row for each site.

    `values` are those of `itda.store.diffs.Diff`, which is kept in `folder`, if it is.
    """
    found = summary(values)
    blocks = [f"{end(found['base'], 36)} -> {end(found['changed'], 40)}"]
    blocks.append("\n".join(line for each in found["verdict"] for line in textwrap.wrap(each, WIDTH)))
    blocks.append("\n".join(_read(found)))
    if found["unchanged"]:
        return "\n\n".join(blocks)
    if found["by"] is None:
        blocks += ["\n".join(_without_basis(site)) for site in found["sites"]]
    elif found["atoms"]:
        blocks += ["\n".join(_atom(atom)) for atom in found["atoms"][:top]]
        blocks.append(_on_atoms(found))
    blocks.append("\n".join([*_sites(found), *_mean(found)]))
    if folder is not None:
        blocks.append(f"All of it, and any text shaded by what changed, in a browser: itda explore {folder}")
    return "\n\n".join(blocks)


def _read(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was read, how far predictions are apart, and what was left out."""
    said = f"{found['tokens']:,} tokens of {found['documents']:,} documents of {end(found['corpus'], 60)}. "
    if found["kl"] is not None and not found["unchanged"]:
        said += f"Their predictions are {found['kl']:.2g} nats per token apart"
        controls = [f"{each:.2g}" for each in found["control_kl"] if each is not None]
        said += f", the control's {', '.join(controls)}. " if controls else ". "
    if found["roles"]:
        parts = [
            f"{name} {each['kl']:.2g} ({each['tokens']:,} tokens)"
            for name, each in found["roles"].items()
            if each["kl"] is not None
        ]
        said += f"In conversations: {', '.join(parts)}. " if parts else ""
    left_out = []
    if found["first_left_out"]:
        left_out.append(f"{found['first_left_out']:,} first tokens")
    if found["massive"]:
        left_out.append(f"up to {found['massive']:,} massive activations at a layer")
    if left_out:
        said += f"Left out: {' and '.join(left_out)}."
    yield from textwrap.wrap(said, WIDTH, break_long_words=False)


def _atom(atom: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one atom: what it accounts for, its text, other places, next tokens."""
    mark = {True: ", a finding", False: ", no finding", None: ""}[atom["finding"]]
    mark += f" ({atom['times']:.2g} times)" if atom["times"] is not None else ""
    where, accounts = f"{atom['rank']:>2}. {_short(atom['site'])}{mark}", _accounts(atom)
    room = WIDTH - len(where) - 1
    yield from [f"{where} {accounts:>{room}}"] if len(accounts) <= room else [where, INDENT + accounts]
    yield INDENT + prompt(_label(atom), WIDTH - len(INDENT))
    if atom.get("by_role"):
        yield INDENT + "in " + ", ".join(f"{name} {share:.0%}" for name, share in atom["by_role"].items())
    for place in atom["examples"][:PLACES]:
        kl = f"{place['kl']:5.2f} nats  " if place.get("kl") is not None else ""
        yield f"{INDENT}  {kl}{prompt(_label(place), WIDTH - len(INDENT) - 2 - len(kl))}"
    yield from _promoted({model: atom[model] for model in MODELS if atom.get(model)})


def _accounts(atom: Mapping[str, Any]) -> str:
    users = f"{atom['users']:,} tokens of {atom['documents']:,} documents"
    if atom["effect"] is None:
        return f"{atom['energy']:.1%} of the energy, {users}"
    share = f" ({atom['share']:.0%})" if atom["share"] is not None else ""
    return f"{atom['effect']:.2g} nats{share}, {users}"


def _label(token: Mapping[str, Any]) -> Label:
    places = token["position"], token["char_start"], token["char_end"]
    return Label(token["document"], *places, -1, token["before"], token["token"], token["after"])


def _promoted(by_model: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a direction promotes and suppresses: of the changed model alone where both say about the same."""
    for name, verb in (("promoted", "promotes"), ("suppressed", "suppresses")):
        sides = {model: told[name][:TOKENS] for model, told in by_model.items()}
        if len(sides) == 2 and _alike(*sides.values()):
            yield f"{INDENT}{verb:<10} {_tokens(sides['changed'])}"
            continue
        for model, tokens in sides.items():
            yield f"{INDENT}{verb:<10} {_tokens(tokens)}  in {model}"


def _alike(a: Sequence[Sequence[Any]], b: Sequence[Sequence[Any]]) -> bool:
    """Return True if at least half of the tokens are in both lists."""
    return len({token for token, *_ in a} & {token for token, *_ in b}) >= min(len(a), len(b)) / 2


def _tokens(found: Sequence[Sequence[Any]]) -> str:
    line = ""
    for token, *_ in found:
        more = f"«{visible(token)}»"
        if len(line) + len(more) > WIDTH - len(INDENT) - 24:
            break
        line += more
    return line


def _on_atoms(found: Mapping[str, Any]) -> str:
    """Say what the lines of the atoms mean, and how many there are."""
    what = "part of the energy of all differences"
    if found["by"] == "kl":
        what = "part of how far the predictions are apart (KL, nats per token"
        what += "; only what is above the control's counts)" if found["controls"] else ")"
    said = (
        "An atom is a direction of the difference, shown at a token where it is strong. "
        f"Atoms are ranked by their {what}. "
        "Promotes: the next tokens that it makes likelier, through each model's unembedding. "
        f"{_times(found)}{len(found['atoms'])} atoms are listed in all."
    )
    return "\n".join(textwrap.wrap(said, WIDTH))


def _times(found: Mapping[str, Any]) -> str:
    if all(atom["times"] is None for atom in found["atoms"]):
        return ""
    return (
        f"Times: how far it stands out. What it accounts for above {TIMES:g} times the control's divergence is divided "
        "by what the control's strongest atom accounts for. "
    )


def _without_basis(site: Mapping[str, Any]) -> Iterator[str]:
    """Yield what can be said of a site without a shared basis: atoms and labels of the changed model alone."""
    made, labels, where = site["transported"], site["labels"], _short(site["site"])
    yield f"{where}: {made['only_changed']:,} atoms that only the changed model needs"
    for each in made["atoms"][:PLACES]:
        users = f"{each['users']:5,} uses  "
        yield INDENT + users + prompt(_label(each), WIDTH - len(INDENT) - len(users))
    yield f"{where}: {labels['only_changed']:,} tokens that are new to only the changed model"
    for each in labels["new_to_changed"][:PLACES]:
        margin = f"by {each['margin']:+.2f}  "
        yield INDENT + margin + prompt(_label(each), WIDTH - len(INDENT) - len(margin))


def _sites(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of sites, and what its columns are."""
    rows = []
    for site in found["sites"]:
        labels, use, size = site["labels"], site["usage"], site["relative_norm"] or {}
        noise = [each["0.5"] for each in site["noise"].values()]
        rows.append(
            [
                Site.parse(site["site"]).short,
                _share(size.get("0.5")),
                _share(size.get("0.99")),
                _share(max(noise) if noise else None),
                _share(site["difference"]["mean_share"] if site["difference"] else None),
                _index(labels),
                f"{labels['only_base']:,}/{labels['only_changed']:,}",
                f"{site['transported']['only_changed']:,}",
                f"{use['found']:,} of {use['tested']:,}" if use is not None else "-",
            ]
        )
    yield table(["layer", "moved", "99%", "noise", "mean", "labels", "only b/c", "needs", "use"], rows)
    said = (
        "moved: the size of the difference as a share of the activation's, median and 99th percentile of tokens. "
        "noise: the same median for the base against itself, read in another way. mean: the share of the difference "
        "that all tokens have in common. labels: 1 if the same tokens are new to both models [95%]. only b/c: tokens "
        "that are new to only the base, or only the changed model. needs: atoms that only the changed model needs. "
        "use: atoms used more or less often, of those tested."
    )
    yield from textwrap.wrap(said, WIDTH)


def _mean(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the difference that all tokens share promotes, at the site where it is the largest."""
    told = [
        (site["difference"]["mean_share"] or 0.0, site["site"], site["difference"]["mean"])
        for site in found["sites"]
        if site["difference"] and site["difference"]["mean"]
    ]
    if told:
        _, where, by_model = max(told, key=lambda each: each[0])
        yield f"The mean difference of {_short(where)}"
        yield from _promoted(by_model)


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if value >= 5e-4 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def _index(labels: Mapping[str, Any]) -> str:
    low, high = labels["interval"]
    shown = f"{labels['index']:.2f}" + (f" [{low:.2f},{high:.2f}]" if None not in (low, high) else "")
    return shown.replace("0.", ".")


def _short(site: str) -> str:
    return f"layer {Site.parse(site).short}"
