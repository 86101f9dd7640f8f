"""Whether a record for the board is complete, whole and plausible: one line for each check.

A digest finds accidents, not intent, and whoever can edit a record can also make up its times. The
checks find what honest mistakes look like: an edited file, a race on part of the data, turns that
were not taken on one machine, a ratio that its own seconds contradict.
"""

import json
import statistics
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from cifar_utils.errors import CifarError
from cifar_utils.machine import PRECISIONS
from cifar_utils.recipes import RECIPES, Recipe
from cifar_utils.results import board
from cifar_utils.results.bench import mult_adds_ratios, ratio, spread
from cifar_utils.results.board import COMMIT, IMAGES, REFERENCE, SEEDS, images_of, part_of
from cifar_utils.results.operations import training_mult_adds
from cifar_utils.sources.sealed import reading, unseal

Record = dict[str, Any]

# What `cifar bench --json` writes about a race, and about each of its recipes.
FIELDS = ("device", "processor", "instructions", "threads", "precision", "system", "python",
          "torch", "cifar_utils", "commit", "date", "images", "recipes", "ratios",
          "mult_adds_ratios")  # fmt: skip
SPREADS = ("began", "seconds", "compile_seconds", "augmentation_share", "accuracy",
           "accuracy_views")  # fmt: skip


def verify(path: Path) -> list[tuple[str, bool, str]]:
    """(what was checked, whether it is in order, what was found), check by check.

    Raises CifarError if `path` is no JSON file with a dict in it.
    """
    with reading(
        path, "record of a race", "`cifar bench --recipe … --json` writes one", ours=False
    ):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
    return [(what, *_tried(check, record)) for what, check in CHECKS.items()]


def _tried(check: Callable[[Record], str], record: Record) -> tuple[bool, str]:
    try:
        return True, check(record)
    except CifarError as error:
        return False, str(error)
    except KeyError as error:
        return False, f"it lacks {error.args[0]}"
    except Exception:  # a stranger's file may hold anything anywhere
        return False, "it holds something of another form"


def _digest(record: Record) -> str:
    if "digest" not in record:
        raise CifarError("it has none; versions before 0.2 wrote none")
    unseal(record)
    return "fits"


def _fields(record: Record) -> str:
    lacks = [name for name in FIELDS if name not in record]
    for row in record["recipes"]:
        lacks += [f"{name} of {row['name']}"
                  for name in ("mult_adds", "arithmetic", *SPREADS) if name not in row]  # fmt: skip
    if lacks:
        raise CifarError(f"it lacks {', '.join(lacks)}")
    for row in record["recipes"]:
        part_of(record, row, raced=True)
    threads, precision = record["threads"], record["precision"]
    if type(threads) is not int or threads < 1 or precision not in PRECISIONS[1:]:
        raise CifarError(f"it ran on {threads!r} threads in {precision!r}")
    return f"all there; {datetime.fromisoformat(record['date']):%d %B %Y}"


def _commit(record: Record) -> str:
    commit = record["commit"]
    if not COMMIT.fullmatch(commit):
        raise CifarError(f"{commit!r:.60} is not a commit; race in a clone of the repository")
    if commit.endswith("-dirty"):
        raise CifarError("the code had changes that no commit holds; commit them and race again")
    return commit


def _images(record: Record) -> str:
    if record["images"] != IMAGES:
        raise CifarError(
            f"not all of CIFAR-10, but {images_of(record)}; race on the real data with "
            "--validation 0 and without --limit"
        )
    return "all 50,000 to train on, all 10,000 test images"


def _recipes(record: Record) -> str:
    recipes = _loaded(record)
    names = [recipe.name for recipe in recipes]
    if names != [row["name"] for row in record["recipes"]] or len(set(names)) < len(names):
        raise CifarError("they need different names")
    if len(recipes) < 2 or names[-1] != REFERENCE:
        raise CifarError(f"they do not end with {REFERENCE}; race --against {REFERENCE}")
    for recipe in recipes:
        if RECIPES.get(recipe.name) != recipe.changed(seed=0):
            raise CifarError(
                f"{recipe.name} is not a recipe of this version; give yours a row in recipes.py "
                "with a name of its own"
            )
        if recipe.views != board.VIEWS:
            raise CifarError(f"{recipe.name} must be tested with --views {board.VIEWS}")
        if recipe.start_from or recipe.teacher or recipe.epochs_before:
            raise CifarError(f"{recipe.name} uses trained weights, whose time nobody counted")
    return ", ".join(names)


