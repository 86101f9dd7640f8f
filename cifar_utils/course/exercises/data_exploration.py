"""Exercises and gaps of notebook 01 · Data exploration."""

import numpy as np
import torch
import torch.nn.functional as F

from cifar_utils.course.exercises.form import Case, Exercise, Form, Near, value
from cifar_utils.machine import generator


def _mean_images():
    pixels = torch.tensor([10, 20, 250], dtype=torch.uint8)
    images = pixels[:, None, None, None].expand(3, 3, 1, 1).contiguous()
    what = "three images of one pixel, all three colours 10, 20 and 250, labels 0, 1, 1, classes 2"
    due = torch.tensor([10.0, 135.0])[:, None, None, None].expand(2, 3, 1, 1)
    yield Case(what, (images, torch.tensor([0, 1, 1]), 2), due)
    images = torch.randint(256, (40, 3, 8, 6), generator=generator(1), dtype=torch.uint8)
    labels = torch.tensor([0, 2, 1, 2, 3, 0, 2, 2] * 5)
    sums, counts = torch.zeros(4, 3, 8, 6), torch.zeros(4, 1, 1, 1)
    for image, label in zip(images, labels, strict=True):
        sums[label] += image
        counts[label] += 1
    yield Case("40 random images of four classes", (images, labels, 4), sums / counts)


def _by_class(mean):
    """A slip: per class, what `mean` makes of its images and of all."""
    return lambda images, labels, classes: torch.stack(
        [mean(images[labels == label], images) for label in range(classes)]
    )


def _identical_pairs():
    images = torch.randint(256, (30, 3, 4, 4), generator=generator(2), dtype=torch.uint8)
    four = images[:4].clone()
    four[3] = four[1]
    yield Case("four images, the last equal to the second", (four,), {(1, 3)})
    images[9] = images[8].flip(2)  # the same bytes in another order
    images[29] = images[28]
    images[29, 2, 3, 3] ^= 1  # a single bit differs
    different = images.clone()
    yield Case("30 different images, two of them alike but for one bit", (different,), set())
    images[[7, 20, 25]] = images[[3, 11, 3]].clone()
    what = "30 images, with two equal ones and three equal ones among them"
    yield Case(what, (images,), {(3, 7), (3, 25), (7, 25), (11, 20)})


def _pairs(key=lambda image: image.numpy().tobytes(), keep=lambda i, j: i < j):
    """A slip: the pairs of images with the same key that `keep` keeps."""

    def answer(images):
        keys = [key(image) for image in images]
        places = range(len(keys))
        return [(i, j) for i in places for j in places if keys[i] == keys[j] and keep(i, j)]

    return answer


def _only_last(images):
    """A slip: a dictionary that remembers one image per content, the last."""
    seen, pairs = {}, []
    for place, image in enumerate(images):
        key = image.numpy().tobytes()
        pairs += [(seen[key], place)] if key in seen else []
        seen[key] = place
    return pairs


def _only_first(images):
    """A slip: a dictionary that remembers one image per content, the first."""
    keys = [image.numpy().tobytes() for image in images]
    return [(keys.index(key), j) for j, key in enumerate(keys) if keys.index(key) < j]


# --- the gaps' cases and slips --------------------------------------------------------------------


