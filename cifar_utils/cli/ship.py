"""`cifar ship`: put finished runs among the networks that ship with the package."""

from cifar_utils.cli.options import add_data, command, load, path, writable
from cifar_utils.errors import CifarError


def add(subparsers):
    parser = command(
        subparsers,
        "ship",
        "put finished runs among the networks that ship with the package",
        run,
        example="cifar ship runs/final-0 runs/final-1",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=path,
        metavar="RUN",
        help="a run's folder: a final run (--validation 0), or one that helped to choose "
        "(--no-test), which ships as NAME-val; with seed 0 its weights ship, with another seed its "
        "history alone, as NAME-seedK",
    )
    add(
        "--out",
        type=path,
        metavar="DIR",
        help="folder for NAME.json and NAME.safetensors (default: the package's own, which takes "
        "unchanged recipes only)",
    )
    add("--overwrite", action="store_true", help="replace what is there under the same name")
    add_data(parser, validation=False, limit=False)


def run(options):
    from cifar_utils.checkpoints import PRETRAINED
    from cifar_utils.results.ship import check, name_of, ship

    out = writable(options.out or PRETRAINED)
    cifar = load(options)
    histories = {}
    for run in options.runs:  # all are checked before any is written
        history = check(run, cifar, own=options.out is None)
        for end in (".json", ".safetensors", "-cam.npz"):
            there = out / f"{name_of(history)}{end}"
            if there.exists() and not options.overwrite:
                raise CifarError(f"{there} is there already; add --overwrite to replace it")
        histories[run] = history
    if len({name_of(history) for history in histories.values()}) < len(histories):
        raise CifarError("two of the runs would ship under one name")
    out.mkdir(parents=True, exist_ok=True)
    for run, history in histories.items():
        print(ship(run, history, out, cifar.train))
