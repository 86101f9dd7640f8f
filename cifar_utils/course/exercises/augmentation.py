"""Exercises of notebook 02 · Augmentation."""

import torch
import torch.nn.functional as F

from cifar_utils.course.exercises.form import Case, Exercise, Form, Near, value
from cifar_utils.machine import generator


def _flip_vertically():
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(1, 3, 2, 2).contiguous()
    due = torch.tensor([[3, 4], [1, 2]], dtype=torch.uint8).expand(1, 3, 2, 2)
    yield Case("one image, each colour [[1, 2], [3, 4]]", (image,), due)
    images = torch.randint(256, (5, 3, 6, 4), generator=generator(3), dtype=torch.uint8)
    due = torch.stack([torch.stack(list(reversed(image.unbind(1))), 1) for image in images])
    yield Case("five random images of 6 × 4 pixels", (images,), due)


def _random_grey():
    count = 4000
    images = torch.randint(256, (count, 3, 4, 4), generator=generator(4), dtype=torch.uint8)
    red, green, blue = images.double().unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]

    def changed(got):
        return (got != images).flatten(1).any(1)

    def share(got):
        return changed(got).double().mean().item()

    def coloured(got):
        return int((changed(got) & (got != got[:, :1]).flatten(1).any(1)).sum())

    def distance(got):
        distances = (got - grey).abs().mean((1, 2, 3))[changed(got)]
        return (distances.sum() / max(1, len(distances))).item()

    what, arguments = f"{count:,} random images and a generator", (images, generator(7))
    yield Case(what, arguments, Form((count, 3, 4, 4), torch.uint8))
    yield Case(what, arguments, Near(0.2, 0.03), ("the share of images that change", share))
    coloured_ones = "the number of changed images that still have colours", coloured
    yield Case(what, arguments, 0, coloured_ones)
    other_grey = "the mean distance of the changed pixels from the formula's grey", distance
    yield Case(what, arguments, Near(0.0, 0.75), other_grey)  # rounding down costs 0.5


def _greyed(share=0.2, draws=len, grey=lambda images: images.float().mean(1, keepdim=True)):
    """A slip: with probability `share` images become `grey`; `draws` says how many draws it is."""

    def answer(images, generator):
        coin = torch.rand(draws(images), 1, 1, 1, generator=generator) < share
        return torch.where(coin, grey(images).byte(), images)

    return answer


def _weighted(images):
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _mixup():
    images = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 1, 1).contiguous()
    labels, partner = torch.tensor([3, 5]), torch.tensor([1, 0])
    what = "a black and a white image of one pixel, labels 3 and 5, partners 1 and 0, share 0.25"
    yield Case(what, (images, labels, partner, 0.25), _blended(images, labels, partner, 0.25))
    images = torch.rand(6, 3, 2, 2, generator=generator(6))
    labels = torch.tensor([3, 1, 1, 4, 5, 9])  # the second and its partner share a class
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    for share in (0.25, 0.7, 1.0):
        what = f"six images, labels {labels.tolist()}, partners {partner.tolist()}, share {share}"
        due = _blended(images, labels, partner, share)
        yield Case(what, (images, labels, partner, share), due)


def _blended(images, labels, partner, share):
    mixed, shares = [], torch.zeros(len(images), 10)
    for i, j in enumerate(partner.tolist()):
        mixed.append(share * images[i] + (1 - share) * images[j])
        shares[i, labels[i]] += share
        shares[i, labels[j]] += 1 - share
    return {"mixed images": torch.stack(mixed), "mixed labels": shares}


def _mix(images, partner, share):
    return share * images + (1 - share) * images[partner]


def _one_hot(labels):
    return F.one_hot(labels, 10).float()


def _overwritten(images, labels, partner, share):
    """A slip: the shares replace each other if image and partner are of one class."""
    shares, places = torch.zeros(len(labels), 10), torch.arange(len(labels))
    shares[places, labels] = share
    shares[places, labels[partner]] = 1 - share
    return _mix(images, partner, share), shares


def _places_mixed(images, labels, partner, share):
    """A slip: the partner's place in the batch is taken for its class."""
    shares = share * _one_hot(labels) + (1 - share) * _one_hot(partner)
    return _mix(images, partner, share), shares


