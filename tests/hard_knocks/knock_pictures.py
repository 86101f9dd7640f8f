"""A reader's own matplotlib settings: the same pictures."""

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import style

from cifar_utils import evaluate, plots
from cifar_utils.course import display
from cifar_utils.data import CLASSES
from cifar_utils.history import Epoch, History
from cifar_utils.lr_range import LearningRateRange
from cifar_utils.recipes import Recipe

SETTINGS = {
    "image.origin": "lower", "image.cmap": "magma", "image.interpolation": "bicubic",
    "image.aspect": "auto", "text.usetex": True, "text.parse_math": False, "text.color": "red",
    "font.family": "No Such Font", "font.size": 20.0, "axes.formatter.use_mathtext": True,
    "axes.facecolor": "black", "axes.grid": True, "axes.xmargin": 0.4, "axes.titlelocation": "left",
    "axes.prop_cycle": plt.cycler(color=["r", "g"]), "axes.unicode_minus": False,
    "figure.autolayout": True, "figure.facecolor": "black", "figure.dpi": 33.0,
    "figure.constrained_layout.w_pad": 1.0, "figure.figsize": [1.0, 1.0],
    "savefig.bbox": "tight", "savefig.format": "pdf", "savefig.dpi": 33.0,
    "savefig.facecolor": "black", "savefig.transparent": True, "xtick.color": "red",
    "ytick.labelsize": 20.0, "xtick.direction": "in", "legend.loc": "center", "lines.marker": "x",
    "path.sketch": (1, 100, 2), "errorbar.capsize": 9.0,
}  # fmt: skip

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(20) % 10
SAID = torch.where(torch.arange(20) < 10, LABELS, (LABELS + 1) % 10)
LOGITS = torch.nn.functional.one_hot(SAID, 10) * torch.arange(20)[:, None] / 4.0
MISTAKES = evaluate.most_confident_mistakes(LOGITS, LABELS, count=4)
MAPS = torch.rand(4, 32, 32, generator=GENERATOR)
SHARES = dict(zip(CLASSES, LOGITS[-1].softmax(0).tolist(), strict=True))
HISTORY = History(
    Recipe("mine"), "synthetic",
    tuple(Epoch(n, 0.1, 2 - n / 4, n / 10, 2.1 - n / 4, n / 11, 1.0, 5.0) for n in range(4)),
    test={"top1": 0.7, "loss": 0.9},
)  # fmt: skip
RANGE = LearningRateRange((1e-4, 1e-3, 1e-2, 0.1, 1.0), (2.3, 2.2, 1.9, 1.0, 1.5), 0.1)

PICTURES = {
    "image": lambda: plots.show_image(IMAGES[0], title="one"),
    "pixels": lambda: plots.show_pixels(IMAGES[0, 0, :4, :4]),
    "images": lambda: plots.show_images(IMAGES[:4], titles=CLASSES, title="all"),
    "rows": lambda: plots.show_rows({"a": IMAGES[:5]}, columns=("one", "two"), key=True),
    "predictions": lambda: plots.show_predictions(IMAGES[:4], LABELS[:4], LOGITS[:4]),
    "mistakes": lambda: plots.show_mistakes(IMAGES, MISTAKES, MAPS, title="mistakes"),
    "hits": lambda: plots.show_hits(IMAGES, MISTAKES),
    "history": lambda: plots.show_history(HISTORY),
    "compared": lambda: plots.compare_histories({"a": HISTORY, "b": HISTORY}),
    "confusion": lambda: plots.plot_confusion_matrix(np.eye(10)),
    "per class": lambda: plots.plot_per_class(SHARES),
    "probabilities": lambda: plots.plot_probabilities(SHARES),
    "explanation": lambda: plots.show_explanation(IMAGES[0], MAPS[0], SHARES, title="x.png: cat"),
    "rates": lambda: plots.plot_lr_range(RANGE),
    "stages": lambda: plots.plot_stages([(3, 32, 32), (64, 16, 16)]),
    "calibration": lambda: plots.plot_calibration(evaluate.calibration(LOGITS, LABELS)),
    "cost": lambda: plots.plot_cost({"a": (4e7, 0.9, 0.92), "b": (5e8, 0.91, 0.95)}),
    "live curves": lambda: display._curves(HISTORY),
}


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


