"""A new kind of a thing is one new file."""

import sys

import pytest

from distfacegan.registry import find_kinds

NAMED = """
from typing import Literal

class Settings:
    kind: Literal["{kind}"]
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of an importable package with one kind, `tin`, and a module without any."""
    folder = tmp_path / "metals"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "a_module.py").write_text(NAMED.format(kind="tin"))
    (folder / "helper.py").write_text("class Alloy:\n    kind: str\n    parts = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "metals"]:
        del sys.modules[name]


def test_a_file_that_is_put_there_is_a_kind(package):
    (package / "b_module.py").write_text(NAMED.format(kind="lead"))
    assert list(find_kinds("metals")) == ["lead", "tin"]


def test_what_a_module_imports_is_no_kind_of_its_own(package):
    (package / "b_module.py").write_text("from metals.a_module import Settings")
    assert [kind.__module__ for kind in find_kinds("metals").values()] == ["metals.a_module"]


def test_a_kind_may_be_a_package(package):
    (package / "gold").mkdir()
    (package / "gold" / "__init__.py").write_text("from metals.gold.inner import Settings")
    (package / "gold" / "inner.py").write_text(NAMED.format(kind="gold"))
    assert list(find_kinds("metals")) == ["gold", "tin"]


def test_a_kind_cannot_be_there_twice(package):
    (package / "b_module.py").write_text(NAMED.format(kind="tin"))
    with pytest.raises(AssertionError, match="are both tin"):
        find_kinds("metals")