EXERCISES = {
    "02a": Exercise(
        value(
            len({(down, across, side) for down in range(9) for across in range(9) for side in "LR"})
        ),
        slips=(
            (81, "That counts the crops only: and the mirror images?"),
            (18, "The crop moves down and across. Each of its places counts."),
            (9, "That counts one direction, without the mirror images."),
            (128, "The image may move by 0 to 8 pixels. How many places are that?"),
            (64, "From 0 to 8 pixels are not eight places. And the mirror images?"),
            (32, "Four pixels of padding on each side leave more than four places."),
            (50, "The padding is on both sides, so that the image may move by up to 8 pixels."),
            (83, "Every crop has a mirror image of its own."),
        ),
        hints=(
            "First the crop alone: the padded image is 40 pixels wide, the crop 32.",
            "In how many places, down, can the crop begin? Across, as many. Any down place goes "
            "with any across place.",
            "Down places times across places times 2: each crop as it is, and mirrored.",
        ),
    ),
    "02b": Exercise(
        _flip_vertically,
        slips=(
            (lambda images: images.flip(3), "That mirrors left to right. The rows stay in place."),
            (
                lambda images: images.flip(2, 3),
                "That is half a turn: left and right have changed places, too.",
            ),
            (lambda images: images.flip(1), "That changes the order of the colours."),
            (lambda images: images.flip(0), "That changes the order of the images."),
            (lambda images: images.mT, "Rows have become columns: that is a transpose."),
            (lambda images: images, "The images are as they were."),
        ),
        hints=(
            "Which of the four dimensions (N, 3, H, W) counts the rows?",
            "`tensor.flip(dimension)` turns the order along one dimension round.",
            "The rows are dimension H. Counted from 0, which number has it?",
        ),
    ),
    "02c": Exercise(
        _random_grey,
        slips=(
            (lambda images, generator: images, "No image changes."),
            (
                _greyed(draws=lambda images: 1),
                "You draw once for the whole batch. Each image needs a draw of its own.",
            ),
            (
                _greyed(share=0.8, grey=_weighted),
                "The coin is the wrong way round: it spares the few and greys the many.",
            ),
            (_greyed(share=1.0, grey=_weighted), "Every image becomes grey. Where is the coin?"),
            (_greyed(), "Here the three colours weigh the same. Green should count most."),
            (_greyed(grey=torch.zeros_like), "The changed images are black."),
            (_greyed(grey=lambda images: images[:, :1]), "That is the red channel alone."),
        ),
        hints=(
            "Two parts: first make the grey version of all images, then choose, image by image.",
            "`torch.rand(len(images), 1, 1, 1, generator=generator)` draws one number per image, "
            "in a shape that fits all its pixels. How often is such a number below 0.2?",
            "The grey is a weighted sum over dimension 1 with `keepdim=True`, made bytes again. "
            "`torch.where(coin, grey, images)` chooses.",
        ),
    ),
    "02d": Exercise(
        _mixup,
        slips=(
            (
                lambda images, labels, partner, share: (
                    _mix(images, partner, 1 - share),
                    _mix(_one_hot(labels), partner, 1 - share),
                ),
                "You give the share to the partner. It is what each image keeps.",
            ),
            (
                lambda images, labels, partner, share: (
                    _mix(images, partner, share),
                    _one_hot(labels),
                ),
                "The images are right. The labels have to be blended in the same proportion.",
            ),
            (
                lambda images, labels, partner, share: (images, _one_hot(labels)),
                "Nothing is blended yet: where do the partners come in?",
            ),
            (
                lambda images, labels, partner, share: (
                    _mix(images, partner, 0.5),
                    _mix(_one_hot(labels), partner, 0.5),
                ),
                "You blend half and half, whatever the share is.",
            ),
            (
                lambda images, labels, partner, share: (
                    _mix(images, partner, share),
                    _mix(labels.float(), partner, share),
                ),
                "Blended class numbers mean nothing: half 3, half 5 is not a 4. One-hot first.",
            ),
            (
                _places_mixed,
                "`partner` holds places in the batch, not classes. `labels[partner]` are classes.",
            ),
            (
                _overwritten,
                "If image and partner are of one class, its two shares have to be added.",
            ),
        ),
        hints=(
            "`images[partner]` is the batch of the partners, in order.",
            "Make the labels one-hot and floats. Then one formula does for images and labels.",
            "The formula: share times the own, plus (1 − share) times the partner's.",
        ),
    ),
}
