"""The board of the races, and what `cifar bench --verify` says about a record for it."""

import copy
import json
import math
from dataclasses import replace

import pytest
from cli_helpers import refused

from cifar_utils.cli.main import main
from cifar_utils.errors import CifarError
from cifar_utils.recipes import RECIPES
from cifar_utils.results import board
from cifar_utils.results.operations import training_mult_adds
from cifar_utils.results.verify import verify
from cifar_utils.sources.sealed import write_json

FAST, QUICK, REFERENCE = (RECIPES[name] for name in ("fast", "quick", "airbench94"))


def spread(values):
    """By hand, of three values."""
    low, middle, high = sorted(values)
    return {"median": middle, "mean": math.fsum(values) / 3, "lowest": low, "highest": high,
            "values": values}  # fmt: skip


def row(recipe, seconds, one, six, began):
    """What one recipe did in three turns."""
    nothing = spread([0.0, 0.0, 0.0])
    way = "bf16 with Winograd" if recipe.winograd else "bf16"
    return {"name": recipe.name, "recipe": recipe.as_dict(), "seconds": spread(seconds),
            "arithmetic": way,
            "accuracy": spread(one), "accuracy_views": spread(six), "began": spread(began),
            "compile_seconds": nothing, "augmentation_share": nothing}  # fmt: skip


def record(*rows, **others):
    """A record as it is written now, without multiply-adds."""
    *raced, reference = rows
    ratios = {one["name"]: [a / b for a, b in zip(one["seconds"]["values"],
              reference["seconds"]["values"], strict=True)] for one in raced}  # fmt: skip
    told = {
        "device": "CPU, 2 threads", "processor": "Brand(R) Chip(TM) Processor",
        "instructions": "AVX2", "threads": 2, "precision": "bf16", "system": "Linux x86_64",
        "python": "3.13.0", "torch": "2.14.1", "cifar_utils": "0.3.0", "commit": "abc1234",
        "date": "2026-12-01T10:00:00+00:00", "images": board.IMAGES, "recipes": list(rows),
        "ratios": {name: spread(values) for name, values in ratios.items()},
        "mult_adds_ratios": dict.fromkeys(ratios, 0.5),
    }  # fmt: skip
    return told | others


def ours(recipe=FAST, one=(0.93, 0.93, 0.93), six=(0.94, 0.939, 0.941)):
    return row(recipe, [60.0, 50.0, 70.0], list(one), list(six), [0.0, 200.0, 400.0])


THEIRS = row(REFERENCE, [100.0] * 3, [0.93] * 3, [0.94] * 3, [80.0, 290.0, 480.0])
OTHERS = row(REFERENCE, [100.0] * 3, [0.93] * 3, [0.95] * 3, [80.0, 290.0, 480.0])


def lists(folder):
    """The cells of each line of the board, list by list."""
    found = {}
    for part in board.table(folder).split("\n\n**"):
        title, _, text = part.partition("**\n\n")
        lines = text.partition("\n\n")[0].splitlines()
        found[title.strip("*")] = [line.strip("| ").split(" | ") for line in lines[2:]]
    return found


def test_a_line_holds_what_its_records_do(tmp_path):
    write_json(tmp_path / "a.json", record(ours(), THEIRS))
    first, second = lists(tmp_path)["94%, six views per image"]
    assert first == ["`fast`", "Brand Chip, AVX2, 2 threads, bf16 with Winograd", "0.60 (3 turns)",
                     "0.50", "93.00 ± 0.00%", "94.00 ± 0.10%", "3", "abc1234"]  # fmt: skip
    assert second[0] == "`airbench94`" and second[2:4] == ["1", "1"]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (ours(six=[0.9399, 0.9400, 0.9401]), "94%, six views per image"),
        (ours(six=[0.9397, 0.9400, 0.9401], one=[0.93] * 3), "91.5%, one view per image"),
        (ours(QUICK, one=[0.9149, 0.915, 0.9151], six=[0.92] * 3), "91.5%, one view per image"),
        (ours(QUICK, one=[0.9147, 0.915, 0.9151], six=[0.92] * 3), board.OTHERS),
        (ours(FAST.changed(epochs=7)), board.EARLIER),
        (ours(FAST.changed(name="mine")), board.EARLIER),
    ],
)
def test_a_recipe_stands_in_the_first_list_that_its_mean_reaches(tmp_path, row, wanted):
    write_json(tmp_path / "a.json", record(row, THEIRS))
    name = f"`{row['name']}`"
    standing = [title for title, lines in lists(tmp_path).items() if name in [x[0] for x in lines]]
    assert standing == [wanted]


