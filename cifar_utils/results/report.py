"""What shipped runs and races reached and what others published, as tables and in single lines.

A race is a file that `cifar bench --recipe … --json FILE` writes: recipes that trained in turn,
against the clock. The files in `races/` are pooled by recipe, whatever their seeds. `seeds/` holds
runs that show what chance does.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_utils.checkpoints import PRETRAINED
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.models import create_model
from cifar_utils.profile import mult_adds, parameter_count
from cifar_utils.recipes import Recipe
from cifar_utils.sources.sealed import read_json, reading

RACES = Path(__file__).parent / "races"
SEEDS = Path(__file__).parent / "seeds"
REFERENCE = "airbench94"  # the recipe whose training time is the unit for the others
VIEWS = 6  # per image, in the second accuracy of a race


def claims() -> dict[str, str]:
    """What each recipe that has shipped runs or a race has reached, in one line by recipe name.

    A line holds mean ± standard deviation of the test accuracy, the number of seeds, the training
    time and the device. A recipe that has both shipped runs and a race claims the race. Printed by
    `cifar recipes`.
    """
    return {name: str(told) for name, told in {**shipped_results(), **shipped_races()}.items()}


# --- published ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The best test accuracy that the authors of a network show, and where they show it."""

    accuracy: float  # in [0, 1]
    epochs: int  # of the published recipe
    figure: str  # what this accuracy is
    repository: str  # owner and name on GitHub
    commit: str
    path: str  # the file there that shows it


PUBLISHED: dict[str, Published] = {
    "vgg": Published(
        0.811, 15, "the diagonal of a confusion matrix, a picture; the headline is ~81%",
        "chloe0x0/cifar10", "601a428", "imgs/confusionMatrix.png",
    ),
    "conv5": Published(
        0.8760, 400, "the best of 400 epochs in a log; the last has 87.27%, the headline is 82%",
        "iVishalr/cifar10-pytorch", "c5022c7", "log/test_accuracies.pt",
    ),
    "compact": Published(
        0.8931, 100, "a headline; a table below it has 89.16%, and there is no log",
        "y-young/CNN-CIFAR-10", "ed9670d", "README.md",
    ),
    "separable": Published(
        0.8474, 80, "the best of 80 epochs in a log; the last, which is the headline, has 84.59%",
        "gharshit/ERA_V2", "ca51965", "S9_Assignment/train_S9.ipynb",
    ),
    "resnet18": Published(
        0.9311, 25, "the last of 25 epochs in a log; a later log, at commit 4a7ec68, has 92.98%",
        "dawnik17/vision", "32eac68", "examples/cifar10/resnet18_cifar10_grad_cam.ipynb",
    ),
}  # fmt: skip
PUBLISHED_COLUMNS = ("network", "repository, at commit", "published, and what this figure is")


def published_table() -> str:
    """The five repositories as a Markdown table, with what each published figure is."""
    return _markdown(PUBLISHED_COLUMNS, map(_published_row, PUBLISHED.items()))


def _published_row(item: tuple[str, Published]) -> tuple[str, ...]:
    name, published = item
    address = f"https://github.com/{published.repository}"
    file = f"{address}/blob/{published.commit}/{published.path}"
    return (
        f"`{name}`",
        f"[{published.repository}]({address}), {published.commit}",
        f"[{100 * published.accuracy:g}%]({file}): {published.figure}",
    )


