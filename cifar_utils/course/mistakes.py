"""Mistakes that everyone makes: one plain training, and eight with one mistake each.

Notebook 05 shows the eight under letters and asks which is which. If you want to guess, read this
file afterwards. It begins with the parts of a training as they should be. Then come the mistakes,
each a part that differs in one place. The rest runs them, and says what the package has against
them.
"""

import inspect
import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_utils import data, evaluate, train
from cifar_utils.augment import cutout, flip, translate
from cifar_utils.data import normalize
from cifar_utils.errors import CifarError, choose
from cifar_utils.plots import BLUE, ORANGE, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# --- the parts of a training, as they should be ---------------------------------------------------


def split(images: Tensor, labels: Tensor, order: Tensor, count: int) -> tuple[Tensor, ...]:
    """The first `count` images of a random order are for validation, the others for training.

    Returns training images, training labels, validation images, validation labels.
    """
    validation, training = order[:count], order[count:]
    return images[training], labels[training], images[validation], labels[validation]


def shuffled(images: Tensor, labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels in a new order. order: int64 (N,), each place once."""
    return images[order], labels[order]


def augmented(images: Tensor) -> Tensor:
    """Each image shifted, perhaps mirrored, and with a grey square on it. For training only."""
    return cutout(flip(translate(images)), size=12)


def step(network: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor) -> float:
    """One step on a batch. inputs: normalised float (B, 3, 32, 32). Returns the loss."""
    logits = network(inputs)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that the network gets right. images: uint8 (N, 3, 32, 32)."""
    network.eval()
    with torch.no_grad():
        logits = network(normalize(images))
    return (logits.argmax(1) == labels).float().mean().item()


RATE = 0.002  # the learning rate


# --- the mistakes ---------------------------------------------------------------------------------


def step_without_zero_grad(network, optimizer, inputs, labels):
    logits = network(inputs)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def step_with_softmax(network, optimizer, inputs, labels):
    probabilities = network(inputs).softmax(1)
    loss = F.cross_entropy(probabilities, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def accuracy_in_training_mode(network, images, labels):
    network.train()
    with torch.no_grad():
        logits = network(normalize(images))
    return (logits.argmax(1) == labels).float().mean().item()


def shuffled_apart(images, labels, order):
    return images[order], labels


def accuracy_not_normalised(network, images, labels):
    network.eval()
    with torch.no_grad():
        logits = network(images / 255)
    return (logits.argmax(1) == labels).float().mean().item()


RATE_TIMES_30 = 30 * RATE


def accuracy_of_augmented(network, images, labels):
    network.eval()
    with torch.no_grad():
        logits = network(normalize(augmented(images)))
    return (logits.argmax(1) == labels).float().mean().item()


def split_that_overlaps(images, labels, order, count):
    validation, training = order[:count], order
    return images[training], labels[training], images[validation], labels[validation]


# --- pipelines: the parts put together ------------------------------------------------------------


@dataclass(frozen=True)
class Pipeline:
    """What one training is made of. `replace(Pipeline(), step=...)` changes one part."""

    split: Callable[..., tuple[Tensor, ...]] = split
    shuffled: Callable[..., tuple[Tensor, Tensor]] = shuffled
    step: Callable[..., float] = step
    accuracy: Callable[..., float] = accuracy
    rate: float = RATE


class Fault(NamedTuple):
    """A mistake: in words, the pipeline that has it, and what the package has against it.

    guard: a function of the package and, of its source, the line that prevents the mistake.
    """

    words: str
    pipeline: Pipeline
    guard: tuple[Callable, str]


FAULTS: dict[int, Fault] = {
    1: Fault(
        "`zero_grad` is forgotten",
        Pipeline(step=step_without_zero_grad),
        (train.train_one_epoch, "optimizer.zero_grad()"),
    ),
    2: Fault(
        "softmax comes before the cross-entropy, which has one itself",
        Pipeline(step=step_with_softmax),
        (train.train_one_epoch, "loss = F.cross_entropy(logits, labels, "),
    ),
    3: Fault(
        "the network is judged in training mode",
        Pipeline(accuracy=accuracy_in_training_mode),
        (evaluate.predict, "with evaluating(model):"),
    ),
    4: Fault(
        "the images are shuffled, the labels are not",
        Pipeline(shuffled=shuffled_apart),
        (data.Split.__getitem__, "images, labels, indices = (t[chosen] for t in "),
    ),
    5: Fault(
        "the images that it is judged on are not normalised",
        Pipeline(accuracy=accuracy_not_normalised),
        (evaluate.predict, "inputs = normalize("),
    ),
    6: Fault(
        "the learning rate is 30 times too large",
        Pipeline(rate=RATE_TIMES_30),
        (evaluate.Totals.means, "raise DivergedError("),
    ),
    7: Fault(
        "the images that it is judged on are augmented",
        Pipeline(accuracy=accuracy_of_augmented),
        (train.fit, "batches = load_batches(train, "),
    ),
    8: Fault(
        "the validation images are among the training images",
        Pipeline(split=split_that_overlaps),
        (data.Cifar.hold_out, "kept[held_out] = False"),
    ),
}
# Under which letter notebook 05 shows each of them.
LETTERS = {"A": 4, "B": 3, "C": 6, "D": 8, "E": 2, "F": 7, "G": 1, "H": 5}


def guard(number: int) -> str:
    """Where the package guards against a mistake: `evaluate.predict: with evaluating(model):`.

    Raises CifarError if that line is no longer there.
    """
    choose(number, FAULTS, "fault")
    function, wanted = FAULTS[number].guard
    for line in inspect.getsource(function).splitlines():
        if line.strip().startswith(wanted):
            chapter = Path(inspect.getfile(function)).stem
            return f"{chapter}.{function.__qualname__}: {line.strip()}"
    raise CifarError(f"{function.__qualname__} has no line that begins with {wanted!r}")


def show(number: int) -> None:
    """Print the part of a pipeline that holds a mistake."""
    choose(number, FAULTS, "fault")
    faulty, right = FAULTS[number].pipeline, Pipeline()
    print(f"# {number}: {FAULTS[number].words}")
    for part in fields(Pipeline):
        ours = getattr(faulty, part.name)
        if ours == getattr(right, part.name):
            continue
        source = inspect.getsource(ours) if callable(ours) else f"rate = {ours:g}"
        print(source.rstrip())


# --- running them ---------------------------------------------------------------------------------


def small_network() -> nn.Module:
    """Three convolutions with batch norm, dropout, one linear layer; 33,946 parameters.

    The last layer begins at zero, so the first loss is ln 10.
    """

    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    head = nn.Linear(64 * 4 * 4, 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        block(3, 16, 2), block(16, 32, 2), block(32, 64, 1),  # (N, 64, 8, 8)
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), head,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How long a pipeline trains: images held out and judged, epochs, images per batch."""

    validation: int = 1000
    judged: int = 500  # training images that are judged, too
    epochs: int = 15
    batch_size: int = 25


@dataclass(frozen=True)
class Outcome:
    """What a pipeline reports about itself.

    losses: of each step. training, validation: accuracies after each epoch, on images as they are
    and not as they are seen in training. again: the last network's validation accuracy, judged
    three times. changed: whether judging changed the network. heard: the names of all warnings.
    """

    losses: list[float]
    training: list[float]
    validation: list[float]
    again: list[float]
    changed: bool
    network: nn.Module = field(repr=False)
    heard: tuple[str, ...] = ()

    @property
    def loss_of_epochs(self) -> list[float]:
        """The mean loss of each epoch."""
        steps = len(self.losses) // len(self.training)
        return [
            sum(self.losses[start : start + steps]) / steps
            for start in range(0, len(self.losses), steps)
        ]

    def symptoms(self) -> list[str]:
        """Three lines: the loss, both accuracies, what judging it again says."""
        steps = ", ".join(
            f"step {number} {_short(self.losses[number - 1])}"
            for number in (1, 2, 5, 20)
            if number <= len(self.losses)
        )
        again = ", ".join(f"{value:.1%}" for value in self.again)
        what = "changes" if self.changed else "does not change"
        return [
            f"loss:     {steps}, last epoch {_short(self.loss_of_epochs[-1])}",
            f"accuracy: training images {self.training[-1]:.1%}, "
            f"validation images {self.validation[-1]:.1%}",
            f"judged three times: {again}; that {what} the network",
        ]


def _short(loss: float) -> str:
    return f"{loss:.2f}" if loss < 1000 or not math.isfinite(loss) else f"{loss:.1e}"


def run(
    pipelines: Iterable[Pipeline], images: Tensor, labels: Tensor, *,
    plan: Plan | None = None, seed: int = 0,
) -> list[Outcome]:  # fmt: skip
    """Train each pipeline on these images, uint8 (N, 3, 32, 32), and let it judge itself.

    Pipelines that differ in `accuracy` alone train alike, so they share one training. torch's own
    random numbers stay as they were. Used in notebook 05.
    """
    plan = plan or Plan()
    trained: dict[Pipeline, tuple] = {}
    outcomes = []
    devices = range(torch.cuda.device_count())  # manual_seed seeds their generators, too
    with torch.random.fork_rng(devices), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for pipeline in pipelines:
            kind = replace(pipeline, accuracy=accuracy)
            if kind not in trained:
                heard.clear()
                trained[kind] = (*_train(kind, images, labels, plan, seed), list(heard))
            heard.clear()
            losses, networks, parts, before = trained[kind]
            torch.manual_seed(seed)
            outcome = _judge(pipeline, losses, networks, parts, plan)
            names = {warning.category.__name__ for warning in [*before, *heard]}
            outcomes.append(replace(outcome, heard=tuple(sorted(names))))
    return outcomes


def _train(pipeline, images, labels, plan, seed):
    """(losses of all steps, the network after each epoch, what `split` returned)."""
    torch.manual_seed(seed)
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=pipeline.rate, momentum=0.9)
    order = torch.randperm(len(labels))
    parts = pipeline.split(images, labels, order, plan.validation)
    training_images, training_labels = parts[:2]
    losses, states = [], []
    for _ in range(plan.epochs):
        order = torch.randperm(len(training_labels))
        epoch = pipeline.shuffled(training_images, training_labels, order)
        network.train()
        batches = zip(*(rows.split(plan.batch_size) for rows in epoch), strict=True)
        for batch, its_labels in batches:
            inputs = normalize(augmented(batch))
            losses.append(pipeline.step(network, optimizer, inputs, its_labels))
        states.append({name: value.clone() for name, value in network.state_dict().items()})
    return losses, states, parts


def _judge(pipeline, losses, states, parts, plan):
    """The Outcome, by the pipeline's own `accuracy`."""
    training_images, training_labels, images, labels = parts
    # The last ones: of a split that overlaps, the first are its validation images.
    seen = training_images[-plan.judged :], training_labels[-plan.judged :]
    network = small_network()
    training, validation = [], []
    for state in states:
        network.load_state_dict(state)
        training.append(pipeline.accuracy(network, *seen))
        validation.append(pipeline.accuracy(network, images, labels))
    network.load_state_dict(states[-1])
    again = [pipeline.accuracy(network, images, labels) for _ in range(3)]
    now = network.state_dict()
    changed = any(not torch.equal(now[name], value) for name, value in states[-1].items())
    return Outcome(losses, training, validation, again, changed, network)


def truth(outcome: Outcome, images: Tensor, labels: Tensor) -> float:
    """The network's accuracy on images that its pipeline never had, judged as it should be."""
    return accuracy(outcome.network, images, labels)


# --- looking at them ------------------------------------------------------------------------------


@styled
def draw(outcomes: dict[str, Outcome], sound: Outcome, columns: int = 4) -> "Figure":
    """Loss above, accuracies below, of each letter; the dashed lines are the sound pipeline's."""
    import matplotlib.pyplot as plt

    rows = -(-len(outcomes) // columns)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=(11, 4.4 * rows), layout="constrained", sharex=True,
        squeeze=False,
    )  # fmt: skip
    figure.suptitle("Eight broken trainings; dashed: the sound one")
    reached = [*sound.training, *(value for one in outcomes.values() for value in one.training)]
    top = min(1.0, max(reached) + 0.15)  # leaves room for the legend
    for number, (letter, outcome) in enumerate(outcomes.items()):
        above, below = axes[2 * (number // columns) :, number % columns][:2]
        _draw_loss(above, outcome.loss_of_epochs, sound.loss_of_epochs)
        above.set_title(letter)
        epochs = range(1, len(sound.training) + 1)
        below.plot(epochs, sound.training, "--", color="grey", linewidth=1)
        below.plot(epochs, sound.validation, "--", color="grey", linewidth=1)
        below.plot(epochs, outcome.training, "o-", color=ORANGE, markersize=3, label="training")
        below.plot(epochs, outcome.validation, "s-", color=BLUE, markersize=3, label="validation")
        below.set(ylim=(0, top), xlabel="epoch")
        if number % columns == 0:
            above.set_ylabel("training loss")
            below.set_ylabel("accuracy")
            below.legend(frameon=False, loc="upper left")
    return figure


def _draw_loss(ax: "Axes", losses: Sequence[float], sound: Sequence[float], top: float = 4) -> None:
    """Both curves up to a loss of `top`; what lies higher is drawn at the edge, as a triangle."""
    epochs = range(1, len(losses) + 1)
    ax.plot(epochs, sound, "--", color="grey", linewidth=1)
    ax.plot(epochs, [min(loss, top) if loss == loss else top for loss in losses], color=ORANGE)
    high = [epoch for epoch, loss in zip(epochs, losses, strict=True) if not loss < top]
    if high:
        ax.plot(high, [top] * len(high), "^", color=ORANGE, clip_on=False)
        ax.text(len(losses) / 2, top * 0.9, f"above {top:g}", ha="center", va="top")
    ax.set_ylim(1, top)


def table(costs: dict[int, tuple[Any, ...]]) -> str:
    """The costs as lines of text. costs: {fault, 0 for none: (true, reported, heard)}, a list each.

    true, reported: accuracies, one per seed. heard: the names of warnings.
    """
    sound = costs[0][0]
    lines = [f"{'':3}{'reported − true':>17}{'true accuracy':>16}{'against sound':>16}  raises"]
    for number, (true, reported, heard) in costs.items():
        lie = [ours - theirs for ours, theirs in zip(reported, true, strict=True)]
        lost = [ours - theirs for ours, theirs in zip(true, sound, strict=True)]
        name = f"{number or '–':<3}"
        cells = f"{_points(lie):>17}{_percent(true):>16}{_points(lost) if number else '':>16}"
        lines.append(f"{name}{cells}  {', '.join(sorted(heard)) or 'nothing'}")
    return "\n".join(lines)


def _points(values):
    mean, spread = _mean_and_spread(values)
    return f"{100 * mean:+.1f} ± {100 * spread:.1f}".replace("-", "−")


def _percent(values):
    mean, spread = _mean_and_spread(values)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}%"


def _mean_and_spread(values):
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
