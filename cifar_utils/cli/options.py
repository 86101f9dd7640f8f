"""What the commands share: their common flags, and what these flags lead to."""

import argparse
import contextlib
import io
import os
import tomllib
from collections.abc import Callable, Collection
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cifar_utils.errors import CifarError, choose
from cifar_utils.recipes import Recipe, choices_of, get_recipe, in_words, kind_of
from cifar_utils.sources.files import expanded
from cifar_utils.sources.sealed import parsed, reading

if TYPE_CHECKING:
    from cifar_utils.data import Cifar

FILE_FIELDS = [field.name for field in fields(Recipe) if field.name != "epochs_before"]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

ROOT_HELP = "where the data is or should go (default: $CIFAR10_ROOT, else ~/.cache/cifar_utils)"
SOURCE_HELP = (
    "cifar10; folder: image files in train/CLASS, test/CLASS and perhaps val/CLASS; npy: NumPy "
    "arrays; synthetic: drawn images; auto: cifar10 if it can be had, else synthetic (default: "
    "auto)"
)
WEIGHTS_HELP = (
    "a shipped network's name, a weights file or a run's folder; write ./NAME for a folder that "
    "has the name of a network"
)
MODEL_HELP = (
    "the network of --weights, if that is a plain state dict (.pt and the like), which does not "
    "name it; a wrong name lists all"
)


def command(
    subparsers: Subparsers,
    name: str,
    help: str,
    run: Callable[[argparse.Namespace], None],
    *,
    example: str,
) -> argparse.ArgumentParser:
    """The parser of a new command, which calls `run` with the parsed options."""
    parser = subparsers.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


# --- groups of flags ------------------------------------------------------------------------------


def add_data(
    parser: argparse.ArgumentParser, *, validation: bool = True, limit: bool = True
) -> None:
    """The flags that `load` reads."""
    flag = parser.add_argument_group("data").add_argument
    flag("--data", type=path, metavar="ROOT", help=ROOT_HELP)
    flag("--source", default="auto", metavar="S", help=SOURCE_HELP)
    if limit:
        limit_help = "use at most N images of each split, for a quick trial"
        flag("--limit", type=positive, metavar="N", help=limit_help)
    if validation:
        flag(
            "--validation", type=count, metavar="N",
            help="training images to hold out (default: 5000, or a tenth if there are fewer than "
            "50,000, or none beside a folder val/)",
        )  # fmt: skip


def add_machine(
    parser: argparse.ArgumentParser, *, precision: bool = True, compile: bool = False
) -> None:
    """The flags that say where and how to compute."""
    flag = parser.add_argument_group("machine").add_argument
    flag("--device", default="auto", metavar="D", help="auto, cuda, mps or cpu (default: auto)")
    if precision:
        precision_help = "auto, fp32, bf16 or fp16 (default: auto)"
        flag("--precision", default="auto", metavar="P", help=precision_help)
    if compile:
        flag(
            "--compile", action="store_true",
            help="compile the network, though not the whole training step, with torch.compile "
            "before the first epoch; on a CPU this needs a C++ compiler and may slow training down",
        )  # fmt: skip


def add_cam(parser: argparse.ArgumentParser, needs: str) -> None:
    """The flags that `cam_options` reads; they need the flag --`needs`."""
    flag = parser.add_argument_group("heatmaps", f"Only with --{needs}.").add_argument
    # fmt: off
    flag("--method", metavar="NAME",
         help="Grad-CAM or a relative; a wrong name lists the right ones (default: hirescam)")
    flag("--stage", type=int, nargs="+", metavar="N",
         help="stages of the network, counted from 0, whose heatmaps are averaged; `cifar summary` "
         "lists them (default: the two deepest with maps of at least 4 by 4)")
    flag("--smooth", action="store_true",
         help="average over the image and its mirror image, each in three contrasts")
    # fmt: on


