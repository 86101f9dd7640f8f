"""The training loop, and the learning-rate range test."""

import copy
import math
import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from cifar_utils.augment import augment, operations
from cifar_utils.checkpoints import find_weights
from cifar_utils.data import fingerprint, normalize
from cifar_utils.errors import CifarError, DivergedError
from cifar_utils.evaluate import accuracy, cross_entropy, predict
from cifar_utils.history import Epoch, History
from cifar_utils.machine import (
    TORCH,
    autocast,
    check_compiler,
    describe,
    generator,
    keep_memory,
    keep_precision,
    layout,
    make_scaler,
    pick_device,
    pick_precision,
    seed_from,
    wait,
)
from cifar_utils.models import Whitening, whiten, whitening_layer
from cifar_utils.optim import make_optimizer, rate_factor, set_rates, unfreeze
from cifar_utils.profile import takes
from cifar_utils.speed import distributed
from cifar_utils.speed.winograd import convolutions, library


def train_one_epoch(model, batches, optimizer, recipe, *, span=(0.0, 0.0), progress=iter,
                    precision="fp32", scaler=None, teacher=None):  # fmt: skip
    """One pass over `batches`; mean loss and accuracy over its images, as floats.

    batches: an iterable with a length that gives (uint8 images, labels). span: where the epoch
    begins and ends in the training, as fractions; learning rate and image size follow. progress:
    wraps the batches, as tqdm does. teacher: a network in evaluation mode on the model's device,
    see `find_teacher`; its answers to the whole images are learnt beside the labels, and the loss
    that is returned is that of the labels alone. Of several processes each takes its part of every
    batch. Notebook 04 builds it by hand.
    """
    device = next(model.parameters()).device
    scaler = scaler or make_scaler(device, "fp32")
    model.train()
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    winograd = recipe.winograd and (device.type, precision) == ("cpu", "fp32")
    for step, (images, labels) in enumerate(progress(batches)):
        done = span[0] + (span[1] - span[0]) * step / len(batches)
        set_rates(optimizer, recipe, done)
        whole = len(labels)  # of which this process, if others help, takes a part
        images, labels = (
            distributed.share_of(part).to(device, non_blocking=device.type == "cuda")
            for part in (images, labels)
        )
        images = normalize(images)
        inputs = resized(images, recipe, done).contiguous(memory_format=layout(device))
        with autocast(device, precision), convolutions(winograd):
            logits = model(inputs)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if teacher is not None:
            with torch.no_grad(), autocast(device, precision), convolutions(winograd):
                answers = teacher(images.contiguous(memory_format=layout(device)))
            share = recipe.teacher_share
            apart = distillation_loss(logits, answers.float(), recipe.temperature)
            loss = (1 - share) * loss + share * apart
        loss = loss * (len(labels) / whole)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        distributed.all_reduce_gradients(model)
        if recipe.clip_norm:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        # Sums, not means: batches may differ in size. They stay on the device, so nothing waits
        # (but in fp16, where the scaler looks at every step's gradients).
        loss_sum += F.cross_entropy(logits.detach(), labels, reduction="sum")
        correct += (logits.detach().argmax(1) == labels).sum()
        count += whole
    distributed.all_reduce(loss_sum, correct)
    return loss_sum.item() / count, correct.item() / count


def distillation_loss(logits, answers, temperature):
    """How far a network's logits (N, K) are from its teacher's answers, logits too: the mean
    Kullback-Leibler divergence in nats, 0 or more, of the probabilities at that temperature.

    Times temperature², so that its gradient does not fade as the temperature rises (Hinton, Vinyals
    and Dean, arXiv 1503.02531).
    """
    learnt = F.log_softmax(logits / temperature, 1)
    wanted = F.log_softmax(answers / temperature, 1)
    return F.kl_div(learnt, wanted, reduction="batchmean", log_target=True) * temperature**2


def resized(inputs, recipe, done):
    """The batch at the size that the recipe wants when the fraction `done` of it is done.

    Small images first, for their steps are cheap, and whole ones to end with: progressive resizing
    (Howard, https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html).
    """
    if done >= recipe.small_until or recipe.small_size == inputs.shape[2]:
        return inputs
    by_cpu = inputs.device.type == "mps" and TORCH < (2, 7)  # which could not antialias there
    there = inputs.cpu() if by_cpu else inputs
    small = F.interpolate(there, recipe.small_size, mode="bilinear", antialias=True)
    return small.to(inputs.device)


