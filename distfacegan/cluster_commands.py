"""The commands that speak with a Ray cluster: submit, jobs, logs, cancel."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distfacegan import __version__
from distfacegan.store.run_directory import STAGES

if TYPE_CHECKING:
    from distfacegan.stages import submission


def add_cluster_commands(commands: Any) -> None:
    text = "send a job to a Ray cluster and follow it; Ctrl-C leaves it to itself"
    submit = commands.add_parser("submit", help=text, description=text)
    add_spec(submit)
    add_extent(submit)
    submit.add_argument(
        "--installed",
        action="store_true",
        help="run the distfacegan that the cluster has installed, not this one",
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job")
    submit.set_defaults(command=_submit)

    text = "list the jobs that a cluster has had, newest first"
    jobs = commands.add_parser("jobs", help=text, description=text)
    jobs.set_defaults(command=_jobs)

    text = "print what a job has logged"
    logs = commands.add_parser("logs", help=text, description=text)
    logs.add_argument("job", metavar="ID", help="the id that submit printed")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    logs.set_defaults(command=_logs)

    text = "stop a job; the shards that it is at are finished, the same spec goes on from there"
    cancel = commands.add_parser("cancel", help=text, description=text)
    cancel.add_argument("job", metavar="ID", help="the id that submit printed")
    cancel.set_defaults(command=_cancel)

    for parser in (submit, jobs, logs, cancel):
        parser.add_argument(
            "--address",
            default=os.environ.get("RAY_API_SERVER_ADDRESS"),
            metavar="http://HEAD:8265",
            help="of the cluster's dashboard (default: RAY_API_SERVER_ADDRESS)",
        )


def _submit(options: argparse.Namespace) -> int:
    from distfacegan import pipeline, specfile

    spec = specfile.load(options.spec, options.set)
    pipeline.chosen(spec, options.only)
    cluster = _cluster(options)
    job = cluster.submit(spec, only=options.only, fresh=options.fresh, installed=options.installed)
    code = "as the cluster has it installed" if options.installed else f"{__version__}, from here"
    print(
        f"submitted {job}\n"
        f"  dashboard:  {cluster.link(job)}\n"
        f"  run:        {spec.run} (this path, and the spec's others, are the cluster's nodes')\n"
        f"  code:       distfacegan {code}\n"
        f"{cluster.advice(job)}",
        flush=True,
    )
    return 0 if options.no_wait else _follow(cluster, job)


def _jobs(options: argparse.Namespace) -> int:
    from distfacegan.stages import submission

    print(submission.describe(_cluster(options).jobs()))
    return 0


def _logs(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    if options.follow:
        return _follow(cluster, options.job)
    print(cluster.logs(options.job), end="")
    return 0


def _cancel(options: argparse.Namespace) -> int:
    print(f"{options.job}: {_cluster(options).cancel(options.job)}")
    return 0


def _cluster(options: argparse.Namespace) -> submission.Cluster:
    from distfacegan.stages import submission

    if not options.address:
        raise submission.ClusterError(
            "which cluster? Say --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS"
        )
    return submission.Cluster(options.address)


def _follow(cluster: submission.Cluster, job: str) -> int:
    try:
        return cluster.follow(job, _write)
    except KeyboardInterrupt:
        print(f"\ndetached; {job} goes on\n{cluster.advice(job)}", file=sys.stderr)
        return 130


def _write(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # who reads has seen enough, `| head` for one: as good as Ctrl-C
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KeyboardInterrupt from None


def add_spec(parser: argparse.ArgumentParser, several: bool = False) -> None:
    parser.add_argument(
        "specs" if several else "spec",
        type=Path,
        nargs="+" if several else None,
        metavar="SPEC",
        help="the job spec, a YAML file",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of the spec, for example invert.steps=50 (may be given again)",
    )


def add_extent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STAGE",
        help=f"only this stage of the spec (may be given again): {', '.join(STAGES)}",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="first delete what the job (or --only's stages, and what reads from them) wrote",
    )
