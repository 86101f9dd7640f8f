"""Memory that a process keeps, because asking the system for it again and again takes time."""

import ctypes
import sys

import torch


def keep_memory(device: torch.device) -> None:
    """Let this process keep the memory that it has freed: the next step needs as much again.

    glibc returns large buffers to Linux at once, which then hands out fresh pages, each with an
    interruption and 4 KiB of zeros. This tells it not to, for the whole process and for good: see
    `man mallopt`. It does nothing for GPUs, which keep their own memory, and on systems without
    mallopt. Used in notebook 10.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Map no buffer by itself (M_MMAP_MAX), never trim (M_TRIM_THRESHOLD), ask for more at a
        # time (M_TOP_PAD).
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            mallopt(option, value)
