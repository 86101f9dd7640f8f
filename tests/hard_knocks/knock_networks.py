"""Networks of one's own, and trainings that diverge."""

import math
from functools import partial

import pytest
import torch
from strange_networks import CANNOT_TELL, SEES_ALL, ZOO
from torch import nn

from cifar_utils import checkpoints, data, evaluate, explain, profile
from cifar_utils.errors import CifarError, DivergedError
from cifar_utils.models import build
from cifar_utils.recipes import Recipe
from cifar_utils.runs import RunFolder
from cifar_utils.train import fit

RECIPE = Recipe("tiny", model="compact", epochs=1, batch_size=10, augmentation="none", lr=0.01)
PLAIN = {"device": "cpu", "precision": "fp32"}
INFO = checkpoints.WeightsInfo(RECIPE, "memory")
NETWORKS = ZOO | SEES_ALL | CANNOT_TELL
WRAPPERS = {
    "plain": lambda network: network,
    "compiled": partial(torch.compile, backend="eager"),
    "parallel": nn.DataParallel,
    "both": lambda network: nn.DataParallel(torch.compile(network, backend="eager")),
}


def some(count=20):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return data.Split(images, torch.arange(count) % 10, data.CLASSES, torch.arange(count))


def made(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_predicts_and_trains_and_is_kept(name, wrapper, tmp_path):
    plain, network, split = made(name), WRAPPERS[wrapper](made(name)), some()
    logits = evaluate.predict(network, split.images)
    torch.testing.assert_close(logits, evaluate.predict(plain, split.images))
    profile.summary(network)
    with RunFolder(tmp_path / "run") as folder:
        fit(network, split, split, RECIPE, log=folder.save, **PLAIN)
    fit(plain, split, split, RECIPE, log=lambda run: None, **PLAIN)
    kept = checkpoints.load_checkpoint(tmp_path / "run" / "checkpoint.pt")["model"]
    assert kept.keys() == plain.state_dict().keys()
    assert all(torch.equal(kept[n], value) for n, value in plain.state_dict().items())
    checkpoints.save_weights(tmp_path / "one.safetensors", plain, INFO)
    checkpoints.save_weights(tmp_path / "two.safetensors", network, INFO)
    one, two = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("method", explain.METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_heatmaps_of_its_first_layer(name, method):
    layer = "0" if name == "alone" else "stem"
    split, network = some(2), made(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    maps = explain.grad_cam(network, split.images, split.labels, layers=[layer], method=method)
    assert maps.shape == (2, 32, 32) and maps.isfinite().all()
    assert maps.min() >= 0 and maps.max() <= 1
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_field_in_pixels_or_a_reason(name):
    if name in ZOO:
        assert profile.receptive_field(made(name)) > 1
    else:
        with pytest.raises(CifarError, match=r"whole image|cannot be followed"):
            profile.receptive_field(made(name))


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("lr", [1e-3, 1.0, 1e3, 1e6, 1e12, 1e20, 1e30, 1e38, 1e39, 1e300])
def test_any_rate_trains_or_stops_and_keeps_the_last_good_epoch(lr, optimizer, held_out, tmp_path):
    split = some()
    recipe = RECIPE.changed(optimizer=optimizer, lr=lr, epochs=2, schedule="constant")
    if optimizer == "muon":
        recipe = recipe.changed(muon_lr=lr)
    model = build(recipe, data.CLASSES)
    with RunFolder(tmp_path / "run") as folder:
        try:
            fit(model, split, split if held_out else None, recipe, log=folder.save, **PLAIN)
        except DivergedError as stopped:
            assert "diverged in epoch" in str(stopped) and "step" in str(stopped)
            assert lr > 1e-3
        except CifarError as refused:
            assert lr > 1e30 and "at most 1e30" in str(refused)
    if lr > 1e30:
        assert not (tmp_path / "run").exists()  # not even its lock
        return
    kept, _ = checkpoints.load_weights(tmp_path / "run")
    loss, _ = evaluate.evaluate(kept, split)
    assert math.isfinite(loss)
