"""The loop: it learns, it repeats itself exactly, and it agrees with one written out by hand."""

import copy
import math
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cifar_utils import checkpoints, course, data, evaluate, machine, train
from cifar_utils.augment import AUGMENTATIONS, alternating_flip, augment
from cifar_utils.batches import AugmentedBatches
from cifar_utils.data import CLASSES, Split, normalize
from cifar_utils.errors import CifarError, DivergedError
from cifar_utils.history import History
from cifar_utils.lr_range import lr_range_test
from cifar_utils.machine import Machine, generator, seed_from
from cifar_utils.models import (
    ConvNet,
    average_head,
    build,
    conv_bn_relu,
    create_model,
    pool,
    stage,
    whiten,
)
from cifar_utils.optim import make_optimizer
from cifar_utils.profile import parameter_count
from cifar_utils.recipes import Recipe
from cifar_utils.train import fit, start

RECIPE = Recipe("tiny", model="compact", epochs=3, batch_size=16, lr=0.05, seed=5)
PLAIN = {"device": "cpu", "precision": "fp32"}


CPU = torch.device("cpu")


def scaled(scale, precision="fp32"):
    """A CPU with the gradient scaler that a GPU has in fp16."""
    made = Machine(CPU, precision)
    made.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return made


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def run(train_split, val=None, recipe=RECIPE, **options):
    model = build(recipe, CLASSES)
    options = {"log": lambda run: None} | PLAIN | options
    return model, fit(model, train_split, val, recipe, **options)


