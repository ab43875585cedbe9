"""Experiment: what a laboratory is to try, as a file or as options say it, and the cells that this comes to.

An experiment's file is a config.toml, complete or not, and beside its sections

    [experiment]    title, about, minutes (of two cores, about), target_error
    [grid]          axis = [values], or several as [[grid]], whose cells are put together
    [clusters.X]    keys of [simulate]: the model of a cluster, under a name for the axis "cluster"

With `--from RUN` the clusters whose times are log-normal draw from those that RUN measured, each worker on a machine of
its own; the others have their mean, and all of them its latency and service time.

Axes: workers, consistency, correction, momentum, rate, seed, cluster. A consistency or correction may carry its number
after a colon: "softsync:15", "staleness-rate:0.5". Without a rate or momentum on the grid a cell has what a run with so
many workers would have, without a cluster that of [simulate]. Options beat the file, axis by axis.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from cluster.model import SimulateSettings
from distbelief.config import Config
from distbelief.policy import AUTO
from ps.errors import BadInput, nearest, require
from ps.rules import WITH_MOMENTUM

AXES = ("workers", "consistency", "correction", "momentum", "rate", "seed", "cluster")
KEYS = {"workers": "cluster.workers", "momentum": "rule.momentum", "rate": "schedule.rate", "seed": "run.seed"}
NUMBERS = {  # what the number after the colon is
    "consistency": {"async": "begin", "bounded": "bound", "softsync": "split", "backup": "backups"},
    "correction": {
        "staleness-rate": "power", "dc-asgd": "strength", "dc-asgd-adaptive": "adaptive_strength", "discard": "limit",
    },
}  # fmt: skip
CLUSTERS: dict[str, dict[str, object]] = {
    "even": {"compute": "lognormal", "sigma": 0.2},
    "round-robin": {"compute": "constant", "latency_seconds": 0.0},
    "memoryless": {"compute": "exponential", "latency_seconds": 0.0},
    "one-slow": {"compute": "lognormal", "sigma": 0.2, "slow_workers": 1, "slow_factor": 5.0},
    "heavy-tail": {"compute": "pareto", "tail": 1.5},
}
QUICK: dict[str, object] = {  # what options alone start from: seconds per cell
    "run.preset": "digits", "model.name": "perceptron", "run.epochs": 8, "cluster.shards": 1,
    "simulate.evaluate_epochs": 0.5,
}  # fmt: skip
EXPERIMENT = "experiment.toml"  # in a laboratory's directory
LOGNORMAL = SimulateSettings().compute
AS_SET = "as-set"  # the cluster of cells for which none was chosen
_OWN = ("experiment", "grid", "clusters")

Grid = dict[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid.

    Attributes:
        consistency, correction: With their number, as they were asked for.
        cluster: Name of the cluster's model.
        config: The whole run.
    """

    consistency: str
    correction: str
    cluster: str
    config: Config

    @property
    def workers(self) -> int:
        return self.config.cluster.workers

    @property
    def momentum(self) -> float:
        """Of the rule; 0 for a rule without."""
        return self.config.rule.momentum if self.config.rule.rule in WITH_MOMENTUM else 0.0

    @property
    def rate(self) -> float:
        return self.config.schedule.rate

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def name(self) -> str:
        """Tells the cell from every other one, whatever their settings: a name for its directory."""
        digest = hashlib.sha256(self.config.to_toml().encode()).hexdigest()[:8]
        modes = re.sub(r"[^\w.-]", "_", f"{self.consistency}-{self.correction}-{self.cluster}")
        return f"w{self.workers}-{modes}-m{self.momentum:g}-r{self.rate:g}-s{self.seed}-{digest}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A grid to try.

    Attributes:
        name: Short, for a directory.
        minutes: That it takes on two cores, about; 0 if nobody said.
        target_error: Top-1 error, a fraction, whose first sight is noted; 0 for none.
        settings: Of every cell, "section.key" to value.
        clusters: Name to keys of [simulate].
        grids: Whose cells are put together.
    """

    name: str
    title: str
    about: str = ""
    minutes: float = 0.0
    target_error: float = 0.0
    settings: Mapping[str, object] = field(default_factory=dict)
    clusters: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: CLUSTERS)
    grids: Sequence[Grid] = ({},)

    def __post_init__(self) -> None:
        require(0 <= self.target_error < 1, "target error", self.target_error, "a fraction: 0.05 for 5 %")

    def cells(self) -> list[Cell]:
        """Every cell once, in the order of the grids. Raises BadInput if one of them cannot be run."""
        found: dict[str, Cell] = {}
        for grid in self.grids:
            axes = {axis: grid.get(axis, ()) or (None,) for axis in AXES}
            for values in product(*axes.values()):
                cell = self._cell(dict(zip(axes, values, strict=True)))
                found.setdefault(cell.name, cell)
        return list(found.values())

    def _cell(self, chosen: Mapping[str, object]) -> Cell:
        values = dict(self.settings)
        cluster = str(chosen["cluster"] or AS_SET)
        if cluster != AS_SET:
            if cluster not in self.clusters:
                known = ", ".join(self.clusters)
                raise BadInput(f"cluster: got {cluster!r}, expected one of {known}{nearest(cluster, self.clusters)}")
            values |= {f"simulate.{key}": value for key, value in self.clusters[cluster].items()}
        for axis, key in KEYS.items():
            if chosen[axis] is not None:
                values[key] = chosen[axis]
        for axis in NUMBERS:
            if chosen[axis] is not None:
                values |= _moded(axis, str(chosen[axis]))
        config = Config.of(values)
        begin = f":{config.consistency.begin}" if config.consistency.begin else ""
        consistency = str(chosen["consistency"] or f"{config.consistency.kind}{begin}")
        correction = str(chosen["correction"] or self.settings.get("correction.kind", AUTO))
        return Cell(consistency, correction, cluster, config)

    def measured(self, fit: Mapping[str, object]) -> Experiment:
        """The same with the times of a recorded run, as distbelief.fit gives them."""
        own = {key: fit[f"simulate.{key}"] for key in ("compute", "source")}
        clusters = {
            name: {**keys, **own} if keys.get("compute", LOGNORMAL) == LOGNORMAL else keys
            for name, keys in self.clusters.items()
        }
        return replace(self, clusters=clusters, settings={**self.settings, **fit, "simulate.turns": 0})

    def narrowed(self, axes: Grid, settings: Mapping[str, object], target_error: float | None) -> Experiment:
        """The same with these axes and settings in place of its own."""
        grids = [{**grid, **axes} for grid in self.grids]
        target = self.target_error if target_error is None else target_error
        return replace(self, grids=grids, settings={**self.settings, **settings}, target_error=target)

    def to_toml(self) -> str:
        """A file that says the same: `parse` reads it."""
        said = {"title": self.title, "about": self.about, "minutes": self.minutes, "target_error": self.target_error}
        content: dict[str, Any] = {
            "experiment": said,
            "grid": [{axis: list(values) for axis, values in grid.items()} for grid in self.grids],
            "clusters": self.clusters,
        }
        for key, value in self.settings.items():
            section, _, name = key.partition(".")
            content.setdefault(section, {})[name] = str(value) if isinstance(value, Path) else value
        return tomli_w.dumps(content)


def _moded(axis: str, text: str) -> dict[str, object]:
    """Settings of "kind" or "kind:number". Raises BadInput."""
    kind, colon, number = text.partition(":")
    values: dict[str, object] = {f"{axis}.kind": kind}
    if colon:
        key = NUMBERS[axis].get(kind)
        try:
            values[f"{axis}.{key}"] = tomllib.loads(f"value = {number}")["value"]
        except tomllib.TOMLDecodeError:
            key = None
        if key is None:
            known = ", ".join(f"{name}:NUMBER" for name in NUMBERS[axis])
            raise BadInput(f"{axis}: got {text!r}, expected a kind, or one of {known}")
    return values


# --- files ------------------------------------------------------------------------------------------------------------


def quick() -> Experiment:
    """What options alone describe."""
    return Experiment("grid", "A grid", settings=QUICK, grids=({"workers": (1, 8, 32)},))


def shipped() -> dict[str, Experiment]:
    """The experiments that come with the package, by name."""
    folder = resources.files("distbelief.laboratory") / "experiments"
    names = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {name: parse(name, (folder / f"{name}.toml").read_text("utf-8"), name) for name in names}


def find(text: str) -> Experiment:
    """The experiment in the file of this name, or the shipped one. Raises BadInput if there is neither."""
    path = Path(text)
    if path.is_file():
        try:
            return parse(path.stem, path.read_text("utf-8"), text)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"experiment: cannot read {text}: {error}") from error
    known = shipped()
    if text not in known:
        raise BadInput(
            f"experiment: got {text!r}, expected a TOML file or one of {', '.join(known)}{nearest(text, known)}"
        )
    return known[text]


def parse(name: str, text: str, source: str) -> Experiment:
    """An experiment's file. `source`: what errors call it. Raises BadInput."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"experiment: {source} is not TOML: {error}") from error
    said = _table(tables, "experiment", source)
    known: dict[str, type | tuple[type, ...]] = {
        "title": str, "about": str, "minutes": (int, float), "target_error": (int, float),
    }  # fmt: skip
    for key, value in said.items():
        if key not in known or not isinstance(value, known[key]):
            raise BadInput(f"{source}: got {key} = {value!r} in [experiment], expected {', '.join(known)}")
    clusters = _table(tables, "clusters", source)
    if bad := [key for key, value in clusters.items() if not isinstance(value, dict)]:
        raise BadInput(f"{source}: got {bad[0]} in [clusters], expected [clusters.NAME] with keys of [simulate]")
    settings: dict[str, object] = {}
    for section in tables:
        if section not in _OWN:
            settings |= {f"{section}.{key}": value for key, value in _table(tables, section, source).items()}
    grids = tables.get("grid", {})
    several = grids if isinstance(grids, list) else [grids]
    return Experiment(
        name, str(said.get("title", name)), str(said.get("about", "")), float(said.get("minutes", 0.0)),
        float(said.get("target_error", 0.0)), settings, {**CLUSTERS, **clusters},
        [_grid(each, source) for each in several],
    )  # fmt: skip


def _table(tables: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise BadInput(f"{source}: got {table!r} for {name}, expected a [{name}] section")
    return table


def _grid(table: object, source: str) -> Grid:
    if not isinstance(table, dict):
        raise BadInput(f"{source}: got {table!r} for grid, expected [grid], or [[grid]] several times")
    for axis, values in table.items():
        if axis not in AXES:
            raise BadInput(f"{source}: got the axis {axis}, expected one of {', '.join(AXES)}{nearest(axis, AXES)}")
        if not isinstance(values, list) or not values:
            raise BadInput(f"{source}: got {axis} = {values!r} in [grid], expected a list of values")
    return {axis: tuple(values) for axis, values in table.items()}
