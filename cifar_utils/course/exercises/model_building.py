"""Exercises and gaps of notebook 04 · Model building."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.course.exercises.form import Case, Exercise, Form, Rule
from cifar_utils.errors import CifarError
from cifar_utils.profile import parameter_count, receptive_field


def _output_size():
    for size, kernel, stride, padding, dilation in (
        (32, 3, 1, 1, 1),
        (32, 3, 1, 0, 1),
        (32, 3, 2, 1, 1),
        (30, 3, 1, 0, 2),
        (5, 2, 2, 0, 1),
        (17, 5, 3, 4, 2),
        (9, 1, 2, 0, 3),
    ):
        layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
        due = layer(torch.zeros(1, 1, size, size)).shape[-1]
        what = f"size {size}, kernel {kernel}, stride {stride}, padding {padding}"
        what += f", dilation {dilation}"
        yield Case(what, (size, kernel, stride, padding, dilation), due)


def _conv_parameters():
    for inputs, outputs, kernel, groups, bias in (
        (3, 64, 3, 1, True),
        (64, 128, 3, 1, False),
        (64, 64, 3, 64, False),
        (128, 52, 1, 1, True),
        (32, 48, 5, 4, True),
    ):
        layer = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias)
        due = sum(parameter.numel() for parameter in layer.parameters())
        what = f"{inputs} inputs, {outputs} outputs, kernel {kernel}, groups {groups}, bias {bias}"
        yield Case(what, (inputs, outputs, kernel, groups, bias), due)


def _field_of_four_layers():
    layers = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, dilation=2)
    image = torch.ones(1, 1, 32, 32, requires_grad=True)
    maps = image
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
        maps = layer(maps)
    maps[0, 0, 2, 2].backward()
    yield Case("", None, int((image.grad[0, 0] != 0).any(0).sum()))


def _own_network():
    is_network = Rule(
        lambda answer: (
            isinstance(answer, nn.Module)
            and isinstance(getattr(answer, "features", None), nn.Module)
        ),
        "A network with `features` and `classifier` is asked for: models.ConvNet(…, …).",
    )
    yield Case("", None, is_network)
    yield Case("two images", (torch.zeros(2, 3, 32, 32),), Form((2, 10), torch.float32))
    few = Rule(
        lambda count: count < 100_000,
        "Fewer than 100,000 are allowed. Wide layers are the expensive ones: twice the channels on "
        "both sides of a convolution are four times the parameters.",
    )
    yield Case("", None, few, ("the number of parameters", parameter_count))
    convolutions = Rule(lambda count: count >= 3, "At least three are asked for.")
    yield Case("", None, convolutions, ("the number of convolutions", _convolutions))
    far = Rule(
        lambda field: field >= 40,
        "At least 40 pixels are asked for. After each pooling, later layers add twice as much.",
    )
    yield Case("", None, far, ("the receptive field", receptive_field))


def _convolutions(network):
    return sum(isinstance(layer, nn.Conv2d) for layer in network.features.modules())


EXERCISES = {
    "04a": Exercise(
        _output_size,
        slips=(
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - kernel) // stride + 1
                ),
                "That leaves the dilation out: how many pixels does a dilated kernel span?",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size - dilation * (kernel - 1) - 1) // stride + 1
                ),
                "That leaves the padding out.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + padding - dilation * (kernel - 1) - 1) // stride + 1
                ),
                "The padding is on both sides.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * (kernel - 1) - 1) // stride
                ),
                "One is missing: the kernel's first place counts before it takes any step.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1
                ),
                "Only whole steps count, as `//` divides. Half a step would leave the image.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    math.ceil((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1
                ),
                "You round up. A step that would leave the image is not taken.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    size + 2 * padding - dilation * (kernel - 1)
                ),
                "That leaves the stride out.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * kernel) // stride + 1
                ),
                "A kernel of 3 has two gaps, not three: what does dilation 2 make of its span?",
            ),
            (
                lambda size, kernel, stride, padding, dilation: size // stride,
                "That holds only if the padding makes up for the kernel.",
            ),
        ),
        hints=(
            "Lay the kernel at the left end. How far can it still move to the right?",
            "The padding makes the image longer on both sides. The dilation makes the kernel span "
            "more: 1 + dilation · (kernel − 1) pixels.",
            "Room to move = padded size − span. The whole strides that fit, plus the first place.",
        ),
    ),
    "04b": Exercise(
        _conv_parameters,
        slips=(
            (
                lambda inputs, outputs, kernel, groups, bias: inputs * outputs * kernel**2,
                "That leaves out the groups and the bias.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel**2
                ),
                "And the bias, if there is one?",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel**2 + outputs
                ),
                "You add the bias even where there is none.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs * outputs * kernel**2 + bias * outputs
                ),
                "That leaves the groups out: each output channel reads only some of the inputs.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel + bias * outputs
                ),
                "A kernel of 3 has 3 × 3 weights per channel.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel**2 + bias
                ),
                "Every output channel has a bias of its own.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    (inputs // groups) * (outputs // groups) * kernel**2 + bias * outputs
                ),
                "That is one group's share. All the output channels have weights.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs / groups * outputs * kernel**2 + bias * outputs
                ),
                "The number is right, but it is a float, as `/` gives. `//` gives whole numbers.",
            ),
        ),
        hints=(
            "Begin with one output channel: which weights does it have?",
            "It has a kernel × kernel square for each channel that it reads: inputs / groups.",
            "Times the output channels. If there is a bias, one more number per output channel.",
        ),
    ),
    "04c": Exercise(
        _field_of_four_layers,
        slips=(
            (
                10,
                "The last layer counts double for two reasons: its dilation, and the pooling "
                "before it. You count one of them.",
            ),
            (8, "The last layer counts for more: think of its dilation, and of the pooling."),
            (13, "The pooling has a window of its own, which sees one pixel more."),
            (9, "Pooling sees, too, and the last layer counts for more than 2 pixels."),
            (15, "A field begins with the one pixel that it is, and a window of 2 adds 1."),
        ),
        hints=(
            "Begin with 1 pixel, and ask of each layer how many pixels it adds.",
            "A kernel of k adds k − 1 times the distance of neighbouring units. What is that "
            "distance before the pooling, and after it?",
            "The two convolutions add 2 each, the pooling 1. Behind it neighbours are 2 pixels "
            "apart, and the dilation doubles each of the last kernel's two gaps once more.",
        ),
    ),
    "04d": Exercise(
        _own_network,
        slips=(),  # the rules above have their own sentences
        hints=(
            "Stages of a convolution and a pooling make the field grow fast: see section 2 for "
            "how much each layer adds.",
            "Keep the early layers narrow, 16 or 32 channels, and let the head average: "
            "`models.average_head(inputs, 10)` has few parameters.",
            "Three stages of `models.conv_bn_relu` and `models.pool()`, and after the last pooling "
            "two more convolutions: there, each adds 16 pixels.",
        ),
    ),
}

# --- gaps: cases ----------------------------------------------------------------------------------


def _draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _convolve():
    picture = torch.tensor([[1.0, 2, 0], [0, 1, 3], [4, 0, 1]])
    kernel = torch.tensor([[1.0, 0], [0, -2]])
    for what, *arguments in (
        ("a picture of 3 × 3 pixels and a kernel of 2 × 2", picture, kernel),
        ("a picture of 5 × 7 pixels and a kernel of 3 × 3", _draws(5, 7), _draws(3, 3, seed=1)),
        ("a picture of 6 × 4 pixels and a kernel of 1 × 1", _draws(6, 4), torch.tensor([[-3.0]])),
    ):
        due = F.conv2d(arguments[0][None, None], arguments[1][None, None])[0, 0]
        yield Case(what, tuple(arguments), due)


def _by_places(placed):
    """A wrong answer: `placed(window, kernel)` at every place."""

    def answer(picture, kernel):
        windows = picture.unfold(0, len(kernel), 1).unfold(1, len(kernel), 1)
        return torch.stack([torch.stack([placed(one, kernel) for one in row]) for row in windows])

    return answer


def _cost(layers, inputs, size):
    """Parameters and multiply-adds of layers in a row: counted, on maps of zeros."""
    maps, mult_adds = torch.zeros(1, inputs, size, size), 0
    for layer in layers:
        maps = layer(maps)
        mult_adds += maps.numel() * layer.weight[0].numel()
    parameters = sum(parameter_count(layer) for layer in layers)
    return {"number of parameters": parameters, "number of multiply-adds": mult_adds}


def _conv_cost():
    for inputs, outputs, kernel, size in ((3, 8, 3, 32), (16, 24, 5, 8), (32, 10, 1, 4)):
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        what = f"{inputs} inputs, {outputs} outputs, kernel {kernel}, maps of {size} × {size}"
        arguments = inputs, outputs, kernel, size
        yield Case(what, arguments, _cost([layer], inputs, size))


def _separable_cost():
    for inputs, outputs, kernel, size in ((8, 24, 3, 16), (32, 16, 5, 8), (6, 6, 1, 4)):
        depthwise = nn.Conv2d(
            inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False
        )
        layers = depthwise, nn.Conv2d(inputs, outputs, 1, bias=False)
        what = f"{inputs} inputs, {outputs} outputs, kernel {kernel}, maps of {size} × {size}"
        arguments = inputs, outputs, kernel, size
        yield Case(what, arguments, _cost(layers, inputs, size))


def _field():
    for layers in (
        [(3, 1, 1)],
        [(3, 1, 1), (3, 1, 1)],
        [(2, 2, 1), (3, 1, 1)],
        [(3, 1, 2), (2, 2, 1), (5, 1, 1)],
        [(3, 2, 1), (3, 2, 1), (3, 2, 3), (2, 1, 1)],
    ):
        pixels = {0}  # that one output unit sees, found backwards
        for kernel, stride, dilation in reversed(layers):
            pixels = {place * stride + dilation * i for place in pixels for i in range(kernel)}
        text = ", then ".join(f"kernel {k} stride {s} dilation {d}" for k, s, d in layers)
        yield Case(text, (layers,), max(pixels) - min(pixels) + 1)


def _by_layers(step, field=1):
    """A wrong answer: `step(field, jump, kernel, stride, dilation)` for each layer."""

    def answer(layers):
        reached, jump = field, 1
        for layer in layers:
            reached, jump = step(reached, jump, *layer)
        return reached

    return answer


def _batch_norm():
    gamma, beta = torch.tensor([1.0, 2.0, -0.5]), torch.tensor([0.0, 1.0, 3.0])
    same = torch.full((2, 1, 2, 2), 3.0)
    for what, *arguments in (
        ("maps (2, 3, 2, 2)", 5 * _draws(2, 3, 2, 2) + 2, gamma, beta),
        ("maps (4, 3, 5, 1)", _draws(4, 3, 5, 1, seed=1) - 7, gamma, beta),
        ("small maps (2, 3, 2, 2)", 0.001 * _draws(2, 3, 2, 2, seed=2), gamma, beta),
        ("a channel whose values are all the same", same, gamma[1:2], beta[1:2]),
    ):
        maps, scale, shift = arguments
        due = F.batch_norm(maps, None, None, scale, shift, training=True)
        yield Case(what, tuple(arguments), due)


def _norm_by(dims=(0, 2, 3), correction=0, eps=1e-5, root=True, gamma=True, beta=True):
    """A wrong batch norm, if one of the options is another."""

    def answer(maps, scale, shift):
        mean = maps.mean(dims, keepdim=True)
        variance = maps.var(dims, keepdim=True, correction=correction)
        size = variance.sqrt() + eps if root == "before" else (variance + eps).sqrt()
        normal = (maps - mean) / (size if root else variance + eps)
        normal = normal * (scale.view(-1, 1, 1) if gamma else 1)
        return normal + (shift.view(-1, 1, 1) if beta else 0)

    return answer


def _depends_on():
    class Own(nn.Module):
        def __init__(self, forward):
            super().__init__()
            self.forward = forward

    weights, images = _draws(12, 5, seed=3), _draws(4, 3, 2, 2)
    for what, forward, row in (
        ("a network that keeps images apart", lambda x: x.flatten(1) @ weights, 2),
        ("a network that mixes up the rows", lambda x: x.flatten(1).roll(1, 0) @ weights, 2),
        ("a network that subtracts the batch's mean", lambda x: (x - x.mean(0)).flatten(1), 0),
        ("a network that compares two pixels", lambda x: x[:, 0, 0, :1] - x[:, 0, 0, 1:], 3),
    ):
        jacobian = torch.autograd.functional.jacobian(forward, images)  # (4, outputs, 4, 3, 2, 2)
        due = (jacobian[row].flatten(2) != 0).any(2).any(0)  # (4,)
        yield Case(f"{what}, row {row}", (Own(forward), images, row), due)


def _touched(loss, seen):
    """A wrong answer: from the gradient of `loss(outputs, row)` to a bool per image by `seen`."""

    def answer(model, images, row):
        twin = images.clone().requires_grad_()
        loss(model(twin), row).backward()
        return seen(twin.grad.flatten(1))

    return answer


# --- gaps: classes --------------------------------------------------------------------------------


def _output(images, fill=None):
    """What an instance of the reader's class gives for `images`, its parameters filled before."""

    def computed(network):
        if not isinstance(network, nn.Module):
            raise CifarError("A class that inherits from nn.Module is asked for.")
        with torch.no_grad():
            for parameter in network.parameters() if fill else ():
                parameter.copy_(fill(parameter))
            output = network(images.clone())
        if output is None or output is ...:
            raise CifarError("Its forward returns nothing.")
        return output

    return "its output", computed