def add_recipe_fields(
    parser: argparse.ArgumentParser,
    effect: str = "Each replaces the recipe's own value.",
    without: Collection[str] = (),
) -> None:
    """A flag for each field of a recipe; `recipe_changes` returns those that were given."""
    flag = parser.add_argument_group("recipe fields", effect).add_argument
    for field in fields(Recipe):
        if field.name in ("name", "epochs_before", *without):  # --resume sets the latter
            continue
        name = flag_of(field.name)
        known: dict[str, Any] = {"dest": f"recipe_{field.name}", "help": _field_help(field)}
        if field.type is bool:
            flag(name, action=argparse.BooleanOptionalAction, **known)
        else:
            kind = kind_of(field)
            metavar = {int: "N", float: "X", str: "NAME"}[kind]
            flag(name, type=kind, metavar=metavar, **known)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flag for a file of recipe fields, which `recipe_changes` and `checked_recipe` read."""
    parser.add_argument(
        "--config", type=recipe_file, default={}, metavar="FILE",
        help="read recipe fields from a .toml or .json file, such as what `cifar recipes NAME` "
        "prints, or the recipe of a run from its history.json; the key recipe names a recipe, as "
        "--recipe does; flags win over the file",
    )  # fmt: skip


def flag_of(name: str) -> str:
    """The flag of the recipe field with that name."""
    (field,) = (field for field in fields(Recipe) if field.name == name)
    return field.metadata["flag"] or "--" + name.replace("_", "-")


def _field_help(field: Field) -> str:
    """What a field is, its choices or range, and what it needs to have an effect."""
    text = field.metadata["help"]
    if choices := choices_of(field):
        text += f": {_either(choices)}"
    if interval := field.metadata["within"]:
        text += f"; {in_words(interval)}"
    if needed := field.metadata["only_with"]:
        name, *values = needed
        state = f"is {_either(values[0])}" if values else "is set"
        text += f"; only if {flag_of(name)} {state}"
    return text


def _either(values: Collection) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


# --- values of flags ------------------------------------------------------------------------------


def path(text: str) -> Path:
    """A path, also one with a ~ that no shell has expanded: --out=~/runs."""
    if not text:  # as a shell makes of a variable that is not set
        raise argparse.ArgumentTypeError("the path is empty; write . for this folder")
    try:
        return expanded(text)
    except CifarError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not count(text):
        raise argparse.ArgumentTypeError("it must be at least 1")
    return int(text)


def recipe_file(text: str) -> dict[str, Any]:
    """The recipe fields in a TOML or JSON file; "recipe" names one, or is that of a history."""
    file = path(text)
    if file.suffix not in (".toml", ".json"):
        raise argparse.ArgumentTypeError(f"{file} is neither a .toml nor a .json file")
    form = "TOML" if file.suffix == ".toml" else "JSON"
    try:
        with reading(file, f"file of recipe fields as {form}", "`cifar recipes NAME` prints one"):
            content = file.read_text(encoding="utf-8")
            values = tomllib.loads(content) if file.suffix == ".toml" else parsed(content)
            if isinstance(values.get("recipe"), dict):  # a run's history, perhaps an old one
                whole = Recipe.from_dict(values["recipe"])
                return {"recipe": whole.changed(epochs_before=0)}  # a new run starts from scratch
            flags = {flag_of(name)[2:]: name for name in FILE_FIELDS}  # as on the command line
            values = {flags.get(name, name): value for name, value in values.items()}
            for name in values:
                choose(name, ["recipe", *FILE_FIELDS], "recipe field")
            Recipe.from_dict({name: value for name, value in values.items() if name != "recipe"})
            return values
    except CifarError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- what flags lead to ---------------------------------------------------------------------------


def named_recipe(options: argparse.Namespace) -> str | Recipe | None:
    """What --recipe or the file of --config names: by its name, or whole, if that is a history."""
    told = options.config.get("recipe")
    if options.recipe and isinstance(told, Recipe):
        raise CifarError("--recipe and the history of --config each say what to train; give one")
    return options.recipe or told


def checked_recipe(options: argparse.Namespace, recipe: str | Recipe) -> Recipe:
    """The recipe, or that of this name, with the changes that flags and --config ask for.

    All that can be refused without the data is refused here, as a CifarError.
    """
    from cifar_utils.augment import operations
    from cifar_utils.checkpoints import find_weights
    from cifar_utils.data import CLASSES
    from cifar_utils.machine import pick_device, pick_precision
    from cifar_utils.models import MODELS, build
    from cifar_utils.speed.compile import check_compiler
    from cifar_utils.train import check_model

    own = options.recipe or not getattr(options, "resume", False)  # else the run brings its recipe
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = recipe.changed(**recipe_changes(options) if own else {})
    device = pick_device(options.device)
    if options.precision != "auto":
        pick_precision(options.precision, device)
    if getattr(options, "compile", False):
        check_compiler(device)
    operations(recipe.augmentation)
    choose(recipe.model, MODELS, "model")
    if recipe.teacher:
        find_weights(recipe.teacher)
    if recipe.start_from:
        with contextlib.redirect_stderr(io.StringIO()):  # its notices come again with the training
            find_weights(recipe.start_from, model=recipe.model)
    if recipe.schedule == "plateau" and options.validation == 0:
        raise CifarError(
            "the schedule plateau needs validation images; hold some out: --validation"
        )
    if own:
        check_model(build(recipe, CLASSES), recipe)
    return recipe


def recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe fields that were given as flags or in the file of --config, with their values."""
    given = {
        name.removeprefix("recipe_"): value
        for name, value in vars(options).items()
        if name.startswith("recipe_") and value is not None
    }
    read = getattr(options, "config", {})
    return {name: value for name, value in read.items() if name != "recipe"} | given


