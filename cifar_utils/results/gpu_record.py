"""The record of a GPU report: its tasks done one after the other, and what they found as tables.

The record is written after every task. So an hour that is cut short goes on where it stopped, and a
task that fails, for want of memory say, costs nothing but itself.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cifar_utils.errors import CifarError, first_line, shown
from cifar_utils.results import bench, gpu_paths
from cifar_utils.results.gpu_report import A_COMPILATION, A_NOTEBOOK, PARTS, Report, Row
from cifar_utils.sources.sealed import check_finite, read_json, reading, write_json

KIND = "GPU report"
GOAL = 0.94


def run(
    report: Report, parts: Sequence[str], file: Path, log: Callable[[str], object] = print
) -> Row:
    """Do what `file` lacks of these parts, and return the whole record.

    Raises CifarError if `file` holds something else, or was begun on another machine, by another
    version or with other settings, and if the GPU no longer answers.
    """
    record = begin(report, file)
    log("; ".join(f"{name} {value}" for name, value in record["machine"].items()))
    if "times" in parts or "recipes" in parts:
        log("planning: a few steps of each recipe are timed")
    makers = {"paths": report.paths, "times": report.times, "recipes": report.courses,
              "notebooks": report.books}  # fmt: skip
    tasks = [task for part in PARTS if part in parts for task in makers[part]()]
    for what, reason in report.left_out.items():
        log(f"left out: {what}: {reason}")
    # fmt: off
    others = {what: reason for what, reason in record["left_out"].items()
              if what.partition(":")[0] not in parts}  # what was lacking then may be there now
    # fmt: on
    record["left_out"] = others | report.left_out
    todo = [task for task in tasks if "error" in record[task.part].get(task.name, {"error": ""})]
    todo.sort(key=lambda task: task.name in record[task.part])  # what has failed before comes last
    _tidy(report.device, file)
    left = sum(task.seconds for task in todo)
    log(
        f"{len(tasks)} tasks, {len(tasks) - len(todo)} of them done already; the rest will take "
        f"about {left / 60:.0f} min, with {A_NOTEBOOK / 60:.0f} min for a notebook and "
        f"{A_COMPILATION} s for a compilation as a guess"
    )
    for number, task in enumerate(todo, 1):
        log(f"[{number}/{len(todo)}, about {left / 60:.0f} min left] {task.part}: {task.name}")
        began = time.perf_counter()
        try:
            result = task.work()
        except Exception as error:  # of any kind, because the rest of the hour is still worth it
            result = {"error": shown(first_line(error))}
        result["seconds"] = time.perf_counter() - began
        left -= task.seconds
        record[task.part][task.name] = result
        write_json(file, record)
        log(f"    {_told(result)}, {result['seconds']:.1f} s")
        _tidy(report.device, file)
    write_json(file, record)
    return record


def begin(report: Report, file: Path) -> Row:
    """The record in `file` if it is one of the same machine and settings; a new one if none is."""
    facts = json.loads(json.dumps(report.facts()))
    if not file.exists():
        return {"kind": KIND, **facts, "left_out": {}, **{part: {} for part in PARTS}}
    with reading(file, KIND, "choose another file with --gpu-report"):
        record = read_json(file)
        groups = (*facts, "left_out", *PARTS)
        if record.keys() != {"kind", *groups} or record["kind"] != KIND:
            raise ValueError
        if not all(isinstance(record[group], dict) for group in groups):
            raise ValueError
        for group, values in facts.items():
            for name, value in values.items():
                if record[group].get(name) != value:
                    was = f", {record[group].get(name)} then and {value} now"
                    raise CifarError(
                        f"it was begun with other {name}{was * (name != 'recipes')}; choose "
                        "another file with --gpu-report"
                    )
        check_finite(record, "its")
        summary(record)  # which fails if the results have another form
    return record


def _told(result: Row) -> str:
    """How a task went, in a few words."""
    if "error" in result:
        return f"failed: {result['error']}"
    if "passed" in result:
        return (
            f"{_verdict(result)}: logits off by {result['logits']:.1e} (at most "
            f"{result['tolerances']['logits']:.1e}), gradients by {result['gradients']:.1e} (at "
            f"most {result['tolerances']['gradients']:.1e}; {result['weight']})"
        )
    if "from_start" in result:
        return f"{result['from_start']:.1f} s to {result['accuracy_views']:.2%}"
    return "done"


def _verdict(result: Row) -> str:
    return {True: "passed", False: "FAILED", None: "cannot be told"}[result["passed"]]


def _tidy(device: torch.device, file: Path) -> None:
    """Give memory back, to other processes too, and make sure that the GPU still answers."""
    gc.collect()
    if device.type != "cuda":
        return
    try:
        torch.cuda.empty_cache()
        torch.ones(1, device=device).item()
    except RuntimeError as error:
        raise CifarError(
            f"the GPU no longer answers ({first_line(error)}); give the same command again, which "
            f"goes on with what {file} lacks"
        ) from None


# --- the record as tables -------------------------------------------------------------------------


def merged(tasks: dict[str, Row], *, compiled: bool = False) -> list[Row]:
    """The rows of all races among the tasks as one race's: one row a recipe, over all seeds."""
    rows: dict[str, Row] = {}
    for name, result in tasks.items():
        if name.startswith("compiled ") != compiled:
            continue
        for row in result.get("rows", ()):
            whole = rows.setdefault(row["name"], {"name": row["name"]})
            for key, value in row.items():
                if isinstance(value, dict) and "values" in value:
                    before = whole.get(key, {"values": []})["values"]
                    whole[key] = bench.spread(before + value["values"])
    return list(rows.values())


