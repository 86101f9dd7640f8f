"""Each vectorised operation against a plain loop over images that replays the same draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_utils import augment as A
from cifar_utils.augment import AUGMENTATIONS, augment


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
    library = {"published": A.albumentations_policy, "torchvision": A.torchvision_policy}
    kind = policy.split("-")[-1]
    if policy in ("none", "vgg-published"):
        assert operations == ()
    elif kind in library:
        (step,) = operations
        assert step.func is library[kind] and step.keywords == {"name": policy}
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


def test_published_pipelines_do_what_they_say():
    """Shares over many draws of one image, within five standard errors."""
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[:, 0, :, :16], image[:, 2, :, 16:] = 200, 90  # red on the left, blue on the right
    many = image.expand(1000, 3, 32, 32).contiguous()
    generator = torch.Generator().manual_seed(0)

    grey = augment(many, "resnet18-published", generator=generator)
    spread = (grey.amax(1) - grey.amin(1)).flatten(1).float().median(1).values
    assert abs((spread < 20).float().mean() - 0.2) < 5 * (0.2 * 0.8 / 1000) ** 0.5

    bright = augment(many, "conv5-published", generator=generator)[:, 0].float().amax((1, 2)) / 200
    assert 0.49 < bright.min() < 0.55 and bright.max() > 1.2  # 200 × 1.5 saturates at 255

    holes = augment(many, "separable-published", generator=generator)
    mean = torch.tensor([125, 123, 114]).view(3, 1, 1)
    cut = (holes == mean).all(1).flatten(1).sum(1)
    assert set(cut.unique().tolist()) <= {0, 256} and (cut == 256).any()
    assert abs((cut == 256).float().mean() - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5


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
    with pytest.raises(ValueError, match="'crop'; choose one of conv5-published, compact-"):
        A.albumentations_pipeline("crop")
    with pytest.raises(ValueError, match="choose one of conv5-torchvision, compact-torchvision"):
        A.torchvision_pipeline("conv5-published")


def test_unknown_policy_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown augmentation 'flap'.*crop-flip"):
        augment(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "flap")