@pytest.fixture
def two_threads(monkeypatch):
    """Two, here and in processes started here: `make test` gives each one, which hides races."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def tiny_network(seed):
    """One convolution and a linear layer: what is learnt can be worked out by hand."""
    torch.manual_seed(seed)
    features = torch.nn.Sequential(stage(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()))
    return ConvNet(features, average_head(8, 10))


# A step under this recipe moves the weights by the gradient itself.
ONE_STEP = RECIPE.changed(
    epochs=1, batch_size=32, lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0,
    schedule="constant", augmentation="none",
)  # fmt: skip


def unclocked(history):
    """A history without what the clock said."""
    return [(*row.__dict__.values(),)[:6] for row in history.epochs]


@pytest.mark.slow
def test_same_seed_same_history_and_weights(painted_split):
    one, other = (run(painted_split(64), painted_split(20, seed=1)) for _ in range(2))
    assert unclocked(one[1]) == unclocked(other[1])
    assert torch.equal(weights(one[0]), weights(other[0]))
    _, third = run(painted_split(64), painted_split(20, seed=1), RECIPE.changed(seed=6))
    assert unclocked(third) != unclocked(one[1])


def test_fit_agrees_with_a_loop_written_by_hand(painted_split):
    split = painted_split(40)
    recipe = RECIPE.changed(model="conv5", schedule="cosine", weight_decay=1e-3, epochs=2)
    fitted, history = run(split, None, recipe)

    model = create_model("conv5", seed=recipe.seed)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True,
                                weight_decay=1e-3)  # fmt: skip
    for epoch in (1, 2):
        torch.manual_seed(seed_from(recipe.seed, epoch))
        torch.empty(
            (), dtype=torch.int64
        ).random_()  # a DataLoader draws one number for its workers
        order = torch.randperm(40, generator=generator(recipe.seed, epoch))
        losses, right = [], 0
        for step in range(3):
            few = order[16 * step : 16 * (step + 1)]
            images = augment(split.images[few], "crop-flip",
                             generator=generator(recipe.seed, epoch, step))  # fmt: skip
            progress = (epoch - 1 + step / 3) / 2
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * (1 + math.cos(math.pi * progress)) / 2
            model.train()
            logits = model(normalize(images).to(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, split.labels[few])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += F.cross_entropy(logits, split.labels[few], reduction="none").tolist()
            right += int((logits.argmax(1) == split.labels[few]).sum())
        row = history.epochs[epoch]
        assert row.train_loss == pytest.approx(np.mean(losses), rel=1e-4)
        assert row.train_accuracy == pytest.approx(right / 40)
    torch.testing.assert_close(weights(fitted), weights(model), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bits(painted_split, two_threads):
    split, val = painted_split(64), painted_split(20, seed=1)
    whitening = {"model": "fastnet-half", "whitening": 0.4}  # its bias rests from epoch 2 on
    for changes in ({}, {"optimizer": "adamw"}, {"optimizer": "muon"},
                    {"optimizer": "muon"} | whitening, whitening):  # fmt: skip
        recipe = RECIPE.changed(lr=0.01, **changes)
        states = []
        whole, history = run(split, val, recipe, log=lambda run, s=states: s.append(run.state()))
        for state in states[:-1]:
            model = create_model(recipe.model, seed=99)  # its own weights must not matter
            resumed = fit(model, split, val, recipe, log=lambda run: None, resume=state, **PLAIN)
            assert torch.equal(weights(model), weights(whole))
            assert unclocked(resumed) == unclocked(history)


def test_resuming_with_another_recipe_is_refused(painted_split):
    states = []
    run(painted_split(32), log=lambda run: states.append(run.state()))
    with pytest.raises(ValueError, match="another recipe"):
        run(painted_split(32), None, RECIPE.changed(lr=0.1), resume=states[1])


def test_a_state_may_be_resumed_more_than_once(painted_split):
    states, split = [], painted_split(64)
    recipe = RECIPE.changed(optimizer="muon", lr=0.01)
    whole, _ = run(split, None, recipe, log=lambda run: states.append(run.state()))
    for _ in range(2):
        again, _ = run(split, None, recipe, resume=states[1])
        assert torch.equal(weights(again), weights(whole))


def test_resuming_on_other_images_is_refused(painted_split):
    states, split = [], painted_split(100)
    run(split, log=lambda run: states.append(run.state()))
    relabelled = replace(split, labels=split.labels.flip(0))
    renamed = replace(split, classes=(*CLASSES[1:], CLASSES[0]))
    fewer = replace(split, classes=CLASSES[:4], labels=split.labels % 4)
    for other in (painted_split(100, seed=1), relabelled, renamed, fewer, split[:99]):
        model = create_model("compact", len(other.classes))
        with pytest.raises(ValueError, match="other training images, labels or classes"):
            fit(model, other, None, RECIPE, resume=states[1], log=lambda run: None, **PLAIN)
    del states[1]["images"]  # as in a checkpoint from before they were noted
    run(relabelled, resume=states[1])


def test_a_history_names_every_device_that_the_run_was_trained_on(painted_split, monkeypatch):
    states, split = [], painted_split(32)
    monkeypatch.setattr(machine, "describe", lambda device: "GPU")
    run(split, log=lambda run: states.append(run.state()))
    monkeypatch.setattr(machine, "describe", lambda device: "CPU")
    _, finished = run(split, resume=states[3], precision="bf16")  # nothing is trained here
    assert (finished.device, finished.precision) == ("GPU", "fp32")
    twice = []
    run(split, resume=states[1], log=lambda run: twice.append(run.state()))
    _, longer = run(split, resume=twice[0])
    assert longer.device == "GPU, then CPU"


def test_training_steps_alone_are_routed_to_winograd(painted_split, monkeypatch):
    recipe = RECIPE.changed(epochs=1, winograd=True)
    for precision in ("fp32", "bf16"):
        wanted = []

        def spy(winograd, wanted=wanted):
            wanted.append(winograd)
            return nullcontext()

        monkeypatch.setattr(machine, "convolutions", spy)
        run(painted_split(16), None, recipe, precision=precision)
        assert sorted(wanted) == [False, False, True]  # evaluation has direct convolutions


@pytest.mark.slow
def test_a_resumed_run_may_go_on_in_another_precision(painted_split):
    """A GPU's fp16 for example, which a CPU does not have."""
    split, states = painted_split(64), []
    run(split, log=lambda run: states.append(run.state()))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0).state_dict()
    history = replace(History.from_json(states[1]["history"]), precision="fp16")
    from_gpu = states[1] | {"history": history.to_json(), "scaler": scaler}
    for state, asked, wanted in ((states[1], "bf16", {"bf16"}), (states[1], "auto", {"fp32"}),
                                 (from_gpu, "auto", {"fp32", "bf16"})):  # fmt: skip
        _, history = run(split, resume=state, precision=asked)
        assert history.precision in wanted and len(history.epochs) == 4
    onwards = start(create_model("compact"), split, None, RECIPE, scaled(2.0))  # a GPU, in fp16
    onwards.load_state(states[1])
    assert onwards.machine.scaler.get_scale() == 2 and len(onwards.history.epochs) == 2


def test_workers_change_nothing(painted_split):
    """Also with albumentations, whose workers repeat each other's draws when left to themselves."""
    for policy in ("crop-alternating-cutout", "separable-published"):
        recipe = RECIPE.changed(augmentation=policy, epochs=1)
        alone, several = (run(painted_split(48), None, recipe, workers=n) for n in (0, 2))
        assert torch.equal(weights(alone[0]), weights(several[0]))


def test_a_small_network_memorises_256_random_images(random_split):
    split = random_split(256)
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 8 * 8, 10))
    model = ConvNet(stage(conv_bn_relu(3, 16), pool(), pool()), head)
    split.labels[:] = torch.randint(0, 10, (256,), generator=torch.Generator().manual_seed(1))
    recipe = RECIPE.changed(
        epochs=40, batch_size=64, optimizer="adam", lr=3e-3, weight_decay=0.0, augmentation="none"
    )
    history = fit(model, split, split, recipe, log=lambda run: None, **PLAIN)
    assert history.epochs[0].val_accuracy < 0.2
    assert history.epochs[-1].val_accuracy > 0.99