def few(recipe, **others):
    """A record of before 0.2, of one training."""
    values = {"seconds": 80.0, "accuracy": 0.93, "accuracy_views": 0.945}
    row = {key: {"values": [value]} for key, value in values.items()}
    told = {"device": "CPU, 1 thread", "processor": "Old", "precision": "fp32",
            "cifar_utils": "0.1.0", "images": board.IMAGES}  # fmt: skip
    values = recipe.as_dict()
    values["vector_rate"] = values.pop("bias_lr_factor")  # as it was called then
    return told | {"recipes": [{"name": recipe.name, "recipe": values, **row}]} | others


def test_old_records_show_what_they_have_and_seeds_of_all_machines_count(tmp_path):
    for seed, change in enumerate(({}, {"processor": "New"}, {"device": "GPU X"})):
        write_json(tmp_path / f"{seed}.json", few(FAST.changed(seed=seed), **change))
        lines = lists(tmp_path)[next(iter(board.LISTS)) if seed == 2 else board.OTHERS]
        assert len(lines) == seed + 1  # in the list from the third seed on
    assert sorted(lines) == [
        ["`fast`", machine, "–", "–", "93.00%", "94.50%", "1", "0.1.0 †"]
        for machine in (
            "GPU X, fp32",
            "New, 1 thread, fp32 with Winograd",
            "Old, 1 thread, fp32 with Winograd",
        )
    ]
    write_json(tmp_path / "new.json", record(ours(), THEIRS))  # the others are fast's, too
    assert {line[3] for line in lists(tmp_path)["94%, six views per image"]} == {"0.50", "1"}


def test_the_fastest_comes_first_and_a_seed_counts_once(tmp_path):
    slow = replace(FAST, seed=0)
    write_json(tmp_path / "slow.json", record(ours(slow), THEIRS, processor="A"))
    swift = ours(slow, six=[0.96] * 3)
    swift["seconds"] = spread([30.0, 31.0, 29.0])
    write_json(tmp_path / "swift.json", record(swift, THEIRS, processor="B"))
    write_json(tmp_path / "swift-again.json", record(ours(slow), OTHERS, processor="B"))
    lines = lists(tmp_path)["94%, six views per image"]
    assert [line[1] for line in lines if line[0] == "`fast`"] == [
        f"{name}, AVX2, 2 threads, bf16 with Winograd" for name in "BA"
    ]
    assert lines[0][2:7] == ["0.41 (6 turns)", "0.50", "93.00 ± 0.00%", "95.00 ± 0.05%", "3"]


def test_turns_with_a_reference_of_earlier_values_give_no_ratio(tmp_path):
    """Its seconds are not those of the recipe that now has the name."""
    earlier = row(RECIPES[REFERENCE.name].changed(epochs=9), [100.0] * 3, [0.93] * 3, [0.95] * 3,
                  THEIRS["began"]["values"])  # fmt: skip
    write_json(tmp_path / "a.json", record(ours(), earlier))
    (line,) = lists(tmp_path)["94%, six views per image"]
    assert line[0] == "`fast`" and line[2:4] == ["–", "–"]


def test_a_record_with_a_value_too_few_is_one_line(tmp_path):
    for values in ([0.93, 0.93], []):
        short = ours()
        short["accuracy"] = {"values": values}
        write_json(tmp_path / "a.json", record(short, THEIRS))
        with pytest.raises(CifarError, match="accuracies of fast are not of the same seeds"):
            board.table(tmp_path)


