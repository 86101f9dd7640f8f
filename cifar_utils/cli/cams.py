"""`cifar cams`: measure which Grad-CAM method, stages and smoothing to use by default."""

from argparse import Namespace

from cifar_utils.cli.options import ROOT_HELP, Subparsers, command, path, positive, writable_file
from cifar_utils.errors import choose, shown
from cifar_utils.sources.sealed import write_json


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "cams", "measure which Grad-CAM method, stages and smoothing show most", run,
        example="cifar cams --weights compact --count 20",
    )
    flag = parser.add_argument
    flag("--weights", nargs="+", metavar="NAME",
         help="shipped networks to measure (default: all, which takes minutes)")
    flag("--count", type=positive, default=40, metavar="N",
         help="validation images of CIFAR-10 per network (default: 40)")
    flag("--data", type=path, metavar="ROOT", help=ROOT_HELP)
    flag("--json", type=path, metavar="FILE", help="also write all results to FILE")
    # fmt: on


def run(options: Namespace) -> None:
    from cifar_utils import data
    from cifar_utils.checkpoints import PRETRAINED, load_pretrained, pretrained_names
    from cifar_utils.history import History
    from cifar_utils.results import cams
    from cifar_utils.results.bench import table

    names = options.weights or pretrained_names()
    for name in names:
        choose(name, pretrained_names(), "network")
    if options.json:
        writable_file(options.json, "--json")
    val = data.load(options.data, source="cifar10").val
    networks, measured = {}, []
    for name in names:
        held_out = History.load(PRETRAINED / f"{name}.json").val_images > 0
        model, _ = load_pretrained(name)
        rows = cams.measure(model, val, count=options.count)
        networks[name] = {"held_out": held_out, "rows": rows}
        measured.append(rows)
        seen = "never saw the images" if held_out else "was trained on the images, too"
        print(f"\n{name}, which {seen}\n{table(rows, cams.COLUMNS)}", flush=True)
    means = cams.mean_rows(measured)
    print(f"\nmean of {len(names)} networks\n{table(means, cams.COLUMNS)}")
    if options.json:
        found = {"source": val.source, "validation_images": options.count}
        found |= {"networks": networks, "mean": means}
        write_json(options.json, found)
        print(f"written: {shown(options.json)}")