def _even(parameter):
    """Numbers that depend on the parameter's shape alone, whatever its name and place are."""
    return torch.linspace(-0.3, 0.4, parameter.numel()).view_as(parameter)


def _small_net():
    images = _draws(2, 3, 32, 32)
    count = ("the number of parameters", _parameters)
    for width, classes in ((8, 10), (4, 7)):
        what = f"width {width}, {classes} classes"
        shape = Form((2, classes), torch.float32)
        yield Case(what, (width, classes), shape, _output(images))
        shapes = (width, 3, 3, 3), (width,), (2 * width, width, 3, 3), (2 * width,)
        shapes += (classes, 2 * width * 64), (classes,)
        yield Case(what, (width, classes), sum(map(math.prod, shapes)), count)
        w1, b1, w2, b2, w3, b3 = (_even(torch.empty(shape)) for shape in shapes)
        maps = F.max_pool2d(F.conv2d(images, w1, b1, padding=1).relu(), 2)
        maps = F.max_pool2d(F.conv2d(maps, w2, b2, padding=1).relu(), 2)
        given = f"{what}, its parameters filled with numbers of ours"
        due = F.linear(maps.flatten(1), w3, b3)
        yield Case(given, (width, classes), due, _output(images, _even))


def _parameters(network):
    if not (count := parameter_count(network)):
        remedy = "Give each layer a name of its own: `self.… = nn.…`."
        raise CifarError(f"torch sees none: it does not look into a plain list. {remedy}")
    return count


