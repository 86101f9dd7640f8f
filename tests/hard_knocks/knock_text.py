"""Names with anything in them: text, never markup."""

import contextlib
import io
import json
import os
import shutil
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from cifar_utils import checkpoints, course, fonts, gifs, plots
from cifar_utils.cli.main import main
from cifar_utils.course import display
from cifar_utils.data import SOURCE_TITLES, source_title
from cifar_utils.errors import CifarError, choose, shown
from cifar_utils.evaluate import most_confident_mistakes
from cifar_utils.history import Epoch, History
from cifar_utils.models import build
from cifar_utils.recipes import RECIPES, Recipe
from cifar_utils.results import report
from cifar_utils.sources.files import safe_name

NASTY = [
    "a\nb", "\x1b[2J", "\x1b]0;title\x07", "\u202egnp.exe", "\udce9t\udce9", "\x00", "\r",
    "\x9b31m", "$x^2$", "a$b", r"\alpha$", "_hidden", "x_1", "<b onclick=alert(1)>&amp;", "猫",
    "🦄 🐱", "ا ب", "e\u0301", "a" * 300, "%s {0} %(x)d", "", " ", "..", "-n", "\ud800",
]  # fmt: skip
ON_DISK = [name for name in NASTY if name.strip(".") and "\x00" not in name and len(name) < 200
           and name != "\ud800"]  # fmt: skip


# What a folder's name becomes when it is read.
CLASSES = sorted(shown(unicodedata.normalize("NFC", name)) for name in ON_DISK)


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def printable(text):
    return all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_name_that_is_refused(name):
    with pytest.raises(CifarError) as refused:
        choose(name, ["compact"], name)
    assert str(refused.value).isprintable()


# --- pictures -------------------------------------------------------------------------------------


def history(name):
    rows = tuple(Epoch(n, 0.1, 2.0, 0.1 * n, 2.0, 0.1 * n, 1.0, 5.0) for n in range(3))
    return History(Recipe(name or "unnamed", epochs=5), name, rows)


COUNT = len(NASTY)
IMAGES, LABELS = torch.zeros(COUNT, 3, 32, 32, dtype=torch.uint8), torch.arange(COUNT)
LOGITS = 5 * torch.eye(COUNT).roll(1, 0)
MISTAKES = most_confident_mistakes(LOGITS, LABELS, count=COUNT)
SHARES = dict.fromkeys(NASTY, 1 / COUNT)
PICTURES = {
    "images": lambda: plots.show_images(IMAGES, titles=NASTY),
    "rows": lambda: plots.show_rows(dict.fromkeys(NASTY, IMAGES), columns=NASTY),
    "predictions": lambda: plots.show_predictions(IMAGES, LABELS, LOGITS, classes=NASTY),
    "mistakes": lambda: plots.show_mistakes(
        IMAGES, MISTAKES, torch.zeros(COUNT, 32, 32), classes=NASTY
    ),
    "histories": lambda: plots.compare_histories({name: history(name) for name in NASTY}),
    "confusion": lambda: plots.plot_confusion_matrix(np.eye(COUNT), classes=NASTY),
    "per class": lambda: plots.plot_per_class(SHARES),
    "probabilities": lambda: plots.plot_probabilities(SHARES),
    "cost": lambda: plots.plot_cost(
        {name: (1e7 + place, 0.9, 0.92) for place, name in enumerate(NASTY)}
    ),
}


def literally(draw, path):
    """Draw a picture, save it, and return what it says; nothing in it is markup."""
    with warnings.catch_warnings(action="error"):  # such as those of letters without a font
        figure = draw()
        figure = getattr(figure, "figure", None) or figure
        plots.save(figure, path, dpi=30)
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    for text in texts:
        said = text.get_text()
        assert printable(said) and not text.get_usetex()
        assert "$" not in said or not text.get_parse_math() or "mathdefault" in said
    return "\n".join(text.get_text() for text in texts)


