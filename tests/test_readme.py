"""What the README tells a reader to type works, and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from cifar_utils import data
from cifar_utils.cli.main import make_parser
from cifar_utils.models import MODELS
from cifar_utils.recipes import RECIPES
from cifar_utils.results.figures import PICTURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    line
    for language, block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if language == "bash" and re.match(r"cifar |torchrun ", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line):
    words = shlex.split(line, comments=True)
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


def test_the_python_example_runs_and_leaves_its_picture(painted_split, tmp_path, monkeypatch):
    (example,) = (block for language, block in BLOCKS if language == "python")
    splits = (painted_split(300), painted_split(20, seed=1), painted_split(40, seed=2))
    monkeypatch.setattr(data, "load", lambda: data.Cifar(*splits))
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert (tmp_path / "mistakes.png").stat().st_size > 1000


def test_links_and_pictures_are_there():
    headings = re.findall(r"^#+ (.*)", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    targets = re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", README)
    assert len(targets) > 20
    for picture, text, target in targets:
        path, _, anchor = target.partition("#")
        assert text, f"{target} has no text"
        if target.startswith("https://"):
            continue
        assert (ROOT / path).exists(), target
        assert path or anchor in anchors, target
        assert not picture or path.startswith("images/"), target
