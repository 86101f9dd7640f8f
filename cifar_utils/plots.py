"""Figures: data in, Axes (one panel) or Figure (a gallery) out. Nothing here runs a network.

Every panel takes `ax`, the Axes to draw into. None makes a new figure.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args

import numpy as np
from torch import Tensor

from cifar_utils.augment import AUGMENTATIONS
from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError
from cifar_utils.fonts import drawable, families_for
from cifar_utils.sources.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cifar_utils.evaluate import Ranked
    from cifar_utils.history import History

Metric = Literal["accuracy", "loss"]
Arguments = ParamSpec("Arguments")
Drawn = TypeVar("Drawn")  # an Axes or a Figure

RIGHT, WRONG = "#00795c", "#d55e00"  # green and vermilion, which colour-blind readers tell apart
BLUE, ORANGE = "#0072b2", "#d55e00"
COLORS = (ORANGE, BLUE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito's
SIGNS = ("o", "s", "^", "D", "v", "P")
# One colour per class, the same in every figure: Petroff's ten (arXiv 2107.02270).
CLASS_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
INK, FAINT = "#333333", "#dddddd"

# The one style sheet, over matplotlib's own. Backgrounds are white, not transparent, so that dark
# pages show figures well.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white",
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlepad": 8,
    "figure.titlesize": 13, "figure.titleweight": "bold",
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": "#999999",
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": FAINT, "lines.linewidth": 1.8, "legend.frameon": False, "legend.fontsize": 9,
}  # fmt: skip


def styled(draw: Callable[Arguments, Drawn]) -> Callable[Arguments, Drawn]:
    """Let `draw` draw in the style above, whatever the reader's own settings are.

    They are left alone. Every text that it draws is literal: nothing in a name is markup.
    """

    @functools.wraps(draw)
    def in_style(*arguments: Arguments.args, **options: Arguments.kwargs) -> Drawn:
        import matplotlib.style

        with matplotlib.style.context(["default", STYLE]):
            drawn = draw(*arguments, **options)
            if drawn is not None:
                _settle(drawn)
            return drawn

    return in_style


def _settle(artist):
    """Make all texts of an artist literal, and the look of its ticks that of this moment.

    matplotlib makes ticks when it saves or shows a figure, in the settings of that moment. Numbers
    on axes stay as they are, because powers of ten are markup.
    """
    from matplotlib.axis import Axis
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    for child in artist.get_children():
        if isinstance(child, Text):
            _make_literal(child)
        elif isinstance(child, Axis):
            _make_literal(child.label)
            child.get_major_ticks(1), child.get_minor_ticks(1)  # the others will be copies
            if isinstance(child.get_major_formatter(), FuncFormatter):  # of names
                for tick in child.get_major_ticks():
                    _make_literal(tick.label1)
                    _make_literal(tick.label2)
        else:
            _settle(child)


def _make_literal(text):
    """Let a matplotlib Text show what it says, in fonts that have its letters."""
    text.set_usetex(False)
    said = text.get_text()
    if "$" in said:  # two would enclose a formula
        text.set_parse_math(False)
    if said.isprintable() and said.isascii():
        return
    text.set_text(_lines(said))
    if families := families_for(text.get_text()):
        text.set(fontfamily=["DejaVu Sans", *families], fontweight="normal")


def _lines(text):
    return "\n".join(map(drawable, text.split("\n")))


def _names(names):
    """Names of classes and the like as a picture shows them, each on one short line."""
    return [_name(name) for name in names]


def _name(name, longest=24):
    """A name that comes from anywhere, without its middle if it is too long."""
    line, half = drawable(name), longest // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[1 - half :]}"


def _axes(ax, size=(6, 4)):
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)  # of the caller's own Axes, too
    return ax


def _grid(count, columns, size, title):
    """A Figure with a grid of empty panels, and its first `count` Axes."""
    import matplotlib.pyplot as plt

    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    width = max(columns * size[0], 4 if title else 2)  # room for the words of a single image
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, rows * size[1] + (0.5 if title else 0)),
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat:
        ax.axis("off")
    if title:
        figure.suptitle(title, wrap=True)
    return figure, axes.flat[:count]


def _class_colors(count):
    return (CLASS_COLORS * count)[:count]


def _as_picture(image):
    return image.permute(1, 2, 0).cpu().numpy()


@styled  # matplotlib takes the background of a file from the settings at this moment
def save(figure_or_axes: "Figure | Axes", path: Path | str, *, dpi: int = 120) -> None:
    """Write a Figure, or the Figure of an Axes, as a PNG and close it."""
    import matplotlib.pyplot as plt

    figure: Any = figure_or_axes if hasattr(figure_or_axes, "savefig") else figure_or_axes.figure
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))
    plt.close(figure)


# --- images ---------------------------------------------------------------------------------------


@styled
def show_image(image: Tensor, *, title: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """One image, uint8 (3, H, W), enlarged, with pixel coordinates."""
    ax = _axes(ax, (4, 4))
    ax.imshow(_as_picture(image), interpolation="nearest")
    ax.set(title=title, xlabel="column", ylabel="row")
    return ax


@styled
def show_pixels(
    values: Tensor | np.ndarray, *, title: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """A few numbers of one channel, uint8 (H, W), each written into its pixel."""
    ax = _axes(ax, (4, 4))
    ax.imshow(np.asarray(values), cmap="gray", vmin=0, vmax=255)
    for (row, column), value in np.ndenumerate(np.asarray(values)):
        color = "black" if value > 127 else "white"
        ax.text(column, row, value, ha="center", va="center", fontsize=9, color=color)
    ax.set(title=title, xticks=[], yticks=[])
    return ax


@styled
def show_images(
    images: Tensor,
    *,
    titles: Sequence[str] | np.ndarray | None = None,
    columns: int = 8,
    title: str | None = None,
) -> "Figure":
    """A grid of images, uint8 (N, 3, H, W), each under its title."""
    figure, axes = _grid(len(images), columns, (1.2, 1.2 if titles is None else 1.35), title)
    for place, (ax, image) in enumerate(zip(axes, images, strict=True)):
        ax.imshow(_as_picture(image), interpolation="nearest")
        if titles is not None:
            ax.set_title(_name(titles[place]), fontsize=9)
    return figure


@styled
def show_rows(
    rows: Mapping[str, Tensor],
    *,
    heatmaps: Mapping[str, Sequence[Tensor | None] | Tensor] | None = None,
    size: float = 0.7,
    columns: Sequence[str] = (),
    key: bool = False,
    title: str | None = None,
) -> "Figure":
    """Rows of images, each row beside its name, such as an operation or a class.

    rows: dict from name to uint8 (N, 3, H, W). heatmaps: dict from a row's name to its N heatmaps,
    (H, W) in [0, 1], which are laid over its images; None leaves an image as it is. An empty one,
    zero all over, is marked with that word. size: the width of an image in inches. columns: names
    above the images of the first row. key: whether a bar below says which colour of a heatmap means
    much.
    """
    rows = {_lines(name): images for name, images in rows.items()}
    heat = {_lines(name): list(maps) for name, maps in (heatmaps or {}).items()}
    count = max(len(images) for images in rows.values())
    longest = max(len(line) for name in rows for line in name.splitlines())
    width = size * count + 0.08 * longest  # a letter takes less than 0.08 inches
    figure, axes = _grid(len(rows), 1, (width, size + 0.05), title)
    figure.set_layout_engine("compressed")  # no space around panels of a fixed shape
    for ax, (name, images) in zip(axes, rows.items(), strict=True):
        maps = heat.get(name, [None] * len(images))
        images = _under_heat(images, maps) if heat else images  # all rows of one scale
        strip = _side_by_side(images, count)  # one picture per row is faster than many panels
        ax.imshow(_as_picture(strip), interpolation="nearest")
        for number, one in enumerate(maps):
            if one is not None and not one.any():
                _write_over(ax, (number + 0.5) / count, 0.5, "empty", transform=ax.transAxes)
        ax.text(-0.01, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=9)
    for number, name in enumerate(columns):
        place = (number + 0.5) / count
        axes[0].text(place, 1.03, name, transform=axes[0].transAxes, ha="center", fontsize=9)
    if key:
        _color_key(figure)
    return figure


def show_filters(rows: Mapping[str, Tensor], *, size: float = 0.3) -> "Figure":
    """Filters as pictures, a row per network: middle grey is 0, brighter is positive.

    rows: dict from name to weights, float (K, 3, h, w). Each filter is scaled by itself, so that
    its largest weight, of either sign, has the full colour. size: the width of one in inches. Used
    in notebook 08.
    """
    pictures = {
        name: 127.5 + 127.5 * filters / filters.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
        for name, filters in rows.items()
    }
    return show_rows({name: _enlarged(ones.round()) for name, ones in pictures.items()}, size=size)


def show_maps(
    rows: Mapping[str, Tensor], *, size: float = 0.9, columns: Sequence[str] = ()
) -> "Figure":
    """Maps as grey pictures, a row per stage: black is the least of a map, white its most.

    rows: dict from name to maps, float (K, h, w); a uint8 (K, 3, h, w) is a row of images. Each map
    is stretched by itself; one that is the same everywhere is black. Used in notebook 08.
    """
    pictures = {}
    for name, maps in rows.items():
        if maps.ndim == 3:
            low = maps.amin((1, 2), keepdim=True)
            high = (maps - low).amax((1, 2), keepdim=True).clamp(min=1e-12)
            maps = (255 * (maps - low) / high).round()[:, None].expand(-1, 3, -1, -1)
        pictures[name] = _enlarged(maps)
    return show_rows(pictures, size=size, columns=columns)


def show_patches(
    rows: Mapping[str, Tensor], *, size: float = 0.7, columns: Sequence[str] = ()
) -> "Figure":
    """Patches of any size, uint8 (K, 3, h, w), a row per map, all drawn equally high.

    Used in notebook 08.
    """
    pictures = {name: _enlarged(patches) for name, patches in rows.items()}
    return show_rows(pictures, size=size, columns=columns)


def _enlarged(pictures, size=96):
    """Pictures (K, 3, h, w) with pixels as large squares, uint8 (K, 3, size, about size)."""
    from torch.nn.functional import interpolate

    high, wide = pictures.shape[2:]
    shape = (size, max(1, round(size * wide / high)))
    return interpolate(pictures.float().cpu(), size=shape, mode="nearest-exact").byte()


def _under_heat(images, maps):
    """Images, enlarged as `overlay` does it, each under its heatmap if that is not None."""
    import torch

    from cifar_utils.gifs import overlay

    large = images.repeat_interleave(8, 2).repeat_interleave(8, 3)
    pairs = zip(images, maps, large, strict=True)
    return torch.stack(
        [own if one is None else overlay(image[None], one[None])[0] for image, one, own in pairs]
    )


def _side_by_side(images, columns):
    """Images, uint8 (N, 3, H, W), as one, with white gaps, and white up to `columns` places."""
    from torch.nn.functional import pad

    gap = max(3, images.shape[3] // 16)
    spaced = pad(images, (0, gap), value=255)
    spaced = pad(spaced, (0, 0, 0, 0, 0, 0, 0, columns - len(images)), value=255)
    return spaced.permute(1, 2, 0, 3).flatten(2)[:, :, :-gap]


def save_montage(path: Path | str, images: Tensor, *, columns: int = 32) -> None:
    """Write many images, uint8 (N, 3, H, W), as one PNG, pixel for pixel, `columns` in a row."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    sheet = to_pil_image(make_grid(images.cpu(), nrow=columns, padding=0))
    write_whole(path, lambda temporary: sheet.save(temporary, "PNG"))


