"""Exercises and gaps of notebook 06 · Experiments."""

import math
import statistics
from itertools import combinations, permutations, product

import numpy as np
import torch
import torch.nn.functional as F

from cifar_utils.course.exercises.form import Case, Exercise, value
from cifar_utils.machine import generator

# --- gaps: chance ---------------------------------------------------------------------------------


def _mean_and_deviation():
    for values in ([0.64, 0.66], [0.641, 0.648, 0.643, 0.633, 0.651], [3.0, 3.0, 9.0]):
        due = {"mean": statistics.mean(values), "standard deviation": statistics.stdev(values)}
        yield Case(f"the values {values}", (values,), due)


def _standard_errors():
    """How far a difference lies from 0, in units of what chance gives it."""
    for difference, s, n, m in (
        (0.02, 0.01, 1, 1),
        (0.02, 0.01, 4, 4),
        (0.009, 0.002, 1, 3),
        (-0.03, 0.006, 2, 5),
    ):
        variance = math.fsum([s**2 / n, s**2 / m])  # variances add up
        given = f"a difference of {difference}, s = {s}, means of {n} and of {m} runs"
        yield Case(given, (difference, s, n, m), difference / math.sqrt(variance))


# --- gaps: few seeds ------------------------------------------------------------------------------


def _fooled():
    """One after the other, all ways to take so many runs of each, in any order."""
    ahead, behind = [6, 3, 9, 5, 1], [4, 6, 2, 5, 3]
    for first, second, count in (
        (ahead, behind, 2),
        (behind, ahead, 2),
        (ahead, behind, 1),
        (ahead[:4], behind[:4], 3),
        (behind, ahead, 5),
    ):
        leads = sum(first) > sum(second)
        draws = product(permutations(first, count), permutations(second, count))
        other = [sum(a) < sum(b) if leads else sum(a) > sum(b) for a, b in draws]
        given = f"the results {first} and {second}, count {count}"
        yield Case(given, (first, second, count), other.count(True) / len(other))


def _counted(
    *,
    draws=lambda first, second, count: product(
        combinations(first, count), combinations(second, count)
    ),
    is_fooled=lambda gap, lead: gap * lead < 0,
    of=lambda found: found.count(True) / len(found),
):
    """A slip: other draws, others that count as fooled, or something else of them."""

    def answer(first, second, count):
        lead = sum(first) - sum(second)
        gaps = [sum(a) - sum(b) for a, b in draws(first, second, count)]
        return of([is_fooled(gap, lead) for gap in gaps])

    return answer


def _intervals():
    """The differences that Welch's test, as SciPy has it, just does not rule out at 5%."""
    from scipy.stats import ttest_ind_from_stats

    for first, second in (
        ([0.641, 0.648, 0.643], [0.633, 0.651, 0.636]),
        ([0.52, 0.55, 0.57, 0.54], [0.61, 0.43]),
        ([3.0, 4.0, 4.5, 2.5, 6.0, 4.0], [1.0, 1.25, 0.75, 1.5]),
    ):
        s, r = statistics.stdev(first), statistics.stdev(second)
        low, high = 0.0, 20 * (s + r)
        for _ in range(30):
            middle = (low + high) / 2
            told = ttest_ind_from_stats(middle, s, len(first), 0, r, len(second), equal_var=False)
            low, high = (low, middle) if told.pvalue < 0.05 else (middle, high)
        difference = statistics.mean(first) - statistics.mean(second)
        due = {"difference": difference, "half of the width": high}
        yield Case(f"the results {first} and {second}", (first, second), due)


def _welch(u, v, n, m):
    from scipy.stats import t

    return float(t.ppf(0.975, (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (m - 1))))


def _ranged(
    *,
    factor=_welch,
    of_mean=lambda variance, n: variance / n,
    root=lambda total: total**0.5,
    result=lambda difference, half: (difference, half),
):
    """A slip: another factor, spreads put together in another way, or another form."""

    def answer(first, second):
        n, m = len(first), len(second)
        u = of_mean(statistics.variance(first), n)
        v = of_mean(statistics.variance(second), m)
        half = factor(u, v, n, m) * root(u + v)
        return result(statistics.mean(first) - statistics.mean(second), half)

    return answer


