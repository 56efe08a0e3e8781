"""`itda push RUN --to neuronpedia`: atoms to Neuronpedia by its public interface, 128 at a time.

    RUN/neuronpedia-gpt2-small-itda-res-4096.json    what has been sent of the set, written before and after each batch

So a push that ended anywhere goes on: of a batch that was under way it asks the server whether it is there. The server
takes a batch in full or not at all. What it would refuse is refused here, before anything is sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from itda import config as settings
from itda.bridges.indexed import Done, Indexed, Say
from itda.bridges.neuronpedia import (
    BATCH,
    FeatureReader,
    Features,
    Place,
    bands_of,
    explanation,
    places,
    steering_strength,
)
from itda.bridges.neuronpedia_client import Client, NotFoundError, RefusedError, TooLargeError, client_package
from itda.checks import check_push
from itda.errors import SettingError, StoreError
from itda.files import locked, read_json, write_whole
from itda.recipes.runs import Bar, no_bar, open_run, unsaid
from itda.store.records import chosen_site

FORMAT = "itda-neuronpedia"
WEB = "https://neuronpedia.org"
MOST_DIMENSIONS = 24_576
"""Dimensions of a vector that Neuronpedia takes, at most."""


@dataclass
class Sent:
    """What has been sent of a set, on disk."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(path: Path, server: str) -> Sent:
        """Read what was sent, or begin. Raises `StoreError` for a damaged file, or one of another server."""
        empty = {"format": FORMAT, "format_version": 1, "server": server, "set": None, "sources": {}}
        values = read_json(path, FORMAT) if path.exists() else empty
        if values.get("server") != server:
            raise StoreError(f"{path} is of a push to {values.get('server')}: name that --server, or remove the file")
        return Sent(path, values)

    def source(self, place: Place, of: str) -> dict[str, Any]:
        """Return what was sent of a source, whose dictionary and index have the hash `of`. Raises `StoreError`."""
        own = self.values["sources"].setdefault(place.source, {"of": of, "next": 0, "sending": None, "vectors": {}})
        if own["of"] != of:
            raise StoreError(
                f"{place.source} was begun with another dictionary or index ({self.path}): name another set with --set"
            )
        return own

    def write(self) -> None:
        """Write the file, so that it outlives a failure of the machine."""
        write_whole(self.path, json.dumps(self.values, indent=1) + "\n", synced=True)