@pytest.mark.parametrize("kind", PICTURES)
def test_all_names_in_one_picture(kind, tmp_path):
    said = literally(PICTURES[kind], tmp_path / "drawn.png")
    for name in ("$x^2$", "a$b", r"\alpha$", "_hidden", "x_1", "%s {0} %(x)d", r"\x1b[2J"):
        assert name in said
    assert "aaa…aaa" in said or kind == "rows"


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_name_in_a_heading(name, tmp_path):
    image, shares = IMAGES[0], {name: 0.7, "other": 0.3}
    for draw in (
        lambda: plots.show_image(image, title=name),
        lambda: plots.plot_history(history(name)),
        lambda: plots.show_explanation(image, torch.zeros(32, 32), shares, title=name),
    ):
        said = literally(draw, tmp_path / "drawn.png")
        assert name in said or not name.isprintable() or not name.isascii() or len(name) > 70


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_name_in_an_animation(name, tmp_path):
    path = tmp_path / "drawn.gif"
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    gifs.save_cam_gif(path, image, torch.zeros(2, 32, 32), name=name, epochs=[0, 1])
    with Image.open(path) as drawn:
        assert drawn.n_frames == 3


def test_letters_come_from_a_font_that_has_them(capsys):
    """One is in DejaVu Sans, one in another font of matplotlib's, one in none."""
    fonts._found.clear()
    said = fonts.drawable("é ⟁ \u1abe")
    assert said == "é ⟁ \\u1abe" and fonts.families_for(said) == ["STIXGeneral"]
    fonts.drawable("\U0001f9ff")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_page_shows_names_as_text():
    for name in NASTY:
        text = display._Text(history(name).title)
        html = text._repr_html_()
        assert html.count("<") == html.count(">") == 2 and printable(html) and printable(str(text))
        assert printable(course.describe(display._curves(history(name))))


# --- names of files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_name_becomes_a_file_s_name(name, tmp_path):
    safe = safe_name(name)
    path = tmp_path / f"cam-0-{safe}.gif"
    path.touch()
    assert path.parent == tmp_path and safe.isprintable() and not set(safe) & set('/\\:*?"<>|')
    assert safe not in ("", ".", "..") and len(os.fsencode(path.name)) < 200


