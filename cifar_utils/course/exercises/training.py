"""Exercises and gaps of notebook 05 · Training."""

import math
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.course.exercises.form import Case, Exercise, value
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


# --- gaps: what is minimised ----------------------------------------------------------------------


def _logits_and_labels():
    yield torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([1])
    yield torch.zeros(2, 10), torch.tensor([3, 7])
    yield 2 * torch.randn(4, 10, generator=generator(11)), torch.tensor([9, 0, 4, 4])


def _softmax_and_loss():
    for logits, labels in _logits_and_labels():
        rows = [[math.exp(logit) for logit in row] for row in logits.tolist()]
        p = torch.tensor([[one / sum(row) for one in row] for row in rows])
        due = {"probabilities": p, "mean loss": F.cross_entropy(logits, labels).item()}
        yield Case(_shown(logits, labels), (logits, labels), due)


def _shown(logits, labels):
    if logits.numel() < 4:
        return f"logits {logits.tolist()}, labels {labels.tolist()}"
    what = f"{len(logits)} rows of {logits.shape[1]} logits"
    return f"{what}{'' if logits.any() else ', all 0'}, labels {labels.tolist()}"


def _probabilities_with(loss_of, axis=1, scale=torch.exp):
    def answer(logits, labels):
        p = scale(logits) / scale(logits).sum(axis, keepdim=True)
        return p, loss_of(p, labels)

    return answer


def _right(p, labels):
    return p[torch.arange(len(labels)), labels]


def _gradient():
    for logits, labels in _logits_and_labels():
        leaf = logits.clone().requires_grad_()
        F.cross_entropy(leaf, labels).backward()
        yield Case(_shown(logits, labels), (logits, labels), leaf.grad)


# --- gaps: steps and schedules --------------------------------------------------------------------


def _momentum_step():
    """Steps on a parabola, as torch.optim.SGD takes them at a learning rate that changes."""
    for momentum in (0.9, 0.5, 0.0):
        weights = torch.tensor([3.0, -2.0, 1.0], requires_grad=True)
        optimizer = torch.optim.SGD([weights], lr=0.1, momentum=momentum)
        velocity = torch.zeros(3)
        for number in (1, 2, 3):
            lr = optimizer.param_groups[0]["lr"] = 0.1 / number
            optimizer.zero_grad()
            weights.square().sum().backward()
            before, gradient = weights.detach().clone(), weights.grad.clone()
            optimizer.step()
            due = optimizer.state[weights].get("momentum_buffer", gradient).clone()
            what = ", ".join(
                f"{name} {[round(number, 3) for number in tensor.tolist()]}"
                for name, tensor in zip(
                    ("weights", "velocity", "gradient"), (before, velocity, gradient), strict=True
                )
            )
            yield Case(
                f"{what}, lr {lr:.4g}, momentum {momentum}",
                (before, velocity, gradient, lr, momentum),
                {"new weights": weights.detach().clone(), "new velocity": due},
            )
            velocity = due


