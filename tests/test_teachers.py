"""Several teachers, and answers that are stored; a single one is in tests/test_train.py."""

import pytest
import torch

from cifar_utils import checkpoints, estimate
from cifar_utils.batches import AugmentedBatches
from cifar_utils.data import CLASSES, normalize
from cifar_utils.errors import CifarError
from cifar_utils.estimate import epoch_seconds
from cifar_utils.machine import Machine
from cifar_utils.models import build, create_model
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import Recipe
from cifar_utils.teachers import StoredAnswers, answers, find_teacher
from cifar_utils.train import fit, train_one_epoch

CPU = Machine(torch.device("cpu"))
RECIPE = Recipe(
    "tiny", model="conv5", epochs=4, batch_size=16, lr=0.02, seed=5, schedule="constant",
    dropout_factor=0.0, augmentation="crop-alternating-cutout",
)  # fmt: skip
PLAIN = {"device": "cpu", "precision": "fp32"}


@pytest.fixture
def taught(tmp_path):
    """Write two networks that the recipe can name; the changes that make both of them teach."""
    names = []
    for number, name in enumerate(("conv5", "compact")):
        model = create_model(name, seed=10 + number)
        with torch.no_grad():
            model.classifier[-1].weight.mul_(20)  # which makes them sure of what they say
        info = checkpoints.WeightsInfo(RECIPE.changed(model=name), "painted", CLASSES)
        names.append(str(tmp_path / f"{name}.safetensors"))
        checkpoints.save_weights(tmp_path / f"{name}.safetensors", model, info)
    return {"teacher": ", ".join(names), "teacher_share": 0.7, "temperature": 2.0}


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_several_teachers_answer_with_the_geometric_mean_of_their_probabilities(
    painted_split, taught
):
    recipe, images = RECIPE.changed(**taught), normalize(painted_split(12).images)
    teacher = find_teacher(recipe, CLASSES, CPU)
    answered = answers(teacher, images, 0, CPU)
    each = [checkpoints.load_weights(name)[0](images).softmax(1) for name in recipe.teachers]
    product = (each[0] * each[1]).sqrt()
    torch.testing.assert_close(answered.softmax(1), product / product.sum(1, keepdim=True))
    assert not teacher.training and not any(one.requires_grad for one in teacher.parameters())
    assert not torch.allclose(each[0], each[1], atol=0.1)
    one = find_teacher(recipe.changed(teacher=recipe.teachers[1]), CLASSES, CPU)
    torch.testing.assert_close(answers(one, images, 0, CPU).softmax(1), each[1])
    with pytest.raises(CifarError, match="'nobody' is neither a path nor"):
        find_teacher(recipe.changed(teacher=f"{recipe.teachers[0]},nobody"), CLASSES, CPU)


def test_images_come_again_after_so_many_epochs(random_split):
    split = random_split(40)
    again = RECIPE.changed(teacher="compact", answers_epochs=2)
    for epoch, drawn in ((1, 1), (2, 2), (3, 1), (4, 2), (5, 1)):
        one, other = AugmentedBatches(split, again, epoch), AugmentedBatches(split, RECIPE, drawn)
        for (images, labels), (same_images, same_labels) in zip(one, other, strict=True):
            assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
    third, first = AugmentedBatches(split, RECIPE, 3), AugmentedBatches(split, RECIPE, 1)
    assert not torch.equal(third[0][0], first[0][0])
    alone = AugmentedBatches(split, Recipe(**again.changed(teacher="").as_dict()), 3)
    assert alone.drawn == 3  # without a teacher the field has no effect


def test_stored_answers_teach_what_a_teacher_does_who_is_asked_each_time(painted_split, taught):
    split, recipe = painted_split(40), RECIPE.changed(answers_epochs=2, **taught)
    model = build(recipe, CLASSES).to(memory_format=torch.channels_last)
    teacher = find_teacher(recipe, CLASSES, CPU)
    optimizer = make_optimizer(model, recipe)
    for epoch in (1, 2, 3, 4):
        batches = AugmentedBatches(split, recipe, epoch)
        train_one_epoch(model, batches, optimizer, recipe, teacher=teacher, machine=CPU)

    stored, states = build(recipe, CLASSES), []
    fit(stored, split, None, recipe, log=lambda run: states.append(run.state()), **PLAIN)
    begin = weights(build(recipe, CLASSES))
    moved = (weights(model) - begin).norm()
    assert (weights(stored) - weights(model)).norm() < 2e-3 * moved
    untaught, labels_alone = build(recipe, CLASSES), recipe.changed(teacher_share=0.0)
    fit(untaught, split, None, labels_alone, log=lambda run: None, **PLAIN)
    assert (weights(untaught) - weights(model)).norm() > 0.1 * moved

    for state in states[:-1]:  # the answers are not kept: after a resume they are asked anew
        resumed = build(recipe, CLASSES)
        fit(resumed, split, None, recipe, log=lambda run: None, resume=state, **PLAIN)
        assert torch.equal(weights(resumed), weights(stored))


def test_a_teacher_is_asked_once_about_each_batch(painted_split):
    images, asked = normalize(painted_split(8).images), []
    teacher = create_model("conv5", seed=1).eval().requires_grad_(False)
    teacher.register_forward_pre_hook(lambda *_: asked.append(1))
    stored = StoredAnswers(teacher)
    fresh = [answers(stored, part, number, CPU) for number, part in enumerate(images.split(4))]
    again = [answers(stored, part, number, CPU) for number, part in enumerate(images.split(4))]
    assert len(asked) == 2 and all(map(torch.equal, fresh, again))
    for part, answer in zip(images.split(4), fresh, strict=True):
        torch.testing.assert_close(answer, teacher(part), rtol=2**-10, atol=1e-6)
        assert answer.dtype == torch.float32
    assert {answer.dtype for answer in stored.by_batch.values()} == {torch.float16}


def test_an_estimate_knows_in_which_epochs_the_teacher_is_asked(random_split, monkeypatch):
    def step_seconds(recipe, train, machine, *, done, asks, **options):
        return (1.0 if done else 0.1) + (10.0 if asks else 0.0)

    monkeypatch.setattr(estimate, "step_seconds", step_seconds)
    recipe = RECIPE.changed(teacher="compact", answers_epochs=2, small_size=16, small_until=0.25)
    for changes, past, wanted in (
        ({}, 0, [10.1, 11.0, 1.0, 1.0]),
        ({}, 1, [11.0, 11.0, 1.0]),  # a resumed run asks anew
        ({"answers_epochs": 0}, 0, [10.1, 11.0, 11.0, 11.0]),
        ({"teacher": ""}, 0, [0.1, 1.0, 1.0, 1.0]),
    ):
        each = epoch_seconds(recipe.changed(**changes), random_split(16), CPU, past=past)
        assert each == pytest.approx(wanted)
