"""Starting weights from a file: whatever in it fits the model.

A parameter of the same name and shape is taken. One of another shape, or that the file lacks, keeps its random value,
and is named: that is how a trained network gets a head for other classes.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch

from ps.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ps.layout import Layout

NAMED = 3  # parameters, of however many


def read_into(weights_N: Tensor, file: Path, layout: Layout, network: nn.Module) -> str:
    """Put a file's tensors in the place of the weights that they fit; return what a person should know, or "".

    Args:
        weights_N: Initial weights; overwritten where the file has better.
        file: Safetensors.
        layout: Of the trainable parameters.
        network: Whose frozen parameters no file changes.

    Raises:
        BadInput: The file is unreadable, fits nowhere, or would be needed where the model is frozen. Nothing was
            written.
    """
    try:
        given = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(f"weights: cannot read {file}: {error}") from error
    views = layout.views(weights_N)
    fitting = [name for name, view in views.items() if name in given and given[name].shape == view.shape]
    if not fitting:
        there = ", ".join(list(given)[:NAMED]) or "nothing"
        wanted = ", ".join(list(views)[:NAMED])
        raise BadInput(f"weights: {file} is of another model: got {there} ..., expected {wanted} ...")
    frozen = [name for name, parameter in network.named_parameters() if name in given and name not in views]
    if frozen:
        raise BadInput(
            f"weights: got {file} with {frozen[0]}, which is frozen in this model and keeps what its factory gives it; "
            "read the file in the factory too (load_state_dict(safetensors.torch.load_file(FILE), strict=False))"
        )
    for name in fitting:
        views[name].copy_(given[name])
    fresh = [_said(name, views[name], given) for name in views if name not in fitting]
    if not fresh:
        return ""
    more = f" and {len(fresh) - NAMED} more" if len(fresh) > NAMED else ""
    return (
        f"{len(fitting)} of {len(views)} parameters are those of {file}; new and random: "
        f"{', '.join(fresh[:NAMED])}{more}"
    )


def _said(name: str, view: Tensor, given: dict[str, Tensor]) -> str:
    here = "x".join(map(str, view.shape))
    there = f"{'x'.join(map(str, given[name].shape))} there" if name in given else "not there"
    return f"{name} ({here}, {there})"
