"""Terminals of few letters, streams that are closed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_utils.cli.main import COMMANDS

WORDS = [module.__name__.rpartition(".")[2].replace("_", "-") for module in COMMANDS]
PROGRAM = [sys.executable, "-m", "cifar_utils"]
PLAIN = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two classes, one with a name that is not in ASCII, and an image to classify."""
    root = tmp_path_factory.mktemp("terminals")
    noise = np.random.RandomState(0)
    for place in ("train/cat", "train/猫é", "test/cat", "test/猫é"):
        (root / "data" / place).mkdir(parents=True)
        for number in range(10):
            pixels = noise.randint(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "data" / place / f"{number}.png")
    Image.new("RGB", (32, 32), "red").save(root / "x.png")
    return root


def run(words, folder, **environment):
    return subprocess.run(
        [*PROGRAM, *words], cwd=folder, env=os.environ | PLAIN | environment, capture_output=True
    )  # fmt: skip


TRAINING = [
    "train", "--recipe", "compact", "--epochs", "1", "--batch-size", "4", "--validation", "4",
    "--source", "folder", "--data", "data", "--cam", "--device", "cpu", "--overwrite", "--out",
]  # fmt: skip
COMMANDS_THAT_PRINT = {
    "predict": ["predict", "x.png", "--device", "cpu"],
    "data": ["data", "--source", "folder", "--data", "data"],
    "recipes": ["recipes"],
    "summary": ["summary", "compact"],
    "report": ["report"],
    "refusal": ["train", "--recipe", "猫é"],
    "training": [*TRAINING, "run"],
}


@pytest.mark.parametrize(
    ("name", "letters"),
    [*((name, "ascii") for name in COMMANDS_THAT_PRINT), ("predict", "cp1252"),
     ("recipes", "cp1252"), ("refusal", "cp1252")],
)  # fmt: skip
def test_a_terminal_of_few_letters(name, letters, folder):
    done = run(COMMANDS_THAT_PRINT[name], folder, PYTHONIOENCODING=letters)
    assert done.returncode == (2 if name == "refusal" else 0), done.stderr
    said = (done.stdout + done.stderr).decode(letters)
    assert "Traceback" not in said and "?" not in said.replace("did you mean", "")
    assert name != "predict" or "  #" in said  # a bar
    if name in ("data", "refusal"):
        assert "\\u732b" in said and ("é" in said) == (letters == "cp1252")


@pytest.mark.parametrize("letters", ["ascii", "cp1252"])
@pytest.mark.parametrize("word", ["", *WORDS])
def test_help_in_few_letters(word, letters, folder):
    code = (
        "import io, sys\n"
        f"sys.stdout = io.TextIOWrapper(sys.stdout.buffer, {letters!r})\n"
        "from cifar_utils.cli.main import main\nmain(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *word.split(), "--help"], env=os.environ | PLAIN,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.decode(letters).startswith("usage: cifar")


def test_the_locale_of_a_bare_machine(folder):
    """There file names are in ASCII, too."""
    done = run([*TRAINING, "bare"], folder, LC_ALL="C", LANG="C")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "bare" / "cam").glob("*.gif"))) == 2


LIGHT = {"--help": 0, "recipes": 0, "train --recipe nothing": 2}
HEAVY = [
    "data --source folder --data data",
    "predict x.png --cam --out cams --device cpu",
    " ".join([*TRAINING, "run"]),
]


@pytest.mark.parametrize(
    ("words", "status", "closed"),
    [
        *((words, status, closed) for words, status in LIGHT.items()
          for closed in (">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-")),
        *((words, 0, "<&- >&- 2>&-") for words in HEAVY),
    ],
    ids=lambda value: str(value).split()[0],
)  # fmt: skip
def test_closed_streams(words, status, closed, folder):
    line = f"{sys.executable} -m cifar_utils {words} {closed}"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=os.environ | PLAIN,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if "2>&-" not in closed and status == 2:
        assert "unknown" in done.stderr
    if words.startswith("predict"):
        picture = next((folder / "cams").glob("*.png"))
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()


@pytest.mark.parametrize(
    "words", ["--help", "train --help", "recipes", "report", " ".join([*TRAINING, "left"])]
)
def test_a_reader_who_leaves(words, folder):
    line = f"set -o pipefail; {sys.executable} -m cifar_utils {words} | true"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=os.environ | PLAIN,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 141 and not done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
@pytest.mark.parametrize("words", ["recipes", "--help", "data --source folder --data data"])
def test_a_full_disk_behind_stdout(words, folder):
    line = f"{sys.executable} -m cifar_utils {words} > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=os.environ | PLAIN,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