class _SmallNet(nn.Module):
    """The network of the gap, and what often goes wrong with it."""

    def __init__(self, width, classes, *, relus=2, softmax=False, padding=1, grow=2):
        super().__init__()
        size = 8 if padding else 6
        self.conv1 = nn.Conv2d(3, width, 3, padding=padding)
        self.conv2 = nn.Conv2d(width, grow * width, 3, padding=padding)
        self.linear = nn.Linear(grow * width * size * size, classes)
        self.relus, self.softmax = relus, softmax

    def forward(self, images):
        maps = self.conv1(images)
        maps = F.max_pool2d(maps.relu() if self.relus > 0 else maps, 2)
        maps = self.conv2(maps)
        maps = F.max_pool2d(maps.relu() if self.relus > 1 else maps, 2)
        logits = self.linear(maps.flatten(1))
        return logits.softmax(1) if self.softmax else logits


def _block():
    maps = 2 * _draws(2, 4, 6, 6) + 0.5
    count = ("the number of parameters", parameter_count)
    for channels, residual in ((4, True), (4, False), (2, True)):
        what = f"{channels} channels, {'residual' if residual else 'plain'}"
        given = maps[:, :channels]
        shape = Form(tuple(given.shape), torch.float32)
        yield Case(what, (channels, residual), shape, _output(given))
        due = 2 * (channels * channels * 9 + 2 * channels)
        yield Case(what, (channels, residual), due, count)
        kernel = _even(torch.empty(channels, channels, 3, 3))
        scale = _even(torch.empty(channels))  # and shift, and the same in both batch norms
        body = given
        for layer in range(2):
            body = F.conv2d(body.relu() if layer else body, kernel, padding=1)
            body = F.batch_norm(body, None, None, scale, scale, training=True)
        due = (body + given if residual else body).relu()
        what += ", its parameters filled with numbers of ours"
        yield Case(what, (channels, residual), due, _output(given, _even))


