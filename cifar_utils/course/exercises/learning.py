"""Exercises and gaps of notebook 03, How a network learns."""

import math

import torch

from cifar_utils.course.exercises.form import Case, Exercise, value
from cifar_utils.machine import generator

# --- gaps: gradient descent -----------------------------------------------------------------------


def _descend():
    """Descent on a bowl, whose path is known in closed form."""
    for steep, goal, start, lr, steps in (
        ((1.0, 4.0), (0.0, 0.0), (2.0, 1.0), 0.1, 3),
        ((1.0, 4.0), (1.0, -2.0), (3.0, 0.0), 0.2, 5),
        ((0.5, 2.0, 3.0), (0.0, 1.0, 0.0), (1.0, -1.0, 2.0), 0.3, 4),
    ):
        k, c, begin = map(torch.tensor, (steep, goal, start))
        due = torch.stack([c + (1 - lr * k) ** step * (begin - c) for step in range(steps + 1)])

        def gradient_of(weights, k=k, c=c):
            return k * (weights - c)

        given = f"the gradient {list(steep)} * (weights - {list(goal)}), start {list(start)}"
        arguments = (gradient_of, begin, lr, steps)
        yield Case(f"{given}, lr {lr}, {steps} steps", arguments, due)


def _descend_in_place(gradient_of, start, lr, steps):
    """A slip: one tensor, changed in place, so that every row is the last point."""
    weights = start.clone()
    points = [weights]
    for _ in range(steps):
        weights -= lr * gradient_of(weights)
        points.append(weights)
    return torch.stack(points)


def _descent(*, sign=1, first=0, anew=True, scaled=True):
    """A slip: uphill, without the start, along the first gradient only, or without the rate."""

    def answer(gradient_of, start, lr, steps):
        points, slope = [start], gradient_of(start)
        for _ in range(steps):
            slope = gradient_of(points[-1]) if anew else slope
            points.append(points[-1] - sign * (lr if scaled else 1) * slope)
        return torch.stack(points[first:])

    return answer


# --- gaps: the loss -------------------------------------------------------------------------------


def _logits_and_labels():
    yield torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([1])
    yield torch.zeros(2, 10), torch.tensor([3, 7])
    yield 2 * torch.randn(4, 10, generator=generator(11)), torch.tensor([9, 0, 4, 4])


def _softmax_and_loss():
    for logits, labels in _logits_and_labels():
        rows = [[math.exp(logit) for logit in row] for row in logits.tolist()]
        p = torch.tensor([[one / sum(row) for one in row] for row in rows])
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        yield Case(
            _shown(logits, labels), (logits, labels), {"probabilities": p, "mean loss": loss}
        )


def _shown(logits, labels):
    if logits.numel() < 4:
        return f"logits {logits.tolist()}, labels {labels.tolist()}"
    what = f"{len(logits)} rows of {logits.shape[1]} logits"
    return f"{what}{'' if logits.any() else ', all 0'}, labels {labels.tolist()}"


def _probabilities_with(loss_of, axis=1):
    def answer(logits, labels):
        p = logits.exp() / logits.exp().sum(axis, keepdim=True)
        return p, loss_of(p, labels)

    return answer


def _right(p, labels):
    return p[torch.arange(len(labels)), labels]


def _targets(logits, labels):
    return torch.eye(logits.shape[1])[labels]


def _logit_gradient():
    for logits, labels in _logits_and_labels():
        leaf = logits.clone().requires_grad_()
        torch.nn.functional.cross_entropy(leaf, labels).backward()
        yield Case(_shown(logits, labels), (logits, labels), leaf.grad)


# --- gaps: backward through layers ----------------------------------------------------------------


