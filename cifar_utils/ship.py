"""From the folder of a finished run to the files of a shipped network.

NAME.json is the run's history, NAME.safetensors its weights, NAME-cam.npy its Grad-CAM heatmaps if
it has any. NAME is the recipe's, then -val for a run that held images out, then -seedK for a seed
other than 0.
"""

import copy
import hashlib
from dataclasses import replace

from cifar_utils import checkpoints, evaluate
from cifar_utils.explain import read_heatmaps
from cifar_utils.files import save_array
from cifar_utils.history import History

LIMIT = 45e6  # bytes of all shipped weights: the repository is cloned by everyone


def check(run):
    """The History of a run that can ship; ValueError for any other."""
    history = History.load(run / "history.json")
    if len(history.epochs) <= history.recipe.epochs:
        raise ValueError(f"the run in {run} is not finished; go on with --resume")
    if not history.test and not history.val_images:
        raise ValueError(f"the run in {run} was not tested; resume it without --no-test")
    return history


def ship(run, folder, cifar):
    """Write the run's files into `folder`; what was done, in a line.

    Of each recipe the run with seed 0 ships its weights: the first run, not the best.
    """
    history = check(run)
    recipe = history.recipe
    if history.source != cifar.source:
        raise ValueError(f"the run in {run} is on {history.source}, the data is {cifar.source}")
    name = recipe.name + "-val" * bool(history.val_images)
    name += f"-seed{recipe.seed}" * bool(recipe.seed)
    done = [f"{name}: history"]
    if recipe.seed == 0:
        weights = folder / f"{name}.safetensors"
        done.append(ship_weights(run, weights, cifar.test))
        if weights.exists():
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            history = replace(history, sha256=digest)
    if (run / "cam").is_dir():
        _, heatmaps = read_heatmaps(run / "cam", recipe.epochs)
        bytes_ = (255 * heatmaps).round().byte().numpy()  # (epochs + 1, images, 32, 32)
        save_array(folder / f"{name}-cam.npy", bytes_)
        done.append("heatmaps")
    history.save(folder / f"{name}.json")
    return ", ".join(done)


def ship_weights(run, path, test):
    """Write the run's weights to `path`, if all there stay within LIMIT; what was done.

    In half precision, where the test accuracy changes by 0.05 points at most.
    """
    model, info = checkpoints.load_weights(run)
    half = copy.deepcopy(model).half()
    single, rounded = (
        evaluate.accuracy(evaluate.predict(network, test.images), test.labels)
        for network in (model, copy.deepcopy(half).float())
    )
    fits = abs(single - rounded) <= 5e-4
    checkpoints.save_weights(path, half if fits else model, info)
    size = path.stat().st_size
    if sum(file.stat().st_size for file in path.parent.glob("*.safetensors")) > LIMIT:
        path.unlink()
        return f"no weights ({size / 1e6:.0f} MB are more than the limit leaves)"
    return f"{size / 1e6:.1f} MB of weights in {'half' if fits else 'single'} precision"
