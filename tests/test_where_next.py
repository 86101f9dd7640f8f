"""What notebooks/WHERE_NEXT.md tells a reader to type works, and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nbformat")
import check
from test_readme import FENCED, ROOT

from cifar_utils import data
from cifar_utils.cli.main import main, make_parser
from cifar_utils.models import create_model
from cifar_utils.profile import mult_adds
from cifar_utils.recipes import RECIPES

PATH = ROOT / "notebooks" / "WHERE_NEXT.md"
PAGE = PATH.read_text(encoding="utf-8")
WORKS = re.findall(r"^- (.+?)(?=\n\n|\n- )", PAGE.partition("## Project 1")[0], re.M | re.S)
PROJECTS = re.findall(r"^## Project \d: .+?(?=^## |\Z)", PAGE, re.M | re.S)
COMMANDS = [line for _, block in FENCED.findall(PAGE) for line in block.splitlines()]


def test_it_has_fifteen_works_and_three_projects_and_is_short():
    assert len(WORKS) == 15 and len(PROJECTS) == 3
    assert len(PAGE.split()) <= 900


@pytest.mark.parametrize("work", WORKS)
def test_a_work_has_its_authors_a_link_a_year_and_a_reason(work):
    form = r"[A-Z]\w+(( and|,) [A-Z]\w+)*( et al\.)?, \[[^]]+\]\(https?://\S+\), 20\d\d\. \w.*[.?]"
    assert re.fullmatch(form, " ".join(work.split()))
    for year, month in re.findall(r"arxiv\.org/abs/(\d\d)(\d\d)\.\d{4,5}\)", work):
        assert f", 20{year}." in work.replace("\n ", "") and 1 <= int(month) <= 12


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_says_goal_start_check_and_what_a_good_report_has(project):
    found = re.findall(r"^\*\*(.+?)\*\*", project, re.M)
    assert found == ["Goal.", "Start.", "Check.", "A good report"]
    assert "```bash\ncifar " in project
    _, _, how = project.partition("**Check.**")
    assert re.search(r"\d|a fifth|Half", how)  # a number tells whether it worked


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line):
    tool, *words = shlex.split(line)
    options = vars(make_parser().parse_args(words))
    assert tool == "cifar" and options.get("recipe") in (None, *RECIPES)


def test_links_lead_to_files_and_headings():
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGE):
        if not target.startswith("http"):
            assert check.link_fault(target, PATH) is None, target
    for path in re.findall(r"`(cifar_utils/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file()


def test_the_multiply_adds_are_those_of_compact():
    assert f"{mult_adds(create_model('compact')):,} multiply-adds" in PAGE


@pytest.mark.slow
def test_arrays_in_the_form_of_cifar_10_1_need_nothing_but_the_line(tmp_path, monkeypatch, capsys):
    """As published: 2,000 images, labels in int32, and another version in the same folder."""
    random = np.random.default_rng(0)
    for version, count in (("v4", 2021), ("v6", 2000)):
        images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count, dtype=np.int32) % 10
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", images)
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", labels)
    monkeypatch.chdir(tmp_path)
    (line,) = (line for line in COMMANDS if "cifar10.1_v6_data.npy" in line)
    words = [word for word in shlex.split(line)[1:] if word != "--grid"]
    main([*words, "--device", "cpu"])
    assert "2,000 test images of npy" in capsys.readouterr().out
    cifar = data.load(Path("cifar10.1_v6_data.npy"), source="npy")
    assert cifar.test.images.shape == (2000, 3, 32, 32) and cifar.classes == data.CLASSES
