"""What the README and CONTRIBUTING tell a reader to type works, and their links lead somewhere."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from cifar_utils import data
from cifar_utils.cli.main import make_parser
from cifar_utils.models import MODELS
from cifar_utils.recipes import RECIPES
from cifar_utils.results.figures import PICTURES

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
README = PAGES["README.md"]
FENCED = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.M | re.S)
BLOCKS = FENCED.findall(README)
LINES = [
    (language, line)
    for page in PAGES.values()
    for language, block in FENCED.findall(page)
    for line in block.replace("\\\n", " ").splitlines()
    if language in ("bash", "powershell") and line
]
COMMANDS = [line for _, line in LINES if re.match(r"cifar |torchrun ", line)]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def parts(language, line):
    """The commands of a line, each as a list of words, without its comment."""
    if language == "powershell":
        line = line.replace("\\", "/")
    commands = [[]]
    for word in shlex.split(line, comments=True):
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def plain(words):
    """A command without the ways to start it: `.venv/bin/ruff` and `python -m ruff` are `ruff`."""
    words = [word for word in words if not word.startswith("OMP_")]
    words = [words[0].rpartition("/")[2], *words[1:]]
    return words[2:] if words[:2] == ["python", "-m"] else words


PIP = [
    (language, words)
    for language, line in LINES
    for words in map(plain, parts(language, line))
    if words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]
]


# --- the first screen -----------------------------------------------------------------------------


def test_the_first_screen_has_what_it_is_a_picture_two_commands_and_the_notebooks():
    screen = "\n".join(README.splitlines()[:40])
    assert len(re.findall(r"!\[", screen)) == 1 and "You need" in screen
    assert "make course" in screen and "make test" in screen
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert re.findall(r"^\| \[.*?\]\(notebooks/(.*?)\)", screen, re.M) == notebooks


# --- make, and the same without it ----------------------------------------------------------------


def commands_marked(mark, language):
    """The commands of the README under the comment `# mark`, up to the next empty line."""
    (block,) = (block for name, block in BLOCKS if name == language and f"# {mark}" in block)
    lines = iter(block.splitlines())
    found = [next(line for line in lines if f"# {mark}" in line)]
    if language == "powershell":
        for line in lines:
            if not line:
                break
            found.append(line)
    return [plain(words) for line in found for words in parts(language, line)]


def made(target):
    """The commands that `make target` runs once it is set up."""
    if not shutil.which("make"):
        pytest.skip("there is no make here")
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MODE")}
    printed = subprocess.check_output(["make", "-n", target], cwd=ROOT, text=True, env=env)
    lines = printed.partition("touch .venv/installed\n")
    lines = (lines[2] or lines[0]).splitlines()
    how = ("-n", "auto", "--maxprocesses=4", "--dist=loadscope")  # several files at once
    return [
        plain([word for word in shlex.split(line) if word not in how])
        for line in lines
        if line.startswith((".venv/", "OMP_"))
    ]


@pytest.mark.parametrize("language", ["bash", "powershell"])
def test_the_lines_without_make_do_what_make_does(language):
    assert commands_marked("make test", language) == made("test")
    (run,) = made("course")
    assert run[-2:] == ["--out", "build/course"]  # which is where run.py writes in any case
    assert commands_marked("make course", language) == [run[:-2]]


def test_every_way_to_set_up_installs_what_make_installs():
    (wanted,) = re.findall(r"install .*'\.\[(.*?)\]'", MAKEFILE)
    readme = [words[-1] for _, words in PIP if words[-1].startswith(".[")]
    assert len(readme) == 3 and set(readme) == {f".[{wanted}]"}  # pip, uv, Windows
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert f"conda activate {environment['name']} && pip install -e ." in README


@pytest.mark.parametrize(("language", "line"), LINES)
def test_every_line_is_one_that_a_shell_can_read_and_names_what_is_there(language, line):
    if language == "bash" and os.name == "posix":  # on Windows, bash may be an empty WSL
        subprocess.run(["bash", "-n", "-c", line], check=True)
    for words in parts(language, line):
        tool, *arguments = plain(words)
        for word in arguments:
            if re.search(r"\.(py|yml|ipynb)$", word) or word == "notebooks":
                assert (ROOT / word).exists(), word
            for extra in ",".join(re.findall(r"\[(.*)\]", word)).split(","):
                assert not extra or extra in EXTRAS, extra
        if tool == "make":
            target = next(word for word in arguments if "=" not in word)
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.M), target


@pytest.mark.slow
@pytest.mark.parametrize("installer", [[sys.executable, "-m", "pip"], ["uv", "pip"]], ids=" ".join)
def test_the_lines_that_install_find_all_they_need(installer, tmp_path):
    """Dry runs without a network: everything is installed already, or it would not be found."""
    ours = [words for _, words in PIP if (words[0] == "uv") == (installer[0] == "uv")]
    if not shutil.which(installer[0]):
        pytest.skip(f"there is no {installer[0]} here")
    found = [found.version for found in distributions(name="setuptools")] or ["0"]
    if int(found[0].partition(".")[0]) < 77:
        pytest.skip("without a network, the setuptools that builds the package must be here")
    offline = ["--dry-run", "--no-index", "--no-build-isolation"]
    if installer[0] == "uv":
        offline += ["--offline", "--python", sys.executable]
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for what in {tuple(words[words.index("install") + 1 :]) for words in ours}:
        if "-e" in what:
            run = [*installer, "install", *offline, *what]
            done = subprocess.run(run, cwd=copy, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


# --- the command line, Python, links --------------------------------------------------------------


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("lr = 0.1")  # because --config reads its file at once
    words = shlex.split(line.partition(" > ")[0], comments=True)
    after = words.index("cifar_utils") if words[0] == "torchrun" else 0
    options = vars(make_parser().parse_args(words[after + 1 :]))
    for name, known in (
        ("recipe", RECIPES),
        ("names", PICTURES),
        ("model", MODELS),
        ("models", MODELS),
    ):
        given = options.get(name) or []
        assert {given} <= set(known) if isinstance(given, str) else set(given) <= set(known)


def test_what_users_of_the_five_repositories_are_told_to_type_is_there(tmp_path, monkeypatch):
    """In the last column of "Coming from": commands, flags with or without a value, functions."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("lr = 0.1")  # because --config reads its file at once
    _, _, rest = README.partition("### Coming from")
    table, _, _ = rest.partition("\n##")
    commands = make_parser()._subparsers._group_actions[0].choices.values()
    flags = {flag for command in commands for flag in command._option_string_actions}
    spans = re.findall(r"`([^`]*)`", "".join(re.findall(r"\| ([^|]*) \|$", table, re.M)))
    assert len(spans) > 50
    for span in spans:
        if span.startswith("cifar "):
            make_parser().parse_args(shlex.split(span)[1:])
        elif span.startswith("--"):
            assert span.split()[0] in flags, span
        elif "." in span:
            module, _, name = span.rpartition(".")
            assert hasattr(importlib.import_module(f"cifar_utils.{module}"), name), span


