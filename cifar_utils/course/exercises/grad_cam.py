"""Exercises and gaps of notebook 08 · Grad-CAM."""

import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.course.exercises.form import Case, Exercise, Form, Rule
from cifar_utils.machine import generator
from cifar_utils.models import ConvNet


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


def _heat_cases(number, heat_of):
    """heat_of: what maps and gradients (C, h, w) of one image give, before ReLU."""
    maps, gradients = _small_maps()
    what = f"one image, two maps {maps[0, :, 0].tolist()}"
    what += f" and their gradients {gradients[0, :, 0].tolist()}"
    yield Case(what, (maps, gradients), _each(heat_of, maps, gradients))
    maps, gradients = _maps(number)
    what = "four images of six random maps, nothing in the last one for the class"
    yield Case(what, (maps, gradients), _each(heat_of, maps, gradients))


def _each(heat_of, maps, gradients):
    return torch.stack(list(map(heat_of, maps, gradients))).clamp(min=0)


def _weighted():
    return _heat_cases(
        10, lambda maps, gradients: sum(g.mean() * m for m, g in zip(maps, gradients, strict=True))
    )


def _hires():
    return _heat_cases(
        11, lambda maps, gradients: sum(g * m for m, g in zip(maps, gradients, strict=True))
    )


def _grad_cam(maps, gradients):
    return (maps * gradients.mean((2, 3), keepdim=True)).sum(1)


def _hires_cam(maps, gradients):
    return (maps * gradients).sum(1)


def _cam():
    draw = generator(12)
    small = torch.tensor([[[[1.0, 2.0]], [[0.0, 3.0]]]]), torch.tensor([[1.0, -1.0], [2.0, 0.5]])
    large = torch.rand(3, 6, 4, 5, generator=draw), torch.randn(10, 6, generator=draw)
    for what, (maps, weights), targets in (
        ("one image, maps [[1, 2]] and [[0, 3]], weights [[1, -1], [2, 0.5]], class 0", small, [0]),
        ("three images of six random maps, ten classes", large, [9, 0, 4]),
    ):
        heat = torch.zeros(len(maps), *maps.shape[2:])
        for n, target in enumerate(targets):
            for k in range(maps.shape[1]):
                heat[n] += weights[target, k].item() * maps[n, k]
        yield Case(what, (maps, weights, torch.tensor(targets)), heat)


