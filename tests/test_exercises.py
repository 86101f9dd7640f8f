"""The exercises' checkers: right answers pass, wrong ones fail, none of them ends in a traceback.

The right answers themselves are in notebooks/solutions, which run as tests.
"""

import pytest
import torch
from torch import nn

from cifar_utils.course.exercises import EXERCISES, check, is_right

# Answers that a reader may well give, and that have to fail.
WRONG = [
    ("01a", 3072),
    ("01b", 1192),
    ("02a", 81),
    ("03c", 10),
    ("04a", 5273),
    ("05a", 10_000),
    ("07a", 1 / 0.4),  # as if the network took no time at all
    ("01c", lambda images, labels, classes: images.float().mean(0).expand(classes, -1, -1, -1)),
    ("01d", lambda images: []),
    ("02b", lambda images: images.flip(3)),
    ("02c", lambda images, generator: images),
    ("02d", lambda images, labels, partner, share: (images, torch.eye(10)[labels])),
    ("03a", lambda size, kernel, stride, padding, dilation: size // stride),
    ("03b", lambda inputs, outputs, kernel, groups, bias: inputs * outputs * kernel**2),
    ("04b", lambda progress, peak: 1 - progress),
    ("04c", lambda weights, velocity, gradient, lr, momentum: (weights - lr * gradient, velocity)),
    ("04d", lambda logits, labels, smoothing: -logits.log_softmax(1)[range(8), labels].mean()),
    ("05b", lambda matrix: (matrix.diagonal() / matrix.sum(1)).mean().item()),
    ("05c", lambda confidences, right, bins: abs((confidences - right.float()).mean().item())),
    ("05d", lambda right, repeats, generator: (0.0, 1.0)),
    ("06a", lambda w: w),
    ("06b", lambda maps, gradients: largest_1((maps * gradients).sum(1))),
    (
        "06c",
        lambda maps, gradients: largest_1((maps * gradients.mean((2, 3), keepdim=True)).sum(1)),
    ),
    ("06d", lambda heatmaps, boxes: 1.0),
    ("07b", lambda images, coins, epoch: images.flip(3) if epoch % 2 else images),
    ("07c", lambda machines, message, bandwidth, delay: machines * (delay + message / bandwidth)),
    ("07d", lambda patches: torch.linalg.inv(patches @ patches.T / patches.shape[1])),
    # These have one mistake that most inputs would not show.
    (
        "01c",
        lambda images, labels, classes: torch.stack(
            [images[labels == label].float().sum(0) / 10 for label in range(classes)]
        ),
    ),
    (
        "01d",
        lambda images: [
            (i, j)
            for i in range(len(images))
            for j in range(i + 1, len(images))
            if torch.equal(images[i, 0], images[j, 0])
        ],
    ),
    (
        "06d",
        lambda heatmaps, boxes: (
            sum(
                int(
                    divmod(int(heat.argmax()), 9)[0] < bottom
                    and divmod(int(heat.argmax()), 9)[1] < right
                )
                for heat, (_, _, bottom, right) in zip(heatmaps, boxes.tolist(), strict=True)
                if heat.max() > 0
            )
            / len(heatmaps)
        ),
    ),
    ("04b", lambda progress, peak: progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8),
    (
        "04c",
        lambda weights, velocity, gradient, lr, momentum: (
            weights - lr * (0.9 * velocity + gradient),
            0.9 * velocity + gradient,
        ),
    ),
    (
        "04d",
        lambda logits, labels, smoothing: (
            -(
                (1 - smoothing) * logits.log_softmax(1).diagonal()
                + smoothing * logits.log_softmax(1).mean(1)
            ).mean()
        ),
    ),
    (
        "05d",
        lambda right, repeats, generator: (
            right.double().mean() - 1.96 * right.double().var(correction=0).div(len(right)).sqrt(),
            right.double().mean() + 1.96 * right.double().var(correction=0).div(len(right)).sqrt(),
        ),
    ),
    (
        "07c",
        lambda machines, message, bandwidth, delay: (
            2 * (machines - 1) * (delay + message / machines / bandwidth)
        ),
    ),
    (
        "07d",
        lambda patches: torch.linalg.inv(
            torch.linalg.cholesky(patches @ patches.T / patches.shape[1])
        ),
    ),
    # And these are tempting.
    ("01d", lambda images: same(images, lambda image: image.sum().item())),
    ("01d", lambda images: same(images, lambda image: image.numpy().tobytes())[:3]),
    ("02b", lambda images: images.rot90(2, (2, 3))),
    ("02c", lambda images, generator: black(images, generator)),
    ("02c", lambda images, generator: images[:, :1].expand_as(images)),
    ("02d", lambda images, labels, partner, share: mixed_with_places(images, partner, share)),
    ("02d", lambda images, labels, partner, share: overwritten(images, labels, partner, share)),
    ("04c", lambda w, v, g, lr, m: (w - (m * v + lr * g), m * v + lr * g)),
    ("04d", lambda logits, labels, s: overflowing(logits, labels, s)),
    ("05d", lambda right, repeats, draw: bootstrap(right, repeats, draw, (0.05, 0.95))),
    ("06b", lambda maps, gradients: (maps * gradients.mean((2, 3), keepdim=True)).sum(1)),
    (
        "07b",
        lambda images, coins, epoch: torch.where(coins.view(-1, 1, 1, 1), images.flip(3), images),
    ),
    ("06d", lambda heatmaps, boxes: pointing(heatmaps, boxes)),
    ("07d", lambda patches: torch.linalg.inv(torch.linalg.cholesky(patches.cov()))),
    ("02c", lambda images, generator: all_or_none(images, generator)),
]
FUNCTIONS = sorted({name for name, answer in WRONG if callable(answer)})


@pytest.mark.parametrize(("name", "answer"), WRONG)
def test_a_wrong_answer_fails(name, answer, capsys):
    assert is_right(name, answer) is False
    printed = capsys.readouterr().out
    assert "✗" in printed and "raised" not in printed


def same(images, key):
    keys = [key(image) for image in images]
    return [(i, j) for j in range(len(keys)) for i in range(j) if keys[i] == keys[j]]


def overwritten(images, labels, partner, share):
    """Mixup whose shares replace each other where image and partner are of one class."""
    shares = torch.zeros(len(labels), 10)
    shares[range(len(labels)), labels] = share
    shares[range(len(labels)), labels[partner]] = 1 - share
    return share * images + (1 - share) * images[partner], shares


def pointing(heatmaps, boxes):
    """As the solution, but an empty map points to its first place."""
    places = heatmaps.flatten(1).argmax(1)
    rows, columns = places // heatmaps.shape[2], places % heatmaps.shape[2]
    top, left, bottom, right = boxes.T
    hit = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
    return hit.double().mean().item()


def largest_1(heat):
    return heat.clamp(min=0) / heat.clamp(min=1e-12).amax((1, 2), keepdim=True)


def bootstrap(right, repeats, draw, ends):
    chosen = torch.randint(len(right), (repeats, len(right)), generator=draw)
    return right[chosen].double().mean(1).quantile(torch.tensor(ends).double()).tolist()


def black(images, generator):
    coin = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.2
    return images.masked_fill(coin, 0)


def overflowing(logits, labels, smoothing):
    log_p = (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
    right = log_p[torch.arange(8), labels]
    return -((1 - smoothing) * right + smoothing * log_p.mean(1)).mean()


def mixed_with_places(images, partner, share):
    eye = torch.eye(10)
    places = torch.arange(len(images))
    mixed = share * images + (1 - share) * images[partner]
    return mixed, share * eye[places] + (1 - share) * eye[partner]


def all_or_none(images, generator):
    """The trap of notebook 02, one draw for a whole batch: right on average, wrong within it."""
    grey = images.float().mean(1, keepdim=True).byte().expand_as(images)
    return grey if torch.rand((), generator=generator) < 0.2 else images


def test_every_exercise_has_a_wrong_answer_here():
    assert {name for name, _ in WRONG} | {"03d"} == set(EXERCISES)  # 03d: the networks below


@pytest.mark.parametrize("name", EXERCISES)
def test_an_open_exercise_is_not_answered_yet(name, capsys):
    assert is_right(name, ...) is False
    printed = f"{name}: not answered yet\n"
    if name in FUNCTIONS:
        assert is_right(name, lambda *_: None) is False
        printed += f"{name}: not answered yet (a function has to `return` its answer)\n"
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", EXERCISES)
def test_a_broken_answer_is_told_in_one_line(name, capsys):
    def broken(*_):
        raise KeyError("mine")

    assert is_right(name, broken if name in FUNCTIONS else object()) is False
    printed = capsys.readouterr().out
    assert printed.startswith("✗") and printed.count("\n") == 1
    assert ("your code raised KeyError: 'mine'" in printed) == (name in FUNCTIONS)


def test_a_value_is_shown_beside_what_is_expected(capsys):
    assert check("01a", 12288) is None  # a notebook would show what is returned
    assert capsys.readouterr().out.startswith("✓")
    check("01a", 3072)
    printed = capsys.readouterr().out
    assert printed.startswith("✗") and "got 3072, expected 12288" in printed


def test_an_answer_that_writes_into_the_data_is_told_so(capsys):
    def in_place(images):
        images[:] = images.flip(2)
        return images

    assert is_right("02b", in_place) is False
    assert capsys.readouterr().out == (
        "✗ your function changes the tensors that it is given; work on copies\n"
    )


def test_a_network_may_be_too_large_or_see_too_little(capsys):
    from cifar_utils.models import ConvNet, average_head, create_model

    compact = create_model("compact")
    assert is_right("03d", compact) is False and compact.training  # as it was
    printed = capsys.readouterr().out
    assert "✗ parameters: got 399274, expected at most 99,999" in printed
    one_pooling = nn.Sequential(nn.MaxPool2d(40, 1, 20))
    assert is_right("03d", ConvNet(one_pooling, average_head(3, 10))) is False
    assert "✗ convolutions: got 0, expected at least 3" in capsys.readouterr().out


def test_an_unknown_exercise_names_the_known():
    with pytest.raises(ValueError, match="01a"):
        check("09z", 1)


def test_a_number_may_be_rounded_within_its_room(capsys):
    assert is_right("07a", 1 / (0.4 + 0.6 / 20)) and is_right("07a", 2.33)
    assert is_right("07a", 2.35) is False
    assert "got 2.35, expected 2.33 ± 0.01" in capsys.readouterr().out
