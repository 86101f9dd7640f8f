"""What a network learned: patches are cut exactly, maps are what a stage returned, and the rest."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from strange_networks import CANNOT_TELL, SEES_ALL, ZOO
from torch import nn

from cifar_utils import learned
from cifar_utils.data import normalize
from cifar_utils.errors import CifarError
from cifar_utils.models import ConvNet, create_model
from cifar_utils.receptive import Window, receptive_field, window


class Maps(nn.Module):
    """A strange network without its head."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network.maps(images)


def body(name):
    """A network that ends in maps: "compact 1" is compact up to its stage 1."""
    if name in ZOO:
        network = ZOO[name]()
        return network[:4] if name == "alone" else Maps(network)
    model, _, stage = name.partition(" ")
    return create_model(model, seed=0).features[: int(stage) + 1]


STAGES = [
    f"{name} {stage}"
    for name, count in {
        "compact": 3, "conv5": 3, "separable": 3, "resnet18": 3, "fastnet-quick": 3
    }.items() for stage in range(count)
]  # fmt: skip
BODIES = [*ZOO, *STAGES]


# --- the window of a unit -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
def test_nothing_outside_the_window_reaches_a_unit_and_its_edges_do(name):
    """NaN in a pixel reaches every unit that sees it, whatever the weights."""
    network = body(name).double().eval()
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        plain = network(image)
        h, w = plain.shape[2:]
        places = torch.tensor([[0, 0], [h // 2, w // 2], [h - 1, 0], [h // 3, w - 1]])
        for (row, column), box in zip(
            places.tolist(), window(network).boxes(places).tolist(), strict=True
        ):
            top, left, bottom, right = (min(max(edge, 0), 32) for edge in box)
            outside = torch.full_like(image, torch.nan)
            outside[..., top:bottom, left:right] = image[..., top:bottom, left:right]
            value = network(outside)[0, :, row, column]
            assert torch.equal(value, plain[0, :, row, column]), "a pixel outside reaches it"
            for edge in (
                (slice(top, top + 1), slice(left, right)),
                (slice(bottom - 1, bottom), slice(left, right)),
                (slice(top, bottom), slice(left, left + 1)),
                (slice(top, bottom), slice(right - 1, right)),
            ):
                spoiled = image.clone()
                spoiled[(..., *edge)] = torch.nan
                assert network(spoiled)[0, :, row, column].isnan().any(), "the box is too large"


def test_rows_and_columns_have_windows_of_their_own():
    network = nn.Sequential(
        nn.Conv2d(3, 2, (3, 5), stride=(2, 1), padding=(0, 4), dilation=(1, 2)), nn.MaxPool2d(2)
    )
    found = window(network)
    assert found == Window((5, 10), (4, 2), (0, -4))
    assert found.boxes(torch.tensor([[0, 0], [3, 1]])).tolist() == [[0, -4, 5, 6], [12, -2, 17, 8]]
    assert receptive_field(network) == 10


def test_a_network_of_features_has_the_window_of_its_last_stage():
    model = create_model("compact", seed=0)
    assert window(model) == window(model.features) == Window((48, 48), (16, 16), (-16, -16))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (SEES_ALL["squeezed"], "sees the whole image"),
        (CANNOT_TELL["upsampling"], "through the operation upsample_nearest2d"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2)), "one stack"),
        (lambda: "network", "of type str"),
    ],
)
def test_a_window_that_there_is_not_is_told_in_words(network, words):
    network = network()
    network = Maps(network) if hasattr(network, "maps") else network
    with pytest.raises(CifarError, match=words):
        window(network)


# --- maps and patches -----------------------------------------------------------------------------


def test_maps_are_what_each_stage_returned_though_the_next_works_in_place(random_split):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    second = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2))
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 256, 10))
    model = ConvNet(nn.Sequential(first, second, nn.ELU(inplace=True)), head)
    model.features[0][1].running_mean += 0.3
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = random_split(7).images
    one, two, three = learned.stage_maps(model, images, batch_size=3)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        wanted = model.eval().features[0](normalize(images))
    torch.testing.assert_close(one, wanted)
    assert (one < 0).any(), "ReLU has written into them"
    torch.testing.assert_close(two, F.max_pool2d(wanted.relu(), 2))
    torch.testing.assert_close(three, two)  # ELU leaves what is positive
    with pytest.raises(CifarError, match=r"wanted \(N, 3, H, W\)"):
        learned.stage_maps(model, images[0])
    with pytest.raises(CifarError, match="called features"):
        learned.stage_maps(nn.Conv2d(3, 4, 3), images)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_the_strongest_are_the_largest_of_each_image(count):
    maps = torch.randn(12, 5, 7, generator=torch.Generator().manual_seed(1))
    maps[3] = 0  # many places alike: the first counts
    best = []
    for number, one in enumerate(maps.tolist()):
        value, row, column = max(
            ((value, -row, -column) for row, line in enumerate(one)
             for column, value in enumerate(line))
        )  # fmt: skip
        best.append((-value, number, -row, -column))
    wanted = [list(place) for _, *place in sorted(best)[:count]]
    assert learned.strongest(maps, count=count).tolist() == wanted
    assert learned.strongest(maps[:0]).shape == (0, 3)
    with pytest.raises(CifarError, match="one per image"):
        learned.strongest(maps[0])