def fit(model, train, val, recipe, *, log=print, progress=iter, device="auto", precision="auto",
        workers=0, resume=None, compile=False):  # fmt: skip
    """Train `model` on the Split `train` as `recipe` says; the History of it.

    val: Split to evaluate on after each epoch (None or empty: no evaluation). Choices may be made
    on it, so it is never the test set. log: called with the Run after each epoch, and before the
    first; `print` prints a line an epoch. progress: wraps each epoch's batches, as tqdm does.
    device, precision: as in `pick_device` and `pick_precision`. workers: processes that augment
    ahead. resume: a Run's state(); the training then goes on as one never interrupted, bit for bit
    on a CPU in the same precision, which "auto" keeps where the device has it; the history names
    each device that it ran on, and the last precision. compile: put the network through
    torch.compile, outside of the epochs' clocks: see `compiled`; its convolutions are then direct
    ones, whatever recipe.winograd says; a warning tells where they have to be for want of a
    compiler. Every epoch re-seeds torch's generator from the recipe's seed.
    Inside `distributed.together()` several processes share each batch, and the first one alone
    calls log and progress; the result is that of one process to rounding, but for dropout, where
    each draws for itself. Raises DivergedError where the loss is no longer finite, and CifarError
    before the first step: for no training images, an unknown name in the recipe, a recipe that the
    model does not fit, a teacher that is missing or knows other classes, another recipe or other
    training images than those of `resume` or of another process, or `compile` without a compiler.
    Used in notebook 04.
    """
    if distributed.rank():
        log, progress = (lambda run: None), iter
    run = start(model, train, val, recipe, device, precision, resume)
    device, precision = next(model.parameters()).device, run.history.precision
    teacher = find_teacher(recipe, train.classes, device)
    left = recipe.epochs + 1 - len(run.history.epochs)
    network = compiled(run, train) if compile and left else model
    recipe = recipe.changed(winograd=recipe.winograd and not compile)
    if recipe.winograd and (device.type, precision) == ("cpu", "fp32") and not library():
        warnings.warn(
            "winograd.c cannot be compiled here, which takes Linux and a C compiler: this training "
            "has direct convolutions and needs longer",
            stacklevel=2,
        )
    if not run.history.epochs:
        run.add_epoch(0, 0.0, evaluate(model, train[:5000], precision), val, seconds=0.0)
        log(run)
    train = train if workers else train.to(device)  # without workers, augment where the model is
    try:
        for epoch in range(len(run.history.epochs), recipe.epochs + 1):
            began = time.perf_counter()
            # Dropout: the same after a resume, another in each process.
            torch.manual_seed(seed_from(recipe.seed, epoch) + distributed.rank())
            batches = DataLoader(
                AugmentedBatches(train, recipe, epoch), None, num_workers=workers,
                pin_memory=workers > 0 and device.type == "cuda",  # copied without waiting
            )  # fmt: skip
            span = (epoch - 1) / recipe.epochs, epoch / recipe.epochs
            trained = train_one_epoch(
                network, batches, run.optimizer, recipe,
                span=span, progress=progress, precision=precision, scaler=run.scaler,
                teacher=teacher,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            run.add_epoch(epoch, rate_factor(recipe, span[0]), trained, val, seconds=seconds)
            log(run)
    finally:  # also after Ctrl-C in a notebook, where the network may be trained on
        unfreeze(run.optimizer)
    return run.history


def start(model, train, val, recipe, device, precision, resume):
    """The Run that `fit` begins with: a fresh one, or the one that `resume` holds."""
    operations(recipe.augmentation), rate_factor(recipe, 0.0)  # unknown names fail here, not later
    if not len(train):
        raise CifarError("there are no training images")
    device = pick_device(device)
    keep_memory(device)
    images = fingerprint(train)
    other = torch.tensor(float(distributed.broadcast((images, recipe)) != (images, recipe)))
    distributed.all_reduce(other)
    if other:  # one that found no data may have drawn the stand-in
        raise CifarError(
            "the processes hold different images or recipes; give all of them the same --data and "
            "the same recipe"
        )
    if resume and precision == "auto":
        precision = keep_precision(resume["precision"], device)
    precision = distributed.broadcast(pick_precision(precision, device))
    model.to(device, memory_format=layout(device))
    prepare(model, train, recipe)
    distributed.same_start(model)
    distributed.share_batch_norm(model)
    where = describe(device)
    if distributed.world_size() > 1:
        where = f"{distributed.world_size()} × {where}"
    history = History(
        recipe, train.source, (), len(train), len(val or ()), where, precision, torch.__version__
    )  # fmt: skip
    scaler = make_scaler(device, precision)
    run = Run(model, make_optimizer(model, recipe), scaler, history, images)
    if resume:
        run.load_state(resume)
    return run


def find_teacher(recipe, classes, device):
    """The network that the recipe learns from, ready to answer; None where it names none.

    A teacher that was trained on the validation images flatters validation, for it passes on what
    it knows about them; of the shipped networks only those called -val were not.
    Raises CifarError where there is no such network, or where it knows other classes.
    """
    if not recipe.teacher:
        return None
    teacher, info = find_weights(recipe.teacher)
    if info.classes != tuple(classes):
        raise CifarError(
            f"the teacher {recipe.teacher} knows the classes {', '.join(info.classes)}; the data "
            f"has {', '.join(classes)}"
        )
    return teacher.requires_grad_(False).to(device, memory_format=layout(device))


def prepare(model, train, recipe):
    """Whiten the first layer where the recipe says so. Raises CifarError as `check_model` does.

    Where it does not, a whitening layer is trained like any other, for it holds random kernels.
    """
    check_model(model, recipe)
    if recipe.whitening:
        whiten(model, normalize(train.images[:5000]))
    for layer in model.modules():
        if isinstance(layer, Whitening):
            layer.weight.requires_grad_(not recipe.whitening)


def check_model(model, recipe):
    """CifarError where the recipe wants of the network what it cannot do."""
    if recipe.whitening:
        whitening_layer(model)
    if recipe.small_until and not takes(model, recipe.small_size):
        raise CifarError(
            f"{recipe.model} takes no images of {recipe.small_size} pixels; set small_until 0"
        )


def compiled(run, train):
    """The Run's network behind torch.compile, with the code for all of its training steps ready.

    That code depends on the numbers of images and pixels, and on which weights learn: a step of
    each kind is taken forward and backward, and undone. The Run's own network stays a plain one,
    to be saved and evaluated, which shares its weights; run.compile_seconds says how long it took.
    Raises CifarError for several processes, and as `check_compiler` does.
    """
    model, recipe, device = run.model, run.history.recipe, next(run.model.parameters()).device
    check_compiler(device)
    if distributed.world_size() > 1:
        raise CifarError("torch.compile is for one process alone; leave it or torchrun out")
    began = time.perf_counter()
    torch.compiler.reset()  # networks compiled before count towards the number that is kept
    network, before = torch.compile(model.train(), dynamic=False), copy.deepcopy(model.state_dict())
    try:
        past = max(0, len(run.history.epochs) - 1)  # epochs, where a run is resumed
        for done, count in kinds_of_steps(len(train), recipe, past):
            set_rates(run.optimizer, recipe, done)
            inputs = torch.zeros(count, *train.images.shape[1:], device=device)
            inputs = resized(inputs, recipe, done).contiguous(memory_format=layout(device))
            with autocast(device, run.history.precision):
                logits = network(inputs)
            labels = torch.zeros(count, dtype=torch.int64, device=device)
            F.cross_entropy(logits.float(), labels).backward()
    finally:  # also after Ctrl-C, for compiling takes long
        set_rates(run.optimizer, recipe, 0.0)
        model.zero_grad()
        model.load_state_dict(before)
    wait(device)
    run.compile_seconds = time.perf_counter() - began
    return network


def kinds_of_steps(images, recipe, past=0):
    """(progress, number of images) of the first of all steps that run through the same code.

    past: as many epochs are done already, and their steps are left out.
    """
    sizes = [len(batch) for batch in torch.arange(images).split(recipe.batch_size)]
    steps = recipe.epochs * len(sizes)
    kinds = {}
    for step in range(past * len(sizes), steps):
        done, count = step / steps, sizes[step % len(sizes)]
        rests = 0 < recipe.whitening < done
        kinds.setdefault((count, done < recipe.small_until, rests), (done, count))
    return list(kinds.values())


@dataclass
class Run:
    """All that changes while a network is trained: what `log` sees and a checkpoint keeps."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: History
    images: str = ""  # the training images' fingerprint
    compile_seconds: float = 0.0

    def __str__(self):
        return str(self.history.epochs[-1])

    def add_epoch(self, epoch, factor, trained, val, *, seconds):
        """Evaluate on `val` and write the epoch's row. trained: (loss, accuracy) on `train`."""
        recipe = self.history.recipe
        lr = factor * max(recipe.lr, recipe.muon_lr if recipe.optimizer == "muon" else 0.0)
        held_out = evaluate(self.model, val, self.history.precision)
        if not (math.isfinite(trained[0]) and math.isfinite(held_out[0] or 0)):
            raise DivergedError(
                f"training diverged in epoch {epoch}: the loss is no longer finite; lower lr, or "
                "set clip_norm"
            )
        speed = self.history.train_images / seconds if seconds else 0.0
        self.history = self.history.with_epoch(
            Epoch(epoch, lr, *trained, *held_out, seconds, speed)
        )

    def state(self):
        """What a resumed run needs, as tensors and plain values, copied: later epochs leave them as
        they are. Random numbers need no keeping: each epoch's come from seeds of its own."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "history": self.history.to_json(),
            "precision": self.history.precision,
            "images": self.images,
        }

    def load_state(self, state):
        history = History.from_json(state["history"])
        if history.recipe != self.history.recipe:
            raise CifarError("the checkpoint was made with another recipe")
        if self.images != state.get("images", self.images):  # older checkpoints do not name them
            raise CifarError(
                "the run was started on other training images, labels or classes, or in another "
                "order; resume it on the same data"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it keeps the tensors
        if self.scaler.is_enabled() and state["scaler"]:  # not where the precision has changed
            self.scaler.load_state_dict(state["scaler"])
        here = self.history
        if len(history.epochs) > history.recipe.epochs:  # nothing is left to be trained here
            self.history = history
            return
        device = history.device
        if here.device != device.rpartition(", then ")[2]:
            device = f"{device}, then {here.device}"
        self.history = replace(here, epochs=history.epochs, device=device)


class AugmentedBatches(Dataset):
    """One epoch of a Split as (uint8 images, labels) batches, shuffled and augmented.

    The order depends on the recipe's seed and the epoch alone, the augmentation of a batch also on
    its number: so the batches are the same whoever computes them, in one process or in many. (On
    devices of one kind: a CPU and a GPU may round a policy's colours to neighbouring grey levels.)
    """

    def __init__(self, split, recipe, epoch):
        self.split, self.recipe, self.epoch = split, recipe, epoch
        order = torch.randperm(len(split), generator=generator(recipe.seed, epoch))
        # To the images' device as a whole: every copy waits until a GPU has done its work.
        self.chosen = order.to(split.labels.device).split(recipe.batch_size)

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, number):
        batch = self.split[self.chosen[number]]
        draws = generator(self.recipe.seed, self.epoch, number)
        images = augment(
            batch.images,
            self.recipe.augmentation,
            generator=draws,
            epoch=self.epoch,
            indices=batch.indices,
        )
        return images, batch.labels


def evaluate(model, split, precision="fp32"):
    """(loss, accuracy) on a Split, or (None, None) where it is None or empty."""
    if split is None or not len(split):
        return None, None
    logits, labels = predict(model, split.images, precision=precision), split.labels.cpu()
    return cross_entropy(logits, labels), accuracy(logits, labels)


@dataclass(frozen=True)
class LearningRateRange:
    """Losses (steps,) while the learning rate rose; `suggestion` is where they fell fastest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def lr_range_test(
    model,
    train,
    recipe,
    *,
    lowest=1e-4,
    highest=10.0,
    steps=200,
    progress=iter,
    device="auto",
    precision="auto",
):
    """Train a few steps while the rate rises from `lowest` to `highest` (arXiv 1506.01186).

    The recipe gives everything else but the size of the images, which are whole ones; under muon
    its muon_lr keeps its ratio to lr. The losses are smoothed (exponential mean of 0.9, its start
    corrected). The test ends early where the loss passes four times its lowest value. The model is
    changed: throw it away. Raises CifarError for rates that do not rise from above 0, for fewer
    than 10 steps, and as `fit` does. Used in notebook 04.
    """
    if not 0 < lowest < highest:
        raise CifarError(f"lowest is {lowest} and highest {highest}; wanted 0 < lowest < highest")
    if steps < 10:
        raise CifarError(f"steps is {steps}; it must be at least 10")
    if not len(train):
        raise CifarError("there are no training images")
    device = pick_device(device)
    keep_memory(device)
    precision = pick_precision(precision, device)
    model.to(device, memory_format=layout(device))
    recipe = recipe.changed(schedule="constant", small_until=0.0)
    prepare(model, train, recipe)
    optimizer = make_optimizer(model, recipe)
    scaler = make_scaler(device, precision)
    ratios = [group["initial_lr"] / recipe.lr for group in optimizer.param_groups]
    batches = AugmentedBatches(train.to(device), recipe, epoch=1)
    teacher = find_teacher(recipe, train.classes, device)
    torch.manual_seed(seed_from(recipe.seed))
    rates, losses, mean = [], [], 0.0
    for step in progress(range(steps)):
        rate = lowest * (highest / lowest) ** (step / (steps - 1))
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["initial_lr"] = rate * ratio
        loss, _ = train_one_epoch(
            model, [batches[step % len(batches)]], optimizer, recipe, precision=precision,
            scaler=scaler, teacher=teacher,
        )  # fmt: skip
        mean = 0.9 * mean + 0.1 * loss
        smooth = mean / (1 - 0.9 ** (step + 1))
        if not smooth < 4 * min([*losses, smooth]):  # also true of NaN
            break
        rates.append(rate)
        losses.append(smooth)
    if len(losses) < 2:
        raise CifarError(f"the loss explodes at once, at a rate of {lowest}; choose a lower lowest")
    slopes = np.gradient(losses, np.log(rates))
    return LearningRateRange(tuple(rates), tuple(losses), rates[int(slopes.argmin())])
