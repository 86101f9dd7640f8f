"""The average of a network's weights over the last part of its training.

With a high learning rate the weights jump around a good place rather than lie in it. Their average
lies in it, so it is as good as weights that a low rate has led to, and better if the rate is not
yet low. The idea is old (Polyak and Juditsky 1992). Of the many ways to average, this is the
exponential moving average, EMA (arXiv 2411.18704 compares it with others): it needs one copy of the
weights, and forgets the first ones, which are bad, by itself.
"""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class WeightAverage:
    """The exponential average of all tensors of a network, over about `span` steps.

    In step t it moves towards the weights by 1/span of the way, but by 1/t as long as t is below
    span: until then it is the plain mean of all steps, so it never contains the first, random
    weights. If the training has five spans or more, less than a hundredth of the average is from
    before the last five.

    The running statistics of batch norm are averaged in the same way. To measure them anew for the
    averaged weights would take a pass over images. It would matter if the weights that are averaged
    were far apart; under a learning rate that ends near zero they are not.
    """

    def __init__(self, network: nn.Module, *, span: float) -> None:
        self.network, self.span, self.steps = network, span, 0
        self.tensors = {name: one.clone() for name, one in network.state_dict().items()}

    def follow(self, optimizer: Optimizer) -> None:
        """Update after each step of the optimizer from now on."""
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now."""
        self.steps += 1
        share = max(1 / self.steps, 1 / max(self.span, 1))
        for name, now in self.network.state_dict().items():
            if now.is_floating_point():
                self.tensors[name].lerp_(now, share)
            else:  # a count of batches
                self.tensors[name].copy_(now)

    def state(self) -> dict[str, Any]:
        """What `load_state` takes to go on from here: copies."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return {"steps": self.steps, "tensors": tensors}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of a network of the same names and shapes."""
        self.steps = state["steps"]
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])
