"""Epochs of the images that a network finds hardest, in place of all.

Late in a training most images have long been learnt: their losses, and so their gradients, are
small, but they cost as much time as the others. So an epoch may leave some of them out. To see the
hard images more often than the easy ones is an old idea: Loshchilov and Hutter (arXiv 1511.06343)
rank the images by their last loss, as here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_utils.errors import CifarError
from cifar_utils.machine import generator
from cifar_utils.recipes import Recipe
from cifar_utils.speed.distributed import all_reduce, share_of

NOISE = 0.3  # nats: how far chance may move an image's loss, so that near ones take turns


class Hardest:
    """The last loss of each training image, and which of them an epoch takes.

    Each class keeps the same share, so that those with hard images, such as cats, do not seem more
    likely. An image that rested in the last epoch comes back in the next. So none is forgotten, and
    no loss is older than two epochs.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels  # int64 (N,); what follows has a place for each of them, too
        self.losses = torch.zeros(len(labels), device=labels.device)  # nats
        self.rested = torch.zeros(len(labels), dtype=torch.bool)
        self.turns = torch.zeros(len(labels), dtype=torch.int64)  # epochs that an image was in

    def begin(self, recipe: Recipe, epoch: int) -> tuple[Tensor, Tensor]:
        """(order, turns) of the epoch, as AugmentedBatches takes them.

        They depend on the losses so far, the recipe's seed and the epoch.
        """
        draws = generator(recipe.seed, epoch)
        images = len(self.labels)
        chosen = torch.arange(images)
        count = recipe.images_in(epoch, images)
        if count < images:
            score = self.losses.cpu() + NOISE * torch.rand(images, generator=draws)
            score[self.rested] = torch.inf
            ranks = ranks_in_class(score, self.labels.cpu())
            ranks[self.rested] = -1  # all of them, also where a class cannot be halved
            chosen = ranks.argsort(stable=True)[:count]
        order = chosen[torch.randperm(count, generator=draws)]
        self.rested = torch.ones(images, dtype=torch.bool).index_fill(0, order, False)
        self.turns[order] += 1
        self.order = order.to(self.losses.device)
        self.batches = self.order.split(recipe.batch_size)
        self.seen = torch.zeros_like(self.losses)
        return order, self.turns

    def see(self, number: int, logits: Tensor, labels: Tensor) -> None:
        """Note the losses of the epoch's batch of that number, or of this process's part of it."""
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.seen[share_of(self.batches[number])] = losses

    def end(self) -> None:
        """The epoch is over: what all processes have seen in it are now the last losses."""
        all_reduce(self.seen)
        self.losses[self.order] = self.seen[self.order]

    def state(self) -> dict[str, Tensor]:
        """What `load_state` takes to go on from here: copies, on the CPU."""
        kept = {"losses": self.losses.cpu(), "rested": self.rested, "turns": self.turns}
        return {name: tensor.clone() for name, tensor in kept.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`. Raises CifarError if it is not one of as many images."""
        for name, mine in self.state().items():
            given = state.get(name)
            if given is None or (given.shape, given.dtype) != (mine.shape, mine.dtype):
                raise CifarError(f"the checkpoint does not fit these images: {name} of hardest")
        self.losses = state["losses"].to(self.losses.device, copy=True)
        self.rested, self.turns = state["rested"].clone(), state["turns"].clone()


def ranks_in_class(scores: Tensor, labels: Tensor) -> Tensor:
    """For each score its rank among those of its class, highest first, as a fraction in [0, 1)."""
    ranks = torch.zeros(len(scores))
    for label in labels.unique():
        (members,) = (labels == label).nonzero(as_tuple=True)
        best_first = members[scores[members].argsort(descending=True, stable=True)]
        ranks[best_first] = torch.arange(len(members)) / len(members)
    return ranks