def test_the_untrained_row_comes_first_and_is_near_chance(painted_split):
    _, history = run(painted_split(100), painted_split(50, seed=1))
    first = history.epochs[0]
    assert [row.epoch for row in history.epochs] == [0, 1, 2, 3]
    assert abs(first.train_loss - math.log(10)) < 0.1 and abs(first.val_loss - math.log(10)) < 0.1
    assert first.seconds == 0 and history.epochs[1].images_per_second > 0
    assert (
        history.source == "memory"
        and history.train_images == 100
        and history.val_images == 50
        and history.precision == "fp32"
    )


def test_without_validation_there_are_no_validation_figures(painted_split):
    for nothing in (None, painted_split(10)[:0]):
        _, history = run(painted_split(32), nothing, RECIPE.changed(epochs=1))
        assert history.epochs[1].val_loss is None and history.val_images == 0


def test_batches_hold_every_image_once_in_a_fresh_order_each_epoch(random_split):
    split = random_split(37)
    seen = [[tuple(image.flatten()[:9].tolist()) for batch in
             list(AugmentedBatches(split, RECIPE.changed(augmentation="none"), epoch))
             for image in batch[0]] for epoch in (1, 2)]  # fmt: skip
    all_of_them = sorted(tuple(image.flatten()[:9].tolist()) for image in split.images)
    assert sorted(seen[0]) == sorted(seen[1]) == all_of_them and seen[0] != seen[1]


def test_batches_mirror_every_image_in_exactly_one_of_two_epochs(monkeypatch):
    """Whatever its place among the shuffled: the coin belongs to the image, not to the place."""
    monkeypatch.setitem(AUGMENTATIONS, "alternating", (alternating_flip,))
    images = torch.zeros(40, 3, 32, 32, dtype=torch.uint8)
    images[:, 0] = torch.arange(40).view(40, 1, 1)  # red is the image's number, green is its left
    images[:, 1, :, :16] = 255
    split = Split(images, torch.arange(40) % 10, CLASSES, torch.arange(40))
    mirrored = []
    for epoch in (1, 2, 3):
        batches = list(AugmentedBatches(split, RECIPE.changed(augmentation="alternating"), epoch))
        seen = torch.cat([changed for changed, _ in batches])
        mirrored.append(dict(zip(seen[:, 0, 0, 0].tolist(), seen[:, 1, 0, 31] > 0, strict=True)))
    for one, other in pairwise(mirrored):
        assert all(one[number] != other[number] for number in range(40))
    assert 5 < sum(mirrored[0].values()) < 35


def test_label_smoothing_and_clipping_change_the_steps_but_not_the_meaning_of_the_loss(
    painted_split,
):
    split = painted_split(32)
    one_step = RECIPE.changed(epochs=1, batch_size=32)
    plain, smooth, clipped = (
        run(split, None, one_step.changed(**changes))
        for changes in ({}, {"label_smoothing": 0.2}, {"clip_norm": 1e-3})
    )
    assert plain[1].epochs[1].train_loss == smooth[1].epochs[1].train_loss
    assert not torch.equal(weights(plain[0]), weights(smooth[0]))
    start = weights(create_model("compact", seed=RECIPE.seed))
    moved = [(weights(model) - start)[:890].norm() for model, _ in (plain, clipped)]
    assert moved[1] < 0.1 * moved[0]


def test_low_precision_learns_as_well(painted_split):
    recipe = RECIPE.changed(epochs=4)
    _, history = run(painted_split(200), painted_split(50, seed=1), recipe, precision="bf16")
    assert history.precision == "bf16"
    assert history.epochs[-1].train_loss < 0.8 * history.epochs[0].train_loss


@pytest.mark.slow
def test_fp16_gradients_are_scaled_and_steps_that_overflow_are_skipped(painted_split):
    """The GPU's fp16 path, driven on the CPU."""
    split = painted_split(64)
    batches = AugmentedBatches(split, RECIPE, epoch=1)
    for scale, moves in ((1024.0, True), (1e30, False)):
        model = create_model("compact", seed=0).to(memory_format=torch.channels_last)
        before = model.classifier[-1].weight.clone()
        fp16 = scaled(scale, "fp16")
        optimizer = make_optimizer(model, RECIPE)
        train.train_one_epoch(model, batches, optimizer, RECIPE, machine=fp16)
        assert torch.equal(before, model.classifier[-1].weight) is not moves
        assert model.classifier[-1].weight.isfinite().all()
        assert (fp16.scaler.get_scale() < scale) is not moves


def test_a_scaled_gradient_is_clipped_at_its_true_length(painted_split):
    """With fp16's scaler or without one, and measured over all parameters together."""
    batches = AugmentedBatches(painted_split(32), ONE_STEP, epoch=1)
    for clip_norm, wanted in ((1e-3, 1e-3), (1e3, None)):
        recipe, moved = ONE_STEP.changed(clip_norm=clip_norm), []
        for where in (None, scaled(1024.0)):
            model = tiny_network(0)
            before = weights(model)
            optimizer = make_optimizer(model, recipe)
            train.train_one_epoch(model, batches, optimizer, recipe, machine=where)
            moved.append((weights(model) - before).norm().item())
        assert moved[0] == pytest.approx(moved[1], rel=1e-3)
        if wanted:
            assert moved[1] == pytest.approx(wanted, rel=1e-3)
        else:  # shorter than the limit: left as it is
            assert moved[1] > 0.01


