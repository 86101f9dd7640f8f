"""`cifar figures`: draw the pictures of the README from the shipped networks and CIFAR-10."""

from pathlib import Path

from cifar_utils.cli.options import ROOT_HELP, command, path, writable
from cifar_utils.errors import choose


def add(subparsers):
    parser = command(
        subparsers,
        "figures",
        "draw the pictures of the README from the shipped networks and CIFAR-10",
        run,
        example="cifar figures curves.png cost.png --out images",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="picture to draw (default: all of them)")
    add("--out", type=path, default=Path("images"), metavar="DIR", help="folder (default: images)")
    add("--data", type=path, metavar="ROOT", help=ROOT_HELP)


def run(options):
    from cifar_utils import data
    from cifar_utils.results import figures

    for name in options.names:
        choose(name, figures.PICTURES, "picture")
    out = writable(options.out)
    cifar = data.load(options.data, source="cifar10", validation=0)
    for picture in figures.draw(options.names or figures.PICTURES, out, cifar):
        print(f"written: {picture}")
