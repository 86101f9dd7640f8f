"""Two processes that torchrun starts come to what one process comes to.

This file is also the program that they run: see `train` and the last lines.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cifar_utils import data, optim
from cifar_utils import train as train_module
from cifar_utils.cli import train as command_line
from cifar_utils.cli.main import make_parser
from cifar_utils.data import CLASSES, Split
from cifar_utils.errors import CifarError
from cifar_utils.machine import Machine
from cifar_utils.models import ConvNet, average_head, conv_bn_relu, create_model, pool, stage
from cifar_utils.recipes import Recipe
from cifar_utils.runs import RunFolder
from cifar_utils.speed import distributed
from cifar_utils.train import fit, start

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
needs_torchrun = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32",
    reason="several processes take a torch with distributed, and not Windows",
)


class Double(nn.Module):
    """In float64, rounding stays far below what a wrong gradient would change."""

    def forward(self, images):
        return images.double()


def small_network():
    features = nn.Sequential(
        stage(Double(), conv_bn_relu(3, 8), pool()),
        stage(conv_bn_relu(8, 12), conv_bn_relu(12, 16), pool()),
    )
    return ConvNet(features, average_head(16, 10))


def fast_network():
    model = create_model("fastnet-half")
    model.features.insert(0, Double())
    return model


NETWORKS = {
    "small": (small_network, {"teacher": "compact"}),
    "fast": (fast_network, {"whitening": 0.5}),
}


def train(folder):
    """Two epochs of each network; what came of it is left in `folder`, by process."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (52, 3, 32, 32), dtype=torch.uint8, generator=draws)
    split = Split(images, torch.arange(52) % 10, CLASSES, torch.arange(52))
    recipe = Recipe(epochs=2, batch_size=17, optimizer="muon", lr=0.05, muon_lr=0.05, clip_norm=1.0,
                    label_smoothing=0.1, augmentation="crop-alternating-cutout")  # fmt: skip
    # Parts of 9 and 8 images; of the last batch, a single image, the second process gets none.
    orthogonalize = optim.orthogonalize
    with distributed.together():
        for name, (make, changes) in NETWORKS.items():
            calls, logged = [], []
            optim.orthogonalize = lambda matrix, calls=calls, **options: (
                calls.append(len(matrix)) or orthogonalize(matrix, **options)
            )
            torch.manual_seed(distributed.rank())  # all are to start as the first does
            model = make().double()
            history = fit(model, split, split[:20], recipe.changed(**changes), device="cpu",
                          precision="fp32", log=lambda run, to=logged: to.append(run))  # fmt: skip
            torch.save(model.state_dict(), folder / f"{name}-{distributed.rank()}.pt")
            report = {"calls": calls, "logged": len(logged), "device": history.device}
            report["epochs"] = [
                (row.train_loss, row.train_accuracy, row.val_loss) for row in history.epochs
            ]
            (folder / f"{name}-{distributed.rank()}.json").write_text(json.dumps(report))
    optim.orthogonalize = orthogonalize


def command(folder, out, *more):
    """A short training by `cifar train` on the arrays in `folder`."""
    return ["train", "--recipe", "compact", "--epochs", "2", "--device", "cpu", "--precision",
            "fp32", "--data", str(folder), "--source", "npy", "--out", str(out), *more]  # fmt: skip


def resume(folder):
    """A run, and one that goes on from its first epoch, whose files the first process alone has."""
    save = RunFolder.save

    def save_and_keep(self, run, **options):
        save(self, run, **options)
        if len(run.history.epochs) == 2 and self.path.name == "whole":
            shutil.copytree(self.path, folder / "resumed-0")

    RunFolder.save = save_and_keep
    with distributed.together():
        for arguments in (
            command(folder, folder / "whole"),
            command(folder, folder / f"resumed-{distributed.rank()}", "--resume"),
        ):
            command_line.train(make_parser().parse_args(arguments))


