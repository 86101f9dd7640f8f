"""What each command of the command line does: wire the modules together, print, draw.

Every function takes the parsed options of __main__.py. Heavy imports stand inside the functions, so
that --help comes at once.
"""

import json
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

from cifar_utils.errors import CifarError, choose
from cifar_utils.recipes import RECIPES, get_recipe
from cifar_utils.sources.files import write_whole


def train_command(options):
    from cifar_utils.speed.distributed import rank, together

    with together(), ExitStack() as stack:
        if rank():  # what this process would say, notices about the data included, the first says
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        _train(options, stack)


def _train(options, stack):
    """Train, alone or with other processes, of which the first alone touches the run's folder."""
    from functools import partial

    from filelock import FileLock
    from tqdm import tqdm

    from cifar_utils import plots
    from cifar_utils.checkpoints import pretrained_names
    from cifar_utils.explain import forget_heatmaps
    from cifar_utils.models import build
    from cifar_utils.profile import parameter_count
    from cifar_utils.speed.distributed import broadcast, rank
    from cifar_utils.train import fit

    first = rank() == 0
    say = (lambda *_: None) if options.quiet else print
    if not options.recipe and not options.resume:
        raise CifarError(f"--recipe is missing; choose one of {', '.join(RECIPES)}")
    if not options.recipe and not options.out:
        raise CifarError("--resume needs to know the run; give --out, or --recipe for runs/RECIPE")
    recipe = _checked_recipe(options, options.recipe or "compact")
    out = options.out or Path("runs") / recipe.name
    lock = FileLock(out / ".lock")  # for two trainings would mix their files
    stack.callback(lock.release)
    if first and _writable(out).is_dir():
        _take(lock)
    state, recipe = broadcast(_resume(options, recipe, out) if first else None)
    teacher = Path(recipe.teacher).expanduser().resolve()
    of_a_run = recipe.teacher and recipe.teacher not in pretrained_names()
    if of_a_run and out.resolve() in (teacher, teacher.parent):
        raise CifarError(f"{out} is to be written, so it cannot be the teacher; choose another")
    cifar = _load(options)
    if state:
        _check_same_data(state, cifar)
    model = build(recipe, cifar.classes)
    if options.verbose:
        for name, value in recipe.as_dict().items():
            print(f"{name:>18} = {value}")
    say(
        f"{recipe.model}, {parameter_count(model):,} parameters, on {cifar.source}: "
        f"{len(cifar.train):,} training, {len(cifar.val):,} validation, "
        f"{len(cifar.test):,} test images"
    )
    recorder = _cam_recorder(cifar, out) if options.cam and first else None
    untold, saved = options.compile, bool(state)

    def log(run):
        nonlocal untold, saved
        if not run.history.epochs[-1].epoch:  # only now, for fit has refused nothing
            _take(lock)
            (out / "checkpoint.pt").unlink(missing_ok=True)  # of a run that this one replaces
            forget_heatmaps(out / "cam")
        if recorder:
            recorder(run)
        _save_run(run, out, cifar)
        saved = True
        if untold:
            say(f"compiled in {run.compile_seconds:.1f} s")
        untold = False
        say(run)

    bar = iter if options.quiet else partial(tqdm, leave=False, unit="batch", disable=None)
    try:
        history = fit(
            model, cifar.train, cifar.val, recipe, log=log, resume=state,
            progress=bar,
            device=options.device, precision=options.precision, workers=options.workers,
            compile=options.compile,
        )  # fmt: skip
    except KeyboardInterrupt:
        onwards = f"the same command with --resume goes on from {out}"
        onwards = onwards if saved else "no checkpoint has been saved yet"
        print(f"\nstopped; {onwards}", file=sys.stderr)
        raise
    if not first:
        return
    plots.save(plots.show_history(history), out / "curves.png")
    if options.test:
        _test_run(model, history, cifar, out, verbose=options.verbose)
    if recorder:
        say("Grad-CAM: " + ", ".join(map(str, recorder.save_gifs(recipe.epochs))))
    say(f"written to {out}")


