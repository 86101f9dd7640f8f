"""Exercises of notebook 10 · Speed."""

import math

import torch

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
