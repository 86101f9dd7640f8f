"""`cifar train`: train a network by a recipe."""

import os
import sys
import warnings
from argparse import BooleanOptionalAction, Namespace
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

from cifar_utils.cli.options import (
    Subparsers,
    add_cam,
    add_config,
    add_data,
    add_machine,
    add_recipe_fields,
    cam_options,
    checked_recipe,
    command,
    count,
    load,
    named_recipe,
    path,
    recipe_changes,
    writable,
)
from cifar_utils.cli.terminal import pictures
from cifar_utils.cli.test import print_per_class
from cifar_utils.errors import CifarError, DivergedError, reason, shown
from cifar_utils.recipes import RECIPES
from cifar_utils.sources.files import expanded, safe_name


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "train", "train a network by a recipe", run,
        example="cifar train --recipe compact --epochs 3 --out runs/first",
    )
    parser.usage = "cifar train (--recipe NAME | --config FILE | --resume --out DIR) [options]"
    flag = parser.add_argument
    flag("--recipe", metavar="NAME", help="recipe to follow; `cifar recipes` lists them")
    flag("--out", type=path, metavar="DIR",
         help="folder for history.json, curves.png, checkpoint.pt, weights.safetensors of the last "
         "epoch, and best.safetensors of the best epoch on the validation images (default: "
         "runs/NAME)")
    flag("--resume", action="store_true",
         help="go on with the run in DIR from its last epoch, by its own recipe; once it has "
         "finished, more --epochs train it further, and then other recipe fields may change, too")
    flag("--overwrite", action="store_true", help="replace the run in DIR")
    flag("--cam", nargs="*", metavar="CLASS",
         help="also make GIFs that show the heatmaps of one image of each of these classes, epoch "
         "by epoch (default: the first five classes)")
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
    add_cam(parser, "cam")
    add_config(parser)
    add_recipe_fields(parser)


def run(options: Namespace) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has started this process
        # Otherwise torch warns at the first step that all weights learn, because a whitening
        # layer's bias is frozen only later. It reads this when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from cifar_utils.speed.distributed import rank, together

    with together(), ExitStack() as stack:
        if rank():  # the first process prints everything, notices about the data included
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        options.recipe = named_recipe(options)
        if not options.recipe and not options.resume:
            raise CifarError(f"--recipe is missing; choose one of {', '.join(RECIPES)}")
        if not options.recipe and not options.out:
            raise CifarError(
                "--resume needs to know the run; give --out, or --recipe for runs/RECIPE"
            )
        train(options)


