"""Transfer learning: some classes of a split, the backbones, and notebook 09's cells on them."""

import ast
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from cifar_utils import checkpoints, data
from cifar_utils.course import transfer
from cifar_utils.data import CLASSES, Split
from cifar_utils.errors import CifarError
from cifar_utils.evaluate import predict
from cifar_utils.recipes import get_recipe
from cifar_utils.sources.download import download

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "09_transfer_learning.ipynb"


def a_split(count=200, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 10, CLASSES, torch.arange(count))


# --- Split.of_classes -----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("dog", "frog"), ("truck", "cat", "airplane"), CLASSES])
def test_some_classes_keep_their_images_and_count_from_zero(names):
    split = a_split()
    few = split.of_classes(names)
    assert few.classes == tuple(names)
    assert few.names == [name for name in split.names if name in names]
    assert torch.equal(few.images, split.images[few.indices])
    assert few.labels.dtype == torch.int64 and set(few.labels.tolist()) == set(range(len(names)))


def test_classes_may_be_a_list_and_a_class_may_have_no_image():
    few = a_split()[:3].of_classes(["ship", "bird"])  # airplane, automobile, bird
    assert few.classes == ("ship", "bird") and few.labels.tolist() == [1]


@pytest.mark.parametrize("names", [("dog", "wolf"), ("dog", "dog"), ()])
def test_unknown_repeated_and_no_classes_are_refused(names):
    with pytest.raises(CifarError):
        a_split().of_classes(names)


# --- the shipped backbone -------------------------------------------------------------------------


def test_old_and_new_classes_are_all_ten():
    assert transfer.OLD + transfer.NEW == CLASSES
    vehicles = {"airplane", "automobile", "ship", "truck"}
    assert all(0 < len(vehicles & set(side)) < 5 for side in (transfer.OLD, transfer.NEW))


def test_the_shipped_backbone_is_small_and_tells_how_it_was_made():
    network, history = transfer.load_backbone()
    assert transfer.BACKBONE.stat().st_size < 1_000_000
    assert history.recipe == transfer.RECIPE and history.is_finished
    assert history.source == "cifar10" and history.test is None
    assert (history.train_images, history.val_images) == (22_500, 2_500)
    assert history.best.val_accuracy > 0.88
    assert not network.training and network.classifier[-1].out_features == 5
    _, info = checkpoints.load_weights(transfer.BACKBONE)
    assert info.classes == transfer.OLD


def test_it_does_not_count_among_the_networks_for_ten_classes():
    assert transfer.BACKBONE.stem not in checkpoints.pretrained_names()


def test_a_damaged_backbone_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    network, history = transfer.load_backbone()
    transfer.save_backbone(network, history, path)
    # Other bytes than those that ship, because recipes have more fields now, but the same network.
    again, told = transfer.load_backbone(path)
    assert replace(told, sha256=history.sha256) == history
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(CifarError, match="SHA-256"):
        transfer.load_backbone(path)


def test_a_backbone_is_trained_on_the_old_classes_alone(tmp_path, capsys):
    split = a_split(300)
    cifar = data.Cifar(split[:200], split[200:250], split[250:])
    recipe = get_recipe("compact").changed(epochs=1, batch_size=50)
    network, history = transfer.train_backbone(cifar, recipe)
    assert (history.train_images, history.val_images) == (100, 25)
    transfer.save_backbone(network, history, tmp_path / "b.safetensors")
    again, same = transfer.load_backbone(tmp_path / "b.safetensors")
    assert same.epochs == history.epochs
    logits = predict(network, split.images[:20])
    assert logits.shape == (20, 5)
    assert torch.allclose(logits, predict(again, split.images[:20]), atol=0.05)  # half precision


def test_train_can_start_from_it_with_a_new_head(capsys):
    recipe = get_recipe("compact").changed(start_from=str(transfer.BACKBONE))
    from cifar_utils.models import build

    model = build(recipe, transfer.NEW)
    head = model.classifier[-1].weight.detach().clone()
    checkpoints.start_from(model, recipe, transfer.NEW)
    assert "the last layer starts anew" in capsys.readouterr().err
    assert torch.equal(model.classifier[-1].weight, head)
    shipped = transfer.load_backbone()[0]
    assert torch.equal(model.features[0][0][0].weight, shipped.features[0][0][0].weight)
    assert torch.equal(model.classifier[1].weight, shipped.classifier[1].weight)


