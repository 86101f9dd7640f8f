"""`cifar test`: evaluate trained weights on the test images."""

import json
from argparse import Namespace
from functools import partial
from pathlib import Path

from cifar_utils.cli.options import (
    MODEL_HELP,
    WEIGHTS_HELP,
    Subparsers,
    add_cam,
    add_data,
    add_machine,
    cam_options,
    command,
    count,
    load,
    path,
    positive,
    writable,
)
from cifar_utils.cli.terminal import pictures
from cifar_utils.errors import CifarError, shown


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "test", "evaluate trained weights on the test images", run,
        example="cifar test --weights runs/first --confusion --grid",
    )
    flag = parser.add_argument
    flag("--weights", required=True, metavar="PATH|NAME", help=WEIGHTS_HELP)
    flag("--model", default="", metavar="NAME", help=MODEL_HELP)
    flag("--batch-size", type=positive, default=500, metavar="N",
         help="images per batch (default: 500)")
    flag("--views", type=int, choices=(1, 2, 6), default=1,
         help="views of each image to average over: 2 adds its mirror image, 6 adds shifted ones "
         "as well (default: 1)")
    flag("--share", type=float, default=1.0, metavar="X",
         help="give the further views only to this share of the images, the least confident; in "
         "[0, 1] (default: 1)")
    flag("--confusion", action="store_true", help="also print the confusion matrix")
    flag("--grid", action="store_true",
         help="draw the first predictions, and the most confident mistakes and hits, without and "
         "with heatmaps")
    flag("--out", type=path, metavar="DIR",
         help="draw the confusion matrix and the accuracy per class into DIR, as well as what "
         "--grid draws (without --out, --grid draws into .)")
    flag("--seed", type=count, metavar="N",
         help="let --grid show random test images, drawn with this seed, in place of the first "
         "ones")
    flag("--json", action="store_true", help="print one JSON object and nothing else")
    # fmt: on
    add_cam(parser, "grid")
    add_data(parser, validation=False)
    add_machine(parser, precision=False)


def run(options: Namespace) -> None:
    from cifar_utils import checkpoints, evaluate
    from cifar_utils.explain import chosen_stages
    from cifar_utils.machine import pick_device

    device = pick_device(options.device)
    if not 0 <= options.share <= 1:
        raise CifarError(f"--share is {options.share}; it must be in [0, 1]")
    if options.share < 1 and options.views == 1:
        raise CifarError("--share needs --views 2 or 6")
    if options.seed is not None and not options.grid:
        raise CifarError("--seed needs --grid")
    heat = cam_options(options, "grid")
    model, info = checkpoints.find_weights(options.weights, model=options.model)
    chosen_stages(model, heat["stage"])
    out = options.out or Path()
    if options.grid or options.out:
        writable(out)
    cifar = load(options)
    unnamed = info.source == checkpoints.UNKNOWN and len(info.classes) == len(cifar.classes)
    if cifar.classes != info.classes and not unnamed:
        raise CifarError(
            f"the weights were trained on the classes {', '.join(info.classes)}; the data has "
            f"{', '.join(cifar.classes)}"
        )
    logits = evaluate.predict(
        model.to(device), cifar.test.images, views=options.views, share=options.share,
        batch_size=options.batch_size,
    )  # fmt: skip
    figures = evaluate.metrics(logits, cifar.test.labels, cifar.classes)
    matrix = evaluate.confusion_matrix(logits, cifar.test.labels)
    figures["source"] = cifar.source
    if options.json:
        extra = {"confusion": matrix.tolist()} if options.confusion else {}
        print(json.dumps(figures | extra, indent=1))
    else:
        _print_figures(figures, info)
        if options.confusion:
            _print_confusion(matrix, cifar.classes)
            if not options.out:
                print("--out DIR also draws it, as DIR/confusion.png")
    if options.grid or options.out:
        makers = _pictures(options, model, info, cifar, logits, figures, matrix, heat)
        with pictures() as draw:
            written = [
                shown(out / f"{name}.png")
                for name, make in makers.items()
                if draw(out / f"{name}.png", partial(_save_drawn, make))
            ]
            if written and not options.json:
                print("written: " + ", ".join(written))


