"""The receptive field of networks of any build, against a measurement with NaN."""

import pytest
import torch
from strange_networks import CANNOT_TELL, SEES_ALL, ZOO
from torch import nn

from cifar_utils.errors import CifarError
from cifar_utils.profile import receptive_field


def measured(maps, size=96):
    """NaN in one row or column at a time: which of them reach the unit in the middle?"""
    lengths = []
    for axis in (2, 3):
        shape = [1, 3, 32, 32]
        shape[axis] = size
        reached = []
        for place in range(size):
            image = torch.zeros(shape, dtype=torch.float64)
            image.select(axis, place).fill_(torch.nan)
            seen = maps(image)
            middle = seen[0, :, seen.shape[2] // 2, seen.shape[3] // 2]
            reached += [place] if middle.isnan().any() else []
        lengths.append(reached[-1] - reached[0] + 1)
    return max(lengths)


@pytest.mark.parametrize("name", ZOO)
def test_the_field_is_what_nan_in_the_image_reaches(name):
    network = ZOO[name]().double().eval()
    maps = getattr(network, "maps", network[:4] if name == "alone" else None)
    with torch.no_grad():
        wanted = measured(maps)
    assert receptive_field(network) == wanted
    with torch.device("meta"):
        assert receptive_field(ZOO[name]()) == wanted, "it needs no numbers"


@pytest.mark.parametrize("name", SEES_ALL)
def test_a_place_that_sees_all_has_no_field_in_pixels(name):
    with pytest.raises(CifarError, match="sees the whole image"):
        receptive_field(SEES_ALL[name]())


@pytest.mark.parametrize(("name", "operation"), [*zip(
    CANNOT_TELL, ["upsample_nearest2d", "view", "convolution"], strict=True)])  # fmt: skip
def test_what_cannot_be_followed_is_named(name, operation):
    with pytest.raises(CifarError, match=f"through the operation {operation}"):
        receptive_field(CANNOT_TELL[name]())


def test_the_features_count_and_not_what_follows_them():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.features = nn.Conv2d(3, 4, 5), nn.Sequential(nn.Conv2d(4, 4, 3))
            self.after = nn.Sequential(nn.Conv2d(4, 4, 7), nn.Flatten(), nn.Linear(4 * 400, 10))

        def forward(self, images):
            return self.after(self.features(self.stem(images)))

    assert receptive_field(Own()) == 7  # stem and features
    for wrong in (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), nn.Conv2d(1, 2, 3), "network"):
        with pytest.raises(CifarError):
            receptive_field(wrong)


def test_writing_into_a_part_of_a_map_is_not_taken_for_the_whole():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.near, self.far = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 9, padding=4)

        def forward(self, images):
            maps = torch.zeros(len(images), 8, 32, 32)
            maps[:, :4] = self.near(images)
            maps[:, 4:] = self.far(images)
            return maps

    with pytest.raises(CifarError, match="cannot be followed"):
        receptive_field(Halves())


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        ("softmax", lambda maps: maps.softmax(3)),
        ("cumsum", lambda maps: maps.cumsum(2)),
        (
            "upsample_bilinear2d",
            lambda maps: nn.functional.interpolate(maps, size=9, mode="bilinear"),
        ),
    ],
)
def test_what_mixes_places_just_before_they_end_is_named(name, mix):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 10, 3)

        def forward(self, images):
            return mix(self.layer(images)).flatten(1)[:, :10]

    with pytest.raises(CifarError, match=f"through the operation _?{name}"):
        receptive_field(Mixing())
