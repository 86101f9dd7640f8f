"""Exercises and gaps of notebook 09 · Transfer learning."""

import copy
import statistics

import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.course.exercises.form import Case, Exercise, Near, Rule, value
from cifar_utils.data import MEAN, STD, normalize
from cifar_utils.errors import CifarError
from cifar_utils.machine import generator
from cifar_utils.models import ConvNet, conv_bn_relu

# --- exercises ------------------------------------------------------------------------------------


def _staged(stages=4):
    """A network of that many small stages, in training mode, with all of its weights learning."""
    blocks = [conv_bn_relu(3 if number == 0 else 4, 4) for number in range(stages)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return ConvNet(nn.Sequential(*blocks), head).train()


def _freeze_first():
    for stages, count in ((4, 2), (4, 0), (3, 3)):
        network = _staged(stages)
        given = f"a network of {stages} stages, stages={count}"
        due = torch.tensor([float(number >= count) for number in range(stages)])
        same = Rule(bool, "Return the network that you were given.")
        is_it = (
            "whether the same network comes back",
            lambda got, network=network: int(got is network),
        )
        yield Case(given, (network, count), same, is_it)
        network = _staged(stages)
        what = "the share of each stage's weights that learn"
        yield Case(given, (network, count), due, (what, _learning))
        network = _staged(stages)
        what = "the share of each stage's batch norms in training mode"
        yield Case(given, (network, count), due, (what, _training))
        network = _staged(stages)
        what = "how many numbers of the head learn"
        yield Case(given, (network, count), 25, (what, lambda net: _count(net.classifier)))


def _count(module):
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def _learning(network):
    stages = [list(one.parameters()) for one in network.features]
    return torch.tensor([sum(w.requires_grad for w in one) / len(one) for one in stages])


def _training(network):
    norms = [
        [m for m in one.modules() if isinstance(m, nn.BatchNorm2d)] for one in network.features
    ]
    return torch.tensor([sum(m.training for m in one) / len(one) for one in norms])


def _frozen_where(chosen, *, evaluating=True, learning=False):
    """A slip: other stages are frozen, or only in one of the two ways."""

    def answer(network, stages):
        for stage in chosen(network, stages):
            if evaluating:
                stage.eval()
            if not learning:
                stage.requires_grad_(False)
        return network

    return answer


def _ridge():
    for n, d, classes, strength in ((30, 6, 3, 2.0), (10, 40, 5, 0.5)):
        draw = generator(n)
        features = torch.randn(n, d, generator=draw) + 2
        labels = torch.arange(n) % classes
        labels[0] = 1  # classes of different size, so that the targets' means differ
        given = f"{n} images of {d} features, {classes} classes, strength {strength}"
        yield Case(given, (features, labels, classes, strength), _by_least_squares(
            features, labels, classes, strength
        ))  # fmt: skip


def _by_least_squares(features, labels, classes, strength):
    """The penalty as rows of their own, the bias as a column that no such row concerns."""
    n, d = features.shape
    ones = torch.ones(n, 1, dtype=torch.float64)
    above = torch.cat([features.double(), ones], 1)
    below = torch.cat([strength**0.5 * torch.eye(d).double(), torch.zeros(d, 1).double()], 1)
    targets = torch.cat([F.one_hot(labels, classes).double(), torch.zeros(d, classes).double()])
    found = torch.linalg.lstsq(torch.cat([above, below]), targets).solution
    return {"weights": found[:d], "biases": found[d]}


def _solved(
    *, centre=True, bias=True, penalty=lambda strength: strength, turned=False, identity=None
):
    """A slip: the closed form with something left out."""

    def answer(features, labels, classes, strength):
        x, y = features.double(), F.one_hot(labels, classes).double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        if centre:
            x, y = x - mean_x, y - mean_y
        squares = x.T @ x
        unit = identity(squares) if identity else torch.eye(len(squares))
        weights = torch.linalg.pinv(squares + penalty(strength) * unit) @ x.T @ y
        biases = mean_y - mean_x @ weights if bias else mean_y
        biases = biases if centre else torch.zeros(classes)
        return (weights.T if turned else weights), biases

    return answer


EXERCISES: dict[str, Exercise] = {
    "09a": Exercise(
        value(120.0),
        slips=(
            (40, "The backward pass costs something, too: twice as much as the forward pass."),
            (80, "The forward pass of each step counts as well as its backward pass."),
            (30_000, "That is what fine-tuning costs. How often does caching's cost go into it?"),
            (10_000, "That is how many images fine-tuning sees. What does each of them cost?"),
            (600, "Each step sees a batch of 50 images, not all 250."),
        ),
        hints=(
            "Count both in forward passes of one image.",
            "Caching takes one forward pass for each of the 250 images, and nothing backward.",
            "Fine-tuning: steps times images per step, each of them once forward and once "
            "backward, which counts as two.",
        ),
    ),
    "09b": Exercise(
        _freeze_first,
        slips=(
            (
                _frozen_where(lambda network, stages: network.features[:stages], evaluating=False),
                "The weights are right. But batch norms in training mode follow each batch.",
            ),
            (
                _frozen_where(lambda network, stages: network.features[:stages], learning=True),
                "`eval` alone freezes no weight. Which flag says whether a weight gets a gradient?",
            ),
            (
                lambda network, stages: _frozen_where(lambda one, n: one.features[:n])(
                    network.eval(), stages
                ),
                "The stages that go on learning have to stay in training mode.",
            ),
            (
                _frozen_where(lambda network, stages: network.features[stages:]),
                "Those are the last stages. The first ones, near the image, are to be frozen.",
            ),
            (
                _frozen_where(lambda network, stages: network.features),
                "You do not use `stages`: yours freezes all features.",
            ),
            (
                _frozen_where(lambda network, stages: network.features[: stages + 1]),
                "That is one stage too many.",
            ),
        ),
        hints=(
            "`network.features` is a sequence, and it can be sliced as a list can.",
            "`network.features[:stages]` are the first ones. `freeze` of section 5 does the rest.",
            "For each of these stages: `requires_grad_(False)` and `eval()`. Leave the others as "
            "they are, and return the network.",
        ),
    ),
    "09c": Exercise(
        _ridge,
        slips=(
            (
                _solved(centre=False),
                "Without subtracting the means, the weights have to do the biases' work.",
            ),
            (
                _solved(bias=False),
                "The features' means were subtracted: the biases have to make good for it.",
            ),
            (_solved(penalty=lambda strength: 0.0), "You do not use `strength`."),
            (
                _solved(identity=torch.ones_like),
                "λ belongs on the diagonal only: `strength * torch.eye(D)`.",
            ),
            (
                _solved(penalty=lambda strength: strength**2),
                "The strength comes as it is, not squared.",
            ),
            (_solved(turned=True), "A row per feature, a column per class: not the other way."),
        ),
        hints=(
            "Make the targets with `F.one_hot(labels, classes).double()`, and take the features as "
            "double, too. Subtract the mean of each column from both.",
            "`torch.linalg.solve(A, B)` gives the W of A W = B. Here A is XᵀX plus the strength "
            "times `torch.eye(D)`, and B is XᵀY.",
            "The biases are the targets' means minus the features' means times W.",
        ),
    ),
}


# --- gaps -----------------------------------------------------------------------------------------


def _of_classes():
    for wanted, labels in (
        ([5, 6, 9], [9, 0, 5, 6, 1, 6, 9]),
        ([7, 2], torch.randint(10, (200,), generator=generator(1)).tolist()),
    ):
        pairs = [(i, wanted.index(label)) for i, label in enumerate(labels) if label in wanted]
        positions, numbers = (torch.tensor(column) for column in zip(*pairs, strict=True))
        given = f"labels {labels}" if len(labels) < 10 else f"{len(labels)} labels"
        yield Case(
            f"{given}, wanted {wanted}",
            (torch.tensor(labels), wanted),
            {"positions": positions, "new labels": numbers},
        )


def _chosen(renumber):
    """A slip: the right images, with other labels."""

    def answer(labels, wanted):
        positions = torch.isin(labels, torch.tensor(wanted)).nonzero().flatten()
        return positions, renumber(labels[positions], wanted)

    return answer


def _few_of_each():
    few = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 1])
    mixed = torch.arange(3000) % 3
    for name, labels, count in (
        (f"labels {few.tolist()}", few, 2),
        ("3,000 labels of three classes", mixed, 50),
    ):

        def balanced(got, labels=labels, count=count):
            counts = torch.bincount(labels[got.long()], minlength=3)
            return counts.tolist() == [count] * 3 and len(got.unique()) == len(got)

        def form(got, labels=labels, count=count):
            return (
                isinstance(got, torch.Tensor)
                and got.shape == (3 * count,)
                and not got.is_floating_point()
                and got.dtype != torch.bool
                and bool(((got >= 0) & (got < len(labels))).all())
            )

        given, draw = f"{name}, count {count}", (labels, count, generator(9))
        wanted = Rule(form, f"Positions are asked for: {3 * count} whole numbers in a tensor.")
        yield Case(given, draw, wanted)
        wanted = Rule(balanced, "Some class has too many or too few, or an image comes twice.")
        yield Case(given, (labels, count, generator(9)), wanted)

    drawn = []

    def spread(got):  # of 1,000 images per class, 50 at random lie on both sides of the middle
        drawn.append(set(got.tolist()))
        return all(
            (own < 1500).any() and (own >= 1500).any()
            for own in (got[mixed[got] == label] for label in range(3))
        )

    given = "3,000 labels of three classes, count 50"
    wanted = Rule(spread, "These lie at one end of their class: is anything drawn?")
    yield Case(given, (mixed, 50, generator(9)), wanted)
    wanted = Rule(
        lambda got: set(got.tolist()) != drawn[-1],
        "Another seed has to draw other images. Do you use `generator`?",
    )
    yield Case(f"{given}, another seed", (mixed, 50, generator(10)), wanted)


