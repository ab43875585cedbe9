"""Predict: what a finished run's model sees in pictures."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distbelief.finite import without_nan
from distbelief.progress import percent, printable
from distbelief.saved import Saved
from ps.errors import BadInput
from workers.classification import probabilities
from workers.crops import Crops
from workers.decode import BadImage, decode
from workers.images import Pixels, Traits, UInt8
from workers.own_data import as_fed

SHOWN = 5
BAD_PICTURE = 2  # exit code

Guess = tuple[str, float]  # class and its probability


def predict_command(run: Path, pictures: Sequence[Path], weights: str, crops: int, json: bool) -> int:
    """`distbelief predict`: prints the likeliest classes of every picture, or one JSON object.

    Returns:
        The exit code: 2 if a picture cannot be read; the others are shown all the same.

    Raises:
        BadInput: No such run, no such weights, or no such number of crops.
    """
    model = Saved.open(run, weights)
    traits = model.card.traits
    shown, predictor = Crops.of(traits, crops), model.predictor()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found: list[dict[str, object]] = []
    code = 0
    for picture in pictures:
        try:
            pixels = read_picture(picture, traits.image_shape[0]) if traits.mean else read_own(picture, traits)
        except BadImage as error:
            code = BAD_PICTURE
            found.append({"image": str(picture), "error": str(error)})
            print(f"distbelief: error: {printable(str(error))}", file=sys.stderr)
            continue
        (found_K,) = probabilities([predictor], [pixels], shown, traits)
        best = found_K.topk(min(SHOWN, len(traits.classes)))
        guesses = [(traits.classes[k], p) for k, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        found.append({"image": str(picture), "top5": [_as_json(guess) for guess in guesses]})
        if not json:
            print("\n".join([printable(str(picture)), *map(_line, guesses)]), flush=True)
    if json:
        content = {"images": found, "weights": weights, "crops": crops, "sha256": model.sha256}
        print(json_format.dumps(without_nan(content), allow_nan=False))
    return code


def read_picture(path: Path, channels: int) -> UInt8:
    """The pixels of an image file, HxWxC: three channels, or one: its brightness. Raises BadImage."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"{path}: got {error.strerror}, expected a readable image file") from error
    pixels = decode(data, str(path))
    if channels == 3:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def read_own(path: Path, traits: Traits) -> Pixels:
    """What a model for data of one's own is fed for a file: a numpy array (.npy), or a picture. Raises BadImage."""
    if path.suffix == ".npy":
        try:
            given = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BadImage(f"{path}: got {error}, expected a numpy array") from error
    else:
        given = read_picture(path, traits.image_shape[0])
    try:
        found = as_fed(given, str(path))
    except BadInput as error:
        raise BadImage(str(error)) from error
    if found.shape != traits.image_shape:
        raise BadImage(f"{path}: got an image of shape {found.shape}, expected {traits.image_shape}")
    return found


def _line(guess: Guess) -> str:
    name, probability = guess
    return f"  {percent(probability):>8}  {printable(name)}"


def _as_json(guess: Guess) -> dict[str, object]:
    name, probability = guess
    return {"class": name, "probability": probability}
