"""Exercises and gaps of notebook 07 · Evaluation."""

import math
import statistics

import torch
import torch.nn.functional as F

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


# --- gaps -----------------------------------------------------------------------------------------


def _interval():
    right = torch.arange(100) < 80
    yield Case("100 images, the first 80 of them right", (right,), _share_and_half(right))
    right = torch.rand(2000, generator=generator(1)) < 0.93
    what = f"2,000 images, {int(right.sum()):,} of them right"
    yield Case(what, (right,), _share_and_half(right))


def _share_and_half(right):
    """From the standard deviation of zeros and ones; to divide by n − 1 in it is as good."""
    ones = list(map(float, right.tolist()))
    half = 1.96 * statistics.pstdev(ones) / len(ones) ** 0.5
    return {"share p": statistics.fmean(ones), "half width": Near(half, 0.006 * half)}


def _spread(half):
    """A slip: half the width is another function of the share p and the number n."""

    def answer(right):
        p, n = right.double().mean().item(), len(right)
        return p, half(p, n)

    return answer


def _compare():
    for n, shares in ((1000, (0.9, 0.8)), (600, (0.7, 0.85))):
        draw = generator(n)
        hard = torch.rand(n, generator=draw)  # most images are easy for both, or hard for both
        first, second = (hard + 0.1 * torch.randn(n, generator=draw) < share for share in shares)
        what = f"{n:,} images; the first network has {int(first.sum())} right"
        yield Case(
            f"{what}, the second {int(second.sum())}", (first, second), _pairs(first, second)
        )


def _pairs(first, second):
    """One image at a time."""
    pairs = list(zip(map(float, first.tolist()), map(float, second.tolist()), strict=True))
    differences = [one - other for one, other in pairs]
    half = 1.96 * statistics.stdev(differences) / len(pairs) ** 0.5
    return {
        "mean difference": statistics.fmean(differences),
        "half width": Near(half, 0.002 * half),
        "count of images that only the first has right": differences.count(1),
        "count of images that only the second has right": differences.count(-1),
    }


def _compared(
    mean=lambda a, b: a.double().mean() - b.double().mean(),
    half=lambda difference: 1.96 * difference.std() / len(difference) ** 0.5,
    only=lambda a, b: (a & ~b).sum(),
):
    """A slip: the mean, the half width or the counts are something else."""

    def answer(first, second):
        difference = first.double() - second.double()
        counts = only(first, second).item(), only(second, first).item()
        return mean(first, second).item(), half(difference).item(), *counts

    return answer


def _unpaired(first, second):
    """A slip: the interval of two accuracies on different images."""
    difference, _, *counts = _compared()(first, second)
    variances = [right.double().var() / len(right) for right in (first, second)]
    return difference, 1.96 * sum(variances).sqrt().item(), *counts