def _stepped(velocity_of, rate=lambda lr: lr):
    """A slip: another velocity, or another rate."""

    def answer(weights, velocity, gradient, lr, momentum):
        new = velocity_of(velocity, gradient, lr, momentum)
        return weights - rate(lr) * new, new

    return answer


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
        _softmax_and_loss,
        slips=(
            (
                _probabilities_with(lambda p, labels: -_right(p, labels).log().mean(), axis=0),
                "The probabilities of each *image* have to sum to 1: `sum(dim=1, keepdim=True)`.",
            ),
            (
                _probabilities_with(lambda p, labels: -p.log().mean()),
                "Only the probability of the right class counts. Pick it, for each image.",
            ),
            (
                _probabilities_with(lambda p, labels: _right(p, labels).log().mean()),
                "The sign: the logarithm of a probability is negative, a loss is not.",
            ),
            (
                _probabilities_with(lambda p, labels: -_right(p, labels).log().sum()),
                "That is the sum over the images. The mean is asked for.",
            ),
            (
                _probabilities_with(lambda p, labels: -_right(p, labels).mean()),
                "The logarithm is missing.",
            ),
            (
                _probabilities_with(lambda p, labels: -_right(p, labels).log10().mean()),
                "The natural logarithm is meant: `log`, not `log10`.",
            ),
            (
                _probabilities_with(lambda p, labels: -_right(p, labels).mean().log()),
                "First the logarithm of each image, then the mean.",
            ),
        ),
        hints=(
            "`logits.exp()` is positive everywhere. By what do you divide each row?",
            "By its sum: `exponentials.sum(dim=1, keepdim=True)`, one number per row.",
            "`p[torch.arange(len(labels)), labels]` picks one probability per image. The loss is "
            "minus the mean of their logarithms.",
        ),
    ),
    "05.4": Exercise(
        _gradient,
        slips=(
            (
                lambda logits, labels: logits.softmax(1) - torch.eye(logits.shape[1])[labels],
                "That is the gradient of the *sum* over the images. The loss is their mean.",
            ),
            (
                lambda logits, labels: (
                    (torch.eye(logits.shape[1])[labels] - logits.softmax(1)) / len(labels)
                ),
                "The sign: if the right class's logit grows, the loss falls.",
            ),
            (
                lambda logits, labels: (
                    (logits.softmax(1) - torch.eye(logits.shape[1])[labels]) / logits.shape[1]
                ),
                "You divide by the number of classes. The loss is a mean over images.",
            ),
            (
                lambda logits, labels: logits.softmax(1) / len(labels),
                "The target t is missing: 1 at the right class, 0 elsewhere.",
            ),
            (
                lambda logits, labels: (logits - torch.eye(logits.shape[1])[labels]) / len(labels),
                "p is a probability, not a logit.",
            ),
        ),
        hints=(
            "`logits.softmax(1)` is p.",
            "`F.one_hot(labels, logits.shape[1])` is t: a row per image, 1 at its class.",
            "The loss is a mean over the images, so divide p − t by how many there are.",
        ),
    ),
    "05.5": Exercise(
        _momentum_step,
        slips=(
            (
                lambda weights, velocity, gradient, lr, momentum: (
                    weights - lr * gradient,
                    velocity,
                ),
                "That is a step without momentum: the velocity has to change, and to be used.",
            ),
            (
                lambda weights, velocity, gradient, lr, momentum: (
                    weights - lr * velocity,
                    momentum * velocity + gradient,
                ),
                "The step takes the old velocity. Update it first.",
            ),
            (
                _stepped(
                    lambda velocity, gradient, lr, momentum: momentum * velocity + lr * gradient,
                    rate=lambda lr: 1,
                ),
                "Your velocity holds the rate. If the rate changes, old steps keep their old one. "
                "In torch the rate multiplies the velocity as a whole.",
            ),
            (
                _stepped(
                    lambda velocity, gradient, lr, momentum: momentum * velocity + lr * gradient
                ),
                "Your velocity holds the rate. If the rate changes, old steps keep their old one. "
                "In torch the rate multiplies the velocity as a whole.",
            ),
            (
                _stepped(
                    lambda velocity, gradient, lr, momentum: (
                        momentum * velocity + (1 - momentum) * gradient
                    )
                ),
                "That is dampening: torch adds the gradient whole, not times (1 − momentum).",
            ),
            (
                _stepped(lambda velocity, gradient, lr, momentum: 0.9 * velocity + gradient),
                "You do not use `momentum`: for 0.9 it is right, for others not.",
            ),
            (
                _stepped(
                    lambda velocity, gradient, lr, momentum: momentum * velocity + gradient,
                    rate=lambda lr: -lr,
                ),
                "That goes uphill: against the gradient is down.",
            ),
            (
                lambda weights, velocity, gradient, lr, momentum: (
                    weights - lr * (gradient + momentum * (momentum * velocity + gradient)),
                    momentum * velocity + gradient,
                ),
                "That is Nesterov's step. Plain momentum goes along the velocity itself.",
            ),
            (
                lambda weights, velocity, gradient, lr, momentum: (
                    weights + momentum * velocity - lr * gradient,
                    momentum * velocity - lr * gradient,
                ),
                "Your velocity points the other way and holds the rate. torch's is a sum of "
                "gradients, and the rate multiplies all of it.",
            ),
        ),
        hints=(
            "Two lines: first the new velocity, then the new weights.",
            "The old velocity counts `momentum` times. The gradient is added as it is.",
            "The weights move against the *new* velocity, and the rate says how far.",
        ),
    ),
    "05.6": Exercise(
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
    "05.7": Exercise(
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
}
