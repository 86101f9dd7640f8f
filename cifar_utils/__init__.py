"""CIFAR-10 in PyTorch: data, augmentation, models, training, evaluation, Grad-CAM.

Import the module that you need (``from cifar_utils import data, models``). This file stays empty of
imports, so that ``import cifar_utils`` costs nothing.
"""

__version__ = "0.2.0"
