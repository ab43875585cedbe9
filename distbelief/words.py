"""Words: parts of a configuration as a person is told of them, in the same words wherever they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ps.rules import WITH_MOMENTUM

if TYPE_CHECKING:
    from distbelief.config import Config


def rule_of(config: Config) -> str:
    """For example "momentum, rate 0.05 (cosine), momentum 0.5"."""
    text = f"{config.rule.rule}, rate {config.schedule.rate:g} ({config.schedule.kind})"
    return f"{text}, momentum {config.rule.momentum:g}" if config.rule.rule in WITH_MOMENTUM else text


def cluster_of(config: Config) -> str:
    """For example "32 workers, 2 shards"."""
    return f"{config.cluster.workers:,} workers, {config.cluster.shards} shards"
