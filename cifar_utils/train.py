"""The training loop: one epoch, and all of them."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_utils.augment import operations
from cifar_utils.batches import Batches, Progress, load_batches, steps_of
from cifar_utils.checkpoints import start_from
from cifar_utils.checks import check_training, twin_of, unwrapped
from cifar_utils.data import Split, fingerprint, normalize
from cifar_utils.errors import CifarError, DivergedError, whole
from cifar_utils.evaluate import Totals, evaluate
from cifar_utils.fastest import fastest_machine
from cifar_utils.history import Epoch, History
from cifar_utils.machine import Machine, seed_from, wait
from cifar_utils.models import Whitening, whiten, whitening_layer
from cifar_utils.optim import make_optimizer, rate_factor, set_rates, slow_down, unfreeze
from cifar_utils.profile import takes
from cifar_utils.recipes import Recipe, check_recipe
from cifar_utils.running import Run, history_of
from cifar_utils.speed.compile import TORCH, compiled
from cifar_utils.speed.distributed import all_reduce, broadcast, rank, world_size
from cifar_utils.teachers import distillation_loss, find_teacher


def train_one_epoch(
    model: nn.Module, batches: Batches, optimizer: Optimizer, recipe: Recipe, *,
    machine: Machine | None = None, teacher: nn.Module | None = None,
    span: tuple[float, float] = (0.0, 0.0), progress: Progress = iter,
) -> tuple[float, float]:  # fmt: skip
    """One pass over `batches`: mean loss and accuracy over its images.

    Notebook 05 builds it by hand.

    Args:
        model: the network, or what `machine.share` returned if several processes train it.
        batches: pairs of uint8 images (N, 3, H, W) and labels (N,).
        machine: what it runs on; by default in fp32 on the device that the model is on.
        teacher: a network in evaluation mode, see `find_teacher`. The model also learns from its
            logits for the full-size images; the loss returned is that of the labels alone.
        span: where the epoch begins and ends in the training, as fractions. Learning rate and image
            size follow.
        progress: wraps the batches, as tqdm does, beside whose bar loss and accuracy are shown.

    Raises DivergedError at the epoch's end if the loss is no longer finite. It names the step.
    """
    machine = machine or Machine.of(model, winograd=recipe.winograd)
    totals, bar = Totals(machine.device), progress(batches)
    model.train()
    for number, (images, labels) in enumerate(bar):
        done = span[0] + (span[1] - span[0]) * number / len(batches)
        set_rates(optimizer, recipe, done)
        images, labels, weight = machine.take(images, labels)

        logits = machine.logits(model, resized(images, recipe, done))
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if teacher is not None:
            with torch.no_grad():
                answers = machine.logits(teacher, images)
            distance = distillation_loss(logits, answers, recipe.temperature)
            loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * distance

        optimizer.zero_grad()
        machine.backward(weight * loss)
        machine.clip(model, optimizer, recipe.clip_norm)
        machine.step(optimizer)

        totals.add(logits.detach(), labels)
        totals.show(bar)
    return totals.means()


def resized(inputs: Tensor, recipe: Recipe, done: float) -> Tensor:
    """The batch at the size that the recipe wants at `done`, a fraction of the training.

    Small images first, because their steps are cheap, and whole ones to end with: progressive
    resizing (Howard, https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html).
    """
    size = recipe.image_size(done)
    if size == 32:
        return inputs
    by_cpu = inputs.device.type == "mps" and TORCH < (2, 7)  # which could not antialias there
    there = inputs.cpu() if by_cpu else inputs
    small = F.interpolate(there, size, mode="bilinear", antialias=True)
    return small.to(inputs.device)


def fit(
    model: nn.Module, train: Split, val: Split | None, recipe: Recipe, *,
    log: Callable[[Run], Any] = print, progress: Progress = iter,
    device: str | torch.device = "auto", precision: str = "auto", workers: int = 0,
    resume: dict[str, Any] | None = None, compile: bool = False,
) -> History:  # fmt: skip
    """Train `model` on the Split `train` as `recipe` says, and return the History of it.

    Inside `distributed.together()` several processes share each batch, and the first one alone
    calls log and progress. The result is that of one process up to rounding, except for dropout,
    which each draws for itself. Used in notebook 05.

    Args:
        val: Split to evaluate on after each epoch, if any. Choices may be made on it, so it must
            never be the test set.
        log: called with the Run before the first epoch and after each; `print` prints a line.
        progress: wraps each epoch's batches, as tqdm does.
        device, precision: as in `pick_device` and `pick_precision`; on a CPU "auto" measures which
            precision, and which convolutions, are the fastest here: see `fastest_machine`.
        workers: processes that augment ahead.
        resume: a Run's state(). The training goes on as if never interrupted, on a CPU to the same
            bits in the same precision, which "auto" keeps if the device has it. The history names
            each device that it ran on, and the last precision. After a finished run, another recipe
            can follow, whose epochs_before are the epochs of that run.
        compile: put the network through torch.compile before the first epoch, outside the epochs'
            clocks. Its convolutions are then direct ones, even if the recipe asks for Winograd's.

    Raises:
        DivergedError: the loss is no longer finite. It names the epoch and the step, and nothing of
            that epoch is logged.
        CifarError: before the first step, for images, labels, a network or a recipe that do not fit
            together, a teacher that is missing or knows other classes, a `resume` that is no
            state, a recipe or training images other than those of `resume` or of another process,
            or `compile` without a compiler.
    """
    if rank():
        log, progress = (lambda run: None), iter
    check_recipe(recipe)
    if world_size() > 1 and unwrapped(model) is not model:
        raise CifarError("with several processes give fit the plain network, which it wraps itself")
    workers = whole(workers, "workers")
    before = history_of(resume).way if resume is not None else None
    machine = fastest_machine(
        model, train, recipe, device=device, precision=precision, compile=compile, before=before
    )
    if recipe.epochs_before and not resume:
        raise CifarError(
            f"the recipe goes on after {recipe.epochs_before} epochs; give the state of the run "
            "that they belong to as `resume`"
        )
    if recipe.schedule == "plateau" and not val:
        raise CifarError("the schedule plateau needs validation images; hold some out")
    run = start(unwrapped(model), train, val, recipe, machine, resume)
    teacher = find_teacher(recipe, train.classes, machine)
    network = machine.share(model, some_rest=recipe.whitening > 0)
    if compile and len(run.history.epochs) <= recipe.epochs:
        network = compiled_for(run, train, machine)
    if not run.history.epochs:
        record(run, 0, evaluate(run.model, train[:5000], machine.precision), val)
        log(run)
    train = train if workers else train.to(machine.device)  # without workers, augment there
    try:
        for epoch in range(len(run.history.epochs), recipe.epochs + 1):
            began = time.perf_counter()
            # Dropout: the same after a resume, another in each process.
            torch.manual_seed(seed_from(recipe.seed, epoch) + rank())
            batches = load_batches(train, recipe, epoch, workers, machine)
            span = recipe.progress(epoch - 1), recipe.progress(epoch)
            slow_down(run.optimizer, recipe, broadcast(run.val_losses))
            try:
                trained = train_one_epoch(
                    network, batches, run.optimizer, recipe,
                    machine=machine, teacher=teacher, span=span, progress=progress,
                )  # fmt: skip
            except DivergedError as error:
                raise DivergedError(f"in epoch {epoch}, {error.where}") from None
            seconds = time.perf_counter() - began
            record(run, epoch, trained, val, few=train[:100], seconds=seconds)
            log(run)
    finally:  # also after Ctrl-C in a notebook, whose reader may go on training the network
        unfreeze(run.optimizer)
    return run.history


def start(
    model: nn.Module, train: Split, val: Split | None, recipe: Recipe, machine: Machine,
    resume: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    """The Run that `fit` begins with: a fresh one, or the one that `resume` holds."""
    operations(recipe.augmentation)  # an unknown name fails here, not later
    check_training(model, train, val)
    short = min(count for _, count, _ in kinds_of_steps(len(train), recipe))
    if machine.device.type == "cuda" and short < world_size():  # SyncBatchNorm needs an image
        raise CifarError(
            f"the last batch has {short} image(s), too few for {world_size()} GPUs; choose another "
            "batch_size"
        )
    mark = fingerprint(train)
    other = torch.tensor(float(broadcast((mark, recipe)) != (mark, recipe)))
    all_reduce(other)
    if other:  # one that found no data may have drawn the stand-in
        raise CifarError(
            "the processes hold different images or recipes; give all of them the same --data and "
            "the same recipe"
        )
    prepare(machine.place(model), train, recipe)
    if recipe.start_from and not resume:
        start_from(model, recipe, train.classes)
    history = History(
        recipe, train.source, (), len(train), len(val or ()), str(machine), machine.precision,
        torch.__version__, convolutions="winograd" if machine.winograd else "direct",
    )  # fmt: skip
    optimizer = make_optimizer(model, recipe)
    run = Run(model, optimizer, machine, history, mark, train.classes)
    if resume:
        run.load_state(resume)
    return run


def record(
    run: Run, epoch: int, trained: tuple[float, float], val: Split | None, *,
    few: Split | None = None, seconds: float = 0.0,
) -> None:  # fmt: skip
    """Evaluate on `val` and write the epoch's row into the run's history.

    trained: (loss, accuracy) on the training images, each measured before the step that it led to.
    few: images to see without `val` what the last step has led to. Raises DivergedError if a loss
    is not finite.
    """
    recipe, history = run.history.recipe, run.history
    held_out = evaluate(run.model, val, run.machine.precision) if val else None
    after = held_out or (evaluate(run.model, few, run.machine.precision) if few else trained)
    if not all(math.isfinite(loss) for loss, _ in (trained, after)):
        raise DivergedError(f"in epoch {epoch}, after its last step" if epoch else "at once")
    factor = rate_factor(recipe, recipe.progress(epoch - 1)) if epoch else 0.0
    factor *= run.optimizer.param_groups[0].get("plateau", 1.0)
    lr = factor * max(recipe.lr, recipe.muon_lr if recipe.optimizer == "muon" else 0.0)
    speed = history.train_images / seconds if seconds else 0.0
    val_loss, val_accuracy = held_out or (None, None)
    row = Epoch(epoch, lr, *trained, val_loss, val_accuracy, seconds, speed)
    run.history = history.with_epoch(row)


def prepare(model: nn.Module, train: Split, recipe: Recipe) -> None:
    """Whiten the first layer if the recipe says so.

    If it does not, a whitening layer is trained like any other, because it holds random kernels.
    Raises CifarError as `check_model` and `check_last_batch` do.
    """
    check_model(model, recipe)
    check_last_batch(model, train, recipe)
    if recipe.whitening:
        whiten(model, normalize(train.images[:5000]))
    for layer in model.modules():
        if isinstance(layer, Whitening):
            layer.weight.requires_grad_(not recipe.whitening)


def check_last_batch(model: nn.Module, train: Split, recipe: Recipe) -> None:
    """Raise CifarError if the last batch of an epoch has one image, and batch norm needs two."""
    kinds = kinds_of_steps(len(train), recipe)
    for size in {recipe.image_size(done) for done, count, _ in kinds if count == 1}:
        twin = twin_of(model).cpu().train()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                twin(torch.zeros(1, 3, size, size, dtype=torch.float32))
        except ValueError as error:  # one value per channel has no variance
            raise CifarError(
                f"the last batch has a single image, which at {size} × {size} pixels is too little "
                "for batch norm; choose another batch_size"
            ) from error


def check_model(model: nn.Module, recipe: Recipe) -> None:
    """Raise CifarError if the recipe asks for something that the network cannot do."""
    if recipe.whitening:
        whitening_layer(model)
    if recipe.small_until and not takes(model, recipe.small_size):
        raise CifarError(
            f"{recipe.model} takes no images of {recipe.small_size} pixels; set small_until 0"
        )


def compiled_for(run: Run, train: Split, machine: Machine) -> nn.Module:
    """The Run's network behind torch.compile; run.compile_seconds says how long that took."""
    recipe, began = run.history.recipe, time.perf_counter()

    def step_of(done: float, count: int) -> Callable[[nn.Module], None]:
        def step(network: nn.Module) -> None:
            set_rates(run.optimizer, recipe, done)
            inputs = torch.zeros(count, *train.images.shape[1:], device=machine.device)
            logits = machine.logits(network, resized(inputs, recipe, done))
            labels = torch.zeros(count, dtype=torch.int64, device=machine.device)
            F.cross_entropy(logits, labels).backward()

        return step

    past = max(0, len(run.history.epochs) - 1 - recipe.epochs_before)  # if a run is resumed
    try:
        kinds = kinds_of_steps(len(train), recipe, past)
        network = compiled(run.model, [step_of(done, count) for done, count, _ in kinds])
    finally:
        set_rates(run.optimizer, recipe, 0.0)
    wait(machine.device)
    run.compile_seconds = time.perf_counter() - began
    return network


def kinds_of_steps(count: int, recipe: Recipe, past: int = 0) -> list[tuple[float, int, int]]:
    """(progress, images, steps) of each kind of step: of its first one, and how many there are.

    Steps of one kind run the same code at the same cost. The arguments are those of `steps_of`.
    """
    kinds: dict[tuple, tuple[float, int, int]] = {}
    for _, done, size in steps_of(count, recipe, past):
        rests = 0 < recipe.whitening < done
        kind = (size, recipe.image_size(done), rests)
        first, _, steps = kinds.get(kind, (done, size, 0))
        kinds[kind] = (first, size, steps + 1)
    return list(kinds.values())