def torchrun(*arguments):
    """What two processes print to stdout; torchrun picks a free port itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # also where there is a single GPU
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-8000:]}"
    return done.stdout


@pytest.mark.slow
@needs_torchrun
def test_two_processes_come_to_the_result_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    train(one)
    torchrun(__file__, "train", two)
    # Eight steps of three or six kernels: one process does all, each of two does its own.
    for network, alls, firsts, seconds in (
        ("small", [8, 12, 16], [8, 16], [12]),
        ("fast", [32, 32, *[128] * 4], [32, 128, 128], [32, 128, 128]),
    ):
        places = (one / f"{network}-0", two / f"{network}-0", two / f"{network}-1")
        alone, first, second = (torch.load(place.with_suffix(".pt")) for place in places)
        for name, wanted in alone.items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], wanted, rtol=1e-6, atol=1e-6)
        reports = [json.loads(place.with_suffix(".json").read_text()) for place in places]
        for report in reports[1:]:
            np.testing.assert_allclose(report["epochs"], reports[0]["epochs"], rtol=1e-6)
            assert report["device"] == f"2 × {reports[0]['device'].split(',')[0]}, 1 thread"
        assert [report["logged"] for report in reports] == [3, 3, 0]
        assert [report["calls"] for report in reports] == [alls * 8, firsts * 8, seconds * 8]


@pytest.mark.slow
@needs_torchrun
def test_the_first_process_alone_prints_and_writes(arrays):
    printed = torchrun("-m", "cifar_utils", *command(arrays, arrays / "run", "--verbose"))
    lines = [line.split()[0] for line in printed.splitlines() if " = " not in line]
    assert lines[:6] == ["compact,", "epoch", "epoch", "epoch", "test:", "airplane"]
    assert lines.count("airplane") == 1 and printed.count("batch_size = ") == 1
    assert (arrays / "run" / "weights.safetensors").exists()


@pytest.mark.slow
@needs_torchrun
def test_two_processes_resume_to_the_same_bytes_from_what_the_first_alone_has(arrays):
    torchrun(__file__, "resume", arrays)
    whole, resumed = (arrays / name / "weights.safetensors" for name in ("whole", "resumed-0"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert not (arrays / "resumed-1").exists()


@pytest.fixture
def arrays(tmp_path, painted_split):
    for part, count in (("train", 120), ("test", 20)):
        split = painted_split(count)
        np.save(tmp_path / f"{part}_data.npy", split.images.permute(0, 2, 3, 1).numpy())
        np.save(tmp_path / f"{part}_labels.npy", split.labels.numpy())
    return tmp_path


def test_alone_nothing_changes():
    with distributed.together():
        batch = torch.arange(5)
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.share_of(batch) is batch and distributed.broadcast("bf16") == "bf16"
        layer = nn.BatchNorm2d(2)
        assert distributed.share(layer) is layer and type(layer) is nn.BatchNorm2d
        distributed.all_reduce(batch)
        assert batch.tolist() == [0, 1, 2, 3, 4]


def test_shares_make_up_the_batch_and_differ_by_one_row_at_most(monkeypatch):
    for world_size, sizes in ((2, [4, 3]), (3, [3, 2, 2]), (8, [1] * 7 + [0])):
        monkeypatch.setattr(distributed, "world_size", lambda world_size=world_size: world_size)
        parts = []
        for rank in range(world_size):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(distributed.share_of(torch.arange(7)))
        assert [len(part) for part in parts] == sizes
        assert torch.cat(parts).tolist() == list(range(7))


def test_shared_batch_norm_equals_torchs_where_the_sums_are_complete(monkeypatch):
    """One process that is told of two, whose sums over all are those of its whole batch."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda *tensors: None)
    maps = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) + 3
    weights = torch.linspace(-1, 1, maps.numel()).view(maps.shape)
    outcomes = []
    for shared in (False, True):
        layer, inputs = nn.BatchNorm2d(4), maps.clone().requires_grad_()
        nn.init.constant_(layer.weight, 0.7), nn.init.constant_(layer.bias, 0.2)
        if shared:
            layer.__class__ = distributed.SharedBatchNorm2d
        outputs = layer(inputs)
        (outputs * weights).sum().backward()
        outcomes.append([outputs, inputs.grad, layer.weight.grad, layer.bias.grad,
                         layer.running_mean, layer.running_var, layer.eval()(maps)])  # fmt: skip
        assert layer.num_batches_tracked == 1
    assert type(layer) is distributed.SharedBatchNorm2d
    for ours, torchs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    single = layer.train()(maps[:1, :, :1, :1])
    assert single.isfinite().all() and layer.running_var.isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False),
     nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, momentum=None)],
    ids=str,
)  # fmt: skip
def test_batch_norm_that_processes_cannot_share_is_refused(layer, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4), layer)
    with pytest.raises(CifarError, match=r"processes share only .* this network has BatchNorm"):
        distributed.share(network)
    assert type(network[1]) is nn.BatchNorm2d  # a refused network is left as it was


