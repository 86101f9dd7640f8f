"""run.py --address, on a copy of everything that may name the repository."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".?*cache*", "__pycache__", ".git", ".venv", ".hypothesis", ".ipynb_checkpoints", "build",
    "dist", "runs", "images", "cifar_utils", "*.egg-info",
)  # fmt: skip


@pytest.fixture
def clone(tmp_path):
    return Path(shutil.copytree(ROOT, tmp_path / "clone", ignore=LEFT_OUT))


def write(clone, address):
    """Run the command as an owner does who has installed nothing: -S hides what is installed."""
    run = [sys.executable, "-S", "notebooks/run.py", f"--address={address}"]
    return subprocess.run(run, cwd=clone, capture_output=True, text=True)


def current(clone):
    project = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]


def texts(clone):
    return {
        path.relative_to(clone).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(clone.rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def repositories(text):
    """Every OWNER/NAME that a link or a command names on GitHub."""
    return set(re.findall(r"github(?:\.com)?/([\w-]+/[\w-]+)", text))


def openings(files):
    """The first code cell of each notebook."""
    for name, text in files.items():
        if name.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            yield next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_an_address_reaches_every_file_and_a_second_one_replaces_it(clone):
    old = current(clone)["Repository"].removeprefix("https://github.com/")
    before = texts(clone)
    done = write(clone, "first-owner/cifar_course")
    assert done.returncode == 0 and not done.stderr
    first = texts(clone)
    changed = [name for name in before if first[name] != before[name]]
    assert f"written into {len(changed)} files" in done.stdout
    assert {"pyproject.toml", "README.md", "CONTRIBUTING.md", "CITATION.cff"} < set(changed)
    for name, text in first.items():
        others = repositories(before[name]) - {old}
        assert repositories(text) - {"first-owner/cifar_course"} == others, name
        assert "git clone ADDRESS" not in text, name
    assert current(clone)["Issues"] == "https://github.com/first-owner/cifar_course/issues"

    assert write(clone, "first-owner/cifar_course").stdout.endswith("in every file already\n")
    assert texts(clone) == first
    assert write(clone, "second/first-owner").returncode == 0
    assert write(clone, "first-owner/cifar_course").returncode == 0
    assert texts(clone) == first


def test_the_first_cells_stay_code_and_alike_and_say_what_to_clone(clone):
    write(clone, "somebody-with-a-long-name/cifar10-course-in-pytorch")
    (opening,) = set(openings(texts(clone)))
    address = "https://github.com/somebody-with-a-long-name/cifar10-course-in-pytorch"
    code = "import sys; sys.modules['cifar_utils'] = None\n" + opening
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True)
    assert f"`!git clone {address}`" in done.stderr and done.stderr.count("\n") == 1
    assert max(map(len, opening.splitlines())) <= 88


def test_in_notebooks_nothing_else_changes(clone):
    before = texts(clone)
    write(clone, "first-owner/cifar_course")
    for name, text in texts(clone).items():
        if name.endswith(".ipynb"):
            old, new = before[name].splitlines(), text.splitlines()
            changed = set(old).symmetric_difference(new)
            assert changed and all(
                re.search(r"git clone|github|of the course's repository|then this cell", line)
                for line in changed
            ), changed


def test_badges_are_there_once_there_is_an_address(clone):
    def badges():
        return re.findall(r"^\[!\[.*", (clone / "README.md").read_text(encoding="utf-8"), re.M)

    write(clone, "octocat/cifar")
    assert len(badges()) == 2 and all("octocat/cifar" in badge for badge in badges())
    write(clone, "OWNER/NAME")
    assert badges() == []


@pytest.fixture
def small_clone(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("notebooks/run.py", "notebooks/address.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "address",
    ["", "cifar", "https://github.com/a/b", "a/b/c", "a b/c", "a/b c", "-a/b", "a/..", "a/b.git",
     "a/b\n", "ä/b"],
)  # fmt: skip
def test_a_malformed_address_gets_one_line_and_changes_nothing(address, small_clone):
    before = texts(small_clone)
    done = write(small_clone, address)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and "write OWNER/NAME" in done.stderr
    assert texts(small_clone) == before


def test_a_project_without_an_address_gets_one_line(small_clone):
    (small_clone / "pyproject.toml").write_text('[project]\nname = "cifar"\n')
    done = write(small_clone, "a/b")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Repository" in done.stderr