def _test_run(model, history, cifar, out, *, verbose):
    from cifar_utils import evaluate

    logits = evaluate.predict(model, cifar.test.images)
    figures = evaluate.metrics(logits, cifar.test.labels, cifar.classes)
    views, several = history.recipe.views, ""
    if views > 1:
        logits = evaluate.predict(model, cifar.test.images, views=views)
        figures["top1_views"] = evaluate.accuracy(logits, cifar.test.labels)
        several = f" ({figures['top1_views']:.2%} with {views} views)"
    history.with_test(figures).save(out / "history.json")
    print(
        f"test: {figures['top1']:.2%}{several} of {figures['n']:,} images ({cifar.source}), "
        f"top-3 {figures['top3']:.2%}, top-5 {figures['top5']:.2%}, loss {figures['loss']:.4f}"
    )
    if verbose:
        _print_per_class(figures)


def _checked_recipe(options, name):
    """That recipe with the flags' changes; all that can be refused before the data is touched."""
    from cifar_utils.augment import operations
    from cifar_utils.checkpoints import find_weights
    from cifar_utils.machine import pick_device, pick_precision
    from cifar_utils.models import MODELS, build
    from cifar_utils.speed.compile import check_compiler
    from cifar_utils.train import check_model

    recipe = get_recipe(name).changed(**_recipe_changes(options))
    device = pick_device(options.device)
    if options.precision != "auto":
        pick_precision(options.precision, device)
    if getattr(options, "compile", False):
        check_compiler(device)
    operations(recipe.augmentation)
    choose(recipe.model, MODELS, "model")
    if recipe.teacher:
        find_weights(recipe.teacher)
    if options.recipe or not getattr(options, "resume", False):  # which may bring another recipe
        check_model(build(recipe, range(10)), recipe)
    return recipe


def _resume(options, recipe, out):
    """(checkpoint or None, recipe to follow). A run that is there is never replaced unasked."""
    from cifar_utils.checkpoints import load_checkpoint
    from cifar_utils.explain import has_heatmaps
    from cifar_utils.history import History

    checkpoint = out / "checkpoint.pt"
    names = (checkpoint.name, "weights.safetensors", "best.safetensors", "history.json")
    held = any((out / name).exists() for name in names)
    held = held or has_heatmaps(out / "cam")
    if held and not options.resume and not options.overwrite:
        raise CifarError(
            f"{out} holds a run already; add --resume to go on with it, --overwrite to replace it, "
            "or choose another --out"
        )
    if not options.resume:
        return None, recipe
    if not checkpoint.exists():
        if held and not options.overwrite:
            raise CifarError(
                f"{out} holds a run without checkpoint.pt, which --resume needs; add --overwrite "
                "to replace it, or choose another --out"
            )
        if not options.recipe:
            raise CifarError(f"there is no checkpoint in {out} to resume; give --recipe to start")
        print(f"no checkpoint in {out} yet: starting from the first epoch", file=sys.stderr)
        return None, recipe
    state = load_checkpoint(checkpoint)
    kept = History.from_json(state["history"]).recipe
    asked = recipe if options.recipe else kept.changed(**_recipe_changes(options))
    for name, value in asked.as_dict().items():
        if value != getattr(kept, name):
            raise CifarError(
                f"the run in {out} was started with {name} {getattr(kept, name)}, not {value}; "
                "resuming keeps its recipe"
            )
    return state, kept


def _take(lock):
    """Hold the folder's lock from now on; CifarError where another process holds it."""
    from filelock import Timeout

    if lock.is_locked:
        return
    folder = Path(lock.lock_file).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CifarError(
            f"another training writes to {folder} right now (if not, delete {lock.lock_file}); "
            "choose another --out"
        ) from None
    except (NotImplementedError, OSError):
        pass  # some network drives know no locks


def _check_same_data(state, cifar):
    from cifar_utils.history import History

    was = History.from_json(state["history"])
    if (was.source, was.train_images, was.val_images) != (
        cifar.source, len(cifar.train), len(cifar.val)
    ):  # fmt: skip
        raise CifarError(
            f"the run was started on {was.source} with {was.train_images:,} training and "
            f"{was.val_images:,} validation images, not on {cifar.source} with "
            f"{len(cifar.train):,} and {len(cifar.val):,}; give the same --data, --source, --limit "
            "and --validation"
        )