@pytest.mark.slow
def test_the_python_example_runs_and_leaves_its_picture(painted_split, tmp_path, monkeypatch):
    (example,) = (block for language, block in BLOCKS if language == "python")
    splits = (painted_split(300), painted_split(20, seed=1), painted_split(40, seed=2))
    monkeypatch.setattr(data, "load", lambda: data.Cifar(*splits))
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert (tmp_path / "mistakes.png").stat().st_size > 1000


def test_the_module_table_names_every_module_and_folder_of_the_package():
    _, _, rest = README.partition("| in `cifar_utils` |")
    table, _, _ = rest.partition("\n\n")
    named = set(re.findall(r"^\| (`.*?`) \|", table, re.M))
    named = {name.strip("`/") for cell in named for name in cell.split(", ")}
    rooms = {path.parent.name for path in (ROOT / "cifar_utils").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "cifar_utils").glob("[!_]*.py")}
    assert rooms | modules <= named


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_are_there(name):
    anchors = {page: anchors_of(text) for page, text in PAGES.items()}
    for picture, text, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", PAGES[name]):
        path, _, anchor = target.partition("#")
        assert text, f"{target} has no text"
        if target.startswith("https://"):
            continue
        assert (ROOT / path).exists(), target
        assert not anchor or anchor in anchors[path or name], target
        assert not picture or path.startswith("images/"), target


def anchors_of(page):
    headings = re.findall(r"^#+ (.*)", page, re.M)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


def test_contributing_names_files_and_tables_that_are_there():
    page = PAGES["CONTRIBUTING.md"]
    for path in re.findall(r"`((?:cifar_utils|notebooks|tests)/[\w/]*(?:\.py)?)`", page):
        assert (ROOT / path).exists(), path
    for item in re.findall(r"^- \*\*.*?(?=^- |^#)", page, re.M | re.S):
        files = re.findall(r"`(cifar_utils/[\w/]*\.py)`", item)
        for table in re.findall(r"`([A-Z_]{5,})`", item):
            assert any(
                re.search(rf"^{table}\b", (ROOT / file).read_text(encoding="utf-8"), re.M)
                for file in files
            ), table
