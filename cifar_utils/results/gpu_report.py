"""What one hour on a GPU should show, as tasks: `cifar bench --gpu-report FILE`.

Four parts: whether every path computes what the CPU does, the times of the raced recipes, what the
five recipes of the course reach, and how long the notebooks take. Each part is a list of tasks;
`gpu_record` does them, one after the other, and writes down what they return.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cifar_utils.data import Cifar
from cifar_utils.errors import CifarError
from cifar_utils.estimate import epoch_seconds
from cifar_utils.evaluate import predict
from cifar_utils.machine import Machine, Precision, describe, pick_device
from cifar_utils.models import MODELS, build
from cifar_utils.recipes import Recipe, get_recipe
from cifar_utils.results import bench, gpu_paths, host

Row = dict[str, Any]
PARTS = ("paths", "times", "recipes", "notebooks")
COURSE = ("vgg", "conv5", "compact", "separable", "resnet18")
PACKAGE = Path(__file__).resolve().parents[2]  # the clone, or where the package is installed

TURNS = 5  # seeds per task of the race: at most this many are lost if the machine goes away
COLD = 3  # trainings from process start, and seeds of each of the five recipes
QUICK_IMAGES = 64  # of each split, in a trial
# Seconds, for the announcement only: guesses, which nothing else depends on.
A_STEP, A_COMPILATION, A_START, A_NOTEBOOK = 5, 60, 20, 300


@dataclass(frozen=True)
class Task:
    """One entry of the record: its part and name, about how long it takes, and what does it."""

    part: str
    name: str
    seconds: float
    work: Callable[[], Row]


@dataclass(frozen=True)
class Report:
    """What is to be measured, and on what.

    recipes: those to race; the last is the one that the others are compared with. seeds: of the
    race. root, data_flags: where the data is, None for the default place, and the flags by which
    `cifar train` finds the same images there. quick: only a trial. notebooks: their folder.
    left_out: filled by the parts, what cannot be done here and why; its keys begin with the part.
    """

    recipes: Sequence[Recipe]
    cifar: Cifar
    device: torch.device
    precision: Precision
    compile: bool = False
    quick: bool = False
    seeds: int = 50
    models: Sequence[str] = tuple(MODELS)
    root: Path | None = None
    data_flags: Sequence[str] = ()
    notebooks: Path = PACKAGE / "notebooks"
    left_out: dict[str, str] = field(default_factory=dict)

    def facts(self) -> Row:
        """What a record must agree with if it is to be gone on with."""
        sizes = {"training": len(self.cifar.train), "tested": len(self.cifar.test)}
        machine = host.machine(self.device, self.precision)
        del machine["date"]
        settings = {
            "quick": self.quick, "compile": self.compile, "source": self.cifar.source, **sizes,
            "seeds": self.seeds,
            "recipes": [recipe.as_dict() for recipe in self.recipes],
        }  # fmt: skip
        return {"machine": machine | {"cuda": str(torch.version.cuda)}, "settings": settings}

    # --- the parts: each is a list of tasks -------------------------------------------------------

    def paths(self) -> Iterator[Task]:
        """Every network on every path that the device has, against the CPU in fp32."""
        images = self.cifar.train[: 8 if self.quick else 32]
        for path in gpu_paths.WAYS:
            if reason := gpu_paths.lacking(path, self.device):
                self.left_out[f"paths: {path}"] = reason
        for model in self.models:
            for path in gpu_paths.WAYS:
                if f"paths: {path}" in self.left_out:
                    continue
                seconds = A_COMPILATION if path == "compile" else A_STEP

                def work(model: str = model, path: str = path) -> Row:
                    return gpu_paths.compare(model, path, images, self.device)

                yield Task("paths", f"{model}, {path}", seconds, work)

    def times(self) -> Iterator[Task]:
        """The race: from process start, then warm, and if that is not compiled, compiled as well.

        All in turn, A B A B, so that a machine that slows down does so for all recipes.
        """
        each = [self._training_seconds(recipe) for recipe in self.recipes]
        for seed in range(1 if self.quick else COLD):
            for recipe, seconds in zip(self.recipes, each, strict=True):
                seeded = recipe.changed(seed=recipe.seed + seed)

                def start(seeded: Recipe = seeded) -> Row:
                    return self._from_start(seeded)

                name = f"from start, {recipe.name}, seed {seeded.seed}"
                yield Task("times", name, seconds + A_START, start)
        for first in range(0, self.seeds, TURNS):
            count = min(TURNS, self.seeds - first)
            yield self._race("times", self.recipes, first, count, count * sum(each), self.compile)
        if not self.compile and not (reason := gpu_paths.lacking("compile", self.device)):
            count = 1 if self.quick else COLD
            seconds = count * (sum(each) + A_COMPILATION * len(each))
            yield self._race("times", self.recipes, 0, count, seconds, True)
        elif not self.compile:
            self.left_out["times: compiled trainings"] = reason
        yield Task("times", "six-view test", 1, self._six_views)

    def courses(self) -> Iterator[Task]:
        """The five recipes of the course, seed by seed, so that all of them have one first."""
        recipes = [get_recipe(name) for name in (COURSE[2:3] if self.quick else COURSE)]
        if self.quick:
            recipes = [quick(recipe) for recipe in recipes]
        each = [self._training_seconds(recipe) for recipe in recipes]
        for seed in range(2 if self.quick else COLD):
            for recipe, seconds in zip(recipes, each, strict=True):
                yield self._race("recipes", [recipe], seed, 1, seconds, self.compile)

    def books(self) -> Iterator[Task]:
        """The notebooks in reading order, without the solutions."""
        if not (self.notebooks / "run.py").is_file():
            self.left_out["notebooks"] = "only a clone of the repository has them"
            return
        if missing := [tool for tool in ("nbclient", "nbconvert") if find_spec(tool) is None]:
            lacks = f"{' and '.join(missing)} not installed; pip install -e '.[course]'"
            self.left_out["notebooks"] = lacks
            return
        found = sorted(self.notebooks.glob("[0-9][0-9]_*.ipynb"))
        for path in found[: 1 if self.quick else None]:

            def work(path: Path = path) -> Row:
                flags = [] if self.quick else ["--full"]
                with tempfile.TemporaryDirectory() as out:
                    self._started([str(self.notebooks / "run.py"), *flags, "--out", out, path.stem])
                return {}

            yield Task("notebooks", path.stem, A_NOTEBOOK, work)

    # --- what the tasks do ------------------------------------------------------------------------

    def _race(
        self, part: str, recipes: Sequence[Recipe], first: int, count: int, seconds: float,
        compile: bool,
    ) -> Task:  # fmt: skip
        """`bench.race` over `count` seeds, from the recipes' own seed plus `first` on."""
        seeded = [recipe.changed(seed=recipe.seed + first) for recipe in recipes]

        def work() -> Row:
            rows = bench.race(
                seeded, self.cifar, repeats=count, device=self.device, precision=self.precision,
                compile=compile, log=lambda line: print(f"    {line}", flush=True),
            )  # fmt: skip
            return {"rows": rows}

        names = " and ".join(recipe.name for recipe in recipes)
        seed = seeded[0].seed
        seeds = f"seeds {seed} to {seed + count - 1}" if count > 1 else f"seed {seed}"
        return Task(part, f"{'compiled ' * compile}{names}, {seeds}", seconds, work)

    def _from_start(self, recipe: Recipe) -> Row:
        """A whole `cifar train`, from its launch until the tested run is on disk.

        Only the picture of its curves comes later. What torch.compile keeps on disk starts empty.
        What the system keeps of files in memory does not.
        """
        with tempfile.TemporaryDirectory() as folder:
            config, out = Path(folder, "recipe.json"), Path(folder, "run")
            config.write_text(json.dumps({"recipe": recipe.as_dict()}), encoding="utf-8")
            caches = {
                "TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "inductor")),
                "TRITON_CACHE_DIR": str(Path(folder, "triton")),
            }
            began = time.time()
            self._started([
                "-m", "cifar_utils", "train", "--config", str(config), "--out", str(out),
                "--quiet", "--device", str(self.device), "--precision", self.precision,
                *["--compile"] * self.compile, *self.data_flags,
            ], **caches)  # fmt: skip
            history = out / "history.json"  # written for the last time after the test
            test = json.loads(history.read_text(encoding="utf-8"))["test"]
            seconds = history.stat().st_mtime - began
        accuracy = test.get("top1_views", test["top1"])
        return {"name": recipe.name, "from_start": seconds, "accuracy_views": accuracy}

    def _started(self, arguments: Sequence[str], **environment: str) -> None:
        """Run Python with these arguments. Raises RuntimeError with its last line if it fails."""
        ours = filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH")))
        environment["PYTHONPATH"] = os.pathsep.join(ours)
        if self.root:
            environment["CIFAR10_ROOT"] = str(self.root.absolute())
        done = subprocess.run(
            [sys.executable, *arguments], env=os.environ | environment, stdin=subprocess.DEVNULL,
            capture_output=True, encoding="utf-8", errors="replace", timeout=7200, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise RuntimeError(f"exit status {done.returncode}: {said}")

    def _six_views(self) -> Row:
        """How long the test takes that published times include."""
        model = Machine(self.device).place(build(self.recipes[0], self.cifar.classes))
        images = self.cifar.test.images.to(self.device)
        seconds = bench.clock(lambda: predict(model, images, views=6), self.device, times=3)
        return {"seconds_of_test": bench.spread(seconds)}

    def _training_seconds(self, recipe: Recipe) -> float:
        """About how long a training takes, from a few steps; 60 if they fail: the race says why."""
        try:
            machine = Machine(self.device, self.precision, winograd=recipe.winograd)
            return sum(epoch_seconds(recipe, self.cifar.train, machine))
        except (CifarError, RuntimeError):
            return 60.0


def quick(recipe: Recipe) -> Recipe:
    """The recipe for a trial: one epoch of small batches."""
    return recipe.changed(epochs=1, batch_size=min(recipe.batch_size, 32))


def check(device_name: str, *, quick: bool) -> torch.device:
    """The device. Raises CifarError if it is not a GPU and this is not a trial."""
    device = pick_device(device_name)
    if device.type == "cpu" and not quick:
        raise CifarError(
            f"--gpu-report needs a GPU, and this is {describe(device)}; to try it out at toy size, "
            "add --device cpu --quick"
        )
    return device
