"""Exercises of notebook 07 · Evaluation."""

import torch

from cifar_utils.course.exercises.form import Case, Exercise, Near, value
from cifar_utils.machine import generator


def _macro_f1():
    for rows in (
        [[8, 2, 0], [1, 6, 3], [0, 0, 10]],
        [[0, 5], [0, 5]],  # nothing is predicted as the first class
        [[3, 1, 0], [0, 4, 0], [0, 0, 0]],  # and here nothing belongs to the last, either
    ):
        matrix = torch.tensor(rows)
        yield Case(f"the matrix {rows}", (matrix,), _f1(matrix).mean().item())


def _f1(matrix):
    """Equals 2 · precision · recall / (precision + recall), but never divides by zero."""
    right = matrix.diagonal().double()
    return 2 * right / (matrix.sum(0) + matrix.sum(1)).clamp(min=1)


def _precision_recall(matrix):
    right = matrix.diagonal().double()
    return right / matrix.sum(0).clamp(min=1), right / matrix.sum(1).clamp(min=1)


def _f1_of_means(matrix):
    precision, recall = (values.mean() for values in _precision_recall(matrix))
    return 2 * precision * recall / (precision + recall)


def _undefined_f1(matrix):
    right = matrix.diagonal().double()
    precision, recall = right / matrix.sum(0), right / matrix.sum(1)
    return (2 * precision * recall / (precision + recall)).mean()


def _calibration_error():
    # 0.5 lies on the edge of two bins, one bin is empty, and in each case a mistake would cancel
    # a gap of the other sign.
    edges = torch.tensor([0.3125, 0.5, 0.8125, 1.0])
    right = torch.tensor([True, False, True, False])
    what = f"confidences {edges.tolist()}, right {right.tolist()}, bins 4"
    yield Case(what, (edges, right, 4), _error_by_loop(edges, right, 4))
    confidences = torch.rand(500, generator=generator(5)) * 0.9 + 0.1
    confidences[0] = 1.0
    right = torch.rand(500, generator=generator(6)) < 0.6
    for bins in (1, 10, 15):
        due = _error_by_loop(confidences, right, bins)
        yield Case(f"500 random confidences, bins {bins}", (confidences, right, bins), due)


def _error_by_loop(confidences, right, bins):
    """The error, one image at a time."""
    held = [[] for _ in range(bins)]
    for confidence, is_right in zip(confidences.tolist(), right.tolist(), strict=True):
        held[min(int(confidence * bins), bins - 1)].append((confidence, is_right))
    gaps = [sum(confidence - is_right for confidence, is_right in one) for one in held]
    return sum(map(abs, gaps)) / len(confidences)


def _binned(
    place=lambda confidences, bins: (confidences * bins).long().clamp(max=bins - 1),
    combine=lambda gaps, weights: (gaps.abs() * weights).sum(),
    bins_used=lambda bins: bins,
):
    """A slip: the confidences in other bins, or the bins' gaps put together in another way."""

    def answer(confidences, right, bins):
        bins = bins_used(bins)
        where = place(confidences, bins)
        inside = [where == number for number in range(bins) if (where == number).any()]
        gaps = [right[one].double().mean() - confidences[one].double().mean() for one in inside]
        weights = torch.stack([one.double().mean() for one in inside])
        return combine(torch.stack(gaps), weights)

    return answer


def _middles(confidences, right, bins):
    """A slip: a bin's middle stands for its mean confidence."""
    where = (confidences * bins).long().clamp(max=bins - 1)
    error = 0.0
    for number in range(bins):
        if (inside := where == number).any():
            gap = right[inside].double().mean().item() - (number + 0.5) / bins
            error += abs(gap) * inside.double().mean().item()
    return error


def _bootstrap():
    few = torch.arange(20) > 0  # the formula's 0.95 ± 1.96 · 0.05 would go beyond 1
    what = "20 images, 19 of them right, repeats"
    yield Case(f"{what} 4,000", (few, 4000, generator(10)), _binomial_ends(few))
    width = "the distance of the two ends", lambda ends: float(ends[1] - ends[0])
    one = f"{what} 1, so that both ends are the one accuracy"
    yield Case(one, (few, 1, generator(11)), 0.0, width)
    right = torch.rand(1000, generator=generator(8)) < 0.9
    what = f"1,000 images, {int(right.sum())} of them right, repeats 4,000"
    yield Case(what, (right, 4000, generator(9)), _binomial_ends(right))


