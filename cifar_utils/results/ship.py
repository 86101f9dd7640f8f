"""Turns the folder of a finished run into the files of a shipped network.

NAME.json is the run's history, NAME.safetensors its weights, NAME-cam.npz its Grad-CAM heatmaps if
it kept any. NAME is the recipe's name, followed by -val if the run held images out and by -seedK if
its seed is not 0. Only the run with seed 0 ships its weights: the first run, not the best.
"""

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

from cifar_utils import checkpoints, evaluate
from cifar_utils.data import Cifar, Split
from cifar_utils.errors import CifarError
from cifar_utils.heatmaps import has_heatmaps, read_heatmaps
from cifar_utils.history import History
from cifar_utils.recipes import RECIPES
from cifar_utils.sources.files import safe_name
from cifar_utils.sources.sealed import save_arrays

LIMIT = 45e6  # bytes of all shipped weights together, because everyone clones the repository


def check(run: Path, cifar: Cifar, *, own: bool) -> History:
    """The History of a run, if the run can ship.

    Args:
        run: the run's folder.
        cifar: the data that it must have been trained on.
        own: whether it will ship with the package. Then it must be on CIFAR-10, by a recipe as it
            is today.

    Raises:
        CifarError: the run is unfinished, on other data or only part of it, of another recipe or
            without some of its heatmaps. Or it both held images out and was tested, or did neither.
    """
    history = History.load(run / "history.json")
    recipe = history.recipe
    if history.source != cifar.source:
        raise CifarError(f"the run in {run} is on {history.source}, the data is {cifar.source}")
    if history.train_images + history.val_images < len(cifar.train):
        raise CifarError(f"the run in {run} saw only part of the data; train it without --limit")
    if not history.is_finished:
        raise CifarError(f"the run in {run} is not finished; continue it with --resume")
    if history.val_images and history.test:
        raise CifarError(
            f"the run in {run} held images out and was tested; train a final run with "
            "--validation 0, or one that only serves to choose with --no-test"
        )
    if not history.val_images and not history.test:
        raise CifarError(f"the run in {run} was not tested; resume it without --no-test")
    today = RECIPES.get(recipe.name)
    if own and (today is None or recipe != today.changed(seed=recipe.seed)):
        raise CifarError(f"the run in {run} is not of a recipe that `cifar recipes` lists")
    if own and history.source != "cifar10":
        raise CifarError(f"the run in {run} is on {history.source}, not on CIFAR-10")
    if has_heatmaps(run / "cam"):
        epochs, _, _ = read_heatmaps(run / "cam", recipe.epochs)
        if len(epochs) <= recipe.epochs:
            raise CifarError(f"{run / 'cam'} lacks epochs; train with --cam from the beginning")
    return history


def name_of(history: History) -> str:
    """The name under which a run ships, such as "compact-val-seed1"."""
    name = safe_name(history.recipe.name)
    if history.val_images:
        name += "-val"
    if history.recipe.seed:
        name += f"-seed{history.recipe.seed}"
    return name


def ship(run: Path, history: History, folder: Path, train: Split) -> str:
    """Write the files of a run that `check` accepted into `folder`.

    Returns one line that says what was written. Half precision is tried out on the images of
    `train`. Old weights or heatmaps of the same name are removed if the run has none to replace
    them.
    """
    name, done = name_of(history), ["history"]
    heatmaps = folder / f"{name}-cam.npz"
    if has_heatmaps(run / "cam"):
        _, maps, indices = read_heatmaps(run / "cam", history.recipe.epochs)
        grey = (255 * maps).round().byte().numpy()  # (epochs + 1, images, 32, 32)
        save_arrays(heatmaps, heatmaps=grey, indices=indices)
        done.append("heatmaps")
    else:
        heatmaps.unlink(missing_ok=True)
    if history.recipe.seed == 0:
        weights = folder / f"{name}.safetensors"
        done.append(_ship_weights(run, weights, train))
        if weights.exists():
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            history = replace(history, sha256=digest)
    history.save(folder / f"{name}.json")
    return f"{name}: {', '.join(done)}"


def _ship_weights(run: Path, path: Path, train: Split) -> str:
    """Write the run's weights to `path` if all weights there stay within LIMIT, and say so.

    They are written in half precision if that changes the predicted class of at most 0.05% of
    10,000 training images.
    """
    model, info = checkpoints.load_weights(run)
    others = sum(file.stat().st_size for file in path.parent.glob("*.safetensors") if file != path)
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    half = copy.deepcopy(model).half()
    images = train.images[:10_000]
    single, rounded = (
        evaluate.predict(network, images).argmax(1)
        for network in (model, copy.deepcopy(half).float())
    )
    same = (single == rounded).double().mean().item() >= 0.9995
    size = numbers * (2 if same else 4)
    if others + size > LIMIT:
        path.unlink(missing_ok=True)
        return f"no weights: {size / 1e6:.0f} MB are more than the limit leaves"
    checkpoints.save_weights(path, half if same else model, info)
    return f"{size / 1e6:.1f} MB of weights in {'half' if same else 'single'} precision"