# --- terminals ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder with images of classes called so, weights and a history that say so, and files."""
    root = tmp_path_factory.mktemp("hostile")
    noise = np.random.RandomState(0)
    for part, count in (("train", 5), ("test", 1)):
        for name in ON_DISK:
            folder = root / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.randint(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    for number, name in enumerate(ON_DISK):
        shutil.copyfile(folder / "0.png", root / f"{name[:100]}.png")
        recipe = replace(RECIPES["compact"], name=name or "unnamed", epochs=2, batch_size=16)
        row = Epoch(0, 0.1, 2.0, 0.1, None, None, 1.0, 5.0)
        History(recipe, name, (row,)).save(root / f"history-{number}.json")
    classes = tuple(CLASSES)
    recipe = replace(RECIPES["compact"], name=NASTY[1])
    info = checkpoints.WeightsInfo(recipe, NASTY[2], classes)
    checkpoints.save_weights(root / "w.safetensors", build(recipe, classes), info)
    info = replace(info, classes=(*classes[1:], "other"))
    checkpoints.save_weights(root / f"{NASTY[1]}.safetensors", build(recipe, classes), info)
    return root


def printed_by(arguments, status=0):
    """What a command prints: stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in arguments])
        except SystemExit as stopped:
            code = stopped.code
    out, err = out.getvalue(), err.getvalue()
    assert code == status, err
    assert printable(out) and printable(err), ascii(out + err)
    assert status != 2 or err.count("\n") == 1, err
    return out, err


@pytest.mark.parametrize("name", [name for name in ON_DISK if name != "-n"], ids=ascii)
@pytest.mark.parametrize(
    "command",
    [
        ["data", "--source", "folder", "--data"],
        ["data", "--source"],
        ["test", "--weights"],
        ["test", "--weights", "compact", "--source", "npy", "--data"],
        ["predict"],
        ["predict", "--weights"],
        ["train", "--recipe"],
        ["train", "--config"],
        ["train", "--resume", "--out"],
        ["train", "--recipe", "compact", "--teacher"],
        ["train", "--recipe", "compact", "--from"],
        ["train", "--recipe", "compact", "--model"],
        ["train", "--recipe", "compact", "--epochs"],
        ["summary"],
        ["recipes"],
        ["report", "--write"],
        ["bench", "--recipe"],
        ["bench", "--models"],
        ["bench", "--json"],
        ["figures"],
        ["ship", "--source", "synthetic"],
        ["cams", "--weights"],
        ["cams", "--count"],
        ["lr-find", "--recipe"],
        ["lr-find", "--config"],
        ["--"],
    ],
    ids=" ".join,
)
def test_what_a_command_refuses(command, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = f"nowhere/{name}" if command == ["bench", "--json"] else name
    Path("nowhere").touch()
    Path(name).mkdir(exist_ok=True)  # so that a path is a folder where a file is wanted
    wrong = [*command[:-1], f"{command[-1]}={given}"] if command[-1][2:] else [*command, given]
    if command == ["train", "--resume", "--out"] or command[:2] == ["ship", "--source"]:
        monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
        wrong = [*command, f"./{name}"]
    if command[0] == "ship":
        monkeypatch.setattr("cifar_utils.data.load", lambda *_, **__: None)
    printed_by(wrong, status=2)


@pytest.mark.parametrize(
    "command",
    [
        "data --source folder --data DATA --montage {}/m.png",
        "test --weights W --source folder --data DATA --confusion --grid --out {}",
        "predict W.png --weights W --cam --out {}",
        "train --config HISTORY --source folder --data DATA --cam --verbose --out {}",
        "train --recipe compact --epochs 1 --source folder --data DATA --from OTHER",
        "lr-find --config HISTORY --steps 10 --source folder --data DATA --out {}",
        "bench --models compact --quick --json {}/b.json",
        "report --write {}/README.md",
    ],
    ids=lambda command: command.split()[0],
)
def test_what_a_command_prints(command, hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(NASTY[0]) / "README.md"
    page.parent.mkdir()
    marks = "\n".join("\n".join(report.marks(name)) for name in report.TABLES)
    page.write_text(marks)
    words = {"DATA": hostile / "data", "W": hostile / "w.safetensors", "OTHER": hostile /
             f"{NASTY[1]}.safetensors", "HISTORY": hostile / "history-1.json"}  # fmt: skip
    line = []
    for word in command.split():
        if word == "W.png":
            line += sorted(hostile.glob("*.png"))[::3]
        else:
            line.append(words.get(word, word.format(NASTY[0])))
    printed_by([*line, "--device", "cpu"] if line[0] not in ("data", "report") else line)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".gif", "-cam.png"):
            assert path.name.isprintable()


def test_json_holds_the_names_themselves(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = next(hostile.glob("*.png"))
    w = hostile / "w.safetensors"
    out, _ = printed_by(["predict", picture, "--weights", w, "--json"])
    (answer,) = json.loads(out)
    assert answer["file"] == str(picture) and sorted(answer["probabilities"]) == CLASSES
    data = ["--source", "folder", "--data", hostile / "data"]
    out, _ = printed_by(["test", "--weights", w, *data, "--json"])
    assert sorted(json.loads(out)["per_class"]) == CLASSES


def test_pictures_of_names_that_a_system_takes_for_one(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = next(hostile.glob("*.png"))
    names = ["A.png", "a.png", "\u00e9.png", "e\u0301.png", "a\tb.png", "a\nb.png", "a_b.png"]
    for name in names:
        shutil.copyfile(picture, name)
    printed_by(["predict", *names, "--cam", "--out", "cams", "--device", "cpu"])
    made = [path.name for path in Path("cams").iterdir()]
    folded = {unicodedata.normalize("NFC", name).casefold() for name in made}
    assert len(folded) == len(names)


def test_every_source_has_a_title_that_can_be_printed():
    assert all(source_title(source) == title for source, title in SOURCE_TITLES.items())
    assert all(printable(source_title(name)) and "\n" not in source_title(name) for name in NASTY)