def drawn(kind, path):
    plots.save(PICTURES[kind](), path, dpi=50)
    return path.read_bytes()


def test_every_kind_of_picture_is_tried():
    shown = {name for name in vars(plots) if name.startswith(("show_", "plot_", "compare_"))}
    tried = {name for draw in PICTURES.values() for name in draw.__code__.co_names}
    assert shown - tried == {"plot_history"}  # show_history draws two


@pytest.mark.parametrize("kind", PICTURES)
def test_all_settings_at_once(kind, tmp_path):
    plain = drawn(kind, tmp_path / "plain.png")
    with style.context(["dark_background", SETTINGS]):
        assert drawn(kind, tmp_path / "odd.png") == plain
        assert matplotlib.rcParams["image.origin"] == "lower"  # the reader's own stay


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_alone(name, tmp_path):
    for kind in ("image", "rates"):
        plain = drawn(kind, tmp_path / "plain.png")
        with matplotlib.rc_context({name: SETTINGS[name]}):
            assert drawn(kind, tmp_path / "odd.png") == plain


@pytest.mark.parametrize("kind", PICTURES)
def test_a_notebook_draws_later_in_settings_that_need_tex(kind):
    """There need not be any TeX. matplotlib makes the ticks only when it draws."""
    odd = {name: SETTINGS[name] for name in ("text.usetex", "font.family", "xtick.color")}
    with matplotlib.rc_context(odd):
        figure = PICTURES[kind]()
        figure = getattr(figure, "figure", None) or figure
        figure.savefig(io.BytesIO(), format="png", dpi=30)
        ticks = [tick for ax in figure.axes for tick in ax.xaxis.get_major_ticks()]
        assert all(tick.label1.get_color() != "red" for tick in ticks)


def test_axes_of_a_reader_s_own_settings():
    with style.context(["dark_background", SETTINGS]):
        _, (left, right) = plt.subplots(1, 2)
        plots.show_image(IMAGES[0], title="a $b$ _c", ax=left)
        plots.plot_confusion_matrix(np.eye(2), classes=("$x^2$", "a$"), ax=right)
    assert left.get_images()[0].origin == "upper" and left.yaxis_inverted()
    texts = [left.title, *(tick.label1 for tick in right.yaxis.get_major_ticks())]
    assert [text.get_text() for text in texts] == ["a $b$ _c", "$x^2$", "a$"]
    assert not any(text.get_usetex() or text.get_parse_math() for text in texts)


def test_a_file_of_settings(tmp_path):
    """As a process reads it at its start."""
    odd = tmp_path / "odd.rc"  # a matplotlibrc in the working directory would be read, too
    lines = [f"{name}: {str(value).strip('[()]')}" for name, value in SETTINGS.items()]
    lines = [line for line in lines if "cycl" not in line]
    odd.write_text("\n".join([*lines, "axes.prop_cycle: cycler('color', ['r', 'g'])"]))
    code = (
        "import sys, matplotlib, knock_pictures\n"
        "from pathlib import Path\n"
        "assert matplotlib.rcParams['text.usetex'] == (sys.argv[1] == 'odd')\n"
        "for kind in ('history', 'explanation', 'confusion', 'rates'):\n"
        "    print(knock_pictures.drawn(kind, Path('drawn.png')).hex())\n"
    )
    told = []
    for name in ("plain", "odd"):
        own = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        own |= {"MATPLOTLIBRC": str(odd)} if name == "odd" else {}
        done = subprocess.run([sys.executable, "-c", code, name], cwd=tmp_path, check=False,
                              env=os.environ | own, capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0 and not done.stderr, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1] and told[0].count("\n") == 4