@styled
def show_predictions(
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    *,
    classes: Sequence[str] = CLASSES,
    columns: int = 8,
    title: str | None = None,
) -> "Figure":
    """A grid of images with the predicted class: ✓ and green if right, ✗ and red if wrong.

    images: uint8 (N, 3, H, W). labels: int64 (N,). logits: float (N, C).
    """
    confidences, predictions = logits.softmax(1).max(1)
    classes = _names(classes)
    figure, axes = _grid(len(images), columns, (1.65, 1.65), title)
    for ax, image, label, prediction, confidence in zip(
        axes, images, labels, predictions, confidences, strict=True
    ):
        _labelled(ax, image, label, prediction, confidence, classes)
    return figure


@styled
def show_mistakes(
    images: Tensor,
    mistakes: "Ranked",
    heatmaps: Tensor | None = None,
    *,
    classes: Sequence[str] = CLASSES,
    columns: int = 5,
    title: str | None = None,
) -> "Figure":
    """A gallery of wrongly classified images: "✗ true → predicted, confidence".

    images: the whole split's, uint8 (N, 3, H, W). mistakes: a Ranked of K of them. heatmaps:
    (K, H, W) in [0, 1], of the predicted classes: each image is then shown beside its overlay.
    """
    return _gallery(images, mistakes, heatmaps, classes, columns, title)