# --- shipped runs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """The shipped runs of one recipe. They differ in the seed alone."""

    name: str
    runs: tuple[History, ...]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy after the last epoch, in [0, 1], of each run."""
        return [run.test["top1"] for run in self.runs]  # type: ignore[index]  # all were tested

    @property
    def accuracy(self) -> float:
        """The mean of the accuracies."""
        return statistics.mean(self.accuracies)

    @property
    def minutes(self) -> float:
        """Training time of the first run: its number of epochs times their median time.

        The median keeps a pause of the machine out. Epochs on smaller images, if the recipe has
        any, have a median of their own for each size.
        """
        run = self.runs[0]
        seconds: dict[int, list[float]] = {}  # by the size of most of the epoch's images
        for row in run.epochs[1:]:
            size = run.recipe.image_size(run.recipe.progress(row.epoch - 0.5))
            seconds.setdefault(size, []).append(row.seconds)
        return sum(statistics.median(part) * len(part) for part in seconds.values()) / 60

    @property
    def device(self) -> str:
        """The device and the precision in which the first run was trained."""
        return f"{self.runs[0].device}, {self.runs[0].precision}"

    def __str__(self) -> str:
        """What the recipe has reached, in one line."""
        time = _time(60 * self.minutes, ".0f")
        return f"{_mean(self.accuracies)}, {_seeds(self.runs)}; {time} on {self.device}"


def shipped_results(folder: Path = PRETRAINED) -> dict[str, Result]:
    """The Result of each recipe with histories in `folder`, in the order of PUBLISHED.

    Runs with a validation split are left out, because they served to choose and were not tested.
    Raises CifarError if runs under one name differ in more than the seed. Used in notebook 06.
    """
    runs: dict[str, list[History]] = {}
    for path in folder.glob("*.json"):
        history = History.load(path)
        if history.val_images:
            continue
        if "top1" not in (history.test or {}):
            raise CifarError(f"{path}: the run was not tested; resume it without --no-test")
        runs.setdefault(history.recipe.name, []).append(history)
    names = [name for name in PUBLISHED if name in runs]
    names += sorted(set(runs) - set(names))
    return {name: Result(name, _of_one_recipe(name, runs[name], folder)) for name in names}


def _of_one_recipe(name: str, runs: Sequence[History], folder: Path) -> tuple[History, ...]:
    """The runs by seed, if that is all that their recipes differ in."""
    if len({run.recipe.changed(seed=0) for run in runs}) > 1:
        raise CifarError(f"the runs of {name} in {folder} are not of one recipe")
    return tuple(sorted(runs, key=lambda run: run.recipe.seed))


COLUMNS = (
    "network", "published", "ours", "epochs: published, ours", "parameters", "mult-adds",
    "training", "on",
)  # fmt: skip
CAPTION = (
    "Ours is the test accuracy after the last epoch, with one view per image: the mean over "
    "several seeds ± the standard deviation, or the result of a single seed. Published is the best "
    "test accuracy that the network's authors show, in a log, a picture or a headline. The last "
    "two columns describe the run with the first seed. Training is its median time per epoch, "
    "without evaluation, times the number of epochs, which is what an undisturbed machine would "
    "take; epochs on small images have a median of their own. The histories say where the other "
    "seeds ran, and in which precision."
)


def table(results: Mapping[str, Result]) -> str:
    """The results as a Markdown table, one row per recipe, and below it what the columns mean."""
    return _markdown(COLUMNS, map(_row, results.values())) + f"\n\n{CAPTION}"


def _row(result: Result) -> tuple[str, ...]:
    recipe = result.runs[0].recipe
    published = PUBLISHED.get(recipe.model)
    model = create_model(recipe.model, seed=0)
    return (
        f"`{result.name}`",
        f"{100 * published.accuracy:g}%" if published else "–",
        f"**{_mean(result.accuracies)}**",
        f"{published.epochs if published else '–'}, {recipe.epochs}",
        f"{parameter_count(model):,}",
        f"{mult_adds(model) / 1e6:.1f} M",
        _time(60 * result.minutes, ".0f"),
        result.device,
    )


# --- many seeds -----------------------------------------------------------------------------------


def shipped_seeds(folder: Path = SEEDS) -> dict[str, tuple[History, ...]]:
    """The runs of the recipes "A" and "B" in `folder`, ten seeds each, by seed.

    They have validation accuracies only. README.md in the folder says what the two are, and how to
    make the runs again. A file is named by recipe and seed, such as A3.json. Raises CifarError if
    runs under one letter differ in more than the seed. Used in notebook 06.
    """
    runs: dict[str, list[History]] = {}
    for path in sorted(folder.glob("*.json")):
        runs.setdefault(path.name[0], []).append(History.load(path))
    return {name: _of_one_recipe(name, same, folder) for name, same in runs.items()}


# --- races ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Race:
    """The timed trainings of one recipe. They differ in the seed, and some in the processor."""

    name: str
    one_view: tuple[float, ...]  # test accuracies in [0, 1], from one view per image
    all_views: tuple[float, ...]  # and from six
    ratios: tuple[float, ...]  # its time over the reference's, in races that held both
    seconds: tuple[float, ...]  # of the trainings on the processor that ran most of them
    device: str  # that processor, the threads and the precision

    def __str__(self) -> str:
        """What the recipe has reached, in one line."""
        reached = f"{_mean(self.one_view)} one view, {_mean(self.all_views)} six"
        time = _time(statistics.median(self.seconds), ".1f")
        return f"{reached}, {_seeds(self.one_view)}; {time} on {self.device}"


def shipped_races(folder: Path = RACES) -> dict[str, Race]:
    """The Race of each recipe in the files of `folder`, the slowest first.

    Raises CifarError if the trainings of one recipe differ in more than seed and processor or share
    a seed, if they did not learn from all 50,000 training images of CIFAR-10, or if they were not
    tested on all 10,000 test images with six views.
    """
    parts: dict[str, list[_Part]] = {}
    for path in sorted(folder.glob("*.json")):
        for part in _parts(path):
            parts.setdefault(part.recipe.name, []).append(part)
    races = [_pooled(same, folder) for same in parts.values()]
    races.sort(key=lambda race: -statistics.median(race.seconds))
    return {race.name: race for race in races}


@dataclass(frozen=True)
class _Part:
    """What one file says about one recipe. The tuples hold one value per training."""

    recipe: Recipe  # with seed 0
    seeds: range
    one_view: tuple[float, ...]
    all_views: tuple[float, ...]
    ratios: tuple[float, ...]  # one per turn, or none
    seconds: tuple[float, ...]
    device: str
    processor: str


def _parts(path: Path) -> list[_Part]:
    with reading(path, "race", "run `cifar bench --recipe … --json` again"):
        race = read_json(path)
        wanted = {"source": "cifar10", "training": 50_000, "on": "test", "tested": 10_000}
        if race["images"] != wanted:
            raise CifarError(f"it is not of all of CIFAR-10, but of {race['images']}")
        ratios = race.get("ratios", {}) if race["recipes"][-1]["name"] == REFERENCE else {}
        return [_part(race, row, ratios) for row in race["recipes"]]


def _part(race: dict[str, Any], row: dict[str, Any], ratios: dict[str, Any]) -> _Part:
    recipe = Recipe.from_dict(row["recipe"])  # also if the file lacks a newer field
    if recipe.views != VIEWS:
        raise CifarError(
            f"it tests {recipe.name} with views={recipe.views}, but the table is of {VIEWS}"
        )
    return _Part(
        recipe=recipe.changed(seed=0),
        seeds=range(recipe.seed, recipe.seed + len(row["seconds"]["values"])),
        one_view=_numbers(row["accuracy"], most=1),
        all_views=_numbers(row["accuracy_views"], most=1),
        ratios=_numbers(ratios.get(recipe.name, {"values": ()})),
        seconds=_numbers(row["seconds"]),
        device=f"{race['device']}, {race['precision']}",
        processor=re.sub(r"\(\w+\)| Processor", "", race["processor"]),
    )


def _numbers(spread: dict[str, Any], most: float = math.inf) -> tuple[float, ...]:
    """The values of a spread, if all are numbers from 0 to `most`."""
    for value in spread["values"]:
        if isinstance(value, bool) or not 0 <= value <= most:
            raise CifarError(f"a measurement cannot be {value}")
    return tuple(spread["values"])


def _pooled(parts: Sequence[_Part], folder: Path) -> Race:
    """The parts of one recipe as one Race."""
    name = parts[0].recipe.name
    if len({(part.recipe, part.device) for part in parts}) > 1:
        raise CifarError(f"the races of {name} in {folder} are not of one recipe and device")
    seeds = [seed for part in parts for seed in part.seeds]
    if len(set(seeds)) < len(seeds):
        raise CifarError(f"two races of {name} in {folder} share a seed")
    seconds: dict[str, list[float]] = {}
    for part in parts:
        seconds.setdefault(part.processor, []).extend(part.seconds)
    busiest = max(seconds, key=lambda processor: len(seconds[processor]))
    return Race(
        name,
        one_view=tuple(value for part in parts for value in part.one_view),
        all_views=tuple(value for part in parts for value in part.all_views),
        ratios=tuple(value for part in parts for value in part.ratios),
        seconds=tuple(seconds[busiest]),
        device=parts[0].device.replace("CPU", busiest),
    )


RACE_COLUMNS = (
    "recipe", "seeds", "one view", "six views", "training", f"of `{REFERENCE}`'s time", "on",
)  # fmt: skip
RACE_CAPTION = (
    "Test accuracy after the last epoch, mean ± standard deviation over seeds, with one view per "
    "image and with six (test-time augmentation). Training is the median time without evaluation, "
    "on the processor that ran most of the seeds. Its share of the reference's time is the median "
    "over the races in which both recipes took turns."
)


def race_table(races: Mapping[str, Race]) -> str:
    """The races as a Markdown table, one row per recipe, and below it what the columns mean."""
    return _markdown(RACE_COLUMNS, map(_race_row, races.values())) + f"\n\n{RACE_CAPTION}"


def _race_row(race: Race) -> tuple[str, ...]:
    count, ratio = len(race.ratios), "–"
    if count:
        ratio = f"{statistics.median(race.ratios):.2f} ({count} race{'s' if count > 1 else ''})"
    return (
        f"`{race.name}`",
        str(len(race.one_view)),
        f"**{_mean(race.one_view)}**",
        f"**{_mean(race.all_views)}**",
        _time(statistics.median(race.seconds), ".1f"),
        "1" if race.name == REFERENCE else ratio,
        race.device,
    )


# --- in a page ------------------------------------------------------------------------------------

# For `cifar report`: a page holds each table between two comments that name it.
TABLES: dict[str, Callable[[], str]] = {
    "results": lambda: table(shipped_results()),
    "races": lambda: race_table(shipped_races()),
    "repositories": published_table,
}


def marks(name: str) -> tuple[str, str]:
    """The comments that stand before and after the table of that name in a page."""
    return f"<!-- {name}: cifar report --write README.md -->", f"<!-- end of the {name} -->"


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _mean(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}%" if len(values) > 1 else f"{mean}%"


def _seeds(runs: Sequence) -> str:
    return f"{len(runs)} seeds" if len(runs) > 1 else "one seed"


def _time(seconds: float, form: str) -> str:
    """Seconds in words: from one minute on as minutes in the format `form`."""
    return f"{seconds / 60:{form}} min" if seconds >= 60 else f"{seconds:.0f} s"
