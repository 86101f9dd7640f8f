"""The command line's words: `cifar --help`, or `python -m cifar_utils --help`.

What the commands do stands in commands.py. Set CIFAR_UTILS_TRACEBACK=1 to see where an error arose.
"""

import argparse
import importlib.metadata
import os
import sys
from dataclasses import fields
from pathlib import Path

from cifar_utils import __version__
from cifar_utils.cli import commands
from cifar_utils.errors import CifarError
from cifar_utils.recipes import Recipe, kind_of


def main(arguments=None):
    """Run one command. A user's mistake ends in one line and exit status 2."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    os.environ["MPLBACKEND"] = "Agg"  # pictures go to files, whatever a notebook's shell has set
    if hasattr(sys.stdout, "reconfigure"):  # an epoch's line goes into a file or pipe at once
        sys.stdout.reconfigure(line_buffering=True)
    try:
        options.run(options)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # what a shell says of a program that SIGPIPE has ended
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        out_of_memory = "out of memory" in str(error) or "allocate memory" in str(error)  # GPU, CPU
        if not isinstance(error, (CifarError, OSError, MemoryError)) and not out_of_memory:
            error.add_note(f"This is a bug in cifar_utils; please report it at {_address()}")
            raise
        if os.environ.get("CIFAR_UTILS_TRACEBACK"):
            raise
        has_flag = hasattr(options, "batch_size") or (
            hasattr(options, "recipe_batch_size") and (options.command != "bench" or options.recipe)
        )
        hint = "; choose a smaller --batch-size" if out_of_memory and has_flag else ""
        said = (str(error) or type(error).__name__).splitlines()[0]
        parser.exit(2, f"cifar {options.command}: error: {said}{hint}\n")


def _address():
    """Where to report a bug, from the package's own metadata."""
    try:
        urls = importlib.metadata.metadata("cifar-utils").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        urls = []
    found = [url.partition(", ")[2] for url in urls if url.startswith("Issues")]
    return found[0] if found else "the repository that you cloned"


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake ends in one line, without the usage above it."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def make_parser():
    parser = Parser(
        prog="cifar",
        description="Train, test and explain image classifiers on CIFAR-10.",
        epilog="Each command has its own help: cifar train --help. "
        "Set CIFAR10_ROOT to where the data is, or should go.",
    )
    parser.add_argument("--version", action="version", version=f"cifar_utils {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_train,
        _add_test,
        _add_predict,
        _add_data_command,
        _add_summary,
        _add_recipes,
        _add_lr_find,
        _add_bench,
        _add_report,
        _add_figures,
        _add_ship,
    ):
        add(subparsers)
    return parser


# --- one function a command -----------------------------------------------------------------------


def _add_train(subparsers):
    parser = _command(
        subparsers,
        "train",
        "train a network by a recipe",
        commands.train_command,
        example="cifar train --recipe compact --epochs 3 --out runs/first",
    )
    parser.usage = "cifar train --recipe NAME [options]"
    add = parser.add_argument
    add("--recipe", metavar="NAME", help="recipe to follow, see `cifar recipes`")
    add(
        "--out",
        type=_path,
        metavar="DIR",
        help="folder for history.json, weights.safetensors (last epoch), best.safetensors (by "
        "validation), checkpoint.pt and curves.png (default: runs/NAME)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where the run in DIR stopped; its recipe is kept",
    )
    add("--overwrite", action="store_true", help="replace the run that DIR holds")
    add(
        "--cam", action="store_true", help="also make Grad-CAM GIFs of five classes over the epochs"
    )
    add(
        "--test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="evaluate on the test images at the end; --no-test for runs that only help to choose",
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="also print the recipe and the accuracy per class",
    )
    loudness.add_argument("-q", "--quiet", action="store_true", help="print the test result only")
    _add_data(parser)
    _add_device(parser, compile=True)
    add(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="processes that augment ahead; worth it for image-by-image policies (default: 0)",
    )
    _add_recipe_fields(parser)