# --- a teacher ------------------------------------------------------------------------------------


@pytest.fixture
def taught(tmp_path):
    """Write a network's weights where a recipe can name them; the changes that make it teach."""

    def write(model, recipe=RECIPE, classes=CLASSES):
        path = tmp_path / "teacher.safetensors"
        checkpoints.save_weights(path, model, checkpoints.WeightsInfo(recipe, "painted", classes))
        return {"teacher": str(path), "teacher_share": 1.0}

    return write


@given(
    rows=st.integers(1, 4), temperature=st.floats(0.25, 20), scale=st.floats(0.1, 30),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_distance_to_a_teacher_is_the_divergence_summed_by_hand(rows, temperature, scale, seed):
    logits, answers = scale * torch.randn(2, rows, 10, generator=generator(seed)).double()
    total = 0.0
    for row, answer in zip(logits.tolist(), answers.tolist(), strict=True):
        p, q = (
            [math.exp((value - max(values)) / temperature) for value in values]
            for values in (answer, row)
        )
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)
    by_hand = temperature**2 * total / rows
    assert train.distillation_loss(logits, answers, temperature).item() == pytest.approx(
        by_hand, abs=1e-9
    )
    assert train.distillation_loss(logits, logits, temperature).item() == pytest.approx(0, abs=1e-9)


def test_nothing_is_learnt_from_a_teacher_who_knows_what_the_network_knows(painted_split, taught):
    recipe = RECIPE.changed(model="conv5", dropout_factor=0.0, weight_decay=0.0, epochs=1)
    model = create_model("conv5", seed=RECIPE.seed, dropout_factor=0.0)
    lesson = recipe.changed(**taught(model, recipe))
    moved = [
        (weights(run(painted_split(32), None, changed)[0]) - weights(model)).abs().max().item()
        for changed in (lesson, lesson.changed(teacher_share=0.5))
    ]
    assert moved[0] < 1e-5 < 1e-3 < moved[1]


def test_a_step_with_a_teacher_is_one_towards_both_labels_and_answers(painted_split, taught):
    """With the temperature at 1 the gradient is that of mixed probabilities as labels."""
    split, teacher = painted_split(32), create_model("conv5", seed=1).eval()
    lesson = taught(teacher, RECIPE.changed(model="conv5")) | {"teacher_share": 0.3}
    recipe = RECIPE.changed(model="conv5", dropout_factor=0.0, weight_decay=0.0, momentum=0.0,
                            epochs=1, batch_size=32, lr=1.0, schedule="constant",
                            augmentation="none", **lesson)  # fmt: skip
    model = create_model("conv5", seed=RECIPE.seed, dropout_factor=0.0)
    model.to(memory_format=torch.channels_last)  # so that sums are taken in the same order
    inputs = normalize(split.images).contiguous(memory_format=torch.channels_last)
    labels = F.one_hot(split.labels, 10).float()
    wanted = 0.7 * labels + 0.3 * teacher(inputs).softmax(1).detach()
    loss = -(wanted * model(inputs).log_softmax(1)).sum(1).mean()
    loss.backward()
    fitted, history = run(split, None, recipe)
    for end, begin in zip(fitted.parameters(), model.parameters(), strict=True):
        by_hand = -recipe.lr * begin.grad
        assert (end - begin - by_hand).norm() < 0.01 * by_hand.norm()
    plain = create_model("conv5", seed=RECIPE.seed, dropout_factor=0.0)
    labels_alone = F.cross_entropy(plain(inputs), split.labels).item()
    assert history.epochs[1].train_loss == pytest.approx(labels_alone, rel=1e-5)


def test_a_step_with_a_teacher_takes_the_temperature_and_smooths_the_labels(painted_split):
    split, model, teacher = painted_split(32), tiny_network(0), tiny_network(1)
    for network, factor in ((model, 3), (teacher, 20)):  # unsure ones are alike at any temperature
        network.classifier[2].weight.data.mul_(factor)
    twin, inputs = copy.deepcopy(model), normalize(split.images)
    logits, answers = twin(inputs), teacher(inputs).detach()
    targets = torch.full((32, 10), 0.2 / 10)
    targets[range(32), split.labels] += 0.8
    learnt, wanted = (logits / 3).softmax(1), (answers / 3).softmax(1)
    by_labels = -(targets * logits.softmax(1).log()).sum(1).mean()
    by_teacher = 3**2 * (wanted * (wanted / learnt).log()).sum(1).mean()
    (0.6 * by_labels + 0.4 * by_teacher).backward()
    recipe = replace(ONE_STEP, teacher_share=0.4, temperature=3.0, label_smoothing=0.2)
    loss, _ = train.train_one_epoch(
        model, AugmentedBatches(split, recipe, 1), make_optimizer(model, recipe), recipe,
        teacher=teacher,
    )  # fmt: skip
    for end, begin in zip(model.parameters(), twin.parameters(), strict=True):
        assert (begin - end - begin.grad).norm() < 1e-3 * begin.grad.norm()
    plain = -logits.softmax(1).log()[range(32), split.labels].mean()
    assert loss == pytest.approx(plain.item(), rel=1e-4)  # that of the labels as they are