def train(options: Namespace) -> None:
    """Train, alone or with other processes; only the first of them touches the run's folder."""
    from cifar_utils import plots
    from cifar_utils.checkpoints import pretrained_names
    from cifar_utils.models import build
    from cifar_utils.profile import parameter_count
    from cifar_utils.runs import RunFolder
    from cifar_utils.speed.distributed import rank
    from cifar_utils.train import fit

    say = (lambda *_: None) if options.quiet else print
    recipe = checked_recipe(options, options.recipe or "compact")
    heat = cam_options(options, "cam")
    out = options.out or Path("runs") / safe_name(recipe.name)
    if rank() == 0:
        writable(out)
    with RunFolder(out, resume=options.resume, overwrite=options.overwrite) as folder:
        recipe, state = _begin(options, folder, recipe)
        cifar = load(options)
        folder.check_data(cifar.train, cifar.val)
        model = build(recipe, cifar.classes)
        if options.verbose:
            for name, value in recipe.as_dict().items():
                print(f"{name:>18} = {shown(value)}")
        say(
            f"{recipe.model}, {parameter_count(model):,} parameters, on {cifar.source}: "
            f"{len(cifar.train):,} training, {len(cifar.val):,} validation, "
            f"{len(cifar.test):,} test images"
        )
        for name in (recipe.teacher, "" if state else recipe.start_from):
            if name in pretrained_names() and not name.endswith("-val") and len(cifar.val):
                print(
                    f"{name} learned from all training images of CIFAR-10; if your validation "
                    "images are among them, their accuracy will look too good: choose a network "
                    "called -val, or --validation 0",
                    file=sys.stderr,
                )
        recorder = None
        if options.cam is not None:
            recorder = _cam_recorder(options, cifar, model, out, heat, resumed=bool(state))
        untold, records = True, recorder is not None

        def record(run):
            """Let heatmaps that cannot be made cost the GIFs, but not a training that has begun."""
            nonlocal records
            try:
                recorder(run)
            except Exception as error:
                epoch = run.history.epochs[-1].epoch
                if (
                    isinstance(error, OSError)
                    or not epoch
                    or os.environ.get("CIFAR_UTILS_TRACEBACK")
                ):
                    raise
                records = False
                print(f"no heatmaps from epoch {epoch} on: {reason(error)}", file=sys.stderr)

        def log(run):
            nonlocal untold
            folder.save(run, recorder=record if records else None)
            if untold and options.compile:
                say(f"compiled in {run.compile_seconds:.1f} s")
            if untold and run.machine.choice:
                say(f"precision: {run.machine.choice}")
            untold = False
            say(run)

        try:
            if not options.quiet:
                _tell_time(options, recipe, state, cifar, model)
            history = fit(
                model, cifar.train, cifar.val, recipe, log=log,
                progress=iter if options.quiet else _bar,
                device=options.device, precision=options.precision, workers=options.workers,
                resume=state, compile=options.compile,
            )  # fmt: skip
        except KeyboardInterrupt:  # or a signal that main() takes for one
            print(f"\nstopped; {_onwards(folder)}", file=sys.stderr)
            raise
        except BrokenPipeError:  # the reader of our output has gone
            raise
        except OSError as error:  # a full disk, most of all
            raise CifarError(f"{error}; {_onwards(folder)}") from error
        except DivergedError as error:
            raise CifarError(
                f"{error}; start anew with --overwrite or another --out, because --resume keeps "
                f"the recipe ({out} holds the last good epoch)"
            ) from None
        if rank():
            return
        if options.test:
            _test_run(model, history, cifar, out, verbose=options.verbose)
        with pictures("the same command with --resume draws it again") as draw:
            draw(out / "curves.png", lambda path: plots.save(plots.show_history(history), path))
            gifs = []
            if recorder:
                draw(out / "cam", lambda _: gifs.extend(recorder.save_gifs(recipe.epochs)))
            if gifs:
                say("heatmaps: " + ", ".join(map(shown, gifs)))
            say(f"written to {shown(out)}")
        if recorder and not records:  # the GIFs lack epochs, as a notice has said
            raise SystemExit(1)


def _onwards(folder):
    if folder.saved:
        return f"the same command with --resume goes on from {shown(folder.path)}"
    return "no checkpoint has been saved yet"


def _begin(options, folder, recipe):
    """(recipe to follow, checkpoint or None). A run that is there is never replaced unasked."""
    from cifar_utils.checkpoints import pretrained_names
    from cifar_utils.history import History

    if not options.recipe:
        kept = folder.recipe()
        if kept is None:
            raise CifarError(
                f"there is no checkpoint in {folder.path} to resume; give --recipe to start"
            )
        recipe = kept.changed(**({"epochs_before": 0} | recipe_changes(options)))
    recipe = folder.continuing(recipe)
    state = folder.state(recipe)
    history = History.from_json(state["history"]) if state and not options.quiet else None
    if history and history.recipe != recipe:
        print(
            f"{shown(folder.path)} goes on after epoch {recipe.epochs_before}, under the recipe "
            f"{shown(recipe.name)}, to epoch {recipe.epochs}"
        )
    elif history and history.is_finished:
        print(f"all {recipe.epochs} epochs are done; a larger number for --epochs trains further")
    if options.resume and state is None:
        print(
            f"no checkpoint in {shown(folder.path)} yet: starting from the first epoch",
            file=sys.stderr,
        )
    uses = (
        ("it cannot be the teacher", recipe.teacher),
        ("a training cannot start from it", recipe.start_from),
    )
    for name, needed in uses:
        path = expanded(needed).resolve()
        of_a_run = needed and needed not in pretrained_names()
        if of_a_run and folder.path.resolve() in (path, path.parent):
            raise CifarError(f"{folder.path} will be written to, so {name}; choose another folder")
    return recipe, state


