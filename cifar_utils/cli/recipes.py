"""`cifar recipes`: list the recipes."""

from cifar_utils.cli.options import command
from cifar_utils.recipes import RECIPES


def add(subparsers):
    command(subparsers, "recipes", "list the recipes", run, example="cifar recipes")


def run(options):
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
