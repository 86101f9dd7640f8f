"""`cifar bench`: measure how fast recipes, networks and augmentations are on this machine."""

import sys
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

OF_A_RACE = ("against_file", "repeats", "data", "source", "limit", "validation", "compile")


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
         help="one more recipe in the race; its time is the yardstick for the others")
    flag("--against-file", type=path, metavar="FILE",
         help="the authors' own airbench94_muon.py as one more competitor and yardstick; from "
         "github.com/KellerJordan/cifar10-airbench. This runs the file. cuda and half are replaced "
         "by what the device has, and on a CPU its torch.compile is off without --compile")
    flag("--repeats", type=positive, metavar="N",
         help="trainings per recipe, each with the next seed (default: 3)")
    flag("--operations", action="store_true",
         help="train nothing, but count the multiply-adds of each recipe's whole training on "
         "50,000 images, which takes seconds; races count them, too. Forward and backward, each "
         "convolution as a direct one, without augmentation and optimizer")
    flag("--models", nargs="*", metavar="NAME", help="networks to time (default: all)")
    flag("--augmentations", nargs="*", metavar="NAME", help="policies to time (default: all)")
    flag("--loading", action="store_true",
         help="time how long the official files take to load, the first time and again")
    flag("--quick", action="store_true",
         help="time two steps of 16 images each: enough to see that it works, but the times mean "
         "little")
    flag("--verify", type=path, metavar="FILE",
         help="measure nothing, but say whether FILE, which --json wrote about a race, is a record "
         "for the board: complete, whole and plausible; exit status 2 if it is not")
    flag("--json", type=path, metavar="FILE", help="also write all results to FILE")
    flag("--gpu-report", type=path, metavar="FILE",
         help="measure all that an hour on a GPU can show, and write it to FILE after each step: "
         "every path against the CPU, --repeats seeds of --recipe and --against (50), the five "
         "recipes of the course, the notebooks; the same command goes on with what FILE lacks; "
         "--device cpu --quick is a trial of it")
    flag("--parts", nargs="+", metavar="PART",
         help="only these parts of --gpu-report: paths, times, recipes, notebooks")
    # fmt: on
    add_data(parser)
    add_machine(parser, compile=True)
    add_recipe_fields(
        parser,
        "Each replaces that value in all recipes of --recipe. Only --seed also changes the recipe "
        "of --against.",
    )


def run(options: Namespace) -> None:
    if options.gpu_report:
        return _gpu_report(options)
    _check_bench(options)
    if options.verify:
        return _verify(options.verify)
    recipes = [checked_recipe(options, name) for name in options.recipe or ()]
    if options.against:
        # It keeps all its values but the seed: a race that is run again needs new runs of both.
        recipes.append(get_recipe(options.against).changed(seed=recipes[0].seed))
    _check_names(recipes)
    if not options.operations:
        _check_schedules(recipes)
    results = (_operations if options.operations else _measure)(recipes, options)
    if options.json:
        write_json(options.json, results)
        print(f"written: {shown(options.json)}")


def _verify(file):
    """Print one line for each check of a record; raise CifarError if one of them fails."""
    from cifar_utils.results.verify import standings, verify

    checks = verify(file)
    for what, fine, found in checks:
        print(f"{what:<14} {'ok  ' if fine else 'NOT '} {shown(found)}")
    failed = [what for what, fine, _ in checks if not fine]
    if failed:
        raise CifarError(f"{file} is not a record for the board: see {', '.join(failed)}")
    print("\n".join(standings(file)))


def _measure(recipes, options):
    """The race, or how fast networks and augmentations are, with the machine they ran on."""
    from cifar_utils.machine import pick_device, pick_precision
    from cifar_utils.results import host

    device = pick_device(options.device)
    precision = pick_precision(options.precision, device)
    results = host.machine(device, precision)
    print("; ".join(f"{name} {value}" for name, value in results.items()))
    if recipes:
        return _race(options, recipes, device, precision, results)
    return results | _throughput(options, device, precision)


def _operations(recipes, options):
    """The multiply-adds of whole trainings."""
    from cifar_utils.results import bench
    from cifar_utils.results.operations import IMAGES

    rows = [bench.operations(recipe, IMAGES) for recipe in recipes]
    print(bench.table(rows, bench.OPERATION_COLUMNS))
    results = {"images": {"training": IMAGES}, "recipes": rows}
    if options.against:
        *rows, other = rows
        results["mult_adds_ratios"] = ratios = bench.mult_adds_ratios(rows, other)
        for name, ratio in ratios.items():
            print(f"{name} computes {ratio:.3f} times as many as {other['name']}")
    return results


