"""A server on this machine that checks what Neuronpedia's checks, field by field, and fails when it is told to.

Its checks are those of apps/webapp/app/api/*/route.tsx of Neuronpedia (August 2026): the schemas, and then the rules.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a-key-of-the-stub"
FAULT = "Something went wrong on our end. The error has been reported."


class Refused(Exception):  # noqa: N818 - a status and what the server says
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def text(value: Any, name: str, *, most: int | None = None, null: bool = False) -> None:
    if value is None and null:
        return
    if not isinstance(value, str) or value == "":
        raise Refused(400, f"{name} is a required field")
    if "\0" in value:
        raise Refused(500, FAULT)  # PostgreSQL has no NUL
    if most is not None and len(value) > most:
        raise Refused(400, f"{name} must be at most {most} characters")


def number(value: Any, name: str, low: float, high: float, *, null: bool = False, whole: bool = False) -> None:
    if value is None and null:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise Refused(400, f"{name} must be a `number` type, but the final value was: `{json.dumps(value)}`.")
    if whole and value != int(value):
        raise Refused(400, f"{name} must be an integer")
    if not low <= value <= high:
        raise Refused(400, f"{name} must be between {low} and {high}")


def several(value: Any, name: str, least: int, most: int) -> list[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise Refused(400, f"{name} must have {least} to {most} items")
    return value


def known(value: dict[str, Any], name: str, fields: set[str]) -> None:
    """The real server ignores fields that it does not know: here they are a mistake of ours."""
    if set(value) - fields:
        raise Refused(400, f"{name} has unknown fields {set(value) - fields}")


@dataclass
class Fault:
    """An answer that the next requests whose path ends so get, instead of their own."""

    path: str
    status: int | None
    """None for no answer: the connection is closed."""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "made to fail"}'
    after: bool = False
    """Do what is asked, and then answer so."""
    size: int = 0
    """Only requests of at least so many bytes."""


@dataclass
class Stub:
    """What the server has, and what it was asked."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    features: dict[tuple[str, str], dict[int, dict[str, Any]]] = field(default_factory=dict)
    activations: int = 0
    vectors: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and size of each request."""
    address: str = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        parts = path.split("/")
        if method == "POST":
            return {
                "model/new": self.new_model,
                "source-set/new": self.new_set,
                "feature/upload-batch": self.upload,
                "vector/new": self.new_vector,
                "vector/list-owned": lambda _body: {"vectors": self.vectors},
            }[path](body)
        if parts[0] == "source-set":
            return self.sets.get((parts[1], parts[2]))
        if parts[0] == "feature":
            found = self.features.get((parts[1], parts[2]), {}).get(int(parts[3]))
            if found is None:
                raise Refused(404, "Not found")
            return found
        raise Refused(404, "Not found")

    def new_model(self, body: dict[str, Any]) -> Any:
        known(body, "model", {"id", "layers", "displayName", "url"})
        text(body["id"], "id", most=32)
        if not re.fullmatch(r"[a-z][a-z0-9.-]*[a-z0-9]", body["id"]) or "--" in body["id"] or ".." in body["id"]:
            raise Refused(400, "Name must contain only lowercase letters, digits, hyphens, and periods")
        number(body["layers"], "layers", 1, 127, whole=True)
        if "displayName" in body:
            text(body["displayName"], "displayName", most=64)
        text(body.get("url"), "url", null=True)
        if body["id"] in self.models:
            raise Refused(400, "Model already exists")
        made = {"id": body["id"], "layers": body["layers"], "displayName": body["displayName"], "website": body["url"]}
        self.models[body["id"]] = {**made, "dimension": None}
        return self.models[body["id"]]

    def new_set(self, body: dict[str, Any]) -> Any:
        known(body, "set", {"name", "modelId", "description", "url"})
        text(body["name"], "name")
        if not re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]|[a-z0-9]", body["name"]) or "--" in body["name"]:
            raise Refused(400, "Name must contain only lowercase letters, digits, and hyphens")
        text(body["modelId"], "modelId")
        text(body.get("description"), "description", most=128, null=True)
        if body["modelId"] not in self.models:
            raise Refused(400, "Model not found")
        key = body["modelId"], body["name"]
        if key in self.sets:
            raise Refused(400, "Source set name already exists for this model.")
        ids = [f"{layer}-{body['name']}" for layer in range(self.models[key[0]]["layers"])]
        sources = [{"id": each, "modelId": key[0], "setName": key[1]} for each in ids]
        self.sets[key] = {**body, "urls": [body.get("url") or ""], "sources": sources}
        return self.sets[key]

    def upload(self, body: dict[str, Any]) -> Any:
        known(body, "batch", {"modelId", "source", "features"})
        text(body["modelId"], "modelId")
        text(body["source"], "source")
        for place, each in enumerate(several(body["features"], "features", 1, 128)):
            self._check_feature(each, f"features[{place}]")
        model, source = body["modelId"].lower(), body["source"].lower()
        own = self.sets.get((model, source.partition("-")[2]))
        if own is None or source not in [each["id"] for each in own["sources"]]:
            raise Refused(500, FAULT)
        for each in body["features"]:
            if any(len(activation["tokens"]) != len(activation["values"]) for activation in each["activations"]):
                raise Refused(500, FAULT)
        if len({each["index"] for each in body["features"]}) != len(body["features"]):
            raise Refused(500, FAULT)
        for each in body["features"]:
            self.features.setdefault((model, source), {}).setdefault(each["index"], each)
            self.activations += len(each["activations"])
        return {"message": f"{len(body['features'])} features created."}

    @staticmethod
    def _check_feature(each: dict[str, Any], name: str) -> None:
        known(each, name, {"index", "density", "topLogits", "bottomLogits", "explanations", "activations"})
        number(each["index"], f"{name}.index", 0, 10_000_000, whole=True)
        if "density" in each:
            number(each["density"], f"{name}.density", 0, 1)
        for ends in ("topLogits", "bottomLogits"):
            for logit in several(each.get(ends) or [], f"{name}.{ends}", 0, 20):
                text(logit["token"], f"{name}.{ends}.token")
                number(logit["value"], f"{name}.{ends}.value", -1e300, 1e300)
        for explanation in several(each.get("explanations", []), f"{name}.explanations", 0, 10**6):
            known(explanation, name, {"text", "methodName", "modelName"})
            text(explanation["text"], f"{name}.explanations.text", most=512)
            if explanation.get("methodName") is not None or explanation.get("modelName") is not None:
                raise Refused(500, FAULT)  # it knows a few names only
        for activation in several(each.get("activations"), f"{name}.activations", 1, 10**6):
            known(activation, name, {"tokens", "values", "quantileMax", "quantileMin", "quantileFraction"})
            for token in several(activation["tokens"], f"{name}.tokens", 1, 1024):
                text(token, f"{name}.tokens")
            for value in several(activation["values"], f"{name}.values", 1, 1024):
                number(value, f"{name}.values", -1e300, 1e300)
            for ends in ("quantileMax", "quantileMin"):
                number(activation.get(ends), f"{name}.{ends}", -1e300, 99999999, null=True)
            number(activation.get("quantileFraction"), f"{name}.quantileFraction", 0, 1, null=True)

    def new_vector(self, body: dict[str, Any]) -> Any:
        fields = {"modelId", "layerNumber", "hookType", "vector", "vectorDefaultSteerStrength", "vectorLabel"}
        known(body, "vector", fields)
        text(body["modelId"], "modelId")
        number(body["layerNumber"], "layerNumber", 0, 1e300)
        if body["hookType"] not in ("hook_resid_pre", "hook_resid_post"):
            raise Refused(400, "hookType must be one of the following values: hook_resid_pre, hook_resid_post")
        for value in several(body["vector"], "vector", 0, 24576):
            number(value, "vector", -1e300, 1e300)
        number(body["vectorDefaultSteerStrength"], "vectorDefaultSteerStrength", -100, 100)
        text(body["vectorLabel"], "vectorLabel")
        model = self.models.get(body["modelId"])
        if model is None:
            raise Refused(400, "Model not found")
        if body["layerNumber"] >= model["layers"]:
            raise Refused(400, "Layer number is greater than model's numLayers")
        if len(body["vector"]) != model["dimension"]:
            raise Refused(400, "Vector dimension does not match model dimension")
        made = {
            "modelId": body["modelId"],
            "layer": f"{body['layerNumber']}-neuronpedia-resid-post",
            "index": str(90_000_000 + len(self.vectors)),
            "vectorLabel": body["vectorLabel"],
            "hookName": f"blocks.{body['layerNumber']}.{body['hookType']}",
            "vector": body["vector"],
            "vectorDefaultSteerStrength": body["vectorDefaultSteerStrength"],
        }
        self.vectors.append(made)
        names = {"source": "layer", "label": "vectorLabel", "defaultSteerStrength": "vectorDefaultSteerStrength"}
        answer = {name: made[names.get(name, name)] for name in ("modelId", "source", "index", "label", "hookName")}
        answer |= {"defaultSteerStrength": made["vectorDefaultSteerStrength"], "values": made["vector"]}
        return {"message": "Success", "url": f"http://here/{made['layer']}/{made['index']}", "vector": answer}

    def fault_for(self, path: str, size: int) -> Fault | None:
        for fault in self.faults:
            if path.endswith(fault.path) and fault.times > 0 and size >= fault.size:
                fault.times -= 1
                return fault
        return None


@contextmanager
def serving(stub: Stub, ready: Callable[[str], object] = lambda _address: None) -> Iterator[Stub]:
    """Serve a stub on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self, method: str) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.removeprefix("/api/").strip("/")
            stub.requests.append((method, path, len(raw)))
            fault = stub.fault_for(path, len(raw))
            if fault is not None and not fault.after:
                self._fail(fault)
                return
            try:
                if self.headers.get("X-Api-Key") != KEY:
                    raise Refused(401, "This endpoint requires authorization.")
                body = json.loads(raw) if raw else None
                status, found = 200, stub.answer(method, path, body)
            except Refused as refused:
                status, found = refused.status, {"error": refused.message, "message": refused.message}
            except (KeyError, TypeError) as error:  # a field that is not there
                status, found = 400, {"error": f"{error} is a required field"}
            if fault is not None:
                self._fail(fault)
            else:
                self._give(status, json.dumps(found).encode(), {"Content-Type": "application/json"})

        def _fail(self, fault: Fault) -> None:
            if fault.status is None:
                self.close_connection = True
            else:
                self._give(fault.status, fault.body, fault.headers)

        def _give(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        stub.address = f"http://127.0.0.1:{server.server_port}/api"
        ready(stub.address)
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":  # for a try by hand: python tests/bridges/neuronpedia_stub.py
    with serving(Stub(models={"gpt2-small": {"id": "gpt2-small", "layers": 12, "dimension": 768}}), print):
        time.sleep(1e6)