def _relu_backward():
    """Through ReLU, as autograd goes."""
    draw = generator(20)
    few = torch.tensor([[0.5, -1.0, 2.0, -0.3]]), torch.tensor([[1.5, 0.7, -2.0, -0.4]])
    many = torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw)
    for incoming, inputs in (few, many):
        leaf = inputs.clone().requires_grad_()
        leaf.relu().backward(incoming)
        given = f"gradient {_rounded(incoming)}, inputs {_rounded(inputs)}"
        if len(inputs) > 1:
            given = f"{len(inputs)} rows of {inputs.shape[1]} gradients and inputs"
        yield Case(given, (incoming, inputs), leaf.grad)


def _rounded(tensor):
    return [[round(number, 2) for number in row] for row in tensor.tolist()]


def _linear_backward():
    """Through a linear layer, as autograd goes. All sizes differ, then some agree."""
    for count, inputs, outputs in ((2, 3, 4), (5, 2, 3), (1, 2, 2), (3, 3, 3)):
        draw = generator(30 + count)
        x, weight, incoming = (
            torch.randn(shape, generator=draw)
            for shape in ((count, inputs), (inputs, outputs), (count, outputs))
        )
        leaves = [one.clone().requires_grad_() for one in (x, weight, torch.zeros(outputs))]
        (leaves[0] @ leaves[1] + leaves[2]).backward(incoming)
        names = ("gradient of inputs", "gradient of weight", "gradient of bias")
        due = {name: leaf.grad for name, leaf in zip(names, leaves, strict=True)}
        given = f"{count} rows, {inputs} inputs, {outputs} outputs"
        yield Case(given, (incoming, x, weight), due)


def _finite_difference():
    """Slopes whose closed form is known."""
    for name, loss_of, slope, weights, place, step in (
        ("(weights ** 3).sum()", lambda w: (w**3).sum(), lambda w: 3 * w**2,
         [[1.0, -2.0], [0.5, 3.0]], (0, 1), 1e-4),
        ("(weights ** 3).sum()", lambda w: (w**3).sum(), lambda w: 3 * w**2, [1.0, 2.0], (1,), 0.5),
        ("weights.exp().sum()", lambda w: w.exp().sum(), lambda w: w.exp(), [0.0, 1.0, -1.0],
         (2,), 1e-3),
    ):  # fmt: skip
        start = torch.tensor(weights, dtype=torch.float64)
        # Of a cubic, the central difference is off by the step squared, and by no more.
        due = slope(start)[place].item() + (step**2 if "3" in name else 0.0)
        given = f"the loss {name}, weights {weights}, place {place}, step {step}"
        yield Case(given, (loss_of, start, place, step), due)


def _difference(*, sides=(1, -1), divide=2, everywhere=False, scale=lambda step: 1):
    """A slip: one side only, divided by something else, or all weights moved at once."""

    def answer(loss_of, weights, place, step):
        losses = []
        for side in sides:
            moved = weights.clone()
            if everywhere:
                moved += side * step
            else:
                moved[place] += side * step
            losses.append(loss_of(moved).item())
        return (losses[0] - losses[1]) / (divide * step * scale(step))

    return answer


# --- gaps: steps -------------------------------------------------------------------


def _update():
    """One step of torch.optim.SGD."""
    for lr, shapes in ((0.1, ((2, 3), (3,))), (0.5, ((1, 2), (2,), (2, 2), (2,)))):
        draw = generator(60)
        network = [torch.randn(shape, generator=draw) for shape in shapes]
        gradients = [torch.randn(shape, generator=draw) for shape in shapes]
        moved = [one.clone().requires_grad_() for one in network]
        for one, gradient in zip(moved, gradients, strict=True):
            one.grad = gradient.clone()
        torch.optim.SGD(moved, lr=lr).step()
        due = {f"tensor {number}": one.detach() for number, one in enumerate(moved)}
        given = f"{len(shapes)} tensors with their gradients, lr {lr}"
        yield Case(given, (network, gradients, lr), due)


def _updated(move):
    """A slip: another move of each tensor."""

    def answer(network, gradients, lr):
        return [move(one, slope, lr) for one, slope in zip(network, gradients, strict=True)]

    return answer


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


