"""Configuration: the components' settings composed into one value, presets, and where each value comes from.

Arguments beat the configuration file, the file beats the preset, the preset beats the defaults. An unknown key is an
error that names the nearest known one. The config.toml of a run is complete: `distbelief launch --config
RUN/config.toml` starts the same run again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import tomli_w

from cluster.model import SimulateSettings
from cluster.spec import ClusterSettings, SnapshotSettings
from distbelief.policy import AUTO, ENOUGH, LED_RULES, LOOKS_AHEAD, OneWorker
from ps.averager import AverageSettings
from ps.consistency import ConsistencySettings
from ps.correction_settings import CorrectionSettings
from ps.errors import BadInput, nearest, require
from ps.ledger import LedgerSettings
from ps.rules import WITH_MOMENTUM, RuleSettings
from ps.schedule import ScheduleSettings
from ps.streams import derive
from workers.datasets import DataSettings
from workers.models import ModelSettings
from workers.own import is_own
from workers.program_settings import ProgramSettings

LARGEST_INT = 1 << 53  # up to here every whole number is a float too


OWN_PRESET = "own"  # for data of one's own


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The run as a whole.

    Attributes:
        preset: Where the defaults come from.
        folder: Run directory; empty for a new one under ./runs.
        seed: Root of every random number of the run.
        ensemble_member: Which member of an ensemble this is, 0 for a run of its own. Members of one seed begin with the
            same weights, and see other images in another order (Szegedy et al. 2014, section 7).
        epochs: Passes over the training set.
        batch_size: Examples per lease.
        max_seconds: End the run after this long; 0 for never.
        target_error: End the run when the average's top-1 error, a fraction, is at most this; 0 for never.
        evaluate_share: Share of the machine's compute that evaluation beside training may take; 0 for none.
        init_from: Safetensors file with the initial weights; empty for random ones.
    """

    preset: str = "digits"
    folder: str = ""
    seed: int = 0
    ensemble_member: int = 0
    epochs: int = 10
    batch_size: int = 32
    max_seconds: float = 0.0
    target_error: float = 0.0
    evaluate_share: float = 0.05
    init_from: str = ""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 1 << 63, "run.seed", self.seed, "0 to 2^63 - 1")
        require(self.ensemble_member >= 0, "run.ensemble_member", self.ensemble_member, "0 (a run of its own) or more")
        require(self.epochs >= 1, "run.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "run.batch_size", self.batch_size, "at least 1 example")
        require(self.max_seconds >= 0, "run.max_seconds", self.max_seconds, "0 (no limit) or a number of seconds")
        require(0 <= self.target_error < 1, "run.target_error", self.target_error, "a fraction: 0.05 for 5 %")
        require(0 <= self.evaluate_share <= 1, "run.evaluate_share", self.evaluate_share, "a share from 0 to 1")

    @property
    def sampling_seed(self) -> int:
        """Root of all that differs between the members of an ensemble: order, augmentation, dropout."""
        return derive(self.seed, f"ensemble/{self.ensemble_member}") if self.ensemble_member else self.seed


@dataclass(frozen=True, slots=True)
class Config:
    """One run's configuration: a section per component.

    Attributes:
        automatic: No section: keys that the policy chose a value for, since nobody else did.
    """

    run: RunSettings = field(default_factory=RunSettings)
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    one_worker: OneWorker = field(default_factory=OneWorker)
    rule: RuleSettings = field(default_factory=RuleSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    average: AverageSettings = field(default_factory=AverageSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    program: ProgramSettings = field(default_factory=ProgramSettings)
    snapshot: SnapshotSettings = field(default_factory=SnapshotSettings)
    simulate: SimulateSettings = field(default_factory=SimulateSettings)
    automatic: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, values: Mapping[str, object], file: Path | None = None) -> Config:
        """Compose a configuration.

        Args:
            values: "section.key" to value, the strongest source.
            file: A config.toml, complete or not.

        Raises:
            BadInput: Unknown preset, section or key, or a value that is not of its kind or out of its range.
        """
        filed = _flat(_read(file), str(file)) if file else {}
        data = str(values.get("data.name", filed.get("data.name", "")))
        usual = OWN_PRESET if is_own(data) else RunSettings().preset
        preset = str(values.get("run.preset", filed.get("run.preset", usual)))
        merged = {**_flat(_preset(preset), f"preset {preset}"), **filed, **values, "run.preset": preset}
        sections = _sections()
        known = {section: get_type_hints(kind) for section, kind in sections.items()}
        keys = [f"{section}.{name}" for section, kinds in known.items() for name in kinds]
        chosen: dict[str, dict[str, Any]] = {name: {} for name in sections}
        for key, value in merged.items():
            section, _, name = key.partition(".")
            if section not in sections:
                expected = f"section.key with one of {', '.join(sections)}{nearest(key, keys)}"
                raise BadInput(f"{key}: got an unknown section, expected {expected}")
            if name not in known[section]:
                expected = f"one of {', '.join(known[section])}{nearest(key, keys)}"
                raise BadInput(f"{key}: got an unknown key, expected {expected}")
            chosen[section][name] = _as(known[section][name], value, key)
        given = chosen["rule"].get("rule", RuleSettings().rule)
        rule = given if "rule.rule" in values else _implied_rule(values, given)
        if rule != given:  # another rule's rate says nothing about this one
            chosen["rule"]["rule"] = rule
            if "schedule.rate" not in values:
                chosen["schedule"].pop("rate", None)
                merged.pop("schedule.rate", None)
            if rule == "sgd" and "rule.weight_decay" not in values:
                chosen["rule"]["weight_decay"] = 0.0
        named = {**filed, **values}
        if "consistency.begin" not in named and any(key.startswith("consistency.") for key in named):
            chosen["consistency"].pop("begin", None)  # the preset's ramp is for its own consistency
        automatic = chosen["correction"].get("kind", AUTO) == AUTO
        if automatic:
            chosen["correction"]["kind"] = CorrectionSettings().kind
        left = tuple(key for key in ("schedule.rate", "rule.momentum") if key not in merged)
        if automatic:
            left += ("correction.kind",)
        config = cls(**{name: kind(**chosen[name]) for name, kind in sections.items()}, automatic=left)
        if automatic and config._can_look_ahead("rule.momentum" in merged):
            config = replace(config, correction=replace(config.correction, kind=LOOKS_AHEAD))
        config = config._with_carried()
        config.check()
        return config

    def _with_carried(self) -> Config:
        """The same with one worker's rate and momentum carried over, where they are left to the policy."""
        carried, schedule, rule = self._carried, self.schedule, self.rule
        if "schedule.rate" in self.automatic:
            schedule = replace(schedule, rate=carried.rate)
        if "rule.momentum" in self.automatic:
            rule = replace(rule, momentum=carried.momentum)
        return replace(self, schedule=schedule, rule=rule)

    def without_vectors_per_worker(self) -> Config:
        """The policy where memory is short: no momentum per worker. Itself, if that was not its choice."""
        if "correction.kind" not in self.automatic or not self.looks_ahead:
            return self
        return replace(self, correction=replace(self.correction, kind=CorrectionSettings().kind))._with_carried()

    def _can_look_ahead(self, chosen_momentum: bool) -> bool:
        """Whether the policy has something to lead: asynchronous gradients of several workers, and a momentum."""
        momentum = self.rule.momentum if chosen_momentum else self.one_worker.momentum
        return (
            self.cluster.workers > 1
            and not self.consistency.in_rounds
            and self.program.kind == "gradient"
            and self.rule.rule in LED_RULES
            and momentum > 0
        )

    @property
    def looks_ahead(self) -> bool:
        """Whether each worker has a momentum of its own."""
        return self.correction.kind == LOOKS_AHEAD

    @property
    def workers_alike(self) -> int:
        """How many asynchronous workers would be as stale while the rate is highest: what rate and momentum are carried
        over to.

        One, where the implicit momentum is corrected for, or the steps are local.
        """
        alone = self.correction.kind == "implicit-momentum" or self.program.kind in ("local", "elastic")
        return 1 if alone else 1 + self.staleness_at_first

    @property
    def mean_staleness(self) -> int:
        """What the mean staleness comes to, in updates."""
        return self.program.staleness(self.consistency.mean_staleness(self.cluster.workers))

    @property
    def staleness_at_first(self) -> int:
        """Likewise of those who begin, if not all workers do."""
        return self.program.staleness(self.consistency.staleness_at_first(self.cluster.workers))

    @property
    def _carried(self) -> OneWorker:
        return self.one_worker.under(self.rule.rule, self.workers_alike, self.looks_ahead)

    @property
    def policy_note(self) -> str:
        """What the policy did with one worker's rate and momentum, in a sentence; empty if it did nothing."""
        alike, carried = self.workers_alike, self._carried
        as_carried = (self.schedule.rate, self.rule.momentum) == (carried.rate, carried.momentum)
        notes = []
        if self.looks_ahead:
            notes.append("each worker has a momentum of its own, and pulls read where all of them lead")
            if as_carried and alike > ENOUGH:
                notes.append(f"the rate is {ENOUGH}/{alike} of one worker's")
        elif alike > 1 and self.rule.rule in WITH_MOMENTUM and as_carried:
            notes.append(f"one worker's rate and momentum, carried over to a staleness of {alike - 1}")
        workers, begin = self.cluster.workers, self.consistency.begin
        if 0 < begin < workers:
            share = 1 - begin / workers
            notes.append(f"{begin} workers begin, the others wait for their turn to join; all work after {share:.0%}")
        return "; ".join(notes)

    def check(self) -> None:
        """Raise BadInput if two sections do not go together."""
        workers = self.cluster.workers
        self.consistency.check(workers)
        self.correction.check(self.rule, self.mean_staleness)
        if self.consistency.in_rounds and self.correction.of_each_gradient:
            raise BadInput(
                f"correction.kind: got {self.correction.kind} with consistency {self.consistency.kind}, expected none, "
                "staleness-rate or implicit-momentum: the others are for gradients that are applied one by one"
            )
        self._check_program()

    def _check_program(self) -> None:
        kind, correction = self.program.kind, self.correction.kind
        self.program.check()
        if kind != "gradient" and correction not in ("none", "staleness-rate", "discard"):
            raise BadInput(
                f"correction.kind: got {correction} with the program {kind}, expected none, staleness-rate or discard: "
                "the others are for single gradients"
            )
        if self.program.prefetch and self.consistency.in_rounds:
            raise BadInput(
                f"program.prefetch: got true with consistency {self.consistency.kind}, expected false: "
                "there a gradient is of the newest round's weights, which nobody can pull ahead"
            )
        if kind == "local" and self.rule.rule not in ("sgd", "momentum", "nesterov"):
            raise BadInput(
                f'rule.rule: got "{self.rule.rule}" with the program local, expected nesterov, momentum or sgd'
            )
        if kind == "elastic" and (self.rule.rule != "sgd" or self.rule.weight_decay != 0):
            raise BadInput(
                f'rule.rule: got "{self.rule.rule}" with weight_decay {self.rule.weight_decay:g} and the program '
                "elastic, expected sgd without any: the shard only adds what it gets"
            )
        if kind == "elastic" and self.consistency.in_rounds:
            raise BadInput(
                f"consistency.kind: got {self.consistency.kind} with the program elastic, expected async or bounded"
            )

    def to_toml(self) -> str:
        """The whole configuration as TOML."""
        return tomli_w.dumps({name: asdict(getattr(self, name)) for name in _sections()})


def _implied_rule(values: Mapping[str, object], given: str) -> str:
    """The rule that what a user asked for implies, who named none: whoever asks for a momentum, or for what works on
    one, asks for a rule that has one.

    Args:
        given: The rule of the file or the preset.
    """
    program = values.get("program.kind")
    if program == "elastic":
        return "sgd"
    if program == "local":
        return "nesterov"
    wanted = "rule.momentum" in values or values.get("correction.kind") in ("implicit-momentum", "dana")
    return "momentum" if wanted and given not in WITH_MOMENTUM else given


def presets() -> tuple[str, ...]:
    """Names of the presets."""
    folder = resources.files("distbelief") / "presets"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def assignments(texts: Iterable[str]) -> dict[str, object]:
    """`--set section.key=value` arguments.

    A value is read as TOML, and as plain text if it is none. Raises BadInput without an "=".
    """
    found: dict[str, object] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise BadInput(f"--set: got {text!r}, expected section.key=value")
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value.strip()
    return found


def _sections() -> dict[str, Any]:
    hints = get_type_hints(Config)
    return {f.name: hints[f.name] for f in fields(Config) if is_dataclass(hints[f.name])}


def _preset(name: str) -> dict[str, Any]:
    if name not in presets():
        raise BadInput(f"run.preset: got {name!r}, expected one of {', '.join(presets())}{nearest(name, presets())}")
    return tomllib.loads((resources.files("distbelief") / "presets" / f"{name}.toml").read_text("utf-8"))


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"configuration: cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"configuration: {file} is not TOML: {error}") from error


def _flat(tables: Mapping[str, Any], source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise BadInput(f"{section}: got {table!r} in {source}, expected a [section] with keys")
        found |= {f"{section}.{key}": value for key, value in table.items()}
    return found


def _as(kind: Any, value: object, key: str) -> object:
    """The value as the kind its field has, where nothing is lost by it."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < LARGEST_INT, key, value, "a smaller number")
        return float(value)
    if kind is str and isinstance(value, Path):
        return str(value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
        raise BadInput(f"{key}: got {value!r}, expected {names.get(kind, kind)}")
    return value
