"""Exercises and gaps of notebook 02 · Augmentation."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from cifar_utils.augment import crop
from cifar_utils.course.exercises.form import Case, Exercise, Form, Near, Rule, value
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


# --- the gaps' cases and slips --------------------------------------------------------------------


def _mirror_half():
    count = 2000
    images = torch.randint(256, (count, 3, 4, 6), generator=generator(21), dtype=torch.uint8)
    mirrored = torch.stack(list(reversed(images.unbind(3))), 3)

    def changed(got):
        return (got != images).flatten(1).any(1)

    def share(got):
        return changed(got).double().mean().item()

    def strange(got):
        return int((changed(got) & (got != mirrored).flatten(1).any(1)).sum())

    strange_ones = "the number of images that are neither as they were nor mirrored", strange
    for seed in (22, 26):  # if there is one coin for all, it falls differently
        what, arguments = f"{count:,} random images and a generator", (images, generator(seed))
        yield Case(what, arguments, Form((count, 3, 4, 6), torch.uint8))
        yield Case(what, arguments, Near(0.5, 0.05), ("the share of images that change", share))
        yield Case(what, arguments, 0, strange_ones)


def _coin(images, draws, count=None):
    return torch.rand(count or len(images), 1, 1, 1, generator=draws) < 0.5


def _cutout():
    images = torch.randint(256, (4, 3, 6, 7), generator=generator(23), dtype=torch.uint8)
    images[images == 127] = 0
    for size, tops, lefts in (
        (2, [0, 1, 4, 3], [0, 2, 5, 4]),
        (3, [-2, 4, -1, 2], [1, -1, 6, 3]),
    ):
        due = images.clone()
        for number, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            for row in range(6):
                for column in range(7):
                    if 0 <= row - top < size and 0 <= column - left < size:
                        due[number, :, row, column] = 127
        what = f"four random images of 6 × 7 pixels, tops {tops}, lefts {lefts}, size {size}"
        yield Case(what, (images, torch.tensor(tops), torch.tensor(lefts), size), due)


def _painted(square, grey=127):
    """A slip: paints what `square` makes of a corner and a size."""

    def answer(images, tops, lefts, size):
        result = images.clone()
        for image, top, left in zip(result, tops.tolist(), lefts.tolist(), strict=True):
            image[:, square(top, size), square(left, size)] = grey
        return result

    return answer


def _inside(start, size):
    return slice(max(start, 0), max(start + size, 0))


def _scale_brightness():
    images = torch.tensor([10, 120, 250], dtype=torch.uint8).view(1, 3, 1, 1)
    for factor, due in ((1.37, [14, 164, 255]), (0.26, [3, 31, 65])):
        due = torch.tensor(due, dtype=torch.uint8).view(1, 3, 1, 1)
        yield Case(f"an image of one pixel, 10, 120, 250, factor {factor}", (images, factor), due)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    factor = 1.337  # no byte times this lies half-way between two whole numbers
    due = [min(255, int(factor * byte + 0.5)) for byte in range(256)]
    due = torch.tensor(due, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    yield Case(f"images with every value of 0 to 255, factor {factor}", (images, factor), due)


def _crop_at_once():
    for padding, size in ((4, (6, 5)), (1, (3, 4))):
        draws = generator(24, padding)
        images = torch.randint(256, (7, 3, *size), generator=draws, dtype=torch.uint8)
        rows, columns = torch.randint(2 * padding + 1, (2, 7), generator=draws)
        due = torch.zeros_like(images)
        for number in range(7):
            down, across = int(rows[number]) - padding, int(columns[number]) - padding
            for row in range(size[0]):
                for column in range(size[1]):
                    if 0 <= row + down < size[0] and 0 <= column + across < size[1]:
                        pixel = images[number, :, row + down, column + across]
                        due[number, :, row, column] = pixel
        what = f"seven random images of {size[0]} × {size[1]} pixels, rows {rows.tolist()}, "
        what += f"columns {columns.tolist()}, padding {padding}"
        yield Case(what, (images, rows, columns, padding), due)


def _windows(images, padding):
    padded = F.pad(images, (padding,) * 4)
    return padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)


def _numbers(images):
    return torch.arange(len(images))


def _labelled():
    images = torch.randint(256, (7, 3, 5, 4), generator=generator(25), dtype=torch.uint8)
    return images, torch.tensor([3, 1, 4, 1, 5, 9, 2])


def _pictures():
    images, labels = _labelled()
    what, arguments = "seven images of 5 × 4 pixels and their labels", (images, labels)
    yield Case(what, arguments, 7, ("`len(dataset)`", len))
    parts = ("the number of things in `dataset[5]`", lambda dataset: len(dataset[5]))
    yield Case(what, arguments, 2, parts)
    for place in (5, 0):
        first = (f"`dataset[{place}][0]`", lambda dataset, place=place: dataset[place][0])
        yield Case(what, arguments, images[place], first)
        second = (f"`dataset[{place}][1]`", lambda dataset, place=place: int(dataset[place][1]))
        yield Case(what, arguments, int(labels[place]), second)
    loaded = (
        "the labels that a DataLoader fetches",
        lambda dataset: torch.cat([part for _, part in DataLoader(dataset, batch_size=3)]),
    )
    yield Case(what, arguments, labels.clone(), loaded)


class _Held:
    """A data set in the making, from which the slips are made."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return self.images[place], self.labels[place]