def test_patches_hold_the_windows_pixels_and_grey_beyond_the_border(random_split):
    images = random_split(3).images
    view = Window((5, 4), (3, 2), (-2, -3))
    places = torch.tensor([[0, 0, 0], [2, 4, 5], [1, 10, 16], [1, 30, 0]])
    cut = learned.cut_patches(images, places, view)
    assert cut.shape == (4, 3, 5, 4) and cut.dtype == torch.uint8
    for patch, (number, row, column) in zip(cut, places.tolist(), strict=True):
        for down in range(5):
            for right in range(4):
                y, x = 3 * row - 2 + down, 2 * column - 3 + right
                there = 0 <= y < 32 and 0 <= x < 32
                wanted = images[number, :, y, x].tolist() if there else [127] * 3
                assert patch[:, down, right].tolist() == wanted
    assert (learned.cut_patches(images, places[3:], view, outside=9) == 9).all()
    assert learned.cut_patches(images, places[:0], view).shape == (0, 3, 5, 4)


def test_patches_of_a_network_alone_give_its_maxima(random_split):
    """The patch, put back onto any other image, excites the unit as the whole image did."""
    images = random_split(20).images
    for name, stage in (("compact", 2), ("separable", 0), ("resnet18", 1)):
        model = create_model(name, seed=0).eval()
        maps = learned.stage_maps(model, images)[stage][:, 3]
        view = window(model.features[: stage + 1])
        places = learned.strongest(maps, count=5)
        patches = learned.cut_patches(images, places, view)
        for place, patch, box in zip(places, patches, view.boxes(places[:, 1:]), strict=True):
            number, row, column = place.tolist()
            top, left, bottom, right = box.tolist()
            other = images[number].flip(0, 1, 2)
            for y in range(max(top, 0), min(bottom, 32)):
                for x in range(max(left, 0), min(right, 32)):
                    other[:, y, x] = patch[:, y - top, x - left]
            alone = learned.stage_maps(model, other[None])[stage][0, 3, row, column]
            torch.testing.assert_close(alone, maps[number].max())


def test_likeness_is_the_mean_correlation_of_pairs():
    patches = torch.randint(0, 256, (4, 3, 5, 6), generator=torch.Generator().manual_seed(2)).byte()
    table = np.corrcoef(patches.flatten(1).numpy())
    wanted = table[np.triu_indices(4, 1)].mean()
    assert learned.likeness(patches) == pytest.approx(wanted)
    assert learned.likeness(patches[:1].expand(3, -1, -1, -1)) == pytest.approx(1)
    assert learned.likeness(torch.stack([patches[0], 0 * patches[0]])) == pytest.approx(0)


# --- first and last layer -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compact", "fastnet-quick", "resnet18"])
def test_first_filters_are_those_of_the_first_convolution_from_grey_to_coloured(name):
    model = create_model(name, seed=0)
    layer = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    filters = learned.first_filters(model)
    assert sorted(filters.flatten(1).tolist()) == sorted(layer.weight.flatten(1).tolist())
    shares = learned.colour_share(filters)
    assert (shares.diff() >= 0).all() and not filters.requires_grad
    filters.zero_()
    assert layer.weight.any(), "it is a copy"
    for odd in (nn.Linear(3, 2), nn.Conv2d(1, 4, 3), nn.Conv2d(3, 6, 3, groups=3)):
        with pytest.raises(CifarError, match="three colours"):
            learned.first_filters(odd)


def test_the_share_of_colour_is_0_for_grey_and_1_for_colours_that_add_up_to_0():
    grey = torch.randn(1, 1, 3, 3).expand(1, 3, 3, 3)
    filters = torch.cat([grey, grey * torch.tensor([1.0, -2, 1]).view(3, 1, 1), 0 * grey])
    mixed = grey * torch.tensor([1.0, 0, 0]).view(3, 1, 1)  # (1, 0, 0) less its mean: 2 thirds
    shares = learned.colour_share(torch.cat([filters, mixed]))
    torch.testing.assert_close(shares, torch.tensor([0, 1, 0, 2 / 3]))


def test_class_cosines_do_not_see_what_all_classes_share():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, generator=draw)
    centred = weight - weight.mean(0)
    wanted = F.cosine_similarity(centred[:, None], centred[None], dim=2)
    torch.testing.assert_close(learned.class_cosines(weight), wanted)
    moved = weight + 3 * torch.randn(8, generator=draw)
    torch.testing.assert_close(learned.class_cosines(moved), wanted)


def test_the_heads_weight_has_a_row_per_class():
    model = create_model("compact", seed=0)
    weight = learned.head_weight(model)
    assert torch.equal(weight, model.classifier[-1].weight) and weight.shape == (10, 64)
    assert learned.head_weight(create_model("fastnet-quick", seed=0)).shape == (10, 192)
    with pytest.raises(CifarError, match="no linear layer"):
        learned.head_weight(nn.Conv2d(3, 4, 3))


def test_places_that_are_none_of_the_images_are_named():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    seen = window(create_model("compact", seed=0).features[:1])
    for places, options, words in (
        (torch.zeros(1, 2, dtype=torch.long), {}, r"wanted \(K, 3\)"),
        (torch.tensor([[2, 0, 0]]), {}, "image number is not in 0 to 1"),
        (torch.zeros(1, 3, dtype=torch.long), {"outside": 300}, "outside: 300"),
    ):
        with pytest.raises(CifarError, match=words):
            learned.cut_patches(images, places, seen, **options)
    with pytest.raises(CifarError, match="at least two"):
        learned.likeness(images[:1])
