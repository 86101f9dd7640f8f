"""Same seed, same history, whatever else differs.

Compared is every number of the history but the times, and every weight. Where the docs promise the
same bits, the bits are compared. Several processes, and another number of threads, add in another
order: there the figures agree up to rounding.
"""

# ruff: noqa: NPY002 (NumPy's global generator is one of those that must not matter)

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from same_training import trained

from cifar_utils import augment as A
from cifar_utils.batches import AugmentedBatches
from cifar_utils.data import CLASSES, Split
from cifar_utils.recipes import Recipe

REPOSITORY = Path(__file__).parents[2]
HERE = Path(__file__).parent
PATHS = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)])}
IMAGE_BY_IMAGE = [
    name for name, steps in A.AUGMENTATIONS.items() if name.endswith("-published") and steps
]


@pytest.fixture(scope="module")
def once():
    return trained()


def elsewhere(folder, start=(sys.executable,), **environment):
    """What a process of its own comes to, in another folder."""
    done = subprocess.run(
        [*start, str(HERE / "same_training.py")], cwd=folder, capture_output=True, text=True,
        check=False, env=os.environ | PATHS | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def close(found, wanted):
    """Check that two histories agree up to the rounding of sums in another order.

    It grows at each step, so the second epoch is less alike than the first.
    """
    for row, other in zip(found["rows"], wanted["rows"], strict=True):
        epoch, lr, loss, _, val_loss, _ = row
        assert (epoch, lr) == (other[0], other[1])
        assert (loss, val_loss) == pytest.approx(
            (other[2], other[4]), rel=(1e-6, 1e-3, 2e-2)[epoch]
        )


# --- the same bits --------------------------------------------------------------------------------


def test_twice_in_one_process(once):
    assert trained() == once


DISTURB = {
    "torch seeded": lambda: torch.manual_seed(123),
    "torch used": lambda: torch.rand(1000),
    "torch by chance": torch.seed,
    "NumPy seeded": lambda: np.random.seed(5),
    "NumPy used": lambda: np.random.rand(10),
    "random seeded": lambda: random.seed(7),
}


@pytest.mark.parametrize("what", DISTURB)
def test_after_others_have_used_the_global_generators(once, what):
    DISTURB[what]()
    assert trained() == once


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("policy", ["crop-alternating-cutout", "resnet18-published"])
def test_with_workers(policy, workers):
    alone = trained(augmentation=policy)
    assert trained(augmentation=policy, workers=workers) == alone


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_in_another_process_folder_and_with_other_hashes(once, tmp_path, hash_seed):
    found = elsewhere(tmp_path, PYTHONHASHSEED=hash_seed)
    if torch.get_num_threads() == 1:
        assert found == once
    else:
        close(found, once)


def test_in_a_notebook(tmp_path, monkeypatch):
    """In a kernel of its own, in which numbers have been drawn before."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    for name, value in (PATHS | {"OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    cells = ["import torch; torch.rand(5)", "import json; from same_training import trained",
             "found = trained()", "print(json.dumps(found))"]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(notebook, kernel_name="python3", timeout=120,
                          resources={"metadata": {"path": str(tmp_path)}}).execute()  # fmt: skip
    assert json.loads(notebook.cells[-1].outputs[0].text) == elsewhere(tmp_path)


def test_another_seed_is_another_training(once):
    assert trained(seed=12)["weights"] != once["weights"]


# --- up to rounding -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", ["2", "3"])
def test_with_other_numbers_of_threads(once, tmp_path, threads):
    close(elsewhere(tmp_path, OMP_NUM_THREADS=threads), once)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without it")
def test_in_two_processes(tmp_path):
    """Without dropout, which each process draws for itself; twice they agree to the bit."""
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR", "DROPOUT": "0"}
    two = elsewhere(tmp_path, start, **quiet)
    close(two, trained(dropout_factor=0.0))
    assert elsewhere(tmp_path, start, **quiet) == two


# --- every draw another one -----------------------------------------------------------------------


def digests(images):
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def one_image(count):
    """A split of one image over and over: what differs afterwards was drawn."""
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    labels = torch.zeros(count, dtype=torch.int64)
    return Split(image.expand(count, -1, -1, -1).clone(), labels, CLASSES, torch.arange(count))


# At least so many different copies of 64. The counts come from what the policies do: separable's
# change a copy with a probability of 1 - 0.9 · 0.9 · 0.7 = 43% only; each of the others has
# hundreds of equally likely crops, or angles without number.
DIFFERENT = {
    "conv5-published": 60, "compact-published": 60, "separable-published": 15,
    "resnet18-published": 60,
}  # fmt: skip


@pytest.mark.parametrize("policy", IMAGE_BY_IMAGE)
def test_draws_differ_between_images(policy):
    copies = digests(A.augment(one_image(64).images, policy, generator=torch.Generator()))
    assert len(set(copies)) >= DIFFERENT[policy]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("policy", IMAGE_BY_IMAGE)
def test_draws_differ_between_batches_epochs_and_workers(policy, workers):
    """No two batches of two epochs draw alike, also if workers prepare every second one."""
    from torch.utils.data import DataLoader

    recipe, seen = Recipe("same", batch_size=32, augmentation=policy, seed=1), []
    for epoch in (1, 2):
        batches = AugmentedBatches(one_image(128), recipe, epoch)
        for images, _ in DataLoader(batches, None, num_workers=workers):
            seen.append(tuple(digests(images)))
    assert len(set(seen)) == len(seen) == 8
    # Draws that repeat would come again in the same places of a batch. Of two independent batches
    # only untouched copies are alike: those of separable-published, with probability 0.57².
    for first in range(8):
        for second in range(first):
            same = sum(map(str.__eq__, seen[first], seen[second]))
            assert same <= (20 if policy == "separable-published" else 3)


@pytest.mark.parametrize("policy", IMAGE_BY_IMAGE)
def test_the_same_seed_draws_the_same_whatever_is_in_the_global_generators(policy):
    images = one_image(32).images
    wanted = A.augment(images, policy, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = A.augment(images, policy, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again, wanted)
    assert torch.equal(torch.get_rng_state(), state[0]), "the global generator was moved"
    assert (np.random.get_state()[1] == state[1]).all() and random.getstate() == state[2]
