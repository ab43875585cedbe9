"""Evaluate: the error of a finished run's weights, or of several runs' as an ensemble."""

from __future__ import annotations

import hashlib
import json as json_format
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from distbelief import rundir
from distbelief.config import Config
from distbelief.progress import percent
from ps.errors import BadInput
from ps.layout import Layout
from workers.datasets import load
from workers.evaluation import Evaluation, Predictor, evaluate
from workers.gradient import GradientFunction
from workers.models import build


def evaluate_command(runs: Sequence[Path], weights: str, crops: int, json: bool) -> int:
    """`distbelief evaluate`: prints one line, or one JSON object. Returns the exit code; raises BadInput."""
    if crops != 1:
        raise BadInput(f"crops: got {crops}, expected 1 (the centre crop)")
    evaluation, hashes = evaluate_runs(runs, weights)
    if json:
        loss = evaluation.loss if math.isfinite(evaluation.loss) else None  # JSON has no NaN
        found = {**asdict(evaluation), "loss": loss, "weights": weights, "crops": crops, "sha256": hashes}
        print(json_format.dumps(found, allow_nan=False))
        return 0
    model = "the model" if len(hashes) == 1 else f"the ensemble of {len(hashes)} models"
    print(
        f"{model} ({weights} weights, {evaluation.examples:,} test images): "
        f"top-1 error {percent(evaluation.top1_error)}, top-5 error {percent(evaluation.top5_error)}, "
        f"loss {evaluation.loss:.4f}"
    )
    return 0


def evaluate_runs(runs: Sequence[Path], weights: str) -> tuple[Evaluation, list[str]]:
    """Evaluate the saved weights of one run, or of several as an ensemble (probabilities averaged), on the test split
    of their data.

    Returns:
        The evaluation, and the sha256 of each weights file.

    Raises:
        BadInput: No such run, no such weights, or runs of different data sets.
    """
    configs = [rundir.config_of(run) for run in runs]
    names = sorted({config.data.name for config in configs})
    if len(names) != 1:
        raise BadInput(f"runs: got data sets {', '.join(names)}, expected runs of one data set")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    opened = [load(settings, "test") for settings in dict.fromkeys(config.data for config in configs)]
    if len(opened) > 1 and len({each.fingerprint() for each in opened}) > 1:
        raise BadInput(f"runs: got data sets {names[0]} with different test images, expected runs of one data set")
    dataset = opened[0]
    files = [run / f"{weights}.safetensors" for run in runs]
    predictors = [
        _predictor(config, file, len(dataset.classes), dataset.image_shape)
        for config, file in zip(configs, files, strict=True)
    ]
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=len(dataset))
        evaluation = evaluate(predictors, dataset, lambda done: progress.update(task, completed=done))
    return evaluation, [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _predictor(config: Config, file: Path, classes: int, image_shape: tuple[int, int, int]) -> Predictor:
    network = build(config.model.name, classes, *image_shape[:2])
    layout = Layout.of(network.named_parameters(), 1)
    weights_N = rundir.read_weights(file, layout)
    function = GradientFunction(network, layout, config.run.seed, config.model.precision)
    return lambda images_BCHW: function.predict(weights_N, images_BCHW)


def progress_bar() -> Progress:
    """A bar on stderr that is gone afterwards; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
