"""Baselines: a parameter server as one writes it with Ray alone, in two forms, to measure ours beside.

    example   the parameter server of Ray's documentation, asynchronous: an actor with an optimizer; a worker hands it
              gradients as an argument and gets the weights as the answer, a dictionary of tensors
    arrays    the same in flat numpy arrays, which the object store hands over without serialising; one actor per shard

Both apply torch's own SGD with momentum. Workers compute nothing. Ours beside them: distbelief.bench.exchanging.

Source: docs.ray.io, "Parameter Server" (ray-core/examples/plot_parameter_server); rewritten for a list of shapes.
Shape suffix: N = parameters of one shard.
"""

from __future__ import annotations

import time  # noqa: TID251 -- measuring is what this is for
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from cluster.live.connection import connected
from cluster.local import private_ray

RATE, MOMENTUM, GRADIENT = 1e-4, 0.9, 1e-6

Shapes = Sequence[tuple[int, ...]]
Array = npt.NDArray[np.float32]


@contextmanager
def ray_here() -> Iterator[None]:
    """A Ray of one's own on this machine."""
    with private_ray() as temporary, connected("local", temporary):
        yield


class _Server:
    """Actor: the weights and their optimizer."""

    def __init__(self, shapes: Shapes) -> None:
        torch.set_num_threads(1)
        self._parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        self._optimizer = torch.optim.SGD(self._parameters, lr=RATE, momentum=MOMENTUM)

    def _step(self, gradients: Sequence[Array]) -> None:
        self._optimizer.zero_grad()
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        self._optimizer.step()

    def tensors(self, gradients: Sequence[Array]) -> dict[str, torch.Tensor]:
        self._step(gradients)
        return {str(index): parameter.detach().cpu() for index, parameter in enumerate(self._parameters)}

    def array(self, gradient_N: Array) -> Array:
        self._step([gradient_N])
        weights_N: Array = self._parameters[0].detach().numpy()
        return weights_N


class _Worker:
    """Actor: pushes and pulls."""

    def __init__(self, servers: Sequence[Any], shapes: Sequence[Shapes]) -> None:
        torch.set_num_threads(1)
        self._servers = servers
        self._gradients = [[np.full(shape, GRADIENT, np.float32) for shape in part] for part in shapes]
        self._weights = [[torch.zeros(shape) for shape in part] for part in shapes]

    def tensors(self) -> None:
        weights = ray.get(self._servers[0].tensors.remote(self._gradients[0]))
        for index, own in enumerate(self._weights[0]):
            own.copy_(weights[str(index)])

    def array(self) -> None:
        calls = [server.array.remote(part[0]) for server, part in zip(self._servers, self._gradients, strict=True)]
        for own, weights_N in zip(self._weights, ray.get(calls), strict=True):
            own[0].numpy()[:] = weights_N

    def per_second(self, form: str, seconds: float) -> float:
        """Round trips per second, over about so many seconds."""
        round_trip = getattr(self, form)
        began, times = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            round_trip()
            times += 1
        return times / spent


def example(shapes: Shapes, workers: int, seconds: float) -> Callable[[], float]:
    """Round trips per second of all workers of the documentation's example. Call within `ray_here`."""
    return _side("tensors", [shapes], workers, seconds)


def arrays(elements: Sequence[int], workers: int, seconds: float) -> Callable[[], float]:
    """Likewise with flat arrays, and one server for each number of elements."""
    return _side("array", [[(each,)] for each in elements], workers, seconds)


def _side(form: str, shapes: Sequence[Shapes], workers: int, seconds: float) -> Callable[[], float]:
    options = {"num_cpus": 0}
    servers = [ray.remote(_Server).options(**options).remote(part) for part in shapes]
    made: list[Any] = [ray.remote(_Worker).options(**options).remote(servers, shapes) for _ in range(workers)]
    return lambda: sum(ray.get([worker.per_second.remote(form, seconds) for worker in made]))