@styled
def show_hits(
    images: Tensor,
    hits: "Ranked",
    heatmaps: Tensor | None = None,
    *,
    classes: Sequence[str] = CLASSES,
    columns: int = 5,
    title: str | None = None,
) -> "Figure":
    """A gallery of correctly classified images: "✓ class, confidence".

    The arguments are those of show_mistakes.
    """
    return _gallery(images, hits, heatmaps, classes, columns, title)


def _gallery(images, ranked, heatmaps, classes, columns, title):
    width, classes = 1.7 if heatmaps is None else 3.2, _names(classes)
    figure, axes = _grid(len(ranked), columns, (width, 1.95), title)
    for place, ax in enumerate(axes):
        image = images[ranked.indices[place]]
        what = ranked.labels[place], ranked.predictions[place], ranked.confidences[place]
        heatmap = None if heatmaps is None else heatmaps[place]
        _labelled(ax, image, *what, classes, heatmap)
    if not len(ranked):
        figure.text(0.5, 0.5, "none", ha="center")
    elif heatmaps is not None:
        _color_key(figure)
    return figure


def _labelled(ax, image, label, prediction, confidence, classes, heatmap=None):
    """An image and its prediction. A heatmap is laid over a second copy beside the first."""
    height, width = image.shape[1:]
    ax.imshow(_as_picture(image), interpolation="nearest", extent=(0, width, height, 0))
    if heatmap is not None:
        beside = (width + 1, 2 * width + 1, height, 0)
        ax.imshow(_as_picture(image), interpolation="nearest", extent=beside)
        _lay_over(ax, heatmap, beside, classes[prediction])
        ax.set_xlim(0, 2 * width + 1)
    if label == prediction:
        text, color = f"✓ {classes[label]}", RIGHT
    else:
        text, color = f"✗ {classes[label]} → {classes[prediction]}", WRONG
        if len(text) > 26:  # than which the image is not wider
            text = f"✗ {classes[label]}\n→ {classes[prediction]}"
    ax.set_title(f"{text}\n{confidence:.3f}", fontsize=8, color=color)


