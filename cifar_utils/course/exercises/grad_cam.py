"""Exercises of notebook 06 · Grad-CAM."""

import torch

from cifar_utils.machine import generator


def _alpha(answer):
    for w in (1.0, -0.5):
        one_map = torch.zeros(4, 4, requires_grad=True)
        (w * one_map.mean()).backward()
        yield f"α for a weight of {w}", float(answer(w)), one_map.grad.mean().item()


def _maps(number):
    draw = generator(number)
    maps, gradients = (torch.randn(4, 6, 5, 5, generator=draw) for _ in range(2))
    maps[3], gradients[3] = 1, -1  # no evidence for the class
    return maps.relu(), gradients


def _largest_1(heat):
    heat = heat.clamp(min=0)
    return heat / heat.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]


def _heatmap(answer):
    maps, gradients = _maps(10)
    heat = torch.stack(
        [
            sum(g.mean() * m for m, g in zip(*pair, strict=True))
            for pair in zip(maps, gradients, strict=True)
        ]
    )
    yield "heatmaps", answer(maps, gradients), _largest_1(heat)


def _hires(answer):
    maps, gradients = _maps(11)
    yield "heatmaps", answer(maps, gradients), _largest_1((maps * gradients).sum(1))


def _pointing(answer):
    heatmaps = torch.rand(6, 6, 9, generator=generator(16)) / 2  # not square, some heat everywhere
    boxes = []
    for place, (row, column, *box) in enumerate(
        (
            (2, 3, 2, 3, 4, 5),  # in the box's first corner
            (4, 6, 0, 0, 4, 7),  # below
            (5, 8, 3, 4, 6, 9),  # in the last corner
            (3, 5, 0, 1, 6, 5),  # right of it
            (1, 4, 2, 3, 6, 8),  # above
            (3, 2, 2, 3, 6, 8),  # left of it
        )
    ):
        heatmaps[place, row, column] = 1
        boxes.append(box)
    boxes = torch.tensor(boxes)
    yield "hits of six", float(answer(heatmaps, boxes)), 2 / 6
    yield "hits of the first", float(answer(heatmaps[:1], boxes[:1])), 1.0
    yield "hits of an empty map", float(answer(torch.zeros(1, 6, 9), boxes[1:2])), 0.0


EXERCISES = {
    "06a": _alpha,
    "06b": _heatmap,
    "06c": _hires,
    "06d": _pointing,
}
