"""Drawings of ideas, each made from numbers: data in, a Figure out. Nothing here runs a network.

No figure is wider than 6 inches, and no text smaller than 9 points, so that a phone shows them
legibly. Colours only repeat what frames and words say.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cifar_utils.plots import BLUE, INK, ORANGE, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTIAL = "∂"
PALE = "#fbe3d3"  # a light ORANGE, behind dark numbers


@styled
def sliding_kernel(
    picture: Tensor, kernel: Tensor, places: Sequence[tuple[int, int]] = ((0, 0), (0, 1), (1, 0))
) -> "Figure":
    """A kernel at some places of a picture: the window, its products, the output so far.

    picture (H, W), kernel (K, K). places: (row, column) of the window's upper left corner, one row
    of panels per place. The output fills up row by row. Used in notebook 04.
    """
    import matplotlib.pyplot as plt

    size = len(kernel)
    windows = picture.unfold(0, size, 1).unfold(1, size, 1)  # (rows, columns, K, K)
    output = (windows * kernel).sum((2, 3))
    widths = [picture.shape[1], size, output.shape[1]]
    height = 0.42 * picture.shape[0] + 0.45
    figure, axes = plt.subplots(
        len(places), 3, figsize=(5.6, height * len(places) + 0.5), squeeze=False,
        layout="constrained", width_ratios=widths,
    )  # fmt: skip
    figure.suptitle("A kernel slides over a picture")
    for number, (row, column) in enumerate(places):
        left, middle, right = axes[number]
        _numbers(left, [[_short(value) for value in line] for line in picture.tolist()])
        _frame(left, row, column, size)
        pairs = zip(windows[row, column].flatten().tolist(), kernel.flatten().tolist(), strict=True)
        products = [f"{_short(pixel)}·{_short(weight)}" for pixel, weight in pairs]
        _numbers(middle, [products[at : at + size] for at in range(0, size**2, size)])
        _frame(middle, 0, 0, size)
        middle.set_xlabel(f"sum: {_short(output[row, column].item())}", fontsize=11)
        done = row * output.shape[1] + column
        shown = [_short(value) for value in output.flatten().tolist()[: done + 1]]
        shown += [""] * (output.numel() - len(shown))
        _numbers(right, [shown[at : at + widths[2]] for at in range(0, len(shown), widths[2])])
        _frame(right, row, column, 1)
        left.set_title(f"row {row}, column {column}")
        middle.set_title("window · kernel")
        right.set_title("output")
    return figure


@styled
def channel_mixing(layers: Mapping[str, tuple[int, int, int, int]]) -> "Figure":
    """Which kernels a convolution has: a row per output channel, a column per input channel.

    layers: {title: (inputs, outputs, kernel size, groups)}, one panel each. A kernel is a square of
    weights; where there is none, the output does not read that input. Used in notebook 04.
    """
    import matplotlib.pyplot as plt

    tall = [outputs + 1.6 for _, outputs, _, _ in layers.values()]
    figure, axes = plt.subplots(
        len(layers), figsize=(4.4, 0.75 * sum(tall) + 0.5), squeeze=False, layout="constrained",
        height_ratios=tall,
    )  # fmt: skip
    figure.suptitle("The kernels of a convolution")
    most = max(inputs for inputs, *_ in layers.values())
    panels = zip(axes[:, 0], layers.items(), strict=True)
    for ax, (title, (inputs, outputs, kernel, groups)) in panels:
        reads, writes = inputs // groups, outputs // groups  # of one group
        for channel in range(inputs):
            ax.text(channel, 0.8, f"in {channel + 1}", ha="center", va="center", fontsize=10)
        for output in range(outputs):
            first = output // writes * reads
            for channel in range(first, first + reads):
                _kernel(ax, channel, -output, kernel)
                if channel > first:
                    ax.text(channel - 0.5, -output, "+", ha="center", va="center", fontsize=12)
            start = (first + reads - 0.55, -output)
            ax.annotate("", (most + 0.05, -output), start, arrowprops={"arrowstyle": "->"})
            ax.text(most + 0.15, -output, f"out {output + 1}", va="center", fontsize=10)
        weights = f"{outputs} × {reads} × {kernel * kernel} = {outputs * reads * kernel**2} weights"
        ax.set_title(f"{title}\n{weights}")
        ax.set(xlim=(-0.6, most + 1.2), ylim=(0.4 - outputs, 1.1), aspect="equal")
        ax.axis("off")
    return figure


@styled
def residual_block(body: Sequence[str], shortcut: str, *, after: str = "ReLU") -> "Figure":
    """A residual block from top to bottom: its body, the way around it, the sum.

    body: the names of its layers, first to last. shortcut: what happens to x on the way around.
    after: what follows the sum. Used in notebook 04.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch

    figure, ax = plt.subplots(
        figsize=(4.6, 0.62 * (len(body) + 4) + 0.5), layout="constrained"
    )  # fmt: skip
    figure.suptitle("A residual block")
    last = -len(body)
    for number, name in enumerate(body, 1):
        _box(ax, 0, -number, name, BLUE)
        _arrow(ax, (0, 1 - number - (0.28 if number > 1 else 0.2)), (0, 0.28 - number))
    _arrow(ax, (0, last - 0.28), (0, last - 0.78))
    plus, end = last - 1, last - 2
    ax.plot(0, plus, "o", markersize=25, color="white", markeredgecolor=ORANGE, markeredgewidth=2)
    ax.text(0, plus, "+", ha="center", va="center_baseline", fontsize=17)
    _arrow(ax, (0, plus - 0.24), (0, end + 0.28))
    _box(ax, 0, end, after, BLUE)
    _arrow(ax, (0, end - 0.28), (0, end - 0.75))
    ax.text(0, 0, "x", ha="center", va="center", fontsize=13)
    ax.text(0, end - 0.95, f"{after}(body(x) + x)", ha="center", va="center", fontsize=11)
    ax.plot([0.2, 2.2, 2.2], [0, 0, plus], color=ORANGE)
    ax.add_patch(FancyArrowPatch((2.2, plus), (0.3, plus), arrowstyle="->", mutation_scale=16,
                                 color=ORANGE, linewidth=1.8, shrinkA=0, shrinkB=0))  # fmt: skip
    ax.text(2.3, plus / 2, f"shortcut:\n{shortcut}", va="center", fontsize=11)
    ax.text(-1.35, (last - 1) / 2, "body", ha="right", va="center", fontsize=11)
    ends = [-0.7, -0.7, last - 0.3, last - 0.3]
    ax.plot([-1.2, -1.28, -1.28, -1.2], ends, color=INK, linewidth=1)  # a bracket
    ax.set(xlim=(-2.1, 3.9), ylim=(end - 1.2, 0.3))
    # Not drawn: `course.describe` reads it for the alternative text.
    ax.set_xlabel(f"{', '.join(body)}, then plus x ({shortcut}), then {after}")
    ax.axis("off")
    return figure


