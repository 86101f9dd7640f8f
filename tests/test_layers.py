"""Imports inside the package point strictly downward, and importing it costs nothing."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cifar_utils

PACKAGE = Path(cifar_utils.__file__).parent
# Rooms, lowest first: a chapter is one file, a folder is one room. A room may import lower ones.
LEVELS = [
    {"errors"},
    {"speed", "sources", "recipes", "fonts"},
    {"data", "gifs", "heatmaps"},
    {"machine"},
    {"checks"},
    {"augment", "fastest", "models", "optim", "history", "receptive"},
    {"batches", "profile", "evaluate", "checkpoints"},
    {"explain", "learned", "plots", "running", "teachers"},
    {"runs"},
    {"train"},
    {"lr_range", "estimate"},
    {"results"},
    {"course"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(
        ".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"
}  # fmt: skip


def imported(source):
    """The package's modules that a source file imports, anywhere in it, by their dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where an arrow points"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inside = name.partition(".")
            while package == "cifar_utils" and inside:
                if inside in MODULES:
                    yield inside
                    break
                inside = inside.rpartition(".")[0]  # a function: the module that holds it


def room(module):
    return module.partition(".")[0]


def wrong_arrows(module, source):
    """What `module` imports from a room that is not below its own."""
    return [
        other
        for other in imported(source)
        if room(other) != room(module) and LEVEL[room(other)] >= LEVEL[room(module)]
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    assert room(module) in LEVEL, f"say on which level {room(module)} stands"
    assert wrong_arrows(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_no_modules_import_each_other_in_a_circle():
    arrows = {
        name: set(imported(path.read_text(encoding="utf-8"))) - {name}
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data", "from cifar_utils.train import fit"),
        ("plots", "from cifar_utils import explain"),
        ("augment", "def f():\n    import cifar_utils.models"),
        ("sources.files", "from cifar_utils import data"),
        ("results.ship", "from cifar_utils.cli.main import main"),
        ("speed.winograd", "import cifar_utils.results.report"),
    ],
)
def test_a_wrong_arrow_is_found(module, source):
    assert wrong_arrows(module, source)


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"torch", "numpy", "matplotlib", "PIL", "sklearn", "cv2"}
    assert not heavy & loaded_by("import cifar_utils")
    assert not heavy & loaded_by("from cifar_utils.cli.main import make_parser; make_parser()")


@pytest.mark.slow  # it imports torch anew
def test_rare_libraries_are_imported_where_they_are_used():
    rare = {"albumentations", "pytorch_grad_cam", "torchsummary", "matplotlib", "cv2", "sklearn"}
    everything = ", ".join(f"cifar_utils.{module}" for module in MODULES if module != "__main__")
    assert not rare & loaded_by(f"import {everything}")
