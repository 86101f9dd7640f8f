"""Exercises and gaps of notebook 05 · Training."""

import math
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.course import mistakes
from cifar_utils.course.exercises.form import Case, Exercise, Rule, value
from cifar_utils.data import CLASSES, Split, normalize
from cifar_utils.errors import CifarError
from cifar_utils.machine import generator

# --- gaps: the loop, and what it is judged by -----------------------------------------------------


def _few_images(count, seed):
    """A Split of random images of 4 × 4 pixels."""
    draw = generator(seed)
    images = torch.randint(256, (count, 3, 4, 4), generator=draw, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=draw)
    return Split(images, labels, CLASSES, torch.arange(count))


def _one_layer(seed):
    """A linear classifier of such images, whose gradient we can write down."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    with torch.no_grad():
        model[1].weight.copy_(0.3 * torch.randn(10, 48, generator=generator(seed)))
        model[1].bias.zero_()
    return model


def _epoch():
    """An epoch of a linear classifier. What is due comes from its gradient's closed form."""
    for count, sizes, lr in ((7, (3, 3, 1), 0.1), (8, (4, 4), 0.3)):
        split, numbers = _few_images(count, seed=3), torch.arange(count).flip(0).split(sizes)
        inputs, targets = normalize(split.images).flatten(1), torch.eye(10)[split.labels]
        weight, bias, total = _one_layer(4)[1].weight.detach().clone(), torch.zeros(10), 0.0
        for chosen in numbers:
            log_p = (inputs[chosen] @ weight.T + bias).log_softmax(1)
            total -= (log_p * targets[chosen]).sum().item()
            wrong = (log_p.exp() - targets[chosen]) / len(chosen)
            weight, bias = weight - lr * wrong.T @ inputs[chosen], bias - lr * wrong.sum(0)
        given = f"{count} images in batches of {', '.join(map(str, sizes))}, SGD at lr {lr}"
        for due, of in (
            (total / count, None),
            (weight.norm().item(), "the length of all weights after that epoch"),
        ):
            model = _one_layer(4)
            optimizer = torch.optim.SGD(model.parameters(), lr=lr)

            def length(got, model=model):
                return model[1].weight.norm().item()

            arguments = (model, split, optimizer, numbers)
            yield Case(given, arguments, due, (of, length) if of else None)


def _epoch_with(
    *, feed=normalize, logits_of=lambda logits: logits, order="zero backward step", weigh=len
):
    """A slip: other inputs, other logits, a step missing or out of order, another mean."""

    def answer(model, split, optimizer, batches):
        total = 0.0
        for chosen in batches:
            batch = split[chosen]
            loss = F.cross_entropy(logits_of(model(feed(batch.images))), batch.labels)
            for what in order.split():
                {"zero": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step}[
                    what
                ]()
            total += loss.item() * weigh(batch)
        return total / len(split)

    return answer


