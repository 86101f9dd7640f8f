"""What several commands share: flags, and what comes of them."""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from cifar_utils.errors import CifarError, choose
from cifar_utils.recipes import Recipe, get_recipe, kind_of


def command(subparsers, name, help, run, *, example):
    parser = subparsers.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def add_data(parser, *, validation=True, limit=True):
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=path, metavar="ROOT", help=ROOT_HELP)
    group.add_argument("--source", default="auto", metavar="S", help=SOURCE_HELP)
    if limit:
        group.add_argument(
            "--limit",
            type=positive,
            metavar="N",
            help="use at most N images of each split, for a quick trial",
        )
    if validation:
        group.add_argument(
            "--validation",
            type=count,
            metavar="N",
            help="training images to hold out (default: 5000, or a tenth of a "
            "set with fewer than 50,000)",
        )


def add_machine(parser, *, precision=True, compile=False):
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


def add_recipe_fields(parser, effect="each replaces the recipe's own value", without=()):
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


ROOT_HELP = "where the data is or should go (default: $CIFAR10_ROOT, else ~/.cache/cifar_utils)"


SOURCE_HELP = "auto, cifar10, folder, npy or synthetic (default: auto)"


WEIGHTS_HELP = "a shipped network's name, a weights file, or a run's folder (./NAME if called so)"


def path(text):
    """A path of the user's, who may have written ~ where no shell expands it: --out=~/runs."""
    return Path(text).expanduser()


def count(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def positive(text):
    if not count(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


def checked_recipe(options, name):
    """That recipe with the flags' changes; all that can be refused before the data is touched."""
    from cifar_utils.augment import operations
    from cifar_utils.checkpoints import find_weights
    from cifar_utils.machine import check_compiler, pick_device, pick_precision
    from cifar_utils.models import MODELS, build
    from cifar_utils.train import check_model

    recipe = get_recipe(name).changed(**recipe_changes(options))
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


def recipe_changes(options):
    """The recipe fields that were given on the command line."""
    given = {
        name.removeprefix("recipe_"): value
        for name, value in vars(options).items()
        if name.startswith("recipe_")
    }
    return {name: value for name, value in given.items() if value is not None}


def load(options):
    from cifar_utils import data

    cifar = data.load(options.data, source=options.source, validation=0)
    if hasattr(options, "validation"):
        smaller = min(5000, len(cifar.train) // 10)
        cifar = cifar.hold_out(smaller if options.validation is None else options.validation)
    limit = getattr(options, "limit", None)
    return cifar.limit(limit) if limit else cifar


def writable(out, *, choose="another folder with --out"):
    """The folder `out`, refused before any work where nothing could be written to it."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise CifarError(f"{nearest} is a file; choose {choose}")
    if not os.access(nearest, os.W_OK):
        raise CifarError(f"{nearest} cannot be written to; choose {choose}")
    return out
