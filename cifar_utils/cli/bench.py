"""`cifar bench`: measure how fast recipes, networks and augmentations are on this machine."""

from argparse import Namespace

from cifar_utils.cli.options import (
    Subparsers,
    add_data,
    add_machine,
    add_recipe_fields,
    checked_recipe,
    command,
    flag_of,
    load,
    path,
    positive,
    recipe_changes,
    writable_file,
)
from cifar_utils.errors import CifarError, choose, shown
from cifar_utils.recipes import get_recipe
from cifar_utils.sources.sealed import write_json


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "bench",
        "measure how fast recipes, networks and augmentations are on this machine", run,
        example="cifar bench --recipe fast quick --against airbench94 --json bench.json",
    )
    parser.usage = "cifar bench [--recipe NAME ...] [options]"
    flag = parser.add_argument
    flag("--recipe", nargs="+", metavar="NAME",
         help="train each of these recipes to its end, in turn, and print seconds and accuracy; "
         "without --recipe, loading, augmentations and networks are timed, the networks in fp32 "
         "and, if it is another, in --precision")
    flag("--against", metavar="NAME",
         help="one more recipe in the race, with whose time the others' are compared")
    flag("--repeats", type=positive, metavar="N",
         help="trainings per recipe, each with the next seed (default: 3)")
    flag("--models", nargs="*", metavar="NAME", help="networks to time (default: all)")
    flag("--augmentations", nargs="*", metavar="NAME", help="policies to time (default: all)")
    flag("--loading", action="store_true",
         help="time how long the official files take to load, the first time and again")
    flag("--quick", action="store_true",
         help="time two steps of 16 images each: enough to see that it works, but the times mean "
         "little")
    flag("--json", type=path, metavar="FILE", help="also write all results to FILE")
    # fmt: on
    add_data(parser)
    add_machine(parser, compile=True)
    add_recipe_fields(
        parser,
        "Each replaces that value in all recipes of --recipe. Only --seed also changes the recipe "
        "of --against.",
    )


def run(options: Namespace) -> None:
    from cifar_utils.machine import pick_device, pick_precision
    from cifar_utils.results import bench

    _check_bench(options)
    recipes = [checked_recipe(options, name) for name in options.recipe or ()]
    if options.against:
        # It keeps all its values but the seed: a race that is run again needs new runs of both.
        recipes.append(get_recipe(options.against).changed(seed=recipes[0].seed))
    device = pick_device(options.device)
    precision = pick_precision(options.precision, device)
    results = bench.machine(device, precision)
    print("; ".join(f"{name} {value}" for name, value in results.items()))
    if recipes:
        results |= _race(options, recipes, device, precision)
    else:
        results |= _throughput(options, device, precision)
    if options.json:
        write_json(options.json, results)
        print(f"written: {shown(options.json)}")


def _check_bench(options):
    """Refuse options that do not go together, and unknown names."""
    from cifar_utils.augment import operations
    from cifar_utils.models import MODELS

    if options.json:
        writable_file(options.json, "--json")
    for name in ("against", "repeats", "data", "source", "limit", "validation", "compile"):
        if not options.recipe and _given(options, name):
            raise CifarError(f"--{name} needs --recipe")
    for name in recipe_changes(options):
        if not options.recipe:
            raise CifarError(f"{flag_of(name)} needs --recipe")
    for name in ("models", "augmentations", "loading", "quick"):
        if options.recipe and _given(options, name):
            raise CifarError(
                f"--{name} does not go with --recipe; --epochs and --limit shorten its training"
            )
    for policy in options.augmentations or ():
        operations(policy)
    for name in options.models or ():
        choose(name, MODELS, "model")


def _given(options, name):
    value = getattr(options, name)
    return value is not None and value is not False and value != "auto"  # 0 and [] are given


def _race(options, recipes, device, precision):
    from cifar_utils.results import bench

    cifar = load(options)
    rows = bench.race(
        recipes, cifar, repeats=options.repeats or 3, device=device, precision=precision,
        compile=options.compile,
    )  # fmt: skip
    on = "validation" if len(cifar.val) else "test"
    images = {"source": cifar.source, "training": len(cifar.train), "on": on,
              "tested": len(cifar.val) or len(cifar.test)}  # fmt: skip
    results = {"images": images, "recipes": rows}
    print(f"\naccuracy on the {on} images of {cifar.source}; seeds from {recipes[0].seed} on")
    columns = bench.RACE_COLUMNS | (bench.COMPILE_COLUMN if options.compile else {})
    print(bench.table(rows, columns))
    if options.against:
        *rows, other = rows
        results["ratios"] = {row["name"]: bench.ratio(row, other) for row in rows}
        for row in rows:
            times = bench.cell(results["ratios"][row["name"]], ".2f")
            reached = " against ".join(
                f"{one['accuracy_views']['mean']:.2%}" for one in (row, other)
            )
            print(
                f"{row['name']} takes {times} times as long as {other['name']}, to {reached} on "
                "average"
            )
    return results


def _throughput(options, device, precision):
    """Time loading, augmentations and networks: all of them, or those that were asked for."""
    from cifar_utils.augment import AUGMENTATIONS
    from cifar_utils.data import default_root, official_folder
    from cifar_utils.machine import bf16_speedup
    from cifar_utils.models import MODELS
    from cifar_utils.results import bench

    everything = options.models is None and options.augmentations is None and not options.loading
    short = {"images": 16, "times": 2} if options.quick else {}
    results = {}
    if everything or options.loading:
        if folder := official_folder(default_root()):
            results["loading"] = bench.time_loading(folder)
            print("\n" + bench.table(results["loading"], bench.LOADING_COLUMNS))
        else:
            print(f"\nloading is not timed: {shown(default_root())} does not hold CIFAR-10's files")
    if everything or options.augmentations is not None:
        policies = options.augmentations or AUGMENTATIONS
        results["augmentations"] = bench.time_augmentations(policies, device, **short)
        print("\n" + bench.table(results["augmentations"], bench.AUGMENTATION_COLUMNS))
    if everything or options.models is not None:
        precisions = dict.fromkeys(("fp32", precision))  # a second one only if it is another
        models = options.models or MODELS
        results["models"] = bench.time_models(models, device, precisions, **short)
        print("\n" + bench.table(results["models"], bench.MODEL_COLUMNS))
        if device.type == "cpu":
            results["bf16_speedup"] = faster = bf16_speedup()
            hint = "" if len(precisions) > 1 else "; --precision bf16 times the networks in both"
            print(f"\na small training step in bf16 is {faster:.2g} times as fast as in fp32{hint}")
    return results
