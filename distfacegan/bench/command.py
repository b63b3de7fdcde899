"""What `distfacegan bench` does: it checks the options, measures, prints, writes and draws.

What needs Ray is imported where it is used: the other benchmarks run without it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from distfacegan import weights
from distfacegan.bench import figure, losses, subjects
from distfacegan.bench import invert as bench_invert
from distfacegan.bench import landmarks as bench_landmarks
from distfacegan.bench import lgen as bench_lgen
from distfacegan.bench import storage as bench_storage
from distfacegan.bench import train as bench_train
from distfacegan.core.losses import LOSSES
from distfacegan.core.networks import base_resolution
from distfacegan.core.pixels import to_faces
from distfacegan.errors import DistfaceganError
from distfacegan.sections.invert import SurrogateSettings
from distfacegan.store import files
from distfacegan.store.location import locate, reach

LANDMARK_FACE_PX = 128  # side of the faces that detectors look at
Measured = tuple[dict[str, Any], str]  # what `--json` writes, and the text that is printed


def run(options: argparse.Namespace) -> None:
    """Run one benchmark; raises DistfaceganError, before any work, for bad options."""
    drawn = getattr(options, "figure", None)
    for path in (options.json, drawn):
        if path is not None and not path.absolute().parent.is_dir():
            raise DistfaceganError(f"{path}: there is no folder {path.parent} to write into")
    if drawn is not None:
        figure.check(drawn)
    result, text = BENCHES[options.what](options)
    print(text)
    if options.json is not None:
        files.write_json(options.json, result)
    if drawn is not None:
        figure.draw(result, drawn)


def invert(options: argparse.Namespace) -> Measured:
    """Compare the ways of inverting."""
    if options.generator is None:
        generator, learns = subjects.generator(), SurrogateSettings(steps=subjects.SURROGATE_STEPS)
    else:
        generator, learns = weights.load_generator(options.generator), SurrogateSettings()
    device = _device()
    result = bench_invert.measure(
        generator.to(device),
        subjects.faces(options.photos, options.faces, generator.resolution).to(device),
        learns=learns,
        precision=options.precision,
        batch=options.batch,
    )
    return result, bench_invert.table(result)


def train(options: argparse.Namespace) -> Measured:
    """Compare the ways of training."""
    device = _device()
    defaults = bench_train.defaults(device)
    given = {name: getattr(options, name, None) for name in defaults}
    shape = defaults | {name: value for name, value in given.items() if value is not None}
    batch, loss = shape.pop("batch"), shape.pop("loss")
    if loss not in LOSSES:
        raise DistfaceganError(f"--loss must be one of {', '.join(LOSSES)}, found {loss!r}")
    try:
        base_resolution(shape["resolution"], shape["levels"])
    except ValueError as error:
        raise DistfaceganError(str(error)) from error
    result = bench_train.measure(shape, batch, loss, device)
    text = bench_train.table(result)
    if options.curves or options.figure is not None:
        result["losses"] = losses.measure(shape, batch, loss, device)
        text += "\n" + losses.summary(result["losses"])
    return result, text


def landmarks(options: argparse.Namespace) -> Measured:
    """Compare the ways of finding landmarks."""
    images = subjects.faces(options.photos, options.faces, LANDMARK_FACE_PX)
    result = bench_landmarks.measure(
        to_faces(images),
        _device(),
        weights=options.weights,
        onnx=options.onnx,
        precisions=("fp32", "bf16") if options.bf16 else ("fp32",),
    )
    return result, bench_landmarks.table(result)


def lgen(options: argparse.Namespace) -> Measured:
    """Compare the ways of training L-Gen."""
    result = bench_lgen.measure(options.rows, _device())
    return result, bench_lgen.table(result)


def stage(options: argparse.Namespace) -> Measured:
    """Compare the invert stage with its core."""
    from distfacegan.bench import stage as bench_stage

    result = bench_stage.measure(options.rows, options.workers)
    return result, bench_stage.table(result)


def store(options: argparse.Namespace) -> Measured:
    """Measure a place for run directories."""
    location = locate(options.location)
    reach(location)
    result = bench_storage.measure(location, options.shards)
    return result, bench_storage.table(result)


def pool(options: argparse.Namespace) -> Measured:
    """Measure the driver loop."""
    from distfacegan.bench import pool as bench_pool

    result = bench_pool.measure(options.shards, options.workers)
    return result, bench_pool.table(result)


def synthesize(options: argparse.Namespace) -> Measured:
    """Measure how fast samples are made, encoded and written."""
    from distfacegan.bench import synthesize as bench_synthesize
    from distfacegan.store.exports import named_format

    result = bench_synthesize.measure(
        named_format(options.format), options.samples, options.shard_rows, _device()
    )
    return result, bench_synthesize.table(result)


BENCHES = {
    bench.__name__: bench
    for bench in (invert, train, landmarks, lgen, synthesize, stage, store, pool)
}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
