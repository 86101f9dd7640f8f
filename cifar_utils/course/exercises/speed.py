"""Exercises and gaps of notebook 10 · Speed."""

import math
import operator
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifar_utils.course.exercises.form import Case, Exercise, Form, Near, Rule, value
from cifar_utils.machine import generator


def _alternating():
    row = torch.tensor([1, 2], dtype=torch.uint8).expand(2, 3, 1, 2).contiguous()
    what = "two images of one row, 1 and 2 in every colour, coins True and False, epoch 0"
    due = torch.stack([row[0].flip(2), row[1]])
    yield Case(what, (row, torch.tensor([True, False]), 0), due)
    images = torch.randint(256, (12, 3, 4, 6), generator=generator(12), dtype=torch.uint8)
    coins = torch.rand(12, generator=generator(13)) < 0.5
    for epoch in (3, 4):
        due = torch.stack(
            [
                image.flip(2) if bool(coin) != (epoch % 2 == 1) else image
                for image, coin in zip(images, coins, strict=True)
            ]
        )
        yield Case(f"12 random images and coins, epoch {epoch}", (images, coins, epoch), due)


def _mirrored(which, dimension=3):
    """A slip: other images are mirrored, or along another dimension."""
    return lambda images, coins, epoch: torch.where(
        which(coins, epoch)[:, None, None, None], images.flip(dimension), images
    )


def _quicker_seconds():
    for machines, message, bandwidth, delay in (
        (2, 4e6, 1e9, 0.0),
        (8, 8e6, 1e9, 1e-5),  # the ring
        (64, 2e3, 1e9, 1e-5),  # the tree
        (5, 1e3, 1e9, 1e-5),  # the tree: 5 machines need as many levels as 8
        (16, 5e5, 2e8, 1e-4),  # the tree, because the network is slow to begin
        (1, 4e6, 1e9, 1e-5),  # nothing is sent
    ):
        levels, reached = 0, 1
        while reached < machines:
            levels, reached = levels + 1, 2 * reached
        pieces = sum(delay + message / machines / bandwidth for _ in range(2 * machines - 2))
        wholes = sum(delay + message / bandwidth for _ in range(2 * levels))
        what = f"machines {machines}, message {message:g} bytes, bandwidth {bandwidth:g}"
        what += f", delay {delay:g}"
        arguments = machines, message, bandwidth, delay
        yield Case(what, arguments, float(min(pieces, wholes)))


def _ring(machines, message, bandwidth, delay, *, ways=2):
    return ways * (machines - 1) * (delay + message / machines / bandwidth)


def _tree(machines, message, bandwidth, delay, *, ways=2, levels=math.ceil):
    return ways * levels(math.log2(machines)) * (delay + message / bandwidth)


def _whitening():
    mixing = torch.randn(5, 5, generator=generator(14), dtype=torch.float64)
    patches = mixing @ torch.randn(5, 3000, generator=generator(15), dtype=torch.float64) + 0.5
    what = "3,000 random patches of five numbers"
    yield Case(what, (patches,), Form((5, 5), torch.float64))
    products = (
        "the mean outer product of W · patches",
        lambda filters: (
            (filters.double() @ patches) @ (filters.double() @ patches).T / patches.shape[1]
        ),
    )
    yield Case(what, (patches,), torch.eye(5, dtype=torch.float64), products)
    symmetric = Rule(
        lambda difference: difference < 1e-6,
        "W whitens, but it is not symmetric. Turn the result back to where the patches were.",
    )
    difference = (
        "the largest difference between W and Wᵀ",
        lambda filters: (filters - filters.T).abs().max().item(),
    )
    yield Case(what, (patches,), symmetric, difference)


def _whitened(moments_of=lambda patches: patches @ patches.T / patches.shape[1], power=-0.5):
    """A slip: other moments, or another power of them."""

    def answer(patches):
        variances, directions = torch.linalg.eigh(moments_of(patches))
        return directions @ torch.diag(variances**power) @ directions.T

    return answer


def _turned(patches):
    variances, directions = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
    return torch.diag(variances**-0.5) @ directions.T


# --- gaps -----------------------------------------------------------------------------------------


