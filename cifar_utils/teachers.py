"""Learning from other networks' answers as well as from labels: knowledge distillation.

A teacher's probabilities are called soft targets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.checkpoints import find_weights
from cifar_utils.errors import CifarError
from cifar_utils.machine import Machine
from cifar_utils.recipes import Recipe


def find_teacher(recipe: Recipe, classes: tuple[str, ...], machine: Machine) -> nn.Module | None:
    """The network that the recipe learns from, ready to answer, or None if it names none.

    If it names several, they answer as one: see MeanOfTeachers. A teacher that was trained on the
    validation images flatters validation, because it passes on what it knows about them. Of the
    shipped networks only those called -val were not. Raises CifarError if there is no such network,
    or if it knows other classes.
    """
    teachers: list[nn.Module] = []
    for name in recipe.teachers:
        teacher, info = find_weights(name)
        if info.classes != tuple(classes):
            raise CifarError(
                f"the teacher {name} knows the classes {', '.join(info.classes)}; the data has "
                f"{', '.join(classes)}"
            )
        teachers.append(machine.place(teacher.requires_grad_(False)))
    if not teachers:
        return None
    return teachers[0] if len(teachers) == 1 else MeanOfTeachers(*teachers).eval()


class MeanOfTeachers(nn.Module):
    """Several networks that answer with the mean of their logits, (N, K).

    Its softmax is the geometric mean of their probabilities, with a sum of 1. Hinton, Vinyals and
    Dean (arXiv 1503.02531) take this or the arithmetic mean. This one is right at any temperature.
    """

    def __init__(self, *teachers: nn.Module) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([teacher(images).float() for teacher in self.teachers]).mean(0)


class StoredAnswers:
    """A teacher's answers in one epoch, asked for the first time that a batch is seen.

    If the epoch comes again with the same images in the same batches, nobody is asked any more:
    see `answers_epochs` in Recipe. float16 keeps three digits of a logit in 20 bytes per image.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher
        self.by_batch: dict[int, Tensor] = {}


def stored_answers(teacher: nn.Module | None, recipe: Recipe) -> list[StoredAnswers]:
    """A place for the answers in each epoch whose images differ; none if none are to be stored."""
    if teacher is None:
        return []
    return [StoredAnswers(teacher) for _ in range(min(recipe.answers_epochs, recipe.epochs))]


def answers(
    teacher: nn.Module | StoredAnswers, images: Tensor, number: int, machine: Machine
) -> Tensor:
    """The teacher's logits, float32 (N, K), for the epoch's batch of that number.

    images: that batch, normalised, or this process's part of it.
    """
    if isinstance(teacher, StoredAnswers):
        if number not in teacher.by_batch:
            fresh = answers(teacher.teacher, images, number, machine)
            teacher.by_batch[number] = fresh.half()
        return teacher.by_batch[number].float()
    with torch.no_grad():
        return machine.logits(teacher, images)


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """The distance between a network's logits and its teacher's `answers`, logits (N, K) too.

    The mean Kullback-Leibler divergence in nats, 0 or more, of the probabilities at that
    temperature. It is multiplied by temperature², so that its gradient does not fade as the
    temperature rises (Hinton, Vinyals and Dean, arXiv 1503.02531).
    """
    learnt = F.log_softmax(logits / temperature, 1)
    wanted = F.log_softmax(answers / temperature, 1)
    return F.kl_div(learnt, wanted, reduction="batchmean", log_target=True) * temperature**2