def _save_run(run, out, cifar):
    """All files of a run after an epoch; the checkpoint comes last, for it vouches for the rest."""
    from cifar_utils.checkpoints import WeightsInfo, save_checkpoint, save_weights

    epoch = run.history.epochs[-1]
    info = WeightsInfo(run.history.recipe, cifar.source, cifar.classes, epoch.epoch)
    save_weights(out / "weights.safetensors", run.model, info)
    if run.history.best is epoch:
        save_weights(out / "best.safetensors", run.model, info)
    elif run.history.best is None:  # a run that this one replaces may have left its own
        (out / "best.safetensors").unlink(missing_ok=True)
    run.history.save(out / "history.json")
    save_checkpoint(out / "checkpoint.pt", run.state())


def _cam_recorder(cifar, out):
    """Grad-CAM of one image of each of the first five classes, held out where any are."""
    from cifar_utils.explain import CamRecorder

    split = cifar.val if len(cifar.val) else cifar.train
    return CamRecorder(out / "cam", split.first_of_each(5))


def test_command(options):
    from cifar_utils import checkpoints, evaluate
    from cifar_utils.machine import pick_device

    device = pick_device(options.device)
    if not 0 <= options.share <= 1:
        raise CifarError(f"--share is {options.share}; it must be in [0, 1]")
    if options.share < 1 and options.views == 1:
        raise CifarError("--share needs --views 2 or 6")
    model, info = checkpoints.find_weights(options.weights)
    out = options.out or Path()
    if options.grid or options.out:
        _writable(out)
    cifar = _load(options)
    if cifar.classes != info.classes:
        raise CifarError(
            f"the weights know {', '.join(info.classes)}; the data has {', '.join(cifar.classes)}"
        )
    logits = evaluate.predict(
        model.to(device), cifar.test.images, views=options.views, share=options.share,
        batch_size=options.batch_size,
    )  # fmt: skip
    figures = evaluate.metrics(logits, cifar.test.labels, cifar.classes)
    matrix = evaluate.confusion_matrix(logits, cifar.test.labels)
    figures["source"] = cifar.source
    if options.json:
        extra = {"confusion": matrix.tolist()} if options.confusion else {}
        print(json.dumps(figures | extra, indent=1))
    else:
        _print_figures(figures, info)
        if options.confusion:
            _print_confusion(matrix, cifar.classes)
    if options.grid or options.out:
        paths = _draw_test(options, out, model, info, cifar, logits, figures, matrix)
        if not options.json:
            print("written: " + ", ".join(map(str, paths)))


def _print_figures(figures, info):
    print(
        f"{info.recipe.name} (trained on {info.source}), {figures['n']:,} test images of "
        f"{figures['source']}"
    )
    for name in ("top1", "top3", "top5"):
        print(f"{name:>12}  {figures[name]:7.2%}")
    print(f"{'loss':>12}  {figures['loss']:7.4f}")
    _print_per_class(figures)


def _print_per_class(figures):
    for name, share in figures["per_class"].items():
        print(f"{name:>12}  " + ("no images" if share is None else f"{share:7.2%}"))


def _print_confusion(matrix, classes):
    """Percent of the true class (row) that was taken for each class (column)."""
    print("\nconfusion matrix: rows true, columns predicted, percent of the row")
    width = max(map(len, classes))
    print(" " * width + "".join(f"{name[:5]:>7}" for name in classes))
    for name, row in zip(classes, matrix, strict=True):
        cells = "".join(f"{100 * count / max(row.sum(), 1):7.1f}" for count in row)
        print(f"{name:>{width}}{cells}")


