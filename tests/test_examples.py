"""The examples in the docstrings of the numerics give what they say."""

import doctest
import importlib
import pkgutil

import pytest

from distfacegan import core

MODULES = [info.name for info in pkgutil.walk_packages(core.__path__, f"{core.__name__}.")]
WITH_EXAMPLES = {"landmarks", "losses", "objective", "order", "pixels", "quasi_newton", "seeding"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted > 0 or name.rpartition(".")[2] not in WITH_EXAMPLES
