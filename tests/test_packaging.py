import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import cifar_utils
from cifar_utils import course

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def by_name(lines):
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


def test_environment_yml_is_in_step_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    python = next(line for line in conda if line.startswith("python"))
    assert python.removeprefix("python") == PROJECT["requires-python"]
    extras = PROJECT["optional-dependencies"]
    assert by_name(pip) == by_name(PROJECT["dependencies"] + extras["test"] + extras["course"])


def test_the_first_cell_knows_the_oldest_torch():
    oldest = ".".join(map(str, course.OLDEST_TORCH))
    assert str(by_name(PROJECT["dependencies"])["torch"]) == f">={oldest}"


def test_the_version_is_written_once_more_in_the_package_and_equal():
    assert cifar_utils.__version__ == PROJECT["version"]


def test_torch_has_lower_bounds_only():
    """Colab's torch must never be reinstalled."""
    bounds = by_name(PROJECT["dependencies"])
    for name in ("torch", "torchvision", "numpy"):
        assert {bound.operator for bound in bounds[name]} == {">="}
    for name, version in (("torch", "2.11"), ("torchvision", "0.26"), ("numpy", "2.0")):
        assert version in bounds[name]