class _Toy:
    """A device that starts its work and returns. Its own clock goes on when it waits."""

    def __init__(self, durations):
        self.durations, self.now, self.begun = list(durations), 0.0, 0.0

    def work(self):
        self.begun += self.durations.pop(0) if self.durations else 100.0

    def wait(self):
        self.now, self.begun = self.now + self.begun, 0.0

    def clock(self):
        return self.now


def _median_seconds():
    for durations, rounds in (((9.0, 2.0, 7.0, 3.5), 3), ((5.0, 1.0, 40.0, 4.0, 3.0), 4),
                              ((8.0, 2.5), 1)):  # fmt: skip
        first, *counted = durations
        ranked = sorted(counted)
        due = (ranked[(rounds - 1) // 2] + ranked[rounds // 2]) / 2
        toy = _Toy(durations)
        told = f"work that takes {first:g} s the first time, then {', '.join(map(str, counted))} s"
        arguments = toy.work, rounds, toy.wait, toy.clock
        yield Case(f"{told}; rounds {rounds}", arguments, due)


def _timed(middle=statistics.median, *, calls_before=1, waits=True, waits_before=True):
    """A slip: another mean, no warm-up, or a wait left out."""

    def answer(work, rounds, wait, clock):
        for _ in range(calls_before):
            work()
            if waits_before:
                wait()
        seconds = []
        for _ in range(rounds):
            began = clock()
            work()
            if waits:
                wait()
            seconds.append(clock() - began)
        return middle(seconds)

    return answer


def _step_multiply_adds():
    for images, size, inputs, outputs, side, trained, first in (
        (2, 5, 3, 4, 2, True, False),
        (3, 6, 5, 2, 3, True, True),
        (4, 3, 2, 7, 1, False, True),
        (2, 4, 6, 3, 2, False, False),
    ):
        given = torch.zeros(images, inputs, size, size, requires_grad=not first)
        kernels = torch.zeros(outputs, inputs, side, side, requires_grad=trained)
        with FlopCounterMode(display=False) as counter:
            maps = F.conv2d(given, kernels)
            if maps.requires_grad:
                maps.sum().backward()
        places = maps.shape[2] * maps.shape[3]
        arguments = images, places, inputs, outputs, side, trained, first
        what = f"images {images}, places {places}, inputs {inputs}, outputs {outputs}, side {side}"
        what += f", trained {trained}, first {first}"
        yield Case(what, arguments, counter.get_total_flops() // 2)


def _passes(passes, power=2):
    """A slip: another number of passes, or of weights in a kernel."""
    return lambda images, places, inputs, outputs, side, trained, first: (
        images * places * inputs * outputs * side**power * passes(trained, first)
    )


class _Counted:
    """A number that knows which products of two such numbers it is made of."""

    def __init__(self, value, products=frozenset()):
        self.value, self.products = value, products

    def _with(self, other, operate, swapped=False):
        known = isinstance(other, _Counted)
        one, two = self.value, other.value if known else other
        products = self.products | (other.products if known else frozenset())
        if known and operate is operator.mul:
            products = products | {object()}
        return _Counted(operate(two, one) if swapped else operate(one, two), products)

    def __add__(self, other):
        return self._with(other, operator.add)

    def __sub__(self, other):
        return self._with(other, operator.sub)

    def __mul__(self, other):
        return self._with(other, operator.mul)

    def __truediv__(self, other):
        return self._with(other, operator.truediv)

    def __radd__(self, other):
        return self._with(other, operator.add, swapped=True)

    def __rsub__(self, other):
        return self._with(other, operator.sub, swapped=True)

    def __rmul__(self, other):
        return self._with(other, operator.mul, swapped=True)

    def __neg__(self):
        return self._with(-1, operator.mul)


def _two_outputs():
    for pixels, weights in (
        ((1.0, 2.0, 4.0, 8.0), (0.5, -1.0, 3.0)),
        ((-2.0, 0.25, 1.5, 6.0), (2.0, 0.75, -1.5)),
    ):
        line, filter_ = (torch.tensor([[row]], dtype=torch.float64) for row in (pixels, weights))
        first, second = F.conv1d(line, filter_).flatten().tolist()
        due = {"first output": first, "second output": second}
        yield Case(f"pixels {pixels}, weights {weights}", (pixels, weights), due)
    counted = tuple(tuple(map(_Counted, row)) for row in (pixels, weights))
    how_many = (
        "the number of multiplications of a pixel's number by a weight's",
        lambda outputs: len(outputs[0].products | outputs[1].products),
    )
    yield Case("numbers that count how they are multiplied", counted, 4, how_many)


def _directly(pixels, weights):
    d0, d1, d2, d3 = pixels
    g0, g1, g2 = weights
    return d0 * g0 + d1 * g1 + d2 * g2, d1 * g0 + d2 * g1 + d3 * g2


def _summed(signs):
    """A slip: the right products, but other sums of them."""

    def answer(pixels, weights):
        d0, d1, d2, d3 = pixels
        g0, g1, g2 = weights
        products = ((d0 - d2) * g0, (d1 + d2) * ((g0 + g1 + g2) / 2),
                    (d2 - d1) * ((g0 - g1 + g2) / 2), (d1 - d3) * g2)  # fmt: skip
        sums = []
        for row in signs:
            total = 0
            for sign, product in zip(row, products, strict=True):
                total = total + sign * product if sign else total
            sums.append(total)
        return tuple(sums)

    return answer


def _whitening_filters():
    variances = torch.tensor([0.02, 0.5, 2.0, 9.0], dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator(16), dtype=torch.float64))
    draws = torch.randn(60, 4, generator=generator(17), dtype=torch.float64) + 0.5
    even, _ = torch.linalg.qr(draws)  # the mean of its products is the identity, but for a factor
    patches = turn * variances.sqrt() @ even.T * 60**0.5
    sizes = "the filters' numbers without their signs", lambda filters: filters.abs()
    for epsilon in (0.1, 1.0):
        what = f"60 patches of four numbers, epsilon {epsilon}"
        due = (turn / (variances + epsilon).sqrt()).T.abs()
        yield Case(what, (patches, epsilon), Form((4, 4), torch.float64))
        yield Case(what, (patches, epsilon), due, sizes)
    products = (
        "the mean outer product of filters @ patches",
        lambda filters: (
            (filters.double() @ patches) @ (filters.double() @ patches).T / patches.shape[1]
        ),
    )
    yield Case(what, (patches, epsilon), torch.diag(variances / (variances + epsilon)), products)


def _filters(
    moments_of=lambda patches: patches @ patches.T / patches.shape[1],
    root_of=lambda variances, epsilon: (variances + epsilon).sqrt(),
    finish=lambda directions, roots: (directions / roots).T,
):
    """A slip: other moments, another root, or directions divided in another way."""

    def answer(patches, epsilon):
        variances, directions = torch.linalg.eigh(moments_of(patches))
        return finish(directions, root_of(variances, epsilon))

    return answer


def _work_left():
    for steps, small, until, few in ((8, 16, 0.5, 4), (10, 24, 0.25, 3), (7, 8, 0.6, 5)):
        pixels = few * small * small + (steps - few) * 32 * 32
        what = f"steps {steps}, small_size {small}, small_until {until}"
        yield Case(what, (steps, small, until), pixels / (steps * 32 * 32))


def _work(power=2, is_small=operator.lt, whole=1.0):
    """A slip: other sides, another border between the two sizes, or a part left out."""

    def answer(steps, small_size, small_until):
        few = sum(is_small(number / steps, small_until) for number in range(steps))
        return (few * (small_size / 32) ** power + (steps - few) * whole) / steps

    return answer


def _epochs_to():
    for goal, budgets, accuracies, due in (
        (0.6, (2, 4, 8), (0.4, 0.5, 0.7), 4 * math.sqrt(2)),
        (0.425, (2, 4, 8), (0.4, 0.5, 0.7), 2 * 2**0.25),
        (0.5, (1, 16), (0.2, 0.6), 8.0),
    ):
        what = f"goal {goal}, budgets {budgets}, accuracies {accuracies}"
        yield Case(what, (goal, budgets, accuracies), due)


def _gradient_of_all():
    for counts in ((3, 1), (5, 2, 1)):
        inputs = torch.randn(sum(counts), 4, generator=generator(18), dtype=torch.float64)
        targets = torch.randn(sum(counts), generator=generator(19), dtype=torch.float64)
        weights = torch.ones(4, dtype=torch.float64, requires_grad=True)

        def gradient(rows, inputs=inputs, targets=targets, weights=weights):
            loss = (inputs[rows] @ weights - targets[rows]).square().mean()
            return torch.autograd.grad(loss, weights)[0]

        parts = torch.arange(sum(counts)).split(counts)
        gradients = torch.stack([gradient(rows) for rows in parts])
        what = f"{len(counts)} processes with {', '.join(map(str, counts))} images"
        yield Case(what, (gradients, torch.tensor(counts)), gradient(slice(None)))


EXERCISES = {
    "10a": Exercise(
        value(Near(1 / (0.4 + 0.6 / 20), 0.01)),
        slips=(
            (2.5, "That is the limit, if the network took no time at all. It still takes some."),
            (20, "Only the network becomes 20 times as fast. The rest stays."),
            (1 / (0.6 + 0.4 / 20), "The other way round: opening and augmenting takes 40%."),
            (0.4 + 0.6 / 20, "That is the new time as a share of the old. How many times faster?"),
            (0.4 + 0.6 * 20, "Times add up, speeds do not. How long do 100 s now take?"),
            (0.6 * 20, "Times add up, speeds do not. How long do 100 s now take?"),
        ),
        hints=(
            "Let the loop take 100 s. How many of them are the network's?",
            "How many seconds does the network need when it is 20 times as fast? And the loop?",
            "Old seconds divided by new seconds.",
        ),
    ),
    "10b": Exercise(
        _alternating,
        slips=(
            (_mirrored(lambda coins, epoch: coins), "You do not use `epoch`: nothing alternates."),
            (
                _mirrored(lambda coins, epoch: coins ^ (epoch % 2 == 0)),
                "Even and odd are swapped: in even epochs the coins that are True count.",
            ),
            (
                lambda images, coins, epoch: images.flip(3) if epoch % 2 else images,
                "You do not use `coins`: some images change in even epochs, others in odd ones.",
            ),
            (
                _mirrored(lambda coins, epoch: coins & (epoch % 2 == 0)),
                "In odd epochs nothing is mirrored. There it is the other images' turn.",
            ),
            (
                _mirrored(lambda coins, epoch: coins ^ (epoch % 2 == 1), dimension=2),
                "That mirrors top to bottom. The columns are dimension 3.",
            ),
        ),
        hints=(
            "First find out which images are to be mirrored, one True or False per image.",
            "In odd epochs that is `~coins`, in even ones `coins`.",
            "`torch.where(chosen[:, None, None, None], mirrored, images)` takes from the one or "
            "the other, image by image.",
        ),
    ),
    "10c": Exercise(
        _quicker_seconds,
        slips=(
            (_ring, "That is the ring, always. With short messages the tree is quicker."),
            (_tree, "That is the tree, always. With long messages the ring is quicker."),
            (
                lambda *case: max(_ring(*case), _tree(*case)),
                "That is the slower of the two.",
            ),
            (
                lambda *case: min(_ring(*case), _tree(*case, levels=float)),
                "The number of levels is whole: log₂ n has to be rounded up.",
            ),
            (
                lambda *case: min(_ring(*case), _tree(*case, levels=int)),
                "Rounded down, a level is missing: five machines need three.",
            ),
            (
                lambda *case: min(_ring(*case, ways=1), _tree(*case, ways=1)),
                "That is half the way: the sum has to come back to all machines, too.",
            ),
            (
                lambda *case: min(_ring(*case), _tree(*case, ways=1)),
                "The tree's sum has to be handed back, too, level by level.",
            ),
            (
                lambda machines, message, bandwidth, delay: min(
                    _ring(machines, message, bandwidth, 0.0),
                    _tree(machines, message, bandwidth, 0.0),
                ),
                "You do not use `delay`. Every hop has one.",
            ),
            (
                lambda machines, message, bandwidth, delay: (
                    machines * (delay + message / bandwidth)
                ),
                "n hops with the whole message are neither the ring nor the tree.",
            ),
        ),
        hints=(
            "Write two functions, ring and tree, and return the smaller of their results.",
            "Either is hops times the seconds of one hop, and a hop takes its delay plus its bytes "
            "divided by the bandwidth.",
            "The ring has 2 (n − 1) hops of message / n bytes. The tree has two hops per level, "
            "of the whole message: `math.ceil(math.log2(n))` levels.",
        ),
    ),
    "10d": Exercise(
        _whitening,
        slips=(
            (
                _whitened(torch.cov),
                "You take the mean away first. Here the mean of (W p)(W p)ᵀ is asked for as it is.",
            ),
            (
                _whitened(power=-1),
                "That is the inverse. The spread enters W p twice, so only its root may be undone.",
            ),
            (_whitened(power=0.5), "That makes the spread larger. It has to be divided by."),
            (
                _whitened(lambda patches: patches @ patches.T),
                "That is the sum over the patches. Their mean is asked for.",
            ),
            (
                _turned,
                "W whitens, but turns the patches, too. Turn the result back with the same "
                "directions, and W is symmetric.",
            ),
            (
                lambda patches: torch.linalg.inv(
                    torch.linalg.cholesky(patches @ patches.T / patches.shape[1])
                ),
                "W whitens, but it is triangular. The eigenvectors of the mean of p pᵀ give a "
                "symmetric one.",
            ),
            (lambda patches: torch.eye(len(patches)).double(), "The identity changes nothing."),
        ),
        hints=(
            "Compute M, the mean of p pᵀ. Then W M Wᵀ has to be the identity.",
            "`torch.linalg.eigh(M)` gives variances and directions E. In the directions, M is a "
            "diagonal. What makes a diagonal of variances the identity?",
            "W = E · D · Eᵀ, and D is a diagonal that divides by the roots of the variances.",
        ),
    ),
}

GAPS: dict[str, Exercise] = {
    "10.1": Exercise(
        _median_seconds,
        slips=(
            (
                _timed(calls_before=0),
                "The first call counts, too. It is slower than the others: make one more before.",
            ),
            (_timed(statistics.mean), "That is the mean. One slow call spoils it."),
            (
                _timed(waits=False, waits_before=False),
                "Your clock sees nothing of the work: work() returns at once. Call wait() before "
                "you read clock() again.",
            ),
            (
                _timed(waits_before=False),
                "What the call before left open ends in your first round. Wait there, too.",
            ),
            (_timed(min), "That is the quickest call. The median is asked for."),
        ),
        hints=(
            "Begin with one call of work() and one of wait(), outside of any loop.",
            "In a loop over `range(rounds)`: read clock(), call work() and wait(), then append "
            "clock() minus what you read before to a list.",
            "`statistics.median(seconds)` is what you return.",
        ),
    ),
    "10.2": Exercise(
        _step_multiply_adds,
        slips=(
            (
                _passes(lambda trained, first: 1),
                "That is the forward pass alone. What does the backward pass compute?",
            ),
            (
                _passes(lambda trained, first: 3),
                "Not every layer has three passes. Which gradients does nobody need?",
            ),
            (
                _passes(lambda trained, first: 1 + trained + (not first), power=1),
                "How many weights has a kernel of `side` × `side`, per channel?",
            ),
            (
                _passes(lambda trained, first: 1 + trained),
                "You leave the gradient of the inputs out. Only a first layer can do without.",
            ),
            (
                _passes(lambda trained, first: 1 + trained + first),
                "The other way round: the first layer's inputs are the images, which need no "
                "gradient.",
            ),
        ),
        hints=(
            "One pass takes the five numbers of the formula above, multiplied; k counts twice.",
            "Count the passes: one forward; one if the kernels are trained; one unless the layer "
            "is the first.",
            "True counts as 1 and False as 0, so you may write `1 + trained + (not first)`.",
        ),
    ),
    "10.3": Exercise(
        _two_outputs,
        slips=(
            (
                _directly,
                "The outputs are right, but it takes one multiplication per pixel and weight. Use "
                "the four products.",
            ),
            (
                _summed(((1, 1, 1, 0), (0, 1, -1, 1))),
                "Look at the last product again: with which sign does d3 · g2 enter the second "
                "output?",
            ),
            (
                _summed(((1, 1, 1, 0), (0, 1, 1, -1))),
                "The second output needs the difference of the middle products, not their sum.",
            ),
            (
                _summed(((0, 1, -1, -1), (1, 1, 1, 0))),
                "Those are the two outputs, but in the other order.",
            ),
        ),
        hints=(
            "m1 + m2 = d1 g1 + d2 (g0 + g2). What is missing for y0, and what is too much?",
            "m0 adds d0 g0 and takes d2 g0 away: so y0 is m0 + m1 + m2.",
            "m1 − m2 = d1 (g0 + g2) + d2 g1. For y1, d1 g2 has to go and d3 g2 has to come: that "
            "is what taking m3 away does.",
        ),
    ),
    "10.4": Exercise(
        _whitening_filters,
        slips=(
            (
                _filters(finish=lambda directions, roots: directions / roots),
                "eigh gives one direction per column. A filter per row is asked for.",
            ),
            (
                _filters(root_of=lambda variances, epsilon: variances + epsilon),
                "You divide by the variance. An output's size is the root of it.",
            ),
            (
                _filters(root_of=lambda variances, epsilon: variances.sqrt() + epsilon),
                "Epsilon is added to the variance, before the root is taken.",
            ),
            (
                _filters(moments_of=lambda patches: patches @ patches.T),
                "M is a mean: divide the sum by the number of patches.",
            ),
            (
                _filters(moments_of=torch.cov),
                "You take the mean patch away first. M is the mean of p pᵀ as it is.",
            ),
            (
                _filters(finish=lambda directions, roots: directions.T / roots),
                "Each direction has a variance of its own. You divide across the directions.",
            ),
        ),
        hints=(
            "`patches @ patches.T` adds up all p pᵀ at once. How many are there?",
            "`variances, directions = torch.linalg.eigh(M)`; a direction is a column.",
            "`directions / roots` divides each column by its own root, if roots is the root of "
            "variances + epsilon. Then turn columns into rows with `.T`.",
        ),
    ),
    "10.5": Exercise(
        _work_left,
        slips=(
            (
                _work(power=1),
                "The work grows with the number of pixels. How many has a square of that side?",
            ),
            (
                _work(is_small=operator.le),
                "One step too many is small: a step is small only below `small_until`.",
            ),
            (_work(whole=0.0), "The whole images cost something, too: 1 per step."),
            (
                lambda steps, small, until: until * (small / 32) ** 2 + 1 - until,
                "Steps are whole: count those whose number / steps is below small_until.",
            ),
            (
                lambda steps, small, until: 1 - _work()(steps, small, until),
                "That is what is saved. What is left of the work is asked for.",
            ),
        ),
        hints=(
            "Go through `range(steps)` and decide for each step which side its images have.",
            "A step's work is (side / whole)², 1 for whole images. Add it up.",
            "The images of a step are small if `number / steps < small_until`. Divide the sum by "
            "`steps` at the end.",
        ),
    ),
    "10.6": Exercise(
        _epochs_to,
        slips=(
            (
                lambda goal, budgets, accuracies: np.interp(goal, accuracies, budgets),
                "Your line runs over the epochs themselves. Take their logarithm first.",
            ),
            (
                lambda goal, budgets, accuracies: np.interp(goal, accuracies, np.log2(budgets)),
                "That is still log₂ of the epochs. Undo it.",
            ),
            (
                lambda goal, budgets, accuracies: (
                    2 ** np.interp(goal, np.log2(budgets), accuracies)
                ),
                "You read the line the other way: accuracy goes in, epochs come out.",
            ),
            (
                lambda goal, budgets, accuracies: (
                    math.e ** np.interp(goal, accuracies, np.log2(budgets))
                ),
                "Undo log₂ with a power of 2, not of e.",
            ),
        ),
        hints=(
            "`np.log2(budgets)` takes all logarithms at once.",
            "What you know is an accuracy, the goal. So accuracies are the xs of np.interp, and "
            "the logarithms its ys.",
            "`2**x` undoes log₂.",
        ),
    ),
    "10.7": Exercise(
        _gradient_of_all,
        slips=(
            (
                lambda gradients, counts: gradients.mean(0),
                "All processes count the same, but they have different numbers of images.",
            ),
            (lambda gradients, counts: gradients.sum(0), "That is the sum, not a mean."),
            (
                lambda gradients, counts: (counts[:, None] * gradients).sum(0),
                "That adds up over the images. Divide by how many there are in all.",
            ),
            (
                lambda gradients, counts: (counts[:, None] * gradients).mean(0) / counts.sum(),
                "The shares add up to 1 already: do not divide by the number of processes, too.",
            ),
        ),
        hints=(
            "Each process has a share of the images: counts divided by their sum.",
            "Multiply each row of gradients by its share: `shares[:, None]` is a column.",
            "Add up the rows with `.sum(0)`.",
        ),
    ),
}