# --- ImageNet's weights ---------------------------------------------------------------------------


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def stand_in(torch_home):
    """A file of random weights with the name that torchvision gives to the true ones."""
    torch_home.mkdir(parents=True)
    torch.manual_seed(0)
    network = resnet18()
    torch.save(network.state_dict(), torch_home / "resnet18-f37072fd.pth")
    return network


def test_weights_in_torchs_cache_are_used_without_a_network(stand_in, monkeypatch):
    monkeypatch.setattr(transfer, "download", lambda *_, **__: pytest.fail("no download"))
    network = transfer.imagenet_backbone(fetch=False)
    images = torch.rand(2, 3, 40, 40)
    stand_in.fc = torch.nn.Identity()
    assert torch.equal(network(images), stand_in.eval()(images))
    assert network(images).shape == (2, 512)
    assert not any(weight.requires_grad for weight in network.parameters())


def test_without_weights_a_sentence_says_so(torch_home, monkeypatch, capsys):
    def download(*_, **__):
        raise ConnectionError("no mirror delivered it")

    monkeypatch.setattr(transfer, "download", download)
    assert transfer.imagenet_backbone(fetch=True) is None
    assert capsys.readouterr().out == "No ImageNet weights here: no mirror delivered it\n"
    monkeypatch.setattr(transfer, "download", lambda *_, **__: pytest.fail("no download"))
    assert transfer.imagenet_backbone(fetch=False) is None
    assert "not in torch's cache" in capsys.readouterr().out


def test_a_damaged_file_in_the_cache_is_a_sentence_too(torch_home, capsys):
    torch_home.mkdir(parents=True)
    (torch_home / "resnet18-f37072fd.pth").write_bytes(b"not weights")
    assert transfer.imagenet_backbone(fetch=False) is None
    out = capsys.readouterr().out
    assert out.startswith("No ImageNet weights here: ") and out.count("\n") == 1


def test_the_download_is_checked_by_the_digest_in_its_name(torch_home, monkeypatch, tmp_path):
    asked = []

    def fetch(target, urls, digest, *, size, algorithm):
        asked.append((target.name, *urls, digest))
        target.parent.mkdir(parents=True)
        torch.save(resnet18().state_dict(), target)
        assert algorithm == "sha256" and target.stat().st_size < size

    monkeypatch.setattr(transfer, "download", fetch)
    assert transfer.imagenet_backbone(fetch=True) is not None
    name = "resnet18-f37072fd.pth"
    assert asked == [(name, f"https://download.pytorch.org/models/{name}", "f37072fd")]


def test_a_wrong_digest_is_called_by_its_name(tmp_path, monkeypatch):
    from cifar_utils.sources import download as module

    def transfer_bytes(url, part, size):
        part.write_bytes(b"other bytes")

    monkeypatch.setattr(module, "_transfer", transfer_bytes)
    with pytest.raises(ConnectionError, match="wrong SHA256"):
        download(tmp_path / "f", ["https://a.b/f"], "0" * 8, size=99, algorithm="sha256")
    digest = hashlib.sha256(b"other bytes").hexdigest()[:8]
    download(tmp_path / "f", ["https://a.b/f"], digest, size=99, algorithm="sha256")
    assert (tmp_path / "f").read_bytes() == b"other bytes"


def cells_of(notebook, *beginnings):
    """The sources of the code cells that begin so, and the notebook's imports before them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    imports = [
        ast.unparse(node)
        for node in ast.parse(sources[1]).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    for beginning in beginnings:
        (found,) = [source for source in sources if source.startswith(beginning)]
        imports.append(found)
    return imports


@pytest.mark.slow
def test_the_notebooks_section_runs_on_stand_in_weights(stand_in, monkeypatch, capsys):
    """What runs on a machine that has the weights, on few images and with a stub of `run`."""
    from cifar_utils import course
    from cifar_utils.machine import Machine

    monkeypatch.setenv("CIFAR_UTILS_QUICK", "1")
    split = a_split().of_classes(transfer.NEW)
    names = {
        "course": course, "machine": Machine.pick("cpu"), "val": split[:60], "pool": split[60:],
        "NEW": transfer.NEW, "SIZES": (2, 4, 8), "FROZEN": "frozen", "rates": {("frozen", 4): 0.01},
        "run": lambda *_: 0.5, "draw": lambda split, count, seed: split[: 5 * count],
    }  # fmt: skip
    beginnings = (
        "def train_head(", "imagenet = ", "@torch.no_grad()", "def linear_on_imagenet(",
        "fast = ", "if imagenet is not None:",
    )  # fmt: skip
    for source in cells_of(NOTEBOOK, *beginnings):
        exec(source, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [" 32 pixels", "224 pixels", "our backbo"]
