"""The command line: one function for each command."""

from __future__ import annotations

import argparse
import collections
import logging
import sys
from collections.abc import Sequence

from distfacegan import __version__
from distfacegan.bench.options import add_benches, positive
from distfacegan.cluster_commands import add_cluster_commands, add_extent, add_spec
from distfacegan.errors import DistfaceganError, RunDirectoryError
from distfacegan.store.location import ObjectStoreError, brief, locate, reach
from distfacegan.store.run_directory import RunDirectory

_DESCRIPTION = """\
Labelled synthetic faces from photos: crop, find landmarks, train BEGAN, invert every photo, train a
landmark generator, generate. What to do is a job spec (YAML, see jobs/); what was done is in its
run directory. Running the same command again goes on where the last one stopped.
"""
_EPILOG = """\
exit codes: 0 all done; 1 some shards set aside (or, of verify, something damaged): the same `run`
tries them again; 2 the spec, the command or the environment is wrong, and the message says what to
do; 3 a fault of the program itself, with its traceback; 130 interrupted or cancelled.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.INFO
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("distfacegan").setLevel(level)
    try:
        return options.command(options)
    except (DistfaceganError, OSError) as error:
        print(f"distfacegan: {error}", file=sys.stderr)
        return 2
    except ObjectStoreError as error:
        print(f"distfacegan: the object store: {brief(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distfacegan: interrupted; `run` with the same spec goes on", file=sys.stderr)
        return 130
    except Exception:
        logging.exception("distfacegan failed")
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "distfacegan",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    text = "do what a job spec says, or finish it"
    run = commands.add_parser("run", help=text, description=text)
    add_spec(run)
    add_extent(run)
    run.set_defaults(command=_run)

    add_cluster_commands(commands)

    text = "say what a job would do and need; nothing is run"
    plan = commands.add_parser("plan", help=text, description=text)
    add_spec(plan, several=True)
    plan.add_argument(
        "--measure",
        action="store_true",
        help="time every stage on this machine, for some seconds each",
    )
    plan.set_defaults(command=_plan)

    for name, command, text in (
        ("status", _status, "say how far a run is, from its directory alone"),
        (
            "report",
            _report,
            "write the report page of a run, or compare two runs, and print the path",
        ),
        ("verify", _verify, "check everything a run stored; what is damaged, `run` makes again"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("run", metavar="RUN", help="the run directory: a path or a URL")
        if name == "report":
            text = "another run, to compare with"
            sub.add_argument("other", metavar="OTHER", nargs="?", help=text)
        sub.set_defaults(command=command)

    text = "write a run's faces in another format; nothing is generated again"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("run", metavar="RUN", help="the run directory: a path or a URL")
    export.add_argument("--format", required=True, metavar="FORMAT", help="an export format")
    export.add_argument("--to", required=True, metavar="LOCATION", help="an empty path or URL")
    export.add_argument(
        "--what",
        choices=["synthetic", "photos"],
        default="synthetic",
        help="the generated faces, or the photos' faces with landmarks and latents",
    )
    export.set_defaults(command=_export)

    text = "make one sample of a run's generated faces again"
    again = commands.add_parser("regenerate", help=text, description=text)
    again.add_argument("run", metavar="RUN", help="the run directory: a path or a URL")
    again.add_argument("--index", type=int, required=True, help="of the sample, from 0")
    again.add_argument("--to", required=True, metavar="DIR", help="where to write its files")
    again.set_defaults(command=_regenerate)

    text = "train a landmark detector on the labelled faces of a run"
    detector = commands.add_parser("train-detector", help=text, description=text)
    detector.add_argument("run", metavar="RUN", help="the run directory: a path or a URL")
    detector.add_argument("--to", required=True, metavar="DIR", help="where to write it")
    detector.add_argument("--steps", type=positive, default=1500, help="training steps (1500)")
    detector.add_argument("--seed", type=int, default=0, help="of the training (0)")
    detector.set_defaults(command=_train_detector)

    bench = commands.add_parser("bench", help="measure what the documentation quotes")
    add_benches(bench, _bench)
    return parser


# Each command imports what it needs: --help and status do not wait for torch and Ray.


def _run(options: argparse.Namespace) -> int:
    from distfacegan import pipeline, specfile

    spec = specfile.load(options.spec, options.set)
    code = pipeline.run(spec, only=options.only, fresh=options.fresh)
    page = spec.run / "report" / "index.html"
    if page.exists():
        print(f"report: {page}")
    return code


def _plan(options: argparse.Namespace) -> int:
    from distfacegan import planning, specfile

    for path in options.specs:
        print(planning.describe(specfile.load(path, options.set), path, measure=options.measure))
    return 0


def _status(options: argparse.Namespace) -> int:
    from distfacegan.store import status

    print(status.describe(_existing(options.run)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from distfacegan import report
    from distfacegan.report import comparison

    run = _existing(options.run)
    if options.other is None:
        print(f"report: {report.write(run)}")
    else:
        print(f"comparison: {comparison.write(run, _existing(options.other))}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from distfacegan import pipeline
    from distfacegan.store import formats

    run = _existing(options.run)
    written_by = run.written_by()
    if written_by:
        print(f"written by {', '.join(written_by)}; read by {formats.origin(formats.stamp())}")
    kinds = collections.Counter[str]()
    for stage, finding in pipeline.verify(run):
        print(f"{stage}: {finding}")
        kinds[finding.kind] += 1
    damaged, unreadable = kinds["damaged"], kinds["unreadable"]
    if damaged:
        print(f"{damaged} findings; `distfacegan run` with the same spec makes them good")
    if unreadable:
        print(f"{unreadable} things could not be checked by this version; nothing of them changed")
    if damaged or unreadable:
        return 1 if damaged else 2
    print("nothing is damaged")
    return 0


def _export(options: argparse.Namespace) -> int:
    from distfacegan import exporting
    from distfacegan.store.exports import named_format

    export, folder = named_format(options.format), locate(options.to)
    reach(folder)
    print(exporting.export(_existing(options.run), export, folder, options.what))
    return 0


def _regenerate(options: argparse.Namespace) -> int:
    from distfacegan.regeneration import regenerate

    for path in regenerate(_existing(options.run), options.index, locate(options.to)):
        print(path)
    return 0


def _train_detector(options: argparse.Namespace) -> int:
    from distfacegan import detector_training
    from distfacegan.core.regressor import Schedule

    schedule = Schedule(steps=options.steps)
    run, to = _existing(options.run), locate(options.to)
    print(detector_training.train(run, to, schedule, seed=options.seed))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from distfacegan.bench import command

    command.run(options)
    return 0


def _existing(text: str) -> RunDirectory:
    run = RunDirectory(locate(text))
    reach(run.root)
    if not run.exists():
        raise RunDirectoryError(f"{text} is not a run directory: it has no job.yaml")
    return run


if __name__ == "__main__":
    sys.exit(main())
