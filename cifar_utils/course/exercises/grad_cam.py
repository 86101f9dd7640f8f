"""Exercises of notebook 08 · Grad-CAM."""

import torch

from cifar_utils.course.exercises.form import Case, Exercise
from cifar_utils.machine import generator


def _alpha():
    for w in (1.0, -0.5, 8.0):
        one_map = torch.zeros(4, 4, requires_grad=True)
        (w * one_map.mean()).backward()
        yield Case(f"w {w}", (w,), one_map.grad.mean().item())


def _small_maps():
    """One image with two maps of 1 × 3."""
    return torch.tensor([[[[1.0, 2.0, 0.0]], [[0.0, 1.0, 2.0]]]]), torch.tensor(
        [[[[3.0, 1.0, 2.0]], [[-2.0, 0.0, -1.0]]]]
    )


def _maps(number):
    draw = generator(number)
    maps, gradients = (torch.randn(4, 6, 5, 5, generator=draw) for _ in range(2))
    maps[0], gradients[0] = maps[0].abs() + 0.1, gradients[0].abs()  # some heat everywhere
    maps[3], gradients[3] = 1, -1  # no evidence for the class
    return maps.relu(), gradients


def _cases(number, heat_of):
    maps, gradients = _small_maps()
    what = f"one image, two maps {maps[0, :, 0].tolist()}"
    what += f" and their gradients {gradients[0, :, 0].tolist()}"
    yield Case(what, (maps, gradients), _largest_1(heat_of(maps, gradients)))
    maps, gradients = _maps(number)
    what = "four images of six random maps, nothing in the last one for the class"
    yield Case(what, (maps, gradients), _largest_1(heat_of(maps, gradients)))


def _heatmaps():
    return _cases(
        10,
        lambda maps, gradients: torch.stack(
            [
                sum(g.mean() * m for m, g in zip(*pair, strict=True))
                for pair in zip(maps, gradients, strict=True)
            ]
        ),
    )


def _hires():
    return _cases(11, lambda maps, gradients: (maps * gradients).sum(1))


def _largest_1(heat):
    heat = heat.clamp(min=0)
    return heat / heat.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]


def _grad_cam(maps, gradients):
    return (maps * gradients.mean((2, 3), keepdim=True)).sum(1)


def _hires_cam(maps, gradients):
    return (maps * gradients).sum(1)


def _scaled(heat_of, scale):
    """A slip: the right heat, in another scale."""
    return lambda maps, gradients: scale(heat_of(maps, gradients))


def _without_relu(heat):
    return heat / heat.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]


def _from_smallest(heat):
    heat = heat.clamp(min=0)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return (heat - low) / (high - low).clamp(min=1e-12)


def _from_smallest_without_relu(heat):
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return (heat - low) / (high - low).clamp(min=1e-12)


def _over_batch(heat):
    return heat.clamp(min=0) / heat.amax()


def _divided_by_zero(heat):
    return heat.clamp(min=0) / heat.clamp(min=0).amax((1, 2), keepdim=True)


def _by_size(heat):
    return heat.abs() / heat.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)


_SCALES = (
    (lambda heat: heat.clamp(min=0), "Each heatmap has to be divided by its own largest value."),
    (lambda heat: heat, "What speaks against the class has to become 0; then comes the scale."),
    (_without_relu, "Negative heat speaks against the class: it has to become 0 (ReLU)."),
    (_by_size, "Negative heat speaks against the class: it has to become 0, not positive."),
    (_from_smallest, "You subtract the smallest value. Here only the largest counts."),
    (_from_smallest_without_relu, "You subtract the smallest value. Here ReLU comes first."),
    (_over_batch, "You divide by the largest value of all images. Each has its own."),
    (_divided_by_zero, "The heatmap without any heat is divided by zero. It has to be all zeros."),
)


def _pointing():
    heatmaps = torch.rand(7, 6, 9, generator=generator(16)) / 2  # not square, some heat everywhere
    places = (
        (2, 3, 2, 3, 4, 5),  # in the box's first corner
        (4, 6, 0, 0, 4, 7),  # below
        (5, 8, 3, 4, 6, 9),  # in the last corner
        (3, 5, 0, 1, 6, 5),  # right of it
        (1, 4, 2, 3, 6, 8),  # above
        (3, 2, 2, 3, 6, 8),  # left of it
        (5, 8, 1, 1, 3, 4),  # far from it
    )
    for heat, (row, column, *_) in zip(heatmaps, places, strict=True):
        heat[row, column] = 1
    boxes = torch.tensor([box for _, _, *box in places])
    for number, (row, column, *box) in enumerate(places):
        what = f"one heatmap (6, 9), largest at row {row}, column {column}, its box {tuple(box)}"
        top, left, bottom, right = box
        due = float(row in range(top, bottom) and column in range(left, right))
        one = slice(number, number + 1)
        yield Case(what, (heatmaps[one], boxes[one]), due)
    yield Case("those seven heatmaps together", (heatmaps, boxes), 2 / 7)
    nothing = torch.zeros(1, 6, 9)
    yield Case("an empty heatmap, its box (0, 0, 4, 7)", (nothing, boxes[1:2]), 0.0)
    heats = torch.cat([heatmaps[:1], nothing])
    yield Case("two heatmaps, a hit and an empty one", (heats, boxes[:2]), 0.5)