def _divided_late(first, second):
    """A slip: the factor gets the variances of single runs."""
    u, v = statistics.variance(first), statistics.variance(second)
    n, m = len(first), len(second)
    half = _welch(u, v, n, m) * (u / n + v / m) ** 0.5
    return statistics.mean(first) - statistics.mean(second), half


def _added_spreads(first, second):
    """A slip: spreads are added, not their squares."""
    u, v = (statistics.variance(one) / len(one) for one in (first, second))
    half = _welch(u, v, len(first), len(second)) * (u**0.5 + v**0.5)
    return statistics.mean(first) - statistics.mean(second), half


def _enough_seeds():
    """One seed more, until SciPy's normal distribution says 80%."""
    from scipy.stats import norm

    for difference, s in ((0.003, 0.004), (0.01, 0.004), (0.003, 0.002), (0.002, 0.003), (1, 2)):
        n = 1
        while norm.sf(norm.isf(0.025), loc=difference / math.hypot(s / n**0.5, s / n**0.5)) < 0.8:
            n += 1
        yield Case(f"a difference of {difference}, s = {s}", (difference, s), n)


# --- gaps: a search -------------------------------------------------------------------------------


def _on_log_scale():
    for lowest, highest, number, count in (
        (0.002, 20.0, 0, 5),
        (0.002, 20.0, 2, 5),
        (0.002, 20.0, 4, 5),
        (0.5, 2.0, 1, 4),
        (1e-5, 3e-2, 7, 9),
    ):
        share, due = number / (count - 1), float(np.geomspace(lowest, highest, count)[number])
        given = f"share {share:.4g}, from {lowest:g} to {highest:g}"
        yield Case(given, (share, lowest, highest), due)


def _narrow():
    values = [0.01, 0.3, 0.08, 0.04, 1.0]
    accuracies = [0.2, 0.35, 0.45, 0.44, 0.1]
    for keep, room in ((3, 2.0), (2, 2.0), (1, 3.0), (5, 1.5)):
        best = [values[place] for place in np.argsort(accuracies)[::-1][:keep]]
        due = {"lowest": min(best) / room, "highest": max(best) * room}
        given = f"values {values}, accuracies {accuracies}, keep {keep}, room {room}"
        yield Case(given, (values, accuracies, keep, room), due)


def _narrowed(
    *,
    choose=lambda pairs, keep: sorted(pairs, key=lambda pair: -pair[1])[:keep],
    widen=lambda low, high, room: (low / room, high * room),
):
    """A slip: other values are kept, or the room is made in another way."""

    def answer(values, accuracies, keep, room):
        best = [one for one, _ in choose(list(zip(values, accuracies, strict=True)), keep)]
        return widen(min(best), max(best), room)

    return answer


# --- gaps: budgets --------------------------------------------------------------------------------


def _affordable_epochs():
    for budget, mult_adds, images in (
        (10**15, 22_300_000, 50_000),
        (10**16, 22_300_000, 50_000),
        (10**15, 5_000_000, 50_000),
        (10**15, 5_000_000, 20_000),
        (3 * 7 * 11, 7, 11),  # exactly one
    ):
        spent = epochs = 0
        while spent + images * (mult_adds + 2 * mult_adds) <= budget:
            spent, epochs = spent + images * (mult_adds + 2 * mult_adds), epochs + 1
        given = (
            f"a budget of {budget:,}, {mult_adds:,} per image and forward pass, {images:,} images"
        )
        yield Case(given, (budget, mult_adds, images), epochs)


# --- gaps: a teacher ------------------------------------------------------------------------------


