"""The README's pictures: each name draws its file, and the same bytes every time."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_utils import data
from cifar_utils.cli.main import main
from cifar_utils.history import Epoch, History
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES
from cifar_utils.results import figures
from cifar_utils.results.report import Result

# Each of these is drawn by the code of another picture, which is drawn for good below.
TWINS = {"mistakes.png", "hits-cam.png", *(f"cam-{name}.gif" for name in figures.LEARNED[1:])}


@pytest.fixture
def cifar(painted_split):
    train, test = painted_split(200), painted_split(60, seed=1)
    return data.Cifar(train, train[:0], test)


@pytest.fixture
def shipped(cifar, monkeypatch, tmp_path):
    """A network, its answers, histories and heatmaps that cost nothing."""
    model = create_model("compact", seed=0).eval()
    logits = torch.nn.functional.one_hot(cifar.test.labels, 10) * 9.0
    logits[::2] = logits[::2].roll(1, 1)  # every second answer is wrong
    answers = {(model, cifar.test.images): logits}
    monkeypatch.setattr(figures, "load_pretrained", lambda name: (model, None))
    monkeypatch.setattr(figures.evaluate, "predict", lambda *given: answers[given])
    rows = tuple(Epoch(n, 0.1, 2.0 - n, 0.1 + n / 4, None, None, 1.0, 9.0) for n in range(3))
    test = {"top1": 0.9, "loss": 0.5}
    results = {
        name: Result(name, (History(RECIPES[name].changed(epochs=2), "cifar10", rows, test=test),))
        for name in ("compact", "separable")
    }
    monkeypatch.setattr(figures, "shipped_results", lambda: results)
    monkeypatch.setattr(figures, "PRETRAINED", tmp_path)
    heat = np.random.default_rng(0).integers(0, 256, (3, 5, 32, 32), dtype=np.uint8)
    indices = np.array([7, 1, 5, 20, 3])
    np.savez(tmp_path / "compact-val-cam.npz", heatmaps=heat, indices=indices)
    figures._answers.cache_clear()
    return heat, indices


@pytest.mark.parametrize("name", [name for name in figures.PICTURES if name not in TWINS])
def test_each_picture_is_drawn_and_drawn_again_byte_for_byte(
    name, shipped, cifar, tmp_path, monkeypatch
):
    monkeypatch.setattr(figures.plots, "save", partial(figures.plots.save, dpi=30))  # quicker
    drawn = []
    for folder in ("first", "second"):
        torch.manual_seed(len(drawn))  # nothing may depend on the reader's generator
        (path,) = figures.draw([name], tmp_path / folder, cifar)
        assert path == tmp_path / folder / name
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
    with Image.open(path) as picture:
        assert picture.width >= 60
        if name.endswith(".gif"):
            assert picture.n_frames == 4 and picture.info["loop"] == 0
        else:
            corner = picture.convert("RGBA").getpixel((0, 0))
            assert name == "montage.png" or corner == (255, 255, 255, 255)  # also on dark pages


def test_animations_show_each_image_with_its_own_maps(shipped, cifar, tmp_path, monkeypatch):
    heat, indices = shipped
    drawn = []
    names_told = []

    def draw(*arguments, name, **_):
        drawn.append(arguments)
        names_told.append(name)

    monkeypatch.setattr(figures, "save_cam_gif", draw)
    names = [name for name in figures.PICTURES if name.endswith(".gif")]
    list(figures.draw(names, tmp_path, cifar))
    assert [path.name for path, *_ in drawn] == names and len(names) == 5
    assert names == [f"cam-{name}.gif" for name in names_told]
    for place, (_, image, maps) in enumerate(drawn):
        assert torch.equal(image, cifar.train.images[indices[place]])
        assert np.array_equal((255 * maps).round().byte(), heat[:, place])


@pytest.mark.parametrize(
    ("name", "right", "count"),
    [("mistakes.png", False, 15), ("hits.png", True, 15), ("mistakes-cam.png", False, 8),
     ("hits-cam.png", True, 8)],
)  # fmt: skip
def test_galleries_show_what_their_name_says(name, right, count, shipped, cifar, monkeypatch):
    saved = []
    monkeypatch.setattr(figures.plots, "save", lambda figure, path: saved.append(figure))
    list(figures.draw([name], Path(), cifar))
    titles = [ax.get_title() for ax in saved[0].axes if ax.get_title()]
    assert len(titles) == count and {title[0] for title in titles} == {"✓" if right else "✗"}


def test_the_command_names_the_pictures_and_insists_on_cifar10(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("cifar_utils.sources.cifar10.MIRRORS", ())
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    for arguments, words in (
        (["poster.png"], "unknown picture 'poster.png'; choose one of samples.png, montage.png"),
        ([], "put cifar-10-python.tar.gz"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["figures", *arguments, "--out", str(tmp_path / "out")])
        assert stopped.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
