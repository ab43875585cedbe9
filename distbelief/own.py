"""What a program hands over: a model, a data set, a loss, as settings that any process can follow, now or later."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distbelief.config import OWN_PRESET, Config
from ps.errors import BadInput
from ps.wire.files import write_whole
from workers import own
from workers.own import home, is_own, is_pickle, joined, pickled, resolve

FOLDER = "own"  # in the run directory


def given(config: Config | Mapping[str, object], model: Any = None, dataset: Any = None, loss: Any = None) -> Config:
    """The configuration with what a program hands over in it.

    Args:
        config: Or its values, "section.key" to value; with a data set, where no preset is named, the preset "own".
        model: Makes a torch module; or a module, whose values are where training begins.
        dataset: As in `workers.own_data`.
        loss: Logits and labels to a mean loss.

    Raises:
        BadInput: One of them cannot reach the workers.
    """
    if not isinstance(config, Config):
        named_preset = {"run.preset": OWN_PRESET} if dataset is not None else {}
        config = Config.of({**named_preset, **config})
    path = _program()
    if dataset is not None:
        name, where = _named("dataset", dataset, path)
        config = replace(config, data=replace(config.data, name=name, path=where, classes=0, image_size=0))
    if model is not None:
        name, where = _named("model", model, path)
        config = replace(config, model=replace(config.model, name=name, path=where))
    if loss is not None:
        name, where = _named("loss", loss, path)
        config = replace(config, model=replace(config.model, loss=name, path=joined(config.model.path, where)))
    return config


def settled(config: Config) -> Config:
    """The same with the folders that the user's own modules were found in. Raises BadInput if one cannot be had."""
    model, data = config.model, config.data
    for key, name in (("model.name", model.name), ("model.loss", model.loss)):
        model = replace(model, path=_found(key, name, model.path))
    return replace(config, model=model, data=replace(data, path=_found("data.name", data.name, data.path)))


def _found(key: str, name: str, path: str) -> str:
    """The path with the folder of this object's module in it."""
    if not is_own(name) or is_pickle(name):
        return path
    resolve(key, name, joined(path, os.getcwd()))
    return joined(path, home(name.partition(":")[0]))


def kept(config: Config, folder: Path) -> Config:
    """Write what a program handed over into a run's directory; return the configuration that says where."""
    place = folder / FOLDER
    names = [name for name in (config.model.name, config.model.loss, config.data.name) if is_pickle(name)]
    for name in names:
        if (found := pickled(name)) is not None:
            place.mkdir(exist_ok=True)
            write_whole(place / found[0], found[1])
    return beside(config, folder)


def beside(config: Config, folder: Path) -> Config:
    """The configuration of a run in this directory: what was handed over lies in it."""
    place = str((folder / FOLDER).absolute())
    if is_pickle(config.data.name):
        config = replace(config, data=replace(config.data, path=joined(config.data.path, place)))
    if is_pickle(config.model.name) or is_pickle(config.model.loss):
        config = replace(config, model=replace(config.model, path=joined(config.model.path, place)))
    return config


def _named(what: str, thing: Any, path: str) -> tuple[str, str]:
    try:
        return own.named(thing, path)
    except BadInput as error:
        raise BadInput(f"{what}: {error}") from error


def _program() -> str:
    """Folder of the program that runs, or the current one."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
