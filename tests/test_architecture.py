"""The package is readable in one direction: a module imports only from those to its left."""

import ast
from pathlib import Path

import pytest

import spectral_sampler

ROOT = Path(spectral_sampler.__file__).parent
LAYERS = [
    ["errors"],
    ["validation", "optional"],
    ["precision"],
    ["preference"],
    ["draws"],
    ["modules", "gathering", "likelihood", "lookahead"],
    ["limits"],
    ["graph"],
    ["result"],
    ["lanczos"],
    ["search"],
    ["kernels"],
    ["ops"],
    ["placement"],
    ["fiedler"],
    ["store", "schedule"],
    ["estimates"],
    ["class_balanced"],
    ["selection"],
    ["sampler"],
    ["indexed"],
    ["loader"],
    ["integrations"],
    ["extraction"],
    ["experiment"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The public face and the command's entry: they see everything and nothing sees them.
FREE = {"__init__", "__main__"}

# The edge against the direction, lazy: ReferenceStore.from_model calls the extraction above it.
ALLOWED = {("store", "extraction")}


def part(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports_of(tree: ast.Module, package: str):
    """(module, is inside a function or `if TYPE_CHECKING`) for every import of our own package."""
    lazy: set[int] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lazy.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == package:
                names = [f"{package}.{alias.name}" for alias in node.names]
        else:
            names = []
            assert not (isinstance(node, ast.ImportFrom) and node.level), "relative imports hide the direction"
        for name in names:
            if name.startswith(f"{package}."):
                yield name.split(".")[1], id(node) in lazy


def violations(source: str, layer: str, package: str = "spectral_sampler"):
    found = []
    for target, lazy in imports_of(ast.parse(source), package):
        if target not in RANK or target == layer:
            continue
        same_layer = RANK[target] == RANK[layer]
        if (RANK[target] > RANK[layer] or same_layer) and not (lazy and (layer, target) in ALLOWED):
            found.append(f"{layer} imports {target}")
    return found


MODULES = sorted(path for path in ROOT.rglob("*.py") if part(path) not in FREE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_left(path):
    assert part(path) in RANK, f"{path.name} has no place in the order of layers"
    assert violations(path.read_text(encoding="utf-8"), part(path)) == []


def test_the_check_sees_a_planted_fault():
    assert violations("from spectral_sampler.sampler import SpectralBatchSampler", "graph") == ["graph imports sampler"]
    assert violations("import spectral_sampler.cli", "loader") == ["loader imports cli"]
    assert violations("def f():\n    from spectral_sampler import experiment", "store") == ["store imports experiment"]
    assert violations("from spectral_sampler.schedule import plan_ratios", "store") == ["store imports schedule"]
    assert violations("from spectral_sampler.errors import argument_error", "store") == []


def test_files_are_short_and_named_for_what_they_hold():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, f"{path.name} is longer than 500 lines"
        assert path.stem not in {"utils", "misc", "helpers", "common"}