def test_processes_that_hold_other_images_do_not_train_together(painted_split, monkeypatch):
    """One that found no data may have drawn the stand-in, in as many images of as many classes."""
    of_the_first = data.fingerprint(painted_split(32)), Recipe()
    monkeypatch.setattr(train_module, "broadcast", lambda own: of_the_first)
    start(create_model("compact"), painted_split(32), None, Recipe(), Machine(CPU))
    for seed, recipe in ((1, Recipe()), (0, Recipe(batch_size=64))):
        other = painted_split(32, seed=seed)
        with pytest.raises(CifarError, match="different images or recipes; give all of them"):
            start(create_model("compact"), other, None, recipe, Machine(CPU))


def test_a_batch_too_small_for_all_gpus_is_refused_before_the_first_step(
    painted_split, monkeypatch
):
    """SyncBatchNorm in 16 bits has no use for a process without an image."""
    monkeypatch.setattr(train_module, "world_size", lambda: 2)
    gpu = Machine(torch.device("cuda"))
    with pytest.raises(CifarError, match="last batch has 1 image"):
        start(create_model("compact"), painted_split(33), None, Recipe(batch_size=16), gpu)


def test_several_processes_take_no_network_that_is_wrapped_already(painted_split, monkeypatch):
    monkeypatch.setattr(train_module, "world_size", lambda: 2)
    wrapped = nn.DataParallel(create_model("compact"))
    with pytest.raises(CifarError, match="give fit the plain network, which it wraps itself"):
        fit(wrapped, painted_split(16), None, Recipe(), device="cpu", precision="fp32")


@pytest.fixture
def connected(monkeypatch):
    """What is done to the other processes, of which there are none."""
    done = []
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "_connect", lambda _: done.append("connect"))
    monkeypatch.setattr(torch.distributed, "new_group", lambda **_: "a group")
    monkeypatch.setattr(torch.distributed, "barrier", lambda group: done.append("wait"))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("part"))
    return done


def test_a_process_that_fails_does_not_wait_for_the_others(connected):
    with pytest.raises(KeyError), distributed.together():
        raise KeyError
    assert connected == ["connect"]
    with distributed.together():
        assert connected == ["connect"] * 2
    assert connected == ["connect", "connect", "wait", "part"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: Connection "
                     "reset by peer. This is typically caused by a remote worker hanging"),
        RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"),
        RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms"),
        getattr(torch.distributed, "DistBackendError", RuntimeError)("NCCL error in gloo timeout"),
    ],
    ids=["reset", "closed", "timeout", "nccl"],
)  # fmt: skip
def test_another_process_that_has_ended_is_one_line(connected, error):
    said = r"another process .* has ended.* --resume goes on"
    with pytest.raises(CifarError, match=said), distributed.together():
        raise error
    with pytest.raises(RuntimeError, match="a bug of ours"), distributed.together():
        raise RuntimeError("a bug of ours")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="1 GPUs are too few"), distributed.together():
        pass


if __name__ == "__main__":
    {"train": train, "resume": resume}[sys.argv[1]](Path(sys.argv[2]))
