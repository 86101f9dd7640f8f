"""Versions, bounds and the address: each stands in several files, and all say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import cifar_utils
from cifar_utils import course

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def by_name(lines):
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


def test_environment_yml_is_in_step_with_pyproject():
    environment = read_yaml("environment.yml")
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (line["pip"] for line in environment["dependencies"] if isinstance(line, dict))
    python = next(line for line in conda if line.startswith("python"))
    assert python.removeprefix("python") == PROJECT["requires-python"]
    extras = PROJECT["optional-dependencies"]
    assert by_name(pip) == by_name(PROJECT["dependencies"] + extras["test"] + extras["course"])


def test_the_first_cell_knows_the_oldest_torch():
    oldest = ".".join(map(str, course.OLDEST_TORCH))
    assert str(by_name(PROJECT["dependencies"])["torch"]) == f">={oldest}"


def test_the_version_is_the_same_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## .*?(\d+\.\d+\.\d+)", changes, re.M)[1]
    cited = read_yaml("CITATION.cff")["version"]
    assert {cifar_utils.__version__, newest, cited} == {PROJECT["version"]}


def test_the_authors_are_those_of_the_licence():
    (holder,) = re.findall(r"\(c\) \d+ (.*)", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    assert [author["name"] for author in PROJECT["authors"]] == [holder]
    assert [author["name"] for author in read_yaml("CITATION.cff")["authors"]] == [holder]


def test_ruff_is_the_same_version_everywhere():
    (extra,) = by_name(PROJECT["optional-dependencies"]["test"])["ruff"]
    assert extra.operator == "=="
    hooks = read_yaml(".pre-commit-config.yaml")["repos"]
    (hook,) = (hook["rev"] for hook in hooks if hook["repo"].endswith("ruff-pre-commit"))
    assert hook == f"v{extra.version}"
    for path in (ROOT / ".github").rglob("*.yml"):  # the workflows install the extra
        for version in re.findall(r"ruff\D{1,3}([\d.]+)", path.read_text(encoding="utf-8")):
            assert version == extra.version, path


def test_the_workflows_try_the_oldest_and_the_newest_of_the_bounds():
    jobs = read_yaml(".github/workflows/tests.yml")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    oldest, newest = matrix["include"]
    bounds = by_name(PROJECT["dependencies"])
    pinned = by_name(oldest["torch"].split())
    assert {name: f">={str(pin)[2:-2]}" for name, pin in pinned.items()} == {
        name: str(bounds[name]) for name in ("torch", "torchvision")
    }
    assert newest["torch"] == "torch torchvision"
    low, high = (pair["python"] for pair in matrix["include"])
    above = f"3.{int(high.partition('.')[2]) + 1}"
    assert PROJECT["requires-python"] == f">={low},<{above}"
    supported = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line]
    assert [supported[0], supported[-1]] == matrix["python"] == [low, high]


def test_workflows_name_actions_by_major_version_and_may_read_only():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert all(
            re.fullmatch(r"actions/[\w-]+@v\d+", used) for used in re.findall(r"uses: (.*)", text)
        )
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_torch_has_lower_bounds_only():
    """Colab's torch must never be reinstalled."""
    bounds = by_name(PROJECT["dependencies"])
    for name in ("torch", "torchvision", "numpy"):
        assert {bound.operator for bound in bounds[name]} == {">="}
    for name, version in (("torch", "2.11"), ("torchvision", "0.26"), ("numpy", "2.0")):
        assert version in bounds[name]


def test_every_folder_of_data_is_packaged():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["tool"]["setuptools"]["package-data"]
    folders = {
        f"cifar_utils.results.{folder.name}"
        for folder in (ROOT / "cifar_utils" / "results").iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
    }
    assert folders | {"cifar_utils.speed"} == set(declared)
    assert all(declared[name] == ["*"] for name in folders)
