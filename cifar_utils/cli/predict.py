"""`cifar predict`: classify image files."""

import json
import sys
from pathlib import Path

from cifar_utils.cli.options import WEIGHTS_HELP, add_machine, command, path, writable


def add(subparsers):
    parser = command(
        subparsers,
        "predict",
        "classify image files",
        run,
        example="cifar predict holiday.jpg --cam",
    )
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image file of any size or kind; its five likeliest classes are printed",
    )
    add(
        "--weights",
        default="compact",
        metavar="PATH|NAME",
        help=f"{WEIGHTS_HELP} (default: compact)",
    )
    add("--cam", action="store_true", help="write a Grad-CAM picture of each image")
    add(
        "--out",
        type=path,
        default=Path(),
        metavar="DIR",
        help="folder for --cam pictures (default: .)",
    )
    add("--json", action="store_true", help="print only a JSON list, with all classes")
    add_machine(parser, precision=False)


def run(options):
    import torch

    from cifar_utils import checkpoints, evaluate
    from cifar_utils.data import read_image, source_title
    from cifar_utils.machine import pick_device

    device = pick_device(options.device)
    model, info = checkpoints.find_weights(options.weights)
    if options.cam:
        writable(options.out)
    images = torch.stack([read_image(path) for path in options.images])
    logits = evaluate.predict(model.to(device), images)
    probabilities = logits.double().softmax(1)
    answers = [
        {"file": path, "probabilities": dict(zip(info.classes, row.tolist(), strict=True))}
        for path, row in zip(options.images, probabilities, strict=True)
    ]
    if options.cam:
        _draw_predictions(options, model, info, images, probabilities, answers)
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
            print(f"  Grad-CAM: {answer['cam']}")


def _draw_predictions(options, model, info, images, probabilities, answers):
    """One picture a file: what the network saw, with Grad-CAM, and the bars. Names clash neither
    with each other nor with the images that were given."""
    from cifar_utils import plots
    from cifar_utils.data import source_title
    from cifar_utils.explain import grad_cam

    trained_on = "" if info.source == "cifar10" else f" (trained on {source_title(info.source)})"
    predictions = probabilities.argmax(1)
    heatmaps = grad_cam(model, images, predictions)
    taken, inputs = set(), {Path(path).resolve() for path in options.images}
    for place, answer in enumerate(answers):
        stem = name = Path(answer["file"]).stem
        number = 2
        while name in taken or (options.out / f"{name}-cam.png").resolve() in inputs:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        answer["cam"] = str(options.out / f"{name}-cam.png")
        shown = Path(answer["file"]).name.replace("$", r"\$")  # two would begin and end a formula
        figure = plots.show_explanation(
            images[place],
            heatmaps[place],
            answer["probabilities"],
            title=f"{shown}: {info.classes[predictions[place]]}{trained_on}",
        )
        plots.save(figure, answer["cam"])
