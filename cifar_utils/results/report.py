"""The results: what the shipped runs reached, beside what the networks' authors did, and the races.

A race is what `cifar bench --recipe … --json FILE` writes: recipes trained in turn, against the
clock. Those in `races/` are pooled, whatever their seeds.
"""

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from cifar_utils.checkpoints import PRETRAINED
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.models import create_model
from cifar_utils.profile import mult_adds, parameter_count
from cifar_utils.recipes import Recipe

# Test accuracy and epochs of the five systems: the best that their own logs show.
PUBLISHED = {
    "vgg": (0.811, 15),
    "conv5": (0.8760, 400),
    "compact": (0.8931, 100),
    "separable": (0.8474, 80),
    "resnet18": (0.9298, 25),
}
RACES = Path(__file__).parent / "races"
REFERENCE = "airbench94"  # whose time the others' are held against


@dataclass(frozen=True)
class Result:
    """The shipped runs of one recipe, which differ in the seed alone."""

    name: str
    runs: tuple[History, ...]

    @property
    def accuracies(self):
        """Test accuracies after the last epoch, in [0, 1], one a run."""
        return [run.test["top1"] for run in self.runs]

    @property
    def accuracy(self):
        """Their mean."""
        return statistics.mean(self.accuracies)

    @property
    def minutes(self):
        """Training time of the first run: its epochs times their median; a pause hardly counts.

        Epochs on small images, where the recipe has any, and those on whole ones count apart.
        """
        run, seconds = self.runs[0], {True: [], False: []}
        for row in run.epochs[1:]:
            small = (row.epoch - 0.5) / run.recipe.epochs < run.recipe.small_until  # most of it
            seconds[small].append(row.seconds)
        return sum(statistics.median(part) * len(part) for part in seconds.values() if part) / 60

    @property
    def device(self):
        """Where the first run was trained, and in which precision."""
        return f"{self.runs[0].device}, {self.runs[0].precision}"

    def __str__(self):
        """What the recipe can claim, in a line."""
        time = _time(60 * self.minutes, ".0f")
        return f"{_mean(self.accuracies)}, {_seeds(self.runs)}; {time} on {self.device}"


def shipped_results(folder=PRETRAINED):
    """dict from recipe to Result, of the histories in `folder`, in the order of PUBLISHED.

    Runs with a validation split are left out: they helped to choose, and were not tested. Raises
    CifarError where runs under one name differ in more than the seed. Used in notebook 04.
    """
    runs = {}
    for path in folder.glob("*.json"):
        history = History.load(path)
        if history.val_images:
            continue
        runs.setdefault(history.recipe.name, []).append(history)
    for name, same in runs.items():
        if len({run.recipe.changed(seed=0) for run in same}) > 1:
            raise CifarError(f"the runs of {name} in {folder} are not of one recipe")
    names = [name for name in PUBLISHED if name in runs]
    names += sorted(set(runs) - set(names))
    return {
        name: Result(name, tuple(sorted(runs[name], key=lambda run: run.recipe.seed)))
        for name in names
    }


COLUMNS = (
    "network", "published", "ours", "epochs: published, ours", "parameters", "mult-adds",
    "training", "on",
)  # fmt: skip
CAPTION = (
    "Ours is the test accuracy after the last epoch, of one view of each image: the mean over "
    "several seeds with its standard deviation, or one seed's where no ± stands. Published is the "
    "best that the authors' own logs show. The last two columns are the first seed's: its number "
    "of epochs times their median, without evaluation (epochs on small images apart), which is "
    "what a quiet machine takes, and where it ran. The histories say where the others did, and in "
    "which precision."
)


def table(results):
    """The results as a Markdown table, one row a recipe, and below it what the columns mean."""
    return _markdown(COLUMNS, map(_row, results.values())) + f"\n\n{CAPTION}"


def _row(result):
    recipe = result.runs[0].recipe
    published, epochs = PUBLISHED.get(recipe.model, (None, "–"))
    model = create_model(recipe.model, seed=0)
    return (
        f"`{result.name}`",
        "–" if published is None else f"{100 * published:g}%",
        f"**{_mean(result.accuracies)}**",
        f"{epochs}, {recipe.epochs}",
        f"{parameter_count(model):,}",
        f"{mult_adds(model) / 1e6:.1f} M",
        _time(60 * result.minutes, ".0f"),
        result.device,
    )