def _binomial_ends(right):
    """What endless repeats would give: the number of right ones among n draws is binomial."""
    n, share = len(right), right.double().mean()
    counts = torch.arange(n + 1).double()
    orders = torch.lgamma(torch.tensor(n + 1.0).double()) - counts.add(1).lgamma()
    logs = (
        orders - (n - counts + 1).lgamma() + counts * share.log() + (n - counts) * (-share).log1p()
    )
    until = logs.exp().cumsum(0)
    low, high = (int((until < end).sum()) / n for end in (0.025, 0.975))
    # Of 1,000 images, 4,000 repeats miss an end by one or two.
    return {"lower end": Near(low, 0.0025), "upper end": Near(high, 0.0025)}


def _drawn(ends=(0.025, 0.975), take=lambda repeats: repeats, scale=1.0):
    """A slip: other quantiles, another number of repeats or another scale."""

    def answer(right, repeats, draw):
        n, repeats = len(right), take(repeats)
        shares = right[torch.randint(n, (repeats, n), generator=draw)].double().mean(1)
        return tuple((scale * shares.quantile(torch.tensor(ends).double())).tolist())

    return answer


def _formula(right, repeats, draw):
    share = right.double().mean().item()
    half = 1.96 * (share * (1 - share) / len(right)) ** 0.5
    return share - half, share + half


