"""Export: a finished run's model for use elsewhere, as safetensors or as ONNX.

What is exported is the network as it predicts: without the auxiliary heads, images in, logits out. The images are
(pixel - mean) * scale, channels first, red, green, blue; mean, scale and class names are in the file's metadata.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from distbelief.output import writable, written
from distbelief.saved import Saved
from ps.errors import BadInput
from workers.inception import AuxiliaryHead, Logits
from workers.normalisation import ALPHA, BETA, REACH, LocalResponse

FORMATS = ("safetensors", "onnx")
ONNX_PACKAGES = ("onnx", "onnxscript")


def export_command(run: Path, format: str, output: Path | None, weights: str) -> int:
    """`distbelief export`: writes one file and says which. Returns the exit code; raises BadInput."""
    if format == "onnx" and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise BadInput(
            f"--format: got onnx without the package {' and '.join(missing)}, expected it installed: "
            "pip install 'distbelief[onnx]'"
        )
    model = Saved.open(run, weights)
    file = writable(output or run / f"model.{format}")
    data = as_onnx(model) if format == "onnx" else as_safetensors(model)
    written(file, data)
    print(f"wrote {file}: {model.card.model}, {len(model.card.traits.classes)} classes, {len(data):,} bytes")
    return 0


def as_safetensors(model: Saved) -> bytes:
    """The named tensors that predictions are made with."""
    network = model.network()
    heads = tuple(f"{name}." for name, layer in network.named_children() if isinstance(layer, AuxiliaryHead))
    # Clones: a file has no place for two names of one tensor.
    kept = {n: tensor.clone() for n, tensor in network.state_dict().items() if not n.startswith(heads or (" ",))}
    return safetensors.torch.save(kept, metadata=model.card.metadata())


def as_onnx(model: Saved) -> bytes:
    """An ONNX model from "images", shape (batch, channels, height, width), to "logits", shape (batch, classes)."""
    images_BCHW = torch.zeros(2, *model.card.traits.image_shape)
    with _quiet():
        program = torch.onnx.export(
            _Inference(model.network()).eval(),
            (images_BCHW,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(model.card.metadata())
    data: bytes = program.model_proto.SerializeToString()
    return data


class _Inference(nn.Module):
    """The network as a function of one tensor to another, of torch's own operators alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, layer in network.named_children():
            if isinstance(layer, LocalResponse):  # works on a few positions at a time, which no graph can say
                network.add_module(name, nn.LocalResponseNorm(2 * REACH + 1, ALPHA, BETA, k=1.0))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits: Tensor | Logits = self.network(images_BCHW)
        return logits if isinstance(logits, Tensor) else logits.main


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself and of packages that it does not find."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
