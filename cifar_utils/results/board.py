"""The board: which recipes reach 94% or 91.5%, and how fast, on each machine that raced them.

A record is a file that `cifar bench --recipe … --against airbench94 --json FILE` writes: recipes
that trained in turn, against the clock. The board pools the records in `races/`. Seconds depend on
the machine, so what counts is the ratio to the reference that took turns on the same one. A record
stands for today's recipe only if it raced just that; those of earlier values have a list of their
own.
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cifar_utils.errors import CifarError, shown
from cifar_utils.recipes import RECIPES, Recipe
from cifar_utils.sources.sealed import reading, unseal

RACES = Path(__file__).parent / "races"
REFERENCE = "airbench94"  # the recipe whose training time is the unit for the others
VIEWS = 6  # per image, in the second accuracy of a record
SEEDS = 3  # that an accuracy needs to count
IMAGES = {"source": "cifar10", "training": 50_000, "on": "test", "tested": 10_000}
WORDS = re.compile(r"[\w .,:;()@/+#&'-]{1,80}")  # that may stand in a cell of a table
COMMIT = re.compile(r"[0-9a-f]{7,40}(-dirty)?")


class Kind(NamedTuple):
    """A kind of machine: only trainings on the same kind have seconds that can be pooled."""

    processor: str  # or the GPU
    threads: str  # "–" on a GPU
    arithmetic: str  # such as "fp32" or "bf16 with Winograd"

    def __str__(self) -> str:
        threads = "" if self.threads == "–" else f", {self.threads} threads"
        threads = threads.removesuffix("s") if self.threads == "1" else threads
        return f"{self.processor}{threads}, {self.arithmetic}"


@dataclass(frozen=True)
class Part:
    """What one record says about one recipe. The tuples hold one value per training."""

    recipe: Recipe  # with seed 0
    seeds: range
    one_view: tuple[float, ...]  # test accuracies in [0, 1], from one view per image
    six_views: tuple[float, ...]
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]  # to the reference's seconds, turn by turn; none if it did not race
    mult_adds: float | None  # of the whole training, in those of the reference's
    kind: Kind
    commit: str  # or the version, marked, if the record names no commit

    @property
    def is_of_today(self) -> bool:
        """Whether the recipe is the one that now has its name."""
        today = RECIPES.get(self.recipe.name)
        return today is not None and today.changed(seed=0) == self.recipe


def records(folder: Path = RACES) -> list[Part]:
    """The parts of all records in `folder`, by the files' names.

    Raises CifarError for a file that is damaged, not of all of CIFAR-10, not tested with six
    views, or a copy of another one.
    """
    found: dict[Part, Path] = {}
    for path in sorted(folder.glob("*.json")):
        for part in parts(path):
            if part in found:
                raise CifarError(
                    f"{path}: {found[part].name} holds its {part.recipe.name}, too; keep one of "
                    "them"
                )
            found[part] = path
    return list(found)


def parts(path: Path) -> list[Part]:
    """What a record says, recipe by recipe; raises as `records` does."""
    remedy = "`cifar bench --recipe … --json` writes one, or reinstall cifar_utils"
    with reading(path, "record of a race", remedy, ours=False):
        record = unseal(json.loads(path.read_text(encoding="utf-8")))
        if record["images"] != IMAGES:
            raise CifarError(f"it is not of all of CIFAR-10, but of {images_of(record)}")
        last = Recipe.from_dict(record["recipes"][-1]["recipe"]).changed(seed=0)
        raced = last == RECIPES[REFERENCE]  # as it is today, else nothing is relative to it
        return [part_of(record, row, raced) for row in record["recipes"]]


def images_of(record: dict[str, Any]) -> str:
    """What a record says about its images, in words."""
    known = {name: shown(record["images"][name]) for name in IMAGES}
    return (
        f"{known['training']} training images of {known['source']}, with {known['tested']} "
        f"{known['on']} images"
    )


def part_of(record: dict[str, Any], row: dict[str, Any], raced: bool) -> Part:
    """What a record says about the recipe of one of its rows.

    raced: whether it has ratios to the reference. Raises CifarError for a value that cannot be.
    """
    recipe = Recipe.from_dict(row["recipe"])  # also if the file lacks a newer field
    _words(recipe.name, "the name of a recipe")
    if recipe.views != VIEWS:
        raise CifarError(
            f"it tests {recipe.name} with views={recipe.views}, but the table is of {VIEWS}"
        )
    lengths = {len(row[key]["values"]) for key in ("seconds", "accuracy", "accuracy_views")}
    if len(lengths) > 1 or 0 in lengths:
        raise CifarError(f"its seconds and accuracies of {recipe.name} are not of the same seeds")
    ratios = record.get("ratios", {}) if raced else {}
    relative = record.get("mult_adds_ratios", {}).get(recipe.name) if raced else None
    return Part(
        recipe=recipe.changed(seed=0),
        seeds=range(recipe.seed, recipe.seed + len(row["seconds"]["values"])),
        one_view=_numbers(row["accuracy"], most=1),
        six_views=_numbers(row["accuracy_views"], most=1),
        seconds=_numbers(row["seconds"]),
        ratios=_numbers(ratios.get(recipe.name, {"values": ()})),
        mult_adds=None if relative is None else _number(relative),
        kind=_kind(record, row, recipe),
        commit=_commit(record),
    )


def _commit(record: dict[str, Any]) -> str:
    commit = _words(record.get("commit") or record.get("cifar_utils", "unknown"), "commit")
    return commit if COMMIT.fullmatch(commit) else f"{commit} †"


def _kind(record: dict[str, Any], row: dict[str, Any], recipe: Recipe) -> Kind:
    """Older records do not name the instructions that the processor has, nor the arithmetic.

    Winograd's algorithm was at first for fp32 only, and then always used.
    """
    device, _, threads = _words(record["device"], "device").partition(", ")
    on_cpu = device == "CPU"
    if on_cpu:
        name = re.sub(r"\(\w+\)| Processor", "", _words(record["processor"], "processor"))
        instructions = record.get("instructions")
        device = f"{name}, {_words(instructions, 'instructions')}" if instructions else name
    precision = _words(record["precision"], "precision")
    at_first = on_cpu and recipe.winograd and precision == "fp32"
    arithmetic = _words(row.get("arithmetic", precision + " with Winograd" * at_first),
                        "arithmetic")  # fmt: skip
    return Kind(device, threads.partition(" ")[0] or "–", arithmetic)


def _words(value: Any, what: str) -> str:
    """`value`, if it is a text that a table shows as it is."""
    if not (isinstance(value, str) and WORDS.fullmatch(value)):
        raise CifarError(f"{what} cannot be {value!r:.60}")
    return value


def _numbers(spread: dict[str, Any], most: float = math.inf) -> tuple[float, ...]:
    """The values of a spread, if all are numbers from 0 to `most`."""
    return tuple(_number(value, most) for value in spread["values"])


def _number(value: Any, most: float = math.inf) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most or value == math.inf:
        raise CifarError(f"a measurement cannot be {value!r:.60}")
    return float(value)


def by_seed(parts: Iterable[Part], of: Callable[[Part], Sequence[float]]) -> tuple[float, ...]:
    """One accuracy for each seed: the mean, if several trainings had the same."""
    found: dict[int, list[float]] = {}
    for part in parts:
        for seed, value in zip(part.seeds, of(part), strict=True):
            found.setdefault(seed, []).append(value)
    return tuple(statistics.fmean(values) for values in found.values())


# --- the lists ------------------------------------------------------------------------------------

LISTS = {
    "94%, six views per image": (lambda part: part.six_views, 0.94),
    "91.5%, one view per image": (lambda part: part.one_view, 0.915),
}
OTHERS = f"Below both, or of fewer than {SEEDS} seeds"
EARLIER = "Earlier recipes"


def standing(parts: Sequence[Part]) -> str:
    """The list for a recipe with these parts, from all kinds of machines: the first it reaches.

    It reaches a list if its mean over at least three seeds does, to a hundredth of a percent.
    """
    if not all(part.is_of_today for part in parts):
        return EARLIER
    for name, (accuracies, bar) in LISTS.items():
        values = by_seed(parts, accuracies)
        if len(values) >= SEEDS and round(statistics.fmean(values), 4) >= bar:
            return name
    return OTHERS


COLUMNS = (
    "recipe", "machine and arithmetic", f"of `{REFERENCE}`'s time", "of its mult-adds", "one view",
    "six views", "seeds", "commit",
)  # fmt: skip
CAPTION = (
    "A recipe stands in the first list that the mean of its accuracies reaches, over all machines "
    f"and at least {SEEDS} seeds. Each line is of one kind of machine and shows the mean ± the "
    "standard deviation of its own seeds. The share of the reference's time is the median over the "
    "turns that both took on one machine; that of its multiply-adds is the same on all. "
    "† is a version, from a record that names neither a commit nor what instructions the processor "
    "has."
)


def table(folder: Path = RACES) -> str:
    """The lists as Markdown tables, the fastest first, and below them what the columns mean."""
    recipes: dict[Recipe, list[Part]] = {}
    for part in records(folder):
        recipes.setdefault(part.recipe, []).append(part)
    lists: dict[str, list[tuple[float, tuple[str, ...]]]] = {name: [] for name in LISTS}
    lists |= {OTHERS: [], EARLIER: []}
    for same in recipes.values():
        kinds: dict[Kind, list[Part]] = {}
        for part in same:
            kinds.setdefault(part.kind, []).append(part)
        relative = next((part.mult_adds for part in same if part.mult_adds), None)
        lists[standing(same)] += [_line(of_a_kind, relative) for of_a_kind in kinds.values()]
    texts = []
    for name, lines in lists.items():
        rows = [cells for _, cells in sorted(lines)]
        if rows or name in LISTS:
            rows = rows or [("nobody yet", *[""] * (len(COLUMNS) - 1))]
            texts.append(f"**{name}**\n\n{markdown(COLUMNS, rows)}")
    return "\n\n".join([*texts, CAPTION])


def _line(parts: Sequence[Part], relative: float | None) -> tuple[float, tuple[str, ...]]:
    """Where it stands in its list, and the cells of the parts of one recipe on one kind.

    relative: its multiply-adds, in those of the reference's.
    """
    first = parts[0]
    ratios = [ratio for part in parts for ratio in part.ratios]
    is_reference = first.recipe.name == REFERENCE
    ratio = 1.0 if is_reference else statistics.median(ratios) if ratios else math.inf
    one_view = by_seed(parts, lambda part: part.one_view)
    return ratio, (
        f"`{first.recipe.name}`",
        str(first.kind),
        "1" if is_reference else share(ratios),
        "1" if is_reference else f"{relative:.2f}" if relative else "–",
        percent(one_view),
        percent(by_seed(parts, lambda part: part.six_views)),
        str(len(one_view)),
        ", ".join(dict.fromkeys(part.commit for part in parts)),
    )


# --- cells ----------------------------------------------------------------------------------------


def share(ratios: Sequence[float]) -> str:
    """The median of ratios to the reference's time, and over how many turns it is that."""
    if not ratios:
        return "–"
    return f"{statistics.median(ratios):.2f} ({len(ratios)} turn{'s' if len(ratios) > 1 else ''})"


def percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation of accuracies, in percent; of one alone, its value."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}%" if len(values) > 1 else f"{mean}%"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
