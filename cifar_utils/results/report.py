"""What shipped runs and races reached and what others published, as tables and in single lines.

The board of the races is in board.py. `seeds/` holds runs that show what chance does.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_utils.checkpoints import PRETRAINED
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.models import create_model
from cifar_utils.profile import mult_adds, parameter_count
from cifar_utils.results import board
from cifar_utils.results.board import RACES, Kind, Part, by_seed, markdown, percent

SEEDS = Path(__file__).parent / "seeds"


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
    return markdown(PUBLISHED_COLUMNS, map(_published_row, PUBLISHED.items()))


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
        return f"{percent(self.accuracies)}, {_seeds(self.runs)}; {time} on {self.device}"


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
    return markdown(COLUMNS, map(_row, results.values())) + f"\n\n{CAPTION}"


def _row(result: Result) -> tuple[str, ...]:
    recipe = result.runs[0].recipe
    published = PUBLISHED.get(recipe.model)
    model = create_model(recipe.model, seed=0)
    return (
        f"`{result.name}`",
        f"{100 * published.accuracy:g}%" if published else "–",
        f"**{percent(result.accuracies)}**",
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
    """The timed trainings of today's recipe. They differ in the seed, and some in the machine."""

    name: str
    one_view: tuple[float, ...]  # test accuracies in [0, 1], from one view per image
    all_views: tuple[float, ...]  # and from six
    seconds: tuple[float, ...]  # of the trainings on the kind of machine that ran most of them
    ratios: tuple[float, ...]  # on that kind, its time over the reference's, where both raced
    device: str  # that processor, the threads and the precision

    def __str__(self) -> str:
        """What the recipe has reached, in one line."""
        reached = f"{percent(self.one_view)} one view, {percent(self.all_views)} six"
        time = _time(statistics.median(self.seconds), ".1f")
        return f"{reached}, {_seeds(self.one_view)}; {time} on {self.device}"


def shipped_races(folder: Path = RACES) -> dict[str, Race]:
    """The Race of each recipe in the files of `folder`, the slowest first.

    Accuracies are from all kinds of machines, seconds and ratios from the one that ran most of the
    trainings. Records of other values than the recipe has today are left out. Raises CifarError as
    `board.records` does.
    """
    parts: dict[str, list[Part]] = {}
    for part in board.records(folder):
        if part.is_of_today:
            parts.setdefault(part.recipe.name, []).append(part)
    races = [_pooled(same) for same in parts.values()]
    races.sort(key=lambda race: -statistics.median(race.seconds))
    return {race.name: race for race in races}


def _pooled(parts: Sequence[Part]) -> Race:
    """The parts of one recipe as one Race."""
    kinds: dict[Kind, list[Part]] = {}
    for part in parts:
        kinds.setdefault(part.kind, []).append(part)
    busiest = max(kinds.values(), key=lambda same: sum(len(part.seconds) for part in same))
    return Race(
        parts[0].recipe.name,
        one_view=by_seed(parts, lambda part: part.one_view),
        all_views=by_seed(parts, lambda part: part.six_views),
        ratios=tuple(value for part in busiest for value in part.ratios),
        seconds=tuple(value for part in busiest for value in part.seconds),
        device=str(busiest[0].kind),
    )


# --- in a page ------------------------------------------------------------------------------------

# For `cifar report`: a page holds each table between two comments that name it.
TABLES: dict[str, Callable[[], str]] = {
    "results": lambda: table(shipped_results()),
    "board": board.table,
    "repositories": published_table,
}


def marks(name: str) -> tuple[str, str]:
    """The comments that stand before and after the table of that name in a page."""
    return f"<!-- {name}: cifar report --write README.md -->", f"<!-- end of the {name} -->"


def _seeds(runs: Sequence) -> str:
    return f"{len(runs)} seeds" if len(runs) > 1 else "one seed"


def _time(seconds: float, form: str) -> str:
    """Seconds in words: from one minute on as minutes in the format `form`."""
    return f"{seconds / 60:{form}} min" if seconds >= 60 else f"{seconds:.0f} s"