def _drawn_anywhere(labels, count, draw):
    return torch.randperm(len(labels), generator=draw)[: count * len(labels.unique())]


def _places_within(labels, count, draw):
    orders = [torch.randperm(int((labels == c).sum()), generator=draw) for c in labels.unique()]
    return torch.cat([order[:count] for order in orders])


def _drawn_per_class(places):
    """A slip: within each class, other places than `count` different random ones."""

    def answer(labels, count, draw):
        found = []
        for label in labels.unique():
            own = (labels == label).nonzero().flatten()
            found.append(own[places(len(own), count, draw)])
        return torch.cat(found)

    return answer


def _network(classes=5):
    """A little network with the map sizes of `compact`, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        features = nn.Sequential(conv_bn_relu(3, 128), nn.AdaptiveAvgPool2d(2))
        head = nn.Sequential(
            nn.Flatten(), nn.Linear(512, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes)
        )
        network = ConvNet(features, head)
        norm = features[0][1]
        norm.running_mean.uniform_(-1, 1)  # as if it had been trained
        norm.running_var.uniform_(0.5, 2)
    return network.train()


def _new_head():
    inputs = torch.randn(2, 3, 8, 8, generator=generator(2))
    for classes in (7, 5):
        given = f"a network for 5 classes, classes={classes}"
        is_network = "whether a network comes back", lambda got: int(isinstance(got, nn.Module))
        yield Case(given, (_network(), classes), Rule(bool, "A network is asked for."), is_network)

        def shape(got):
            try:
                return torch.tensor(got.eval()(inputs).shape)
            except RuntimeError:
                raise CifarError(
                    "No image passes: a linear layer takes a row of 128 · 2 · 2 numbers per image."
                ) from None

        what = "the shape of the logits for two images"
        yield Case(given, (_network(), classes), torch.tensor([2, classes]), (what, shape))

        def count(got):
            if not isinstance(getattr(got, "classifier", None), nn.Module):
                raise CifarError("Set the copy's `classifier`, and return the copy.")
            return sum(weight.numel() for weight in got.classifier.parameters())

        what = "how many numbers the new classifier holds"
        yield Case(given, (_network(), classes), 512 * classes + classes, (what, count))

        before = _network()
        due = copy.deepcopy(before).eval().features(inputs).detach()

        def features(got):
            return got.eval().features(inputs).detach()

        what = "what its features make of two images"
        yield Case(given, (before, classes), due, (what, features))

        original = _network()
        weights = copy.deepcopy(original.state_dict())

        def unchanged(got, original=original, weights=weights):
            with torch.no_grad():
                for weight in got.parameters():
                    weight.zero_()
            after = original.state_dict()
            return sum(
                name not in after or not torch.equal(after[name], old)
                for name, old in weights.items()
            )

        what = "how many of the original's tensors change as the copy's weights do"
        yield Case(given, (original, classes), 0, (what, unchanged))


def _with_head(head, of=copy.deepcopy):
    """A slip: another head, or another network below it."""

    def answer(network, classes):
        network = of(network)
        network.classifier = head(network, classes)
        return network

    return answer


def _plain_head(network, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(512, classes))


def _last_layer(network, classes):
    return nn.Sequential(*list(network.classifier)[:-1], nn.Linear(16, classes))


def _untrained(network):
    network = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for layer in network.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return network


def _freeze():
    module = _network()
    same = Rule(bool, "Return the module that you were given.")
    is_it = "whether the same module comes back", lambda got: int(got is module)
    yield Case("a network in training mode", (module,), same, is_it)
    what = "how many of its numbers still get a gradient"
    yield Case("a network in training mode", (_network(),), 0, (what, _count))

    def training(got):
        return sum(layer.training for layer in got.modules())

    what = "how many of its layers are still in training mode"
    yield Case("a network in training mode", (_network(),), 0, (what, training))


def _assigned(module):
    module.requires_grad = False
    return module


def _weights_only(module):
    return module.eval() and module.requires_grad_(False).train()


class _Probe(nn.Module):
    """Passes everything on, and notes how it was called."""

    def __init__(self):
        super().__init__()
        self.largest = self.recorded = 0

    def forward(self, maps):
        self.largest = max(self.largest, len(maps))
        self.recorded += torch.is_grad_enabled()
        return maps


def _features_of():
    images = torch.randint(256, (7, 3, 8, 8), generator=generator(4)).byte()
    network = _network()
    twin = copy.deepcopy(network).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        rows = [twin.features(((one / 255 - mean) / std)[None]).flatten() for one in images]
    given = "a network in training mode and 7 images of 8 × 8 pixels"
    yield Case(given, (network, images), torch.stack(rows))
    wanted = Rule(
        lambda made: not made,
        "A head cannot learn from what `inference_mode` made. Use `torch.no_grad()`.",
    )
    what = "whether they were made in inference mode", lambda got: int(got.is_inference())
    yield Case(given, (network, images), wanted, what)
    many = torch.randint(256, (1200, 3, 4, 4), generator=generator(5)).byte()
    given = "1,200 images of 4 × 4 pixels"
    at_most = Rule(lambda most: most <= 500, "500 images at once, not all: `images.split(500)`.")
    for what, due, of in (
        ("how many images went through the network at once, at most", at_most, "largest"),
        ("how many of its steps recorded gradients", 0, "recorded"),
    ):
        probe = _Probe()
        network = ConvNet(nn.Sequential(probe, nn.AvgPool2d(4)), nn.Flatten())

        def look(got, probe=probe, of=of):
            return getattr(probe, of)

        with torch.enable_grad():
            yield Case(given, (network, many), due, (what, look))


def _features(take=lambda network, images: network.features(images), training=False, scale=None):
    """A slip: other layers, training mode, or images that are not normalised."""

    def answer(network, images):
        network.train(training)
        prepare = scale or normalize
        with torch.no_grad():
            return torch.cat(
                [take(network, prepare(some)).flatten(1) for some in images.split(500)]
            )

    return answer


@torch.enable_grad()
def _recorded(network, images):
    network.eval()
    parts = [network.features(normalize(some)).flatten(1) for some in images.split(500)]
    return torch.cat(parts).detach()


@torch.inference_mode()
def _inferred(network, images):
    network.eval()
    parts = [network.features(normalize(some)).flatten(1) for some in images.split(500)]
    return torch.cat(parts)


def _is_optimizer(got):
    return int(isinstance(got, torch.optim.Optimizer))


def _two_rates():
    for lr, head_lr in ((0.004, 0.25), (0.03, 0.001)):
        given = f"lr={lr}, head_lr={head_lr}"
        wanted = Rule(bool, "An optimizer is asked for.")
        look = "whether an optimizer comes back", _is_optimizer
        yield Case(given, (_network(), lr, head_lr), wanted, look)
        for part, due in (("features", lr), ("classifier", head_lr)):
            network = _network()

            def ends(got, network=network, part=part):
                rates = {id(w): group["lr"] for group in got.param_groups for w in group["params"]}
                found = [rates.get(id(w), 0.0) for w in getattr(network, part).parameters()]
                return torch.tensor([min(found), max(found)])

            what = f"the lowest and the highest rate in the {part}"
            yield Case(given, (network, lr, head_lr), torch.tensor([due, due]), (what, ends))
        for what, due in (("momentum", 0.9), ("weight_decay", 5e-4), ("nesterov", 1.0)):

            def both(got, what=what):
                return torch.tensor([float(group.get(what, 0.0)) for group in got.param_groups])

            text = f"the {what} of each group"
            yield Case(given, (_network(), lr, head_lr), torch.tensor([due, due]), (text, both))


def _optimizer(groups, **options):
    """A slip: other groups, or other options."""
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4} | options
    return lambda network, lr, head_lr: torch.optim.SGD(groups(network, lr, head_lr), **options)


def _right_groups(network, lr, head_lr):
    return [
        {"params": network.features.parameters(), "lr": lr},
        {"params": network.classifier.parameters(), "lr": head_lr},
    ]


def _mean_and_error():
    for numbers in ([0.71, 0.74, 0.68], [0.5, 0.52, 0.61, 0.49, 0.58]):
        due = statistics.stdev(numbers) / len(numbers) ** 0.5
        yield Case(
            f"accuracies {numbers}",
            (torch.tensor(numbers),),
            {"mean": statistics.fmean(numbers), "standard error": Near(due, 1e-5)},
        )


def _nearest():
    draw = generator(6)
    for n, m, d in ((4, 6, 3), (50, 80, 16)):
        queries = torch.randn(n, d, generator=draw)
        bank = torch.randn(m, d, generator=draw) * torch.rand(m, 1, generator=draw) * 5
        best = [
            int(torch.stack([F.cosine_similarity(one, other, dim=0) for other in bank]).argmax())
            for one in queries
        ]
        yield Case(f"{n} queries, a bank of {m}", (queries, bank), torch.tensor(best))


GAPS: dict[str, Exercise] = {
    "09.1": Exercise(
        _of_classes,
        slips=(
            (
                _chosen(lambda labels, wanted: labels),
                "The images are right, but they still have their old labels.",
            ),
            (
                _chosen(lambda labels, wanted: labels - min(wanted)),
                "That works for classes in a row only. Take the place in `wanted`.",
            ),
            (
                _chosen(lambda labels, wanted: labels - 5),
                "That works for the classes from 5 on only. Take the place in `wanted`.",
            ),
            (
                _chosen(
                    lambda labels, wanted: torch.tensor(
                        [sorted(wanted).index(label) for label in labels.tolist()]
                    )
                ),
                "The new labels follow the order of `wanted`, not that of the old numbers.",
            ),
        ),
        hints=(
            "Two steps: which labels are among the wanted ones, then what each of them becomes.",
            "`torch.isin(labels, torch.tensor(wanted))` is True for those to keep. `.nonzero()` "
            "gives their positions, as a column that `.flatten()` makes a row.",
            "`wanted.index(label)` is the new number of one label. Do that for each kept label, in "
            "a list, and make a tensor of the list.",
        ),
    ),
    "09.2": Exercise(
        _few_of_each,
        slips=(
            (
                _drawn_anywhere,
                "Some class has too many or too few, or an image comes twice.",
            ),
            (
                _places_within,
                "Those are places within a class. Take its positions at these places.",
            ),
            (
                _drawn_per_class(lambda n, count, draw: slice(count)),
                "These lie at one end of their class: is anything drawn?",
            ),
            (
                _drawn_per_class(lambda n, count, draw: slice(-count, None)),
                "These lie at one end of their class: is anything drawn?",
            ),
            (
                _drawn_per_class(
                    lambda n, count, draw: torch.randperm(n, generator=generator(0))[:count]
                ),
                "Another seed has to draw other images. Do you use `generator`?",
            ),
            (
                _drawn_per_class(lambda n, count, draw: torch.randint(n, (count,), generator=draw)),
                "Some class has too many or too few, or an image comes twice.",
            ),
        ),
        hints=(
            "Go through the classes, one after the other: `for label in labels.unique()`.",
            "`(labels == label).nonzero().flatten()` are all positions of that class. Shuffle "
            "them, and keep the first `count`.",
            "`torch.randperm(n, generator=generator)` is a random order of n. At the end, "
            "`torch.cat` joins what you kept.",
        ),
    ),
    "09.3": Exercise(
        _new_head,
        slips=(
            (
                _with_head(_plain_head, of=lambda network: network),
                "The original changes, too. Set the classifier of a deep copy, "
                "`copy.deepcopy(network)`. (`copy.copy` shares what is in it.)",
            ),
            (
                _with_head(_plain_head, of=_untrained),
                "The copy's features have to keep the weights that they learned.",
            ),
            (
                _with_head(_last_layer),
                "That keeps layers of the old classifier. All of it makes room for one layer.",
            ),
            (
                _with_head(
                    lambda network, classes: nn.Sequential(nn.Flatten(), nn.Linear(512, 10))
                ),
                "You do not use `classes`: yours always has ten.",
            ),
        ),
        hints=(
            "First a copy that shares nothing with the original: `copy.deepcopy(network)`.",
            "An attribute of a network can be set like any other: `copied.classifier = …`.",
            "What you set is `nn.Sequential` of `nn.Flatten()` and of an `nn.Linear` that takes "
            "128 · 2 · 2 numbers and gives `classes`.",
        ),
    ),
    "09.4": Exercise(
        _freeze,
        slips=(
            (
                _weights_only,
                "The weights stand still. But batch norm in training mode goes on averaging.",
            ),
            (
                lambda module: module.eval(),
                "`eval` freezes no weight, nor does a flag of the module: each weight has its own.",
            ),
            (
                _assigned,
                "Nothing has changed: `requires_grad` is a flag of each weight, not of a module.",
            ),
        ),
        hints=(
            "Freezing is two things: the weights, and the statistics of batch norm.",
            "Each weight has `requires_grad`. Go through `module.parameters()`.",
            "`weight.requires_grad_(False)` for each of them, then `module.eval()`.",
        ),
    ),
    "09.5": Exercise(
        _features_of,
        slips=(
            (
                _features(training=True),
                "Batch norm used the mean of these images. It has to use what it learned.",
            ),
            (
                _features(take=lambda network, inputs: network(inputs)),
                "Those are the logits. The features are what comes before the classifier.",
            ),
            (
                _features(scale=lambda images: images.float() / 255),
                "The backbone learned from normalised images. `normalize` makes them.",
            ),
            (
                _inferred,
                "A head cannot learn from what `inference_mode` made. Use `torch.no_grad()`.",
            ),
            (
                _recorded,
                "All is right but one thing: it records what gradients would need, in vain.",
            ),
        ),
        hints=(
            "Two things come before the loop: the mode of the network, and `torch.no_grad()`.",
            "`images.split(500)` gives the batches. Each is normalised and goes through "
            "`network.features`.",
            "`.flatten(1)` makes a row of each image's maps, and `torch.cat` one table of the "
            "batches.",
        ),
    ),
    "09.6": Exercise(
        _two_rates,
        slips=(
            (
                _optimizer(lambda network, lr, head_lr: _right_groups(network, head_lr, lr)),
                "The two rates are exchanged.",
            ),
            (
                _optimizer(
                    lambda network, lr, head_lr: [{"params": network.parameters(), "lr": lr}]
                ),
                "That is one group for all weights. The classifier needs its own, with its rate.",
            ),
            (
                _optimizer(lambda network, lr, head_lr: _right_groups(network, lr, head_lr)[1:]),
                "Only the classifier learns. That is the frozen case.",
            ),
            (
                _optimizer(_right_groups, momentum=0.0, nesterov=False),
                "The rates are right, but the momentum is missing.",
            ),
            (_optimizer(_right_groups, weight_decay=0.0), "The weight decay is missing."),
        ),
        hints=(
            "In place of a network's parameters, an optimizer takes a list of dictionaries.",
            'Each of the two is `{"params": …, "lr": …}`. What is left out there, such as the '
            "momentum, is given once for all groups.",
            "`network.features.parameters()` belong to the first group, "
            "`network.classifier.parameters()` to the second.",
        ),
    ),
    "09.7": Exercise(
        _mean_and_error,
        slips=(
            (
                lambda values: (values.mean(), values.std()),
                "That is the standard deviation of one run. A mean of several scatters less.",
            ),
            (
                lambda values: (values.mean(), values.std(correction=0) / len(values) ** 0.5),
                "From so few values, divide the squares by n − 1. torch's `std` does so by itself.",
            ),
            (
                lambda values: (values.mean(), values.std() / len(values)),
                "Divide by the root of the number of runs, not by the number.",
            ),
            (
                lambda values: (values.mean(), 1.96 * values.std() / len(values) ** 0.5),
                "That is half a 95% interval of many values. One standard error is asked for.",
            ),
        ),
        hints=(
            "Both come from torch: `values.mean()` and `values.std()`.",
            "The standard deviation says how far one run lies from the mean. The mean of n runs "
            "lies closer to the truth, by the root of n.",
            "`values.std() / len(values) ** 0.5` is the second.",
        ),
    ),
    "09.8": Exercise(
        _nearest,
        slips=(
            (
                lambda queries, bank: (queries @ bank.T).argmax(1),
                "Long vectors win in yours. Give every row the length 1 first.",
            ),
            (
                lambda queries, bank: torch.cdist(queries, bank).argmin(1),
                "That is the smallest distance. The angle is asked for, whatever the length.",
            ),
            (
                lambda queries, bank: (F.normalize(queries) @ F.normalize(bank).T).argmin(1),
                "Those are the least alike. Equal directions have the *largest* cosine.",
            ),
        ),
        hints=(
            "If two vectors have the length 1, their scalar product is the cosine of their angle.",
            "`F.normalize(queries)` gives every row the length 1. Do the same with the bank.",
            "`a @ b.T` holds all scalar products, a row per query. `.argmax(1)` finds the largest "
            "of each row.",
        ),
    ),
}