def _lay_over(ax, heatmap, extent, name):
    """A heatmap over what is drawn at `extent`; if it is empty, that nothing speaks for `name`."""
    look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "alpha": 0.55, "interpolation": "bilinear"}
    ax.imshow(np.asarray(heatmap), extent=extent, **look)
    if not np.any(np.asarray(heatmap)):
        left, right, bottom, top = extent
        _write_over(ax, (left + right) / 2, (bottom + top) / 2, f"nothing speaks\nfor {name}")


def _write_over(ax, x, y, words, **options):
    """White words with a black edge, legible over any picture."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=2, foreground="black")]
    look = {"ha": "center", "va": "center", "color": "white", "fontsize": 9, "path_effects": edge}
    ax.text(x, y, words, **look, **options)


def _color_key(figure, cax=None):
    """A slim bar that says which colour of a heatmap means much, in `cax` or below all panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    below = {
        "ax": figure.axes, "location": "bottom", "pad": 0.05 / figure.get_figheight(),
        "shrink": min(1, 2.5 / figure.get_figwidth()), "aspect": 25,
    }  # fmt: skip
    place = {"cax": cax, "orientation": "horizontal"} if cax else below
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), ticks=[], **place)
    bar.outline.set_visible(False)
    for left, side, word in ((-0.02, "right", "little"), (1.02, "left", "much")):
        look = {"transform": bar.ax.transAxes, "ha": side, "va": "center", "fontsize": 9}
        bar.ax.text(left, 0.4, word, **look)


