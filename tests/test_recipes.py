"""A recipe is one module: spec, JSON schema, plan, benchmark and inversion know it by its file."""

import subprocess
import sys

from distfacegan import spec
from distfacegan.core.recipes import RECIPES
from distfacegan.settings import NameOf

LAZY = '''
from typing import Literal

from distfacegan.core.recipes import Recipe


class Lazy(Recipe):
    """Looks once, and never moves."""

    kind: Literal["lazy"] = "lazy"
    steps = 3

    def iterate(self, model, faces, z):
        while True:
            yield z, model.step(z, faces)[0]
'''

# The folder of the new module joins the package before the package looks for its modules.
USE = """
import importlib.util, sys

found = importlib.util.find_spec("distfacegan.core.recipes")
found.submodule_search_locations.append(sys.argv[1])
module = importlib.util.module_from_spec(found)
sys.modules[found.name] = module
found.loader.exec_module(module)

import torch
from distfacegan import spec
from distfacegan.bench.invert import OURS
from distfacegan.core.inversion import Inverter
from distfacegan.core.latent_model import latent_model
from distfacegan.core.networks import Generator
from distfacegan.core.search import Search

assert spec.Invert(recipe="lazy").steps == 3
schema = spec.json_schema()["$defs"]["Invert"]["properties"]
assert "lazy" in schema["recipe"]["enum"]
assert "lazy: Looks once, and never moves." in schema["recipe"]["description"]
assert "3 for lazy" in schema["steps"]["description"]
assert {"lazy, free", "lazy, box"} <= set(OURS)
model = latent_model(Generator(resolution=8, latent_dim=5, width=2, levels=2))
inversion = Inverter(model, Search(recipe="lazy"))(torch.zeros(2, 3, 8, 8), range(2))
assert inversion.steps.tolist() == [1, 1]
"""


def test_a_recipe_is_added_by_one_file(tmp_path):
    (tmp_path / "lazy.py").write_text(LAZY)
    command = [sys.executable, "-c", USE, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stderr


def test_every_recipe_describes_itself_to_the_reader_of_a_spec():
    assert {"bfgs", "clip", "fast", "paper"} <= set(RECIPES)
    lines = NameOf(RECIPES).described().splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(RECIPES)
    assert all(line.endswith(".") for line in lines)


def test_steps_and_bound_of_a_spec_are_those_of_its_recipe():
    for name, recipe in RECIPES.items():
        section = spec.Invert(recipe=name)
        assert section.steps == recipe.steps
        assert section.radius == (1.0 if recipe.bounded else None)
        assert spec.Invert(recipe=name, steps=7).steps == 7
