"""`cifar predict`: classify image files."""

import json
import sys
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
from cifar_utils.errors import CifarError


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
    if options.cam:
        _draw_predictions(options, model, info, images, probabilities, answers, heat)
    if info.source != "cifar10":
        print(f"These weights were trained on {source_title(info.source)}.", file=sys.stderr)
    if options.json:
        print(json.dumps(answers, indent=1))
        return
    for answer in answers:
        print(answer["file"])
        likeliest = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        for name, share in likeliest[:5]:
            print(f"{name:>12}  {share:7.2%}  {'█' * round(30 * share)}")
        if options.cam:
            print(f"  heatmap: {answer['cam']}")


def _draw_predictions(options, model, info, images, probabilities, answers, heat):
    """One picture per image: what the network saw, its heatmap, and a bar for each class.

    No picture has the name of another or of an image that was given.
    """
    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.explain import grad_cam

    trained_on = "" if info.source == "cifar10" else f" (trained on {source_title(info.source)})"
    predictions = probabilities.argmax(1)
    heatmaps = grad_cam(model, images, predictions, **heat)
    taken, inputs = set(), {Path(file).resolve() for file in options.images}
    for place, answer in enumerate(answers):
        stem = name = Path(answer["file"]).stem
        number = 2
        while name in taken or (options.out / f"{name}-cam.png").resolve() in inputs:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        answer["cam"] = str(options.out / f"{name}-cam.png")
        shown = Path(answer["file"]).name.replace("$", r"\$")  # two would enclose a formula
        figure = plots.show_explanation(
            images[place],
            heatmaps[place],
            answer["probabilities"],
            heading=_heading(heat["method"], info.classes[predictions[place]]),
            title=f"{shown}: {info.classes[predictions[place]]}{trained_on}",
        )
        plots.save(figure, answer["cam"])


def _heading(method, name):
    """What a heatmap of the class with that name shows, in words."""
    from cifar_utils.explain import method_title

    varies = method in ("eigencam", "eigengradcam")  # whether for the class or against it
    shows = "where the maps vary most" if varies else f"what speaks for {name}"
    return f"{method_title(method)}: {shows}"
