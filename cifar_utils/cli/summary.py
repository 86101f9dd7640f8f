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
    from cifar_utils.profile import summary

    summary(create_model(options.model, seed=0))