def cam_options(options: argparse.Namespace, needs: str) -> dict[str, Any]:
    """What `grad_cam` takes besides images and targets, from the flags of `add_cam`.

    Raises CifarError if one of them was given without the flag --`needs`, or names no method.
    """
    from cifar_utils.explain import DEFAULTS, METHODS

    given = {name: value for name in DEFAULTS if (value := getattr(options, name))}
    if given and getattr(options, needs) in (None, False):
        raise CifarError(f"--{next(iter(given))} needs --{needs}")
    chosen = DEFAULTS | given
    choose(chosen["method"], METHODS, "method")
    return chosen


def load(options: argparse.Namespace) -> "Cifar":
    """The data that the flags of `add_data` name."""
    from cifar_utils import data

    validation = getattr(options, "validation", 0)
    cifar = data.load(options.data, source=options.source, validation=validation)
    limit = getattr(options, "limit", None)
    return cifar.limit(limit) if limit else cifar


def writable(folder: Path, *, instead: str = "another folder with --out") -> Path:
    """`folder`; raises CifarError, before any work is done, if nothing could be written to it."""
    places = (folder, *folder.absolute().parents)
    nearest = next(place for place in places if place.exists() or place.is_symlink())
    if not nearest.is_dir():
        kind = "file" if nearest.exists() else "link to nothing"
        raise CifarError(f"{nearest} is a {kind}; choose {instead}")
    if not os.access(nearest, os.W_OK):
        raise CifarError(f"{nearest} cannot be written to; choose {instead}")
    return folder


def writable_file(file: Path, flag: str) -> Path:
    """`file`; raises CifarError, before any work is done, if it could not be written.

    flag: the flag that it was given with.
    """
    writable(file.parent, instead=f"another file with {flag}")
    if file.is_dir():
        raise CifarError(f"{file} is a folder; choose a file with {flag}")
    if file.exists() and not file.is_file():
        raise CifarError(f"{file} is a device or a pipe; choose a file with {flag}")
    return file