@dataclass(frozen=True)
class Race:
    """The timed trainings of one recipe, which differ in the seed, and some in the processor."""

    name: str
    one_view: tuple[float, ...]  # test accuracies in [0, 1]
    all_views: tuple[float, ...]  # of recipe.views views of each image
    ratios: tuple[float, ...]  # of its seconds to the reference's, in races that held both
    seconds: tuple[float, ...]  # of those on the processor where most of them ran
    device: str  # that one, and in which precision

    def __str__(self):
        """What the recipe can claim, in a line."""
        reached = f"{_mean(self.one_view)} one view, {_mean(self.all_views)} six"
        time = _time(statistics.median(self.seconds), ".1f")
        return f"{reached}, {_seeds(self.one_view)}; {time} on {self.device}"


def shipped_races(folder=RACES):
    """dict from recipe to Race, of the files in `folder`, the slowest first.

    Raises CifarError where those of one name differ in more than seed and processor, or share a
    seed, or were not tested on the 10,000 test images of CIFAR-10 after training on all others.
    """
    parts = {}
    for path in sorted(folder.glob("*.json")):
        race = json.loads(path.read_text())
        wanted = {"source": "cifar10", "training": 50_000, "on": "test", "tested": 10_000}
        if race["images"] != wanted:
            raise CifarError(f"{path} is not of all of CIFAR-10, but of {race['images']}")
        held = race.get("ratios", {}) if race["recipes"][-1]["name"] == REFERENCE else {}
        for row in race["recipes"]:
            recipe, count = Recipe.from_dict(row["recipe"]), len(row["seconds"]["values"])
            row["seeds"] = range(recipe.seed, recipe.seed + count)
            row["recipe"] = recipe.changed(seed=0)  # whole, also where the file lacks a new field
            row["ratio"] = held.get(row["name"], {"values": []})
            row["device"] = race["device"], race["precision"]
            row["processor"] = re.sub(r"\(\w+\)| Processor", "", race["processor"])
            parts.setdefault(row["name"], []).append(row)
    races = []
    for name, rows in parts.items():
        if any(row[key] != rows[0][key] for row in rows for key in ("recipe", "device")):
            raise CifarError(f"the races of {name} in {folder} are not of one recipe and device")
        seeds = [seed for row in rows for seed in row["seeds"]]
        if len(set(seeds)) < len(seeds):
            raise CifarError(f"two races of {name} in {folder} share a seed")
        one, several, ratios = (
            tuple(value for row in rows for value in row[key]["values"])
            for key in ("accuracy", "accuracy_views", "ratio")
        )
        seconds = {}
        for row in rows:
            seconds.setdefault(row["processor"], []).extend(row["seconds"]["values"])
        processor = max(seconds, key=lambda processor: len(seconds[processor]))
        device = ", ".join(rows[0]["device"]).replace("CPU", processor)
        races.append(Race(name, one, several, ratios, tuple(seconds[processor]), device))
    races.sort(key=lambda race: -statistics.median(race.seconds))
    return {race.name: race for race in races}


RACE_COLUMNS = (
    "recipe", "seeds", "one view", "six views", "training", f"of `{REFERENCE}`'s time", "on",
)  # fmt: skip
RACE_CAPTION = (
    "Test accuracy after the last epoch, mean ± standard deviation over seeds, of one view of each "
    "image and of six (test-time augmentation). Training is the median without evaluation, on the "
    "processor where most of the seeds ran; its share of the reference's time is the median over "
    "races in which both took turns."
)


def race_table(races):
    """The races as a Markdown table, one row a recipe, and below it what the columns mean."""
    rows = []
    for race in races.values():
        count = len(race.ratios)
        races_run = f"{count} race{'s' if count > 1 else ''}"
        ratio = f"{statistics.median(race.ratios):.2f} ({races_run})" if count else "–"
        rows.append((
            f"`{race.name}`", str(len(race.one_view)), f"**{_mean(race.one_view)}**",
            f"**{_mean(race.all_views)}**", _time(statistics.median(race.seconds), ".1f"),
            "1" if race.name == REFERENCE else ratio, race.device,
        ))  # fmt: skip
    return _markdown(RACE_COLUMNS, rows) + f"\n\n{RACE_CAPTION}"


# By name, for `cifar report`: a page holds a table between two comments that name it.
TABLES = {
    "results": lambda: table(shipped_results()),
    "races": lambda: race_table(shipped_races()),
}


def marks(name):
    """The two comments around the table of that name in a page."""
    return f"<!-- {name}: cifar report --write README.md -->", f"<!-- end of the {name} -->"


def _markdown(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _mean(values):
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}%" if len(values) > 1 else f"{mean}%"


def _seeds(runs):
    return f"{len(runs)} seeds" if len(runs) > 1 else "one seed"


def _time(seconds, form):
    return f"{seconds / 60:{form}} min" if seconds >= 60 else f"{seconds:.0f} s"
