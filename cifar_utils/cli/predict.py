"""`cifar predict`: classify image files."""

import functools
import json
import sys
import unicodedata
from argparse import Namespace
from pathlib import Path

from cifar_utils.cli.options import (
    MODEL_HELP,
    WEIGHTS_HELP,
    Subparsers,
    add_cam,
    add_machine,
    cam_options,
    command,
    path,
    writable,
)
from cifar_utils.cli.terminal import pictures
from cifar_utils.errors import CifarError, shown
from cifar_utils.sources.files import safe_name


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "predict", "classify image files", run,
        example="cifar predict holiday.jpg --cam",
    )
    flag = parser.add_argument
    flag("images", nargs="+", metavar="IMAGE",
         help="image file of any size or format; its five likeliest classes are printed")
    flag("--weights", default="compact", metavar="PATH|NAME",
         help=f"{WEIGHTS_HELP} (default: compact)")
    flag("--model", default="", metavar="NAME", help=MODEL_HELP)
    flag("--cam", action="store_true", help="also draw each image with its heatmap")
    flag("--out", type=path, metavar="DIR",
         help="folder for the pictures of --cam (default: .)")
    flag("--json", action="store_true",
         help="print one JSON list, with all classes, and nothing else")
    # fmt: on
    add_cam(parser, "cam")
    add_machine(parser, precision=False)


def run(options: Namespace) -> None:
    import torch

    from cifar_utils import checkpoints, evaluate
    from cifar_utils.data import read_image, source_title
    from cifar_utils.explain import chosen_stages
    from cifar_utils.machine import pick_device

    device = pick_device(options.device)
    heat = cam_options(options, "cam")
    if options.out and not options.cam:
        raise CifarError("--out needs --cam")
    options.out = options.out or Path()
    model, info = checkpoints.find_weights(options.weights, model=options.model)
    chosen_stages(model, heat["stage"])
    if options.cam:
        writable(options.out)
    images = torch.stack([read_image(file) for file in options.images])
    logits = evaluate.predict(model.to(device), images)
    probabilities = logits.double().softmax(1)
    answers = [
        {"file": file, "probabilities": dict(zip(info.classes, row.tolist(), strict=True))}
        for file, row in zip(options.images, probabilities, strict=True)
    ]
    if info.source != "cifar10":
        print(f"These weights were trained on {source_title(info.source)}.", file=sys.stderr)
    with pictures() as draw:
        if options.cam:
            _draw_predictions(options, model, info, images, probabilities, answers, heat, draw)
        if options.json:
            print(json.dumps(answers, indent=1))
            return
        for answer in answers:
            print(shown(answer["file"]))
            likeliest = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
            for name, share in likeliest[:5]:
                print(f"{shown(name):>12}  {share:7.2%}  {'█' * round(30 * share)}")
            if answer.get("cam"):
                print(f"  heatmap: {shown(answer['cam'])}")


def _draw_predictions(options, model, info, images, probabilities, answers, heat, draw):
    """One picture per image: what the network saw, its heatmap, and a bar for each class.

    Notes in each answer where its picture is, or None if it could not be drawn.
    """
    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.explain import grad_cam

    trained_on = "" if info.source == "cifar10" else f" (trained on {source_title(info.source)})"
    predictions = probabilities.argmax(1)
    heatmaps = functools.cache(lambda: grad_cam(model, images, predictions, **heat))

    def explain(place, path):
        likeliest = shown(info.classes[predictions[place]])
        file = shown(Path(options.images[place]).name)
        file = file if len(file) <= 60 else f"{file[:59]}…"
        figure = plots.show_explanation(
            images[place],
            heatmaps()[place],
            answers[place]["probabilities"],
            heading=_heading(heat["method"], likeliest),
            title=f"{file}: {likeliest}{trained_on}",
        )
        plots.save(figure, path)

    for place, picture in enumerate(_picture_paths(options.images, options.out)):
        drawn = draw(picture, functools.partial(explain, place))
        answers[place]["cam"] = str(picture) if drawn else None


def _picture_paths(images, out):
    """NAME-cam.png in `out` for each image file: none is that of another, or of an image given."""
    taken, inputs = set(), {Path(file).resolve() for file in images}
    for file in images:
        stem = name = safe_name(Path(file).stem)
        number = 2
        while _alike(name) in taken or (out / f"{name}-cam.png").resolve() in inputs:
            name, number = f"{stem}-{number}", number + 1
        taken.add(_alike(name))
        yield out / f"{name}-cam.png"


def _alike(name):
    """The same text for names that some systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _heading(method, name):
    """What a heatmap of the class with that name shows, in words."""
    from cifar_utils.explain import method_title

    varies = method in ("eigencam", "eigengradcam")  # whether for the class or against it
    shows = "where the maps vary most" if varies else f"what speaks for {name}"
    return f"{method_title(method)}: {shows}"
