"""The course's networks: the blocks first, then one builder per network, then the dict MODELS.

Every network is a ConvNet: `features`, a sequence of stages, then `classifier`. Comments at the
ends of lines give the shape of each stage's output for 32×32 images. To add a network, write a
builder and give it a row in MODELS.
"""

import contextlib
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.errors import CifarError, choose, whole

Initialization = Literal["default", "kaiming", "dirac"]


class ConvNet(nn.Module):
    """features, then classifier: Grad-CAM can take the maps after any stage without a search."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module):
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:  # normalised float (N, 3, 32, 32)
        return self.classifier(self.features(images))  # logits (N, num_classes)


# --- blocks -------------------------------------------------------------------------------------


def stage(*layers: nn.Module) -> nn.Sequential:
    """Layers in a row that count as one stage of `features`."""
    return nn.Sequential(*layers)


def pool() -> nn.MaxPool2d:
    """2×2 max pooling: (N, C, H, W) to (N, C, H // 2, W // 2)."""
    return nn.MaxPool2d(2)


def conv_relu(inputs: int, outputs: int, padding: int = 1) -> nn.Sequential:
    """3×3 convolution, ReLU."""
    return stage(nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU())


def conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    return stage(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Dropout(nn.Dropout):
    """nn.Dropout, but cheaper on a CPU: one 64-bit random number decides about four elements.

    torch draws one number per element, on one core. That is cheap enough after linear layers, but
    expensive if dropout follows every convolution. The rate is rounded to a multiple of 2⁻¹⁶.
    On other devices and under torch.compile torch's own is fast, and is used.
    """

    def forward(self, maps: Tensor) -> Tensor:
        plain = maps.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or self.p == 0 or plain:
            return super().forward(maps)
        draws = torch.empty(-(-maps.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        coins = draws.view(torch.int16)[: maps.numel()]
        dropped = min(round(self.p * 2**16), 2**16 - 1)  # of 2¹⁶ values, starting at -2¹⁵
        kept = (coins >= dropped - 2**15).to(maps.dtype)
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        # In the memory layout of the maps (such as channels last): otherwise the product is slow.
        return maps * (kept * scale).as_strided(maps.shape, torch.empty_like(maps).stride())


def conv_relu_bn_dropout(inputs: int, outputs: int, **options: Any) -> nn.Sequential:
    """3×3 convolution without bias, ReLU, batch norm, a little dropout.

    options: further arguments of nn.Conv2d; padding is 1 by default.
    """
    options = {"padding": 1} | options
    conv = nn.Conv2d(inputs, outputs, 3, bias=False, **options)
    return stage(conv, nn.ReLU(), nn.BatchNorm2d(outputs), Dropout(0.05))


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1×1 convolution alone: it mixes the channels of each pixel and ignores its neighbours."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)): the body learns what to add to its input (arXiv 1512.03385)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images) + self.shortcut(images))


def conv_bn(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, which keeps the map's size at stride 1, then batch norm."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return stage(conv, nn.BatchNorm2d(outputs))


def basic_block(inputs: int, width: int, stride: int, dropout: float) -> Residual:
    """Two 3×3 convolutions, for ResNet-18 and -34."""
    body = stage(
        conv_bn(inputs, width, 3, stride), nn.ReLU(), Dropout(dropout), conv_bn(width, width, 3)
    )
    return Residual(body, _shortcut(inputs, width, stride))


def bottleneck(inputs: int, width: int, stride: int, dropout: float) -> Residual:
    """1×1 down, 3×3, 1×1 up to four times the width, for ResNet-50 and deeper."""
    body = stage(
        conv_bn(inputs, width, 1), nn.ReLU(),
        conv_bn(width, width, 3, stride), nn.ReLU(), Dropout(dropout),
        conv_bn(width, 4 * width, 1),
    )  # fmt: skip
    return Residual(body, _shortcut(inputs, 4 * width, stride))


def _shortcut(inputs, outputs, stride):
    same_shape = stride == 1 and inputs == outputs
    return nn.Identity() if same_shape else conv_bn(inputs, outputs, 1, stride)


def average_head(inputs: int, num_classes: int) -> nn.Sequential:
    """Global average pool and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))


class Whitening(nn.Conv2d):
    """A convolution that `whiten` fits to the training images; training changes only its bias.

    It has two outputs for each direction of a `size` × `size` patch, one of each sign, so that the
    activation after it loses nothing. Patches of 2 × 2 pixels turn (N, 3, H, W) into
    (N, 24, H - 1, W - 1). Source: arXiv 2404.00498.
    """

    def __init__(self, size: int = 2):
        super().__init__(3, 2 * 3 * size**2, size)
        self.weight.requires_grad_(False)


def unscaled_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that trains only its biases: the scale stays 1.

    Its outputs have size 1, whatever the size of the kernels before it. Its running statistics
    follow the last few batches, because a whole training may have only about two hundred. eps and
    momentum are those of airbench94 (arXiv 2404.00498).
    """
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def fast_group(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution, pool, batch norm, GELU, convolution, batch norm, GELU (arXiv 2404.00498).

    Pooling comes before batch norm and activation and leaves them a quarter of the work. It turns
    (N, inputs, H, W) into (N, outputs, H // 2, W // 2).
    """
    return stage(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), pool(),
        unscaled_batch_norm(outputs), nn.GELU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        unscaled_batch_norm(outputs), nn.GELU(),
    )  # fmt: skip


class Scale(nn.Module):
    """Multiplies values of any shape by a fixed number."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return self.factor * values


# --- networks -----------------------------------------------------------------------------------


def vgg(num_classes: int = 10) -> ConvNet:
    """Convolutions in pairs and three wide linear layers, no batch norm; 34,749,002 parameters.

    After arXiv 1409.1556. Used in notebook 04.
    """
    features = nn.Sequential(
        stage(conv_relu(3, 64), conv_relu(64, 64), pool()),  # (N,  64, 16, 16)
        stage(conv_relu(64, 128), conv_relu(128, 128), pool()),  # (N, 128, 8, 8)
        stage(conv_relu(128, 256), conv_relu(256, 256), pool()),  # (N, 256, 4, 4)
    )
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(256 * 4 * 4, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )  # fmt: skip
    return ConvNet(features, classifier)


def conv5(num_classes: int = 10) -> ConvNet:
    """Five convolutions, two of them followed by dropout of whole maps; 2,791,434 parameters.

    Dropout2d: arXiv 1411.4280. Used in notebook 04.
    """
    features = nn.Sequential(
        stage(conv_relu(3, 8), conv_relu(8, 32), pool()),  # (N,  32, 16, 16)
        stage(conv_relu(32, 64), nn.Dropout2d(0.5), conv_relu(64, 128), pool()),  # (N, 128, 8, 8)
        stage(conv_relu(128, 256, padding=0), nn.Dropout2d(0.5)),  # (N, 256, 6, 6)
    )
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(256 * 6 * 6, 256), nn.ReLU(),
        nn.Linear(256, 128), nn.ReLU(),
        nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, num_classes),
    )  # fmt: skip
    return ConvNet(features, classifier)


def compact(num_classes: int = 10) -> ConvNet:
    """Five layers of convolution, batch norm and ReLU, three linear ones; 399,274 parameters.

    Batch norm: arXiv 1502.03167. Used in notebook 04.
    """
    features = nn.Sequential(
        stage(conv_bn_relu(3, 32), conv_bn_relu(32, 32), pool()),  # (N,  32, 16, 16)
        stage(conv_bn_relu(32, 64), pool()),  # (N,  64, 8, 8)
        stage(conv_bn_relu(64, 128), pool()),  # (N, 128, 4, 4)
        stage(conv_bn_relu(128, 128), pool()),  # (N, 128, 2, 2)
    )
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(128 * 2 * 2, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 64), nn.ReLU(),
        nn.Linear(64, num_classes),
    )  # fmt: skip
    return ConvNet(features, classifier)


def separable(num_classes: int = 10) -> ConvNet:
    """Dilated, strided and depthwise convolutions, pooling only at the end; 199,810 parameters.

    Dilation: arXiv 1511.07122; depthwise-separable: arXiv 1704.04861. Used in notebook 04.
    """
    block = conv_relu_bn_dropout
    features = nn.Sequential(
        stage(
            block(3, 16, padding=0),
            block(16, 32),
            block(32, 48, dilation=2, padding=0),
            block(48, 32, stride=2),
        ),  # (N, 32, 13, 13)
        stage(block(32, 64), block(64, 96), pointwise(96, 64), block(64, 32, stride=2)),  # 7 × 7
        stage(
            block(32, 64, groups=32),
            block(64, 128, groups=64),
            pointwise(128, 64),
            block(64, 64, stride=2),
        ),  # (N, 64, 4, 4)
        stage(
            block(64, 128, groups=64),
            block(128, 256, groups=128),
            block(256, 256, groups=256),
            pointwise(256, 52),
        ),  # (N, 52, 4, 4)
    )
    return ConvNet(features, average_head(52, num_classes))


def _resnet(block, expansion, depths, num_classes, dropout):
    """An ImageNet ResNet (arXiv 1512.03385) fitted to 32×32: a 3×3 stem, no pooling after it."""
    stages, inputs = [stage(conv_bn(3, 64, 3), nn.ReLU())], 64  # (N, 64, 32, 32)
    for width, depth, first_stride in zip((64, 128, 256, 512), depths, (1, 2, 2, 2), strict=True):
        blocks = []
        for stride in [first_stride] + [1] * (depth - 1):
            blocks.append(block(inputs, width, stride, dropout))
            inputs = width * expansion
        stages.append(stage(*blocks))  # 32 × 32, 16 × 16, 8 × 8, 4 × 4
    return ConvNet(nn.Sequential(*stages), average_head(inputs, num_classes))


def resnet18(num_classes: int = 10, dropout: float = 0.1) -> ConvNet:
    """Eight residual blocks of two convolutions; 11,173,962 parameters. Used in notebook 04."""
    return _resnet(basic_block, 1, (2, 2, 2, 2), num_classes, dropout)


def resnet34(num_classes: int = 10, dropout: float = 0.1) -> ConvNet:
    """Sixteen residual blocks of two convolutions; 21,282,122 parameters."""
    return _resnet(basic_block, 1, (3, 4, 6, 3), num_classes, dropout)


def resnet50(num_classes: int = 10, dropout: float = 0.1) -> ConvNet:
    """Sixteen bottleneck blocks; 23,520,842 parameters."""
    return _resnet(bottleneck, 4, (3, 4, 6, 3), num_classes, dropout)


def resnet101(num_classes: int = 10, dropout: float = 0.1) -> ConvNet:
    """Thirty-three bottleneck blocks; 42,512,970 parameters."""
    return _resnet(bottleneck, 4, (3, 4, 23, 3), num_classes, dropout)


def resnet152(num_classes: int = 10, dropout: float = 0.1) -> ConvNet:
    """Fifty bottleneck blocks; 58,156,618 parameters."""
    return _resnet(bottleneck, 4, (3, 8, 36, 3), num_classes, dropout)


def _fastnet(widths: Sequence[int], num_classes: int) -> ConvNet:
    whitening = Whitening()
    groups, inputs = [], whitening.out_channels
    for width in widths:
        groups.append(fast_group(inputs, width))  # (N, width, 15, 15), then 7 × 7, then 3 × 3
        inputs = width
    features = nn.Sequential(stage(whitening, nn.GELU()), *groups)  # first: (N, 24, 31, 31)
    classifier = nn.Sequential(
        nn.AdaptiveMaxPool2d(1), nn.Flatten(),  # (N, inputs)
        # airbench's head divides by 256 and has weights of size 1. torch's have size 9 / 256.
        nn.Linear(inputs, num_classes, bias=False), Scale(1 / 9),
    )  # fmt: skip
    return ConvNet(features, classifier)


def fastnet(num_classes: int = 10) -> ConvNet:
    """Whitened patches, then three groups of two convolutions; 1,971,352 trained parameters.

    The network of airbench94 (arXiv 2404.00498). It takes images of any size from 9 pixels up, and
    needs recipe.whitening and initialization="dirac".
    """
    return _fastnet((64, 256, 256), num_classes)


def fastnet_half(num_classes: int = 10) -> ConvNet:
    """fastnet at half its width; 497,240 trained parameters."""
    return _fastnet((32, 128, 128), num_classes)


def fastnet_quick(num_classes: int = 10) -> ConvNet:
    """fastnet-half with 192 channels in its last group; 756,056 trained parameters.

    The maps are smallest there: half as many parameters again cost only a sixth more multiply-adds.
    """
    return _fastnet((32, 128, 192), num_classes)


MODELS: dict[str, Callable[..., ConvNet]] = {
    "vgg": vgg,
    "conv5": conv5,
    "compact": compact,
    "separable": separable,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "fastnet": fastnet,
    "fastnet-half": fastnet_half,
    "fastnet-quick": fastnet_quick,
}


def create_model(
    name: str,
    num_classes: int = 10,
    *,
    seed: int | None = None,
    initialization: Initialization = "default",
    dropout_factor: float = 1.0,
) -> ConvNet:
    """A new network of MODELS, with random weights. Used in notebook 04.

    Args:
        seed: A whole number gives the same weights every time and leaves torch's own generator
            alone. None draws from torch's generator.
        initialization: "default" is torch's own. "kaiming" scales every kernel for the ReLU after
            it (arXiv 1502.01852) and starts the last layer at zero: networks without batch norm
            need this at high learning rates. "dirac" lets the first outputs of each convolution
            pass its inputs on unchanged, as many as there are (arXiv 2404.00498).
        dropout_factor: Multiplies the network's own dropout rates, in [0, 1].

    Raises:
        CifarError: The name or the initialization is unknown, or a number is outside its range.
    """
    choose(name, MODELS, "model")
    choose(initialization, get_args(Initialization), "initialization")
    num_classes = whole(num_classes, "num_classes", least=1)
    seed = None if seed is None else whole(seed, "seed", most=2**63 - 1)
    if not (isinstance(dropout_factor, Real) and 0 <= dropout_factor <= 1):
        raise CifarError(f"dropout_factor is {dropout_factor}; it must be in [0, 1]")
    with contextlib.nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:  # the CPU's generator only: torch.manual_seed would reseed GPUs too
            torch.default_generator.manual_seed(seed)
        model = MODELS[name](num_classes)
        if initialization == "kaiming":
            _kaiming(model)
        elif initialization == "dirac":
            _dirac(model)
    for layer in model.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d)):
            layer.p *= dropout_factor
    return model


def _kaiming(model):
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.zeros_(layers[-1].weight)  # no ReLU follows it: start without a preference


def _dirac(model):
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, Whitening):
            nn.init.dirac_(layer.weight[: layer.weight.shape[1]])  # the others keep torch's own


def build(recipe: Any, classes: Sequence[str]) -> ConvNet:
    """The recipe's network with its first weights, which `fit` then trains.

    recipe: a Recipe. classes: the names of the classes. Used in notebook 05.
    """
    return create_model(
        recipe.model,
        len(classes),
        seed=recipe.seed,
        initialization=recipe.initialization,
        dropout_factor=recipe.dropout_factor,
    )


def whitening_layer(model: nn.Module) -> Whitening:
    """The network's Whitening layer; CifarError if it has none."""
    for layer in model.modules():
        if isinstance(layer, Whitening):
            return layer
    raise CifarError("this network has no whitening layer; set whitening to 0, or take fastnet")


@torch.no_grad()
def whiten(model: nn.Module, inputs: Tensor) -> None:
    """Fit the network's Whitening layer to `inputs`, normalised float (N, 3, H, W).

    Before the bias, its first twelve outputs for patches of these images are then uncorrelated and
    have a mean square of 1. In directions that hardly vary it stays below 1, because those contain
    mostly noise. The other twelve outputs are their negatives. Raises CifarError if the network has
    no such layer. Source: arXiv 2404.00498.
    """
    layer = whitening_layer(model)
    moments, count = torch.zeros((), dtype=torch.float64), 0
    for batch in inputs.split(500):  # the patches of all images would fill half a gigabyte
        patches = F.unfold(batch.cpu().double(), layer.kernel_size)  # (500, 12, patches per image)
        patches = patches.transpose(0, 1).flatten(1)  # (12, patches)
        moments = moments + patches @ patches.T
        count += patches.shape[1]
    variances, directions = torch.linalg.eigh(moments / count)  # one direction per column
    kernels = (directions / (variances + 5e-4).sqrt()).T.reshape(-1, *layer.weight.shape[1:])
    layer.weight.copy_(torch.cat([kernels, -kernels]))
