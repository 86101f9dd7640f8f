"""Networks as readers bring them: branches, shared layers, functions, layers that work in place."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs=8, outputs=8, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, **{"padding": size // 2} | options)


class Strange(nn.Module):
    """A stem, a body that a function describes, and a head. The zoo below is made of these."""

    def __init__(self, body, channels=8, classes=10, **layers):
        super().__init__()
        self.stem, self.body, self.layers = conv(3), body, nn.ModuleDict(layers)
        self.head = nn.Linear(channels, classes)

    def maps(self, images):
        return self.body(self.layers, self.stem(images))

    def forward(self, images):
        return self.head(self.maps(images).mean((2, 3)))


def branches(layers, x):  # 3 + 2 · 6 pixels along the longer one
    return torch.cat([layers["small"](x), layers["second"](F.relu(layers["large"](x)))], 1)


def shared(layers, x):  # one layer, three times
    for _ in range(3):
        x = F.relu(layers["again"](x))
    return x


def functional(layers, x):
    weight = layers["hidden"].weight
    x = F.max_pool2d(F.relu(F.conv2d(x, weight, padding=1)), 2)
    return F.avg_pool2d(F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, dilation=2), 3, stride=2)


def residual_in_place(layers, x):
    out = F.relu_(layers["first"](x))
    out = layers["second"](out)
    out += x
    return F.relu_(out)


def shuffled(layers, x):
    x = layers["grouped"](x)
    size = x.shape
    x = x.view(size[0], 2, 4, *size[2:]).transpose(1, 2).reshape(size)
    first, second = x.chunk(2, 1)
    return torch.cat([first, layers["part"](second[:, :, :, :])], 1)


def shifted(layers, x):
    """A crop beside a map: the two see different pixels."""
    return layers["valid"](x) + x[:, :, 4:, 4:] * x.mean(1, keepdim=True)[:, :, :-4, :-4]


def squeezed(layers, x):  # squeeze and excitation: every place sees all
    return x * layers["squeeze"](x.mean((2, 3), keepdim=True)).sigmoid()


ZOO = {
    "branches": lambda: Strange(
        branches, 16, small=conv(), large=conv(size=5), second=conv(size=5, dilation=2, padding=4)
    ),
    "shared": lambda: Strange(shared, again=conv()),
    "functional": lambda: Strange(functional, hidden=conv(bias=False)),
    "residual in place": lambda: Strange(residual_in_place, first=conv(), second=conv()),
    "shuffled": lambda: Strange(shuffled, grouped=conv(groups=2), part=conv(4, 4, stride=1)),
    "shifted": lambda: Strange(shifted, valid=conv(size=5, padding=0)),
    "even": lambda: Strange(lambda layers, x: layers["even"](x), even=conv(size=4, stride=3)),
    "strided": lambda: Strange(
        lambda layers, x: layers["norm"](layers["b"](layers["a"](x))) + layers["short"](x),
        a=conv(stride=2), b=conv(stride=2), norm=nn.BatchNorm2d(8),
        short=conv(size=1, stride=4, padding=0),
    ),
    "alone": lambda: nn.Sequential(
        nn.Conv2d(3, 6, (3, 5), padding=(1, 2)), nn.ELU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True), nn.Hardswish(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    ),
}  # fmt: skip
SEES_ALL = {
    "squeezed": lambda: Strange(squeezed, squeeze=conv(size=1)),
    "instance norm": lambda: Strange(
        lambda layers, x: layers["norm"](x), norm=nn.InstanceNorm2d(8)
    ),
}


def up_and_down(layers, x):
    return layers["after"](F.interpolate(layers["before"](x), scale_factor=2))


def attention(layers, x):
    tokens = x.flatten(2).transpose(1, 2)
    tokens, _ = layers["attention"](tokens, tokens, tokens)
    return x + tokens.transpose(1, 2).view(x.shape)


CANNOT_TELL = {
    "upsampling": lambda: Strange(up_and_down, before=conv(stride=2), after=conv()),
    "attention": lambda: Strange(
        attention, attention=nn.MultiheadAttention(8, 2, batch_first=True)
    ),
    "transposed": lambda: Strange(
        lambda layers, x: layers["next"](layers["up"](x)),
        up=nn.ConvTranspose2d(8, 8, 2, 2), next=conv(),
    ),
}  # fmt: skip
