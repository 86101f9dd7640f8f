"""`cifar ship`: add finished runs to the networks that ship with the package."""

from argparse import Namespace

from cifar_utils.cli.options import Subparsers, add_data, command, load, path, writable
from cifar_utils.errors import CifarError


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "ship", "add finished runs to the networks that ship with the package", run,
        example="cifar ship runs/final-0 runs/final-1",
    )
    flag = parser.add_argument
    flag("runs", nargs="+", type=path, metavar="RUN",
         help="folder of a final run, trained with --validation 0, or of one that helped to "
         "choose, trained with --no-test, which ships as NAME-val; with seed 0 its weights ship "
         "too, with another seed only its history, as NAME-seedK")
    flag("--out", type=path, metavar="DIR",
         help="folder for NAME.json and NAME.safetensors (default: the package's own, which takes "
         "unchanged recipes only)")
    flag("--overwrite", action="store_true", help="replace files of the same name")
    # fmt: on
    add_data(parser, validation=False, limit=False)


def run(options: Namespace) -> None:
    from cifar_utils.checkpoints import PRETRAINED
    from cifar_utils.results.ship import check, name_of, ship

    out = writable(options.out or PRETRAINED)
    cifar = load(options)
    histories = {}
    for folder in options.runs:  # all are checked before any is written
        history = check(folder, cifar, own=options.out is None)
        for end in (".json", ".safetensors", "-cam.npz"):
            there = out / f"{name_of(history)}{end}"
            if there.exists() and not options.overwrite:
                raise CifarError(f"{there} already exists; add --overwrite to replace it")
        histories[folder] = history
    if len({name_of(history) for history in histories.values()}) < len(histories):
        raise CifarError("two of the runs would ship under one name")
    out.mkdir(parents=True, exist_ok=True)
    for folder, history in histories.items():
        print(ship(folder, history, out, cifar.train))