def _read_row():
    counted = np.arange(3072) % 251  # 251 is prime, so no two planes look alike
    drawn = torch.randint(256, (3072,), generator=generator(11)).numpy()
    for what, values in (("a row that counts up to 250, again and again", counted),
                         ("a row of random values", drawn)):  # fmt: skip
        row, image = values.astype(np.uint8), np.zeros((3, 32, 32), np.uint8)
        for place, value_there in enumerate(row):
            image[place // 1024, place % 1024 // 32, place % 32] = value_there
        image = torch.from_numpy(image)
        picture = torch.stack(image.unbind(0), dim=-1)
        yield Case(what, (row,), {"image": image, "picture": picture})


def _straight(row):
    picture = row.reshape(32, 32, 3)
    return picture.transpose(2, 0, 1), picture


def _planes(row):
    return row.reshape(3, 32, 32)


def _channel_statistics():
    images = torch.zeros(4, 3, 60, 50, dtype=torch.uint8)
    images[:2] = 255
    images[:, 2] = 51  # a fifth of 255
    what = "two images with red and green 255 and two with 0; blue is 51 everywhere"
    due = {"mean": torch.tensor([0.5, 0.5, 0.2]), "std": torch.tensor([0.5, 0.5, 0.0])}
    yield Case(what, (images,), due)
    images = torch.randint(256, (12, 3, 40, 30), generator=generator(12), dtype=torch.uint8)
    images = images // torch.arange(1, 13, dtype=torch.uint8)[:, None, None, None]
    values = [images.numpy()[:, channel].astype(float) / 255 for channel in range(3)]
    due = {
        "mean": torch.tensor([one.mean() for one in values]),
        "std": torch.tensor([(one**2).mean() - one.mean() ** 2 for one in values]).sqrt(),
    }
    yield Case("12 random images, some darker than others", (images,), due)


def _statistics(measure, scale=255):
    """A slip: what `measure` makes of the pixels, which are divided by `scale`."""
    return lambda images: measure(images.float() / scale)


def _normalize():
    mean, std = torch.tensor([0.5, 0.4, 0.2]), torch.tensor([0.25, 0.2, 0.1])
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, 1, 3)
    due = torch.tensor([2.0, -2.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    given = "mean 0.5, 0.4, 0.2 and std 0.25, 0.2, 0.1"
    what = f"an image of 1 × 3 pixels, red 255, green 0, blue 51; {given}"
    yield Case(what, (images, mean, std), due)
    images = torch.randint(256, (5, 3, 4, 3), generator=generator(13), dtype=torch.uint8)
    due = torch.zeros(5, 3, 4, 3)
    for channel in range(3):
        pixels = images[:, channel] / 255
        due[:, channel] = (pixels - mean[channel].item()) / std[channel].item()
    yield Case(f"five random images of 4 × 3 pixels, {given}", (images, mean, std), due)


def _by_channel(values):
    return values.view(3, 1, 1)


def _hold_out():
    for per_class, seed in ((40, 14), (25, 15)):
        labels = torch.arange(3).repeat_interleave(torch.tensor([300, 200, 100]))
        labels = labels[torch.randperm(600, generator=generator(seed))]
        arguments = (labels, per_class, generator(seed))
        what = f"600 labels of three classes and a generator, {per_class} per class"
        yield Case(what, arguments, Form((3 * per_class,), torch.int64))
        for due, of in (
            (0, ("the number of positions outside 0 to 599", _outside)),
            (0, ("the number of positions that come twice", _repeated)),
            (torch.full((3,), per_class), ("how many are of each class", _counted(labels))),
            (Near(0.5, 0.12), ("the mean position, as a share of 600,", _middle)),
        ):
            yield Case(what, arguments, due, of)


def _outside(places):
    return int(((places < 0) | (places > 599)).sum())


def _repeated(places):
    return len(places) - len(places.unique())


def _counted(labels):
    return lambda places: labels[places].bincount(minlength=3)


def _middle(places):
    return places.double().mean().item() / 600


def _picked(pick):
    """A slip: per class, what `pick` makes of its positions, `per_class` and the generator."""
    return lambda labels, per_class, generator: torch.cat(
        [pick((labels == label).nonzero()[:, 0], per_class, generator) for label in labels.unique()]
    )


def _nearest_mean():
    means = torch.tensor([0.0, 100.0, 250.0])[:, None, None, None].expand(3, 3, 2, 2).contiguous()
    means[2, 0] = 0.0  # no red in the last class
    images = torch.tensor([[10, 10, 10], [120, 90, 90], [0, 200, 240], [40, 60, 30]])
    images = images.to(torch.uint8)[:, :, None, None].expand(4, 3, 2, 2).contiguous()
    what = "four images of one colour each, and the mean images of three classes"
    yield Case(what, (images, means), torch.tensor([0, 1, 2, 0]))
    means = 255 * torch.rand(5, 3, 4, 4, generator=generator(16))
    images = torch.randint(256, (40, 3, 4, 4), generator=generator(17), dtype=torch.uint8)
    due = []
    for image in images.double():
        distances = [(image - one).square().sum().item() for one in means.double()]
        due.append(distances.index(min(distances)))
    yield Case("40 random images and five random means", (images, means), torch.tensor(due))


def _distances(images, means):
    return torch.cdist(images.flatten(1).float(), means.flatten(1))


def _linear_accuracy():
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.25, 0.0]])
    labels, weight = torch.tensor([0, 1, 1, 1]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    for bias, due in (([0.0, 0.0], 0.75), ([1.5, 0.0], 0.5)):
        what = f"inputs {inputs.tolist()}, labels {labels.tolist()}, weight {weight.tolist()}"
        yield Case(f"{what}, bias {bias}", (inputs, labels, weight, torch.tensor(bias)), due)
    draws = generator(18)
    inputs, weight = torch.randn(40, 6, generator=draws), torch.randn(5, 6, generator=draws)
    bias = torch.randn(5, generator=draws)
    scores = F.linear(inputs, weight, bias).tolist()
    best = torch.tensor([one.index(max(one)) for one in scores])
    labels = torch.where(torch.arange(40) % 8 < 3, best, (best + 1) % 5)
    what = "40 random inputs of six numbers, five classes"
    yield Case(what, (inputs, labels, weight, bias), 15 / 40)


def _share(predictions, labels):
    return (predictions == labels).float().mean().item()


def _true_range():
    for agreed, wrong, images in ((90, 5, 100), (98, 5, 100), (3, 5, 100), (9200, 54, 10_000)):
        # Try how many of the wrong labels it goes along with, and how many of the others it reads
        # right: the true number is what is left of the agreed ones, and these.
        possible = [
            agreed - along + right
            for along in range(wrong + 1)
            if along <= agreed and wrong - along <= images - agreed
            for right in range(wrong - along + 1)
        ]
        what = f"agreed {agreed}, wrong {wrong}, images {images}"
        due = {"lowest": min(possible), "highest": max(possible)}
        yield Case(what, (agreed, wrong, images), due)


def _thumbnails():
    images = torch.zeros(1, 3, 4, 8, dtype=torch.uint8)
    images[..., 4:] = 200
    what = "one image of 4 × 8 pixels, its left half black and its right half 200"
    side = 6**-0.5
    yield Case(what, (images,), torch.tensor([[-side, side] * 3]))
    images = torch.randint(256, (6, 3, 8, 12), generator=generator(19), dtype=torch.uint8)
    rows = []
    for image in images.double():
        blocks = [
            image[channel, row : row + 4, column : column + 4].mean().item()
            for channel in range(3)
            for row in (0, 4)
            for column in (0, 4, 8)
        ]
        mean = sum(blocks) / len(blocks)
        length = sum((block - mean) ** 2 for block in blocks) ** 0.5
        rows.append([(block - mean) / length for block in blocks])
    yield Case("six random images of 8 × 12 pixels", (images,), torch.tensor(rows))


def _shrunk(images):
    return F.avg_pool2d(images.float(), 4).flatten(1)


EXERCISES = {
    "01a": Exercise(
        value(torch.zeros(3, 32, 32, dtype=torch.float32).nbytes),
        slips=(
            (3072, "That is how many numbers there are. How many bytes does each float take?"),
            (4096, "That is one colour. An image has three."),
            (98_304, "Those are the bits. How many of them make a byte?"),
            (6144, "Two bytes per number would be 16 bits. Here each has 32."),
        ),
        hints=(
            "First count the numbers: how many pixels are there, and how many numbers per pixel?",
            "Then the bytes: a byte has 8 bits. How many bytes do 32 bits fill?",
            "Multiply four things: rows, columns, colours, and the bytes of one number.",
        ),
    ),
    "01b": Exercise(
        value(torch.arange(3072).view(3, 32, 32)[1, 5, 7].item()),
        slips=(
            (167, "That is where this pixel's red value is. Which plane is green?"),
            (2215, "That is where this pixel's blue value is. Counted from 0, green is plane 1."),
            (1253, "That is row 7, column 5. A step to the next row is 32 values long."),
            (1192, "One too far: the first value is at place 0, not 1."),
            (1158, "That is row 4, column 6. Rows and columns count from 0 here."),
            (502, "The three colours of a pixel are not neighbours: each has a plane of its own."),
        ),
        hints=(
            "The 3,072 values are three planes, one after the other: red, green, blue.",
            "How many values come before the green plane? How many, in it, before row 5?",
            "Add three numbers: the values of one whole plane, those of five rows, and 7.",
        ),
    ),
    "01c": Exercise(
        _mean_images,
        slips=(
            (
                _by_class(lambda own, every: every.float().mean(0)),
                "That is the mean of all images, for each class. Take only the images of a class.",
            ),
            (
                _by_class(lambda own, every: own.float().sum(0) / len(every)),
                "You divide by the number of all images. How many belong to the class?",
            ),
            (
                _by_class(lambda own, every: own.float().sum(0)),
                "Those are the sums. A mean is divided by the number of images.",
            ),
            (
                _by_class(lambda own, every: own.sum(0, dtype=torch.uint8).float() / len(own)),
                "The sum overflows: a byte goes up to 255. Make floats of the images first.",
            ),
            (
                _by_class(lambda own, every: own.float().mean(0).byte()),
                "The means are cut to whole numbers. Floats are asked for.",
            ),
        ),
        hints=(
            "Begin with one class: `images[labels == 3]` are the images of class 3.",
            "Their mean over dimension 0 is one image. (Floats first: bytes have no mean.) "
            "`torch.stack` puts the classes' means into one tensor.",
            "Without any loop: `F.one_hot(labels, classes)` has a 1 where an image belongs to a "
            "class, so its transpose times the flattened images adds up each class's images.",
        ),
    ),
    "01d": Exercise(
        _identical_pairs,
        slips=(
            (lambda images: [], "You find no pair, but some images are equal."),
            (
                _pairs(keep=lambda i, j: i > j),
                "Each pair is the wrong way round: the smaller number comes first.",
            ),
            (_pairs(keep=lambda i, j: i != j), "You give each pair twice: (i, j) and (j, i)."),
            (
                _pairs(keep=lambda i, j: i <= j),
                "You pair every image with itself, too. Only pairs with i < j count.",
            ),
            (
                _pairs(key=lambda image: image.sum().item()),
                "Images with the same sum need not be equal. Compare all their bytes.",
            ),
            (
                _pairs(key=lambda image: image[0].numpy().tobytes()),
                "Those agree in their red plane. And the other two?",
            ),
            (_only_last, "Of three equal images you miss a pair: the first with the third."),
            (_only_first, "Of three equal images you miss a pair: the second with the third."),
        ),
        hints=(
            "Two loops, and `torch.equal` inside, are right, but slow. What could you look up "
            "instead of comparing?",
            "A dictionary can remember which images were seen with the same bytes: "
            "`image.numpy().tobytes()` is a good key.",
            "Let the dictionary keep a list of places per key. Each new image makes a pair with "
            "every place in its list, and is then added to it.",
        ),
    ),
}

GAPS: dict[str, Exercise] = {
    "01.1": Exercise(
        _read_row,
        slips=(
            (
                _straight,
                "Three neighbouring values are not the colours of one pixel: the file has all red "
                "values first. Cut out the three planes.",
            ),
            (
                lambda row: (_planes(row), _planes(row).reshape(32, 32, 3)),
                "The image is right. For the picture, `reshape` moves no number, it only cuts "
                "the same order anew. The colours have to move to the end.",
            ),
            (
                lambda row: (_planes(row), _planes(row).T),
                "The image is right. In the picture, rows and columns have changed places: "
                "height comes before width.",
            ),
            (
                lambda row: (_planes(row), _planes(row)),
                "The image is right. The picture is the same, but with the colours as its last "
                "dimension.",
            ),
        ),
        hints=(
            "The row holds three planes of 1,024 values, and each plane 32 rows of 32. Read the "
            "three numbers of the image's shape from that, from the outside in.",
            "Two calls: `reshape` makes the image of the row, `transpose` the picture of the "
            "image.",
            "In the image, dimension 0 is the colour, 1 the height and 2 the width. Give "
            "`transpose` these three numbers in the order that the picture needs.",
        ),
    ),
    "01.2": Exercise(
        _channel_statistics,
        slips=(
            (
                _statistics(lambda x: (x.mean((0, 2, 3)), x.std((2, 3)).mean(0))),
                "That is the mean of the images' own deviations. Take all images' pixels of a "
                "colour together, and then one deviation.",
            ),
            (
                _statistics(lambda x: (x.mean((0, 2, 3)), x.std((0, 2, 3))), scale=1),
                "Those are values of 0 to 255. They are to be scaled to 0 to 1 first.",
            ),
            (
                _statistics(lambda x: (x.mean((0, 2, 3)), x.var((0, 2, 3)))),
                "The second is the variance. The standard deviation is its square root.",
            ),
            (
                _statistics(lambda x: (x.mean(), x.std())),
                "That is one number for all colours. Each colour is to have its own.",
            ),
            (
                _statistics(lambda x: (x.mean(0), x.std(0))),
                "That averages over the images only, and leaves every pixel by itself.",
            ),
        ),
        hints=(
            "Bytes cannot be averaged: make floats of them, and divide so that 255 becomes 1.",
            "Of the four dimensions (N, 3, H, W), one has to be left: that of the colours. Average "
            "over the other three at once.",
            "`pixels.mean(dim=(…))` with the numbers of these three dimensions. `std` takes the "
            "same argument.",
        ),
    ),
    "01.3": Exercise(
        _normalize,
        slips=(
            (
                lambda x, mean, std: (x.float() - _by_channel(mean)) / _by_channel(std),
                "The mean is one of values in 0 to 1, and yours are still in 0 to 255.",
            ),
            (
                lambda x, mean, std: (x / 255 - mean) / std,
                "The three means have met the three columns, not the three colours. Give them a "
                "height and a width of 1.",
            ),
            (
                lambda x, mean, std: (x / 255 - _by_channel(mean)) / _by_channel(std) ** 2,
                "You divide by the variance. Divide by its square root.",
            ),
            (
                lambda x, mean, std: x / 255 - _by_channel(mean),
                "The mean is subtracted. Now the standard deviation.",
            ),
            (
                lambda x, mean, std: x / 255 / _by_channel(std) - _by_channel(mean),
                "The formula subtracts first and divides afterwards.",
            ),
        ),
        hints=(
            "Three operations, in the order of the formula: to 0 to 1, minus the mean, by the "
            "standard deviation.",
            "Images are (N, 3, H, W). A mean of the shape (3, 1, 1) meets them colour by colour.",
            "`mean.view(3, 1, 1)` has that shape, and `std.view(3, 1, 1)`. Mind the brackets: "
            "the subtraction comes before the division.",
        ),
    ),
    "01.4": Exercise(
        _hold_out,
        slips=(
            (
                _picked(lambda places, count, draws: places[:count]),
                "Those are the first of each class. A file may have an order, so draw at random.",
            ),
            (
                lambda labels, count, draws: torch.randperm(len(labels), generator=draws)[
                    : count * len(labels.unique())
                ],
                "Those are as many as they should be, but not the same number of each class.",
            ),
            (
                _picked(
                    lambda places, count, draws: torch.randperm(len(places), generator=draws)[
                        :count
                    ]
                ),
                "Those numbers count within a class. Which places in `labels` do they stand for?",
            ),
            (
                _picked(
                    lambda places, count, draws: places[
                        torch.randint(len(places), (count,), generator=draws)
                    ]
                ),
                "Some positions come twice. `randperm` shuffles, so it gives every number once.",
            ),
        ),
        hints=(
            "Inside the loop you have one class. Which places in `labels` have it?",
            "`torch.randperm(len(places), generator=generator)` is a random order of them. Only "
            "the first `per_class` of that order are needed.",
            "Index twice: the order's first numbers choose among the class's places, and those "
            "places are what `chosen` gets.",
        ),
    ),
    "01.5": Exercise(
        _nearest_mean,
        slips=(
            (
                lambda images, means: _distances(images, means).argmax(1),
                "Those are the classes that are farthest away.",
            ),
            (
                lambda images, means: _distances(images, means).argmin(0),
                "Those are the nearest images, one for each class. The nearest class of each "
                "image is asked for.",
            ),
            (
                lambda images, means: (
                    (images.float().mean((1, 2, 3))[:, None] - means.mean((1, 2, 3)))
                    .abs()
                    .argmin(1)
                ),
                "That compares the brightness alone. Compare all numbers of the two images.",
            ),
            (
                lambda images, means: _distances(images, means).min(1).values,
                "Those are the distances to the nearest. Which class is it?",
            ),
        ),
        hints=(
            "Make rows of both, images and means. Bytes become floats first.",
            "`torch.cdist(rows, other_rows)` has one row per image and one column per class.",
            "The class is the column of the smallest number in each row: `argmin` along the "
            "dimension of the columns.",
        ),
    ),
    "01.6": Exercise(
        _linear_accuracy,
        slips=(
            (
                lambda x, labels, weight, bias: _share((x @ weight.T).argmax(1), labels),
                "You have left out the bias.",
            ),
            (
                lambda x, labels, weight, bias: _share((x @ weight.T + bias).argmin(1), labels),
                "The lowest score wins in yours. It should be the highest.",
            ),
            (
                lambda x, labels, weight, bias: int(
                    ((x @ weight.T + bias).argmax(1) == labels).sum()
                ),
                "That is how many are right. Which share of all is it?",
            ),
            (
                lambda x, labels, weight, bias: (
                    100 * _share((x @ weight.T + bias).argmax(1), labels)
                ),
                "Those are percent. A share lies between 0 and 1.",
            ),
        ),
        hints=(
            "The formula for all inputs and classes at once is a matrix product: (N, D) times "
            "(D, classes). How do you get the second from `weight`?",
            "`inputs @ weight.T + bias` has one row per input and one column per class. Which "
            "column has the highest score?",
            "`argmax(dim=1)` gives the predictions. `predictions == labels` is True where they are "
            "right; as floats, the mean of these is the share. `.item()` makes a number of it.",
        ),
    ),
    "01.7": Exercise(
        _true_range,
        slips=(
            (
                lambda agreed, wrong, images: (max(agreed - wrong, 0), min(agreed + wrong, images)),
                "The lowest is right. At best, a network that agrees with 98 of 100 labels cannot "
                "gain five images: it disagrees with only two labels.",
            ),
            (
                lambda agreed, wrong, images: (agreed - wrong, min(agreed + wrong, images)),
                "The network of the example disagrees with two labels: it can gain two images "
                "there, and three wrong labels stay among its 98.",
            ),
            (
                lambda agreed, wrong, images: (agreed - wrong, agreed + wrong),
                "That is right for most networks. Two cannot bear all of it: one that agrees with "
                "fewer labels than are wrong, and one that disagrees with fewer.",
            ),
            (
                lambda agreed, wrong, images: (max(agreed - wrong, 0), agreed),
                "The lowest is right. At best, the network gains: it may disagree with a wrong "
                "label and be right itself.",
            ),
            (
                lambda agreed, wrong, images: (
                    agreed - wrong,
                    agreed - wrong + 2 * min(wrong, images - agreed),
                ),
                "It is nearly right. But a network cannot go along with more wrong labels than it "
                "agrees with at all.",
            ),
        ),
        hints=(
            "Each wrong label lies either among those that the network agrees with, where it costs "
            "an image, or among the others, where it may gain one.",
            "At worst, as many as possible lie among the labels that it agrees with: "
            "`min(wrong, agreed)`. At best, as many as possible lie among the others. How many "
            "others are there?",
            "At best it disagrees with `caught = min(wrong, images - agreed)` wrong labels. It "
            "gains these, and loses the remaining `wrong - caught`.",
        ),
    ),
    "01.8": Exercise(
        _thumbnails,
        slips=(
            (
                lambda images: F.normalize(_shrunk(images)),
                "The rows have length 1, but not mean 0: a bright image would be like any other "
                "bright one.",
            ),
            (
                lambda images: _shrunk(images) - _shrunk(images).mean(1, keepdim=True),
                "The rows have mean 0, but not length 1: contrast would still count.",
            ),
            (
                lambda images: F.normalize(_shrunk(images) - _shrunk(images).mean(0)),
                "You subtract the mean of all images, number by number. Each row is to lose its "
                "own mean.",
            ),
            (
                lambda images: F.normalize(
                    _shrunk(images) - _shrunk(images).mean(1, keepdim=True), dim=0
                ),
                "The columns have length 1 in yours. The rows should: one row is one image.",
            ),
            (
                lambda images: F.normalize(
                    images.float().flatten(1) - images.float().mean((1, 2, 3))[:, None]
                ),
                "That is the whole image. Shrink it first: average over blocks of 4 × 4 pixels.",
            ),
        ),
        hints=(
            "Four steps, one after the other: shrink, make rows, subtract, divide.",
            "`nn.functional.avg_pool2d(images.float(), 4)` shrinks, `.flatten(1)` makes rows. "
            "With `keepdim=True`, `mean(dim=1)` can be subtracted from them.",
            "The length of a row is the root of the sum of its squares. "
            "`nn.functional.normalize(rows)` divides each row by it.",
        ),
    ),
}
