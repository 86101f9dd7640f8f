"""As tests, the notebooks run in quick mode, unless CIFAR_UTILS_QUICK=0 asks for the whole."""

import os

os.environ.setdefault("CIFAR_UTILS_QUICK", "1")
