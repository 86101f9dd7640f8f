"""Exercises of notebook 05 · Training."""

import math

import torch
import torch.nn.functional as F

from cifar_utils.course.exercises.form import Case, Exercise, value
from cifar_utils.machine import generator


def _triangle():
    for peak, progress, due in (
        (0.2, 0.0, 0.0),
        (0.2, 0.1, 0.5),
        (0.2, 0.2, 1.0),
        (0.2, 0.6, 0.5),
        (0.2, 1.0, 0.0),
        (0.5, 0.25, 0.5),
        (0.5, 0.9, 0.2),
    ):
        yield Case(f"progress {progress}, peak {peak}", (progress, peak), due)


def _momentum_step():
    """Steps on a parabola, as torch.optim.SGD takes them at a learning rate that changes."""
    for momentum in (0.9, 0.5):
        weights = torch.tensor([3.0, -2.0, 1.0], requires_grad=True)
        optimizer = torch.optim.SGD([weights], lr=0.1, momentum=momentum)
        velocity = torch.zeros(3)
        for number in (1, 2, 3):
            lr = optimizer.param_groups[0]["lr"] = 0.1 / number
            optimizer.zero_grad()
            weights.square().sum().backward()
            before, gradient = weights.detach().clone(), weights.grad.clone()
            optimizer.step()
            due = optimizer.state[weights]["momentum_buffer"].clone()
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
        _triangle,
        slips=(
            (lambda progress, peak: 1 - progress, "That only falls. Before the peak it rises."),
            (lambda progress, peak: progress / peak, "That only rises. After the peak it falls."),
            (
                lambda progress, peak: (
                    progress / peak if progress < peak else 1 - (progress - peak)
                ),
                "The fall is too slow: it has to reach 0 at progress 1.",
            ),
            (
                lambda progress, peak: progress / peak if progress < peak else 1 - progress,
                "The fall does not begin at 1: at the peak the factor jumps.",
            ),
            (
                lambda progress, peak: progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8,
                "You do not use `peak`: for 0.2 it is right, for others not.",
            ),
            (
                lambda progress, peak: progress if progress < peak else 1 - progress,
                "The height at the peak has to be 1, wherever the peak is.",
            ),
            (
                lambda progress, peak: (
                    0.0
                    if progress == peak
                    else progress / peak
                    if progress < peak
                    else (1 - progress) / (1 - peak)
                ),
                "At the peak itself the factor is 1.",
            ),
        ),
        hints=(
            "Two straight lines: write an `if` for the side of the peak on which progress lies.",
            "On the way up, the factor is the share of the way to the peak that lies behind.",
            "On the way down, it is the share of the way from the peak to 1 that lies ahead.",
        ),
    ),
    "05c": Exercise(
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