def _pointed(
    inside=lambda place, low, high: (low <= place) & (place < high),
    order=(0, 1, 2, 3),
    width=lambda heatmaps: heatmaps.shape[2],
    counts=lambda heatmaps: heatmaps.amax((1, 2)) > 0,
    share=lambda hit, heatmaps: hit.double().mean().item(),
):
    """A slip: other edges, another order of the box, another width, another share."""

    def answer(heatmaps, boxes):
        places = heatmaps.flatten(1).argmax(1)
        rows, columns = places // width(heatmaps), places % width(heatmaps)
        top, left, bottom, right = boxes.T[list(order)]
        hit = inside(rows, top, bottom) & inside(columns, left, right)
        return share(hit & counts(heatmaps), heatmaps)

    return answer


EXERCISES = {
    "08a": Exercise(
        _alpha,
        slips=(
            (lambda w: w, "One number of the map moves the mean by less than itself: by how much?"),
            (lambda w: 16 * w, "The other way: the mean spreads over sixteen places."),
            (lambda w: w / 4, "The map has 4 × 4 places, not 4."),
            (lambda w: abs(w) / 16, "A negative weight has a negative α."),
            (lambda w: 1 / 16, "You do not use `w`."),
        ),
        hints=(
            "Raise one of the sixteen numbers by 1. By how much does their mean rise?",
            "And the score, which is w times the mean? That is the gradient at this place.",
            "The gradient is the same at all places, so the mean of the gradients is just that.",
        ),
    ),
    "08b": Exercise(
        _heatmaps,
        slips=(
            (
                _scaled(_hires_cam, _largest_1),
                "You weight every number by its own gradient. In Grad-CAM a map has one weight, "
                "the mean of its gradient.",
            ),
            *((_scaled(_grad_cam, scale), sentence) for scale, sentence in _SCALES),
            (
                lambda maps, gradients: _largest_1(
                    (maps * gradients.mean((2, 3), keepdim=True).relu()).sum(1)
                ),
                "Your ReLU comes too early: first sum the weighted maps.",
            ),
            (
                lambda maps, gradients: _largest_1(maps.sum(1)),
                "You do not use the gradients: all maps count the same.",
            ),
        ),
        hints=(
            "One weight per map: the mean of its gradient over height and width.",
            "`keepdim=True` keeps the weights in a shape that multiplies the maps. Sum over the "
            "maps, then `relu`.",
            "`amax((1, 2), keepdim=True)` is each heatmap's largest value. With "
            "`.clamp(min=1e-12)` it can be divided by, even if it is 0.",
        ),
    ),
    "08c": Exercise(
        _hires,
        slips=(
            (
                _scaled(_grad_cam, _largest_1),
                "That is Grad-CAM: the gradients must not be averaged first.",
            ),
            (
                lambda maps, gradients: _largest_1((maps * gradients.relu()).sum(1)),
                "That is LayerCAM. HiResCAM keeps negative gradients until the maps are summed.",
            ),
            *((_scaled(_hires_cam, scale), sentence) for scale, sentence in _SCALES),
        ),
        hints=(
            "Your answer to b is almost it. Which step has to go?",
            "Maps and gradients have the same shape: they can be multiplied as they are.",
            "Multiply, sum over the maps (dimension 1), `relu`, and scale as in b.",
        ),
    ),
    "08d": Exercise(
        _pointing,
        slips=(
            (
                _pointed(inside=lambda place, low, high: (low <= place) & (place <= high)),
                "`bottom` and `right` are the first row and column outside the box.",
            ),
            (
                _pointed(inside=lambda place, low, high: (low < place) & (place < high)),
                "`top` and `left` belong to the box.",
            ),
            (
                _pointed(inside=lambda place, low, high: place < high),
                "A place above the box, or left of it, is a miss, too.",
            ),
            (
                _pointed(inside=lambda place, low, high: low <= place),
                "A place below the box, or right of it, is a miss, too.",
            ),
            (
                _pointed(counts=lambda heatmaps: heatmaps.amax((1, 2)) >= 0),
                "An empty heatmap has no largest value: it misses. `argmax` gives place 0 for it.",
            ),
            (
                _pointed(
                    share=lambda hit, heatmaps: (
                        hit.sum().item() / max(1, int((heatmaps.amax((1, 2)) > 0).sum()))
                    )
                ),
                "You leave the empty heatmap out. It counts, as a miss.",
            ),
            (
                _pointed(width=lambda heatmaps: heatmaps.shape[1]),
                "A place in the flattened map is row · width + column. You divide by the height.",
            ),
            (
                _pointed(order=(1, 0, 3, 2)),
                "A box is (top, left, bottom, right): rows first.",
            ),
            (
                _pointed(share=lambda hit, heatmaps: hit.sum().item()),
                "That is the number of hits. Their share is asked for.",
            ),
            (lambda heatmaps, boxes: 1.0, "You count every heatmap as a hit."),
        ),
        hints=(
            "`heatmaps.flatten(1).argmax(1)` is the place of the largest value in the map, counted "
            "along the rows.",
            "Divided by the width, whole part and rest: `//` gives the row, `%` the column.",
            "`top, left, bottom, right = boxes.T`. Four comparisons, joined with `&`, and a fifth: "
            "the largest value is more than 0. Then the mean.",
        ),
    ),
}