def _two_networks():
    """Logits of a student and of a teacher."""
    yield torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, -3.0]])
    draw = generator(21)
    yield 2 * torch.randn(5, 10, generator=draw), 3 * torch.randn(5, 10, generator=draw)


def _in_words(logits, answers, temperature):
    what = f"{len(logits)} rows of {logits.shape[1]} logits each"
    if len(logits) == 1:
        what = f"logits {logits.tolist()}, the teacher's {answers.tolist()}"
    return f"{what}, T = {temperature}"


def _distillation():
    for temperature in (1.0, 2.0, 4.0):
        for logits, answers in _two_networks():
            log_q = (logits / temperature).log_softmax(1)
            p = (answers / temperature).softmax(1)
            due = temperature**2 * F.kl_div(log_q, p, reduction="batchmean").item()
            given = _in_words(logits, answers, temperature)
            yield Case(given, (logits, answers, temperature), due)


def _distance(
    *, factor=lambda T: T**2, student=lambda T: T, teacher=lambda T: T, reduce="rows", swap=False
):
    """A slip: another factor, a temperature that is missing, another mean, or p and q swapped."""

    def answer(logits, answers, temperature):
        q = (logits / student(temperature)).softmax(1)
        p = (answers / teacher(temperature)).softmax(1)
        p, q = (q, p) if swap else (p, q)
        terms = p * (p.log() - q.log())
        distance = {"rows": terms.sum(1).mean(), "all": terms.mean(), "sum": terms.sum()}[reduce]
        return factor(temperature) * distance

    return answer


# --- exercises ------------------------------------------------------------------------------------


def _powers():
    """The chance that a difference comes out beyond 1.96 standard errors, as SciPy has it."""
    from scipy.stats import norm

    for difference, s, n in (
        (0.003, 0.004, 3),
        (0.003, 0.004, 28),
        (0.01, 0.004, 5),
        (0.002, 0.001, 2),
        (0.0, 0.004, 7),
    ):
        error = math.hypot(s / math.sqrt(n), s / math.sqrt(n))
        due = float(norm.sf(1.96 * error, loc=difference, scale=error))
        yield Case(f"a difference of {difference}, s = {s}, n = {n}", (difference, s, n), due)


def _found(*, error=lambda s, n: s * (2 / n) ** 0.5, beyond=1.96, of=lambda chance: chance):
    """A slip: another standard error, another limit, or the other chance."""

    def answer(difference, s, n):
        return of(statistics.NormalDist().cdf(difference / error(s, n) - beyond))

    return answer


def _paired():
    """The statistic of Student's test for pairs, as SciPy has it."""
    from scipy.stats import ttest_rel

    for first, second in (
        ([0.660, 0.672, 0.668, 0.649], [0.650, 0.659, 0.660, 0.641]),
        ([0.51, 0.55, 0.57], [0.52, 0.53, 0.52]),
        ([0.3, 0.4, 0.5, 0.6, 0.7], [0.35, 0.44, 0.53, 0.66, 0.75]),
    ):
        due = float(ttest_rel(first, second).statistic)
        yield Case(f"accuracies {first} and {second}", (first, second), due)


def _in_pairs(*, spread=statistics.stdev, root=True, sign=1):
    """A slip: another spread, not of the mean, or the other way round."""

    def answer(first, second):
        differences = [sign * (a - b) for a, b in zip(first, second, strict=True)]
        of_mean = len(differences) ** 0.5 if root else 1
        return statistics.mean(differences) / (spread(differences) / of_mean)

    return answer


def _unpaired(first, second):
    variances = statistics.variance(first) + statistics.variance(second)
    return (statistics.mean(first) - statistics.mean(second)) / (variances / len(first)) ** 0.5


def _distillation_gradient():
    for temperature in (1.0, 2.0, 4.0):
        for logits, answers in _two_networks():
            leaf, p = logits.clone().requires_grad_(), (answers / temperature).softmax(1)
            log_q = (leaf / temperature).log_softmax(1)
            (temperature**2 * F.kl_div(log_q, p, reduction="batchmean")).backward()
            given = _in_words(logits, answers, temperature)
            yield Case(given, (logits, answers, temperature), leaf.grad)


