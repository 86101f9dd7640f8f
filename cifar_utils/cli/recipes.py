"""`cifar recipes`: list the recipes and what each has reached, or print one of them."""

import json
from argparse import Namespace

from cifar_utils.cli.options import FILE_FIELDS, Subparsers, command
from cifar_utils.recipes import RECIPES, get_recipe


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers, "recipes", "list the recipes and what each has reached, or print one of them",
        run, example="cifar recipes compact",
    )  # fmt: skip
    parser.add_argument(
        "name", nargs="?", metavar="NAME",
        help="recipe to print, as TOML, which `cifar train --config FILE` reads (default: list "
        "all)",
    )  # fmt: skip


def run(options: Namespace) -> None:
    if options.name:
        recipe = get_recipe(options.name)
        print(f'recipe = "{recipe.name}"')  # whose values hold for the lines that a reader deletes
        for field, value in recipe.as_dict().items():
            if field in FILE_FIELDS:
                print(f"{field} = {json.dumps(value)}")  # TOML writes such values as JSON does
    else:
        _list()


def _list():
    from cifar_utils.results import report

    claims = report.claims()
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
        if recipe.name in claims:
            print(f"    reached {claims[recipe.name]}")
    print("\nreached: test accuracy on CIFAR-10, and training time, of our own runs")