def _add_test(subparsers):
    parser = _command(
        subparsers,
        "test",
        "evaluate trained weights on the test images",
        commands.test_command,
        example="cifar test --weights runs/first --confusion --grid",
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="PATH|NAME", help=_WEIGHTS_HELP)
    add(
        "--batch-size",
        type=_positive,
        default=500,
        metavar="N",
        help="images at a time (default: 500)",
    )
    add(
        "--views",
        type=int,
        choices=(1, 2, 6),
        default=1,
        help="test-time augmentation: 2 adds the mirror image, 6 shifts as well",
    )
    add(
        "--share",
        type=float,
        default=1.0,
        metavar="X",
        help="share of the images, least confident first, that get the further views (default: 1)",
    )
    add(
        "--confusion",
        action="store_true",
        help="print the confusion matrix; --out draws it, too",
    )
    add(
        "--grid",
        action="store_true",
        help="draw a grid of predictions, galleries of the most confident mistakes and hits, and "
        "both with Grad-CAM",
    )
    add("--out", type=_path, metavar="DIR", help="folder for pictures (default, with --grid: .)")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    _add_data(parser, validation=False)
    _add_device(parser, precision=False)


def _add_predict(subparsers):
    parser = _command(
        subparsers,
        "predict",
        "classify image files",
        commands.predict_command,
        example="cifar predict holiday.jpg --cam",
    )
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image file of any size or kind; its five likeliest classes are printed",
    )
    add(
        "--weights",
        default="compact",
        metavar="PATH|NAME",
        help=f"{_WEIGHTS_HELP} (default: compact)",
    )
    add("--cam", action="store_true", help="write a Grad-CAM picture of each image")
    add(
        "--out",
        type=_path,
        default=Path(),
        metavar="DIR",
        help="folder for --cam pictures (default: .)",
    )
    add("--json", action="store_true", help="print only a JSON list, with all classes")
    _add_device(parser, precision=False)


def _add_data_command(subparsers):
    parser = _command(
        subparsers,
        "data",
        "fetch, verify and describe the data",
        commands.data_command,
        example="cifar data --data ~/datasets",
    )
    add = parser.add_argument
    add("--data", "--root", dest="root", type=_path, metavar="ROOT", help=_ROOT_HELP)
    add("--source", default="auto", metavar="S", help=_SOURCE_HELP)
    add(
        "--montage",
        type=_path,
        metavar="FILE",
        help="also write the first 1,024 training images as one PNG",
    )


def _add_summary(subparsers):
    parser = _command(
        subparsers,
        "summary",
        "print a network's layers and cost",
        commands.summary_command,
        example="cifar summary resnet18",
    )
    parser.add_argument("model", metavar="MODEL", help="network; a wrong name lists the right ones")


def _add_recipes(subparsers):
    _command(
        subparsers, "recipes", "list the recipes", commands.recipes_command, example="cifar recipes"
    )


def _add_lr_find(subparsers):
    parser = _command(
        subparsers,
        "lr-find",
        "learning-rate range test of a recipe",
        commands.lr_find_command,
        example="cifar lr-find --recipe compact --out runs/lr",
    )
    parser.usage = "cifar lr-find [--recipe NAME] [options]"
    add = parser.add_argument
    add("--recipe", metavar="NAME", help="recipe to test, see `cifar recipes` (default: compact)")
    add(
        "--lowest",
        type=float,
        default=1e-4,
        metavar="X",
        help="first learning rate (default: 0.0001)",
    )
    add("--highest", type=float, default=10.0, metavar="X", help="last learning rate (default: 10)")
    add(
        "--steps",
        type=_positive,
        default=200,
        metavar="N",
        help="training steps, a batch each (default: 200)",
    )
    add(
        "--out",
        type=_path,
        default=Path(),
        metavar="DIR",
        help="folder for lr-range.png (default: .)",
    )
    _add_data(parser)
    _add_device(parser)
    # The test has rates, a length and images of its own.
    _add_recipe_fields(
        parser,
        without=("epochs", "schedule", "peak", "step_every", "step_factor",
                 "step_decay_factor", "small_size", "small_until", "views"),
    )  # fmt: skip


def _add_bench(subparsers):
    parser = _command(
        subparsers,
        "bench",
        "measure how fast recipes, networks and augmentations are here",
        commands.bench_command,
        example="cifar bench --recipe fast quick --against airbench94 --json bench.json",
    )
    parser.usage = "cifar bench [--recipe NAME ...] [options]"
    add = parser.add_argument
    add(
        "--recipe",
        nargs="+",
        metavar="NAME",
        help="train by each of these recipes to its end, in turn: seconds, and the accuracy that "
        "they buy; without it, networks and augmentations are timed (networks in fp32, and in "
        "another --precision beside it)",
    )
    add(
        "--against", metavar="NAME", help="one more in the race, for the ratio of the others' times"
    )
    add(
        "--repeats",
        type=_positive,
        metavar="N",
        help="trainings a recipe, each with the next seed (default: 3)",
    )
    add("--models", nargs="*", metavar="NAME", help="networks to time (default: all)")
    add("--augmentations", nargs="*", metavar="NAME", help="policies to time (default: all)")
    add(
        "--quick",
        action="store_true",
        help="two steps of 16 images each: to see that it works, the figures mean little",
    )
    add("--json", type=_path, metavar="FILE", help="also write all figures to FILE")
    _add_data(parser)
    _add_device(parser, compile=True)
    _add_recipe_fields(
        parser,
        "each replaces the value of all of --recipe, and --seed alone also that of --against",
    )