# --- exercises ------------------------------------------------------------------------------------


def _sigmoid_backward():
    for number, shape in enumerate(((1, 3), (4, 5))):
        draw = generator(40 + number)
        incoming, inputs = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
        leaf = inputs.clone().requires_grad_()
        leaf.sigmoid().backward(incoming)
        what = f"{shape[0]} rows of {shape[1]} inputs and gradients"
        if number == 0:
            what = f"gradient {_rounded(incoming)}, inputs {_rounded(inputs)}"
        yield Case(what, (incoming, inputs), leaf.grad)


def _softmax_backward():
    for number, shape in enumerate(((1, 3), (4, 5))):
        draw = generator(50 + number)
        incoming, logits = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
        leaf = logits.clone().requires_grad_()
        leaf.softmax(1).backward(incoming)
        what = f"{shape[0]} rows of {shape[1]} probabilities and gradients"
        if number == 0:
            what = f"gradient {_rounded(incoming)}, p {_rounded(logits.softmax(1))}"
        yield Case(what, (incoming, logits.softmax(1)), leaf.grad)


EXERCISES: dict[str, Exercise] = {
    "03a": Exercise(
        value(3072 * 100 + 100 + 100 * 50 + 50 + 50 * 10 + 10),
        slips=(
            (3072 * 100 + 100 * 50 + 50 * 10, "Those are the weights. Each layer has biases, too."),
            (
                3072 * 100 + 3072 + 100 * 50 + 100 + 50 * 10 + 50,
                "A layer has one bias per *output*, not per input.",
            ),
            (100 + 50 + 10, "Those are the biases alone."),
            (3072 * 100 * 50 * 10, "Each layer's weights are counted by themselves, then added."),
        ),
        hints=(
            "There are three linear layers: between 3072 and 100, 100 and 50, 50 and 10.",
            "A layer with n inputs and m outputs has a weight for every pair.",
            "It has n · m weights and m biases. Add up the three layers.",
        ),
    ),
    "03b": Exercise(
        _sigmoid_backward,
        slips=(
            (
                lambda grad_outputs, inputs: inputs.sigmoid() * (1 - inputs.sigmoid()),
                "That is the slope of the sigmoid. The chain rule multiplies it by what comes in.",
            ),
            (
                lambda grad_outputs, inputs: grad_outputs * inputs * (1 - inputs),
                "The slope is s (1 − s), with s the sigmoid *of the inputs*.",
            ),
            (
                lambda grad_outputs, inputs: grad_outputs * inputs.sigmoid(),
                "You multiply by the sigmoid. The chain rule needs its slope.",
            ),
            (
                lambda grad_outputs, inputs: grad_outputs * (inputs > 0),
                "That is ReLU's.",
            ),
        ),
        hints=(
            "As for ReLU: what comes in, times the slope at each input.",
            "The slope of the sigmoid s is s (1 − s). `inputs.sigmoid()` is s.",
            "Call `inputs.sigmoid()` s, and return `grad_outputs` times s times (1 − s).",
        ),
    ),
    "03c": Exercise(
        _softmax_backward,
        slips=(
            (
                lambda grad_p, p: grad_p * p * (1 - p),
                "That is the diagonal alone. Each probability depends on *all* logits of its row.",
            ),
            (
                lambda grad_p, p: p * (grad_p - (grad_p * p).sum()),
                "The sum goes over one row, not over all images.",
            ),
            (
                lambda grad_p, p: p * (grad_p - grad_p.sum(1, keepdim=True)),
                "In the sum, each incoming gradient counts as much as its own probability.",
            ),
            (
                lambda grad_p, p: grad_p - (grad_p * p).sum(1, keepdim=True),
                "The whole difference is multiplied by p once more.",
            ),
        ),
        hints=(
            "Logit k changes every probability j of its row: the chain rule adds up all of them.",
            "Of p_j with respect to z_k, the slope is p_j (t_jk − p_k), with t_jk = 1 if j = k, "
            "else 0.",
            "Summed over j: p_k times (incoming k minus the row's sum of incoming times p). "
            "`sum(1, keepdim=True)` keeps that sum a column.",
        ),
    ),
}

