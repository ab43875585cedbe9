"""Device: where gradients are computed, if not in the memory that shards read and write: on a GPU.

    mailbox -> weights on the device -> gradient on the device -> mailbox

The mailboxes are pinned, so that these copies are the GPU's own work, which it does in the order in which it is asked:
while the weights are on their way the images are sent after them, and this process waits once, for the gradient. On the
CPU nothing is copied: there the mailboxes are what is computed on.

No GPU was at hand when this was written. Tested is all that runs without one; what CUDA itself does is not.

Shape suffixes: N = trainable parameters of the model, B = batch, C, H, W = channels, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ps.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from ps.messages import Lease
    from workers.gradient import Losses

CPU = torch.device("cpu")


class Function(Protocol):
    """What computes a lease's gradient; see GradientFunction."""

    def compute(
        self, weights_N: Tensor, lease: Lease, images_BCHW: Tensor, labels_B: Tensor, gradient_N: Tensor
    ) -> Losses: ...


class OnDevice:
    """A function of vectors in this process's memory that is computed on a device.

    Args:
        function: Computes on the device.
        elements: N.
    """

    def __init__(self, function: Function, device: torch.device, elements: int) -> None:
        self._function = function
        self._device = device
        self._weights_N = torch.empty(elements, device=device)
        self._gradient_N = torch.empty(elements, device=device)

    def compute(
        self, weights_N: Tensor, lease: Lease, images_BCHW: Tensor, labels_B: Tensor, gradient_N: Tensor
    ) -> Losses:
        """As GradientFunction.compute, which says what is raised; the vectors are in this process's memory."""
        self._weights_N.copy_(weights_N, non_blocking=True)
        images_BCHW = images_BCHW.to(self._device, non_blocking=True)
        labels_B = labels_B.to(self._device, non_blocking=True)
        losses = self._function.compute(self._weights_N, lease, images_BCHW, labels_B, self._gradient_N)
        gradient_N.copy_(self._gradient_N, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return losses


def device_for(gpus: float) -> torch.device:
    """Where this process computes, which has this share of a GPU. Raises BadInput if it can use none."""
    if not gpus:
        return CPU
    if torch.cuda.is_available():
        return torch.device("cuda")
    why = "torch sees no GPU here" if torch.version.cuda else "this build of torch has no CUDA"
    raise BadInput(f"cluster.gpus_per_worker: got {gpus:g}, expected 0 (compute on cores): {why}")


def pin(vector_N: Tensor) -> Callable[[], None]:
    """Let the GPU copy to and from this vector by itself, until what is returned is called: before its memory goes."""
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = vector_N.data_ptr()
    torch.cuda.check_error(runtime.cudaHostRegister(address, vector_N.nbytes, 0))
    return lambda: torch.cuda.check_error(runtime.cudaHostUnregister(address))
