"""The pictures in images/, drawn from CIFAR-10 and the shipped weights, histories and heatmaps.

PICTURES lists them all. On one machine the same files give the same bytes.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cifar_utils import evaluate, plots
from cifar_utils.augment import augment
from cifar_utils.checkpoints import PRETRAINED, load_pretrained
from cifar_utils.data import CLASSES, Cifar
from cifar_utils.explain import DEFAULTS, grad_cam, method_title
from cifar_utils.gifs import save_cam_gif
from cifar_utils.heatmaps import load_heatmaps
from cifar_utils.machine import generator
from cifar_utils.models import ConvNet, create_model
from cifar_utils.profile import mult_adds
from cifar_utils.results.report import PUBLISHED, shipped_results

NETWORK = "resnet18"  # the shipped network whose answers are shown
LEARNER = "compact-val"  # the one whose learning is shown, in images that were held out
LEARNED = ("ship", "airplane", "bird", "dog", "frog")  # their classes

Picture = Callable[[Path, Cifar], None]  # draws one picture to a path


def draw(names: Iterable[str], folder: Path, cifar: Cifar) -> Iterator[Path]:
    """Draw the pictures with these names into `folder`, and yield each path once it is written.

    The names are keys of PICTURES.
    """
    for name in names:
        PICTURES[name](folder / name, cifar)
        yield folder / name


@functools.cache
def _answers(cifar: Cifar) -> tuple[ConvNet, Tensor]:
    """NETWORK as it ships, and its logits for all test images, (N, 10)."""
    model, _ = load_pretrained(NETWORK)
    return model, evaluate.predict(model, cifar.test.images)


def samples(path: Path, cifar: Cifar) -> None:
    """A row of training images for each class."""
    rows = {
        name: cifar.train.images[cifar.train.labels == label][:12]
        for label, name in enumerate(cifar.classes)
    }
    plots.save(plots.show_rows(rows), path)


def montage(path: Path, cifar: Cifar) -> None:
    """The first 1,024 training images, pixel for pixel."""
    plots.save_montage(path, cifar.train.images[:1024])


def augmentations(path: Path, cifar: Cifar) -> None:
    """One training image under several augmentation policies, drawn twelve times under each."""
    policies = ("crop-flip", "translate-alternating", "crop-alternating-cutout", "crop-flip-color",
                "conv5-published", "compact-published", "separable-published",
                "resnet18-published")  # fmt: skip
    image = cifar.train.images[cifar.train.labels == CLASSES.index("horse")][:1]
    rows = {"the image itself": image}
    for policy in policies:
        several = image.expand(12, -1, -1, -1).contiguous()
        rows[policy] = augment(several, policy, generator=generator(0), epoch=1)
    plots.save(plots.show_rows(rows), path)


@plots.styled
def curves(path: Path, cifar: Cifar) -> None:
    """Accuracy and loss, training and test, of the first shipped run of each of the five."""
    import matplotlib.pyplot as plt

    results = shipped_results()
    first = {name: results[name].runs[0] for name in PUBLISHED if name in results}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    plots.compare_histories(first, title="Accuracy", ax=left)
    plots.compare_histories(first, title="Loss", metric="loss", ax=right)
    left.set_ylim(0.6, 1)  # the first epochs lie below
    right.set_ylim(0, 1.2)  # and here above
    left.get_legend().remove()  # type: ignore[union-attr]  # one for both panels is enough
    plots.save(figure, path)


def confusion(path: Path, cifar: Cifar) -> None:
    """Which classes are mistaken for which: the confusion matrix of the test images."""
    _, logits = _answers(cifar)
    matrix = evaluate.confusion_matrix(logits, cifar.test.labels)
    right = evaluate.accuracy(logits, cifar.test.labels)
    title = f"{NETWORK}: {right:.1%} of the test images right"
    plots.save(plots.plot_confusion_matrix(matrix, classes=cifar.classes, title=title), path)


def _gallery(find: Callable, show: Callable, heading: str, *, with_cam: bool) -> Picture:
    """A gallery of test images: `find` ranks them, `show` draws them, with heatmaps or without."""

    def draw_gallery(path: Path, cifar: Cifar) -> None:
        model, logits = _answers(cifar)
        test = cifar.test
        ranked = find(logits, test.labels, count=8 if with_cam else 15)
        heatmaps, title = None, f"{NETWORK}: {heading}"
        if with_cam:
            images = test.images[ranked.indices]
            heatmaps = grad_cam(model, images, ranked.predictions, **DEFAULTS)
            title = f"{title}, with {method_title(DEFAULTS['method'])} of the predicted class"
        figure = show(
            test.images, ranked, heatmaps, classes=cifar.classes, columns=4 if with_cam else 5,
            title=title,
        )  # fmt: skip
        plots.save(figure, path)

    return draw_gallery


def _learning(place: int) -> Picture:
    """Where LEARNER looked in one held-out image, epoch by epoch; place: which one was kept."""

    def draw_learning(path: Path, cifar: Cifar) -> None:
        maps, indices, _ = load_heatmaps(PRETRAINED / f"{LEARNER}-cam.npz")
        heatmaps = torch.from_numpy(maps)  # (epochs, images, 32, 32)
        index = int(indices[place])
        (where,) = (cifar.train.indices == index).nonzero()  # `cifar` has nothing held out
        image = cifar.train.images[where[0]]
        save_cam_gif(  # small and quick, because there are 41 epochs
            path, image, heatmaps[:, place], name=LEARNED[place], scale=6, milliseconds=300
        )

    return draw_learning


def cost(path: Path, cifar: Cifar) -> None:
    """Accuracy against multiply-adds of the five networks, published and ours."""
    points = {}
    for name, result in shipped_results().items():
        if name in PUBLISHED:  # another recipe of the same network would cover it
            cost = mult_adds(create_model(name, seed=0))
            points[name] = cost, PUBLISHED[name].accuracy, result.accuracy
    plots.save(plots.plot_cost(points), path)


_mistakes = evaluate.most_confident_mistakes, plots.show_mistakes, "its most confident mistakes"
_hits = evaluate.most_confident_hits, plots.show_hits, "its most confident hits"

PICTURES: dict[str, Picture] = {
    "samples.png": samples,
    "montage.png": montage,
    "augmentations.png": augmentations,
    "curves.png": curves,
    "confusion.png": confusion,
    "mistakes.png": _gallery(*_mistakes, with_cam=False),
    "hits.png": _gallery(*_hits, with_cam=False),
    "mistakes-cam.png": _gallery(*_mistakes, with_cam=True),
    "hits-cam.png": _gallery(*_hits, with_cam=True),
    **{f"cam-{name}.gif": _learning(place) for place, name in enumerate(LEARNED)},
    "cost.png": cost,
}