GAPS: dict[str, Exercise] = {
    "03.1": Exercise(
        _descend,
        slips=(
            (_descent(sign=-1), "That goes uphill: the gradient points to where the loss rises."),
            (
                _descent(first=1),
                "The start is a point of the path, too: its first row.",
            ),
            (
                _descent(anew=False),
                "Every step goes along the first gradient. Ask for it anew at each point.",
            ),
            (_descent(scaled=False), "`lr` is not used: it says how far each step goes."),
            (
                _descend_in_place,
                "All points are the same: `-=` writes into the tensor that is in the list already. "
                "`w = w - …` makes a new one.",
            ),
        ),
        hints=(
            "Begin with a list that holds the start. In a loop, append one point after another.",
            "The last point so far is `points[-1]`, and `gradient_of(points[-1])` the gradient "
            "there.",
            "The next point is the last one minus `lr` times the gradient there. After the loop, "
            "`torch.stack(points)` makes one tensor of the list.",
        ),
    ),
    "03.2": Exercise(
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
    "03.3": Exercise(
        _logit_gradient,
        slips=(
            (
                lambda logits, labels: logits.softmax(1) - _targets(logits, labels),
                "That is the gradient of the *sum* over the images. The loss is their mean.",
            ),
            (
                lambda logits, labels: (_targets(logits, labels) - logits.softmax(1)) / len(labels),
                "The sign: if the right class's logit grows, the loss falls.",
            ),
            (
                lambda logits, labels: (
                    (logits.softmax(1) - _targets(logits, labels)) / logits.shape[1]
                ),
                "You divide by the number of classes. The loss is a mean over images.",
            ),
            (
                lambda logits, labels: logits.softmax(1) / len(labels),
                "The target t is missing: 1 at the right class, 0 elsewhere.",
            ),
            (
                lambda logits, labels: (logits - _targets(logits, labels)) / len(labels),
                "p is a probability, not a logit.",
            ),
        ),
        hints=(
            "`softmax_cross_entropy(logits, labels)` returns p, and the loss, which is not needed.",
            "`torch.eye(logits.shape[1])[labels]` is t: a row per image, 1 at its class.",
            "The loss is a mean over the images, so divide p − t by how many there are.",
        ),
    ),
    "03.4": Exercise(
        _relu_backward,
        slips=(
            (
                lambda grad_outputs, inputs: grad_outputs * inputs.relu(),
                "You multiply by ReLU's result. The chain rule needs its slope, which is 1 or 0.",
            ),
            (
                lambda grad_outputs, inputs: grad_outputs.relu(),
                "A negative gradient has to pass as well, if the *input* was positive.",
            ),
            (
                lambda grad_outputs, inputs: (inputs > 0).float(),
                "That is the slope alone. The chain rule multiplies it by what comes in.",
            ),
            (
                lambda grad_outputs, inputs: grad_outputs * (inputs < 0),
                "The other way round: a positive input passes, and its gradient with it.",
            ),
        ),
        hints=(
            "The slope of ReLU is 1 where its input is positive, and 0 elsewhere.",
            "`inputs > 0` is True and False, which count as 1 and 0 in a product.",
            "Multiply `grad_outputs` by `inputs > 0`, and return that.",
        ),
    ),
    "03.5": Exercise(
        _linear_backward,
        slips=(
            (
                lambda g, x, weight: (g @ weight.T, x.T @ g / len(g), g.mean(0)),
                "The mean over the images is in `grad_outputs` already. Here only sums are taken.",
            ),
            (
                lambda g, x, weight: (g @ weight.T, x.T @ g, g.mean(0)),
                "A bias is added to every row, so it collects the *sum* over the rows.",
            ),
            (
                lambda g, x, weight: (g @ weight.T, x.T @ g, g),
                "Each output has one bias, added to every row: sum over the rows.",
            ),
            (
                lambda g, x, weight: (g @ weight.T, g.T @ x, g.sum(0)),
                "The gradient of the weight has the shape of the weight: inputs × outputs.",
            ),
            (
                lambda g, x, weight: (x.T @ g, g @ weight.T, g.sum(0)),
                "The order: first the gradient of the inputs, then that of the weight.",
            ),
        ),
        hints=(
            "Each gradient has the shape of the thing itself. Which products have that shape?",
            "Inputs: (N, outputs) times (outputs, inputs). Weight: (inputs, N) times "
            "(N, outputs). `.T` transposes a matrix.",
            "`grad_outputs @ weight.T`, `inputs.T @ grad_outputs`, and the bias: "
            "`grad_outputs.sum(dim=0)`.",
        ),
    ),
    "03.6": Exercise(
        _finite_difference,
        slips=(
            (
                _difference(sides=(1, 0), divide=1),
                "That is the difference on one side. Go a step down as well: what is off then "
                "nearly cancels.",
            ),
            (
                _difference(divide=1),
                "From one step below to one step above, the distance is two steps.",
            ),
            (_difference(sides=(-1, 1)), "The sign: above minus below."),
            (
                _difference(scale=lambda step: step**-2),
                "`/ 2 * step` divides by 2, then multiplies. Write `/ (2 * step)`.",
            ),
            (
                lambda loss_of, weights, place, step: 0.0,
                "Both losses are the same. `up = weights` is no copy: `weights.clone()` is.",
            ),
            (
                _difference(sides=(1, 0)),
                "Is your second copy one of the nudged weights? Copy `weights` again.",
            ),
            (
                _difference(everywhere=True),
                "Only the weight at `place` moves. The others stay as they are.",
            ),
        ),
        hints=(
            "Make two copies with `weights.clone()`, and move one number in each.",
            "`up[place] += step`, `down[place] -= step`; `loss_of(up)` is the loss there.",
            "Divide the difference of the two losses by `2 * step`; `.item()` makes a plain number "
            "of it.",
        ),
    ),
    "03.7": Exercise(
        _update,
        slips=(
            (
                _updated(lambda tensor, slope, lr: tensor + lr * slope),
                "That goes uphill. A step goes *against* the gradient.",
            ),
            (
                _updated(lambda tensor, slope, lr: tensor - slope),
                "`lr` is not used: it says how far the step goes.",
            ),
            (
                _updated(lambda tensor, slope, lr: -lr * slope),
                "Those are the steps. The tensors *after* the step are asked for.",
            ),
            (
                _updated(lambda tensor, slope, lr: tensor),
                "The tensors are as they were.",
            ),
            (
                lambda network, gradients, lr: [
                    network[0] - lr * gradients[0],
                    network[1] - lr * gradients[1],
                ],
                "Every tensor takes a step, however many there are.",
            ),
        ),
        hints=(
            "Go through both lists at once: `for tensor, slope in zip(network, gradients)`.",
            "The rule of section 1 gives each new tensor: the old one minus a step.",
            "Append `tensor - lr * slope` to a new list, and return that list.",
        ),
    ),
    "03.8": Exercise(
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
            (
                _stepped(lambda velocity, gradient, lr, momentum: momentum * velocity - gradient),
                "Two minus signs cancel: the velocity adds the gradient, the weights subtract.",
            ),
            (
                lambda weights, velocity, gradient, lr, momentum: (
                    momentum * velocity + gradient,
                    weights - lr * (momentum * velocity + gradient),
                ),
                "The order: first the new weights, then the new velocity.",
            ),
        ),
        hints=(
            "Two lines: first the new velocity, then the new weights.",
            "The old velocity counts `momentum` times. The gradient is added as it is.",
            "The weights move against the *new* velocity, and the rate says how far.",
        ),
    ),
}
