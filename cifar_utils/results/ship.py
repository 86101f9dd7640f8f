"""From the folder of a finished run to the files of a shipped network.

NAME.json is the run's history, NAME.safetensors its weights, NAME-cam.npz its Grad-CAM heatmaps if
it kept any. NAME is the recipe's, then -val for a run that held images out, then -seedK for a seed
other than 0. Of each recipe the run with seed 0 ships its weights: the first run, not the best.
"""

import copy
import hashlib
from dataclasses import replace

from cifar_utils import checkpoints, evaluate
from cifar_utils.errors import CifarError
from cifar_utils.explain import has_heatmaps, read_heatmaps
from cifar_utils.history import History
from cifar_utils.recipes import RECIPES
from cifar_utils.sources.files import save_arrays

LIMIT = 45e6  # bytes of all shipped weights: the repository is cloned by everyone


def check(run, cifar, *, own):
    """The History of a run that can ship; CifarError for any other.

    own: whether it is to ship with the package, which takes runs of today's recipes only.
    """
    history = History.load(run / "history.json")
    recipe = history.recipe
    if history.source != cifar.source:
        raise CifarError(f"the run in {run} is on {history.source}, the data is {cifar.source}")
    if history.train_images + history.val_images < len(cifar.train):
        raise CifarError(f"the run in {run} saw a part of the data; train it without --limit")
    if len(history.epochs) <= recipe.epochs:
        raise CifarError(f"the run in {run} is not finished; go on with --resume")
    if history.val_images and history.test:
        raise CifarError(
            f"the run in {run} held images out and was tested; train a final run with "
            "--validation 0, or one that only helps to choose with --no-test"
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


def name_of(history):
    """The name under which a run ships."""
    name = history.recipe.name
    if history.val_images:
        name += "-val"
    if history.recipe.seed:
        name += f"-seed{history.recipe.seed}"
    return name


def ship(run, history, folder, train):
    """Write the files of a run that was checked into `folder`; what was done, in a line.

    train: a Split, on which half precision is tried out.
    """
    name, done = name_of(history), ["history"]
    heatmaps = folder / f"{name}-cam.npz"
    if has_heatmaps(run / "cam"):
        _, maps, indices = read_heatmaps(run / "cam", history.recipe.epochs)
        maps = (255 * maps).round().byte().numpy()  # (epochs + 1, images, 32, 32)
        save_arrays(heatmaps, heatmaps=maps, indices=indices)
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


def _ship_weights(run, path, train):
    """Write the run's weights to `path`, if all there stay within LIMIT; what was done.

    In half precision, where that changes the answer to 0.05% of 10,000 training images at most.
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
