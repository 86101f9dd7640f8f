"""The authors' own script as one more competitor in a race: a reference that a stranger can check.

It is Keller Jordan's airbench94_muon.py (github.com/KellerJordan/cifar10-airbench, as of commit
096d14d), which is not part of this package. Its functions run here as they are, on our images, with
as little replaced in its text as the device needs. `replaced` lists every change.
"""

import contextlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cifar_utils.data import Cifar, Split
from cifar_utils.errors import CifarError, first_line
from cifar_utils.machine import Precision, wait
from cifar_utils.sources.files import check_file, digest_of
from cifar_utils.speed.compile import check_compiler

DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


class Authors:
    """The script in `path`, ready to race.

    compile: keep its torch.compile on a CPU or Apple's GPU, too; on CUDA it stays if it can work.
    Raises CifarError for a file in which something that this class needs is missing.
    """

    def __init__(
        self, path: Path, device: torch.device, precision: Precision, *, compile: bool = False
    ) -> None:
        check_file(path)
        self.name, self.path, self.device = path.name, path, device
        self.sha256 = digest_of(path, "sha256")
        text = path.read_text(encoding="utf-8", errors="replace")
        self.script = text.partition('\nif __name__ == "__main__":')[0]  # 200 trainings, and a log
        self.replaced: list[str] = []
        if device.type == "cuda":
            with contextlib.suppress(CifarError):
                check_compiler(device)
                compile = True
        else:
            self._replace('torch.device("cuda")', f'torch.device("{device}")')
            self._replace(".half()", f".to({DTYPES[precision]})")
            self._replace("torch.cuda.Event(enable_timing=True)", "Clock()")
            self._replace("torch.cuda.synchronize()", "None")
            if "cuda" in self.script:
                raise self._unknown("it uses cuda in a place that it did not")
        if not compile:
            self._replace("@torch.compile\n", "")
        batch = re.search(r"^    batch_size = (\d+)$", self.script, re.M)
        if not batch or 'CifarLoader("cifar10", train=True' not in self.script:
            raise self._unknown("main does not set its batch_size or load its images as it did")
        self.batch_size = int(batch[1])
        self.namespace = self._executed()
        with self._answering_for_it():
            network = self.namespace["CifarNet"]()
            self.model = network.to(device, memory_format=torch.channels_last)
        if compile:
            self.model.compile(mode="max-autotune")

    def _replace(self, old: str, new: str) -> None:
        if old not in self.script:
            raise self._unknown(f"{old.strip()} is not in it")
        self.script = self.script.replace(old, new)
        self.replaced.append(f"{old.strip()} by {new}" if new else f"{old.strip()} left out")

    @contextlib.contextmanager
    def _answering_for_it(self) -> Iterator[None]:
        """Inside it, whatever the script raises, to leave Python as well, is one line.

        Memory that runs out is not the script's fault. Its "cuda" means the device that we chose.
        """
        on_cuda = self.device.type == "cuda"
        try:
            with torch.cuda.device(self.device) if on_cuda else contextlib.nullcontext():
                yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise self._unknown(f"it fails with {first_line(error)}") from error

    def _unknown(self, what: str) -> CifarError:
        return CifarError(f"{self.path} is not the airbench94_muon.py that we know: {what}")

    def _executed(self) -> dict[str, Any]:
        """The script's functions and classes."""
        names = {"__name__": "authors", "Clock": lambda: Clock(self.device)}
        arguments, sys.argv = sys.argv, [str(self.path)]  # it reads itself
        try:
            with self._answering_for_it(), torch.backends.cudnn.flags(enabled=True):  # it sets this
                exec(compile(self.script, str(self.path), "exec"), names)
        finally:
            sys.argv = arguments
        if missing := {"CifarNet", "CifarLoader", "main", "print_training_details"} - names.keys():
            raise self._unknown(f"it has no {', '.join(sorted(missing))}")
        return names

    def warm_up(self, cifar: Cifar) -> None:
        """A training on one batch, so that what is compiled or looked up once is not timed."""
        if len(cifar.train) < self.batch_size:
            raise CifarError(f"{self.name} needs at least {self.batch_size:,} training images")
        few = cifar.held_out[:2000]  # of which it makes one batch
        self._train("warmup", cifar.train[: self.batch_size], few, seed=0)

    def run(self, cifar: Cifar, seed: int) -> dict[str, float]:
        """Train once on all images: seconds, without its evaluation, and its two accuracies."""
        return self._train(0, cifar.train, cifar.held_out, seed)

    def _train(self, run: Any, train: Split, test: Split, seed: int) -> dict[str, float]:
        row: dict[str, float] = {}

        def note(variables: dict[str, Any], is_final_entry: bool) -> None:
            """In place of its table: what main knows after each epoch, and at the end."""
            if is_final_entry:
                row["accuracy_views"] = variables["tta_val_acc"]
            else:
                row["seconds"] = variables["time_seconds"]
                row["accuracy"] = variables["val_acc"]

        self.namespace["print_training_details"] = note
        fastest = torch.backends.cudnn.flags(enabled=True, benchmark=True)  # as it wants it
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), fastest:
            Path("cifar10").mkdir()
            for name, split in (("train", train), ("test", test)):
                images = split.images.permute(0, 2, 3, 1).contiguous().cpu()  # as it stores them
                content = {"images": images, "labels": split.labels.cpu(), "classes": split.classes}
                torch.save(content, Path("cifar10", f"{name}.pt"))
            torch.manual_seed(seed)
            with self._answering_for_it():
                self.namespace["main"](run, self.model)
        return row


class Clock:
    """torch.cuda.Event, for devices without one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.now = device, 0.0

    def record(self) -> None:
        """Note the time, once all work is done."""
        wait(self.device)
        self.now = time.perf_counter()

    def elapsed_time(self, later: "Clock") -> float:
        """Milliseconds from this record to a later one."""
        return 1000 * (later.now - self.now)