def _check_schedules(recipes):
    for recipe in recipes:
        if recipe.schedule == "plateau":
            raise CifarError(
                f"{recipe.name} has the schedule plateau, but a race evaluates at its end only; "
                "choose another --schedule"
            )


def _check_names(recipes):
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise CifarError("--recipe and --against need recipes of different names")


def _check_bench(options):
    """Refuse options that do not go together, and unknown names."""
    from cifar_utils.augment import operations
    from cifar_utils.models import MODELS

    given = [flag_of(name) for name in recipe_changes(options)]
    given += [f"--{name.replace('_', '-')}"
              for name in ("recipe", "against", "operations", "models", "augmentations", "loading",
                           "quick", "json", "device", "precision", *OF_A_RACE)
              if _given(options, name)]  # fmt: skip
    if options.verify and given:
        raise CifarError(f"{given[0]} does nothing with --verify, which measures nothing")
    if options.json:
        writable_file(options.json, "--json")
    if options.parts:
        raise CifarError("--parts needs --gpu-report")
    for name in ("against", "operations", *OF_A_RACE):
        if not options.recipe and _given(options, name):
            raise CifarError(f"--{name.replace('_', '-')} needs --recipe")
    for name in recipe_changes(options):
        if not options.recipe:
            raise CifarError(f"{flag_of(name)} needs --recipe")
    for name in ("models", "augmentations", "loading", "quick"):
        if options.recipe and _given(options, name):
            raise CifarError(
                f"--{name} does not go with --recipe; --epochs and --limit shorten its training"
            )
    for name in (*OF_A_RACE, "device", "precision"):
        if options.operations and _given(options, name):
            named = name.replace("_", "-")
            raise CifarError(f"--{named} does nothing with --operations, which trains nothing")
    for policy in options.augmentations or ():
        operations(policy)
    for name in options.models or ():
        choose(name, MODELS, "model")


def _given(options, name):
    value = getattr(options, name)
    return value is not None and value is not False and value != "auto"  # 0 and [] are given


def _race(options, recipes, device, precision, facts):
    """Race, write the record of all turns so far after each, and print the tables."""
    from cifar_utils.results import bench
    from cifar_utils.results.authors import Authors

    authors = None
    if options.against_file:
        authors = Authors(options.against_file, device, precision, compile=options.compile)
        print(
            f"{authors.name} (SHA-256 {authors.sha256[:12]}…), with its table and its loop over "
            f"200 trainings left out and these replaced: {'; '.join(authors.replaced) or 'none'}"
        )
    cifar = load(options)
    on = "validation" if len(cifar.val) else "test"
    images = {"source": cifar.source, "training": len(cifar.train), "on": on,
              "tested": len(cifar.held_out)}  # fmt: skip

    def record(rows):
        rows, theirs = (rows[:-1], rows[-1]) if authors else (rows, None)
        told = facts | {"images": images, "recipes": rows}
        if authors:
            told["authors"] = theirs | {"sha256": authors.sha256, "replaced": authors.replaced}
            told["ratios_to_authors"] = {row["name"]: bench.ratio(row, theirs) for row in rows}
        if options.against:
            *rows, other = rows
            told["ratios"] = {row["name"]: bench.ratio(row, other) for row in rows}
            told["mult_adds_ratios"] = bench.mult_adds_ratios(rows, other)
        return told

    saved = []

    def save(rows):
        if options.json:
            write_json(options.json, record(rows))
            saved.append(options.json)

    try:
        rows = bench.race(
            recipes, cifar, repeats=options.repeats or 3, device=device, authors=authors,
            precision=options.precision, compile=options.compile, save=save,
        )  # fmt: skip
    except KeyboardInterrupt:  # or a signal that main() takes for one
        if saved:
            print(f"\nstopped; {shown(options.json)} holds {len(saved)} whole "
                  f"turn{'s' * (len(saved) > 1)}", file=sys.stderr)  # fmt: skip
        raise
    print(f"\naccuracy on the {on} images of {cifar.source}; seeds from {recipes[0].seed} on")
    columns = bench.RACE_COLUMNS | (bench.COMPILE_COLUMN if options.compile else {})
    print(bench.table(rows, columns))
    ours = rows[: len(recipes)]
    for row in ours if authors else ():
        print(_compared(row, rows[-1]))
    for row in ours[:-1] if options.against else ():
        print(_compared(row, ours[-1]))
    return record(rows)