def _class_weighted(weights, maps):
    return (weights[:, :, None, None] * maps).sum(1)


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
        _cam,
        slips=(
            (
                lambda maps, weights, targets: _class_weighted(weights[targets], maps).relu(),
                "CAM has no ReLU: what speaks against the class stays negative.",
            ),
            (
                lambda maps, weights, targets: (
                    _class_weighted(weights[targets], maps) / maps[0, 0].numel()
                ),
                "That is Grad-CAM's α. CAM takes the weights as they are.",
            ),
            (
                lambda maps, weights, targets: (
                    _class_weighted(weights[targets], maps) / maps.shape[1]
                ),
                "You average the weighted maps. Sum them.",
            ),
            (
                lambda maps, weights, targets: _class_weighted(
                    weights[targets[:1]].expand(len(maps), -1), maps
                ),
                "Every image has a target of its own.",
            ),
        ),
        hints=(
            "Which row of `weights` belongs to an image? The one of its target.",
            "`weights[targets]` has a row per image, (N, C). Two more axes make it fit the maps.",
            "`weights[targets][:, :, None, None]` times the maps, then the sum over dimension 1.",
        ),
    ),
    "08c": Exercise(
        _hires,
        slips=(
            (
                lambda maps, gradients: _grad_cam(maps, gradients).relu(),
                "That is Grad-CAM: the gradients must not be averaged first.",
            ),
            (
                lambda maps, gradients: _hires_cam(maps, gradients.relu()),
                "That is LayerCAM. HiResCAM keeps negative gradients until the maps are summed.",
            ),
            (_hires_cam, "Negative heat speaks against the class: it has to become 0 (ReLU)."),
            (
                lambda maps, gradients: (maps * gradients).mean(1).relu(),
                "You average the weighted maps. Sum them.",
            ),
        ),
        hints=(
            "Your answer to gap 08.4 is almost it. Which step has to go?",
            "Maps and gradients have the same shape: they can be multiplied as they are.",
            "Multiply, sum over the maps (dimension 1), then `relu`.",
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


# --- gaps in the text -----------------------------------------------------------------------------


def _small_network():
    """Two stages and a head of three classes, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 5, 3, stride=2), nn.ReLU()),
        )
        return ConvNet(features, nn.Sequential(nn.Flatten(), nn.Linear(45, 3))).eval()


def _inside():
    inputs, targets = torch.randn(4, 3, 16, 16, generator=generator(1)), torch.tensor([2, 0, 1, 1])
    for stage in (1, 0):
        model = _small_network()
        maps = model.features[: stage + 1](inputs).detach().requires_grad_()
        logits = model.classifier(model.features[stage + 1 :](maps))
        for number, target in enumerate(targets):
            logits[number, target].backward(retain_graph=True)
        due = {"maps": maps.detach(), "gradients": maps.grad}
        arguments = model, inputs, targets, stage
        yield Case(f"four images, a small network, stage {stage}", arguments, due)
    model = _small_network()
    yield Case(
        "the same network once more",
        (model, inputs, targets, 1),
        0,
        of=(
            "the number of hooks that are left on it",
            lambda _: sum(len(layer._forward_hooks) for layer in model.modules()),
        ),
    )


def _looked_inside(
    score=lambda logits, targets: logits.gather(1, targets[:, None]).sum(),
    place=lambda stage: stage,
    remove=True,
):
    """A slip: another score, another stage, or a hook that stays."""

    def answer(model, inputs, targets, stage):
        kept = []
        hook = model.features[place(stage)].register_forward_hook(
            lambda layer, given, maps: kept.append(maps)
        )
        logits = model(inputs)
        if remove:
            hook.remove()
        (gradients,) = torch.autograd.grad(score(logits, targets), kept[0])
        return kept[0].detach(), gradients

    return answer


def _fitted():
    draw = generator(3)
    two = torch.tensor([[[0.0, 4.0], [2.0, 1.0]]])
    for what, heat, size in (
        ("one map [[0, 4], [2, 1]] and the size 4", two, 4),
        ("three random maps of 4 × 4 and the size 32", torch.rand(3, 4, 4, generator=draw) + 1, 32),
        ("two maps of 3 × 3, the second of them 0 everywhere, and the size 6",
         torch.stack([torch.rand(3, 3, generator=draw), torch.zeros(3, 3)]), 6),
    ):  # fmt: skip
        yield Case(what, (heat, size), torch.stack([_one_fitted(one, size) for one in heat]))


def _one_fitted(heat, size):
    """Bilinear by hand: between the nearest two centres each way, and the edge's value beyond."""
    places = ((torch.arange(size) + 0.5) * len(heat) / size - 0.5).clamp(0, len(heat) - 1)
    near = (1 - (places[:, None] - torch.arange(len(heat))).abs()).clamp(min=0)  # (size, h)
    large = near @ heat @ near.T
    large -= large.min()
    return large / large.max() if large.max() else large


def _large(heat, size, **options):
    return F.interpolate(heat[:, None], size=size, **{"mode": "bilinear"} | options)[:, 0]


def _stretched(heat):
    heat = heat - heat.amin((1, 2), keepdim=True)
    return heat / (1e-7 + heat.amax((1, 2), keepdim=True))


def _not_from_0(heat):
    return heat / (1e-7 + heat.amax((1, 2), keepdim=True))


def _with_nan(heat):
    heat = heat - heat.amin((1, 2), keepdim=True)
    return heat / heat.amax((1, 2), keepdim=True)


def _all_together(heat):
    heat = heat - heat.amin()
    return heat / (1e-7 + heat.amax())


def _ranked_alike():
    from scipy.stats import spearmanr

    draw = generator(4)
    several = torch.randn(2, 3, 4, 4, generator=draw)
    several[1, 0] = several[0, 0] ** 3  # another shape, the same order
    ties = (4 * torch.rand(2, 2, 5, 5, generator=draw)).round()
    for what, (first, second) in (
        ("three pairs of random maps; in the first pair, the second map is the cube of the first",
         several),
        ("two pairs of maps of whole numbers from 0 to 4", ties),
    ):  # fmt: skip
        pairs = zip(first.flatten(1), second.flatten(1), strict=True)
        due = [spearmanr(a.numpy(), b.numpy()).statistic for a, b in pairs]
        yield Case(what, (first, second), torch.tensor(due))


def _correlated(prepare):
    """A slip: the correlation of something else than centred ranks."""

    def answer(first, second):
        a, b = prepare(first.flatten(1).double()), prepare(second.flatten(1).double())
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))

    return answer