def _loaded(record: Record) -> list[Recipe]:
    return [Recipe.from_dict(row["recipe"]) for row in record["recipes"]]


def _seeds(record: Record) -> str:
    counts = {len(row[key]["values"]) for row in record["recipes"] for key in SPREADS if key in row}
    if len(counts) != 1:
        raise CifarError("not every recipe has as many values of each kind")
    (count,) = counts
    if count < SEEDS:
        raise CifarError(
            f"{count} of each recipe, but an accuracy needs {SEEDS}; race with --repeats {SEEDS}"
        )
    return f"{count} of each recipe"


def _values(record: Record) -> str:
    for row in record["recipes"]:
        for key in SPREADS:
            if key not in row:  # which the check of the fields tells
                continue
            measured = row[key]
            if not _is_summary(measured, spread(measured["values"])):
                raise CifarError(f"{key} of {row['name']} is not the summary of its values")
            for value in measured["values"]:
                right = record["images"]["tested"] * value  # images, so a whole number
                fits = value > 0 if key == "seconds" else value >= 0
                if key.startswith("accuracy"):
                    fits = 0 <= value <= 1 and abs(right - round(right)) < 1e-6
                if type(value) is not float or not fits or value == float("inf"):
                    raise CifarError(f"{key} of {row['name']} cannot be {value!r:.60}")
    return "in their ranges, and their summaries are correct"


def _is_summary(measured: Record, told: Record) -> bool:
    """Whether a spread says what it should; a newer version's may say more."""
    return all(measured.get(name) == told[name] for name in told)


def _turns(record: Record) -> str:
    """Each training begins when the one before it has had the time it claims."""
    rows, free = record["recipes"], 0.0
    for turn in range(len(rows[0]["began"]["values"])):
        for row in rows:
            began, seconds = row["began"]["values"][turn], row["seconds"]["values"][turn]
            if began < free:
                raise CifarError(f"{row['name']} began before the previous training had ended")
            free = began + seconds
    return "taken one after the other, on one clock"


def _ratios(record: Record) -> str:
    *rows, other = record["recipes"]
    told, measured = {row["name"]: ratio(row, other) for row in rows}, record["ratios"]
    if measured.keys() != told.keys() or not all(_is_summary(measured[n], told[n]) for n in told):
        raise CifarError("they are not those of the seconds")
    medians = [f"{name} {found['median']:.2f}" for name, found in measured.items()]
    return f"{', '.join(medians)}, as the seconds say"


def _mult_adds(record: Record) -> str:
    try:  # another recipe might have a million epochs, which would take a day to count
        _recipes(record)
        _images(record)
    except CifarError:
        raise CifarError("not counted, as recipes or images are not in order") from None
    *rows, other = record["recipes"]
    for row, recipe in zip(record["recipes"], _loaded(record), strict=True):
        if row["mult_adds"] != training_mult_adds(recipe, record["images"]["training"]):
            raise CifarError(f"those of {recipe.name} are not what is counted here")
    if record["mult_adds_ratios"] != mult_adds_ratios(rows, other):
        raise CifarError("their ratios are not those of the counts")
    return "as counted here"


CHECKS: dict[str, Callable[[Record], str]] = {
    "digest": _digest,
    "fields": _fields,
    "commit": _commit,
    "images": _images,
    "recipes": _recipes,
    "seeds": _seeds,
    "values": _values,
    "turns": _turns,
    "ratios": _ratios,
    "multiply-adds": _mult_adds,
}


def standings(path: Path) -> list[str]:
    """One line for each recipe of a record that `verify` passes: the list that it would stand in.

    That is by this record alone. Raises CifarError as `board.parts` does.
    """
    return [
        f"{part.recipe.name}: {board.standing([part])}, "
        f"with {100 * statistics.fmean(part.one_view):.2f}% from one view and "
        f"{100 * statistics.fmean(part.six_views):.2f}% from six"
        for part in board.parts(path)[:-1]
    ]