# --- numbers --------------------------------------------------------------------------------------


@styled
def plot_history(
    history: "History", *, metric: Metric = "accuracy", ax: "Axes | None" = None
) -> "Axes":
    """Training and validation curves of a History over its epochs.

    Row 0, the untrained network, is drawn as well. metric: "accuracy" or "loss"; CifarError for
    anything else.
    """
    _check_metric(metric)
    ax = _axes(ax)
    epochs = [row.epoch for row in history.epochs]
    for part, style, color in (("train", "o--", ORANGE), ("val", "s-", BLUE)):
        values = [getattr(row, f"{part}_{metric}") for row in history.epochs]
        if None not in values:
            changed = AUGMENTATIONS.get(history.recipe.augmentation) != ()
            augmented = " (augmented)" if changed else ""
            name = {"train": f"training{augmented}", "val": "validation"}[part]
            ax.plot(epochs, values, style, color=color, markersize=4, label=name)
    ax.set(title=_name(history.title, 70), xlabel="epoch", ylabel=metric)
    if metric == "accuracy":
        ax.yaxis.set_major_formatter("{x:.0%}")
    ticks: Any = ax.xaxis.get_major_locator()
    ticks.set_params(integer=True)
    ax.grid()
    ax.legend()
    return ax


@styled
def compare_histories(
    histories: "Mapping[str, History]",
    *,
    metric: Metric = "accuracy",
    title: str | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Several Histories in one panel: validation solid, training dashed, each in its own colour.

    The horizontal axis is the share of the training, so that runs of different lengths can be
    compared. If a History has a test result, a star marks it, to the right of the curve's end and
    beside the stars of the others. metric: "accuracy" or "loss"; CifarError for anything else.
    """
    _check_metric(metric)
    ax = _axes(ax, (8, 4))
    meaning = {"val": "solid: validation", "train": "dashed: training", "test": "★: test"}
    drawn, stars = set(), 0
    for (name, history), color, sign in zip(
        zip(_names(histories), histories.values(), strict=True),
        COLORS * len(histories),
        SIGNS * len(histories),
        strict=False,
    ):
        if name.startswith("_"):  # matplotlib leaves such names out of legends
            name = f" {name}"
        done = [row.epoch / history.recipe.epochs for row in history.epochs]
        look: dict[str, Any] = {"color": color, "label": name, "markersize": 4}
        look["markevery"] = max(1, len(done) // 12)
        for part, style in (("val", "-"), ("train", "--")):
            values = [getattr(row, f"{part}_{metric}") for row in history.epochs]
            if None not in values:
                ax.plot(done, values, style + sign, **look)
                drawn.add(part)
                look["label"] = None  # a label for the first of its lines is enough
        if history.test:
            value, stars = history.test["top1" if metric == "accuracy" else "loss"], stars + 1
            look = {"color": color, "markersize": 14, "markeredgecolor": "white"}
            ax.plot([done[-1] + 0.03 * stars], [value], "*", **look)
            drawn.add("test")
    ax.set(title=title, xlabel="share of the training", ylabel=metric)
    if metric == "accuracy":
        ax.yaxis.set_major_formatter("{x:.0%}")
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.grid()
    ax.legend(title=", ".join(meaning[part] for part in meaning if part in drawn))
    return ax


def _check_metric(metric):
    if metric not in ("accuracy", "loss"):
        raise CifarError(f"unknown metric {metric!r}; choose accuracy or loss")


@styled
def show_history(history: "History") -> "Figure":
    """Accuracy and loss of a History, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for metric, ax in zip(get_args(Metric), axes, strict=True):
        plot_history(history, metric=metric, ax=ax)
    return figure


@styled
def plot_confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]],
    *,
    classes: Sequence[str] = CLASSES,
    title: str = "Confusion matrix",
    ax: "Axes | None" = None,
) -> "Axes":
    """Counts, int (C, C), with a row per true class and a column per predicted class.

    The colour of a cell is its share of the true class.
    """
    from matplotlib.colors import PowerNorm

    ax = _axes(ax, (7, 6.4))
    matrix, classes = np.asarray(matrix), _names(classes)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # The square root of the share, because otherwise only the diagonal would be visible.
    drawn = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label="share of the true class", ticks=ticks)
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    _settle(bar.ax)
    ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    ax.set_yticks(range(len(classes)), classes)
    ax.set(title=title, xlabel="predicted class", ylabel="true class")
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.4 else INK
        ax.text(column, row, count, ha="center", va="center", fontsize=8, color=color)
    return ax


