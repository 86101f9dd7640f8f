"""The course's drawings say the right numbers, stay legible on a phone and leave settings alone."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.text import Text
from torch import nn
from torch.nn import functional as F

from cifar_utils.course import describe, drawings
from cifar_utils.plots import ORANGE

PICTURE = torch.arange(20.0).view(4, 5)
KERNEL = torch.tensor([[1.0, 0, -2], [0, 1, 0], [0.5, 0, 0]])
LAYERS = {"full": (3, 2, 3, 1), "1 × 1": (3, 2, 1, 1), "depthwise": (3, 3, 3, 3)}
BODY = ("convolution", "batch norm", "ReLU")
STEPS = {"before": torch.linspace(-9, 3, 100).view(4, 25), "after": torch.linspace(-1, 1, 100)}
X, SUMS = torch.tensor([1.0, 2.0]), torch.tensor([2.5, -0.5])
FIRST, LAST = torch.tensor([[0.5, -1.0], [1.0, 0.25]]), torch.tensor([[3.0], [-0.125]])
GRAPH = {"x": X, "a": SUMS, "h": SUMS.relu(), "loss": torch.tensor([7.5])}
SLOPES = {"a": torch.tensor([3.0, 0.0]), "h": LAST[:, 0], "loss": torch.ones(1)}
OF_FIRST = torch.tensor([[3.0, 0.0], [torch.nan, 0.0]])
FIGURES = {
    "backward_graph": lambda: drawings.backward_graph(
        GRAPH, [FIRST, "ReLU", LAST], SLOPES, {0: OF_FIRST, 2: torch.tensor([[2.5], [0.0]])}
    ),
    "sliding_kernel": lambda: drawings.sliding_kernel(PICTURE, KERNEL, ((0, 0), (1, 2))),
    "channel_mixing": lambda: drawings.channel_mixing(LAYERS),
    "residual_block": lambda: drawings.residual_block(BODY, "x as it is"),
    "normalisation": lambda: drawings.normalisation(STEPS),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def words(artist):
    found = (text.get_text() for text in artist.findobj(Text) if text.get_visible())
    return [text for text in found if text]


@pytest.mark.parametrize("name", FIGURES)
def test_a_drawing_is_legible_and_nothing_in_it_is_cut_off(name):
    figure = FIGURES[name]()
    assert figure.get_size_inches()[0] <= 6 and figure.get_suptitle()
    figure.canvas.draw()
    whole = figure.bbox.padded(1)
    assert all(text.get_fontsize() >= 9 for text in figure.findobj(Text))
    shown = [text for ax in figure.axes for text in (*ax.texts, ax.title)]
    shown += [ax.xaxis.label for ax in figure.axes if ax.axison]
    for text in shown:
        if text.get_text():
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= box.y0 and box.y1 <= whole.y1, text.get_text()


@pytest.mark.parametrize("name", FIGURES)
def test_a_drawing_leaves_the_readers_settings_alone(name):
    with plt.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        before = dict(plt.rcParams)
        figure = FIGURES[name]()
        assert dict(plt.rcParams) == before
        assert max(text.get_fontsize() for text in figure.findobj(Text)) < 30


def test_the_sliding_kernel_shows_torchs_output_as_far_as_it_has_come():
    figure = FIGURES["sliding_kernel"]()
    due = F.conv2d(PICTURE[None, None], KERNEL[None, None])[0, 0]
    due = [f"{value:g}".replace("-", "−") for value in due.flatten().tolist()]
    rows = [figure.axes[:3], figure.axes[3:]]
    for (left, middle, right), done in zip(rows, (1, 6), strict=True):
        assert words(right) == [*due[:done], "output"]
        assert middle.get_xlabel() == f"sum: {due[done - 1]}"
        assert len(left.texts) == 20 and len(middle.texts) == 9
    products = [text.get_text() for text in figure.axes[1].texts]
    assert products[:3] == ["0·1", "1·0", "2·−2"] and products[6] == "10·0.5"


def test_the_channel_mixing_shows_every_weight():
    panels = FIGURES["channel_mixing"]().axes
    for ax, (title, (inputs, outputs, kernel, groups)) in zip(panels, LAYERS.items(), strict=True):
        layer = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)
        assert len(ax.patches) == layer.weight.numel()
        first, second = ax.get_title().split("\n")
        assert first == title and second.endswith(f" = {layer.weight.numel()} weights")
        assert words(ax).count("+") == outputs * (inputs // groups - 1)


def test_the_residual_block_has_its_layers_in_order_and_a_way_around():
    (ax,) = FIGURES["residual_block"]().axes
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    order = ["x", "convolution", "batch norm", "+"]
    assert sorted(order, key=heights.get, reverse=True) == order
    said = "A residual block; convolution, batch norm, ReLU, then plus x (x as it is), then ReLU"
    assert describe(ax.figure).startswith(said)
    assert "shortcut:\nx as it is" in heights and "ReLU(body(x) + x)" in heights
    assert any(line.get_color() == ORANGE and len(line.get_xdata()) == 3 for line in ax.lines)


def test_the_normalisation_says_mean_and_deviation_on_one_axis():
    before, after = FIGURES["normalisation"]().axes
    said = before.get_title()
    assert said == "before\nmean −3.00, standard deviation 3.50, 25% above 0"
    assert "mean 0.00" in after.get_title().replace("−0.00", "0.00")
    assert before.get_xlim() == after.get_xlim()
    for ax, numbers in zip((before, after), STEPS.values(), strict=True):
        assert sum(patch.get_height() for patch in ax.patches) >= 0.97 * numbers.numel()


def test_the_backward_graph_shows_every_value_and_gradient():
    (ax,) = FIGURES["backward_graph"]().axes
    shown = [text.get_text() for text in ax.texts if text.get_alpha() != 0]
    for text in ("x₁ = 1", "a₂ = −0.5", "h₂ = 0", "loss = 7.5", "ReLU", "0.25", "−0.12"):
        assert text in shown
    assert shown.count("∂ 3") == 3  # at a₁, at h₁, and at the weight from x₁ to a₁
    assert shown.count("∂ ?") == 1 and "∂ 1" in shown and "∂ −0.12" in shown
    assert describe(ax.figure).startswith("Values forward, gradients backward; x₁ = 1, x₂ = 2, ")
    assert "x₁→a₁ 0.5 ∂ 3" in describe(ax.figure) and "x₂→a₁ 1 ∂ ?" in describe(ax.figure)


def test_the_backward_graph_may_go_forward_only():
    (ax,) = drawings.backward_graph(GRAPH, [FIRST, "ReLU", LAST]).axes
    assert not any("∂" in text.get_text() for text in ax.texts)
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == FIRST.numel() + 2 + LAST.numel()  # ReLU: one for each number
