"""Imports inside the package point strictly downward, and importing it costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cifar_utils

PACKAGE = Path(cifar_utils.__file__).parent
LEVELS = [
    {"distributed", "winograd"},
    {"files", "synthetic", "augment", "models", "optim", "recipes", "device"},
    {"data"},
    {"evaluate", "history", "checkpoints"},
    {"plots", "train", "explain", "report"},
    {"bench", "exercises", "figures", "ship"},
    {"course"},
    {"commands"},
    {"__main__"},
]
LEVEL = {module: number for number, level in enumerate(LEVELS) for module in level}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(source):
    """The package's modules that a source file imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not node.level, "relative imports hide where an arrow points"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "cifar_utils" and parts[1] in LEVEL:
                yield parts[1]


def wrong_arrows(module, source):
    return [other for other in imported(source) if LEVEL[other] >= LEVEL[module]]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    assert module in LEVEL, f"say on which level {module}.py stands"
    assert wrong_arrows(module, (PACKAGE / f"{module}.py").read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data", "from cifar_utils.train import fit"),
        ("plots", "from cifar_utils import explain"),
        ("augment", "def f():\n    import cifar_utils.models"),
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
    assert not heavy & loaded_by("from cifar_utils.__main__ import make_parser; make_parser()")


def test_rare_libraries_are_imported_where_they_are_used():
    rare = {"albumentations", "pytorch_grad_cam", "torchsummary", "matplotlib", "cv2", "sklearn"}
    everything = ", ".join(f"cifar_utils.{module}" for module in MODULES if module != "__main__")
    assert not rare & loaded_by(f"import {everything}")