EXERCISES = {
    "07a": Exercise(
        value(Near(1.96**2 * 0.95 * (1 - 0.95) / 0.001**2, 1_000)),
        slips=(
            (10_000, "That is CIFAR-10's test set. Section 1 says how wide its interval is."),
            (4 * 1.96**2 * 0.0475 / 0.001**2, "± 0.1 is half the interval's width, not all of it."),
            (1.96 * 0.0475 / 0.001**2, "Solved for n, the 1.96 is squared, too."),
            (0.0475 / 0.001**2, "That is one standard error. A 95% interval takes 1.96 of them."),
            (1.96**2 * 0.0475 / 0.1**2, "0.1 points are 0.001 as a fraction."),
            (1.96**2 * 0.0475 / 0.001, "Solved for n, the half width is squared, too."),
            (1.96**2 * 0.25 / 0.001**2, "That is for an accuracy of 50%, the worst case."),
        ),
        hints=(
            "Half the width of the interval is 1.96 · √(p · (1 − p) / n). Here n is wanted.",
            "Write everything as fractions: p = 0.95, and 0.1 points are 0.001.",
            "Square both sides, then solve for n.",
        ),
    ),
    "07b": Exercise(
        _macro_f1,
        slips=(
            (
                lambda matrix: (matrix.diagonal() / matrix.sum(1)).mean(),
                "That is the mean recall. Where does precision come in?",
            ),
            (
                lambda matrix: _precision_recall(matrix)[1].mean(),
                "That is the mean recall. Where does precision come in?",
            ),
            (
                lambda matrix: _precision_recall(matrix)[0].mean(),
                "That is the mean precision. Where does recall come in?",
            ),
            (
                lambda matrix: matrix.diagonal().sum() / matrix.sum(),
                "That is the accuracy. F1 is computed per class, then averaged.",
            ),
            (_undefined_f1, "A class gives 0 / 0 here. Its F1 is 0, as the exercise says."),
            (
                lambda matrix: _undefined_f1(matrix).nan_to_num(),
                "One class gives 0 / 0, and with it the mean of all. Mend the class, not the mean.",
            ),
            (
                lambda matrix: _f1(matrix)[matrix.sum(1) > 0].mean(),
                "You leave out the classes that have no images. They count, with an F1 of 0.",
            ),
            (
                lambda matrix: _f1(matrix)[matrix.diagonal() > 0].mean(),
                "You leave out the classes whose F1 is 0. They count in the mean.",
            ),
            (_f1_of_means, "Compute F1 per class, and average last."),
            (lambda matrix: _f1(matrix), "Those are the classes' F1. Their mean is asked for."),
        ),
        hints=(
            "The diagonal holds the right ones. Its share of a row's sum is the recall, of a "
            "column's sum the precision.",
            "Compute both for all classes at once, then F1 per class, then the mean.",
            "Against 0 / 0: where the divisor is 0, so is the numerator. A divisor of at least a "
            "little, `.clamp(min=…)`, then gives 0.",
        ),
    ),
    "07c": Exercise(
        _calibration_error,
        slips=(
            (
                _binned(
                    place=lambda confidences, bins: ((confidences * bins).ceil().long() - 1).clamp(
                        min=0
                    )
                ),
                "A confidence on the edge of two bins belongs to the upper one.",
            ),
            (
                _binned(place=lambda confidences, bins: (confidences * bins).long()),
                "Where does a confidence of exactly 1 go? It belongs to the last bin.",
            ),
            (
                _binned(bins_used=lambda bins: 1),
                "Gaps of different sign cancel, as if there were a single bin. Take the size of "
                "each bin's gap.",
            ),
            (_binned(bins_used=lambda bins: 10), "You do not use `bins`: yours are always 10."),
            (_binned(bins_used=lambda bins: 15), "You do not use `bins`: yours are always 15."),
            (
                _binned(combine=lambda gaps, weights: gaps.abs().mean()),
                "Every bin counts the same. It has to count by its share of the images.",
            ),
            (
                _binned(combine=lambda gaps, weights: gaps.abs().sum()),
                "Every bin counts whole. It has to count by its share of the images.",
            ),
            (
                _binned(combine=lambda gaps, weights: gaps.abs().max()),
                "That is the largest gap. The mean is asked for, by the bins' shares of images.",
            ),
            (
                _binned(combine=lambda gaps, weights: (gaps * weights).sum()),
                "Gaps of different sign cancel. Take the size of each bin's gap.",
            ),
            (
                _binned(combine=lambda gaps, weights: (gaps.square() * weights).sum().sqrt()),
                "Sizes of gaps are asked for, not their squares.",
            ),
            (
                _middles,
                "Compare with the mean confidence of the images in the bin, not its middle.",
            ),
            (
                lambda confidences, right, bins: (confidences - right.float()).abs().mean(),
                "That compares image by image. Take the means within a bin first.",
            ),
        ),
        hints=(
            "Find the bin of each confidence first: one number from 0 to bins − 1 per image.",
            "`(confidences * bins).long()` is that number, but for a confidence of 1.",
            "Go through the bins and skip the empty ones. Each adds its share of the images times "
            "the size of (mean confidence − share of right ones).",
        ),
    ),
    "07d": Exercise(
        _bootstrap,
        slips=(
            (_formula, "That is the formula's interval. Here draw, and let the draws decide."),
            (_drawn((0.05, 0.95)), "Those ends hold 90%. On either side 2.5% should lie outside."),
            (_drawn((0.25, 0.75)), "Those are quartiles: as a fraction, 2.5% is 0.025."),
            (
                lambda right, repeats, draw: (lambda low, high: (high, low))(
                    *_drawn()(right, repeats, draw)
                ),
                "The lower end comes first.",
            ),
            (
                lambda right, repeats, draw: (right.double().mean().item(),) * 2,
                "All draws have the same accuracy: draw with replacement, so that some images "
                "come twice and others not at all.",
            ),
            (_drawn(take=lambda repeats: 4000), "You do not use `repeats`."),
            (_drawn(scale=100), "Accuracies are fractions here, not percentages."),
            (lambda right, repeats, draw: (0.0, 1.0), "That is sure to hold it, and says nothing."),
        ),
        hints=(
            "One repeat: `torch.randint(n, (n,), generator=generator)` draws n images with "
            "replacement. What is the accuracy of those?",
            "Keep the accuracies of all repeats in one tensor of float64.",
            "`tensor.quantile(q)` with q = 0.025 and with q = 0.975, returned in this order.",
        ),
    ),
}
