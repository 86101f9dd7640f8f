"""Exercises of notebook 01 · Data exploration."""

import torch

from cifar_utils.course.exercises.form import Case, Exercise, value
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