def test_a_record_is_counted_once(tmp_path):
    for name in ("a", "b"):
        write_json(tmp_path / f"{name}.json", record(ours(), THEIRS))
    with pytest.raises(CifarError, match=r"b\.json: a\.json holds its fast, too; keep one of"):
        board.table(tmp_path)


def test_every_record_that_ships_stands_somewhere():
    """And those of other values than today's among the earlier ones."""
    found = lists(board.RACES)
    names = {line[0].strip("`") for lines in found.values() for line in lines} - {"nobody yet"}
    assert names == {part.recipe.name for part in board.records()}
    for part in board.records():
        earlier = f"`{part.recipe.name}`" in [x[0] for x in found.get(board.EARLIER, [])]
        assert earlier or part.recipe == RECIPES[part.recipe.name]


def test_one_command_prints_the_board_alone(capsys):
    main(["report", "--table", "board"])
    assert capsys.readouterr().out == board.table() + "\n"
    assert "choose one of results, board" in refused(capsys, "report", "--table", "x")


# --- verify ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good():
    """A record that is in order."""
    rows = ours(), copy.deepcopy(THEIRS)
    for one, recipe in zip(rows, (FAST, REFERENCE), strict=True):
        one["mult_adds"] = training_mult_adds(recipe)
    ratio = rows[0]["mult_adds"] / rows[1]["mult_adds"]
    return record(*rows, mult_adds_ratios={"fast": ratio})


def test_a_record_in_order_is_told_its_list(good, tmp_path, capsys):
    write_json(tmp_path / "a.json", good)
    assert all(fine for _, fine, _ in verify(tmp_path / "a.json"))
    main(["bench", "--verify", str(tmp_path / "a.json")])
    printed = capsys.readouterr().out
    assert "digest         ok   fits" in printed and "fast 0.60" in printed
    assert "fast: 94%, six views per image, with 93.00% from one view and 94.00%" in printed


def forget(*path):
    def change(told):
        *way, last = path
        for key in way:
            told = told[key]
        del told[last]

    return change