class _Watched(nn.Module):
    """A network that does otherwise in training mode, and notes whether torch keeps gradients."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer, self.noted = nn.BatchNorm1d(48), _one_layer(5)[1], 0
        self.norm.running_mean += torch.randn(48, generator=generator(6))

    def forward(self, inputs):
        self.noted += torch.is_grad_enabled()
        return self.layer(self.norm(inputs.flatten(1)))


def _accuracy():
    split = _few_images(30, seed=8)
    with torch.no_grad():
        logits = _Watched().eval()(normalize(split.images))
    split.labels[:17] = logits[:17].argmax(1)  # these are right
    for sizes, seen in (((10, 10, 10), 30), ((20, 4), 24)):
        numbers = torch.arange(seen).split(sizes)
        due = (logits.argmax(1) == split.labels)[:seen].double().mean().item()
        given = f"30 images, of which {', '.join(map(str, sizes))} come in batches"
        for name, expected in ((None, due), ("the number of batches with notes for a gradient", 0)):
            model = _Watched().train()

            def noted(got, model=model):
                return model.noted

            of = (name, noted) if name else None
            yield Case(given, (model, split, numbers), expected, of)


def _judged(*, mode="eval", grad=False, over="count"):
    """A slip: in training mode, with notes for gradients, or divided by another number."""

    def answer(model, split, batches):
        getattr(model, mode)()
        right, count, means = 0, 0, []
        with torch.set_grad_enabled(grad):
            for chosen in batches:
                batch = split[chosen]
                hits = model(normalize(batch.images)).argmax(1) == batch.labels
                right, count = right + hits.sum().item(), count + len(batch)
                means.append(hits.double().mean().item())
        by = {"count": count, "split": len(split), "batches": len(means)}
        return sum(means) / len(means) if over == "means" else right / by[over]

    return answer


# --- gaps: a schedule -----------------------------------------------------------------------------


def _one_cycle():
    for progress, peak, start in (
        (0.0, 0.25, 0.04),
        (0.125, 0.25, 0.04),
        (0.25, 0.25, 0.04),
        (0.5, 0.25, 0.04),
        (1.0, 0.25, 0.04),
        (0.1, 0.5, 0.2),
        (0.9, 0.5, 0.2),
    ):
        due = float(np.interp(progress, [0, peak, 1], [start, 1, 0]))
        yield Case(f"progress {progress}, peak {peak}, start {start}", (progress, peak, start), due)


def _cycle(up, down):
    """A slip: another way up, or another way down."""

    def answer(progress, peak, start):
        return (up if progress < peak else down)(progress, peak, start)

    return answer


def _up(progress, peak, start):
    return start + (1 - start) * progress / peak


def _down(progress, peak, start):
    return (1 - progress) / (1 - peak)


# --- gaps: a checkpoint ---------------------------------------------------------------------------


def _interrupted():
    """Four steps with momentum, stopped after two. Whether never stopped comes to the same."""
    inputs = torch.randn(4, 8, 48, generator=generator(12))
    labels = torch.randint(10, (4, 8), generator=generator(13))

    def make(seed):
        model = _one_layer(seed)
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def walk(model, optimizer, steps):
        for number in steps:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[number]), labels[number]).backward()
            optimizer.step()

    model, optimizer = make(1)
    walk(model, optimizer, range(4))
    due = model[1].weight.detach().norm().item()

    def resumed(checkpoint):
        """(length of the weights at the end, epoch) by way of the reader's two methods."""
        if not callable(getattr(checkpoint, "save", None)):
            raise CifarError("A class with `save` and `restore` is asked for.")
        model, optimizer = make(1)
        walk(model, optimizer, range(2))
        checkpoint.save(model, optimizer, 2)
        walk(model, optimizer, range(2, 3))  # goes on a little before the machine is lost
        fresh, its_optimizer = make(2)
        try:
            epoch = type(checkpoint)(checkpoint.file).restore(fresh, its_optimizer)
        except pickle.UnpicklingError as mistake:
            raise CifarError("Save `model.state_dict()`, not the model itself.") from mistake
        if epoch is None:
            raise CifarError("`restore` has to return the epoch.")
        walk(fresh, its_optimizer, range(2, 4))
        return fresh[1].weight.detach().norm().item(), epoch

    given = "a run of four steps, stopped after the second"
    with tempfile.TemporaryDirectory() as folder:
        for name, expected, which in (
            ("the length of all weights at the end", due, 0),
            ("the epoch that `restore` returns", 2, 1),
        ):
            of = name, lambda one, which=which: resumed(one)[which]
            yield Case(given, (Path(folder) / "checkpoint.pt",), expected, of)


class _WeightsAlone:
    """A slip: no momentum."""

    def __init__(self, file):
        self.file = file

    def save(self, model, optimizer, epoch):
        torch.save({"model": model.state_dict(), "epoch": epoch}, self.file)

    def restore(self, model, optimizer):
        state = torch.load(self.file, weights_only=True)
        model.load_state_dict(state["model"])
        return state["epoch"]


class _Renamed(_WeightsAlone):
    """A slip: neither, because names inside a function are given to something else."""

    def restore(self, model, optimizer):
        return torch.load(self.file, weights_only=True)["epoch"]