def _compared(row, other):
    """How one competitor did against another, in one line."""
    from cifar_utils.results import bench

    times = bench.cell(bench.ratio(row, other), ".2f")
    costs = ""
    if "mult_adds" in other:
        costs = f"with {row['mult_adds'] / other['mult_adds']:.2f} times its multiply-adds, "
    reached = " against ".join(f"{one['accuracy_views']['mean']:.2%}" for one in (row, other))
    told = f"{row['name']} takes {times} times as long as {other['name']}"
    return f"{told}, {costs}to {reached} on average"


def _throughput(options, device, precision):
    """Time loading, augmentations and networks: all of them, or those that were asked for."""
    from cifar_utils.augment import AUGMENTATIONS
    from cifar_utils.data import default_root, official_folder
    from cifar_utils.machine import bf16_speedup
    from cifar_utils.models import MODELS
    from cifar_utils.results import bench, throughput

    everything = options.models is None and options.augmentations is None and not options.loading
    short = {"images": 16, "times": 2} if options.quick else {}
    results = {}
    if everything or options.loading:
        if folder := official_folder(default_root()):
            results["loading"] = throughput.time_loading(folder)
            print("\n" + bench.table(results["loading"], throughput.LOADING_COLUMNS))
        else:
            print(f"\nloading is not timed: {shown(default_root())} does not hold CIFAR-10's files")
    if everything or options.augmentations is not None:
        policies = options.augmentations or AUGMENTATIONS
        results["augmentations"] = throughput.time_augmentations(policies, device, **short)
        print("\n" + bench.table(results["augmentations"], throughput.AUGMENTATION_COLUMNS))
    if everything or options.models is not None:
        precisions = dict.fromkeys(("fp32", precision))  # a second one only if it is another
        models = options.models or MODELS
        results["models"] = throughput.time_models(models, device, precisions, **short)
        print("\n" + bench.table(results["models"], throughput.MODEL_COLUMNS))
        if device.type == "cpu":
            results["bf16_speedup"] = faster = bf16_speedup()
            hint = "" if len(precisions) > 1 else "; --precision bf16 times the networks in both"
            print(f"\na small training step in bf16 is {faster:.2g} times as fast as in fp32{hint}")
    return results


def _gpu_report(options):
    from cifar_utils.machine import pick_precision
    from cifar_utils.models import MODELS
    from cifar_utils.results import gpu_record, gpu_report

    for name in ("json", "augmentations", "loading", "operations", "verify", "against_file"):
        if _given(options, name):
            named = name.replace("_", "-")
            raise CifarError(
                f"--{named} does not go with --gpu-report, which has parts of its own: see --parts"
            )
    for name in options.parts or ():
        choose(name, gpu_report.PARTS, "part")
    for name in options.models or ():
        choose(name, MODELS, "model")
    if not (options.recipe and options.against):
        raise CifarError("--gpu-report needs --recipe and --against, such as fast and airbench94")
    file = writable_file(options.gpu_report, "--gpu-report")
    device = gpu_report.check(options.device, quick=options.quick)
    recipes = [checked_recipe(options, name) for name in options.recipe]
    recipes.append(get_recipe(options.against).changed(seed=recipes[0].seed))
    _check_names(recipes)
    _check_schedules(recipes)
    if options.quick:
        recipes = [gpu_report.quick(recipe) for recipe in recipes]
        options.limit = options.limit or gpu_report.QUICK_IMAGES
    options.validation = options.validation or 0  # nothing is chosen: the test images are the test
    cifar = load(options)
    if cifar.source == "synthetic" and not options.quick:
        raise CifarError("without CIFAR-10 a GPU report shows nothing; `cifar data` can fetch it")
    limit = ["--limit", str(options.limit)] if options.limit else []
    report = gpu_report.Report(
        recipes, cifar, device, pick_precision(options.precision, device), options.compile,
        quick=options.quick, seeds=options.repeats or (2 if options.quick else 50),
        models=options.models or (["compact"] if options.quick else list(MODELS)),
        root=options.data,
        data_flags=["--source", cifar.source, "--validation", str(options.validation), *limit],
    )  # fmt: skip
    try:
        record = gpu_record.run(report, options.parts or gpu_report.PARTS, file)
    except KeyboardInterrupt:  # or a signal that main() takes for one
        print(f"\nstopped; the same command goes on with what {shown(file)} lacks", file=sys.stderr)
        raise
    print(f"\n{gpu_record.summary(record)}\n\nwritten: {shown(file)}")
    if gpu_record.failures(record):
        raise SystemExit(1)