def _draw_test(options, out, model, info, cifar, logits, figures, matrix):
    """Confusion matrix, bars, and with --grid the galleries; the paths written."""
    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.evaluate import most_confident_hits, most_confident_mistakes
    from cifar_utils.explain import grad_cam

    test, classes = cifar.test, cifar.classes
    title = f"{info.recipe.name} on {source_title(cifar.source)}"
    if info.source != cifar.source:
        title = f"{title}, trained on {source_title(info.source)}"
    drawn = {}
    if options.out:
        drawn["confusion"] = plots.plot_confusion_matrix(
            matrix, classes=classes, title=f"{title}: {figures['top1']:.1%} right"
        )
        drawn["per-class"] = plots.plot_per_class(
            figures["per_class"], title=f"{title}: accuracy per class"
        )
    if options.grid:
        few = slice(0, 40)
        drawn["predictions"] = plots.show_predictions(
            test.images[few],
            test.labels[few],
            logits[few],
            classes=classes,
            title=f"{title}: the first test images",
        )
        for kind, find, show in (
            ("mistakes", most_confident_mistakes, plots.show_mistakes),
            ("hits", most_confident_hits, plots.show_hits),
        ):
            ranked = find(logits, test.labels, count=20)
            heading = f"{title}: the most confident {kind}"
            heatmaps = grad_cam(model, test.images[ranked.indices], ranked.predictions)
            drawn[kind] = show(test.images, ranked, classes=classes, title=heading)
            drawn[f"{kind}-cam"] = show(
                test.images,
                ranked,
                heatmaps,
                classes=classes,
                columns=4,
                title=f"{heading}, with Grad-CAM of the predicted class",
            )
    for name, figure in drawn.items():
        plots.save(figure, out / f"{name}.png")
    return [out / f"{name}.png" for name in drawn]


def predict_command(options):
    import torch

    from cifar_utils import checkpoints, evaluate
    from cifar_utils.data import read_image, source_title
    from cifar_utils.machine import pick_device

    device = pick_device(options.device)
    model, info = checkpoints.find_weights(options.weights)
    if options.cam:
        _writable(options.out)
    images = torch.stack([read_image(path) for path in options.images])
    logits = evaluate.predict(model.to(device), images)
    probabilities = logits.double().softmax(1)
    answers = [
        {"file": path, "probabilities": dict(zip(info.classes, row.tolist(), strict=True))}
        for path, row in zip(options.images, probabilities, strict=True)
    ]
    if options.cam:
        _draw_predictions(options, model, info, images, probabilities, answers)
    if info.source != "cifar10":
        print(f"These weights were trained on {source_title(info.source)}.", file=sys.stderr)
    if options.json:
        print(json.dumps(answers, indent=1))
        return
    for answer in answers:
        print(answer["file"])
        likeliest = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        for name, share in likeliest[:5]:
            print(f"{name:>12}  {share:7.2%}  {'█' * round(30 * share)}")
        if options.cam:
            print(f"  Grad-CAM: {answer['cam']}")


def _draw_predictions(options, model, info, images, probabilities, answers):
    """One picture a file: what the network saw, with Grad-CAM, and the bars. Names clash neither
    with each other nor with the images that were given."""
    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.explain import grad_cam

    trained_on = "" if info.source == "cifar10" else f" (trained on {source_title(info.source)})"
    predictions = probabilities.argmax(1)
    heatmaps = grad_cam(model, images, predictions)
    taken, inputs = set(), {Path(path).resolve() for path in options.images}
    for place, answer in enumerate(answers):
        stem = name = Path(answer["file"]).stem
        number = 2
        while name in taken or (options.out / f"{name}-cam.png").resolve() in inputs:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        answer["cam"] = str(options.out / f"{name}-cam.png")
        shown = Path(answer["file"]).name.replace("$", r"\$")  # two would begin and end a formula
        figure = plots.show_explanation(
            images[place],
            heatmaps[place],
            answer["probabilities"],
            title=f"{shown}: {info.classes[predictions[place]]}{trained_on}",
        )
        plots.save(figure, answer["cam"])