def test_a_teacher_sees_whole_images_and_stays_as_it_is(painted_split):
    seen, split = [], painted_split(32)
    teacher = create_model("compact", seed=1).eval().requires_grad_(False)
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    before = weights(teacher)
    recipe = replace(RECIPE, small_size=16, small_until=1.0, teacher_share=1.0)
    model = tiny_network(0)
    train.train_one_epoch(
        model, AugmentedBatches(split, recipe, 1), make_optimizer(model, recipe), recipe,
        teacher=teacher,
    )  # fmt: skip
    assert seen == [(16, 3, 32, 32)] * 2
    assert torch.equal(weights(teacher), before) and not teacher.training


def test_a_teacher_is_looked_for_before_the_first_step(painted_split, taught):
    others = taught(create_model("compact", 3, seed=0), classes=("a", "b", "c"))
    for changes, complaint in (
        (others, "a, b, c"),
        ({"teacher": "nobody"}, "neither a path nor one of the shipped networks"),
    ):
        rows = []
        with pytest.raises(ValueError, match=complaint):
            run(painted_split(32), None, RECIPE.changed(**changes), log=rows.append)
        assert rows == []


@pytest.mark.parametrize(("tick", "times"), [(0.3, 3), (1.0, 5), (0.0, 1)])
def test_a_bar_is_told_loss_and_accuracy_so_far_twice_a_second(
    painted_split, monkeypatch, tick, times
):
    now, told = [100.0], []

    class Bar:
        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            for batch in self.batches:
                now[0] += tick
                yield batch

        def set_postfix_str(self, text):
            told.append(text)

    monkeypatch.setattr(train.time, "perf_counter", lambda: now[0])
    split, results = painted_split(80), []
    for progress in (Bar, iter):
        model = tiny_network(0)
        batches = AugmentedBatches(split, RECIPE, 1)
        optimizer = make_optimizer(model, RECIPE)
        results.append(train.train_one_epoch(model, batches, optimizer, RECIPE, progress=progress))
    assert results[0] == results[1] and len(told) == times
    if tick == 1.0:  # the last was told after the last of the five batches
        assert told[-1] == f"loss {results[0][0]:.4f}, acc {results[0][1]:6.2%}"
        assert len(set(told)) == 5


def test_the_range_test_and_the_estimate_ask_the_teacher(painted_split, taught, monkeypatch):
    asked, distillation_loss = [], train.distillation_loss
    monkeypatch.setattr(
        train, "distillation_loss", lambda *given: asked.append(1) or distillation_loss(*given)
    )
    lesson = RECIPE.changed(**taught(create_model("compact", seed=1)))
    model, split = create_model("compact", seed=0), painted_split(32)
    tried = lr_range_test(model, split, lesson, steps=10, highest=0.1, **PLAIN)
    assert len(asked) == len(tried.rates)
    course.estimate(lesson, split)
    assert len(asked) > len(tried.rates)


