"""One of several processes killed, or torchrun stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_runs import save_painted

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not Path("/proc").is_dir(),
    reason="several processes take a torch with distributed, and finding them takes Linux",
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    save_painted(folder, train=400, test=20)
    return folder


def start(arrays, out, restarts=0):
    """A training by two processes, in the background."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               f"--max-restarts={restarts}", "-m", "cifar_utils", "train", "--recipe", "compact",
               "--epochs", "3", "--batch-size", "30", "--device", "cpu", "--precision", "fp32",
               "--data", arrays, "--source", "npy", "--out", out, "--resume", "-q",
               "--no-test"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        list(map(str, command)), env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def in_its_second_epoch(running, out):
    """The processes that torchrun started, by their rank, once the first epoch is saved."""
    while not (out / "checkpoint.pt").exists() or len(epochs(out)) < 2:
        assert running.poll() is None, running.stdout.read()
        time.sleep(0.05)
    time.sleep(0.2)
    workers = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            surroundings = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        for rank in range(2):
            if parent == str(running.pid) and b"RANK=%d" % rank in surroundings:
                workers[rank] = int(folder.name)
    assert len(workers) == 2
    return workers


def epochs(out):
    rows = json.loads((out / "history.json").read_text(encoding="utf-8"))["epochs"]
    return [(row["train_loss"], row["val_loss"]) for row in rows]


def ended(running):
    """(exit status, what all printed) within a minute."""
    printed, _ = running.communicate(timeout=60)
    return running.returncode, printed


@pytest.fixture(scope="module")
def whole(arrays, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    running = start(arrays, out)
    assert running.wait() == 0
    return out


def same(out, whole):
    assert epochs(out) == epochs(whole)
    weights = [folder / "weights.safetensors" for folder in (out, whole)]
    return weights[0].read_bytes() == weights[1].read_bytes()


def test_a_killed_process_ends_the_run_with_one_line_and_the_next_goes_on(arrays, tmp_path, whole):
    out = tmp_path / "run"
    running = start(arrays, out)
    os.kill(in_its_second_epoch(running, out)[1], signal.SIGKILL)
    status, printed = ended(running)
    assert status != 0 and "This is a bug" not in printed
    assert "--resume goes on from" in printed
    running = start(arrays, out)
    assert ended(running)[0] == 0
    assert same(out, whole)


def test_torchrun_starts_all_again_and_they_go_on(arrays, tmp_path, whole):
    out = tmp_path / "run"
    running = start(arrays, out, restarts=1)
    os.kill(in_its_second_epoch(running, out)[0], signal.SIGKILL)
    status, printed = ended(running)
    assert status == 0, printed
    assert same(out, whole)


def test_a_signal_to_torchrun_is_as_good_as_ctrl_c(arrays, tmp_path):
    out = tmp_path / "run"
    running = start(arrays, out)
    in_its_second_epoch(running, out)
    running.send_signal(signal.SIGTERM)
    status, printed = ended(running)
    assert status != 0 and "stopped; the same command with --resume goes on from" in printed