def _slope(*, factor=lambda T: T, sign=1, over=len, p_at=lambda T: T):
    """A slip: another factor, the other sign, not a mean, or a teacher without temperature."""

    def answer(logits, answers, temperature):
        q = (logits / temperature).softmax(1)
        p = (answers / p_at(temperature)).softmax(1)
        return sign * factor(temperature) * (q - p) / over(logits)

    return answer


EXERCISES = {
    "06a": Exercise(
        value(math.ceil(math.log(0.05) / math.log(0.9))),
        slips=(
            (28, "With so many the chance is still below 95%: round up."),
            (
                math.log(0.05) / math.log(0.9),
                "That is no whole number of tries, but you have the right equation.",
            ),
            (10, "One in ten *on average*, so ten tries may well miss. With what chance?"),
            (1, "One try hits the best tenth with a chance of 10% only."),
        ),
        hints=(
            "How likely is it that one try misses the best tenth? And that all of n tries do?",
            "All of n tries miss with a chance of 0.9ⁿ. That should be at most 5%.",
            "0.9ⁿ ≤ 0.05 means n ≥ log(0.05) / log(0.9). Round up.",
        ),
    ),
    "06b": Exercise(
        _powers,
        slips=(
            (
                _found(error=lambda s, n: s / n**0.5),
                "Both means scatter, not one: the variance of the difference is twice s² / n.",
            ),
            (
                _found(error=lambda s, n: s * 2**0.5),
                "That is the chance with one seed each. Means of n runs scatter less.",
            ),
            (
                _found(error=lambda s, n: 2 * s / n),
                "That is without the root: it is variances that add up, s² / n and s² / n.",
            ),
            (
                _found(beyond=0),
                "That is the chance to see the right leader. How far beyond zero must it lie?",
            ),
            (
                _found(of=lambda chance: 1 - chance),
                "That is the chance to miss it.",
            ),
        ),
        hints=(
            "How many standard errors is the difference? `standard_errors` of section 1 knows.",
            "What you measure lies around that number, in units of the standard error, with a "
            "standard deviation of 1. With what chance is it above 1.96?",
            "`NormalDist().cdf(x)` is the chance to lie below x. The one that is asked for is "
            "`cdf(that number - 1.96)`.",
        ),
    ),
    "06c": Exercise(
        _paired,
        slips=(
            (
                _unpaired,
                "That compares two heaps of runs. First take the difference of each pair, then "
                "look at how these differences scatter.",
            ),
            (
                _in_pairs(root=False),
                "The mean of n differences scatters less than one of them, by √n.",
            ),
            (
                _in_pairs(spread=statistics.pstdev),
                "Divide the squares by n − 1: the mean was taken from the same differences.",
            ),
            (_in_pairs(sign=-1), "The sign: first minus second is asked for."),
        ),
        hints=(
            "Make a list of differences, first minus second, one for each seed.",
            "`statistics.mean` and `statistics.stdev` of that list are all that you need.",
            "The standard error of their mean is their standard deviation divided by √n.",
        ),
    ),
    "06d": Exercise(
        _distillation_gradient,
        slips=(
            (
                _slope(factor=lambda T: T**2),
                "One T is too many: the derivative of logits / T takes one away.",
            ),
            (
                _slope(factor=lambda T: 1),
                "That would be right without the factor in front of the loss, times T.",
            ),
            (
                _slope(factor=lambda T: 1 / T),
                "That is the gradient without the factor T² of the loss.",
            ),
            (_slope(sign=-1), "The sign: a logit that is too large has to come down."),
            (
                _slope(over=lambda logits: 1),
                "That is the gradient of the sum over the images. The loss is their mean.",
            ),
            (_slope(p_at=lambda T: 1), "The teacher's logits are divided by T, too."),
        ),
        hints=(
            "Begin at T = 1: it is the gradient of a cross-entropy whose targets are p.",
            "So it is (q − p) / N there. What does the chain rule make of `logits / T`?",
            "The chain rule gives a factor 1 / T, the loss has T²: what is left of them?",
        ),
    ),
}

