"""Card: what a weights file says of itself, so that its model can be used where its data set is not.

It lies in the header of the safetensors file, every value as text.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors

from ps.errors import BadInput
from workers.images import Traits


@dataclass(frozen=True, slots=True)
class Card:
    """What one must know to use a file of weights.

    Attributes:
        model: Name of the network.
        run: Id of the run that trained it.
        averaged_versions: How many versions of the weights are in the average; 0 for weights of one version.
        traits: What the network is fed, and what its outputs stand for.
    """

    model: str
    run: str
    averaged_versions: int
    traits: Traits

    def metadata(self) -> dict[str, str]:
        """The card as a file's header holds it."""
        return {
            "model": self.model,
            "run": self.run,
            "averaged_versions": str(self.averaged_versions),
            "data": self.traits.name,
            "classes": json.dumps(self.traits.classes, ensure_ascii=False),
            "image_shape": json.dumps(self.traits.image_shape),
            "mean": json.dumps(self.traits.mean),
            "scale": json.dumps(self.traits.scale),
        }

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Card:
        """The card in a file's header. Raises KeyError or ValueError if there is none."""
        traits = Traits(
            metadata["data"],
            tuple(map(str, json.loads(metadata["classes"]))),
            tuple(map(int, json.loads(metadata["image_shape"]))),
            tuple(map(float, json.loads(metadata["mean"]))),
            float(json.loads(metadata["scale"])),
        )
        return cls(metadata["model"], metadata["run"], int(metadata["averaged_versions"]), traits)


def read_card(file: Path) -> Card:
    """The card of a weights file. Raises BadInput if the file is unreadable or has none."""
    if not file.exists():
        raise BadInput(
            f"weights: got no {file}, expected one; {shlex.join(['distbelief', 'resume', str(file.parent)])} goes on "
            "with a run that was killed, and one without gradients has none"
        )
    try:
        with safetensors.safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(f"weights: cannot read {file}: {error}") from error
    try:
        return Card.of(metadata)
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(
            f"weights: got {file} without a word on its classes and images ({type(error).__name__}: {error}), "
            "expected a file that `distbelief launch` wrote"
        ) from error
