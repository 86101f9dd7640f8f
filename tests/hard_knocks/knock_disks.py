"""A disk that is full after any number of bytes."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from painted import painted
from small_runs import forked, results, save_painted, status_of, train
from torchvision.transforms.functional import to_pil_image

from cifar_utils import checkpoints, data
from cifar_utils.cli.main import main
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES

resource = pytest.importorskip("resource", reason="Windows limits no file sizes")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def disk(tmp_path):
    """A function that gives a new empty disk of some KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = []

    def make(kilobytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place]
        if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only Linux, and only as root, gives a disk of a chosen size")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "--lazy", place], check=True)


def said_by(work, *given, **options):
    """(exit status, what is printed to stderr) of a forked process that does this."""
    reading, writing = os.pipe()

    def told():
        os.dup2(writing, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)  # pytest has put another in its place
        work(*given, **options)

    process = forked(told)
    os.close(writing)
    with os.fdopen(reading) as printed:
        lines = printed.read().splitlines()
    return status_of(process), lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    assert status_of(forked(train, path)) == 0
    return results(path)


@pytest.mark.parametrize("kilobytes", range(4, 125, 4))
def test_a_training_on_a_full_disk_goes_on_when_there_is_room(disk, whole, kilobytes):
    place = disk(kilobytes)
    status, lines = said_by(train, place / "run")
    if status:
        assert "No space left on device" in lines[-1]
        assert not list(place.rglob(".cifar-*"))
        grown = ["mount", "-o", "remount,size=10m", place]
        assert subprocess.run(grown).returncode == 0
        assert status_of(forked(train, place / "run")) == 0
    assert results(place / "run") == whole


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with data, a picture, weights and a finished run, for every command that writes."""
    folder = tmp_path_factory.mktemp("given")
    save_painted(folder, train=60, test=20)
    to_pil_image(painted(1).images[0]).save(folder / "picture.png")
    info = checkpoints.WeightsInfo(RECIPES["compact"], "npy")
    checkpoints.save_weights(folder / "w.safetensors", create_model("compact", seed=0), info)
    train = f"train --recipe compact --epochs 1 --validation 0 --batch-size 30 {OF} -q --cam"
    assert status_of(forked(limited, 1 << 30, *split_up(train, folder, folder / "run"))) == 0
    return folder


OF = "--data GIVEN --source npy --out OUT"
COMMANDS = {
    "train": f"train --recipe compact --epochs 1 --batch-size 30 {OF} -q --cam --overwrite",
    "test": f"test --weights GIVEN/w.safetensors --grid {OF}",
    "lr-find": f"lr-find --steps 10 --batch-size 30 {OF}",
    "predict": "predict GIVEN/picture.png --weights GIVEN/w.safetensors --cam --out OUT",
    "ship": f"ship GIVEN/run --overwrite {OF}",
    "report": "report --write OUT/README.md",
}


def split_up(command, given, out):
    return command.replace("GIVEN", str(given)).replace("OUT", str(out)).split()


def limited(size, *arguments):
    """A command, in a process none of whose files may grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # Python ignores the signal for it
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as stop:
            sys.stderr.flush()
            os._exit(stop.code or 0)


@pytest.mark.parametrize("size", [0, 1, 1000, 5000, 20_000, 100_000])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_cannot_write_says_so_in_one_line(tmp_path, given, command, size):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(ROOT / "README.md", out)
    status, lines = said_by(limited, size, *split_up(COMMANDS[command], given, out))
    errors = [line for line in lines if "cannot be written" in line]
    # 1: the results are there, but a picture is not.
    assert (status, len(errors)) in ((0, 0), (2, 1), (1, 1)), lines
    assert not any("Traceback" in line for line in lines)
    assert not list(tmp_path.rglob(".cifar-*"))


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, size):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number, image in enumerate(painted(30).images):
                to_pil_image(image).save(tmp_path / part / name / f"{number}.png")

    def load():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with pytest.warns(UserWarning, match="could not be cached: .* cannot be written"):
            assert len(data.load(tmp_path, source="folder", validation=0).test) == 60

    assert said_by(load)[0] == 0
    assert not list(tmp_path.rglob(".cifar-*"))
