"""`cifar summary`: print the layers and the cost of a network."""

from argparse import Namespace

from cifar_utils.cli.options import Subparsers, command


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers, "summary", "print a network's layers and cost", run,
        example="cifar summary resnet18",
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="network; a wrong name lists the right ones")


def run(options: Namespace) -> None:
    from cifar_utils.models import create_model
    from cifar_utils.profile import stage_shapes, summary

    model = create_model(options.model, seed=0)
    summary(model)
    print("\nstages, as --stage counts them, and the maps after each: channels × height × width")
    for number, shape in enumerate(stage_shapes(model)):
        print(f"{number:>3}  {' × '.join(map(str, shape))}")
