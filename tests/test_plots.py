"""Figures hold what they were given; what they look like was looked at."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cifar_utils import evaluate, plots
from cifar_utils.data import CLASSES
from cifar_utils.gifs import overlay
from cifar_utils.history import Epoch, History
from cifar_utils.lr_range import LearningRateRange
from cifar_utils.recipes import Recipe


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


@pytest.fixture
def judged(random_split):
    """Twenty images with logits that get half of them right, more surely the later they come."""
    split = random_split(20)
    predictions = torch.where(torch.arange(20) < 10, split.labels, (split.labels + 1) % 10)
    logits = torch.nn.functional.one_hot(predictions, 10) * torch.arange(20)[:, None] / 4.0
    return split, logits


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def pictures(ax):
    return [np.asarray(image.get_array()) for image in ax.get_images()]


HISTORY = History(
    Recipe("mine"), "synthetic",
    tuple(Epoch(n, 0.1, 2 - n / 4, n / 10, 2.1 - n / 4, n / 11, 1.0, 5.0) for n in range(4)),
)  # fmt: skip


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_history_draws_both_curves_and_names_the_source(metric):
    ax = plots.plot_history(HISTORY, metric=metric)
    curves = {line.get_label().split()[0]: line.get_ydata().tolist() for line in ax.get_lines()}
    for part, name in (("train", "training"), ("val", "validation")):
        assert curves[name] == [getattr(row, f"{part}_{metric}") for row in HISTORY.epochs]
    assert "mine" in ax.get_title() and "not CIFAR-10" in ax.get_title()
    with pytest.raises(ValueError, match="choose accuracy or loss"):
        plots.plot_history(HISTORY, metric="error")


def test_compared_histories_know_the_same_metrics():
    with pytest.raises(ValueError, match="'acc'; choose accuracy or loss"):
        plots.compare_histories({"mine": HISTORY}, metric="acc")


def test_an_unaugmented_training_is_not_called_augmented():
    for policy, name in (
        ("crop-flip", "training (augmented)"),
        ("a policy of another's", "training (augmented)"),
        ("none", "training"),
        ("vgg-published", "training"),
    ):
        history = History(Recipe("mine", augmentation=policy), "synthetic", HISTORY.epochs)
        labels = [line.get_label() for line in plots.plot_history(history).get_lines()]
        assert name in labels


def test_compared_histories_share_an_axis_whatever_their_length():
    longer = HISTORY.with_epoch(Epoch(4, 0.1, 1.0, 0.4, None, None, 1.0, 5.0))
    longer = longer.with_test({"top1": 0.7, "loss": 0.9})
    histories = {"short": HISTORY, "without validation": longer}
    ax = plots.compare_histories(histories, metric="loss")
    curves = [(line.get_linestyle(), line.get_ydata().tolist()) for line in ax.get_lines()]
    rows = HISTORY.epochs
    assert curves == [
        ("-", [row.val_loss for row in rows]),
        ("--", [row.train_loss for row in rows]),
        ("--", [row.train_loss for row in longer.epochs]),
        ("None", [0.9]),
    ]
    shares = ax.get_lines()[0].get_xdata()
    assert np.allclose(shares, np.arange(4) / HISTORY.recipe.epochs)
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(histories)
    assert legend.get_title().get_text() == "solid: validation, dashed: training, ★: test"
    lines = plots.compare_histories({"tested": longer, "again": longer}).get_lines()
    stars = [line for line in lines if line.get_marker() == "*"]
    assert [star.get_ydata() for star in stars] == [[0.7], [0.7]]
    end = longer.epochs[-1].epoch / longer.recipe.epochs
    assert end < stars[0].get_xdata()[0] < stars[1].get_xdata()[0]  # side by side, none hidden


def test_pixels_are_written_into_their_places():
    values = torch.tensor([[0, 200], [90, 255]], dtype=torch.uint8)
    ax = plots.show_pixels(values)
    written = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert written == {(0, 0): 0, (1, 0): 200, (0, 1): 90, (1, 1): 255}


def test_stages_are_boxes_as_high_as_their_maps():
    ax = plots.plot_stages([(3, 32, 32), (64, 16, 16), (128, 8, 8)])
    boxes = [(box.get_height(), box.get_width()) for box in ax.patches]
    assert [height for height, _ in boxes] == [32, 16, 8]
    assert boxes[0][1] < boxes[1][1] < boxes[2][1]  # the more channels, the wider
    words = " ".join(text.get_text() for text in ax.texts)
    assert "64 × 16 × 16" in words and "stage 2" in words


def test_confusion_matrix_writes_every_count():
    matrix = np.arange(9).reshape(3, 3)
    ax = plots.plot_confusion_matrix(matrix, classes=("a", "b", "c"))
    assert [text.get_text() for text in ax.texts] == [str(count) for count in range(9)]
    shares = pictures(ax)[0]
    assert np.allclose(shares.sum(1), 1) and shares[2, 0] == 6 / 21
    assert ax.get_ylabel() == "true class" and ax.get_xlabel() == "predicted class"


def test_galleries_show_the_ranked_images_and_say_what_was_said(judged):
    split, logits = judged
    mistakes = evaluate.most_confident_mistakes(logits, split.labels, count=3)
    figure = plots.show_mistakes(split.images, mistakes, title="worst")
    assert titles(figure)[0].startswith("✗ truck → airplane\n0.9")
    shown = [pictures(ax)[0] for ax in figure.axes]
    for picture, index in zip(shown, mistakes.indices, strict=True):
        assert np.array_equal(picture, split.images[index].permute(1, 2, 0))
    hits = evaluate.most_confident_hits(logits, split.labels, count=2)
    assert titles(plots.show_hits(split.images, hits))[0].startswith("✓ truck\n")


def brightness_of(heat):
    """How bright the values 0 and 1 look, as RGB sums: much heat is to be bright in every map."""
    return heat.to_rgba(np.array([0.0, 1.0]))[:, :3].sum(1).tolist()


@pytest.mark.parametrize(
    ("show", "rank"),
    [
        (plots.show_mistakes, evaluate.most_confident_mistakes),
        (plots.show_hits, evaluate.most_confident_hits),
    ],
)
def test_galleries_with_heatmaps_lay_each_over_its_own_image(show, rank, judged):
    split, logits = judged
    ranked = rank(logits, split.labels, count=3)
    heatmaps = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) / 2
    figure = show(split.images, ranked, heatmaps)
    *panels, key = figure.axes
    assert len(panels) == 3 and [text.get_text() for text in key.texts] == ["little", "much"]
    for place, ax in enumerate(panels):
        assert not ax.texts  # no map is empty
        plain, beside, heat = pictures(ax)
        assert np.array_equal(plain, split.images[ranked.indices[place]].permute(1, 2, 0))
        assert np.array_equal(plain, beside) and np.array_equal(heat, heatmaps[place])
        below, above = ax.get_images()[1:]
        assert below.get_extent() == above.get_extent() and above.get_clim() == (0, 1)
        dark, bright = brightness_of(above)
        assert dark < bright


def test_an_empty_map_says_what_nothing_speaks_for(judged):
    split, logits = judged
    heatmaps = torch.zeros(3, 32, 32)
    heatmaps[1, 5, 5] = 0.1
    for show, rank in (
        (plots.show_mistakes, evaluate.most_confident_mistakes),
        (plots.show_hits, evaluate.most_confident_hits),
    ):
        ranked = rank(logits, split.labels, count=3)
        *panels, _ = show(split.images, ranked, heatmaps).axes
        said = [CLASSES[label] for label in ranked.predictions]
        for place, ax in enumerate(panels):
            wanted = [f"nothing speaks\nfor {said[place]}"] if place != 1 else []
            assert [text.get_text() for text in ax.texts] == wanted
            assert all(30 < text.get_position()[0] < 65 for text in ax.texts), "on the overlay"
    shares = {"cat": 0.3, "dog": 0.7}
    figure = plots.show_explanation(split.images[0], heatmaps[0], shares, heading="XGrad-CAM")
    (text,) = figure.axes[1].texts
    assert text.get_text() == "nothing speaks\nfor dog" and text.get_color() == "white"
    assert figure.axes[1].get_title() == "XGrad-CAM"


def test_an_explanation_lays_its_heatmap_over_the_second_copy_of_the_image(random_split):
    image = random_split(1).images[0]
    heatmap = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) / 2
    figure = plots.show_explanation(image, heatmap, {"cat": 0.7, "dog": 0.3})
    first, second, bars = figure.axes
    (key,) = second.child_axes
    assert [text.get_text() for text in key.texts] == ["little", "much"] and not second.texts
    (plain,), (beside, heat) = pictures(first), pictures(second)
    for picture in (plain, beside):
        assert np.array_equal(picture, image.permute(1, 2, 0))
    assert np.array_equal(heat, heatmap) and [bar.get_width() for bar in bars.patches] == [0.7, 0.3]
    below, above = second.get_images()
    assert below.get_extent() == above.get_extent() and above.get_clim() == (0, 1)
    dark, bright = brightness_of(above)
    assert dark < bright


def test_a_grid_marks_right_and_wrong_by_sign_and_by_colour(judged):
    split, logits = judged
    figure = plots.show_predictions(split.images, split.labels, logits)
    panels = [ax for ax in figure.axes if ax.get_title()]
    signs = [ax.get_title()[0] for ax in panels]
    colors = [ax.title.get_color() for ax in panels]
    wrong = (logits.argmax(1) != split.labels).tolist()
    assert signs == ["✗" if bad else "✓" for bad in wrong]
    assert colors == [plots.WRONG if bad else plots.RIGHT for bad in wrong]


def test_galleries_of_one_and_of_none(judged):
    split, logits = judged
    for count in (0, 1):
        mistakes = evaluate.most_confident_mistakes(logits, split.labels, count=count)
        assert isinstance(plots.show_mistakes(split.images, mistakes), Figure)
        assert isinstance(plots.show_images(split.images[:count]), Figure)


def test_titles_of_images_may_be_an_array(random_split):
    split = random_split(3)
    assert titles(plots.show_images(split.images, titles=np.array(split.names))) == split.names


def test_rows_show_each_rows_images_beside_its_name(random_split):
    images = random_split(5).images
    rows = {"flip": images[:3], "crop": images[3:]}
    figure = plots.show_rows(rows, columns=("one", "two", "three"))
    first, second = (pictures(ax)[0] for ax in figure.axes)
    size = images.shape[-1]
    for place, image in enumerate(images):
        row, column = (first, place) if place < 3 else (second, place - 3)
        start = column * (size + 3)  # a gap of three pixels
        assert np.array_equal(row[:, start : start + size], image.permute(1, 2, 0))
    assert first.shape == second.shape and (second[:, 2 * (size + 3) :] == 255).all()
    above, below = ([text.get_text() for text in ax.texts] for ax in figure.axes)
    assert (above, below) == (["flip", "one", "two", "three"], ["crop"])


def test_rows_lay_heatmaps_over_their_images_and_mark_the_empty_ones(random_split):
    images = random_split(3).images
    maps = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps[1] = 0
    figure = plots.show_rows(
        {"image": images, "what it $saw$": images, "later": images[:2]},
        heatmaps={"what it $saw$": maps, "later": [None, maps[1]]},
    )
    plain, saw, later = (pictures(ax)[0] for ax in figure.axes)
    assert plain.shape == saw.shape == later.shape
    laid = overlay(images, maps)
    for place in range(3):
        columns = slice(place * (256 + 16), place * (256 + 16) + 256)
        assert np.array_equal(plain[::8, columns][:, ::8], images[place].permute(1, 2, 0))
        assert np.array_equal(saw[:, columns], laid[place].permute(1, 2, 0))
    assert np.array_equal(later[:, :256], plain[:, :256])
    for ax, wanted in zip(figure.axes, ([], [0.5], [0.5]), strict=True):
        marks = [text for text in ax.texts if text.get_text() == "empty"]
        assert [mark.get_position()[0] for mark in marks] == wanted  # in the middle of three


def test_filters_are_scaled_each_by_itself_around_grey():
    filters = torch.zeros(3, 3, 2, 2)
    filters[0, 0, 0, 0], filters[0, 2, 1, 1] = 2, -1
    filters[1, :, 0] = -0.01
    figure = plots.show_filters({"mine": filters, "other": filters[:1]})
    strip = pictures(figure.axes[0])[0]
    step = 96 + 6
    first, second, third = (strip[24:96:48, place * step + 24 : place * step + 96 : 48]
                            for place in range(3))  # the middles of the squares  # fmt: skip
    assert first[0, 0].tolist() == [255, 128, 128] and first[1, 1].tolist() == [128, 128, 64]
    assert (second[0] == 0).all() and (second[1] == 128).all()  # the least weight, too, is scaled
    assert (third == 128).all()
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["mine", "other"]


def test_maps_of_any_size_are_stretched_from_black_to_white_beside_their_image(random_split):
    image = random_split(1).images
    maps = torch.tensor([[[-1.0, 1], [0, 3]], [[5.0, 5], [5, 5]]])
    figure = plots.show_maps({"image": image, "stage 0": maps}, columns=["first", "second"])
    above, below = (pictures(ax)[0] for ax in figure.axes)
    assert above.shape == below.shape  # one scale
    assert np.array_equal(above[1:96:3, 1:96:3], image[0].permute(1, 2, 0))
    assert below[24:96:48, 24:96:48, 0].tolist() == [[0, 128], [64, 255]]
    assert not below[:, 102:].any(), "a flat map is black"


def test_patches_of_any_size_are_drawn_equally_high(random_split):
    images = random_split(4).images
    rows = {
        "small": images[:, :, :6, :6],
        "large": images[:, :, :24, :24],
        "wide": images[..., :16],
    }
    small, large, wide = (pictures(ax)[0] for ax in plots.show_patches(rows).axes)
    assert len(small) == len(large) == len(wide) == 96
    assert np.array_equal(small[8:96:16, 8:96:16], images[0, :, :6, :6].permute(1, 2, 0))
    assert np.array_equal(large[2:96:4, 2:96:4], images[0, :, :24, :24].permute(1, 2, 0))


def test_a_montage_is_exact_to_the_pixel(tmp_path, random_split):
    images = random_split(10).images
    plots.save_montage(tmp_path / "m.png", images, columns=4)
    with Image.open(tmp_path / "m.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (96, 128, 3)
    for place, image in enumerate(images):
        row, column = divmod(place, 4)
        tile = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.array_equal(tile, image.permute(1, 2, 0))


ODD = {
    "image.origin": "lower", "text.usetex": True, "font.family": "No Such Font", "font.size": 20,
    "axes.formatter.use_mathtext": True, "axes.grid": True, "figure.autolayout": True,
    "savefig.bbox": "tight", "savefig.dpi": 33, "image.interpolation": "bicubic",
}  # fmt: skip


def test_no_byte_depends_on_a_reader_s_own_settings(tmp_path, random_split):
    def drawn(name):
        figure = plots.show_explanation(random_split(1).images[0], torch.zeros(32, 32), {"a": 1.0})
        plots.save(figure, tmp_path / name)
        plots.save(plots.show_history(HISTORY), tmp_path / f"history-{name}")
        return (tmp_path / name).read_bytes() + (tmp_path / f"history-{name}").read_bytes()

    plain = drawn("plain.png")
    with matplotlib.style.context(["dark_background", ODD]):
        assert drawn("odd.png") == plain
        figure = plots.show_history(HISTORY)
        figure.savefig(tmp_path / "later.png")  # in those settings, but without TeX


def test_nothing_in_a_name_is_markup(recwarn, capsys, tmp_path):
    names = ("$x^2$", "a$b$", "_x", "a\nb", "\x1b[2J", "\udce9", "\u1abe", "⟁")
    shown = ["$x^2$", "a$b$", "_x", r"a\nb", r"\x1b[2J", r"\udce9", r"\u1abe", "⟁"]
    with matplotlib.rc_context({"text.usetex": True}):
        _, own = plt.subplots()  # whose texts are TeX so far
    for ax in (None, own):
        ax = plots.plot_confusion_matrix(np.eye(8), classes=names, title="$a$\nb", ax=ax)
        labels = [tick.label1 for tick in ax.yaxis.get_major_ticks()]
        assert [label.get_text() for label in labels] == shown and ax.get_title() == "$a$\nb"
        for text in (ax.title, *labels):
            assert not text.get_usetex()
            assert text.get_parse_math() == ("$" not in text.get_text())
        assert labels[-1].get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]  # the first lacks it
    plots.save(plots.plot_confusion_matrix(np.eye(8), classes=names), tmp_path / "drawn.png")
    plots.compare_histories(dict.fromkeys(names, HISTORY))
    assert not recwarn.list and capsys.readouterr().err.count("no font here has") <= 1
    legend = plots.compare_histories({"_x": HISTORY, "y": HISTORY}).get_legend()
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_x", "y"]


def test_panels_draw_into_the_axes_they_are_given(judged, random_split):
    split, logits = judged
    probabilities = {"cat": 0.7, "dog": 0.3}
    panels = [
        lambda ax: plots.plot_history(HISTORY, ax=ax),
        lambda ax: plots.plot_confusion_matrix(np.eye(10), ax=ax),
        lambda ax: plots.plot_per_class({"cat": 0.5, "dog": None}, ax=ax),
        lambda ax: plots.plot_probabilities(probabilities, ax=ax),
        lambda ax: plots.plot_lr_range(LearningRateRange((0.1, 1.0), (2.0, 1.0), 0.1), ax=ax),
        lambda ax: plots.plot_calibration(evaluate.calibration(logits, split.labels), ax=ax),
        lambda ax: plots.plot_cost({"net": (1e6, 0.5, 0.6)}, ax=ax),
        lambda ax: plots.show_image(random_split(1).images[0], ax=ax),
    ]
    for draw in panels:
        _, ax = plt.subplots()
        assert draw(ax) is ax and isinstance(draw(None), Axes)


def test_calibration_has_confidence_across_and_accuracy_upwards():
    bins = (0.25, np.array([0.2, 0.5, 0.9]), np.array([0.4, 0.1, 0.6]), np.array([3, 1, 7]))
    ax = plots.plot_calibration(bins)
    (points,) = ax.collections
    assert points.get_offsets().tolist() == [[0.2, 0.4], [0.5, 0.1], [0.9, 0.6]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence", "accuracy")
    few, fewest, most = points.get_sizes()
    assert fewest < few < most and "error 0.250" in ax.get_title()
    assert ax.get_lines()[0].get_xydata().tolist() == [[0, 0], [1, 1]]


def test_the_suggested_rate_is_marked_where_it_lies_among_the_rates():
    result = LearningRateRange((1e-3, 1e-2, 0.1, 1.0), (2.3, 2.2, 1.5, 1.4), 0.1)
    ax = plots.plot_lr_range(result)
    curve, mark = ax.get_lines()
    assert curve.get_xydata().tolist() == [[1e-3, 2.3], [1e-2, 2.2], [0.1, 1.5], [1.0, 1.4]]
    assert list(mark.get_xdata()) == [0.1, 0.1]
    assert list(mark.get_ydata()) == [0, 1]  # shares of the panel's height
    assert (ax.get_xscale(), mark.get_label()) == ("log", "steepest at 0.1")


def test_the_likeliest_class_stands_out_and_missing_ones_are_named():
    bars = plots.plot_probabilities({"cat": 0.2, "dog": 0.7, "fox": 0.1}).patches
    assert bars[1].get_facecolor() != bars[0].get_facecolor() == bars[2].get_facecolor()
    texts = [text.get_text() for text in plots.plot_per_class({"cat": 0.5, "dog": None}).texts]
    assert texts == ["50.0%", "no images"]


def test_save_writes_a_png_and_closes_the_figure(tmp_path):
    plots.save(plots.show_history(HISTORY), tmp_path / "new" / "curves.png")
    plots.save(plots.plot_history(HISTORY), tmp_path / "panel.png")
    assert not plt.get_fignums()
    for name in ("new/curves.png", "panel.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG" and picture.width > 500


def test_the_style_reaches_the_file_and_leaves_the_readers_settings_alone(tmp_path):
    with plt.style.context("dark_background"):
        before = dict(matplotlib.rcParams)
        ax = plots.plot_history(HISTORY)
        plots.save(ax, tmp_path / "panel.png")
        assert dict(matplotlib.rcParams) == before
    assert ax.title.get_fontweight() == "bold"
    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_a_class_has_one_colour_in_every_figure():
    classes = dict.fromkeys(CLASSES, 0.1) | {"deer": 0.9}
    bars = plots.plot_per_class(classes).patches
    assert len({bar.get_facecolor() for bar in bars}) == 10
    likeliest = plots.plot_probabilities(classes).patches[CLASSES.index("deer")]
    assert likeliest.get_facecolor() == bars[CLASSES.index("deer")].get_facecolor()


def test_cost_points_from_the_published_to_our_figure():
    ax = plots.plot_cost({"small": (2e7, 0.85, 0.9), "large": (5e8, 0.93, 0.95)})
    published, ours = ax.get_lines()
    assert published.get_xydata().tolist() == [[2e7, 0.85], [5e8, 0.93]]
    assert ours.get_xydata().tolist() == [[2e7, 0.9], [5e8, 0.95]]
    texts = [text.get_text() for text in ax.texts if text.get_text()]
    assert texts == ["90.0%", "small", "95.0%", "large"] and ax.get_xscale() == "log"