class _MomentumAlone(_WeightsAlone):
    """A slip: no weights."""

    def save(self, model, optimizer, epoch):
        torch.save({"optimizer": optimizer.state_dict(), "epoch": epoch}, self.file)

    def restore(self, model, optimizer):
        state = torch.load(self.file, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        return state["epoch"]


# --- gaps: mistakes that everyone makes -----------------------------------------------------------

# What to look at, letter by letter.
LOOK_AT = {
    "A": "A: from the first step to the last, the loss is that of a guess, and so is the accuracy "
    "on training images. What has to be wrong if there is nothing to learn?",
    "B": "B: its loss is the sound one's. But each judging says something else, and changes the "
    "network. Which part of a network changes while it only looks at images?",
    "C": "C: the first loss is right, and the second is far above it. So one step was enough.",
    "D": "D: it does better on validation images than the sound one, and nearly as well as on "
    "training images. When is a validation image as easy as a training image?",
    "E": "E: it does learn, as the accuracy shows, but its loss falls slowly and stays above 1.46. "
    "What keeps a loss from getting small?",
    "F": "F: its loss is the sound one's. Each judging says something else, and yet the network "
    "stays the same. So chance comes from elsewhere.",
    "G": "G: the first steps are nearly the sound one's, and then it gets worse and worse. What "
    "adds up from step to step?",
    "H": "H: its loss is the sound one's, so the network has learned. But by its judge it gets few "
    "images right, even of those that it learned from. What does the judge do otherwise?",
}


def _named():
    def count(answer):
        if not isinstance(answer, dict):
            return 0
        numbers = [answer.get(letter) for letter in mistakes.LETTERS]
        return sum(isinstance(one, int) and one in mistakes.FAULTS for one in numbers)

    wanted = 'A dict with all eight letters is asked for, each with a number from 1 to 8: {"A": …}.'
    what = "the number of letters that have a fault"
    yield Case("", None, Rule(lambda found: found == 8, wanted), (what, count))
    for letter, number in mistakes.LETTERS.items():
        rule = Rule(lambda found, number=number: found == number, LOOK_AT[letter])
        of = f"the fault that you see in {letter}", lambda answer, letter=letter: answer[letter]
        yield Case("", None, rule, of)


def _swapped(one, other):
    """A slip: two letters for each other."""
    letters = mistakes.LETTERS
    return letters | {one: letters[other], other: letters[one]}


def _mended_step():
    """A step of a linear classifier, whose gradient we can write down."""
    for seed, lr in ((21, 0.1), (22, 0.3)):
        inputs = torch.randn(6, 3, 4, 4, generator=generator(seed))
        labels = torch.randint(10, (6,), generator=generator(seed + 10))
        rows, weight = inputs.flatten(1), _one_layer(seed)[1].weight.detach()
        log_p = (rows @ weight.T).log_softmax(1)
        loss = -log_p[torch.arange(6), labels].mean().item()
        gradient = (log_p.exp() - torch.eye(10)[labels]).T @ rows / 6
        length = (weight - lr * gradient).norm().item()
        given = f"6 images, SGD at lr {lr}, and in `.grad` the gradient of an earlier batch"
        for due, of in ((loss, None), (length, "the length of all weights after that step")):
            network = _one_layer(seed)
            F.cross_entropy(network(-inputs), labels.flip(0)).backward()
            optimizer = torch.optim.SGD(network.parameters(), lr=lr)

            def measured(got, network=network):
                return network[1].weight.norm().item()

            arguments = network, optimizer, inputs, labels
            yield Case(given, arguments, due, (of, measured) if of else None)


def _step_with(order, softmax=False):
    """A slip: parts missing or out of order."""

    def answer(network, optimizer, inputs, labels):
        logits = network(inputs)
        loss = F.cross_entropy(logits.softmax(1) if softmax else logits, labels)
        calls = {"zero": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step}
        for what in order.split():
            calls[what]()
        return loss.item()

    return answer


class _Small(_Watched):
    """The same for images of 32 × 32 pixels, of which it sees every eighth."""

    def forward(self, inputs):
        return super().forward(inputs[:, :, 4::8, 4::8])


def _mended_accuracy():
    for count, right in ((30, 17), (40, 31)):
        split = _few_images(count, seed=count)
        images = split.images.repeat_interleave(8, 2).repeat_interleave(8, 3)
        with torch.no_grad():
            answers = _Small().eval()(normalize(images)).argmax(1)
        labels = torch.where(torch.arange(count) < right, answers, (answers + 1) % 10)
        notes = "the number of batches with notes for a gradient"
        for due, name in ((right / count, None), (0, notes)):
            network = _Small().train()

            def noted(got, network=network):
                return network.noted

            torch.manual_seed(count)  # for an answer that augments
            of = (name, noted) if name else None
            yield Case(f"{count} images, a network in training mode", (network, images, labels),
                       due, of)  # fmt: skip


def _accuracy_of_bytes(network, images, labels):
    network.eval()
    with torch.no_grad():
        return (network(images.float()).argmax(1) == labels).float().mean().item()


def _accuracy_with_notes(network, images, labels):
    network.eval()
    return (network(normalize(images)).argmax(1) == labels).float().mean().item()


def _numbered(count):
    """Images of one pixel, each with its own number in all colours, and labels."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    return images.contiguous(), torch.arange(count) * 7 % 10


def _mended_shuffled():
    for count in (4, 9):
        images, labels = _numbered(count)
        order = torch.randperm(count, generator=generator(count))
        places = order.tolist()
        due = {
            "images": torch.stack([images[place] for place in places]),
            "labels": torch.tensor([labels[place].item() for place in places]),
        }
        yield Case(f"{count} images, order {places}", (images, labels, order), due)


def _mended_split():
    for size, count in ((6, 2), (10, 3)):
        images, labels = _numbered(size)
        order = torch.randperm(size, generator=generator(size))
        places = order.tolist()
        due = {}
        for name, chosen in (("training", places[count:]), ("validation", places[:count])):
            due[f"{name} images"] = torch.stack([images[place] for place in chosen])
            due[f"{name} labels"] = torch.tensor([labels[place].item() for place in chosen])
        arguments = images, labels, order, count
        yield Case(f"{size} images, order {places}, count {count}", arguments, due)


def _split_into(training, validation):
    """A slip: other places. Both take (order, count)."""

    def answer(images, labels, order, count):
        ours, theirs = training(order, count), validation(order, count)
        return images[ours], labels[ours], images[theirs], labels[theirs]

    return answer


def _split_by_mask(images, labels, order, count):
    """A slip: the right images in each part, in their old order."""
    held_out = torch.zeros(len(order), dtype=torch.bool)
    held_out[order[:count]] = True
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def _rate():
    nan, inf = math.nan, math.inf
    for rates, losses, due in (
        ([0.001, 0.01, 0.1, 1.0], [2.2, 1.9, 2.3, 5.0], 0.01),
        ([0.5, 0.02, 0.1, 3.0], [2.1, 2.2, 1.7, nan], 0.1),
        ([3.0, 0.06, 0.004, 0.1], [nan, 2.3, 1.8, 2.31], 0.004),
        ([0.03, 0.3, 30.0], [2.0, 1.5, inf], 0.3),
    ):
        yield Case(f"rates {rates}, losses {losses}", (rates, losses), due)


def _rate_by_place_among_finite(rates, losses):
    kept = [loss for loss in losses if math.isfinite(loss)]
    return rates[kept.index(min(kept))]


def _rate_by(choose):
    """A slip: one of the (rate, loss) pairs by another rule."""

    def answer(rates, losses):
        return choose(list(zip(rates, losses, strict=True)))[0]

    return answer


# --- exercises ------------------------------------------------------------------------------------


def _early_stop():
    up_and_down = [2.0, 1.5, 1.2, 1.3, 1.1, 1.25, 1.15, 1.4]
    for losses, patience, last, keep in (
        (up_and_down, 1, 4, 3),
        (up_and_down, 2, 7, 5),
        (up_and_down, 3, 8, 5),
        (up_and_down, 5, 8, 5),
        ([3.0, 2.0, 1.0], 1, 3, 3),
        ([1.0, 1.2, 1.3, 0.5], 2, 3, 1),
    ):
        due = {"last epoch": last, "epoch to keep": keep}
        yield Case(f"losses {losses}, patience {patience}", (losses, patience), due)


def _stopped(*, against="best", waits=0, sees_all=False, first=1, in_a_row=True):
    """A slip: compares with the wrong loss, waits too long, sees the future, or counts from 0."""

    def answer(losses, patience):
        best = waited = 0
        for epoch, loss in enumerate(losses):
            lowest = losses[best if against == "best" else max(epoch - 1, 0)]
            if epoch == 0 or loss < lowest:
                best = epoch if loss <= losses[best] else best
                waited = 0 if in_a_row else waited
            else:
                waited += 1
            if waited >= patience + waits:
                break
        keep = losses.index(min(losses)) if sees_all else best
        return epoch + first, keep + first

    return answer


def _adam_step():
    """Steps as torch.optim.Adam takes them."""
    for beta1, beta2, lr in ((0.9, 0.999, 0.1), (0.5, 0.9, 0.02)):
        weights = torch.tensor([3.0, -2.0, 0.5], requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=lr, betas=(beta1, beta2))
        mean = square = torch.zeros(3)
        for step in (1, 2, 3):
            optimizer.zero_grad()
            (weights**3).sum().backward()
            before, gradient = weights.detach().clone(), weights.grad.clone()
            optimizer.step()
            state = optimizer.state[weights]
            due = {
                "new weights": weights.detach().clone(),
                "new mean": state["exp_avg"].clone(),
                "new square": state["exp_avg_sq"].clone(),
            }
            given = f"step {step}, gradient {[round(one, 2) for one in gradient.tolist()]}, lr {lr}"
            arguments = (before, mean, square, gradient, step, lr, beta1, beta2)
            yield Case(f"{given}, betas {beta1} and {beta2}", arguments, due)
            mean, square = due["new mean"], due["new square"]


def _adam(*, correct=lambda value, beta, step: value / (1 - beta**step), root=True, add=None):
    """A slip: no correction of the start, no square root, or another running mean."""

    def answer(weights, mean, square, gradient, step, lr, beta1, beta2):
        mean = beta1 * mean + (1 - beta1 if add is None else add) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        size = correct(square, beta2, step)
        size = size.sqrt() if root else size
        return weights - lr * correct(mean, beta1, step) / (size + 1e-8), mean, square

    return answer


def _cross_entropy():
    one = torch.zeros(1, 10), torch.tensor([3]), 0.0
    yield Case("one row of ten logits 0, label 3, smoothing 0", one, math.log(10))
    logits = torch.randn(8, 10, generator=generator(7)) * 5
    labels = torch.tensor([2, 0, 9, 1, 1, 7, 3, 5])
    for smoothing, scale in ((0.0, 1), (0.1, 1), (0.3, 1), (0.1, 1000)):
        given = logits * scale
        due = F.cross_entropy(given, labels, label_smoothing=smoothing).item()
        what = f"8 rows of logits from {given.min():.0f} to {given.max():.0f}"
        yield Case(f"{what}, smoothing {smoothing}", (given, labels, smoothing), due)


def _log_p(logits):
    shifted = logits - logits.amax(1, keepdim=True)
    return shifted - shifted.exp().sum(1, keepdim=True).log()


def _of_label(values, labels):
    return values[torch.arange(len(labels)), labels]


def _others_share(logits, labels, smoothing):
    """A slip: the right class gets 1 − s and nothing of the s, which the nine others share."""
    log_p = _log_p(logits)
    right = _of_label(log_p, labels)
    others = (log_p.sum(1) - right) / 9
    return -((1 - smoothing) * right + smoothing * others).mean()


def _smoothed(log_p_of, reduce=torch.mean, sign=-1):
    """A slip: other logarithms, another reduction, or another sign."""

    def answer(logits, labels, smoothing):
        log_p = log_p_of(logits)
        right = _of_label(log_p, labels)
        return sign * reduce((1 - smoothing) * right + smoothing * log_p.mean(1))

    return answer


EXERCISES = {
    "05a": Exercise(
        value(30 * len(range(0, 45_000, 256))),
        slips=(
            (
                30 * 45_000 / 256,
                "The last batch of each epoch is smaller, but it is a whole step, too.",
            ),
            (30 * (45_000 // 256), "You leave out the last, smaller batch of each epoch."),
            (
                math.ceil(30 * 45_000 / 256),
                "Every epoch ends with a smaller batch: round up before you multiply.",
            ),
            (math.ceil(45_000 / 256), "Those are the steps of one epoch."),
            (30 * 45_000, "Those are the images. One step takes a batch of them."),
        ),
        hints=(
            "How many batches has one epoch?",
            "45,000 / 256 is not a whole number. What becomes of the images that are left over?",
            "Round the batches of one epoch up, with `math.ceil`, then multiply by the epochs.",
        ),
    ),
    "05b": Exercise(
        _early_stop,
        slips=(
            (
                _stopped(sees_all=True),
                "A training that has ended does not know what would have come: of the epochs that "
                "were run, which is the best?",
            ),
            (
                _stopped(against="last"),
                "Compare with the lowest loss so far, not with that of the epoch before.",
            ),
            (_stopped(waits=1), "That waits an epoch longer than `patience` says."),
            (_stopped(first=0), "Epochs are counted from 1."),
            (_stopped(in_a_row=False), "A new lowest loss sets the waiting back to zero."),
        ),
        hints=(
            "Go through the losses one by one, and keep in mind the best epoch so far.",
            "Count the epochs since then. A new lowest loss sets that count to zero.",
            "`for epoch, loss in enumerate(losses, 1)`: if the loss is below the lowest, note "
            "both; if `epoch - best` has reached `patience`, return. After the loop, return, too.",
        ),
    ),
    "05c": Exercise(
        _adam_step,
        slips=(
            (
                _adam(correct=lambda value, beta, step: value),
                "The means start at zero, so at first they are too small: divide each by "
                "(1 − beta to the power of step).",
            ),
            (
                _adam(correct=lambda value, beta, step: value / (1 - beta)),
                "(1 − beta) to the power of nothing is right for the first step only.",
            ),
            (_adam(root=False), "The square has the unit of a gradient squared: take its root."),
            (
                _adam(add=1.0),
                "That adds the gradient whole, as momentum does. Adam takes a mean: "
                "(1 − beta1) of it.",
            ),
        ),
        hints=(
            "Four lines: the new mean, the new square, both corrected, the new weights.",
            "The new mean is `beta1 * mean + (1 - beta1) * gradient`; the new square likewise, of "
            "the gradient squared.",
            "Divide the mean by `1 - beta1**step`, the square by `1 - beta2**step`, and step along "
            "the first divided by the root of the second.",
        ),
    ),
    "05d": Exercise(
        _cross_entropy,
        slips=(
            (
                _smoothed(lambda logits: (logits.exp() / logits.exp().sum(1, keepdim=True)).log()),
                "exp of 1,000 is too large for a float. What can you subtract from all logits of "
                "an image without changing its probabilities?",
            ),
            (
                lambda logits, labels, smoothing: -_of_label(_log_p(logits), labels).mean(),
                "You do not use `smoothing`.",
            ),
            (_others_share, "Of s, the right class gets its tenth, too."),
            (_smoothed(_log_p, reduce=torch.sum), "That is the sum. The mean is asked for."),
            (_smoothed(_log_p, sign=1), "The sign: a loss is positive."),
            (
                lambda logits, labels, smoothing: (
                    -(1 - smoothing) * _of_label(_log_p(logits), labels)
                    - smoothing * _log_p(logits).sum(1)
                ).mean(),
                "Each of the ten classes gets s / 10, not s.",
            ),
            (
                _smoothed(lambda logits: logits),
                "Those are the logits. The loss wants the logarithms of probabilities.",
            ),
            (
                _smoothed(lambda logits: logits - logits.amax(1, keepdim=True)),
                "Subtracting the largest logit is not yet a logarithm of probabilities. "
                "Subtract the log of the sum of their exps, too.",
            ),
            (
                _smoothed(lambda logits: logits.softmax(1)),
                "Those are probabilities. The loss wants their logarithms.",
            ),
        ),
        hints=(
            "Begin with log p = logit − log(sum of exp(logits)), and subtract the largest logit of "
            "each image before any `exp`.",
            "The loss of one image is minus the sum over ten classes of target times log p.",
            "Split that sum: (1 − s) times log p of the right class, plus s times the mean of all "
            "ten log p. `log_p[torch.arange(len(labels)), labels]` picks the right classes.",
        ),
    ),
}

GAPS: dict[str, Exercise] = {
    "05.1": Exercise(
        _epoch,
        slips=(
            (
                _epoch_with(order="backward step"),
                "The gradients of all batches add up. Set them to zero before each `backward`.",
            ),
            (
                _epoch_with(order="zero backward"),
                "The weights never move. Is a step taken, and is the gradient there when it is?",
            ),
            (
                _epoch_with(weigh=lambda batch: 1),
                "`loss` is a mean over the batch. Count it as often as the batch has images.",
            ),
            (
                _epoch_with(logits_of=lambda logits: logits.softmax(1)),
                "`F.cross_entropy` applies softmax itself. Give it the logits.",
            ),
            (
                _epoch_with(feed=lambda images: images / 255),
                "Dividing by 255 is not all that `data.normalize` does.",
            ),
            (
                _epoch_with(feed=lambda images: images.float()),
                "Bytes are no input for a network: see `data.normalize`.",
            ),
        ),
        hints=(
            "Follow the arrows above: images, logits, loss, then the three calls that take a step.",
            "`data.normalize(batch.images)` goes into the network, and its logits go with "
            "`batch.labels` into `F.cross_entropy`. A step is `optimizer.zero_grad()`, "
            "`loss.backward()`, `optimizer.step()`, in this order.",
            "Last, `total` grows by `loss.item()`, the number in the loss, times `len(batch)`.",
        ),
    ),
    "05.2": Exercise(
        _accuracy,
        slips=(
            (
                _judged(mode="train"),
                "In training mode, batch norm looks at the other images of the batch. "
                "Switch to the other mode first.",
            ),
            (
                _judged(grad=True),
                "torch still keeps notes for a gradient that nobody asks for. Which `with` "
                "stops that?",
            ),
            (
                _judged(mode="train", grad=True),
                "Two things are missing: the network's other mode, and a `with` that keeps torch "
                "from taking notes for a gradient.",
            ),
            (
                _judged(over="means"),
                "That is the mean of the batches' accuracies. A small batch then counts as much "
                "as a large one: count images.",
            ),
            (_judged(over="split"), "Divide by the images that were seen, not by all."),
            (_judged(over="batches"), "Divide by the number of images, not of batches."),
        ),
        hints=(
            "Before the loop: `model.eval()`, and `with torch.no_grad():` around it.",
            "The predicted class of each image is where its logit is largest: `logits.argmax(1)`.",
            "`(logits.argmax(1) == batch.labels).sum().item()` counts what is right in a batch.",
        ),
    ),
    "05.3": Exercise(
        _one_cycle,
        slips=(
            (
                _cycle(lambda progress, peak, start: progress / peak, _down),
                "It starts at 0. It has to start at `start`.",
            ),
            (
                _cycle(lambda progress, peak, start: start + progress / peak, _down),
                "Just before the peak that is above 1: only 1 − start is left to rise.",
            ),
            (
                _cycle(_up, lambda progress, peak, start: 1 - progress),
                "The fall does not begin at 1: at the peak the factor jumps.",
            ),
            (
                _cycle(_up, lambda progress, peak, start: 1 - (progress - peak)),
                "The fall is too slow: it has to reach 0 at progress 1.",
            ),
            (
                _cycle(
                    _up,
                    lambda progress, peak, start: start + (1 - start) * _down(progress, peak, 0),
                ),
                "It ends at `start`. It has to end at 0.",
            ),
            (_cycle(_up, _up), "That only rises. After the peak it falls."),
        ),
        hints=(
            "Two straight lines: write an `if` for the side of the peak on which progress lies.",
            "On the way up, `progress / peak` is the share of the way that lies behind. The way "
            "leads from start to 1, so it is 1 − start high.",
            "On the way down, the factor is the share of the way from the peak to 1 that is left.",
        ),
    ),
    "05.4": Exercise(
        _interrupted,
        slips=(
            (
                _WeightsAlone,
                "The weights alone are not all: where is the momentum? It is in "
                "`optimizer.state_dict()`.",
            ),
            (_MomentumAlone, "The weights are not restored."),
            (
                _Renamed,
                "`model = …` only gives the name to something else. `model.load_state_dict(…)` "
                "changes the network.",
            ),
        ),
        hints=(
            "A network and an optimizer both have `state_dict()` and `load_state_dict(…)`.",
            "`torch.save({…}, self.file)` writes a dict with three entries: the state of the "
            "network, that of the optimizer, and the epoch.",
            "`state = torch.load(self.file, weights_only=True)` reads it. Load both states, and "
            'return `state["epoch"]`.',
        ),
    ),
    "05.5": Exercise(
        _named,
        slips=(
            (
                _swapped("B", "F"),
                "B and F both say something else at each judging. In one of them the network is "
                "another afterwards. Which of the two mistakes can change a network?",
            ),
            (
                _swapped("C", "G"),
                "C and G both go wrong at once. Look at step 2: in one it has happened by then, in "
                "the other the second loss is nearly the sound one's.",
            ),
            (
                _swapped("A", "E"),
                "A and E both have a high loss to the end. But one of them gets many images right.",
            ),
            (
                _swapped("F", "H"),
                "F and H have the sound one's loss, and judge otherwise. In only one of them is "
                "chance at work.",
            ),
            (
                _swapped("B", "H"),
                "B and H have the sound one's loss, and judge otherwise. In only one of them is "
                "chance at work.",
            ),
            (
                _swapped("A", "G"),
                "A and G both end as a guess. But one loss stays where it began, and the other "
                "explodes.",
            ),
            (
                _swapped("A", "C"),
                "A and C both end as a guess. But one loss stays where it began, and the other "
                "jumps.",
            ),
        ),
        hints=(
            "Sort them first. In which letters is the loss that of the sound one? There the "
            "training is right, and the judge is wrong.",
            "Of the others: which loss jumps at once, which only after some steps, which stays at "
            "ln 10, and which falls, but too little? One falls as it should.",
            "A judge that says something else each time has chance in it: dropout, or "
            "augmentation. Training mode has one more effect: it moves the means of batch norm.",
        ),
    ),
    "05.6": Exercise(
        _mended_step,
        slips=(
            (
                mistakes.step_without_zero_grad,
                "Mistake 1 is still there: `.grad` holds the earlier gradient, and `backward` adds "
                "to it.",
            ),
            (
                mistakes.step_with_softmax,
                "Mistake 2 is still there: `F.cross_entropy` takes logits, and applies softmax "
                "itself.",
            ),
            (
                _step_with("backward step", softmax=True),
                "Both mistakes are still there: softmax, and the gradient that adds up.",
            ),
            (
                _step_with("zero backward"),
                "The weights do not move. Is a step taken, and is the gradient there when it is?",
            ),
        ),
        hints=(
            "It is the step of section 1, for inputs that are normalised already.",
            "The network's logits go into `F.cross_entropy` as they are.",
            "Between the loss and `return loss.item()` stand three calls: `optimizer.zero_grad()`, "
            "`loss.backward()`, `optimizer.step()`.",
        ),
    ),
    "05.7": Exercise(
        _mended_accuracy,
        slips=(
            (
                mistakes.accuracy_in_training_mode,
                "Mistake 3 is still there: in training mode dropout drops, and batch norm looks at "
                "the batch.",
            ),
            (
                mistakes.accuracy_not_normalised,
                "Mistake 5 is still there: the network has learned from images with mean 0 and "
                "standard deviation 1.",
            ),
            (
                _accuracy_of_bytes,
                "The network has learned from normalised images, and these are plain bytes as "
                "floats. That is mistake 5, only worse.",
            ),
            (
                mistakes.accuracy_of_augmented,
                "Mistake 7 is still there: judge images as they are.",
            ),
            (
                lambda network, images, labels: round(
                    mistakes.accuracy(network, images, labels) * len(labels)
                ),
                "That is how many it gets right. The share is asked for: divide by all.",
            ),
            (
                _accuracy_with_notes,
                "The number is right. But torch keeps notes for a gradient that nobody asks for.",
            ),
        ),
        hints=(
            "Take from each of the three what the two others have right.",
            "Mode: `network.eval()`. Inputs: `normalize(images)`, without anything random.",
            "All of it but the mode stands inside `with torch.no_grad():`. The share is "
            "`(logits.argmax(1) == labels).float().mean().item()`.",
        ),
    ),
    "05.8": Exercise(
        _mended_shuffled,
        slips=(
            (
                mistakes.shuffled_apart,
                "Mistake 4 is still there: the labels stay in their old order.",
            ),
            (
                lambda images, labels, order: (images, labels[order]),
                "Now the images stay in their old order.",
            ),
            (
                lambda images, labels, order: (images[order], labels[order.argsort()]),
                "The labels are shuffled, too, but the other way round. Use the same `order`.",
            ),
            (
                lambda images, labels, order: (images, labels),
                "They belong together, but nothing is shuffled.",
            ),
        ),
        hints=(
            "One order for both.",
            "`images[order]` are the images in the new order.",
            "`labels[order]` are their labels.",
        ),
    ),
    "05.9": Exercise(
        _mended_split,
        slips=(
            (
                mistakes.split_that_overlaps,
                "Mistake 8 is still there: the validation images are among the training images.",
            ),
            (
                _split_into(lambda order, n: order[:-n], lambda order, n: order[:n]),
                "Some images are in both parts. Training begins at the place at which validation "
                "ends.",
            ),
            (
                _split_into(lambda order, n: order[:n], lambda order, n: order[n:]),
                "That is the other way round: `count` says how many are for validation.",
            ),
            (
                _split_into(
                    lambda order, n: torch.arange(n, len(order)), lambda order, n: torch.arange(n)
                ),
                "You do not use `order`. If images of one class lie together, validation would "
                "have only some classes.",
            ),
            (
                _split_into(lambda order, n: order[:-n], lambda order, n: order[-n:]),
                "No image is in both, but the *first* `count` of the order are for validation.",
            ),
            (
                _split_by_mask,
                "The right images are in each part, but in their old order. Take them in the order "
                "of `order`, so that your training has the same batches as the sound one.",
            ),
        ),
        hints=(
            "`order[:count]` are the places of the validation images. Which are left?",
            "Those from `count` on: `order[count:]`.",
            "`images[training]` and `labels[training]`, then the same with `validation`.",
        ),
    ),
    "05.10": Exercise(
        _rate,
        slips=(
            (
                _rate_by(max),
                "That is the largest rate: mistake 6 again. Look at the losses.",
            ),
            (
                _rate_by(min),
                "That is the smallest rate. It is safe, but is its loss the lowest?",
            ),
            (
                lambda rates, losses: min(loss for loss in losses if math.isfinite(loss)),
                "That is the lowest loss. The rate that led to it is asked for.",
            ),
            (
                lambda rates, losses: rates[losses.index(min(losses))],
                "It is right unless a loss is NaN: every comparison with NaN is False, and `min` "
                "relies on comparisons.",
            ),
            (
                _rate_by_place_among_finite,
                "A place in the list without NaN is not the place in `rates`: leave out the rate "
                "together with its loss.",
            ),
            (
                lambda rates, losses: rates[int(np.argmin(losses))],
                "It is right unless a loss is NaN, which `argmin` takes for the lowest.",
            ),
            (
                lambda rates, losses: rates[torch.tensor(losses).argmin()],
                "It is right unless a loss is NaN, which `argmin` takes for the lowest.",
            ),
            (
                lambda rates, losses: max(
                    rate for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)
                ),
                "That is the largest rate that does not explode. The lowest loss is asked for.",
            ),
        ),
        hints=(
            "Leave out every rate whose loss is no finite number: `math.isfinite(loss)` says so.",
            "Of the pairs (loss, rate) that are left, `min` gives the one with the lowest loss.",
            "`pairs = [(loss, rate) for rate, loss in zip(rates, losses) if math.isfinite(loss)]`. "
            "Return the rate of the lowest pair.",
        ),
    ),
}
