"""`distfacegan bench synthesize`: samples to disk, against what G and the encoders do alone."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from distfacegan.bench import roofline
from distfacegan.core.lgen import LandmarkGenerator, Variant
from distfacegan.core.networks import Generator
from distfacegan.samplers.prior import OfPrior
from distfacegan.stages.sample_maker import Recipe, SampleMaker
from distfacegan.stages.synthesize import IN_FLIGHT, SynthesizeWorker
from distfacegan.store import shards, weight_files
from distfacegan.store.exports import ExportFormat, Sample
from distfacegan.store.shards import Shard

ROUNDS = 5
SHAPE: dict[str, Any] = {"resolution": 64, "latent_dim": 64, "width": 64, "levels": 4}
ALONE, ENCODERS = "G and L-Gen alone", "encoders alone"
SINK, DISK = "both, to a sink", "both, to disk"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sink(ExportFormat):
    """Encodes samples in another format, and throws the files away."""

    encodes: ExportFormat

    def pack(self, shard: int, samples: Iterable[Sample]) -> Iterator[tuple[str, bytes]]:
        for _ in self.encodes.pack(shard, samples):
            pass
        yield from ()


def measure(export: ExportFormat, count: int, shard_rows: int, device: torch.device) -> Any:
    """Make `count` samples in every way, in turn; return the samples a second, medians."""
    with tempfile.TemporaryDirectory(prefix="distfacegan-bench-") as text:
        folder = Path(text)
        recipe = _recipe(folder, count)
        plan = shards.split(count, shard_rows)
        numbers = itertools.count()  # of folders: a shard that has a marker is not made again

        def worker(export: ExportFormat) -> SynthesizeWorker:
            own = folder / str(next(numbers))
            return SynthesizeWorker(own, own / "shards", recipe, export=export, device=str(device))

        maker = SampleMaker(recipe, str(device))
        ready = [sample for sample, _ in maker.samples(Shard(0, 0, shard_rows))]
        to_sink, to_disk = _Sink(kind="sink", encodes=export), export
        ways: dict[str, Callable[[], Callable[[Shard], object]]] = {
            ALONE: lambda: maker.samples,
            ENCODERS: lambda: lambda shard: list(export.pack(0, ready[: len(shard)])),
            SINK: lambda: worker(to_sink).run,
            DISK: lambda: worker(to_disk).run,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(ROUNDS + 1):
            for name, prepare in ways.items():
                run = prepare()
                # G alone has one thread too, because the worker lets only one of its threads at G.
                threads = 1 if name == ALONE else IN_FLIGHT
                started = time.perf_counter()
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(run, plan))
                if round_:  # the first round is slower than all others
                    seconds[name].append(time.perf_counter() - started)
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    return {
        "device": roofline.device_name(device),
        "format": export.kind,
        "samples": count,
        "resolution": SHAPE["resolution"],
        "samples_per_s": rates,
        "of_the_slower": rates[DISK] / min(rates[ALONE], rates[ENCODERS]),
    }


def table(result: dict[str, Any]) -> str:
    """Return what was measured as text."""
    lines = [
        f"{result['samples']} samples of {result['resolution']} px as {result['format']}, one "
        f"worker on {result['device']}"
    ]
    lines += [
        f"  {name:<22} {rate:8.0f} samples/s" for name, rate in result["samples_per_s"].items()
    ]
    lines.append(f"to disk: {result['of_the_slower']:.2f} of the slower of the two alone")
    return "\n".join(lines)


def _recipe(folder: Path, count: int) -> Recipe:
    """Write untrained networks, which take as long as trained ones."""
    torch.manual_seed(0)
    generator, lgen = Generator(**SHAPE), LandmarkGenerator(latent_dim=SHAPE["latent_dim"])
    weight_files.save(folder / "g", {"generator": generator.state_dict()}, {})
    meta = {"variant": dataclasses.asdict(Variant()), "evaluation": {}}
    weight_files.save(folder / "l", {"lgen": lgen.state_dict()}, meta)
    sampler = OfPrior()
    return Recipe(generator=folder / "g", lgen=folder / "l", seed=0, count=count, sampler=sampler)
