"""The results: what the shipped runs reached, beside what the networks' authors did."""

import statistics
from dataclasses import dataclass

from cifar_utils.checkpoints import PRETRAINED
from cifar_utils.history import History
from cifar_utils.models import create_model, mult_adds, parameter_count

# Test accuracy and epochs of the five systems: the best that their own logs show.
PUBLISHED = {
    "vgg": (0.811, 15),
    "conv5": (0.8760, 400),
    "compact": (0.8931, 100),
    "separable": (0.8474, 80),
    "resnet18": (0.9298, 25),
}
START, END = "<!-- results: cifar report --write README.md -->", "<!-- end of the results -->"


@dataclass(frozen=True)
class Result:
    """The shipped runs of one recipe, which differ in the seed alone."""

    name: str
    runs: tuple[History, ...]

    @property
    def accuracy(self):
        """Mean test accuracy after the last epoch, in [0, 1]."""
        return statistics.mean(run.test["top1"] for run in self.runs)

    @property
    def spread(self):
        """Standard deviation of the runs' test accuracies; None for a single run."""
        accuracies = [run.test["top1"] for run in self.runs]
        return statistics.stdev(accuracies) if len(accuracies) > 1 else None

    @property
    def minutes(self):
        """Training time of the first run: its epochs times their median; a pause hardly counts.

        Epochs on small images, where the recipe has any, and those on whole ones count apart.
        """
        run, seconds = self.runs[0], {True: [], False: []}
        for row in run.epochs[1:]:
            small = row.epoch / run.recipe.epochs <= run.recipe.small_until
            seconds[small].append(row.seconds)
        return sum(statistics.median(part) * len(part) for part in seconds.values() if part) / 60

    @property
    def device(self):
        """Where the first run was trained, and in which precision."""
        return f"{self.runs[0].device}, {self.runs[0].precision}"

    def __str__(self):
        """What the recipe can claim, in a line."""
        runs = f", {len(self.runs)} seeds" if len(self.runs) > 1 else ", one seed"
        return f"{_percent(self)}{runs}; {_time(self)} on {self.device}"


def shipped_results(folder=PRETRAINED):
    """dict from recipe to Result, of the histories in `folder`, in the order of PUBLISHED.

    Runs with a validation split are left out: they helped to choose, and were not tested. Raises
    ValueError where runs under one name differ in more than the seed. Used in notebook 04.
    """
    runs = {}
    for path in folder.glob("*.json"):
        history = History.load(path)
        if history.val_images:
            continue
        runs.setdefault(history.recipe.name, []).append(history)
    for name, same in runs.items():
        if len({run.recipe.changed(seed=0) for run in same}) > 1:
            raise ValueError(f"the runs of {name} in {folder} are not of one recipe")
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
    "Ours is the test accuracy after the last epoch, of one view of each image; ± is the standard "
    "deviation over seeds. Published is the best that the authors' own logs show."
)


def table(results):
    """The results as a Markdown table, one row a recipe, and below it what the columns mean."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(_row, results.values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\n{CAPTION}"


def _row(result):
    recipe = result.runs[0].recipe
    published, epochs = PUBLISHED.get(recipe.model, (None, "–"))
    model = create_model(recipe.model, seed=0)
    return (
        f"`{result.name}`",
        "–" if published is None else f"{100 * published:g}%",
        f"**{_percent(result)}**",
        f"{epochs}, {recipe.epochs}",
        f"{parameter_count(model):,}",
        f"{mult_adds(model) / 1e6:.1f} M",
        _time(result),
        result.device,
    )


def _percent(result):
    if result.spread is None:
        return f"{result.accuracy:.2%}"
    return f"{100 * result.accuracy:.2f} ± {100 * result.spread:.2f}%"


def _time(result):
    minutes = result.minutes
    return f"{minutes:.0f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
