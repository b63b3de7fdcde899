"""What `distfacegan bench` does: prepares, measures, prints, writes.

What needs Ray is imported where it is used: the others run without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from distfacegan import weights
from distfacegan.bench import figure, losses, subjects
from distfacegan.bench import invert as bench
from distfacegan.bench import storage as bench_storage
from distfacegan.bench import train as bench_train
from distfacegan.core.networks import base_resolution
from distfacegan.errors import DistfaceganError
from distfacegan.spec import SurrogateSettings
from distfacegan.store import files
from distfacegan.store.location import locate, reach


def invert(options: argparse.Namespace) -> None:
    """Compare the ways of inverting; raises DistfaceganError, before any work, for bad options."""
    _check_folder(options.json, options.figure)
    if options.figure is not None:
        figure.check(options.figure)
    if options.generator is None:
        generator = subjects.generator()
    else:
        generator = weights.load_generator(options.generator)
    generator.to("cuda" if torch.cuda.is_available() else "cpu")
    faces = subjects.faces(options.photos, options.faces, generator.resolution)
    learns = (
        SurrogateSettings()
        if options.generator
        else SurrogateSettings(steps=subjects.SURROGATE_STEPS)
    )
    result = bench.measure(
        generator,
        faces.to(generator.stem.weight.device),
        learns=learns,
        precision=options.precision,
        batch=options.batch,
    )
    _show(bench.table(result), result, options.json)
    if options.figure is not None:
        figure.draw(result, options.figure)


def train(options: argparse.Namespace) -> None:
    """Compare ways of training; raises DistfaceganError, before any work, for bad options."""
    _check_folder(options.json, options.figure)
    if options.figure is not None:
        figure.check(options.figure)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {
        name: default if getattr(options, name) is None else getattr(options, name)
        for name, default in bench_train.defaults(device).items()
    }
    try:
        base_resolution(settings["resolution"], settings["levels"])
    except ValueError as error:
        raise DistfaceganError(str(error)) from error
    result = bench_train.measure(**settings, device=device)
    text = bench_train.table(result)
    if options.curves or options.figure is not None:
        result["losses"] = losses.measure(**settings, device=device)
        text += "\n" + losses.summary(result["losses"])
    _show(text, result, options.json)
    if options.figure is not None:
        figure.draw_training(result["losses"], options.figure)


def stage(options: argparse.Namespace) -> None:
    """Compare the invert stage with its core; raises DistfaceganError for bad options."""
    from distfacegan.bench import stage as bench_stage

    _check_folder(options.json)
    result = bench_stage.measure(options.rows, options.workers)
    _show(bench_stage.table(result), result, options.json)


def store(options: argparse.Namespace) -> None:
    """Measure a place for run directories; raises DistfaceganError for bad options."""
    _check_folder(options.json)
    location = locate(options.location)
    reach(location)
    result = bench_storage.measure(location, options.shards)
    _show(bench_storage.table(result), result, options.json)


def pool(options: argparse.Namespace) -> None:
    """Measure the driver loop; raises DistfaceganError for bad options."""
    from distfacegan.bench import pool as bench_pool

    _check_folder(options.json)
    result = bench_pool.measure(options.shards, options.workers)
    _show(bench_pool.table(result), result, options.json)


BENCHES = {"invert": invert, "train": train, "stage": stage, "store": store, "pool": pool}


def _show(table: str, result: dict[str, Any], path: Path | None) -> None:
    print(table)
    if path is not None:
        files.write_json(path, result)


def _check_folder(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise DistfaceganError(f"{path}: there is no folder {path.parent} to write into")
