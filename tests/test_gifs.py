"""Overlays and GIFs: their size, their frames and what is written on them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from cifar_utils import gifs


def test_overlay_is_eight_times_as_large_and_shows_the_heat(random_split):
    images = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    heatmaps = torch.zeros(2, 32, 32)
    heatmaps[1, :, 16:] = 1
    pictures = gifs.overlay(images, heatmaps)
    assert pictures.shape == (2, 3, 256, 256) and pictures.dtype == torch.uint8
    assert torch.equal(pictures[0, :, :, :100], pictures[0, :, :, 100:200])
    left, right = pictures[1, :, :, 10].float().mean(1), pictures[1, :, :, 250].float().mean(1)
    assert right[1] > left[1] + 50, "yellow has more green than dark violet"


def frames(path):
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        for number in range(gif.n_frames):
            gif.seek(number)
            yield np.asarray(gif.convert("RGB")).astype(int)


def test_cam_gif_loops_over_the_image_and_a_frame_an_epoch(tmp_path, random_split):
    heatmaps = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0))
    image = random_split(1).images[0]
    gifs.save_cam_gif(tmp_path / "cam.gif", image, heatmaps, name="ship")
    drawn = list(frames(tmp_path / "cam.gif"))
    assert len(drawn) == 5 and {frame.shape for frame in drawn} == {(300, 256, 3)}
    assert all((one[:256] != other[:256]).any() for one, other in pairwise(drawn))
    original = image.permute(1, 2, 0).numpy().repeat(8, 0).repeat(8, 1)
    assert np.abs(drawn[0][:256] - original).mean() < 20  # GIF has 256 colours
    key = drawn[1][268, 54:202]  # the middle of the bar, between "little" and "much"
    viridis = np.array(colormaps["viridis"](np.linspace(0, 1, 148)))[:, :3] * 255
    assert np.abs(key - viridis).mean() < 20


def test_the_texts_of_a_cam_gif_name_the_class_and_the_epoch(tmp_path, random_split, monkeypatch):
    told = []
    monkeypatch.setattr(gifs, "save_gif", lambda *arguments, **_: told.extend(arguments[2]))
    heatmaps = torch.rand(3, 32, 32)
    image = random_split(1).images[0]
    gifs.save_cam_gif("x.gif", image, heatmaps, name="ship", epochs=[0, 1, 12])
    assert told == ["ship: the image", "ship: untrained", "ship: epoch 1", "ship: epoch 12"]


def test_an_empty_map_says_so_and_others_do_not(tmp_path, random_split, monkeypatch):
    heatmaps, said = torch.zeros(3, 32, 32), []
    heatmaps[1, 3, 3] = 0.1
    write = gifs._written
    monkeypatch.setattr(gifs, "_written", lambda *given: said.append(given[1]) or write(*given))
    black = torch.zeros(3, 32, 32, dtype=torch.uint8)
    gifs.save_cam_gif(tmp_path / "cam.gif", black, heatmaps, name="frog")
    assert said == ["nothing speaks\nfor frog"] * 2
    whitest = [frame[:256].min(2).max() for frame in frames(tmp_path / "cam.gif")]
    assert [value > 200 for value in whitest] == [False, True, False, True]


def test_a_gif_has_a_frame_and_a_text_for_every_picture(tmp_path, random_split):
    pictures = random_split(3).images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    gifs.save_gif(tmp_path / "a.gif", pictures, ["one", "two", "three"], milliseconds=100)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (128, 152) and gif.info["duration"] == 300
    with pytest.raises(ValueError, match="longer"):
        gifs.save_gif(tmp_path / "b.gif", pictures, ["one", "two"])


@pytest.mark.parametrize("name", ["\udce9", "a\nb\x1b[2J", "猫", "schräg", "a" * 300])
def test_a_name_may_be_any_text(name, tmp_path):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    gifs.save_cam_gif(tmp_path / "cam.gif", image, torch.zeros(2, 32, 32), name=name)
    first, *_, last = frames(tmp_path / "cam.gif")
    assert len(list(frames(tmp_path / "cam.gif"))) == 3  # the epochs can still be read
    assert (last[260:] < 128).any() and (first[260:] != last[260:]).any()
