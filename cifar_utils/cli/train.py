"""`cifar train`: train a network by a recipe."""

import os
import sys
from argparse import BooleanOptionalAction, Namespace
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

from cifar_utils.cli.options import (
    Subparsers,
    add_data,
    add_machine,
    add_recipe_fields,
    checked_recipe,
    command,
    count,
    load,
    path,
    recipe_changes,
    writable,
)
from cifar_utils.cli.test import print_per_class
from cifar_utils.errors import CifarError
from cifar_utils.recipes import RECIPES


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "train", "train a network by a recipe", run,
        example="cifar train --recipe compact --epochs 3 --out runs/first",
    )
    parser.usage = "cifar train --recipe NAME [options]"
    flag = parser.add_argument
    flag("--recipe", metavar="NAME", help="recipe to follow; `cifar recipes` lists them")
    flag("--out", type=path, metavar="DIR",
         help="folder for history.json, curves.png, checkpoint.pt, weights.safetensors of the last "
         "epoch, and best.safetensors of the best epoch on the validation images (default: "
         "runs/NAME)")
    flag("--resume", action="store_true",
         help="go on with the run in DIR from its last epoch; it keeps its recipe")
    flag("--overwrite", action="store_true", help="replace the run in DIR")
    flag("--cam", action="store_true",
         help="also make GIFs that show the Grad-CAM heatmaps of five images, epoch by epoch")
    flag("--test", action=BooleanOptionalAction, default=True,
         help="evaluate on the test images at the end; use --no-test for runs that only help to "
         "choose")
    loudness = parser.add_mutually_exclusive_group().add_argument
    loudness("-v", "--verbose", action="store_true",
             help="also print the recipe and the accuracy per class")
    loudness("-q", "--quiet", action="store_true", help="print only the test result")
    add_data(parser)
    add_machine(parser, compile=True)
    flag("--workers", type=count, default=0, metavar="N",
         help="processes that prepare batches ahead; worth it for augmentation policies that work "
         "image by image (default: 0)")
    # fmt: on
    add_recipe_fields(parser)


def run(options: Namespace) -> None:
    from cifar_utils.speed.distributed import rank, together

    with together(), ExitStack() as stack:
        if rank():  # the first process says all that this one would, even about the data
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        _train(options, stack)


def _train(options, stack):
    """Train, alone or with other processes; only the first of them touches the run's folder."""
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
    recipe = checked_recipe(options, options.recipe or "compact")
    out = options.out or Path("runs") / recipe.name
    lock = FileLock(out / ".lock")  # because two trainings would mix their files
    stack.callback(lock.release)
    if first and writable(out).is_dir():
        _take(lock)
    state, recipe = broadcast(_resume(options, recipe, out) if first else None)
    teacher = Path(recipe.teacher).expanduser().resolve()
    of_a_run = recipe.teacher and recipe.teacher not in pretrained_names()
    if of_a_run and out.resolve() in (teacher, teacher.parent):
        raise CifarError(f"{out} will be written to, so it cannot be the teacher; choose another")
    cifar = load(options)
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
        if not run.history.epochs[-1].epoch:  # only now, because `fit` has refused nothing
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
        print_per_class(figures)


# --- the run's folder: moves to runs.py ---


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
    asked = recipe if options.recipe else kept.changed(**recipe_changes(options))
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
