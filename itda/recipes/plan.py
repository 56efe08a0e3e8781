"""`itda plan`: the memory and time that a model larger than memory takes, before its weights are downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from itda import config as settings
from itda.checks import check_plan
from itda.core.batch import Site
from itda.errors import ModelError
from itda.recipes.measuring import measure
from itda.recipes.rates_kept import Measured, keep_rates, kept_rates, was_measured
from itda.recipes.runs import Bar, no_bar
from itda.resolving import planned, sites_of
from itda.sources.models.named import DTYPES
from itda.sources.models.names import gguf_of
from itda.sources.streamed.model_shape import ModelShape
from itda.sources.streamed.planning import Estimate, Machine, Work, estimate, runs_whole
from itda.sources.streamed.rates import CPU_TFLOPS, DISK_GBPS, LINK_GBPS, TFLOPS, DictionaryCosts, Rates

GPU, LAPTOP = "GPU", "laptop"
DEVICES = {GPU: "cuda", LAPTOP: "cpu"}
"""The device that a model runs on, on each machine."""


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
    measured: Measured | None
    """What was measured on this machine for this model, if the plan goes by it."""
    measured_for_others: bool
    """True if something was measured on this machine, but for another model or other settings."""
    assumed: Mapping[str, Rates]
    """The rates, by machine, that are assumed where nothing is measured or given."""


def plan(options: settings.Plan, bar: Bar = no_bar, *, rates: Measured | None = None) -> Planned:
    """`itda plan`: estimate by arithmetic, from a configuration alone, and by rates that are assumed or measured.

    `rates` that were measured before go before those that are kept. Raises an `ItdaError` for bad input.
    """
    check_plan(options)
    options = planned(options)
    if gguf_of(options.model) is not None:
        raise ModelError(
            f"{options.model} is in GGUF, which is unpacked as a whole, not block by block, so there is nothing to "
            "plan: plan with the config.json of the model that it was made from"
        )
    sites = tuple(sites_of(options))
    shape = ModelShape.of(
        options.model, sites=sites, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    measured = rates if rates is not None else None if options.assumed else _measured(options, shape, bar)
    machines = {
        GPU: _machine(options, GPU, options.ram, _rates(options, shape, GPU, measured)),
        LAPTOP: _machine(options, LAPTOP, options.laptop, _rates(options, shape, LAPTOP, measured)),
    }
    making = Work(
        sites,
        options.tokens,
        options.window,
        options.batch_size,
        options.atoms,
        options.k,
        recipe=options.recipe or 1,
        passes=options.refine or 0,
    )
    checking = replace(making, tokens=options.evaluate, evaluation=True)
    training = {name: estimate(shape, making, machine) for name, machine in machines.items()}
    return Planned(
        options=options,
        shape=shape,
        sites=sites,
        tokens=options.tokens,
        evaluated=options.evaluate,
        atoms=options.atoms,
        machines=machines,
        training=training,
        evaluation={name: estimate(shape, checking, machine) for name, machine in machines.items()},
        whole={name: runs_whole(training[name], machine) for name, machine in machines.items()},
        measured=measured,
        measured_for_others=measured is None and not options.assumed and was_measured(),
        assumed={name: _rates(options, shape, name, None) for name in machines},
    )


def plan_values(made: Planned) -> dict[str, Any]:
    """Return a plan as JSON values."""
    shape = {**asdict(made.shape), "dtype": str(made.shape.dtype).removeprefix("torch.")}
    for name in ("blocks", "active", "products"):
        shape[name] = list(shape[name])
    found = {
        name: {
            "runs_whole": made.whole[name],
            "training": _estimate_values(made.training[name]),
            "evaluation": _estimate_values(made.evaluation[name]),
            "rates": asdict(made.machines[name].rates),
            "assumed_rates": asdict(made.assumed[name]),
        }
        for name in made.machines
    }
    return {
        "model": shape | {"parameters": made.shape.parameters, "bytes": made.shape.bytes},
        "sites": [str(site) for site in made.sites],
        "tokens": made.tokens,
        "evaluated": made.evaluated,
        "settings": asdict(made.options),
        "measured": made.measured.values() if made.measured is not None else None,
        "machines": found,
    }


def _estimate_values(found: Estimate) -> dict[str, Any]:
    return asdict(found) | {"seconds": found.seconds, "limit": found.limit}


def _measured(options: settings.Plan, shape: ModelShape, bar: Bar) -> Measured | None:
    """Measure this machine if that is asked for, and keep it; else return what was kept for the same model."""
    of = {
        "d_model": shape.d_model,
        "products": shape.products,
        "tokens": options.window * options.batch_size,
        "dtype": options.dtype,
        "stored": str(shape.dtype),
        "k": options.k,
    }
    if not options.measure:
        return kept_rates(of)
    dtype, group = DTYPES.get(options.dtype), options.window * options.batch_size
    measured = measure(shape, tokens=group, dtype=dtype, k=options.k, atoms=options.atoms, bar=bar)
    keep_rates(of, measured)
    return measured


def _rates(options: settings.Plan, shape: ModelShape, name: str, measured: Measured | None) -> Rates:
    """Return the rates of a machine: those that were given, else measured, else assumed."""
    given = {"cpu": options.cpu_tflops, "cuda": options.tflops}
    usual = {"cpu": CPU_TFLOPS, "cuda": TFLOPS}

    def flops(device: str) -> float:
        if given[device] is not None or measured is None or device not in measured.flops:
            return 1e12 * (given[device] or usual[device])
        return measured.flops[device]

    def costs(device: str) -> DictionaryCosts:
        if measured is not None and device in measured.costs:
            return measured.costs[device]
        return DictionaryCosts.assumed(1e12 * (given[device] or usual[device]), shape.d_model, options.k)

    disk = 1e9 * (options.disk_gbps or DISK_GBPS)
    if measured is not None and options.disk_gbps is None:
        disk = measured.disk
    link = measured.link if measured is not None and measured.link is not None else 1e9 * LINK_GBPS
    return Rates(disk, flops(DEVICES[name]), link, costs("cpu"), costs("cuda") if name == GPU else None)


def _machine(options: settings.Plan, name: str, ram: int, rates: Rates) -> Machine:
    given = options.model_memory
    return Machine(
        gpu=options.gpu_memory if name == GPU else None,
        ram=ram,
        dtype=DTYPES.get(options.dtype),
        # The default of `itda.recipes.activation_source`, if all of the memory is free.
        model_memory=given if given is not None else ram // 2,
        scratch=options.scratch or 0,
        rates=rates,
        grow_on=options.grow_on,
    )