def _confusion():
    yield _counted([0, 0, 0, 0, 1, 1, 2], [0, 1, 1, 0, 1, 0, 1], 3)  # no image is called 2
    draw = generator(3)
    labels = torch.cat([torch.arange(5), torch.randint(5, (60,), generator=draw) ** 2 // 4])
    yield _counted(labels.tolist(), torch.randint(5, (65,), generator=draw).tolist(), 5)


def _counted(labels, predictions, classes):
    """The case with these labels; the expected counts come from a loop."""
    counts = [[0] * classes for _ in range(classes)]
    for label, prediction in zip(labels, predictions, strict=True):
        counts[label][prediction] += 1
    shares = [[count / sum(row) for count in row] for row in counts]
    due = {"counts": torch.tensor(counts), "shares": torch.tensor(shares)}
    few = len(labels) < 10
    what = f"labels {labels}, predictions {predictions}" if few else f"{len(labels)} random pairs"
    given = torch.tensor(labels), torch.tensor(predictions), classes
    return Case(f"{what}, classes {classes}", given, due)


def _table(divide=lambda counts: counts / counts.sum(1, keepdim=True), turned=False):
    """A slip: the table is turned, or divided by something else."""

    def answer(labels, predictions, classes):
        rows, columns = (predictions, labels) if turned else (labels, predictions)
        counts = torch.bincount(classes * rows + columns, minlength=classes**2)
        counts = counts.view(classes, classes)
        return counts, divide(counts)

    return answer


def _precision_and_recall():
    for rows in ([[8, 2, 0], [1, 6, 3], [2, 0, 28]], [[5, 15], [1, 9]]):
        sizes = range(len(rows))
        precision = [rows[i][i] / sum(row[i] for row in rows) for i in sizes]
        recall = [rows[i][i] / sum(rows[i]) for i in sizes]
        due = {"precision": torch.tensor(precision), "recall": torch.tensor(recall)}
        yield Case(f"the matrix {rows}", (torch.tensor(rows),), due)


def _surest():
    logits = torch.tensor(  # the second and the last are right
        [[2.0, 1, 0], [9, 0, 0], [0, 3, 0], [5, 4.5, 4.5], [0, 0, 1], [0, 7, 0]]
    )
    labels = torch.tensor([1, 0, 2, 1, 0, 1])
    what = f"logits {logits.tolist()}, labels {labels.tolist()}"
    for count in (2, 9):
        due = torch.tensor(_ranked(logits, labels)[:count])
        yield Case(f"{what}, count {count}", (logits, labels, count), due)
    draw = generator(4)
    logits, labels = 2 * torch.randn(300, 10, generator=draw), torch.arange(300) % 10
    due = torch.tensor(_ranked(logits, labels)[:7])
    yield Case("300 random rows of logits, count 7", (logits, labels, 7), due)


def _ranked(logits, labels):
    """The mistakes of the greatest softmax first, one image at a time."""
    found = []
    for place, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        if row.index(max(row)) != label:
            found.append((sum(math.exp(logit - max(row)) for logit in row), place))
    return [place for _, place in sorted(found)]


def _sorted(
    of=lambda logits: logits.double().softmax(1).amax(1),
    keep=lambda wrong: wrong,
    descending=True,
):
    """A slip: sorted by something else, or other images."""

    def answer(logits, labels, count):
        order = of(logits).argsort(descending=descending)
        return order[keep(logits.argmax(1) != labels)[order]][:count]

    return answer


def _places_among_mistakes(logits, labels, count):
    """A slip: what is sorted is a list of the mistakes alone, whose places are others."""
    confidences, predictions = logits.double().softmax(1).max(1)
    return confidences[predictions != labels].argsort(descending=True)[:count]


def _temperature():
    for scale, what in ((3.0, "claim too much"), (0.4, "claim too little")):
        draw = generator(7)
        honest = 2 * torch.randn(400, 5, generator=draw)
        labels = honest.softmax(1).multinomial(1, generator=draw)[:, 0]
        logits = scale * honest
        due = _best_temperature(logits, labels)
        yield Case(f"400 rows of logits that {what}", (logits, labels), Near(due, 0.02 * due))


def _best_temperature(logits, labels):
    """Where the slope of the loss in 1/T is zero; it only ever grows, so halving finds it."""
    logits, low, high = logits.double(), 1 / 20, 20.0
    own = logits.gather(1, labels[:, None])[:, 0]
    for _ in range(60):
        middle = (low + high) / 2
        slope = (((middle * logits).softmax(1) * logits).sum(1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def _tried(score, best=min, of=lambda T, score: T, ends=(0.05, 20), step=0.0):
    """A slip: the T with the best of another score, of other tries, or something else of it."""

    def answer(logits, labels):
        tries = torch.linspace(*map(math.log, ends), 601).exp().tolist()
        if step:
            tries = torch.arange(step, 20, step).tolist()
        scores = [score(logits, labels, T) for T in tries]
        found = best(scores)
        return of(tries[scores.index(found)], found)

    return answer


def _loss(logits, labels, T):
    return F.cross_entropy(logits / T, labels).item()


def _errors():
    confidences = torch.tensor([0.5, 0.9, 0.6, 0.8])
    right = torch.tensor([False, True, True, False])
    what = f"confidences {_short(confidences)}, right {right.tolist()}"
    yield Case(what, (confidences, right), _error_among(confidences, right))
    draw = generator(5)
    confidences = torch.rand(200, generator=draw)
    right = torch.rand(200, generator=draw) < confidences
    due = _error_among(confidences, right)
    yield Case("200 random confidences", (confidences, right), due)


def _short(numbers):
    return [round(number, 3) for number in numbers.tolist()]


def _error_among(confidences, right):
    """For each k on its own: the k surest images, and how many of them are wrong."""
    by_confidence = sorted(zip((-confidences).tolist(), right.tolist(), strict=True))
    hits = [is_right for _, is_right in by_confidence]
    return torch.tensor([hits[:k].count(False) / k for k in range(1, len(hits) + 1)])


def _error(
    order=lambda confidences: confidences.argsort(descending=True),
    counted=lambda right: ~right,
    over=lambda n: torch.arange(1, n + 1),
):
    """A slip: another order, other images counted, or another divisor."""

    def answer(confidences, right):
        hits = right[order(confidences)]
        return counted(hits).double().cumsum(0) / over(len(right))

    return answer


def _two_views():
    # A network of one layer, so that no two pixels weigh the same.
    for n in (1, 5):
        draw = generator(n)
        images = torch.randint(256, (n, 3, 4, 4), generator=draw, dtype=torch.uint8)
        weights = torch.randn(48, 3, generator=draw) / 300
        mirrored = torch.from_numpy(images.numpy()[..., ::-1].copy())
        both = torch.cat([images, mirrored]).flatten(1).double() @ weights.double()
        due = both.view(2, n, 3).mean(0).float()
        what = f"{n} random image{'s' if n > 1 else ''} of 4 × 4 pixels and a network of one layer"
        yield Case(what, (_one_layer(weights), images), due)


def _one_layer(weights):
    def predict(images):
        return images.flatten(1).float() @ weights

    return predict


def _viewed(view=lambda images: images.flip(3), together=lambda one, other: (one + other) / 2):
    """A slip: another second view, or another way to put the two together."""

    def answer(predict, images):
        return together(predict(images), predict(view(images)))

    return answer


GAPS: dict[str, Exercise] = {
    "07.1": Exercise(
        _interval,
        slips=(
            (
                _spread(lambda p, n: (p * (1 - p) / n) ** 0.5),
                "That is one standard deviation of the accuracy. How many make a 95% interval?",
            ),
            (
                _spread(lambda p, n: 1.96 * (p * (1 - p)) ** 0.5),
                "That is how much one image varies. Where does the number of images come in?",
            ),
            (
                _spread(lambda p, n: 1.96 * (p * (1 - p)) ** 0.5 / n),
                "The n is under the square root, too.",
            ),
            (
                _spread(lambda p, n: 1.96 * p * (1 - p) / n),
                "That is without the square root: a variance, not a standard deviation.",
            ),
            (
                _spread(lambda p, n: 2 * 1.96 * (p * (1 - p) / n) ** 0.5),
                "That is the whole width. Half of it is asked for, what stands behind the ±.",
            ),
            (
                lambda right: (lambda p, half: (p - half, p + half))(
                    *_spread(lambda p, n: 1.96 * (p * (1 - p) / n) ** 0.5)(right)
                ),
                "Those are the two ends. The share and half the width are asked for.",
            ),
            (
                lambda right: tuple(
                    100 * part
                    for part in _spread(lambda p, n: 1.96 * (p * (1 - p) / n) ** 0.5)(right)
                ),
                "Fractions are asked for, not percentages.",
            ),
        ),
        hints=(
            "p is the mean of `right`. A mean of bools needs numbers first: `right.double()`.",
            "n is `len(right)`. A square root is `** 0.5`, and `.item()` makes a float.",
            "Return two things, `p, 1.96 * (… / n) ** 0.5`, with the formula's p (1 − p) for the "
            "dots.",
        ),
    ),
    "07.2": Exercise(
        _compare,
        slips=(
            (
                _unpaired,
                "That is the interval of two networks on different images. Use the standard "
                "deviation of the differences, image by image.",
            ),
            (
                _compared(half=lambda difference: 1.96 * difference.std()),
                "That is how much a single difference varies. The mean of n varies less.",
            ),
            (
                _compared(half=lambda difference: difference.std() / len(difference) ** 0.5),
                "That is one standard deviation of the mean. A 95% interval takes 1.96 of them.",
            ),
            (
                _compared(mean=lambda a, b: (a.double() - b.double()).abs().mean()),
                "Without their signs, differences cannot cancel: that is how often they differ.",
            ),
            (
                _compared(mean=lambda a, b: b.double().mean() - a.double().mean()),
                "That is the second network minus the first.",
            ),
            (
                _compared(only=lambda a, b: a.sum()),
                "You count all that one network has right, also where the other is right, too.",
            ),
            (
                _compared(only=lambda a, b: (a != b).sum()),
                "You count where they differ, twice the same. Which of the two is right there?",
            ),
        ),
        hints=(
            "`first.double() - second.double()` is 1, 0 or −1 for each image.",
            "Its `.mean()` is the first result. For the second, its `.std()`, √n and 1.96.",
            "Only the first is right where the difference is 1, or where `first & ~second`.",
        ),
    ),
    "07.3": Exercise(
        _confusion,
        slips=(
            (
                _table(turned=True),
                "That table is turned: a row is a true class, and a column is a predicted one.",
            ),
            (
                _table(lambda counts: counts / counts.sum(1)),
                "That divides column j by the sum of row j. The sums have to be a column: "
                "`keepdim=True`.",
            ),
            (
                _table(lambda counts: counts / counts.sum(0)),
                "There the columns add up to 1. The rows should.",
            ),
            (
                _table(lambda counts: counts / counts.sum()),
                "There the whole table adds up to 1. Each row should.",
            ),
            (
                _table(lambda counts: 100 * counts / counts.sum(1, keepdim=True)),
                "Fractions are asked for, not percentages.",
            ),
        ),
        hints=(
            "`classes * labels + predictions` gives every pair a number of its own.",
            "`torch.bincount(pairs, minlength=classes**2)`, then `.view(classes, classes)`.",
            "A row's sum: `counts.sum(1, keepdim=True)`, of shape (classes, 1), divides each row.",
        ),
    ),
    "07.4": Exercise(
        _precision_and_recall,
        slips=(
            (
                lambda counts: tuple(counts.diagonal() / counts.sum(axis) for axis in (1, 0)),
                "Those two are swapped. Which one asks about all cats, which about all that was "
                "called a cat?",
            ),
            (
                lambda counts: tuple(counts.diagonal() / counts.sum() for _ in range(2)),
                "You divide by all images. Divide by those of the class, and by those called so.",
            ),
            (
                lambda counts: (counts.diagonal() / counts.sum(1),) * 2,
                "Both are the recall. For the precision, add up the columns.",
            ),
            (
                lambda counts: (counts.diagonal() / counts.sum(0),) * 2,
                "Both are the precision. For the recall, add up the rows.",
            ),
        ),
        hints=(
            "`counts.diagonal()` holds the right ones of each class.",
            "`counts.sum(1)` adds along a row: all images of a class. `counts.sum(0)` adds down a "
            "column: all that were called so.",
            "Return the diagonal divided by the columns' sums, then by the rows' sums.",
        ),
    ),
    "07.5": Exercise(
        _surest,
        slips=(
            (
                _places_among_mistakes,
                "Those are places in the list of the mistakes. Which images are they?",
            ),
            (
                _sorted(keep=torch.ones_like),
                "Right answers are among them. Only the mistakes are asked for.",
            ),
            (_sorted(keep=lambda wrong: ~wrong), "Those are the right answers."),
            (_sorted(descending=False), "Those are the least sure. The surest come first."),
            (
                _sorted(of=lambda logits: logits.amax(1)),
                "You sort by logits. A large logit beside another large one is not sure at all: "
                "take the softmax.",
            ),
        ),
        hints=(
            "`logits.softmax(1).max(1)` gives two things: the confidences and the predictions.",
            "`confidences.argsort(descending=True)` lists all images, the surest first.",
            "Index a bool tensor `wrong` by that order, keep those images of the order for which "
            "it is True, and of these the first `count`.",
        ),
    ),
    "07.6": Exercise(
        _temperature,
        slips=(
            (
                _tried(_loss, of=lambda T, found: 1 / T),
                "That is 1 / T. Logits are divided by T, not multiplied.",
            ),
            (
                _tried(_loss, of=lambda T, found: found),
                "That is the lowest loss. The T that gives it is asked for.",
            ),
            (
                _tried(
                    lambda logits, labels, T: (
                        ((logits / T).argmax(1) == labels).float().mean().item()
                    ),
                    best=max,
                ),
                "That is the least T of all. Did you keep the highest loss? Or compare accuracies, "
                "which are the same for every T?",
            ),
            *(
                (
                    _tried(_loss, step=step),
                    "Near the best T your tries lie too far apart. Make each larger than the last "
                    "by the same factor, a small one.",
                )
                for step in (0.05, 0.1, 0.5)
            ),
            (
                _tried(_loss, ends=(1, 20)),
                "T may be below 1, too: down to 0.05.",
            ),
            (
                _tried(_loss, ends=(0.05, 1)),
                "T may be above 1, too: up to 20.",
            ),
        ),
        hints=(
            "A list of values to try: `[0.05 * 1.01**step for step in range(603)]`.",
            "For each: `F.cross_entropy(logits / T, labels).item()`.",
            "`losses.index(min(losses))` is the place of the lowest loss. Return the T there, as a "
            "float.",
        ),
    ),
    "07.7": Exercise(
        _errors,
        slips=(
            (
                _error(order=lambda confidences: confidences.argsort()),
                "You begin with the least sure images. The surest come first.",
            ),
            (
                _error(order=lambda confidences: torch.arange(len(confidences))),
                "You take the images as they come. Sort them by confidence first.",
            ),
            (
                _error(counted=lambda right: right),
                "That is the share of right answers. The share of mistakes is asked for.",
            ),
            (
                _error(over=lambda n: n),
                "You divide by all images. Among the k surest there are only k.",
            ),
            (_error(over=lambda n: 1), "Those are counts of mistakes. Divide each by its k."),
            (
                _error(over=lambda n: torch.arange(n)),
                "The first entry is about one image, not about none: k begins at 1.",
            ),
        ),
        hints=(
            "`confidences.argsort(descending=True)` lists the images, the surest first.",
            "`(~right)[order]` says which of them are wrong. `.double().cumsum(0)` counts on.",
            "Divide that by `torch.arange(1, len(right) + 1)`.",
        ),
    ),
    "07.8": Exercise(
        _two_views,
        slips=(
            (
                _viewed(view=lambda images: images.flip(2)),
                "That view stands on its head. A mirror swaps left and right: the last dimension.",
            ),
            (
                _viewed(view=lambda images: images.flip(0)),
                "That swaps images, not their left and right sides.",
            ),
            (
                _viewed(together=lambda one, other: one + other),
                "That is the sum of both. The mean is asked for.",
            ),
            (
                _viewed(together=lambda one, other: other),
                "That is the mirror image's answer alone. Where is that of the image itself?",
            ),
            (
                _viewed(together=lambda one, other: (one.softmax(1) + other.softmax(1)) / 2),
                "Those are means of probabilities. The mean of the logits is asked for.",
            ),
        ),
        hints=(
            "`predict(images)` gives the logits of the images as they are, (N, classes).",
            "Images are (N, 3, height, width). `images.flip(3)` mirrors them left to right.",
            "Call `predict` twice, add the two results, and halve them.",
        ),
    ),
}
