"""The command line of `distfacegan bench`. It imports nothing heavy: `--help` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_benches(
    bench: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]
) -> None:
    """Add the benchmarks, which `command` runs, and their options."""
    benches = bench.add_subparsers(required=True, metavar="WHAT")
    text = "invert the same faces in every way, interleaved, and compare steps, losses and times"
    invert = benches.add_parser("invert", help=text, description=text)
    add = invert.add_argument
    add("--generator", type=Path, help="weights of G (default: a small one, trained first)")
    add("--photos", type=Path, help="a folder of photos (default: procedural)")
    add("--faces", type=positive, default=32, help="how many faces (32)")
    add("--batch", type=positive, default=16, help="faces inverted together (16)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="in which G computes (fp32)")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--figure", type=Path, metavar="FILE", help="draw the curves (.png, .svg)")
    invert.set_defaults(command=command, what="invert")

    text = "train BEGAN in plain PyTorch and in ours, interleaved, and compare times"
    train = benches.add_parser("train", help=text, description=text)
    add = train.add_argument
    config = "default: that of configs/began-quick.yaml, on a GPU of began-128.yaml"
    add("--resolution", type=positive, help=f"of the faces ({config})")
    for name in ("width", "levels"):
        add(f"--{name}", type=positive, help=f"of the networks ({config})")
    add("--batch", type=positive, help=f"faces of a step ({config})")
    add("--loss", help=f"BEGAN's reconstruction loss ({config})")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add(
        "--curves",
        action="store_true",
        help="compare losses too, of 3 seeds (8 minutes on two cores)",
    )
    add("--figure", type=Path, metavar="FILE", help="draw them (.png, .svg); implies --curves")
    train.set_defaults(command=command, what="train")

    text = (
        "find landmarks in every way, in turn, and compare with the face-alignment library's call"
    )
    landmarks = benches.add_parser("landmarks", help=text, description=text)
    add = landmarks.add_argument
    add("--weights", type=Path, help="of the 2D FAN (default: random ones, which take as long)")
    add("--onnx", type=Path, metavar="FILE", help="a 68-point ONNX network, to be compared too")
    add("--photos", type=Path, help="a folder of photos (default: procedural)")
    add("--faces", type=positive, default=16, help="how many faces (16)")
    add("--bf16", action="store_true", help="run our FAN in bf16 too")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    landmarks.set_defaults(command=command, what="landmarks")

    text = "train L-Gen in the usual loop and in ours, one and several at once, and compare"
    lgen = benches.add_parser("lgen", help=text, description=text)
    lgen.add_argument("--rows", type=positive, default=2000, help="how many rows (2000)")
    lgen.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    lgen.set_defaults(command=command, what="lgen")

    text = "make samples, encode and write them, and compare with G alone and the encoders alone"
    samples = benches.add_parser("synthesize", help=text, description=text)
    samples.add_argument("--samples", type=positive, default=2000, help="how many (2000)")
    samples.add_argument("--shard-rows", type=positive, default=200, help="of a shard (200)")
    samples.add_argument("--format", default="webdataset", help="how they are written (webdataset)")
    samples.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    samples.set_defaults(command=command, what="synthesize")

    text = "invert a store of faces in a job of its own, and compare its rate with the bare core's"
    stage = benches.add_parser("stage", help=text, description=text)
    stage.add_argument("--rows", type=positive, default=20_000, help="how many faces (20000)")
    stage.add_argument("--workers", type=positive, default=1, help="Ray workers (1)")
    stage.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    stage.set_defaults(command=command, what="stage")

    text = (
        "write and read shards of faces below a folder or a URL, and say how many MB/s go through"
    )
    store = benches.add_parser("store", help=text, description=text)
    store.add_argument("location", metavar="LOCATION", help="a folder, or s3://bucket/folder")
    store.add_argument("--shards", type=positive, default=8, help="of 25 MB (8)")
    store.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    store.set_defaults(command=command, what="store")

    text = "measure the driver loop, with workers that compute nothing"
    pool = benches.add_parser("pool", help=text, description=text)
    pool.add_argument("--shards", type=positive, default=10_000, help="of no time (10000)")
    pool.add_argument("--workers", type=positive, default=16, help="Ray workers (16)")
    pool.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    pool.set_defaults(command=command, what="pool")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