GAPS: dict[str, Exercise] = {
    "06.1": Exercise(
        _mean_and_deviation,
        slips=(
            (
                lambda values: (statistics.mean(values), statistics.pstdev(values)),
                "Divide the sum of the squares by n − 1: the mean came from the same values, so "
                "they lie closer to it than to the true one.",
            ),
            (
                lambda values: (statistics.mean(values), statistics.variance(values)),
                "That is the variance. Its root has the unit of the values.",
            ),
            (
                lambda values: (
                    statistics.mean(values),
                    statistics.stdev(values) / len(values) ** 0.5,
                ),
                "That is how far the *mean* scatters. How far does one value?",
            ),
            (
                lambda values: (
                    statistics.mean(values),
                    sum(abs(one - statistics.mean(values)) for one in values) / len(values),
                ),
                "That is the mean distance. Square the distances before you add them.",
            ),
        ),
        hints=(
            "The mean first, then the squares of the distances from it.",
            "`squares = [(value - mean) ** 2 for value in values]`. Add them, then divide.",
            "Divide their sum by `len(values) - 1`, and take the root: `** 0.5`.",
        ),
    ),
    "06.2": Exercise(
        _standard_errors,
        slips=(
            (
                lambda difference, s, n, m: difference / s,
                "Both results scatter, and means of several runs scatter less: where are n and m?",
            ),
            (
                lambda difference, s, n, m: difference / (s * (1 / (n + m)) ** 0.5),
                "Add 1 / n and 1 / m, not the numbers of runs.",
            ),
            (
                lambda difference, s, n, m: difference / (s * (1 / n + 1 / m)),
                "It is variances that add up, s² / n and s² / m: there is a root to take.",
            ),
            (
                lambda difference, s, n, m: difference / (s / n**0.5 + s / m**0.5),
                "Standard deviations do not add up, their squares do.",
            ),
            (
                lambda difference, s, n, m: difference / (s**2 * (1 / n + 1 / m)),
                "That is the variance of the difference. Take its root.",
            ),
        ),
        hints=(
            "A mean of n runs has the variance s² / n. What is the variance of the difference?",
            "s² / n + s² / m. Its root is the standard error.",
            "`error = s * (1 / n + 1 / m) ** 0.5`. How many of these is the difference?",
        ),
    ),
    "06.3": Exercise(
        _fooled,
        slips=(
            (
                _counted(is_fooled=lambda gap, lead: gap * lead > 0),
                "That is the share of draws with the same leader as all runs together.",
            ),
            (
                _counted(is_fooled=lambda gap, lead: gap < 0),
                "You count the draws in which the second is ahead. Which of the two is ahead if "
                "all runs count?",
            ),
            (
                _counted(is_fooled=lambda gap, lead: gap * lead <= 0),
                "A tie is among them. It says nothing, so it does not count.",
            ),
            (
                _counted(
                    draws=lambda first, second, count: zip(
                        combinations(first, count), combinations(second, count), strict=True
                    )
                ),
                "You take the same seeds from both. Each draw from the first meets each draw from "
                "the second.",
            ),
            (
                _counted(
                    draws=lambda first, second, count: product(
                        product(first, repeat=count), product(second, repeat=count)
                    )
                ),
                "You put a run back and may draw it twice. A draw holds different runs.",
            ),
            (
                lambda first, second, count: _counted()(first, second, 3),
                "You do not use `count`.",
            ),
            (_counted(of=lambda found: found.count(True)), "A share is asked for: divide."),
            (
                _counted(of=lambda found: 100 * found.count(True) / len(found)),
                "A fraction is asked for, not a percentage.",
            ),
        ),
        hints=(
            "`combinations(first, count)` gives all draws from the first, one after the other. "
            "Their sums are as good as their means.",
            "With one list of sums for each recipe, go through all pairs: `for a in ours for b in "
            "theirs`.",
            "The sign of `a - b` is the opposite of that of `sum(first) - sum(second)` if their "
            "product is below zero.",
        ),
    ),
    "06.4": Exercise(
        _intervals,
        slips=(
            (
                _ranged(factor=lambda u, v, n, m: 1.96),
                "That takes 1.96, as if both spreads were known well. They were measured on a few "
                "runs: `t_factor` says what to take in its place.",
            ),
            (
                _ranged(root=lambda total: total),
                "That is without the root: a variance, not a standard error.",
            ),
            (
                _ranged(of_mean=lambda variance, n: variance),
                "Those are the variances of single runs. The mean of n runs has less.",
            ),
            (
                _ranged(of_mean=lambda variance, n: variance**0.5 / n),
                "Square the standard deviations first: it is variances that add up.",
            ),
            (
                _divided_late,
                "u and v are the variances of the *means*: divide by n and m before `t_factor` "
                "gets them, too.",
            ),
            (_added_spreads, "Standard deviations do not add up, their squares do."),
            (
                _ranged(result=lambda difference, half: (difference, 2 * half)),
                "That is the whole width. Half of it is asked for, what stands behind the ±.",
            ),
            (
                _ranged(result=lambda difference, half: (difference - half, difference + half)),
                "Those are the two ends. The difference and half the width are asked for.",
            ),
            (
                _ranged(result=lambda difference, half: (-difference, half)),
                "That is the second minus the first.",
            ),
            (
                _ranged(factor=lambda u, v, n, m: 1),
                "That is one standard error. How many make the interval? See `t_factor`.",
            ),
        ),
        hints=(
            "`mean_and_deviation` gives the mean and s of each list. Then n and m: `len(first)` "
            "and `len(second)`.",
            "The means have the variances `u = s**2 / n` and `v = …` with the other s and m.",
            "Return two things: the difference of the means, and `t_factor(u, v, n, m)` times the "
            "root of u + v.",
        ),
    ),
    "06.5": Exercise(
        _enough_seeds,
        slips=(
            (
                lambda difference, s: math.ceil(2.8**2 * (s / difference) ** 2),
                "Both means scatter, not one: where is the 2 in front?",
            ),
            (
                lambda difference, s: math.ceil(2 * 1.96**2 * (s / difference) ** 2),
                "With so few the interval leaves out zero in half of the cases only: 0.84 is "
                "missing.",
            ),
            (
                lambda difference, s: math.floor(2 * 2.8**2 * (s / difference) ** 2),
                "With so few the chance is still below 80%: round up.",
            ),
            (
                lambda difference, s: round(2 * 2.8**2 * (s / difference) ** 2),
                "Not to the nearest whole number: with fewer seeds than the formula has, the "
                "chance is below 80%.",
            ),
            (
                lambda difference, s: math.ceil(2 * 2.8**2 * s / difference),
                "The standard error falls with the root of n: s / δ is squared.",
            ),
            (
                lambda difference, s: math.ceil(2 * 2.8 * (s / difference) ** 2),
                "The sum of the two numbers is squared, too.",
            ),
            (
                lambda difference, s: math.ceil(2 * (1.96**2 + 0.84**2) * (s / difference) ** 2),
                "Add 1.96 and 0.84 first, then square.",
            ),
            (
                lambda difference, s: 2 * 2.8**2 * (s / difference) ** 2,
                "A number of seeds is whole: round up, with `math.ceil`.",
            ),
        ),
        hints=(
            "It is the formula above, with δ for `difference`.",
            "A square is `** 2`. The brackets: `(1.96 + 0.84) ** 2` and `(s / difference) ** 2`.",
            "Multiply both squares, times 2, and round up: `math.ceil(…)`.",
        ),
    ),
    "06.6": Exercise(
        _on_log_scale,
        slips=(
            (
                lambda share, lowest, highest: lowest + share * (highest - lowest),
                "That is the linear scale. Half way between 0.01 and 1 should be 0.1.",
            ),
            (
                lambda share, lowest, highest: math.exp(
                    math.log10(lowest) + share * math.log10(highest / lowest)
                ),
                "A base 10 logarithm goes with `10 ** …`, a natural one with `math.exp`.",
            ),
            (
                lambda share, lowest, highest: (
                    math.log10(lowest) + share * math.log10(highest / lowest)
                ),
                "That is the logarithm of the value.",
            ),
            (
                lambda share, lowest, highest: lowest * highest**share,
                "At share 1 the value is `highest`: by which factor has `lowest` to grow?",
            ),
        ),
        hints=(
            "At share 0 the value is `lowest`, at share 1 it is `highest / lowest` times that.",
            "At share ½ it is the root of that factor times `lowest`.",
            "So the factor is raised to the power of `share`.",
        ),
    ),
    "06.7": Exercise(
        _narrow,
        slips=(
            (
                _narrowed(choose=lambda pairs, keep: pairs[:keep]),
                "Those are the first tries, not the best.",
            ),
            (
                _narrowed(choose=lambda pairs, keep: sorted(pairs, key=lambda p: p[1])[:keep]),
                "Those are the worst: sort the other way round.",
            ),
            (
                _narrowed(choose=lambda pairs, keep: sorted(pairs, reverse=True)[:keep]),
                "Sort by the accuracies, not by the values.",
            ),
            (_narrowed(widen=lambda low, high, room: (low, high)), "The room is missing."),
            (
                _narrowed(widen=lambda low, high, room: (low - room, high + room)),
                "On a logarithmic scale room is a factor: divide by it, and multiply.",
            ),
        ),
        hints=(
            "Put each accuracy together with its value, and sort.",
            "`sorted(zip(accuracies, values), reverse=True)[:keep]` are the best.",
            "Of their values, divide the smallest by `room`, and multiply the largest by it.",
        ),
    ),
    "06.8": Exercise(
        _affordable_epochs,
        slips=(
            (
                lambda budget, mult_adds, images: budget // (mult_adds * images),
                "That is the price of looking. Learning goes backward, too.",
            ),
            (
                lambda budget, mult_adds, images: budget // (2 * mult_adds * images),
                "The way back costs twice the way forward, and both have to be paid.",
            ),
            (
                lambda budget, mult_adds, images: math.ceil(budget / (3 * mult_adds * images)),
                "The last epoch would not be finished: round down.",
            ),
            (
                lambda budget, mult_adds, images: budget // (3 * mult_adds),
                "That is how many images can be learned from. How many epochs is it?",
            ),
        ),
        hints=(
            "What does one image cost, forward and backward?",
            "Three times `mult_adds`. An epoch costs that for each of its images.",
            "`//` divides and rounds down.",
        ),
    ),
    "06.9": Exercise(
        _distillation,
        slips=(
            (_distance(factor=lambda T: 1), "The factor T² is missing."),
            (_distance(factor=lambda T: T), "The factor is T², not T."),
            (_distance(student=lambda T: 1), "The student's logits are divided by T, too."),
            (_distance(teacher=lambda T: 1), "The teacher's logits are divided by T, too."),
            (
                _distance(reduce="all"),
                "The ten terms of an image are added up. Only over the images is a mean taken.",
            ),
            (_distance(reduce="sum"), "That is the sum over the images. The mean is asked for."),
            (
                _distance(swap=True),
                "p and q are swapped: p, which weighs the terms, is the teacher's.",
            ),
        ),
        hints=(
            "First the two kinds of probabilities, both at temperature T.",
            "`p = (answers / temperature).softmax(1)`, and `log_q` from `log_softmax(1)` of the "
            "student's. An image's divergence is the sum over its classes of p · (log p − log q).",
            "`(p * (p.log() - log_q)).sum(1).mean()`, times T².",
        ),
    ),
}
