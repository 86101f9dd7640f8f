"""Each vectorised operation against a plain loop over images that replays the same draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms as v1
from torchvision.transforms.functional import to_pil_image

from cifar_utils import augment as A
from cifar_utils.augment import AUGMENTATIONS, augment
from cifar_utils.data import MEAN
from cifar_utils.errors import CifarError


def images_and_generator(count, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, 32, 32)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), generator


def replay(generator, *highs, count):
    """The whole numbers that an operation will draw next, without disturbing its generator."""
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return [torch.randint(high, (count,), generator=twin).tolist() for high in highs]


some = {"count": st.integers(1, 9), "seed": st.integers(0, 2**31)}


@given(**some)
@settings(max_examples=20, deadline=None)
def test_flip_equals_a_loop(count, seed):
    images, generator = images_and_generator(count, seed)
    (coins,) = replay(generator, 2, count=count)
    wanted = [
        np.fliplr(image.permute(1, 2, 0).numpy()) if coin else image.permute(1, 2, 0).numpy()
        for image, coin in zip(images, coins, strict=True)
    ]
    got = A.flip(images, generator).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(got, np.stack(wanted))


@given(**some, padding=st.integers(1, 5), mode=st.sampled_from(["constant", "reflect"]))
@settings(max_examples=30, deadline=None)
def test_crop_equals_a_loop(count, seed, padding, mode):
    images, generator = images_and_generator(count, seed)
    tops, lefts = replay(generator, 2 * padding + 1, 2 * padding + 1, count=count)
    got = A.crop(images, generator, padding=padding, mode=mode)
    for image, top, left, window in zip(images.numpy(), tops, lefts, got.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode=mode)
        assert np.array_equal(window, padded[:, top : top + 32, left : left + 32])


def test_translate_is_a_crop_with_mirrored_border():
    images, generator = images_and_generator(6, 3)
    tops, lefts = replay(generator, 5, 5, count=6)
    got = A.translate(images, generator)
    for image, top, left, moved in zip(images.numpy(), tops, lefts, got.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        assert np.array_equal(moved, padded[:, top : top + 32, left : left + 32])


@given(**some, size=st.integers(1, 16))
@settings(max_examples=30, deadline=None)
def test_cutout_equals_a_loop(count, seed, size):
    images, generator = images_and_generator(count, seed)
    rows, columns = replay(generator, 32, 32, count=count)
    wanted = images.clone()
    for image, row, column in zip(wanted, rows, columns, strict=True):
        top, left = row - size // 2, column - size // 2
        image[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 127
    assert torch.equal(A.cutout(images, generator, size=size), wanted)


@given(**some)
@settings(max_examples=20, deadline=None)
def test_brightness_contrast_equals_a_loop(count, seed):
    images, generator = images_and_generator(count, seed)
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    bright, sharp = torch.rand(count, generator=twin), torch.rand(count, generator=twin)
    got = A.brightness_contrast(images, generator)
    for image, b, c, changed in zip(images.numpy(), bright, sharp, got.numpy(), strict=True):
        brighter = image * (1 + 0.2 * (2 * b.item() - 1))
        grey = brighter.mean()
        wanted = (brighter - grey) * (1 + 0.2 * (2 * c.item() - 1)) + grey
        assert np.abs(wanted.clip(0, 255) - changed).max() <= 0.51  # rounding to whole numbers


@given(count=st.integers(1, 50), epoch=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_alternating_flip_shows_both_versions_in_any_two_epochs(count, epoch):
    images, _ = images_and_generator(count, 0)
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(count))[:count]
    first, second = (
        A.alternating_flip(images, epoch=e, indices=indices) for e in (epoch, epoch + 1)
    )
    assert torch.equal(first.flip(3), second)
    assert torch.equal(A.alternating_flip(images, epoch=epoch + 2, indices=indices), first)


def test_gentle_color_stays_within_its_bounds_and_uses_them():
    """7% of brightness, 13% of contrast: read off two greys whose mean is 120, 200 apart."""
    images = torch.full((4000, 3, 2, 2), 20, dtype=torch.uint8)
    images[:, :, :, 1] = 220
    changed = A.gentle_color(images, torch.Generator().manual_seed(0)).double()
    brightness = changed.mean((1, 2, 3)) / 120
    contrast = (changed[:, 0, 0, 1] - changed[:, 0, 0, 0]) / 200 / brightness
    for factors, strength in ((brightness, 0.07), (contrast, 0.13)):
        assert factors.min().item() == pytest.approx(1 - strength, abs=0.01)  # greys are rounded
        assert factors.max().item() == pytest.approx(1 + strength, abs=0.01)


def test_alternating_flip_wants_a_whole_epoch_and_an_index_per_image(random_split):
    """With epoch 2.5 it would mirror no image, and with one index all or none."""
    images = random_split(4).images
    for epoch in (2.5, "2", None, True):
        with pytest.raises(CifarError, match=r"epoch is .*; it must be a whole number"):
            augment(images, "crop-alternating", epoch=epoch)
    for indices in (torch.arange(1), torch.arange(5), [0, 1, 2, 3], torch.zeros(4)):
        with pytest.raises(CifarError, match=r"indices must be a tensor, int64 \(4,\)"):
            augment(images, "crop-alternating", indices=indices)
    taken = A.alternating_flip(images, epoch=np.int64(1), indices=torch.arange(4))
    assert torch.equal(taken, A.alternating_flip(images, epoch=1, indices=torch.arange(4)))


def test_alternating_flip_mirrors_about_half_of_the_images_whatever_their_batch():
    images, _ = images_and_generator(1, 0)
    several = images.expand(50_000, 3, 32, 32)[:, :1, :1]  # a corner strip is enough to see
    flipped = A.alternating_flip(several, epoch=0, indices=torch.arange(50_000))
    mirrored = (flipped != several).flatten(1).any(1)
    assert 0.49 < mirrored.double().mean() < 0.51
    part = A.alternating_flip(several[:7], epoch=0, indices=torch.arange(40_000, 40_007))
    assert torch.equal(part, flipped[40_000:40_007])


NICKNAMES = {"alternating": A.alternating_flip, "color": A.gentle_color}


@pytest.mark.parametrize(("policy", "operations"), AUGMENTATIONS.items(), ids=AUGMENTATIONS)
def test_a_policy_takes_the_steps_that_its_name_says(policy, operations):
    by_torchvision = ("conv5-published", "compact-published")
    if policy in ("none", "vgg-published"):
        assert operations == ()
    elif policy.endswith("-published"):  # in the library that its authors used
        (step,) = operations
        library = policy in by_torchvision
        assert step.func is (A.torchvision_policy if library else A.albumentations_policy)
        assert step.keywords == {"name": policy}
    elif policy == "crop-flip-color":  # the one with the strong changes of colour
        assert operations == (A.crop, A.flip, A.brightness_contrast)
    else:
        words = policy.split("-")
        assert operations == tuple(NICKNAMES.get(word) or getattr(A, word) for word in words)


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_every_policy_keeps_shape_type_and_input_and_repeats_from_a_seed(policy, monkeypatch):
    images, _ = images_and_generator(8, 1)
    before, state = images.clone(), torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", None)  # it would reseed GPUs, too
    first, again, other = (
        augment(images, policy, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    assert first.dtype == torch.uint8 and first.shape == images.shape and first.is_contiguous()
    assert torch.equal(first, again)
    if AUGMENTATIONS[policy]:
        assert not torch.equal(first, images)
        assert not torch.equal(first, other), "another seed should draw otherwise"


@pytest.mark.parametrize("policy", [name for name, steps in AUGMENTATIONS.items() if steps])
def test_every_policy_draws_anew_for_every_image(policy):
    image, _ = images_and_generator(1, 2)
    copies = image.expand(64, 3, 32, 32).contiguous()
    changed = augment(copies, policy, generator=torch.Generator().manual_seed(0))
    assert len(changed.flatten(1).unique(dim=0)) > 1


def test_without_a_generator_the_global_one_is_drawn_from():
    images, _ = images_and_generator(16, 2)
    torch.manual_seed(3)
    first = augment(images, "crop-flip")
    torch.manual_seed(3)
    assert torch.equal(augment(images, "crop-flip"), first)
    assert not torch.equal(augment(images, "crop-flip"), first)


def torchvisions(name):
    """The pipelines of conv5 and compact as their authors wrote them: PIL images to floats."""
    return {
        "conv5-published": [
            v1.ToTensor(),
            v1.RandomHorizontalFlip(),
            v1.RandomRotation(degrees=10),
            v1.ColorJitter(brightness=0.5),
        ],
        "compact-published": [
            v1.RandomCrop(32, padding=4),
            v1.RandomHorizontalFlip(),
            v1.RandomRotation(5),
            v1.RandomAffine(0, shear=10, scale=(0.8, 1.2)),
            v1.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v1.ToTensor(),
        ],
    }[name]


@pytest.mark.parametrize(("name", "levels"), [("compact-published", 0), ("conv5-published", 1)])
def test_torchvision_pipelines_equal_their_authors(name, levels):
    """To the bit, if theirs ends in bytes; conv5's ends in floats, which we round to bytes."""
    images, _ = images_and_generator(100, 4)
    theirs, ours = v1.Compose(torchvisions(name)), A.torchvision_pipeline(name)
    for seed, image in enumerate(images):
        torch.manual_seed(seed)
        wanted = 255 * theirs(to_pil_image(image))
        torch.manual_seed(seed)
        assert (ours(image) - wanted).abs().max() <= max(levels, 1e-4)


