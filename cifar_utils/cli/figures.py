"""`cifar figures`: draw the README's pictures from the shipped networks and CIFAR-10."""

from argparse import Namespace
from pathlib import Path

from cifar_utils.cli.options import ROOT_HELP, Subparsers, command, path, writable
from cifar_utils.errors import choose, shown


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "figures", "draw the README's pictures from the shipped networks and CIFAR-10",
        run, example="cifar figures curves.png cost.png --out images",
    )
    flag = parser.add_argument
    flag("names", nargs="*", metavar="NAME",
         help="picture to draw; a wrong name lists the right ones (default: all)")
    flag("--out", type=path, default=Path("images"), metavar="DIR",
         help="folder for the pictures (default: images)")
    flag("--data", type=path, metavar="ROOT", help=ROOT_HELP)
    # fmt: on


def run(options: Namespace) -> None:
    from cifar_utils import data
    from cifar_utils.results import figures

    for name in options.names:
        choose(name, figures.PICTURES, "picture")
    out = writable(options.out)
    cifar = data.load(options.data, source="cifar10", validation=0)
    for picture in figures.draw(options.names or figures.PICTURES, out, cifar):
        print(f"written: {shown(picture)}")