def _ranks(values):
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values, axis=1))


def _centred(values):
    return values - values.mean(1, keepdim=True)


def _shuffles():
    weights = torch.arange(1000.0).view(10, 100)
    what = "the numbers 0 to 999, 100 in each of 10 rows, and a generator"

    def moved(got):
        return (got != weights).double().mean().item()

    def across(by):  # the share of numbers that have left their row or column
        return lambda got: (by(got) != by(weights)).double().mean().item()

    def case(expected, of=None):
        return Case(what, (weights, generator(5)), expected, of)

    yield case(Form((10, 100), torch.float32))
    yield case(weights.flatten(), ("what you return, sorted,", lambda got: got.flatten().sort()[0]))
    yield case(
        Rule(lambda share: share > 0.9, "Most numbers stand where they stood."),
        ("the share of numbers in another place", moved),
    )
    for name, by in (("row", lambda got: got // 100), ("column", lambda got: got % 100)):
        yield case(
            Rule(lambda share: share > 0.7, f"Every number stays in its {name}: mix them all."),
            (f"the share of numbers in another {name}", across(by)),
        )


def _covered():
    draw = generator(6)
    for side, size, step in ((12, 4, 4), (16, 8, 4), (16, 8, 8)):
        image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=draw)
        weights = torch.rand(3, side, side, generator=draw) / 1000

        def score_of(images, weights=weights):
            return (images.float() * weights).sum((1, 2, 3))

        lost = (image.float() - 127) * weights  # by each pixel that turns grey
        drops = lost.sum(0).unfold(0, size, step).unfold(1, size, step).sum((2, 3))
        what = f"an image of {side} × {side}, squares of {size} pixels in steps of {step}"
        yield Case(what, (score_of, image, size, step), drops)


def _occluded(
    drop=lambda before, after: before - after,
    turned=lambda drops: drops,
    fresh=True,
    grey=127,
):
    """A slip: another difference, rows and columns exchanged, piled-up squares, another colour."""

    def answer(score_of, image, size, step):
        places = range(0, image.shape[1] - size + 1, step)
        before, drops, covered = score_of(image[None])[0], [], image.clone()
        for top in places:
            for left in places:
                covered = image.clone() if fresh else covered
                covered[:, top : top + size, left : left + size] = grey
                drops.append(drop(before, score_of(covered[None])[0]))
        return turned(torch.stack(drops).view(len(places), -1))

    return answer


def _without():
    draw = generator(7)
    heat = torch.tensor([[[0.9, 0.1], [0.5, 0.7]]])
    images = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)
    what = "an image of 2 × 2, heat [[0.9, 0.1], [0.5, 0.7]]"
    pairs = [(what, images, torch.full_like(images, 10), heat, 0.5)]
    images, blurred = (
        torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=draw) for _ in range(2)
    )
    heat = torch.rand(3, 8, 8, generator=draw) * torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    what = "three images of 8 × 8, random heat"
    pairs += [(what, images, blurred, heat, share) for share in (0.25, 0.0, 1.0)]
    for what, images, blurred, heat, share in pairs:
        due = images.clone()
        for number, one in enumerate(heat):
            hottest = sorted(range(one.numel()), key=one.flatten().tolist().__getitem__)[::-1]
            for place in hottest[: round(share * one.numel())]:
                row, column = divmod(place, one.shape[1])
                due[number, :, row, column] = blurred[number, :, row, column]
        yield Case(f"{what}, share {share}", (images, blurred, heat, share), due)


def _replaced(chosen):
    """A slip. chosen: from heat (N, H·W) and a share to the pixels that go, (N, H·W)."""

    def answer(images, blurred, heat, share):
        goes = chosen(heat.flatten(1), share).view(len(heat), 1, *heat.shape[1:])
        return torch.where(goes, blurred, images)

    return answer


def _places(heat):
    return heat.argsort(1, descending=True).argsort(1)