def draws_of(image, policy, count):
    """Many draws of one image, int (count, 3, 32, 32), and where they show the mean colour."""
    many = image.expand(count, 3, 32, 32).contiguous()
    drawn = augment(many, policy, generator=torch.Generator().manual_seed(0)).numpy().astype(int)
    mean = 255 * np.array(MEAN)[:, None, None]
    return drawn, (abs(drawn - mean) < 1).all(1)


def holes(marked, side):
    """(row, column) of each picture's hole, a square of that side; (-1, -1) if it has none."""
    corners = []
    for picture in marked:
        rows, columns = picture.nonzero()
        assert len(rows) in (0, side**2)
        if not len(rows):
            corners.append((-1, -1))
            continue
        assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1
        corners.append((rows.min(), columns.min()))
    return np.array(corners)


def share_is(happened, wanted):
    """Within five standard errors."""
    error = (wanted * (1 - wanted) / len(happened)) ** 0.5
    return abs(np.mean(happened) - wanted) < 5 * error


def test_resnet18s_pipeline_is_grey_pad_crop_flip_and_a_hole_that_is_always_there():
    """Each picture is one of the 9 × 9 × 2 windows of the image with mirrored borders."""
    image = images_and_generator(1, 5)[0] // 4  # dark, so that only holes have the mean colour
    drawn, marked = draws_of(image, "resnet18-published", 600)
    corners = holes(marked, 8)
    assert corners.min() == 0 and corners.max() == 24  # always there, always whole
    padded = np.pad(image[0].numpy().astype(int), ((0, 0), (4, 4), (4, 4)), mode="reflect")
    windows = np.stack([padded[:, top : top + 32, left : left + 32]
                        for top in range(9) for left in range(9)])  # fmt: skip
    windows = np.concatenate([windows, windows[..., ::-1]])
    grey = np.einsum("c,nchw->nhw", (0.299, 0.587, 0.114), windows)[:, None]
    candidates = np.concatenate([windows, np.broadcast_to(grey, windows.shape)])
    kinds = []
    for picture, hole in zip(drawn, marked, strict=True):
        few = slice(3, None, 8)  # enough to tell which one it is
        away = abs(candidates[:, :, few, few] - picture[:, few, few])[:, :, ~hole[few, few]]
        found = int(away.max((1, 2)).argmin())
        kind, window = divmod(found, len(windows))
        assert abs(candidates[found] - picture)[:, ~hole].max() <= kind  # grey is rounded
        kinds.append((kind == 1, window >= 81, window % 81))
    are_grey, are_flipped, places = map(np.array, zip(*kinds, strict=True))
    assert share_is(are_grey, 0.2) and share_is(are_flipped, 0.5)
    assert len(set(places.tolist())) == 81


