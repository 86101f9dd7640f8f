"""The stand-in: right shapes, the same pictures for a seed, learnable but not trivial."""

import pytest
import torch

from cifar_utils import data
from cifar_utils.errors import CifarError
from cifar_utils.sources import synthetic


def test_pictures_have_the_shape_of_cifar_10_and_balanced_shuffled_classes():
    images, labels = synthetic.draw(205, seed=1)
    assert images.shape == (205, 3, 32, 32) and images.dtype == torch.uint8
    assert images.is_contiguous() and labels.dtype == torch.int64
    assert sorted(labels.bincount().tolist()) == [20] * 5 + [21] * 5
    assert labels.tolist() != sorted(labels.tolist())
    assert tuple(synthetic.DRAWINGS) == data.CLASSES


def test_a_seed_gives_the_same_pictures_and_spares_the_global_generator():
    state = torch.get_rng_state()
    one, again, other = (synthetic.draw(40, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_two_pictures_are_alike():
    images, _ = synthetic.draw(300)
    assert len(images.flatten(1).unique(dim=0)) == 300


def test_counts_that_cannot_be_are_refused():
    assert synthetic.draw(0)[0].shape == (0, 3, 32, 32)
    with pytest.raises(CifarError, match="0 or more"):
        synthetic.draw(-1)


def test_polygons_cover_the_same_pixels_whichever_way_round_their_corners_stand():
    axis = torch.arange(32.0) - 15.5
    down, across = axis[None, :, None], axis[None, None, :]
    corners = [torch.tensor(n).view(1, 1, 1) for n in (4.0, 1.0, -4.0, 14.0, -8.0, 14.0, -4.0, 1.0)]
    reverse = [n for i in (6, 4, 2, 0) for n in corners[i : i + 2]]
    one = synthetic.polygon(across, down, *corners) < 0
    assert 50 < one.sum() < 110  # the area is 78 pixels
    assert torch.equal(one, synthetic.polygon(across, down, *reverse) < 0)


@pytest.mark.slow
def test_a_linear_model_stays_below_60_percent():
    """Ridge regression onto one-hot labels, in closed form."""
    images, labels = synthetic.draw(10_000)
    pixels = (images.flatten(1).float() - 128) / 64
    wanted = torch.nn.functional.one_hot(labels[:8000], 10).float() - 0.1
    gram = pixels[:8000].T @ pixels[:8000] + 3000 * torch.eye(3072)
    weights = torch.linalg.solve(gram, pixels[:8000].T @ wanted)
    right = (pixels[8000:] @ weights).argmax(1) == labels[8000:]
    assert 0.15 < right.float().mean() < 0.6


# --- the reader


@pytest.fixture
def drawn(monkeypatch):
    """Drawings that cost nothing, 1 of 500, and a list of the counts and seeds."""
    drawn, draw = [], synthetic.draw

    def few(count, *, seed=0):
        drawn.append((count, seed))
        return draw(count // 500, seed=seed)

    monkeypatch.setattr(synthetic, "draw", few)
    return drawn


def test_reader_draws_test_images_from_another_seed(drawn, tmp_path):
    found = synthetic.read(tmp_path)
    assert found.source == "synthetic" and found.classes == data.CLASSES
    assert drawn == [(50_000, 0), (10_000, 1)]
    for got, wanted in ((found.train, (50_000, 0)), (found.test, (10_000, 1))):
        images, labels = synthetic.draw(wanted[0], seed=wanted[1])
        assert torch.equal(got[0], images) and torch.equal(got[1], labels)


def test_reader_draws_once_for_each_version_and_gives_notice_every_time(
    drawn, tmp_path, monkeypatch, capsys
):
    for version, counts in (("a", 2), ("a", 2), ("b", 4)):
        monkeypatch.setattr(synthetic, "VERSION", version)
        synthetic.read(tmp_path, reason="of a test")
        assert len(drawn) == counts
        notice = capsys.readouterr().err
        assert "THIS IS NOT CIFAR-10" in notice and "Why: of a test." in notice