class _LengthOfOne(_Held):
    def __len__(self):
        return len(self.images[0])


class _ImageAlone(_Held):
    def __getitem__(self, place):
        return self.images[place]


class _LabelFirst(_Held):
    def __getitem__(self, place):
        return self.labels[place], self.images[place]


class _AlwaysFirst(_Held):
    def __getitem__(self, place):
        return self.images[0], self.labels[0]


def _augmented():
    images, labels = _labelled()
    images[4] = images[3]  # two places with one picture
    for seed, epoch in ((1, 1), (1, 2), (3, 1)):
        what = f"seven images, their labels, `augment.crop`, seed {seed}, epoch {epoch}"
        arguments = (images, labels, crop, seed, epoch)
        images_of, labels_of = ("each image", _all), ("each label", _all_labels)
        yield Case(what, arguments, Form((7, 3, 5, 4), torch.uint8), images_of)
        yield Case(what, arguments, labels.clone(), labels_of)
        again = "the number of images that differ when asked for again", _differing
        yield Case(what, arguments, Rule(_is_none, AGAIN), again)
        changed = "the number of images that are changed", _number_changed(images)
        yield Case(what, arguments, Rule(_is_some, UNCHANGED), changed)
        apart = "the number of values in which the equal images 3 and 4 now differ", _apart
        yield Case(what, arguments, Rule(_is_some, SAME_DRAW), apart)
        due = [crop(images[i : i + 1], generator(seed, epoch, i))[0] for i in range(7)]
        yield Case(what, arguments, torch.stack(due), images_of)


AGAIN = (
    "The same place gives another picture each time. Make a generator anew at each call, and let "
    "the draws come from it."
)

UNCHANGED = "The images are unchanged: `self.change` is not used, or its result not returned."
SAME_DRAW = "All images get the same draw. The generator has to depend on the place, too."


def _all(dataset):
    return torch.stack([dataset[place][0] for place in range(7)])


def _all_labels(dataset):
    return torch.tensor([int(dataset[place][1]) for place in range(7)])


def _differing(dataset):
    return int((_all(dataset) != _all(dataset)).flatten(1).any(1).sum())


def _number_changed(images):
    return lambda dataset: int((_all(dataset) != images).flatten(1).any(1).sum())


def _apart(dataset):
    return int((dataset[3][0] != dataset[4][0]).sum())


def _is_none(count):
    return isinstance(count, int) and count == 0


def _is_some(count):
    return isinstance(count, int) and count > 0


def _changed(key):
    """A slip: a data set whose draws depend on what `key` makes of seed, epoch and place."""

    class Changed(_Held):
        def __init__(self, images, labels, change, seed, epoch):
            super().__init__(images, labels)
            self.change, self.seed, self.epoch = change, seed, epoch

        def __getitem__(self, place):
            draws = generator(*key(self.seed, self.epoch, place))
            return self.change(self.images[[place]], draws)[0], self.labels[place]

    return Changed


class _Unchanged(_Held):
    def __init__(self, images, labels, change, seed, epoch):
        super().__init__(images, labels)


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