def summary(record: Row) -> str:
    """The record for a reader: four tables, and what failed."""
    blocks = [_table_of_paths(record["paths"]), *_tables_of_times(record)]
    compiled = record["settings"]["compile"]
    if rows := [_with_words(row) for row in merged(record["recipes"], compiled=compiled)]:
        blocks.append("the recipes of the course\n" + bench.table(rows, RECIPE_COLUMNS))
    books = [
        {"name": name, "minutes": result["seconds"] / 60}
        for name, result in record["notebooks"].items() if "error" not in result
    ]  # fmt: skip
    if books:
        kind = "in quick mode" if record["settings"]["quick"] else "in full"
        columns = {f"notebook, {kind}": ("name", ""), "minutes": ("minutes", ".1f")}
        blocks.append(bench.table(books, columns))
    blocks += [f"left out: {what}: {reason}" for what, reason in record["left_out"].items()]
    blocks.append("\n".join(failures(record)) or "nothing of this failed")
    return "\n\n".join(filter(None, blocks))


def failures(record: Row) -> list[str]:
    """One line for each task that failed, and for each path that is too far from the CPU."""
    return [
        f"failed: {part}: {name}: {result.get('error', 'too far from the CPU')}"
        for part in PARTS
        for name, result in record[part].items()
        if "error" in result or result.get("passed") is False
    ]


RECIPE_COLUMNS = {
    "recipe": ("name", ""),
    "seeds": ("seeds", "d"),
    "one view": ("one_view", ""),
    "with its views": ("views", ""),
    "training, seconds": ("seconds", ".2f"),
}
TIME_COLUMNS = RECIPE_COLUMNS | {
    "from process start": ("from_start", ".1f"),
    "compiling": ("compile_seconds", ".1f"),
    "share of the last line's time": ("ratio", ".2f"),
    f"mean is {GOAL:.0%} or more": ("reached", ""),
}


def _table_of_paths(results: Row) -> str:
    rows: dict[str, Row] = {}
    for name, result in results.items():
        model, path = name.split(", ")
        worst = "failed" if "error" in result else _verdict(result)
        if "error" not in result:
            worst += f" {max(result['logits'], result['gradients']):.0e}"
        rows.setdefault(model, dict.fromkeys(gpu_paths.WAYS)).update({"name": model, path: worst})
    if not rows:
        return ""
    columns = {"network": ("name", ""), **{path: (path, "") for path in gpu_paths.WAYS}}
    title = "one step against the CPU in fp32: the larger relative error of logits and gradients"
    return f"{title}\n{bench.table(list(rows.values()), columns)}"


def _tables_of_times(record: Row) -> list[str]:
    """Warm trainings, the compiled ones apart, and what they may be compared with."""
    starts: dict[str, list[float]] = {}
    for result in record["times"].values():
        if "from_start" in result:
            starts.setdefault(result["name"], []).append(result["from_start"])
    blocks = []
    for compiled in (False, True):
        rows = merged(record["times"], compiled=compiled)
        if not rows:
            continue
        for row in rows:
            row["ratio"] = bench.ratio(row, rows[-1])
            row["reached"] = "yes" if row["accuracy_views"]["mean"] >= GOAL else "no"
            if row["name"] in starts and compiled == record["settings"]["compile"]:
                row["from_start"] = bench.spread(starts[row["name"]])
        title = "training after a warm-up" + ", compiled" * compiled
        blocks.append(f"{title}\n" + bench.table(list(map(_with_words, rows)), TIME_COLUMNS))
    test = record["times"].get("six-view test", {}).get("seconds_of_test")
    if blocks and test:
        blocks.append(
            f"The six-view test takes {test['median']:.2f} s more. The published 2.59 s "
            "(airbench94_muon.py, github.com/KellerJordan/cifar10-airbench) and 1.99 s "
            "(hiverge.ai/blog/cifar-speedrun), both on an A100, include it. Neither script ran "
            "here, so nothing here says who is ahead of whom."
        )
    return blocks


def _with_words(row: Row) -> Row:
    """A merged row with its accuracies as text: mean ± standard deviation over the seeds."""

    def words(values: list[float]) -> str:
        spread = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.2%}{spread}"

    return {"from_start": None, "ratio": None, "reached": ""} | row | {
        "seeds": len(row["seconds"]["values"]),
        "one_view": words(row["accuracy"]["values"]),
        "views": words(row["accuracy_views"]["values"]),
    }  # fmt: skip
