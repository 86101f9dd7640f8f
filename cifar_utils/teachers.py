"""Learning from another network's answers as well as from labels: knowledge distillation.

The teacher's probabilities are called soft targets.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.checkpoints import find_weights
from cifar_utils.errors import CifarError
from cifar_utils.machine import Machine
from cifar_utils.recipes import Recipe


def find_teacher(recipe: Recipe, classes: tuple[str, ...], machine: Machine) -> nn.Module | None:
    """The network that the recipe learns from, ready to answer, or None if it names none.

    A teacher that was trained on the validation images flatters validation, because it passes on
    what it knows about them. Of the shipped networks only those called -val were not. Raises
    CifarError if there is no such network, or if it knows other classes.
    """
    if not recipe.teacher:
        return None
    teacher, info = find_weights(recipe.teacher)
    if info.classes != tuple(classes):
        raise CifarError(
            f"the teacher {recipe.teacher} knows the classes {', '.join(info.classes)}; the data "
            f"has {', '.join(classes)}"
        )
    return machine.place(teacher.requires_grad_(False))


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """The distance between a network's logits and its teacher's `answers`, logits (N, K) too.

    The mean Kullback-Leibler divergence in nats, 0 or more, of the probabilities at that
    temperature. It is multiplied by temperature², so that its gradient does not fade as the
    temperature rises (Hinton, Vinyals and Dean, arXiv 1503.02531).
    """
    learnt = F.log_softmax(logits / temperature, 1)
    wanted = F.log_softmax(answers / temperature, 1)
    return F.kl_div(learnt, wanted, reduction="batchmean", log_target=True) * temperature**2
