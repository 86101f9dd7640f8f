"""`cifar lr-find`: find a learning rate for a recipe by a range test."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from cifar_utils.cli.options import (
    Subparsers,
    add_config,
    add_data,
    add_machine,
    add_recipe_fields,
    checked_recipe,
    command,
    load,
    named_recipe,
    path,
    positive,
    writable,
)
from cifar_utils.cli.terminal import pictures
from cifar_utils.errors import shown
from cifar_utils.recipes import Recipe

# Recipe fields that the test does not read: it has rates, a length and an image size of its own.
UNUSED = (
    "epochs", "schedule", "small_size", "small_until", "views",
    *(field.name for field in fields(Recipe) if field.metadata["only_with"][:1] == ("schedule",)),
)  # fmt: skip


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "lr-find",
        "find a learning rate for a recipe: raise it at each step and watch the loss", run,
        example="cifar lr-find --recipe compact --out runs/lr",
    )
    parser.usage = "cifar lr-find [--recipe NAME] [options]"
    flag = parser.add_argument
    flag("--recipe", metavar="NAME",
         help="recipe to test; `cifar recipes` lists them (default: compact)")
    flag("--lowest", type=float, default=1e-4, metavar="X",
         help="learning rate of the first step (default: 0.0001)")
    flag("--highest", type=float, default=10.0, metavar="X",
         help="learning rate of the last step (default: 10)")
    flag("--steps", type=positive, default=200, metavar="N",
         help="training steps, each with one batch; at least 10 (default: 200)")
    flag("--out", type=path, default=Path(), metavar="DIR",
         help="folder for lr-range.png (default: .)")
    # fmt: on
    add_data(parser)
    add_machine(parser)
    add_config(parser)
    add_recipe_fields(parser, without=UNUSED)


def run(options: Namespace) -> None:
    from tqdm import tqdm

    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.lr_range import lr_range_test
    from cifar_utils.models import build

    options.recipe = named_recipe(options) or "compact"
    recipe = checked_recipe(options, options.recipe)
    writable(options.out)
    cifar = load(options)
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
    rates = f"lr {result.suggestion:.3g}"
    if recipe.optimizer == "muon":  # both rates rose together
        rates += f" and muon-lr {result.suggestion * recipe.muon_lr / recipe.lr:.3g}"
    print(f"the loss falls fastest at {rates}")
    title = f"{shown(recipe.name)} on {source_title(cifar.source)}: learning-rate range test"
    picture = options.out / "lr-range.png"
    with pictures() as draw:
        if draw(picture, lambda path: plots.save(plots.plot_lr_range(result, title=title), path)):
            print(f"written: {shown(picture)}")