def _tell_time(options, recipe, state, cifar, model):
    """Print how long the epochs and the whole training will take, unless it is short anyway."""
    from cifar_utils.course import duration
    from cifar_utils.estimate import epoch_seconds, is_worth_timing
    from cifar_utils.fastest import fastest_machine
    from cifar_utils.history import History
    from cifar_utils.speed.distributed import world_size

    history = History.from_json(state["history"]) if state else None
    past = len(history.epochs) - 1 if history else 0
    if not is_worth_timing(recipe, len(cifar.train), past):
        return
    if options.compile or world_size() > 1:
        print("the time is not estimated with --compile or with several processes")
        return
    with warnings.catch_warnings(action="ignore"):  # `fit` will warn of the same
        machine = fastest_machine(
            model, cifar.train, recipe, device=options.device, precision=options.precision,
            before=history.way if history else None,
        )  # fmt: skip
    seconds = epoch_seconds(recipe, cifar.train, machine, past=past, workers=options.workers)

    def words(number):
        return f"{number:.1f} s" if number < 10 else duration(number)

    shortest, longest = words(min(seconds)), words(max(seconds))
    epoch = shortest if shortest == longest else f"{shortest} to {longest}"
    whole = "for the rest" if past else "in all"
    print(
        f"about {epoch} of training per epoch, {words(sum(seconds))} {whole}, on {machine} "
        f"({machine.arithmetic})"
    )


def _bar(batches):
    """A progress bar for one epoch's batches: on stderr, and only if that is a terminal."""
    from tqdm import tqdm

    of = batches.dataset
    return tqdm(
        batches, desc=f"epoch {of.epoch}/{of.recipe.epochs}", leave=False, disable=None,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}",
    )  # fmt: skip


def _cam_recorder(options, cifar, model, out, heat, *, resumed):
    """Heatmaps of one image of each class that --cam names, held out if any are.

    Every process checks what was asked for, so that all of them stop; only the first one records.
    """
    from cifar_utils.explain import CamRecorder, chosen_stages, grad_cam
    from cifar_utils.speed.distributed import rank

    chosen_stages(model, heat["stage"])
    split = cifar.val if len(cifar.val) else cifar.train
    images = split.first_of_each(list(dict.fromkeys(options.cam)) or 5)
    if not options.cam and len(images) < min(5, len(split.classes)):
        lacking = [shown(name) for name in split.classes if name not in images.names]
        kind = "validation" if len(cifar.val) else "training"
        print(
            f"no heatmaps of {', '.join(lacking)}: the {len(split):,} {kind} images show none",
            file=sys.stderr,
        )
    one = images[:1]  # what cannot work has to fail now, before the run that is replaced is gone
    grad_cam(model, one.images, one.labels, **heat)
    recorder = CamRecorder(out / "cam", images, **heat)
    if resumed:
        recorder.check()
    return None if rank() else recorder


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
    # Among three classes, the right one is always one of the three likeliest.
    top = "".join(f"top-{k} {figures[f'top{k}']:.2%}, " for k in (3, 5) if k < len(cifar.classes))
    print(
        f"test: {figures['top1']:.2%}{several} of {figures['n']:,} images ({cifar.source}), "
        f"{top}loss {figures['loss']:.4f}"
    )
    if verbose:
        print_per_class(figures)