def test_separables_pipeline_is_a_rare_flip_a_rare_move_and_a_hole_of_16_pixels():
    image = images_and_generator(1, 6)[0] // 4
    drawn, marked = draws_of(image, "separable-published", 1500)
    corners = holes(marked, 16)
    assert share_is(corners[:, 0] >= 0, 0.3) and corners.max() == 16
    images = image[0].numpy(), image[0].numpy()[..., ::-1]
    same, mirrored = (
        np.array([(one == picture)[:, ~hole].all() for picture, hole in
                  zip(drawn, marked, strict=True)]) for one in images
    )  # fmt: skip
    assert share_is(same, 0.9 * 0.9) and share_is(mirrored, 0.1 * 0.9)


def test_separables_moves_are_those_of_the_class_that_its_authors_used():
    """Except that the release of theirs scaled width and height alike, as we do."""
    import albumentations
    import cv2

    with pytest.warns(UserWarning, match="special case of Affine"):
        theirs = albumentations.ShiftScaleRotate(
            shift_limit=0.1, scale_limit=0.2, rotate_limit=15, p=0.1,
            border_mode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
    ours = A.albumentations_pipeline("separable-published")[1]
    for option in ("translate_percent", "scale", "rotate", "shear", "interpolation", "p",
                   "border_mode", "balanced_scale", "fit_output"):  # fmt: skip
        assert getattr(ours, option) == getattr(theirs, option)
    assert ours.keep_ratio


def test_images_that_are_not_bytes_are_refused():
    with pytest.raises(ValueError, match=r"torch.float32; augment takes uint8"):
        augment(torch.rand(2, 3, 32, 32), "crop-flip-color")


def test_the_steps_of_a_pipeline_draw_independently():
    """As dice do: how many grey images are flipped says nothing about those that are not grey."""
    images = torch.zeros(800, 3, 32, 32, dtype=torch.uint8)
    images[:, 0, :, :16] = 200  # red on the left
    draws = torch.Generator().manual_seed(0)
    changed = augment(images, "resnet18-published", generator=draws).float()
    grey = (changed.amax(1) - changed.amin(1)).amax((1, 2)) < 20  # the cutout's fill is greyish
    flipped = changed[..., 20:].mean((1, 2, 3)) > changed[..., :12].mean((1, 2, 3))
    assert 100 < grey.sum() < 220  # a fifth
    for among in (grey, ~grey):
        assert 0.35 < flipped[among].float().mean() < 0.65


def test_unknown_pipelines_name_the_valid_ones():
    with pytest.raises(ValueError, match="'crop'; choose one of separable-published, resnet18-"):
        A.albumentations_pipeline("crop")
    with pytest.raises(ValueError, match="choose one of conv5-published, compact-published"):
        A.torchvision_pipeline("resnet18-published")


def test_unknown_policy_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown augmentation 'flap'.*crop-flip"):
        augment(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "flap")