def data_command(options):
    from cifar_utils import data, plots
    from cifar_utils.sources import files

    cifar = data.load(options.root, source=options.source, validation=0)
    root = options.root or data.default_root()
    print(f"source      {cifar.source}: {data.source_title(cifar.source)}")
    print(f"root        {root}")
    if cifar.source == "cifar10":
        folder = data.official_folder(root)
        for name, digest in data.MD5.items():  # anew, for `load` may have read its cache
            if files.md5(folder / name) != digest:
                raise CifarError(f"{folder / name} has not the published MD5; delete it, try again")
        print(f"files       {len(data.MD5)} in {folder}, each with the published MD5")
    for name, split in (("training", cifar.train), ("test", cifar.test)):
        print(f"{name:<12}{len(split):,} images, 32 by 32 pixels")
    splits, length = (cifar.train, cifar.test), len(cifar.classes)
    counts = [split.labels.bincount(minlength=length).tolist() for split in splits]
    shares = zip(cifar.classes, *counts, strict=True)
    print("classes     " + ", ".join(f"{name} {train}/{test}" for name, train, test in shares))
    if len(cifar.train):
        mean, std = _channel_statistics(cifar.train.images)
        for name, values in (("mean", mean), ("std", std)):
            print(f"{name:<12}" + " ".join(f"{value:.4f}" for value in values.tolist()))
    if options.montage and not len(cifar.train):
        raise CifarError("there are no training images for --montage")
    if options.montage:
        plots.save_montage(options.montage, cifar.train.images[:1024])
        print(f"written: {options.montage}")
    if options.source == "auto" and cifar.source == "synthetic":
        raise SystemExit(1)  # so that `cifar data && cifar train …` does not go on with drawings


def _channel_statistics(images):
    """(means, standard deviations) of the channels of uint8 images, as shares of 255.

    From how often each byte occurs: exact, and without a copy of all images as floats.
    """
    import torch

    counts = torch.stack([part.flatten().bincount(minlength=256) for part in images.unbind(1)])
    shares = counts.double() / counts[0].sum()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ levels
    return mean, (shares @ levels**2 - mean**2).sqrt()


def summary_command(options):
    from cifar_utils.models import create_model
    from cifar_utils.profile import summary

    summary(create_model(options.model, seed=0))


def recipes_command(options):
    print(
        f"{'name':<22}{'model':<13}{'epochs':>6}{'batch':>7}  {'optimizer':<10}{'lr':>8}  "
        f"{'schedule':<10}augmentation"
    )
    for recipe in RECIPES.values():
        print(
            f"{recipe.name:<22}{recipe.model:<13}{recipe.epochs:>6}{recipe.batch_size:>7}  "
            f"{recipe.optimizer:<10}{recipe.lr:>8.3g}  {recipe.schedule:<10}"
            f"{recipe.augmentation}"
        )


def lr_find_command(options):
    from tqdm import tqdm

    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.models import build
    from cifar_utils.range_test import lr_range_test

    recipe = _checked_recipe(options, options.recipe or "compact")
    _writable(options.out)
    cifar = _load(options)
    model = build(recipe, cifar.classes)
    result = lr_range_test(
        model,
        cifar.train,
        recipe,
        lowest=options.lowest,
        highest=options.highest,
        steps=options.steps,
        device=options.device,
        precision=options.precision,
        progress=lambda steps: tqdm(steps, leave=False, disable=None),
    )
    path = options.out / "lr-range.png"
    title = f"{recipe.name} on {source_title(cifar.source)}: learning-rate range test"
    plots.save(plots.plot_lr_range(result, title=title), path)
    rates = f"lr {result.suggestion:.3g}"
    if recipe.optimizer == "muon":  # both rose together
        rates += f" and muon-lr {result.suggestion * recipe.muon_lr / recipe.lr:.3g}"
    print(f"the loss falls fastest at {rates}; written: {path}")


def bench_command(options):
    from cifar_utils.machine import pick_device, pick_precision
    from cifar_utils.results import bench

    _check_bench(options)
    recipes = [_checked_recipe(options, name) for name in options.recipe or ()]
    if options.against:
        # Of its own values it keeps all but the seed: who runs a race again wants new runs of both.
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
        text = json.dumps(results, indent=1)
        write_whole(options.json, lambda temporary: temporary.write_text(text))
        print(f"written: {options.json}")