@styled
def normalisation(
    stages: Mapping[str, Tensor], *, title: str = "Batch norm, step by step"
) -> "Figure":
    """Histograms of the same numbers after each step, above one another on the same axis.

    stages: {step in words: its numbers, of any shape}. Each panel says the numbers' mean and
    standard deviation and how many are above 0. A dashed line marks the mean, a thin one 0. Used in
    notebook 04.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(stages), figsize=(5.6, 1.75 * len(stages) + 0.7), squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    figure.suptitle(title)
    values = {step: numbers.detach().flatten().float().numpy() for step, numbers in stages.items()}
    ends = [np.quantile(numbers, (0.001, 0.999)) for numbers in values.values()]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    for ax, (step, numbers) in zip(axes[:, 0], values.items(), strict=True):
        ax.hist(numbers, np.linspace(low, high, 81), color=BLUE)
        ax.axvline(numbers.mean(), color=ORANGE, linestyle="--")
        ax.axvline(0, color=INK, linewidth=1)
        said = f"mean {numbers.mean():.2f}, standard deviation {numbers.std():.2f}, "
        said += f"{(numbers > 0).mean():.0%} above 0"
        ax.set_title(f"{step}\n{said.replace('-', '−')}", fontsize=10)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    axes[-1, 0].set_xlabel("value")
    return figure


@styled
def backward_graph(
    values: Mapping[str, Tensor],
    links: Sequence[Tensor | str],
    gradients: Mapping[str, Tensor] | None = None,
    link_gradients: Mapping[int, Tensor] | None = None,
) -> "Figure":
    """A tiny network as a graph, from top to bottom: its values, below them the loss's gradients.

    What `gradients` and `link_gradients` leave out is not drawn. A NaN is drawn as a question mark.
    Legible for layers of up to three numbers. Used in notebook 03.

    Args:
        values: {name of a layer: its numbers (n,)}, from the inputs to the loss.
        links: what leads from each layer to the next: weights (n, m), one arrow each, or the name
            of an operation.
        gradients: {name of a layer: the gradient of the loss with respect to them (n,)}.
        link_gradients: {number of a link, from 0: its gradient (n, m)}.
    """
    import matplotlib.pyplot as plt

    gradients, link_gradients = gradients or {}, link_gradients or {}
    frame = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": BLUE, "linewidth": 2}
    rows = list(values.items())
    figure, ax = plt.subplots(figsize=(5.4, 1.5 * len(rows)), layout="constrained")
    figure.suptitle("Values forward, gradients backward" if gradients else "Values, forward")
    said = []
    for row, (name, numbers) in enumerate(rows):
        slopes = gradients[name].tolist() if name in gradients else [None] * len(numbers)
        places = _places(len(numbers))
        for index, (x, number, slope) in enumerate(
            zip(places, numbers.tolist(), slopes, strict=True), 1
        ):
            node = name + (_subscript(index) if len(numbers) > 1 else "")
            lines = [f"{node} = {_two(number)}"] + ([_slope(slope)] if slope is not None else [])
            _two_lines(ax, x, -row, lines, frame)
            said.append(" ".join(lines))
        if row == len(links):
            continue
        link, below = links[row], _places(len(rows[row + 1][1]))
        if isinstance(link, str):
            pairs = [(i, j) for i in range(len(places)) for j in range(len(below))
                     if len(places) != len(below) or i == j]  # fmt: skip
            ax.text(2.6, -row - 0.38, link, ha="center", va="center", fontsize=11)
        else:
            pairs = [(i, j) for i in range(len(places)) for j in range(len(below))]
        for i, j in pairs:
            start, end = (places[i], -row - 0.19), (below[j], -row - 0.8)
            _arrow(ax, start, end)
            if isinstance(link, str):
                continue
            lines = [_two(link[i, j].item())]
            if row in link_gradients:
                lines.append(_slope(link_gradients[row][i, j].item()))
            along = 0.45 if start[0] == end[0] else 0.3
            x, y = (a + along * (b - a) for a, b in zip(start, end, strict=True))
            _two_lines(ax, x, y, lines, {"facecolor": "white", "edgecolor": "none", "pad": 1})
            ends = rows[row][0] + _subscript(i + 1), rows[row + 1][0] + _subscript(j + 1)
            said.append(f"{'→'.join(ends)} {' '.join(lines)}")
    if gradients:
        key = f"above: the value; below, after {PARTIAL}: the gradient of the loss"
        ax.text(2.6, -len(rows) + 0.62, key, ha="center", va="center", fontsize=9.5)
    ax.set(xlim=(0.2, 5.0), ylim=(-len(rows) + (0.5 if gradients else 0.65), 0.3))
    ax.set_xlabel(", ".join(said))  # not drawn: `course.describe` reads it
    ax.axis("off")
    return figure


# --- parts ----------------------------------------------------------------------------------------


def _numbers(ax: "Axes", lines: Sequence[Sequence[str]]) -> None:
    """A grid with a text in each cell, row 0 on top."""
    for row, line in enumerate(lines):
        for column, text in enumerate(line):
            if text:
                ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=10)
    rows, columns = len(lines), len(lines[0])
    ax.hlines(range(rows + 1), 0, columns, color="#999999", linewidth=0.8)
    ax.vlines(range(columns + 1), 0, rows, color="#999999", linewidth=0.8)
    ax.set(xlim=(-0.05, columns + 0.05), ylim=(rows + 0.05, -0.05), aspect="equal")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _frame(ax: "Axes", row: int, column: int, size: int) -> None:
    from matplotlib.patches import Rectangle

    corner = (column, row)
    ax.add_patch(Rectangle(corner, size, size, facecolor=PALE, zorder=0.5))  # below the grid
    ax.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=ORANGE, linewidth=2.5))


def _kernel(ax: "Axes", x: float, y: float, size: int) -> None:
    """A square of size × size weights around (x, y); a single weight is as large as one of nine."""
    from matplotlib.patches import Rectangle

    step = 0.22
    low = -size * step / 2
    for row in range(size):
        for column in range(size):
            corner = (x + low + column * step, y + low + row * step)
            ax.add_patch(Rectangle(corner, step, step, facecolor=BLUE, edgecolor="white"))


def _box(ax: "Axes", x: float, y: float, text: str, color: str) -> None:
    frame = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color, "linewidth": 2}
    ax.text(x, y, text, ha="center", va="center", fontsize=11, bbox=frame)


def _two_lines(ax: "Axes", x: float, y: float, lines: Sequence[str], frame: dict) -> None:
    """A value and, if there is one, its gradient below it, in a frame around both."""
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10}
    ax.text(x, y, "\n".join(lines), alpha=0, bbox=frame, **middle)  # as large as both
    for text, color, above in zip(lines, (INK, ORANGE), (0.075, -0.075), strict=False):
        ax.text(x, y + (above if len(lines) > 1 else 0), text, color=color, **middle)


def _places(count: int) -> list[float]:
    """The centres of so many columns that share a width of 5.2."""
    return [5.2 * (index + 0.5) / count for index in range(count)]


def _slope(value: float) -> str:
    return f"{PARTIAL} {'?' if math.isnan(value) else _two(value)}"


def _two(value: float) -> str:
    """A number with at most two decimals."""
    return _short(round(value, 2) + 0.0)


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _arrow(ax: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "color": INK, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def _short(value: float) -> str:
    """A number as short as it goes, with a real minus."""
    return f"{value:g}".replace("-", "−")