class _Block(nn.Module):
    """The block of the gap, and what often goes wrong with it."""

    def __init__(
        self, channels, residual, *,
        bias=False, between=True, sum_last=False, end=True, norms=2, convolutions=2,
    ):  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(channels)
        if norms == 1:
            self.norm2 = self.norm1
        if convolutions == 1:
            self.conv2 = self.conv1
        self.residual, self.between, self.sum_last, self.end = residual, between, sum_last, end

    def forward(self, maps):
        body = self.norm1(self.conv1(maps))
        body = self.norm2(self.conv2(body.relu() if self.between else body))
        if self.sum_last:
            body = body.relu()
        if self.residual:
            body = body + maps
        return body.relu() if self.end and not self.sum_last else body


GAPS: dict[str, Exercise] = {
    "04.1": Exercise(
        _convolve,
        slips=(
            (
                _by_places(lambda window, kernel: (window * kernel.flip(0, 1)).sum()),
                "You turn the kernel around, as mathematicians do. Networks lay it on as it is.",
            ),
            (
                _by_places(lambda window, kernel: (window @ kernel).sum()),
                "`@` is the matrix product. Multiply what lies on top of each other: `*`.",
            ),
            (
                _by_places(lambda window, kernel: (window * kernel).mean()),
                "That is the mean of the products. Their sum is asked for.",
            ),
        ),
        hints=(
            "Two loops, one in the other: over the rows of `output`, and over its columns.",
            "The window at a place is a slice of the picture: `picture[row:row + size, …]`.",
            "Inside both loops: `output[row, column] = (window * kernel).sum()`.",
        ),
    ),
    "04.2": Exercise(
        _conv_cost,
        slips=(
            (
                lambda inputs, outputs, kernel, size: (
                    outputs * inputs * kernel**2,
                    outputs * size**2 * inputs * kernel**2,
                ),
                "The biases are missing among the parameters: one per output channel.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    outputs * (inputs * kernel**2 + 1),
                    size**2 * inputs * kernel**2,
                ),
                "Those are the multiply-adds of one output map. How many maps are there?",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    outputs * (inputs * kernel**2 + 1),
                    outputs * size * inputs * kernel**2,
                ),
                "A map of that size has size × size numbers.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    outputs * (inputs * kernel + 1),
                    outputs * size**2 * inputs * kernel,
                ),
                "A kernel has kernel × kernel weights for each input channel.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    outputs * (kernel**2 + 1),
                    outputs * size**2 * kernel**2,
                ),
                "An output channel reads all the input channels, each with weights of its own.",
            ),
        ),
        hints=(
            "Begin with the weights that one output number reads.",
            "That number of weights comes back in both results. There is one such set, and one "
            "bias, per output channel.",
            "Multiply-adds: that number of weights times all output numbers, which are outputs · "
            "size · size.",
        ),
    ),
    "04.3": Exercise(
        _field,
        slips=(
            (
                _by_layers(lambda f, j, k, s, d: (f + (k - 1) * d * j * s, j * s)),
                "The layer's own stride counts only for the layers behind it: first the field.",
            ),
            (
                _by_layers(lambda f, j, k, s, d: (f + (k - 1) * d, j)),
                "Behind a stride of 2, neighbours are 2 pixels apart. Use the jump.",
            ),
            (
                _by_layers(lambda f, j, k, s, d: (f + (k - 1) * d * j, s)),
                "Two strides of 2 make a jump of 4: they multiply.",
            ),
            (
                _by_layers(lambda f, j, k, s, d: (f + (k - 1) * j, j * s)),
                "That leaves the dilation out.",
            ),
            (
                _by_layers(lambda f, j, k, s, d: (f + k * d * j, j * s)),
                "A kernel of 3 adds two gaps, not three.",
            ),
            (
                _by_layers(lambda f, j, k, s, d: (f + (k - 1) * d * j, j * s), field=0),
                "Before the first layer, a pixel sees itself.",
            ),
        ),
        hints=(
            "Two numbers travel along: the field and the jump. Both begin at 1.",
            "One loop over the layers: `for kernel_size, stride, dilation in layers:`. It has two "
            "lines, one per formula.",
            "The field first: `field += (kernel_size - 1) * dilation * jump`. The second line "
            "multiplies the jump.",
        ),
    ),
    "04.4": Exercise(
        _small_net,
        slips=(
            (
                partial(_SmallNet, relus=0),
                "There is no ReLU, so the convolutions in a row do what a single one could do.",
            ),
            (partial(_SmallNet, relus=1), "A ReLU is missing behind the second convolution."),
            (
                partial(_SmallNet, softmax=True),
                "That ends in a softmax. Logits are asked for: the raw scores.",
            ),
            (
                partial(_SmallNet, padding=0),
                "Without padding, each convolution cuts off a border. See `padding=1`.",
            ),
            (
                partial(_SmallNet, grow=1),
                "The second convolution has twice as many outputs as the first.",
            ),
        ),
        hints=(
            "`__init__` makes the layers that have weights and keeps them: two `nn.Conv2d` and one "
            "`nn.Linear`, each as `self.… = …`. `forward` calls them one after the other.",
            "Two poolings make 8 × 8 of 32 × 32, so the linear layer reads 2 · width · 8 · 8 "
            "numbers per image: `maps.flatten(1)`.",
            "A line of forward: `maps = F.max_pool2d(self.conv1(images).relu(), 2)`. The second is "
            "like it, and the third returns `self.linear(maps.flatten(1))`.",
        ),
    ),
    "04.5": Exercise(
        _batch_norm,
        slips=(
            (
                _norm_by(dims=(0,)),
                "Your means are over the images only. A channel's pixels belong to its mean, too.",
            ),
            (
                _norm_by(dims=(2, 3)),
                "You take one mean per image and channel. The batch's images count together.",
            ),
            (
                _norm_by(correction=1),
                "`var` divides by one less than the count. Batch norm wants `correction=0`.",
            ),
            (_norm_by(root="before"), "You add ε to the root. It stands under it."),
            (_norm_by(root=False), "You divide by the variance. Its root is asked for."),
            (_norm_by(eps=0), "If all values are the same, you divide 0 by 0. See ε."),
            (_norm_by(gamma=False, beta=False), "γ and β are missing."),
            (_norm_by(beta=False), "β is missing."),
        ),
        hints=(
            "`maps.mean((0, 2, 3), keepdim=True)` is one mean per channel, of the shape "
            "(1, C, 1, 1), which fits the maps.",
            "`maps.var(…)` takes the same arguments, and `correction=0`. Under the root, add eps.",
            "`gamma.view(1, -1, 1, 1)` has the shape that fits, too.",
        ),
    ),
    "04.6": Exercise(
        _separable_cost,
        slips=(
            (
                lambda inputs, outputs, kernel, size: (
                    (outputs * kernel**2 + inputs * outputs),
                    (outputs * kernel**2 + inputs * outputs) * size**2,
                ),
                "The depthwise layer comes first: it has a kernel per input channel.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    (inputs**2 * kernel**2 + inputs * outputs),
                    (inputs**2 * kernel**2 + inputs * outputs) * size**2,
                ),
                "In the depthwise layer each output channel reads one channel, not all of them.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    inputs * kernel**2,
                    inputs * kernel**2 * size**2,
                ),
                "That is the depthwise layer alone. The 1 × 1 layer behind it costs, too.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    inputs * (kernel**2 + 1) + (inputs + 1) * outputs,
                    (inputs * kernel**2 + inputs * outputs) * size**2,
                ),
                "You count biases. These two layers have none.",
            ),
            (
                lambda inputs, outputs, kernel, size: (
                    inputs * (inputs * kernel**2 + 1) + outputs * (inputs + 1),
                    (inputs**2 * kernel**2 + inputs * outputs) * size**2,
                ),
                "A depthwise layer is not what `conv_cost` counts: each channel reads only one "
                "channel, and there are no biases.",
            ),
        ),
        hints=(
            "Add up two layers. How many weights has the first, with a kernel per channel?",
            "The second is a convolution with a kernel of 1 × 1: a weight per pair of channels.",
            "Each weight is used once per place, and there are size · size places.",
        ),
    ),
    "04.7": Exercise(
        _block,
        slips=(
            (lambda channels, residual: _Block(channels, False), "The input is never added."),
            (
                lambda channels, residual: _Block(channels, True),
                "You add the input to the plain block, too. See the argument `residual`.",
            ),
            (
                partial(_Block, sum_last=True),
                "The last ReLU comes behind the sum, not before it.",
            ),
            (partial(_Block, end=False), "The ReLU behind the sum is missing."),
            (partial(_Block, between=False), "Between the two convolutions there is no ReLU."),
            (
                partial(_Block, norms=1),
                "You use one batch norm twice. Each place needs one of its own.",
            ),
            (
                partial(_Block, norms=1, convolutions=1),
                "You use the same layers twice. Each place needs layers of its own.",
            ),
            (
                partial(_Block, bias=True),
                "Batch norm subtracts the mean, and a bias with it. See `bias=False`.",
            ),
        ),
        hints=(
            "Four layers in `__init__`: convolution, batch norm, and both once more. Each needs a "
            "name of its own, because each has its own weights.",
            "In `forward`, keep `maps` as it is and give the body's result another name. You need "
            "both for the sum.",
            "`body = self.norm2(self.conv2(self.norm1(self.conv1(maps)).relu()))`, then `body + "
            "maps` if the block is residual, and the last ReLU at the very end.",
        ),
    ),
    "04.8": Exercise(
        _depends_on,
        slips=(
            (
                _touched(lambda out, row: out.sum(), lambda grad: grad.abs().sum(1) > 0),
                "You ask about all rows of the output at once. One of them is asked for.",
            ),
            (
                _touched(lambda out, row: out[row].sum(), lambda grad: grad.sum(1) != 0),
                "An image counts if any of its numbers has a gradient, of either sign. If you add "
                "them up, take `.abs()` first.",
            ),
            (
                _touched(lambda out, row: out[row].sum(), lambda grad: grad.sum(1) > 0),
                "A gradient may be negative, too. Take `.abs()` before the sum.",
            ),
            (
                _touched(lambda out, row: out[row].sum(), lambda grad: grad.abs().sum(1) == 0),
                "The wrong way round: True is for images that the row depends on.",
            ),
        ),
        hints=(
            "`model(inputs)[row].sum()` is one number. `.backward()` then fills `inputs.grad`.",
            "`inputs.grad` has the shape of the images. An image counts if any of its numbers has "
            "a gradient other than 0.",
            "`inputs.grad.flatten(1).abs().sum(1)` is one number per image.",
        ),
    ),
}
