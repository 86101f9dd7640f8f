"""`cifar lr-find`: learning-rate range test of a recipe."""

from pathlib import Path

from cifar_utils.cli.options import (
    add_data,
    add_machine,
    add_recipe_fields,
    checked_recipe,
    command,
    load,
    path,
    positive,
    writable,
)


def add(subparsers):
    parser = command(
        subparsers,
        "lr-find",
        "learning-rate range test of a recipe",
        run,
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
        type=positive,
        default=200,
        metavar="N",
        help="training steps, a batch each (default: 200)",
    )
    add(
        "--out",
        type=path,
        default=Path(),
        metavar="DIR",
        help="folder for lr-range.png (default: .)",
    )
    add_data(parser)
    add_machine(parser)
    # The test has rates, a length and images of its own.
    add_recipe_fields(
        parser,
        without=("epochs", "schedule", "peak", "step_every", "step_factor",
                 "step_decay_factor", "small_size", "small_until", "views"),
    )  # fmt: skip


def run(options):
    from tqdm import tqdm

    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.models import build
    from cifar_utils.train import lr_range_test

    recipe = checked_recipe(options, options.recipe or "compact")
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
    path = options.out / "lr-range.png"
    title = f"{recipe.name} on {source_title(cifar.source)}: learning-rate range test"
    plots.save(plots.plot_lr_range(result, title=title), path)
    rates = f"lr {result.suggestion:.3g}"
    if recipe.optimizer == "muon":  # both rose together
        rates += f" and muon-lr {result.suggestion * recipe.muon_lr / recipe.lr:.3g}"
    print(f"the loss falls fastest at {rates}; written: {path}")
