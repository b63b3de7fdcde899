"""The command line, where it needs no cluster."""

import re
import shlex
from pathlib import Path

import pytest

from distfacegan.cli import _parser, main
from distfacegan.store.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "submit", "jobs", "logs", "cancel", "plan", "status", "report", "verify")
JOBS = sorted(str(path) for path in (ROOT / "jobs").glob("*.yaml"))


def test_plan_accepts_every_job_and_touches_nothing(capsys):
    before = sorted(ROOT.glob("runs/**/*"))
    assert main(["plan", *JOBS]) == 0
    assert sorted(ROOT.glob("runs/**/*")) == before
    text = capsys.readouterr().out
    for words in (
        "1,800 rows in 18 shards of 100",
        "202,599 rows in 396 shards of 512, at most 9.96 GB at 128x128",  # 202599 * 128 * 128 * 3
        "`run` would stop here: ingest",
    ):
        assert words in text


def test_plan_refuses_what_cannot_work(capsys):
    assert main(["plan", JOBS[-1], "--set", "synthesize.count=none"]) == 2
    assert "synthesize.count" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: distfacegan" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "report", "verify"])
def test_what_is_no_run_directory_is_refused(command, tmp_path, capsys):
    assert main([command, str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_status_of_a_run_that_has_only_begun(tmp_path, capsys):
    run = RunDirectory(tmp_path)
    run.job.write_text("name: a\n")
    run.begin("ingest", {}, {})
    assert main(["status", str(tmp_path)]) == 0
    assert re.search(r"ingest +unfinished", capsys.readouterr().out)


def test_the_commands_of_the_readme_exist():
    """Each `distfacegan` line of the README parses, and its jobs are in the repository."""
    lines = re.findall(r"^    (?:RAY_ADDRESS=\S+ )?distfacegan (.*?)(?:  +#.*)?$", readme(), re.M)
    assert {line.split()[0] for line in lines} == set(COMMANDS)
    for line in lines:
        arguments = shlex.split(line)
        _parser().parse_args(arguments)
        for argument in arguments:
            assert not argument.startswith("jobs/") or (ROOT / argument).exists(), line


def test_the_links_of_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "cluster" / "README.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_make_targets_of_the_readme_exist():
    targets = re.findall(r"make (\w+)", readme())
    assert {"quickstart", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target


def readme() -> str:
    return (ROOT / "README.md").read_text()
