"""`cifar summary`: print a network's layers and cost."""

from cifar_utils.cli.options import command


def add(subparsers):
    parser = command(
        subparsers,
        "summary",
        "print a network's layers and cost",
        run,
        example="cifar summary resnet18",
    )
    parser.add_argument("model", metavar="MODEL", help="network; a wrong name lists the right ones")


def run(options):
    from cifar_utils.models import create_model
    from cifar_utils.profile import summary

    summary(create_model(options.model, seed=0))