def _strongest():
    draw = generator(8)
    few = torch.tensor([
        [[0.0, 5, 1], [2, 0, 0]], [[7, 0, 0], [0, 0, 8]],
        [[3, 3, 3], [3, 4, 3]], [[0, 0, 6], [1, 1, 0]],
    ])  # fmt: skip
    many = torch.rand(40, 4, 6, generator=draw).relu()
    for what, maps, count in (
        (f"four maps of 2 × 3, {few.tolist()}, count 2".replace(".0", ""), few, 2),
        ("the same maps, count 3", few, 3),
        ("forty random maps of 4 × 6, count 9", many, 9),
    ):
        best = []
        for number, one in enumerate(maps.tolist()):
            rows = [(value, row, column) for row, line in enumerate(one)
                    for column, value in enumerate(line)]  # fmt: skip
            value, row, column = max(rows)
            best.append((value, number, row, column))
        due = [list(place) for _, *place in sorted(best, reverse=True)[:count]]
        yield Case(what, (maps, count), torch.tensor(due))


def _found(
    score=lambda maps: maps.flatten(1).amax(1),
    first=lambda scores, count: scores.topk(count).indices,
    width=lambda maps: maps.shape[2],
    columns=(0, 1, 2),
):
    """A slip: another measure of an image, another choice, another width, another order."""

    def answer(maps, count):
        images = first(score(maps), count)
        places = maps.flatten(1).argmax(1)[images]
        found = torch.stack([images, places // width(maps), places % width(maps)], 1)
        return found[:, list(columns)]

    return answer


def _places_of_all(maps, count):
    values, places = maps.flatten(1).max(1)
    images, width = values.topk(count).indices, maps.shape[2]
    return torch.stack([images, places[:count] // width, places[:count] % width], 1)


def _several_per_image(maps, count):
    places = maps.flatten().topk(count).indices
    each, width = maps[0].numel(), maps.shape[2]
    return torch.stack([places // each, places % each // width, places % width], 1)


def _cosines():
    draw = generator(9)
    few = torch.tensor([[3.0, 1.0], [1.0, 2.0], [2.0, 6.0]])
    many = torch.randn(10, 16, generator=draw) + torch.randn(16, generator=draw)
    for what, weight in (
        (f"the rows {few.tolist()}", few),
        ("ten rows of 16 random numbers, with a common part", many),
    ):
        centred = weight - sum(weight) / len(weight)
        due = [[F.cosine_similarity(a, b, dim=0) for b in centred] for a in centred]
        yield Case(what, (weight,), torch.tensor(due))


def _unit(rows, dim=1):
    return rows / rows.norm(dim=dim, keepdim=True)


GAPS: dict[str, Exercise] = {
    "08.1": Exercise(
        _strongest,
        slips=(
            (
                _several_per_image,
                "An image comes twice. Take each image's largest number first, then the images.",
            ),
            (
                _found(score=lambda maps: maps.mean((1, 2))),
                "You rank the images by the mean of their maps. One place counts, the largest.",
            ),
            (
                _found(first=lambda scores, count: scores.topk(count, largest=False).indices),
                "Those are the images that excite the map least.",
            ),
            (
                _found(first=lambda scores, count: scores.topk(count).indices.sort()[0]),
                "The right images, but in their own order. The strongest comes first.",
            ),
            (
                _found(width=lambda maps: maps.shape[1]),
                "A place in the flattened map is row · width + column. You divide by the height.",
            ),
            (
                _places_of_all,
                "Take the places of the chosen images only: `places[images]`.",
            ),
            (_found(columns=(0, 2, 1)), "Row and column are exchanged."),
        ),
        hints=(
            "`maps.flatten(1)` has a row per image. What does its `.max(1)` return?",
            "It returns values and places. `values.topk(count).indices` are the images you want, "
            "and `places[images]` the place in each of them.",
            "`places // width` is the row and `places % width` the column, if the width is "
            "`maps.shape[2]`. `torch.stack([…], 1)` puts the three side by side.",
        ),
    ),
    "08.2": Exercise(
        _cosines,
        slips=(
            (
                lambda weight: _unit(weight) @ _unit(weight).T,
                "Subtract the mean row first: what all classes share does not count.",
            ),
            (
                lambda weight: _unit(_centred(weight)) @ _unit(_centred(weight)).T,
                "You subtract from each row its own mean. The mean *row* is `weight.mean(0)`.",
            ),
            (
                lambda weight: (weight - weight.mean(0)) @ (weight - weight.mean(0)).T,
                "Those are products of the rows. Divide each row by its length first.",
            ),
            (
                lambda weight: (
                    _unit(weight - weight.mean(0), 0) @ _unit(weight - weight.mean(0), 0).T
                ),
                "You divide each column by its length. A class is a row.",
            ),
        ),
        hints=(
            "Three steps: subtract the mean row, make every row one unit long, multiply.",
            "`rows.norm(dim=1, keepdim=True)` is the length of each row.",
            "`unit @ unit.T` holds the products of all pairs of rows.",
        ),
    ),
    "08.3": Exercise(
        _inside,
        slips=(
            (
                _looked_inside(remove=False),
                "Your hook stays on the network and would keep maps at every later run.",
            ),
            (
                _looked_inside(score=lambda logits, targets: logits.max(1).values.sum()),
                "Those are the largest scores. The scores of the targets are asked for.",
            ),
            (
                _looked_inside(score=lambda logits, targets: logits.sum()),
                "You add up the scores of all classes. Each image has one target.",
            ),
            (
                _looked_inside(
                    score=lambda logits, targets: logits.gather(1, targets[:, None]).mean()
                ),
                "The mean over the images divides every gradient by their number. Add them up.",
            ),
            (
                _looked_inside(
                    score=lambda logits, targets: (
                        logits.softmax(1).gather(1, targets[:, None]).sum()
                    )
                ),
                "That is the gradient of a probability. Take the logit, before any softmax.",
            ),
            (
                _looked_inside(place=lambda stage: stage - 1),
                "Stages are counted from 0: `model.features[stage]` is the one.",
            ),
        ),
        hints=(
            "The hook of the cell above prints. Yours appends its third argument to `kept`.",
            "`logits.gather(1, targets[:, None])` has each image's target score, (N, 1).",
            "`torch.autograd.grad(scores.sum(), kept[0])` returns a tuple with one tensor in it.",
        ),
    ),
    "08.4": Exercise(
        _weighted,
        slips=(
            (_grad_cam, "The ReLU is missing: what speaks against the class has to become 0."),
            (
                lambda maps, gradients: _hires_cam(maps, gradients).relu(),
                "You weight every number by its own gradient. Here a map has one weight, α.",
            ),
            (
                lambda maps, gradients: _grad_cam(
                    maps, gradients.sum((2, 3))[..., None, None]
                ).relu(),
                "α is the mean over the places of a map, not the sum.",
            ),
            (
                lambda maps, gradients: (maps * gradients.mean((2, 3), keepdim=True)).relu().sum(1),
                "Your ReLU comes too early: first sum the weighted maps.",
            ),
            (
                lambda maps, gradients: (
                    (maps * gradients.mean((2, 3), keepdim=True)).mean(1).relu()
                ),
                "You average the weighted maps. Sum them.",
            ),
            (
                lambda maps, gradients: (
                    (maps * gradients.mean((0, 2, 3), keepdim=True)).sum(1).relu()
                ),
                "You average over the images, too. Every image has an α of its own for each map.",
            ),
        ),
        hints=(
            "Three steps: one mean, one product that is summed over k, one ReLU.",
            "`mean((2, 3), keepdim=True)` keeps α in a shape that multiplies the maps.",
            "The maps are dimension 1: `(alpha * maps).sum(1)`. `.relu()` comes last.",
        ),
    ),
    "08.5": Exercise(
        _fitted,
        slips=(
            (
                lambda heat, size: _not_from_0(_large(heat, size)),
                "The smallest number of each map has to become 0: subtract it first.",
            ),
            (
                lambda heat, size: _with_nan(_large(heat, size)),
                "A map that is 0 everywhere is divided by 0. The small number below keeps it 0.",
            ),
            (
                lambda heat, size: _all_together(_large(heat, size)),
                "You stretch all maps together. Each has its own smallest and largest number.",
            ),
            (
                lambda heat, size: _large(_stretched(heat), size),
                "You stretch before you enlarge, and the peak shrinks between its neighbours.",
            ),
            (
                lambda heat, size: _stretched(_large(heat, size, mode="nearest")),
                'That gives blocks. `mode="bilinear"` goes smoothly from centre to centre.',
            ),
            (
                lambda heat, size: _stretched(_large(heat, size, align_corners=True)),
                "Leave `align_corners` alone: a number stands in the middle of its square.",
            ),
        ),
        hints=(
            "Enlarge first, then subtract the smallest, then divide by the largest.",
            "`F.interpolate` wants (N, C, h, w): `heat[:, None]` has one channel, and `[:, 0]` "
            "takes it away again.",
            "`large.amin((1, 2), keepdim=True)` is each map's smallest number. Take the largest "
            "after subtracting it, and add 1e-7 to what you divide by.",
        ),
    ),
    "08.6": Exercise(
        _ranked_alike,
        slips=(
            (
                _correlated(_centred),
                "You correlate the values. Take the ranks, which know only the order.",
            ),
            (_correlated(_ranks), "Subtract each map's mean rank first."),
            (
                lambda first, second: _correlated(lambda values: _centred(_ranks(values)))(
                    first, second
                ).abs(),
                "The sign matters: opposite orders are negative.",
            ),
        ),
        hints=(
            "The formula above, for all pairs at once: sums go along dimension 1.",
            "`ranks.mean(1, keepdim=True)` is each map's mean rank.",
            "Above the line `(a * b).sum(1)`, below it `a.norm(dim=1) * b.norm(dim=1)`, with the "
            "centred ranks a and b.",
        ),
    ),
    "08.7": Exercise(
        _shuffles,
        slips=(
            (
                lambda weights, draw: weights[torch.randperm(len(weights), generator=draw)],
                "You exchange whole rows. Every number has to find a new place: flatten first.",
            ),
            (
                lambda weights, draw: weights[:, torch.randperm(weights.shape[1], generator=draw)],
                "You exchange whole columns. Every number has to find a new place: flatten first.",
            ),
            (
                lambda weights, draw: torch.randn(weights.shape, generator=draw),
                "Those are new numbers. The old ones are asked for, in another order.",
            ),
            (lambda weights, draw: weights.clone(), "Nothing has moved."),
        ),
        hints=(
            "`torch.randperm(n, generator=draw)` is the numbers 0 to n − 1 in random order.",
            "Index the flattened weights with it. Their number is `weights.numel()`.",
            "`.view_as(weights)` gives the result its shape back.",
        ),
    ),
    "08.8": Exercise(
        _without,
        slips=(
            (
                _replaced(lambda heat, share: _places(-heat) < share * heat.shape[1]),
                "You begin with the least heat. The hottest pixels go first.",
            ),
            (
                _replaced(lambda heat, share: heat > 1 - share),
                "That is a limit for the heat. A share of the pixels is asked for.",
            ),
            (
                _replaced(
                    lambda heat, share: heat.argsort(1, descending=True) < share * heat.shape[1]
                ),
                "`argsort` says which pixel comes first, not at which place a pixel comes: sort "
                "that order once more.",
            ),
            (
                _replaced(lambda heat, share: _places(heat) >= share * heat.shape[1]),
                "The other way round: those pixels go, and the others stay.",
            ),
            (
                _replaced(
                    lambda heat, share: (
                        _places(heat.view(1, -1)).view_as(heat) < share * heat.numel()
                    )
                ),
                "You rank the pixels of all images together. Each image has its own order.",
            ),
        ),
        hints=(
            "Which place has each pixel in its image's order, the hottest being 0?",
            "`order = heat.flatten(1).argsort(1, descending=True)` lists the pixels, the hottest "
            "first. `order.argsort(1)` turns that into each pixel's place.",
            "A pixel goes if its place is below `share * heat[0].numel()`. `torch.where` takes the "
            "one or the other image; the places need the shape (N, 1, H, W).",
        ),
    ),
    "08.9": Exercise(
        _covered,
        slips=(
            (
                _occluded(drop=lambda before, after: after - before),
                "The sign is the other way round: where covering hurts, the drop is positive.",
            ),
            (
                _occluded(drop=lambda before, after: after),
                "Those are the scores of the covered images. How far do they fall?",
            ),
            (
                _occluded(fresh=False),
                "Your squares pile up: begin each time with a fresh copy of the image.",
            ),
            (
                _occluded(turned=lambda drops: drops.T),
                "Rows and columns are exchanged: `top` belongs to the rows.",
            ),
            (_occluded(grey=0), "The square is to be grey, 127, not black."),
        ),
        hints=(
            "One score of the image as it is, then two loops: over `top` and over `left`.",
            "`one = image.clone()`, then `one[:, top : top + size, left : left + size] = 127`.",
            "Append the copies to a list, `torch.stack` them, ask for all scores at once, and give "
            "the differences the shape `(len(places), len(places))` with `.view`.",
        ),
    ),
}