def _save_drawn(make, path):
    from cifar_utils import plots

    plots.save(make(), path)


def _print_figures(figures, info):
    print(
        f"{shown(info.recipe.name)} (trained on {shown(info.source)}), {figures['n']:,} test "
        f"images of {figures['source']}"
    )
    for k in (1, 3, 5):
        if k == 1 or k < len(figures["per_class"]):  # else it is 100% for any network
            print(f"{f'top{k}':>12}  {figures[f'top{k}']:7.2%}")
    print(f"{'loss':>12}  {figures['loss']:7.4f}")
    print_per_class(figures)


def print_per_class(figures: dict) -> None:
    """A line with the accuracy of each class; figures: what `evaluate.metrics` returns."""
    for name, share in figures["per_class"].items():
        print(f"{shown(name):>12}  " + ("no images" if share is None else f"{share:7.2%}"))


def _print_confusion(matrix, classes):
    """How many percent of each true class, a row, were taken for each class, a column."""
    print("\nconfusion matrix: rows true, columns predicted, percent of the row")
    classes = [shown(name) for name in classes]
    width = max(map(len, classes))
    print(" " * width + "".join(f"{name[:5]:>7}" for name in classes))
    for name, row in zip(classes, matrix, strict=True):
        cells = "".join(f"{100 * count / max(row.sum(), 1):7.1f}" for count in row)
        print(f"{name:>{width}}{cells}")


def _pictures(options, model, info, cifar, logits, figures, matrix, heat):
    """The pictures of --out and --grid: a dict from name to a function that draws it."""
    import torch

    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.evaluate import most_confident_hits, most_confident_mistakes
    from cifar_utils.explain import grad_cam, method_title
    from cifar_utils.machine import generator

    test, classes = cifar.test, cifar.classes
    title = f"{shown(info.recipe.name)} on {source_title(cifar.source)}"
    if info.source != cifar.source:
        title = f"{title}, trained on {source_title(info.source)}"
    makers = {}
    if options.out:
        makers["confusion"] = lambda: plots.plot_confusion_matrix(
            matrix, classes=classes, title=f"{title}: {figures['top1']:.1%} right"
        )
        makers["per-class"] = lambda: plots.plot_per_class(
            figures["per_class"], title=f"{title}: accuracy per class"
        )
    if not options.grid:
        return makers
    few, which = torch.arange(len(test))[:40], "the first test images"
    if options.seed is not None:
        few = torch.randperm(len(test), generator=generator(options.seed))[:40]
        which = f"{len(few)} random test images (seed {options.seed})"
    makers["predictions"] = lambda: plots.show_predictions(
        test.images[few],
        test.labels[few],
        logits[few],
        classes=classes,
        title=f"{title}: {which}",
    )
    # The maps of EigenCAM are those of no class.
    of_what = " of the predicted class" if heat["method"] != "eigencam" else ""
    with_cam = f", with {method_title(heat['method'])}{of_what}"

    def gallery(kind, *, cam):
        find, show = {
            "mistakes": (most_confident_mistakes, plots.show_mistakes),
            "hits": (most_confident_hits, plots.show_hits),
        }[kind]
        ranked, heading = find(logits, test.labels, count=20), f"{title}: the most confident {kind}"
        if not cam:
            return show(test.images, ranked, classes=classes, title=heading)
        heatmaps = grad_cam(model, test.images[ranked.indices], ranked.predictions, **heat)
        return show(
            test.images, ranked, heatmaps, classes=classes, columns=4, title=heading + with_cam
        )

    for kind in ("mistakes", "hits"):
        makers[kind] = partial(gallery, kind, cam=False)
        makers[f"{kind}-cam"] = partial(gallery, kind, cam=True)
    return makers