class Sizes(torch.nn.Module):
    """Notes the size of every batch that comes by in training."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, images):
        if self.training:
            self.seen.append(tuple(images.shape[2:]))
        return images


def test_images_grow_as_the_training_goes_on(painted_split):
    recipe = RECIPE.changed(model="fastnet-half", epochs=2, small_size=20, small_until=0.6)
    seen = []
    model = create_model("fastnet-half", seed=0)
    model.features.insert(0, Sizes(seen))
    fit(model, painted_split(80), painted_split(20), recipe, log=lambda run: None, **PLAIN)
    assert seen == [(20, 20)] * 6 + [(32, 32)] * 4  # 0.6 of ten steps
    images = torch.rand(2, 3, 32, 32)
    small = train.resized(images, recipe, 0.59)
    assert torch.allclose(small.mean((2, 3)), images.mean((2, 3)), atol=0.02)  # antialiased
    assert train.resized(images, recipe, 0.6) is images
    with pytest.raises(ValueError, match="compact takes no images of 20 pixels; set small_until"):
        run(painted_split(32), None, recipe.changed(model="compact"))


def test_whitening_happens_before_the_first_epoch_and_its_kernels_stay(painted_split):
    split = painted_split(48)
    recipe = RECIPE.changed(model="fastnet-half", optimizer="muon", whitening=0.4, epochs=2)
    kernels, biases, learning = [], [], []

    def log(run):
        layer = run.model.features[0][0]
        kernels.append(layer.weight.detach().clone())
        biases.append(layer.bias.detach().clone())
        learning.append((layer.bias.requires_grad, layer.bias.grad is not None))

    model, _ = run(split, None, recipe, log=log)
    wanted = create_model("fastnet-half", seed=recipe.seed)
    whiten(wanted, normalize(split.images))
    assert all(torch.equal(kernel, wanted.features[0][0].weight) for kernel in kernels)
    assert not torch.equal(biases[0], biases[1])
    assert torch.equal(biases[1], biases[2])  # it rests in the second half, at no cost
    assert learning == [(True, False), (True, True), (False, False)]
    assert parameter_count(model) == parameter_count(wanted)
    free, _ = run(split, None, recipe.changed(whitening=0.0))  # trained like any other layer
    fresh = create_model("fastnet-half", seed=recipe.seed)
    assert not torch.equal(free.features[0][0].weight, fresh.features[0][0].weight)
    assert parameter_count(free) == parameter_count(fresh) + 24 * 12
    with pytest.raises(ValueError, match="no whitening layer"):
        run(split, None, recipe.changed(model="compact"))


def test_the_history_holds_the_recipes_rate_and_not_that_of_its_vectors(painted_split):
    recipe = replace(RECIPE, lr=0.03, bias_lr_factor=8, schedule="linear", epochs=2)
    for optimizer, muon_lr, wanted in (
        ("sgd", 0.5, 0.03),
        ("muon", 0.02, 0.03),
        ("muon", 0.1, 0.1),
    ):
        asked = replace(recipe, optimizer=optimizer, muon_lr=muon_lr)
        _, history = run(painted_split(16), None, asked)
        rates = [row.lr for row in history.epochs]
        assert rates == pytest.approx([0, wanted, wanted / 2])


@pytest.mark.slow
def test_compiling_takes_a_step_of_each_kind_and_leaves_no_trace(painted_split, monkeypatch):
    """torch.compile is replaced by nothing here: what is left is what goes on around it."""
    recipe = RECIPE.changed(model="fastnet-half", optimizer="muon", whitening=0.3, small_size=20,
                            small_until=0.6, batch_size=40)  # fmt: skip
    split, seen = painted_split(100), []
    # The first of each kind, of nine steps; its images; and how many steps there are of it.
    kinds = ((0, 40, 2), (2, 20, 1), (3, 40, 2), (5, 20, 1), (6, 40, 2), (8, 20, 1))
    wanted = [pytest.approx((step / 9, count, steps)) for step, count, steps in kinds]
    assert train.kinds_of_steps(100, recipe) == wanted
    assert train.kinds_of_steps(100, recipe, 2) == wanted[4:]  # as if resumed
    plain, history = run(split, None, recipe)
    monkeypatch.setattr(torch, "compile", lambda model, **_: seen.append(model) or model)
    model, same = run(split, None, recipe, compile=True, log=lambda run: seen.append(run))
    assert seen[0] is model and seen[1].compile_seconds > 0
    assert torch.equal(weights(model), weights(plain)) and unclocked(same) == unclocked(history)
    monkeypatch.setattr(torch, "compile", None)  # nothing is left to be trained, and to compile
    run(split, None, recipe, compile=True, resume=seen[-1].state())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs the C"):
        run(split, None, recipe, compile=True)


def test_compiling_that_is_stopped_leaves_no_trace_either(painted_split, monkeypatch):
    recipe = RECIPE.changed(model="fastnet-half", optimizer="muon", whitening=0.3, batch_size=40)
    model = create_model("fastnet-half", seed=0)
    state = start(model, painted_split(100), None, recipe, Machine(CPU))
    before, steps = copy.deepcopy(model.state_dict()), []

    def stop(model, **_):
        def network(inputs):
            steps.append(inputs)
            if len(steps) == 3:  # the first after the whitening layer's bias has come to rest
                raise KeyboardInterrupt
            return model(inputs)

        return network

    monkeypatch.setattr(torch, "compile", stop)
    with pytest.raises(KeyboardInterrupt):
        train.compiled_for(state, painted_split(100), Machine(CPU))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    learning = [p for group in state.optimizer.param_groups for p in group["params"]]
    assert all(p.requires_grad and p.grad is None for p in learning)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux")
def test_a_compiled_network_learns_what_a_plain_one_does(painted_split):
    results, seen = [], []
    for compile in (False, True):
        torch.manual_seed(0)
        model = ConvNet(stage(pool(), torch.nn.BatchNorm2d(3)), average_head(3, 10))
        history = fit(
            model, painted_split(32), None, RECIPE, compile=compile, log=seen.append, **PLAIN
        )
        results.append((model.state_dict(), history))
    (plain, wanted), (state, history) = results
    assert list(state) == list(plain)  # no prefix of torch.compile's
    for name, value in plain.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5)
    losses = [[row.train_loss for row in each.epochs] for each in (history, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert seen[-1].compile_seconds > 0


@pytest.mark.slow
def test_a_diverging_run_stops_with_a_reason(painted_split):
    for val in (None, painted_split(20, seed=1)):
        with pytest.raises(ArithmeticError, match=r"diverged in epoch 1.*lower lr"):
            run(painted_split(64), val, RECIPE.changed(model="vgg", lr=1e6))


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_divergence_names_the_first_step_without_a_loss(painted_split, bad):
    model, split = Poisoned(bad), painted_split(100)
    batches = list(zip(split.images.split(20), split.labels.split(20), strict=True))
    with pytest.raises(DivergedError, match=f"diverged at step {bad + 1} of 5: the loss"):
        train.train_one_epoch(model, batches, make_optimizer(model, RECIPE), RECIPE)


class Poisoned(torch.nn.Module):
    """One linear layer, whose logits are infinite in one step."""

    def __init__(self, bad):
        super().__init__()
        self.linear, self.bad, self.step = torch.nn.Linear(3, 10), bad, 0

    def forward(self, images):
        self.step += 1
        logits = self.linear(images.mean((2, 3)))
        return logits * (torch.inf if self.step == self.bad + 1 else 1)


@pytest.mark.parametrize("val", [False, True])
def test_no_epoch_is_logged_after_which_there_is_no_loss(val, painted_split):
    """The last step spoils the weights: its own loss is still that of the good ones."""
    logged = []

    def log(run):
        assert math.isfinite(evaluate.evaluate(run.model, painted_split(64))[0])
        logged.append(run.history.epochs[-1].epoch)

    recipe = RECIPE.changed(lr=1e30, optimizer="sgd", schedule="constant", batch_size=64)
    with pytest.raises(DivergedError, match="in epoch 1, after its last step: the loss"):
        run(painted_split(64), painted_split(20, seed=1) if val else None, recipe, log=log)
    assert logged == [0]


@pytest.mark.parametrize("changes", [
    {"lr": 1e39}, {"optimizer": "adam", "lr": 1e300}, {"lr": 1e20, "bias_lr_factor": 1e20},
    {"weight_decay": 1e300},
])  # fmt: skip
def test_rates_that_float32_cannot_hold_are_refused(changes, painted_split):
    with pytest.raises(CifarError, match="choose at most 1e30"):
        run(painted_split(64), None, RECIPE.changed(**changes))


def test_a_wrapped_network_is_trained_and_kept_as_the_plain_one(painted_split, tmp_path):
    split, states = painted_split(64), []
    recipe = RECIPE.changed(epochs=2, batch_size=32)
    for wrap in (lambda model: model, partial(torch.compile, backend="eager"),
                 torch.nn.DataParallel):  # fmt: skip
        model = build(recipe, data.CLASSES)
        train.fit(wrap(model), split, split, recipe, log=lambda run: states.append(run.state()),
                  device="cpu", precision="fp32")  # fmt: skip
    plain, *others = states[2::3]
    for other in others:
        assert list(other["model"]) == list(plain["model"])
        for name, value in plain["model"].items():
            assert torch.equal(other["model"][name], value)
    # A state of an earlier version, with the wrapper's names, is gone on with as well.
    state = dict(states[1], model={f"_orig_mod.{n}": v for n, v in states[1]["model"].items()})
    model = build(recipe, data.CLASSES)
    train.fit(model, split, split, recipe, resume=state, log=lambda run: None, device="cpu",
              precision="fp32")  # fmt: skip
    assert all(torch.equal(v, plain["model"][n]) for n, v in model.state_dict().items())


def test_a_last_batch_of_one_image_is_refused_only_if_batch_norm_cannot_learn_from_it(
    painted_split,
):
    split, lone = painted_split(9), RECIPE.changed(epochs=1, batch_size=4)
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    for model in (create_model("compact", seed=0), flat):
        assert fit(model, split, None, lone, log=lambda run: None, **PLAIN).is_finished
    normed = torch.nn.Sequential(*flat, torch.nn.BatchNorm1d(10))
    chance = torch.get_rng_state()
    with pytest.raises(CifarError, match=r"single image, .* at 32 × 32 pixels .* batch_size"):
        fit(normed, split, None, lone, log=lambda run: None, **PLAIN)
    assert torch.equal(torch.get_rng_state(), chance)
    for until, refused in ((0.5, False), (1.0, True)):  # the lone image comes after two thirds
        small = lone.changed(model="resnet18", small_size=8, small_until=until)
        network = create_model("resnet18", seed=0)
        with pytest.raises(CifarError, match="at 8 × 8 pixels") if refused else nullcontext():
            fit(network, split, None, small, log=lambda run: None, **PLAIN)


def test_every_weight_is_in_some_group_of_the_optimizer():
    shapes = [(), (2,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)]
    model = torch.nn.ParameterList(torch.zeros(shape) for shape in shapes)
    for name in ("sgd", "muon"):
        groups = make_optimizer(model, RECIPE.changed(optimizer=name)).param_groups
        assert sum(len(group["params"]) for group in groups) == len(shapes)


def test_mistakes_are_found_before_any_work(painted_split):
    for changes, message in (({"augmentation": "flap"}, "unknown augmentation"),
                             ({"teacher": "nobody"}, "neither a path")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            run(painted_split(32), None, RECIPE.changed(**changes))
    for options, message in (({"resume": "runs/x"}, r"resume is a str, .* load_checkpoint"),
                             ({"resume": {}}, "resume is a dict"),
                             ({"workers": -1}, "workers is -1"),
                             ({"workers": "2"}, "workers is '2'")):  # fmt: skip
        with pytest.raises(CifarError, match=message):
            run(painted_split(32), None, **options)
    with pytest.raises(CifarError, match="recipe: of type str"):
        lr_range_test(create_model("compact"), painted_split(32), "compact")
    with pytest.raises(ValueError, match="no training images"):
        run(painted_split(10)[:0])
    with pytest.raises(ValueError, match="choose one of auto, cuda, mps, cpu"):
        run(painted_split(32), device="tpu")
    with pytest.raises(ValueError, match="choose one of auto, fp32, bf16, fp16"):
        run(painted_split(32), precision="int8")


@pytest.mark.slow
def test_lr_range_test_suggests_a_rate_between_too_small_and_too_large(painted_split):
    result = lr_range_test(create_model("compact", seed=0), painted_split(400), RECIPE,
                                 lowest=1e-4, highest=100, steps=60, **PLAIN)  # fmt: skip
    assert len(result.rates) == len(result.losses) <= 60
    assert result.rates[0] == pytest.approx(1e-4) and list(result.rates) == sorted(result.rates)
    assert 1e-3 < result.suggestion < 10
    assert min(result.losses) < result.losses[0] - 0.1
    wild = lr_range_test(
        create_model("compact", seed=0), painted_split(400), RECIPE, highest=1e9, steps=60, **PLAIN
    )
    assert len(wild.rates) < 60 and all(map(math.isfinite, wild.losses))
    for count, limits, reason in ((32, (1, 0.1), "lowest"), (0, (1e-4, 1), "no training images"),
                                  (32, (1e9, 1e12), "explodes at once")):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            lr_range_test(create_model("conv5", seed=0), painted_split(count), RECIPE,
                                lowest=limits[0], highest=limits[1], **PLAIN)  # fmt: skip


def train_process(root, out, *more):
    return [sys.executable, "-m", "cifar_utils", "train", "--recipe", "compact", "--epochs", "3",
            "--batch-size", "64", "--data", str(root), "--source", "npy", "--validation", "100",
            "--device", "cpu", "--precision", "fp32", "--out", str(out), *more]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a file that is read cannot be replaced there")
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, painted_split, two_threads):
    """SIGKILL in epoch 2 of 3: no handler runs, nothing is tidied up."""
    root = tmp_path / "data"
    root.mkdir()
    for part, count in (("train", 2100), ("test", 50)):
        split = painted_split(count)
        np.save(root / f"{part}_data.npy", split.images.permute(0, 2, 3, 1).numpy())
        np.save(root / f"{part}_labels.npy", split.labels.numpy())

    process = subprocess.Popen(train_process(root, tmp_path / "killed"), stderr=subprocess.DEVNULL)
    history, checkpoint = (tmp_path / "killed" / name for name in ("history.json", "checkpoint.pt"))
    deadline = time.time() + 120
    while not (
        checkpoint.exists()
        and len(History.load(history).epochs) == 2
        and checkpoint.stat().st_mtime_ns >= history.stat().st_mtime_ns  # it is written last
    ):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(History.load(history).epochs) == 2, "it should have died in epoch 2"

    subprocess.run(train_process(root, tmp_path / "killed", "--resume"), check=True)
    subprocess.run(train_process(root, tmp_path / "whole"), check=True)
    for name in ("weights.safetensors", "best.safetensors"):
        killed, whole = ((tmp_path / run / name).read_bytes() for run in ("killed", "whole"))
        assert killed == whole
    states = [checkpoints.load_checkpoint(tmp_path / run / "checkpoint.pt") for run in
              ("killed", "whole")]  # fmt: skip
    for one, other in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_plateau_lowers_the_rate_as_torchs_does_and_a_resumed_run_as_if_never_stopped(
    painted_split, monkeypatch
):
    recipe = Recipe("tiny", model="conv5", epochs=7, batch_size=16, lr=0.1, schedule="plateau",
                    patience=1, step_factor=0.5)  # fmt: skip
    losses = [2.0, 1.0, 1.5, 1.2, 0.9, 1.0, 1.0, 1.0]  # of the untrained network and each epoch
    split, states = painted_split(32), []
    for past in (0, 4):
        told = iter(losses[past and past + 1 :])

        def evaluate(model, images, precision, told=told):
            return next(told) if len(images) == 16 else 2.3, 0.5

        monkeypatch.setattr(train, "evaluate", evaluate)
        history = fit(
            build(recipe, split.classes), split, split[:16], recipe, device="cpu",
            precision="fp32", resume=states[past] if past else None,
            log=lambda run: states.append(run.state()),
        )  # fmt: skip
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=1)
        for row, loss in zip(history.epochs[1:], losses[1:], strict=True):
            assert row.lr == theirs.param_groups[0]["lr"] and row.val_loss == loss
            plateau.step(loss)
        assert len({row.lr for row in history.epochs[1:]}) == 3
