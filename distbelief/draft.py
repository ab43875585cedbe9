"""Draft: what a configuration means, before anything is started: data, model, layout, plan and initial weights.

Launch, simulate and replay read a configuration here and nowhere else, so that the same one means the same run.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cluster.faults import FaultPlan, read_faults
from cluster.spec import RunSpec
from distbelief import own
from distbelief.starting import read_into
from ps.layout import Layout
from ps.leases import LeasePlan
from workers.datasets import Dataset, load
from workers.images import Traits
from workers.models import initial
from workers.own import is_own
from workers.own_data import OwnData
from workers.purity import Purity, check_data

if TYPE_CHECKING:
    from torch import Tensor

    from distbelief.config import Config


STANDS_IN = "no test set was given: the errors are those on the training examples"


@dataclass(frozen=True, slots=True)
class Draft:
    """A run as its configuration describes it.

    Attributes:
        spec: Without run id, folder and token, which no configuration names.
        weights_N: Initial weights, float32.
        dataset: The training set.
        notes: What a person should know of it.
    """

    spec: RunSpec
    weights_N: Tensor
    dataset: Dataset
    notes: tuple[str, ...] = ()


def draft(config: Config) -> Draft:
    """Open the training data, build the model, cut the layout, draw or read the initial weights. Raises BadInput."""
    dataset, data = load(config.data, "train"), config.data
    if isinstance(dataset, OwnData):  # counted once, here, and the same for every process and for the test images
        data = replace(data, classes=len(dataset.classes))
    network = initial(config.model, Traits.of(dataset), config.run.seed)
    layout = Layout.of(
        network.named_parameters(),
        config.cluster.shards,
        config.rule.bias_rate_multiplier,
        config.rule.bias_decay_multiplier,
    )
    weights_N = torch.empty(layout.size)
    layout.flatten({name: p.detach() for name, p in network.named_parameters()}, weights_N)
    notes = [STANDS_IN] if isinstance(dataset, OwnData) and _stands_in(config) else []
    if config.run.init_from:
        notes.append(read_into(weights_N, Path(config.run.init_from), layout, network))
    spec = RunSpec(
        run="",
        folder=Path(),
        token="",
        plan=LeasePlan(
            len(dataset), config.run.batch_size, config.run.epochs, config.run.sampling_seed, config.program.push_every
        ),
        layout=layout,
        model=config.model,
        data=data,
        rule=config.rule,
        schedule=config.schedule,
        average=config.average,
        ledger=config.ledger,
        cluster=config.cluster,
        correction=config.correction,
        consistency=config.consistency,
        program=config.program,
        snapshot=config.snapshot,
        pace=config.simulate if config.cluster.paced else None,
    )
    if isinstance(dataset, OwnData):
        check_data(dataset)
    if is_own(config.model.name) or config.model.loss or isinstance(dataset, OwnData):
        Purity(config.model, dataset, spec.plan, layout, weights_N).check()
    return Draft(spec, weights_N, dataset, tuple(filter(None, notes)))


def _stands_in(config: Config) -> bool:
    test = load(config.data, "test")
    return isinstance(test, OwnData) and test.stands_in


def facts_of(config: Config, drafted: Draft) -> dict[str, Any]:
    """What summary.json says of a run before it has begun."""
    return {
        "workers": config.cluster.workers,
        "shards": config.cluster.shards,
        "model": config.model.name,
        "parameters": drafted.spec.layout.size,
        "seed": config.run.seed,
        "ensemble_member": config.run.ensemble_member,
        "preset": config.run.preset,
        "data": config.data.name,
        "consistency": config.consistency.kind,
        "correction": config.correction.kind,
        "program": config.program.kind,
        "policy": config.policy_note,
        "prefetch": config.program.prefetch,
        "replayable": config.program.pure and not config.cluster.gpus_per_worker,
        "data_fingerprint": drafted.dataset.fingerprint(),
    }


def anchored(config: Config) -> Config:
    """The same with absolute paths: whoever else reads them, now or from config.toml, may stand elsewhere."""
    run = replace(config.run, folder=_absolute(config.run.folder), init_from=_absolute(config.run.init_from))
    data = replace(config.data, root=_absolute(config.data.root))
    cluster = replace(
        config.cluster,
        certificate=_absolute(config.cluster.certificate),
        key=_absolute(config.cluster.key),
        faults=_absolute(config.cluster.faults),
    )
    return own.settled(replace(config, run=run, data=data, cluster=cluster))


def faults_of(config: Config) -> FaultPlan:
    """What is planned to go wrong. Raises BadInput if the file cannot be read or carried out."""
    cluster = config.cluster
    if not cluster.faults:
        return FaultPlan()
    return read_faults(Path(cluster.faults), cluster.shards, config.run.seed, cluster.replicas > 0)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path else ""