def identity_of(source: Indexed) -> str:
    """Return a hash of what is sent of a source: its dictionary and its index."""
    record = {
        name: value for name, value in source.index.record.items() if name not in ("seconds", "versions", "pieces")
    }
    return hashlib.sha256(json.dumps([record, str(source.site)], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PushedSource:
    """What is on Neuronpedia of one dictionary, or would be."""

    model: str
    source: str
    atoms: int
    """Atoms with an example; the others are not sent."""
    vectors: Mapping[int, str]
    """Where the atoms are that one can steer by."""
    address: str | None = None
    """The page of the source."""


def push_run(options: settings.Push, bar: Bar = no_bar, say: Say = unsaid) -> list[PushedSource]:
    """`itda push RUN --to neuronpedia`: send a run's atoms, 128 at a time; called again, go on.

    `say` is told what the user should know. Raises an `ItdaError` for bad input and for whatever the server refuses.
    """
    check_push(options)
    run = open_run(options.run)
    wanted = [chosen_site(run, site) for site in options.layer] or list(run.sites)
    sites, vectors = [site for site in run.sites if site in wanted], list(options.vectors or ())
    sources, found = [Indexed.open(run, site) for site in sites], places(run, sites, str(options.model), options.set)
    for source, place in zip(sources, found, strict=True):
        check_vectors(source, place, vectors)
    if options.dry_run:
        used = [int((source.index.strongest > 0).sum()) for source in sources]
        each = zip(found, used, strict=True)
        return [PushedSource(p.model, p.source, atoms, dict.fromkeys(vectors, "to be made")) for p, atoms in each]
    server = options.server.rstrip("/") if options.server is not None else None
    name = sources[0].model or str(options.model)  # not a path of this machine
    model = Model(options.new_model, name) if options.new_model is not None else None
    client = Client(server, say)
    with locked(run.folder, "pushed"), bar("neuronpedia", sum(len(each.dictionary) for each in sources)) as progress:
        push = Push(client, progress.update, say, model)
        return [push.run(source, place, vectors) for source, place in zip(sources, found, strict=True)]


@dataclass(frozen=True)
class Model:
    """A model that is to be made on the server."""

    layers: int
    name: str


@dataclass(frozen=True, eq=False)
class Push:
    """A push of some dictionaries to the sets of a server."""

    client: Client
    done: Done
    say: Say
    new_model: Model | None = None
    """Make the model, if the server has none of its id."""

    def run(self, source: Indexed, place: Place, vectors: Sequence[int]) -> PushedSource:
        """Send one dictionary; return what is there then. Raises an `ItdaError`."""
        check_vectors(source, place, vectors)
        sent = Sent.open(state_file(source.folder, place), self.client.name)
        own = sent.source(place, identity_of(source))
        self._set(source, place, sent)
        reader, number = FeatureReader(source), len(source.dictionary)
        self.done(own["next"])
        while own["next"] < number:
            first = own["next"]
            features = reader.read(first, min(first + BATCH, number))
            self._send(place, features, sent, own)
            self.done(own["next"] - first)
        for atom in vectors:
            self._vector(source, place, atom, sent, own)
        unused = int((source.index.strongest <= 0).sum())
        if unused:
            self.say(f"{unused:,} atoms of {place.source} are left out: no indexed token uses them")
        made = {int(atom): address for atom, address in own["vectors"].items()}
        return PushedSource(place.model, place.source, number - unused, made, self._address(place))

    def _address(self, place: Place) -> str:
        return f"{(self.client.server or WEB).removesuffix('/api')}/{place.model}/{place.source}"

    def _set(self, source: Indexed, place: Place, sent: Sent) -> None:
        """Make the set of sources unless it is there and ours."""
        sets, where = self.client.request("SourceSetRequest"), f"{place.model}/{place.set}"
        found = self.client.ask(f"look for {where}", lambda: sets.send_request(f"{place.model}/{place.set}", "GET"))
        if found is None:
            self._make_model(place)
            sent.values["set"] = "making"
            sent.write()
            about = f"ITDA: {len(source.dictionary):,} atoms, {place.site.stream}"
            about += f", each a token of {source.corpus or 'a corpus'}"
            try:
                self.client.ask(
                    f"make the set {where}",
                    lambda: sets.send_request(
                        "new", "POST", json={"name": place.set, "modelId": place.model, "description": about[:128]}
                    ),
                )
            except RefusedError as error:
                raise StoreError(
                    f"{error}: name one of its models with --model, or make this one with --new-model"
                ) from error
            found = self.client.ask(f"look for {where}", lambda: sets.send_request(f"{place.model}/{place.set}", "GET"))
        elif sent.values["set"] is None:
            raise StoreError(f"{self.client.name} has a set {where} already: name another one with --set")
        if place.source not in [each["id"] for each in (found or {}).get("sources", [])]:
            raise SettingError(f"{place.model} on {self.client.name} has no layer {place.site.layer}: check --model")
        sent.values["set"] = "made"
        sent.write()

    def _make_model(self, place: Place) -> None:
        if self.new_model is None:
            return
        models, made = self.client.request("ModelRequest"), self.new_model
        try:
            self.client.ask(
                f"make the model {place.model}",
                lambda: models.new(place.model, layers=made.layers, display_name=made.name[:64]),
            )
        except RefusedError as error:
            if "already exists" not in str(error):
                raise

    def _send(self, place: Place, features: Features, sent: Sent, own: dict[str, Any]) -> None:
        """Send the used atoms of a batch, of which an earlier push may have sent the first."""
        used = [int(atom) for atom in features.atoms if len(features.rows(int(atom)))]
        if own["sending"] is not None:
            first, last = own["sending"]
            there = self._is_there(place, first)
            used = [atom for atom in used if (atom > last if there else atom >= first)]
        self._send_some(place, features, used, sent, own)
        own["next"], own["sending"] = int(features.atoms[-1]) + 1, None
        sent.write()

    def _is_there(self, place: Place, atom: int) -> bool:
        request = self.client.request("FeatureRequest")
        try:
            self.client.ask(
                f"look for atom {atom:,}", lambda: request.send_request(f"{place.model}/{place.source}/{atom}", "GET")
            )
        except NotFoundError:
            return False
        return True

    def _send_some(
        self, place: Place, features: Features, atoms: Sequence[int], sent: Sent, own: dict[str, Any]
    ) -> None:
        """Send some atoms, in halves where they are too large together."""
        if not atoms:
            return
        own["sending"] = [atoms[0], atoms[-1]]
        sent.write()
        request = self.client.request("FeatureRequest")
        made = [feature_of(place, features, atom) for atom in atoms]
        try:
            self.client.ask(
                f"send atoms {atoms[0]:,} to {atoms[-1]:,}",
                lambda: request.upload_batch(place.model, place.source, made),
                lambda: {} if self._is_there(place, atoms[0]) else None,
            )
        except TooLargeError:
            if len(atoms) == 1:
                raise
            half = len(atoms) // 2
            for part in (atoms[:half], atoms[half:]):
                self._send_some(place, features, part, sent, own)

    def _vector(self, source: Indexed, place: Place, atom: int, sent: Sent, own: dict[str, Any]) -> None:
        """Make an atom a vector to steer by, unless it is one already."""
        if str(atom) in own["vectors"]:
            return
        label = f"itda {place.source} atom {atom}: {explanation(source.dictionary.labels[atom], 120)}"
        request = self.client.request("VectorRequest")

        def there() -> str | None:
            owned = self.client.ask("look for vectors", lambda: request.send_request("list-owned", "POST"))["vectors"]
            own = [each for each in owned if (each["modelId"], each["vectorLabel"]) == (place.model, label)]
            return f"{place.model}/{own[0]['layer']}/{own[0]['index']}" if own else None

        def make() -> str:
            strength = float(steering_strength(source.index.strongest[[atom]])[0])
            values = shortest(pyarrow.array(source.dictionary.atoms[atom].numpy()))
            made = request.new(label, place.model, place.site.layer, "hook_resid_post", values, strength)
            return f"{made.model_id}/{made.source}/{made.index}"

        address = there() if own.get("vector") == atom else None  # it was under way when the push ended
        own["vector"] = atom
        sent.write()
        address = address or self.client.ask(f"make atom {atom:,} a vector", make, there)
        own["vectors"][str(atom)], own["vector"] = address, None
        sent.write()


def state_file(run: Path, place: Place) -> Path:
    """Return the file, in the run, that says what has been sent of a set."""
    return run / f"neuronpedia-{place.model}-{place.set}.json"


def check_vectors(source: Indexed, place: Place, vectors: Sequence[int]) -> None:
    """Raises `SettingError` for atoms that cannot be vectors on Neuronpedia."""
    if not vectors:
        return
    if place.site.stream != "resid_post":
        raise SettingError(
            f"{place.site} is no site that Neuronpedia steers at: give --vectors for the residual stream"
        )
    if source.dictionary.d_model > MOST_DIMENSIONS:
        raise SettingError(f"Neuronpedia takes vectors of up to {MOST_DIMENSIONS:,} dimensions: leave --vectors out")
    for atom in vectors:
        if atom >= len(source.dictionary):
            raise SettingError(f"no atom {atom}: use one from 0 to {len(source.dictionary) - 1:,}")


def feature_of(place: Place, features: Features, atom: int) -> Any:
    """Return an atom as a feature of the client."""
    classes = client_package("neuronpedia.np_feature")
    explanations, activations = (
        client_package("neuronpedia.np_explanation"),
        client_package("neuronpedia.np_activation"),
    )
    where = {"modelId": place.model, "source": place.source, "index": atom}
    rows = features.rows(atom)
    own = slice(rows.start, rows.stop)
    bands = {name: column[own].to_pylist() for name, column in bands_of(features.examples).items()}
    tokens, values = features.passages.tokens[own].to_pylist(), features.passages.values[own]
    flat, ends = shortest(values.flatten()), np.cumsum([len(each) for each in tokens]).tolist()
    place_in = int(atom - features.atoms[0])
    return classes.Feature(
        **where,
        density=float(features.density[place_in]),
        explanations=[explanations.Explanation(**where, text=features.explanations[place_in])],
        activations=[
            activations.Activation(
                **where,
                tokens=tokens[i],
                values=flat[ends[i] - len(tokens[i]) : ends[i]],
                quantileMin=bands["binMin"][i],
                quantileMax=bands["binMax"][i],
                quantileFraction=bands["binContains"][i],
            )
            for i in range(len(tokens))
        ],
    )


def shortest(values: pyarrow.Array) -> list[float]:
    """Return float32 numbers as Python's, with the fewest digits that give the same float32 again.

    >>> shortest(pyarrow.array([0.1], pyarrow.float32()))
    [0.1]
    """
    return values.cast(pyarrow.string()).cast(pyarrow.float64()).to_pylist()
