"""The layout: imports run one way, files hold one idea, a public name means one thing in its package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("genarm", "genarm_kernels")
FOLDERS = (*PACKAGES, "bench", "experiments", "tests")
MOST_LINES = 300


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in files(*PACKAGES)}


def imported(module: str) -> set[str]:
    """The modules of both packages that a module names in its imports, those for type checkers and inside functions
    included."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (start, node.module) if part)
            found |= {f"{source}.{name.name}" if f"{source}.{name.name}" in MODULES else source for name in node.names}
    return found & MODULES.keys() - {module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            place = stack.index(module)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_imports_run_one_way() -> None:
    # genarm's own __init__ names its faces for type checkers; everything inside names files, never the package.
    graph = {module: imported(module) for module in MODULES}
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("genarm_kernels", ("genarm",)),
        ("genarm.request", ("genarm.engine", "genarm.decoder", "genarm.cli")),
        ("genarm.models", ("genarm.engine", "genarm.decoder", "genarm.cli", "genarm.training", "genarm.evaluation")),
        ("genarm.engine", ("genarm.decoder", "genarm.cli", "genarm.training", "genarm.evaluation", "genarm.runs")),
        ("genarm.decoder", ("genarm.methods", "genarm.cli", "genarm.training", "genarm.evaluation", "genarm.runs")),
        ("genarm.methods", ("genarm.cli", "genarm.training", "genarm.evaluation", "genarm.runs")),
        ("genarm.methods", ("genarm.serving",)),
        ("genarm.engine", ("genarm.serving",)),
        ("genarm.models", ("genarm.serving",)),
        ("genarm.serving", ("genarm.cli", "genarm.engine", "genarm.decoder", "genarm.methods", "genarm.training")),
        ("genarm.serving", ("genarm.play",)),
        ("genarm.decoder", ("genarm.play",)),
        ("genarm.play", ("genarm.cli", "genarm.runs", "genarm.training")),
        ("genarm.training", ("genarm.cli", "genarm.runs", "genarm.evaluation")),
        ("genarm.evaluation", ("genarm.cli", "genarm.runs", "genarm.training")),
    ],
)
def test_a_lower_folder_knows_nothing_of_an_upper_one(lower: str, upper: tuple[str, ...]) -> None:
    inside = [module for module in MODULES if module == lower or module.startswith(f"{lower}.")]
    wrong = {
        (module, other)
        for module in inside
        for other in imported(module)
        if any(other == one or other.startswith(f"{one}.") for one in upper)
    }
    assert inside and not wrong


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files(*FOLDERS)}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_class_has_a_name_of_its_own(package: str) -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for path in files(package):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(module_of(path))
    assert {name: places for name, places in where.items() if len(places) > 1} == {}
