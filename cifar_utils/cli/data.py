"""`cifar data`: fetch, verify and describe the data."""

from argparse import Namespace

from cifar_utils.cli.options import ROOT_HELP, SOURCE_HELP, Subparsers, command, path, writable_file
from cifar_utils.errors import CifarError, shown


def add(subparsers: Subparsers) -> None:
    # fmt: off
    parser = command(
        subparsers, "data", "fetch, verify and describe the data", run,
        example="cifar data --data ~/datasets",
    )
    flag = parser.add_argument
    flag("--data", "--root", dest="root", type=path, metavar="ROOT", help=ROOT_HELP)
    flag("--source", default="auto", metavar="S", help=SOURCE_HELP)
    flag("--montage", type=path, metavar="FILE",
         help="also write the first 1,024 training images as one PNG")
    # fmt: on


def run(options: Namespace) -> None:
    from cifar_utils import data, plots
    from cifar_utils.sources import files

    if options.montage:
        writable_file(options.montage, "--montage")
    cifar = data.load(options.root, source=options.source, validation=0)
    root = options.root or data.default_root()
    print(f"source      {cifar.source}: {data.source_title(cifar.source)}")
    print(f"root        {shown(root)}")
    if cifar.source == "cifar10":
        folder = data.official_folder(root)
        assert folder is not None  # `load` has just read it
        for name, digest in data.MD5.items():  # again, because `load` may have read its cache
            if files.digest_of(folder / name) != digest:
                raise CifarError(
                    f"{folder / name} does not have the published MD5; delete it, try again"
                )
        print(f"files       {len(data.MD5)} in {shown(folder)}, each with the published MD5")
    splits = {"training": cifar.train, "validation": cifar.val, "test": cifar.test}
    if not len(cifar.val):  # a source may bring some of its own
        del splits["validation"]
    for name, split in splits.items():
        print(f"{name:<12}{len(split):,} images, 32 by 32 pixels")
    length = len(cifar.classes)
    counts = [split.labels.bincount(minlength=length).tolist() for split in splits.values()]
    shares = zip(map(shown, cifar.classes), *counts, strict=True)
    print(
        "classes     " + ", ".join(f"{name} {'/'.join(map(str, each))}" for name, *each in shares)
    )
    if len(cifar.train):
        mean, std = _channel_statistics(cifar.train.images)
        for name, values in (("mean", mean), ("std", std)):
            print(f"{name:<12}" + " ".join(f"{value:.4f}" for value in values.tolist()))
    if options.montage and not len(cifar.train):
        raise CifarError("there are no training images for --montage")
    if options.montage:
        plots.save_montage(options.montage, cifar.train.images[:1024])
        print(f"written: {shown(options.montage)}")
    if options.source == "auto" and cifar.source == "synthetic":
        raise SystemExit(1)  # so that `cifar data && cifar train …` does not go on with drawings


def _channel_statistics(images):
    """Mean and standard deviation of each channel of uint8 images, as fractions of 255.

    They are counted from how often each byte occurs: exact, and without a float copy of the images.
    """
    import torch

    counts = torch.stack([part.flatten().bincount(minlength=256) for part in images.unbind(1)])
    shares = counts.double() / counts[0].sum()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ levels
    return mean, (shares @ levels**2 - mean**2).sqrt()