def put(value, *path):
    def change(told):
        *way, last = path
        for key in way:
            told = told[key]
        told[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "what", "complaint"),
    [
        (forget("threads"), "fields", "it lacks threads"),
        (forget("recipes", 0, "mult_adds"), "fields", "it lacks mult_adds of fast"),
        (put("2", "threads"), "fields", "it ran on '2' threads"),
        (put("yesterday", "date"), "fields", "of another form"),
        (put(None, "processor"), "fields", "processor cannot be None"),
        (put("A | B", "processor"), "fields", "processor cannot be 'A | B'"),
        (put(["bf16"], "recipes", 0, "arithmetic"), "fields", "arithmetic cannot be ['bf16']"),
        (put("`x`\n", "recipes", 0, "recipe", "name"), "fields", "the name of a recipe cannot be"),
        (put("\x1b[31m", "commit"), "fields", "commit cannot be"),
        (put("0.2.0", "commit"), "commit", "'0.2.0' is not a commit; race in a clone"),
        (put("abc1234-dirty", "commit"), "commit", "changes that no commit holds"),
        (put({**board.IMAGES, "tested": 1000}, "images"), "images", "--validation 0"),
        (put(1, "recipes", 0, "recipe", "mood"), "recipes", "unknown recipe field 'mood'"),
        (put(7, "recipes", 1, "recipe", "epochs"), "recipes", "airbench94 is not a recipe of this"),
        (put(10**9, "recipes", 0, "recipe", "epochs"), "recipes", "fast is not a recipe of this"),
        (put(10**9, "recipes", 0, "recipe", "epochs"), "multiply-adds", "not counted"),
        (lambda told: told["recipes"].pop(), "recipes", "do not end with airbench94"),
        (lambda told: told["recipes"].insert(0, told["recipes"][0]), "recipes", "different names"),
        (put([1.0, 2.0], "recipes", 0, "accuracy", "values"), "seeds", "as many values"),
        (put(0.9, "recipes", 0, "accuracy", "mean"), "values", "not the summary of its values"),
        (put(spread([0.93, 0.93005, 0.93]), "recipes", 0, "accuracy"), "values", "0.93005"),
        (put(spread([0.93, 1.2, 0.93]), "recipes", 0, "accuracy_views"), "values", "be 1.2"),
        (put(spread([1.0, 0.0, 2.0]), "recipes", 0, "seconds"), "values", "cannot be 0.0"),
        (put(spread([79.0, 290.0, 480.0]), "recipes", 1, "began"), "turns", ""),
        (put(spread([0.0, 20.0, 40.0]), "recipes", 0, "began"), "turns", "fast began before"),
        (put([0.6, 0.5, 0.6], "ratios", "fast", "values"), "ratios", "not those of the seconds"),
        (put(0.1, "ratios", "fast", "median"), "ratios", "not those of the seconds"),
        (forget("recipes", 0, "seconds", "mean"), "values", "not the summary of its values"),
        (put(1.0, "recipes", 0, "mult_adds"), "multiply-adds", "not what is counted here"),
        (put(0.4, "mult_adds_ratios", "fast"), "multiply-adds", "not those of the counts"),
        (put(None, "recipes"), "recipes", "of another form"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_record_is_told(good, tmp_path, change, what, complaint):
    told = copy.deepcopy(good)
    change(told)
    write_json(tmp_path / "a.json", told)
    failed = {name: found for name, fine, found in verify(tmp_path / "a.json") if not fine}
    if complaint:
        assert complaint in failed[what]
    else:
        assert not failed


def test_an_edited_record_fails_by_its_digest_and_one_without_says_so(good, tmp_path, capsys):
    file = tmp_path / "a.json"
    write_json(file, good)
    file.write_text(file.read_text().replace("0.941", "0.951"))
    line = refused(capsys, "bench", "--verify", file)
    assert line.endswith("a.json is not a record for the board: see digest, values")
    file.write_text(json.dumps(good))
    assert "see digest" in refused(capsys, "bench", "--verify", file)


def test_too_few_turns_are_too_few(good, tmp_path):
    file = next(board.RACES.glob("seed-3.json"))
    found = {name: (fine, told) for name, fine, told in verify(file)}
    assert found["seeds"] == (
        False,
        "1 of each recipe, but an accuracy needs 3; race with --repeats 3",
    )
    assert found["images"][0] and found["recipes"][0]
    assert not found["digest"][0] and "lacks instructions, threads, commit" in found["fields"][1]


def test_what_is_no_record_at_all_is_one_line(tmp_path, capsys):
    file = tmp_path / "a.json"
    assert "there is no such record" in refused(capsys, "bench", "--verify", file)
    file.write_text("[]")
    assert "it is damaged, or not a record of a race" in refused(capsys, "bench", "--verify", file)
    file.write_text("{}")
    assert "not a record for the board" in refused(capsys, "bench", "--verify", file)
    line = refused(capsys, "bench", "--verify", file, "--recipe", "fast")
    assert "--recipe does nothing with --verify" in line
    line = refused(capsys, "bench", "--verify", file, "--repeats", "3")
    assert "--repeats does nothing with --verify" in line


@pytest.mark.slow
def test_bench_writes_records_that_verify_apart_from_what_is_missing_here(arrays, tmp_path):
    file = tmp_path / "race.json"
    main(["bench", "--recipe", "compact", "--against", "airbench94", "--limit", "10", *arrays,
          "--validation", "0", "--repeats", "2", "--epochs", "1", "--batch-size", "10",
          "--views", "6", "--precision", "fp32", "--json", str(file)])  # fmt: skip
    failed = {name for name, fine, _ in verify(file) if not fine}
    wanted = {"images", "seeds", "recipes", "multiply-adds"}  # the last for want of the others
    assert wanted <= failed <= wanted | {"commit"}