GAPS: dict[str, Exercise] = {
    "02.1": Exercise(
        _mirror_half,
        slips=(
            (lambda images, draws: images.flip(3), "All images are mirrored. Where is the coin?"),
            (
                lambda images, draws: torch.where(_coin(images, draws, 1), images.flip(3), images),
                "You toss one coin for the whole batch. Each image needs one of its own.",
            ),
            (
                lambda images, draws: torch.where(_coin(images, draws), images.flip(2), images),
                "Those stand on their heads. Which dimension counts the columns?",
            ),
            (
                lambda images, draws: torch.where(
                    torch.rand(images.shape, generator=draws) < 0.5, images.flip(3), images
                ),
                "You toss a coin per pixel and colour. One coin per image is for all of them.",
            ),
            (lambda images, draws: images, "No image is mirrored."),
        ),
        hints=(
            "Two parts: mirror all images, then choose, image by image, the one or the other.",
            "A coin per image is a number of `torch.rand(…, generator=generator) < 0.5`. Its shape "
            "decides what it counts for: it has to have a 1 where it counts for all.",
            "The coins are of the shape (N, 1, 1, 1). `torch.where(coins, mirrored, images)` "
            "chooses. `flip(3)` turns the columns round.",
        ),
    ),
    "02.2": Exercise(
        _cutout,
        slips=(
            (
                _painted(lambda start, size: slice(start, start + size)),
                "Where a square begins outside the image, its inner part is missing: Python counts "
                "a negative place from the end.",
            ),
            (
                _painted(lambda start, size: slice(max(start, 0), max(start, 0) + size)),
                "Where a square begins outside, you move it inside. It should be cut off there.",
            ),
            (
                _painted(lambda start, size: slice(max(start, 0), max(start + size + 1, 0))),
                "Your squares are one pixel too large: a slice ends before its second number.",
            ),
            (_painted(_inside, grey=0), "Your squares are black. Grey is 127."),
        ),
        hints=(
            "A slice for the rows, one for the columns, and a colon for the colours: into these "
            "pixels goes 127.",
            "The square has the rows from `top` up to, but not including, `top + size`. Which "
            "of them does the image not have?",
            "`max(top, 0)` is the first row that there is. The end needs no care at the lower "
            "edge: a slice may end beyond it.",
        ),
    ),
    "02.3": Exercise(
        _scale_brightness,
        slips=(
            (
                lambda images, factor: (images.float() * factor).round().long().byte(),
                "Where it gets too bright, your values overflow. They should stop at 255.",
            ),
            (
                lambda images, factor: (images.float() * factor).clamp(0, 255).byte(),
                "Your values are cut down to whole numbers. Round them to the nearest.",
            ),
            (
                lambda images, factor: (images.float() * factor).clamp(0, 1).byte(),
                "Floats of bytes go from 0 to 255, and you stop them at 1.",
            ),
            (
                lambda images, factor: (images.float() * factor).round().clamp(0, 255),
                "The numbers are right. Bytes are asked for.",
            ),
        ),
        hints=(
            "Floats first. Then there are four steps: multiply, round, keep in range, back to "
            "bytes.",
            "`tensor.clamp(lowest, highest)` keeps values in a range. Which range do bytes have?",
            "One chain: `.float()`, the product, `.round()`, `.clamp(…)`, and `.byte()` at the "
            "end.",
        ),
    ),
    "02.4": Exercise(
        _crop_at_once,
        slips=(
            (
                lambda images, rows, columns, padding: _windows(images, padding)[
                    _numbers(images), :, columns, rows
                ],
                "Rows and columns have changed places.",
            ),
            (
                lambda images, rows, columns, padding: _windows(images, padding)[
                    :, :, rows, columns
                ],
                "With a colon in front, every image gets all the windows. Pair the images' own "
                "numbers with the rows and columns.",
            ),
            (
                lambda images, rows, columns, padding: _windows(images, padding)[
                    :, :, rows[0], columns[0]
                ],
                "All images get the window of the first.",
            ),
            (
                lambda images, rows, columns, padding: images,
                "The images are as they were.",
            ),
        ),
        hints=(
            "First all windows, as the text has it: `unfold` along dimension 2, then along "
            "dimension 3. That tensor is (N, 3, places down, places across, height, width).",
            "Then one index per dimension: which image, which colours, which place down, which "
            "across. Three of them are tensors of the length N.",
            "Image number i takes place `rows[i]`: so the first index is 0, 1, 2, … up to N − 1, "
            "which is `torch.arange(len(images))`. The colours are all, a colon.",
        ),
    ),
    "02.5": Exercise(
        _pictures,
        slips=(
            (_LengthOfOne, "That is the length of one image. How many are there?"),
            (_ImageAlone, "That is the image alone. An item is a pair: image and label."),
            (_LabelFirst, "Image and label have changed places."),
            (_AlwaysFirst, "It is the first image, whichever is asked for."),
        ),
        hints=(
            "`__init__` has put the images and labels into `self.images` and `self.labels`. Both "
            "methods only look there.",
            "`len` of a tensor is its first dimension. For images (N, 3, H, W), that is N.",
            "`return a, b` returns a pair. Index both tensors with `place`.",
        ),
    ),
    "02.6": Exercise(
        _augmented,
        slips=(
            (
                _changed(lambda seed, epoch, place: (seed, epoch)),
                SAME_DRAW,
            ),
            (
                _changed(lambda seed, epoch, place: (seed, place)),
                "Every epoch shows the same pictures. The generator has to depend on it, too.",
            ),
            (
                _changed(lambda seed, epoch, place: (epoch, place)),
                "Every training shows the same pictures. The generator has to depend on the seed.",
            ),
            (_Unchanged, UNCHANGED),
        ),
        hints=(
            "Three steps: a generator made for this one picture, the image and its label, the "
            "changed image.",
            "`machine.generator(self.seed, self.epoch, place)` makes it. `self.change` wants a "
            "batch and that generator.",
            "`self.images[place][None]` is a batch of one. What `self.change` returns is a batch, "
            "too: its image is number 0.",
        ),
    ),
}
