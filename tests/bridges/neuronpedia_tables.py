"""Columns of Neuronpedia's database, read from its schema.prisma (August 2026): types, and which a row cannot lack.

The rows that it imports go into these tables as they are, so a wrong type fails there.
"""

import re
from dataclasses import dataclass

TEXT, WHOLE, NUMBER, FLAG, TIME = "text", "whole", "number", "flag", "time"
TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def is_of(kind: str, value: object) -> bool:
    if kind.endswith("[]"):
        return isinstance(value, list) and all(is_of(kind[:-2], each) for each in value)
    if kind.endswith("?"):
        return value is None or is_of(kind[:-1], value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        TEXT: isinstance(value, str) and "\0" not in value,
        WHOLE: number and value == int(value),
        NUMBER: number,
        FLAG: isinstance(value, bool),
        TIME: isinstance(value, str) and TIMES.fullmatch(value) is not None,
    }[kind]


@dataclass(frozen=True)
class Table:
    """The types of the columns by name: `needed` ones have no default."""

    needed: dict[str, str]
    more: dict[str, str]

    def check(self, row: dict) -> None:
        assert not [name for name in self.needed if name not in row]
        columns = {**self.needed, **self.more}
        for name, value in row.items():
            assert name in columns, f"no column {name}"
            assert is_of(columns[name], value), f"{name} is {value!r}, not {columns[name]}"


def table(needed: str, more: str) -> Table:
    def columns(text: str) -> dict[str, str]:
        return {name: kind for each in text.split(",") for name, kind in [each.split()]}

    return Table(columns(needed), columns(more))


TABLES = {
    "features": table(
        "modelId text, layer text, index text",
        "sourceSetName text?, creatorId text?, createdAt time, maxActApprox number?, hasVector flag, vector number[], "
        "vectorLabel text?, vectorDefaultSteerStrength number?, hookName text?, frac_nonzero number, pos_str text[], "
        "pos_values number[], neg_str text[], neg_values number[], freq_hist_data_bar_heights number[], "
        "freq_hist_data_bar_values number[]",
    ),
    "activations": table(
        "id text, index text, layer text, modelId text, tokens text[], maxValue number, maxValueTokenIndex whole, "
        "minValue number, values number[], creatorId text",
        "dataIndex text?, dataSource text?, createdAt time, binMin number?, binMax number?, binContains number?, "
        "qualifyingTokenIndex whole?",
    ),
    "explanations": table(
        "id text, modelId text, layer text, index text, description text, authorId text",
        "notes text?, typeName text?, explanationModelName text?, createdAt time",
    ),
    "release": table(
        "name text, description text, creatorName text, creatorId text",
        "visibility text, descriptionShort text?, urls text[], creatorNameShort text?, createdAt time",
    ),
    "model": table(
        "id text, creatorId text, layers whole, neuronsPerLayer whole, owner text",
        "displayNameShort text, displayName text, dimension whole?, visibility text, instruct flag, createdAt time, "
        "updatedAt time",
    ),
    "sourceset": table(
        "modelId text, name text, description text, creatorName text, creatorId text",
        "type text, urls text[], visibility text, releaseName text?, createdAt time",
    ),
    "source": table(
        "id text, modelId text, setName text, creatorId text",
        "hasDashboards flag, visibility text, num_prompts whole?, num_tokens_in_prompt whole?, dataset text?, "
        "createdAt time",
    ),
}