def _check_bench(options):
    """Refuse options that do not go together, and unknown names."""
    from cifar_utils.augment import operations
    from cifar_utils.models import MODELS

    if options.json:
        _writable(options.json.parent, choose="another file with --json")
        if options.json.is_dir():
            raise CifarError(f"{options.json} is a folder; choose a file with --json")
    for name in ("against", "repeats", "data", "source", "limit", "validation", "compile"):
        if not options.recipe and _given(options, name):
            raise CifarError(f"--{name} needs --recipe")
    for name in _recipe_changes(options):
        if not options.recipe:
            raise CifarError(f"--{name.replace('_', '-')} needs --recipe")
    for name in ("models", "augmentations", "quick"):
        if options.recipe and _given(options, name):
            raise CifarError(
                f"--{name} goes without --recipe, whose training --epochs and --limit shorten"
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

    cifar = _load(options)
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
    """Both tables, or those that were asked for by name."""
    from cifar_utils.augment import AUGMENTATIONS
    from cifar_utils.machine import bf16_speedup
    from cifar_utils.models import MODELS
    from cifar_utils.results import bench

    both = options.models is None and options.augmentations is None
    short = {"images": 16, "times": 2} if options.quick else {}
    results = {}
    if both or options.augmentations is not None:
        policies = options.augmentations or AUGMENTATIONS
        results["augmentations"] = bench.time_augmentations(policies, device, **short)
        print("\n" + bench.table(results["augmentations"], bench.AUGMENTATION_COLUMNS))
    if both or options.models is not None:
        precisions = dict.fromkeys(("fp32", precision))  # a second one only where it is worth it
        models = options.models or MODELS
        results["models"] = bench.time_models(models, device, precisions, **short)
        print("\n" + bench.table(results["models"], bench.MODEL_COLUMNS))
        if device.type == "cpu":
            results["bf16_speedup"] = faster = bf16_speedup()
            hint = "" if len(precisions) > 1 else "; --precision bf16 times the networks in both"
            print(f"\na small training step in bf16 is {faster:.2g} times as fast as in fp32{hint}")
    return results


def report_command(options):
    from cifar_utils.results import report

    tables = {name: make() for name, make in report.TABLES.items()}
    if not options.write:
        print("\n\n".join(tables.values()))
        return
    page = replaced = options.write.read_text()
    for name, table in tables.items():
        start, end = report.marks(name)
        before, _, rest = replaced.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise CifarError(f"{options.write} lacks the lines {start} and {end}")
        replaced = f"{before}{start}\n{table}\n{end}{after}"
    write_whole(options.write, lambda temporary: temporary.write_text(replaced))
    print(f"{options.write} is {'as it was' if replaced == page else 'up to date now'}")


def figures_command(options):
    from cifar_utils import data
    from cifar_utils.results import figures

    for name in options.names:
        choose(name, figures.PICTURES, "picture")
    out = _writable(options.out)
    cifar = data.load(options.data, source="cifar10", validation=0)
    for path in figures.draw(options.names or figures.PICTURES, out, cifar):
        print(f"written: {path}")


def ship_command(options):
    from cifar_utils.checkpoints import PRETRAINED
    from cifar_utils.results.ship import check, name_of, ship

    out = _writable(options.out or PRETRAINED)
    cifar = _load(options)
    histories = {}
    for run in options.runs:  # all are checked before any is written
        history = check(run, cifar, own=options.out is None)
        for end in (".json", ".safetensors", "-cam.npz"):
            there = out / f"{name_of(history)}{end}"
            if there.exists() and not options.overwrite:
                raise CifarError(f"{there} is there already; add --overwrite to replace it")
        histories[run] = history
    if len({name_of(history) for history in histories.values()}) < len(histories):
        raise CifarError("two of the runs would ship under one name")
    out.mkdir(parents=True, exist_ok=True)
    for run, history in histories.items():
        print(ship(run, history, out, cifar.train))


def _writable(out, *, choose="another folder with --out"):
    """The folder `out`, refused before any work where nothing could be written to it."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise CifarError(f"{nearest} is a file; choose {choose}")
    if not os.access(nearest, os.W_OK):
        raise CifarError(f"{nearest} cannot be written to; choose {choose}")
    return out


def _recipe_changes(options):
    """The recipe fields that were given on the command line."""
    given = {
        name.removeprefix("recipe_"): value
        for name, value in vars(options).items()
        if name.startswith("recipe_")
    }
    return {name: value for name, value in given.items() if value is not None}


def _load(options):
    from cifar_utils import data

    cifar = data.load(options.data, source=options.source, validation=0)
    if hasattr(options, "validation"):
        smaller = min(5000, len(cifar.train) // 10)
        cifar = cifar.hold_out(smaller if options.validation is None else options.validation)
    limit = getattr(options, "limit", None)
    return cifar.limit(limit) if limit else cifar
