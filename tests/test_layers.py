"""The layers: who may import whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "distfacegan"

FORBIDDEN = {
    "core": {
        "ray",
        "zarr",
        "yaml",
        "pydantic",
        "distfacegan.store",
        "distfacegan.sources",
        "distfacegan.stages",
        "distfacegan.report",
        "distfacegan.settings",
        "distfacegan.spec",
        "distfacegan.sections",
    },
    "store": {
        "ray",
        "distfacegan.core",
        "distfacegan.sources",
        "distfacegan.stages",
        "distfacegan.report",
        "distfacegan.spec",
        "distfacegan.sections",
    },
    "sources": {
        "ray",
        "zarr",
        "torch",
        "distfacegan.store",
        "distfacegan.stages",
        "distfacegan.report",
        "distfacegan.spec",
        "distfacegan.sections",
    },
    "samplers": {"ray", "distfacegan.stages", "distfacegan.report", "distfacegan.spec"},
    "report": {"ray", "distfacegan.stages", "distfacegan.sources"},
    "stages": {"distfacegan.pipeline", "distfacegan.cli"},
}


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, absolute."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_imports_nothing_above_it(layer):
    for path in (PACKAGE / layer).rglob("*.py"):
        for module in imports(path):
            for forbidden in FORBIDDEN[layer]:
                assert module != forbidden, f"{path} imports {module}"
                assert not module.startswith(f"{forbidden}."), f"{path} imports {module}"


def test_only_stages_import_ray():
    users = {
        path.parent.name
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "ray" for name in imports(path))
    }
    assert users == {"stages"}
