"""`itda plan`: the memory and time that a model larger than memory takes, before its weights are downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from itda import config as settings
from itda.checks import check_plan
from itda.core.batch import Site
from itda.errors import ModelError
from itda.resolving import sites_of
from itda.sources.models.named import DTYPES
from itda.sources.models.names import gguf_of
from itda.sources.streamed.planning import Estimate, Machine, ModelShape, Work, estimate, runs_whole

GPU, LAPTOP = "GPU", "laptop"


@dataclass(frozen=True)
class Planned:
    """A plan: the settings, and estimates for a machine with a GPU and for one without."""

    options: settings.Plan
    shape: ModelShape
    sites: tuple[Site, ...]
    tokens: int
    evaluated: int
    """Number of tokens to evaluate on."""
    atoms: int
    """Number of atoms of each dictionary."""
    machines: Mapping[str, Machine]
    training: Mapping[str, Estimate]
    """Estimates of training, by machine."""
    evaluation: Mapping[str, Estimate]
    """Estimates of evaluation, by machine."""
    whole: Mapping[str, bool]
    """True, by machine, if the model fits into memory and need not be streamed."""


def plan(options: settings.Plan) -> Planned:
    """`itda plan`: estimate by arithmetic, from a configuration alone. Raises an `ItdaError` for bad input."""
    check_plan(options)
    sites = tuple(sites_of(options))
    tokens, evaluated, atoms = options.tokens, options.evaluate, options.atoms
    machines = {
        GPU: _machine(options, options.gpu_memory, options.ram),
        LAPTOP: _machine(options, None, options.laptop),
    }
    if gguf_of(options.model) is not None:
        raise ModelError(
            f"{options.model} is in GGUF, which is unpacked as a whole and not streamed, so there is nothing to plan: "
            "plan with the config.json of the model that it was made from"
        )
    shape = ModelShape.of(
        options.model, sites=sites, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    making = Work(sites, tokens, options.window, options.batch_size, atoms, options.k)
    checking = replace(making, tokens=evaluated, evaluation=True)
    training = {name: estimate(shape, making, machine) for name, machine in machines.items()}
    return Planned(
        options=options,
        shape=shape,
        sites=sites,
        tokens=tokens,
        evaluated=evaluated,
        atoms=atoms,
        machines=machines,
        training=training,
        evaluation={name: estimate(shape, checking, machine) for name, machine in machines.items()},
        whole={name: runs_whole(training[name], machine) for name, machine in machines.items()},
    )


def plan_values(made: Planned) -> dict[str, Any]:
    """Return a plan as JSON values."""
    shape = {**asdict(made.shape), "dtype": str(made.shape.dtype).removeprefix("torch.")}
    shape["blocks"], shape["active"] = list(made.shape.blocks), list(made.shape.active)
    found = {
        name: {
            "runs_whole": made.whole[name],
            "training": _estimate_values(made.training[name]),
            "evaluation": _estimate_values(made.evaluation[name]),
        }
        for name in made.machines
    }
    return {
        "model": shape | {"parameters": made.shape.parameters, "bytes": made.shape.bytes},
        "sites": [str(site) for site in made.sites],
        "tokens": made.tokens,
        "evaluated": made.evaluated,
        "settings": asdict(made.options),
        "machines": found,
    }


def _estimate_values(found: Estimate) -> dict[str, Any]:
    return asdict(found) | {"seconds": found.seconds, "limit": found.limit}


def _machine(options: settings.Plan, gpu: int | None, ram: int) -> Machine:
    given = options.model_memory
    return Machine(
        gpu=gpu,
        ram=ram,
        dtype=DTYPES.get(options.dtype),
        # The default of `itda.recipes.activation_source`, if all of the memory is free.
        model_memory=given if given is not None else ram // 2,
        scratch=options.scratch or 0,
        flops=1e12 * (options.tflops if gpu is not None else options.cpu_tflops),
        cpu_flops=1e12 * options.cpu_tflops,
        disk=1e9 * options.disk_gbps,
    )
