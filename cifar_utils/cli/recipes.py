"""`cifar recipes`: list the recipes and what each has reached."""

from argparse import Namespace

from cifar_utils.cli.options import Subparsers, command
from cifar_utils.recipes import RECIPES


def add(subparsers: Subparsers) -> None:
    command(
        subparsers, "recipes", "list the recipes, and what each has reached", run,
        example="cifar recipes",
    )  # fmt: skip


def run(options: Namespace) -> None:
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