@styled
def plot_per_class(
    per_class: Mapping[str, float | None],
    *,
    title: str = "Accuracy per class",
    ax: "Axes | None" = None,
) -> "Axes":
    """A bar of accuracy per class.

    per_class: dict from name to accuracy, a fraction, or None for a class without images.
    """
    ax = _axes(ax, (6, max(4, 0.3 * len(per_class))))
    values = [value or 0 for value in per_class.values()]
    bars = ax.barh(range(len(values)), values, color=_class_colors(len(values)))
    ax.set_yticks(range(len(values)), _names(per_class))
    texts = ["no images" if value is None else f"{value:.1%}" for value in per_class.values()]
    ax.bar_label(bars, texts, padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.set(title=title, xlim=(0, 1.1))
    ax.xaxis.set_major_formatter("{x:.0%}")
    return ax


@styled
def plot_probabilities(
    probabilities: Mapping[str, float], *, title: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """A bar per class probability (dict from name to fraction), the likeliest in colour."""
    ax = _axes(ax, (6, max(4, 0.3 * len(probabilities))))
    best = max(probabilities, key=probabilities.__getitem__)
    own = zip(probabilities, _class_colors(len(probabilities)), strict=True)
    colors = [color if name == best else FAINT for name, color in own]
    bars = ax.barh(range(len(colors)), list(probabilities.values()), color=colors)
    ax.set_yticks(range(len(colors)), _names(probabilities))
    ax.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.set(title=title, xlim=(0, 1.1), xlabel="probability")
    return ax


@styled
def show_explanation(
    image: Tensor,
    heatmap: Tensor,
    probabilities: Mapping[str, float],
    *,
    heading: str = "Grad-CAM",
    title: str | None = None,
) -> "Figure":
    """What the network saw, where it looked and what it predicted, side by side.

    image: uint8 (3, H, W); heatmap: (H, W) in [0, 1], of the likeliest class; probabilities: dict
    from name to fraction; heading: what stands above the heatmap.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for ax in axes[:2]:
        ax.imshow(_as_picture(image), interpolation="nearest")
        ax.axis("off")
    likeliest = max(probabilities, key=probabilities.__getitem__)
    _lay_over(axes[1], heatmap, axes[1].get_images()[0].get_extent(), _name(likeliest))
    axes[0].set_title("as the network sees it", fontsize=9)
    axes[1].set_title(heading, fontsize=9)
    _color_key(figure, axes[1].inset_axes((0.2, -0.1, 0.6, 0.05)))
    plot_probabilities(probabilities, ax=axes[2])
    figure.suptitle(title or "")
    return figure


@styled
def plot_lr_range(
    result: Any, *, title: str = "Learning-rate range test", ax: "Axes | None" = None
) -> "Axes":
    """Smoothed loss against the rising learning rate, with the suggestion marked.

    result: the LearningRateRange that lr_range.lr_range_test returns.
    """
    ax = _axes(ax)
    ax.semilogx(result.rates, result.losses, color=BLUE)
    steepest = f"steepest at {result.suggestion:.2g}"
    ax.axvline(result.suggestion, color=ORANGE, linestyle="--", label=steepest)
    ax.set(title=title, xlabel="learning rate", ylabel="training loss (smoothed)")
    ax.grid()
    ax.legend()
    return ax


@styled
def plot_stages(
    shapes: Sequence[tuple[int, ...]], *, title: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """A network as boxes, input first. A box is as high as the maps, and wider for more channels.

    shapes: (channels, height, width) of the input and of the maps after each stage.
    """
    ax = _axes(ax, (8, 2.4))
    left = 0.0
    for number, (channels, height, width) in enumerate(shapes):
        thickness = 2 * np.log2(channels)
        ax.bar(left, height, thickness, -height / 2, align="edge",
               color=FAINT if number == 0 else BLUE, edgecolor="white")  # fmt: skip
        name = "input" if number == 0 else f"stage {number}"
        text = f"{name}\n{channels} × {height} × {width}"
        ax.text(left + thickness / 2, -19, text, ha="center", va="top", fontsize=8)
        end = (left + thickness + 6, 0)
        ax.annotate("", end, (left + thickness + 0.5, 0), arrowprops={"arrowstyle": "->"})
        left += thickness + 6.5
    ax.text(left, 0, "classifier", va="center", fontsize=8)
    ax.set(title=title, xlim=(-3, left + 12), ylim=(-28, 17))
    ax.axis("off")
    return ax


@styled
def plot_calibration(
    calibration: tuple[float, np.ndarray, np.ndarray, np.ndarray],
    *,
    title: str = "Calibration",
    ax: "Axes | None" = None,
) -> "Axes":
    """Accuracy against confidence, one point per bin. On the diagonal confidence can be believed.

    calibration: what evaluate.calibration returns.
    """
    ax = _axes(ax, (5, 5))
    error, confidences, accuracies, counts = calibration
    ax.plot([0, 1], [0, 1], color=INK, linestyle=":")
    sizes = 10 + 200 * counts / max(counts.max(), 1)
    ax.scatter(confidences, accuracies, s=sizes, color=BLUE, clip_on=False, zorder=3)
    ax.set(title=f"{title}, error {error:.3f}", xlim=(0, 1), ylim=(0, 1))
    ax.set(xlabel="confidence", ylabel="accuracy")
    ax.grid()
    return ax


@styled
def plot_cost(
    points: Mapping[str, tuple[float, float, float]],
    *,
    title: str = "Accuracy against cost",
    ax: "Axes | None" = None,
) -> "Axes":
    """Test accuracy against mult-adds, with an arrow per network from published to ours.

    points: dict from name to (mult-adds, published accuracy, our accuracy).
    """
    from matplotlib.ticker import EngFormatter, LogLocator, MultipleLocator, NullLocator

    ax = _axes(ax, (7, 4.4))
    arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 5, "shrinkB": 5}
    beside: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
    for name, (cost, before, after) in points.items():
        ax.annotate("", (cost, after), (cost, before), arrowprops=arrow)
        ax.annotate(f"{after:.1%}", (cost, after), (0, 7), **beside)
        ax.annotate(_name(name), (cost, before), (0, -15), **beside)
    costs, published, ours = zip(*points.values(), strict=True)
    ax.plot(costs, published, "o", color=ORANGE, markerfacecolor="white", label="published")
    ax.plot(costs, ours, "o", color=BLUE, markersize=8, label="this course")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MultipleLocator(0.02))
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.set(title=title, xlabel="multiply-adds for one image", ylabel="test accuracy")
    ax.set_xlim(min(costs) / 1.5, max(costs) * 1.7)
    ax.margins(y=0.15)
    ax.grid()
    ax.legend(loc="lower left")
    return ax
