"""Evaluate: the error of a finished run's weights, or of several runs' as an ensemble."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from distbelief.counter import Counter
from distbelief.finite import without_nan
from distbelief.progress import percent, printable
from distbelief.saved import Saved
from ps.errors import BadInput
from workers.datasets import Dataset, load
from workers.decode import BadImage
from workers.evaluation import Evaluation, evaluate
from workers.images import Traits

NAMED = 5  # unreadable images that are named, of however many


def evaluate_command(runs: Sequence[Path], weights: str, crops: int, json: bool) -> int:
    """`distbelief evaluate`: prints one line, or one JSON object. Returns the exit code; raises BadInput."""
    models = [Saved.open(run, weights) for run in runs]
    for model in models:
        if weights == "average" and model.card.averaged_versions == 0:
            _note(f"{model.run} ended before a version was averaged: its average is its latest weights")
    evaluation = evaluate_models(models, crops)
    if json:
        hashes = [model.sha256 for model in models]
        found = {**asdict(evaluation), "weights": weights, "crops": crops, "sha256": hashes}
        print(json_format.dumps(without_nan(found), allow_nan=False))
    else:
        print(_line(evaluation, len(models), weights, crops))
    return 0


def evaluate_models(models: Sequence[Saved], crops: int) -> Evaluation:
    """Evaluate the weights of one run, or of several as an ensemble (probabilities averaged), on the test split of
    their data. Images that cannot be read are left out, and the first of them named on stderr.

    Raises:
        BadInput: Runs of different data sets, no such number of crops, or nothing to evaluate on.
    """
    dataset = _shared(models)
    torch.set_num_threads(1)  # of each of the threads below
    ensembles = [[model.predictor() for model in models] for _ in os.sched_getaffinity(0)]
    unreadable: list[BadImage] = []
    with Counter("evaluating", "images", sys.stderr) as counter:

        def look(done: int) -> None:
            counter.show(done, len(dataset))

        look(0)
        evaluation = evaluate(ensembles, dataset, crops, look, unreadable.append)
    for error in unreadable[:NAMED]:
        _note(str(error))
    if len(unreadable) > NAMED:
        _note(f"... and {len(unreadable) - NAMED} more that cannot be read")
    return evaluation


def _shared(models: Sequence[Saved]) -> Dataset:
    """The test split that all these models were made for."""
    names = sorted({model.config.data.name for model in models})
    if len(names) != 1:
        raise BadInput(f"runs: got data sets {', '.join(names)}, expected runs of one data set")
    opened = [load(settings, "test") for settings in dict.fromkeys(model.config.data for model in models)]
    if len(opened) > 1 and len({each.fingerprint() for each in opened}) > 1:
        raise BadInput(f"runs: got data sets {names[0]} with different test images, expected runs of one data set")
    found = Traits.of(opened[0])
    for model in models:
        if model.card.traits.classes != found.classes:
            raise BadInput(f"{model.run}: got weights for {_classes(model.card.traits)}, expected {_classes(found)}")
        if model.card.traits != found:
            raise BadInput(
                f"{model.run}: got weights for images of {_images(model.card.traits)}, expected {_images(found)}"
            )
    return opened[0]


def _classes(traits: Traits) -> str:
    shown = ", ".join(traits.classes[:3]) + (", ..." if len(traits.classes) > 3 else "")
    return f"{len(traits.classes)} classes ({shown})"


def _images(traits: Traits) -> str:
    mean = ", ".join(f"{value:g}" for value in traits.mean)
    return f"{'x'.join(map(str, traits.image_shape))} (mean {mean}, scale {traits.scale:g})"


def _line(evaluation: Evaluation, models: int, weights: str, crops: int) -> str:
    model = "the model" if models == 1 else f"the ensemble of {models} models"
    skipped = f", {evaluation.skipped:,} unreadable left out" if evaluation.skipped else ""
    cropped = f", {crops} crops each" if crops > 1 else ""
    return (
        f"{model} ({weights} weights, {evaluation.examples:,} test images{cropped}{skipped}): "
        f"top-1 error {percent(evaluation.top1_error)}, top-5 error {percent(evaluation.top5_error)}, "
        f"loss {evaluation.loss:.4f}"
    )


def _note(line: str) -> None:
    print(f"distbelief: {printable(line)}", file=sys.stderr)