def _add_report(subparsers):
    parser = _command(
        subparsers,
        "report",
        "print what the shipped runs and races reached, as two Markdown tables",
        commands.report_command,
        example="cifar report --write README.md",
    )
    parser.add_argument(
        "--write",
        type=_path,
        metavar="FILE",
        help="put the tables into FILE, each between the two comments around it in the README",
    )


def _add_figures(subparsers):
    parser = _command(
        subparsers,
        "figures",
        "draw the pictures of the README from the shipped networks and CIFAR-10",
        commands.figures_command,
        example="cifar figures curves.png cost.png --out images",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="picture to draw (default: all of them)")
    add("--out", type=_path, default=Path("images"), metavar="DIR", help="folder (default: images)")
    add("--data", type=_path, metavar="ROOT", help=_ROOT_HELP)


def _add_ship(subparsers):
    parser = _command(
        subparsers,
        "ship",
        "put finished runs among the networks that ship with the package",
        commands.ship_command,
        example="cifar ship runs/final-0 runs/final-1",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=_path,
        metavar="RUN",
        help="a run's folder: a final run (--validation 0), or one that helped to choose "
        "(--no-test), which ships as NAME-val; with seed 0 its weights ship, with another seed its "
        "history alone, as NAME-seedK",
    )
    add(
        "--out",
        type=_path,
        metavar="DIR",
        help="folder for NAME.json and NAME.safetensors (default: the package's own, which takes "
        "unchanged recipes only)",
    )
    add("--overwrite", action="store_true", help="replace what is there under the same name")
    _add_data(parser, validation=False, limit=False)


# --- shared parts ---------------------------------------------------------------------------------

_ROOT_HELP = "where the data is or should go (default: $CIFAR10_ROOT, else ~/.cache/cifar_utils)"
_SOURCE_HELP = "auto, cifar10, folder, npy or synthetic (default: auto)"
_WEIGHTS_HELP = "a shipped network's name, a weights file, or a run's folder (./NAME if called so)"


def _command(subparsers, name, help, run, *, example):
    parser = subparsers.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_recipe_fields(parser, effect="each replaces the recipe's own value", without=()):
    """One flag for each field of a recipe; what is not given stays as the recipe has it."""
    group = parser.add_argument_group("recipe fields", effect)
    for field in fields(Recipe):
        if field.name in ("name", *without):
            continue
        flag = "--" + field.name.replace("_", "-")
        options = {"help": field.metadata["help"], "default": None, "dest": f"recipe_{field.name}"}
        if field.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            kind = kind_of(field)
            letter = {int: "N", float: "X", str: "NAME"}[kind]
            group.add_argument(flag, type=kind, metavar=letter, **options)


def _add_data(parser, *, validation=True, limit=True):
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=_path, metavar="ROOT", help=_ROOT_HELP)
    group.add_argument("--source", default="auto", metavar="S", help=_SOURCE_HELP)
    if limit:
        group.add_argument(
            "--limit",
            type=_positive,
            metavar="N",
            help="use at most N images of each split, for a quick trial",
        )
    if validation:
        group.add_argument(
            "--validation",
            type=_count,
            metavar="N",
            help="training images to hold out (default: 5000, or a tenth of a "
            "set with fewer than 50,000)",
        )


def _add_device(parser, *, precision=True, compile=False):
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", default="auto", metavar="D", help="auto, cuda, mps or cpu (default: auto)"
    )
    if precision:
        group.add_argument(
            "--precision",
            default="auto",
            metavar="P",
            help="auto, fp32, bf16 or fp16 (default: auto)",
        )
    if compile:
        group.add_argument(
            "--compile",
            action="store_true",
            help="put the network, not the whole step, through torch.compile before the first "
            "epoch; on CPUs this needs a C++ compiler, and training may be slower for it",
        )


def _path(text):
    """A path of the user's, who may have written ~ where no shell expands it: --out=~/runs."""
    return Path(text).expanduser()


def _count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _positive(text):
    if not _count(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


if __name__ == "__main__":
    main()
