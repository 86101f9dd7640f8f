"""Exercises of notebook 02 · Augmentation."""

import torch

from cifar_utils.course.exercises.form import Near
from cifar_utils.machine import generator


def _versions(answer):
    yield "pictures that crop (padding 4) and flip can make of one", answer, 162


def _flip_vertically(answer):
    images = torch.randint(256, (5, 3, 6, 6), generator=generator(3), dtype=torch.uint8)
    expected = torch.stack([torch.stack(list(reversed(image.unbind(1))), 1) for image in images])
    yield "each image mirrored top to bottom", answer(images), expected
    got = answer(images)
    yield "type", str(got.dtype), "torch.uint8"


def _random_grey(answer):
    images = torch.randint(256, (4000, 3, 4, 4), generator=generator(4), dtype=torch.uint8)
    got = answer(images, generator(5))
    yield "shape", tuple(got.shape), (4000, 3, 4, 4)
    yield "type", str(got.dtype), "torch.uint8"
    changed = (got != images).flatten(1).any(1)
    yield "share of changed images", changed.double().mean().item(), Near(0.2, 0.03)
    red, green, blue = images.double().unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None].expand_as(got)
    off = (got.double() - grey).abs().amax((1, 2, 3))  # rounding down is allowed, too
    yield "changed images that are not grey", int((changed & (off > 1)).sum()), 0
    again = answer(images, generator(5))
    yield "the same generator gives the same images", torch.equal(got, again), True


def _mixup(answer):
    images = torch.rand(6, 3, 2, 2, generator=generator(6))
    labels = torch.tensor([3, 1, 1, 4, 5, 9])  # the second and its partner share a class
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    mixed = answer(images, labels, partner, 0.25)
    expected = torch.stack([0.25 * images[i] + 0.75 * images[(i + 1) % 6] for i in range(6)])
    yield "mixed images", mixed[0], expected
    shares = torch.zeros(6, 10)
    for i in range(6):
        shares[i, labels[i]] += 0.25
        shares[i, labels[partner[i]]] += 0.75
    yield "mixed labels", mixed[1], shares


EXERCISES = {
    "02a": _versions,
    "02b": _flip_vertically,
    "02c": _random_grey,
    "02d": _mixup,
}
