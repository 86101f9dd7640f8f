"""Memory that is kept, and what torch.compile needs."""

from types import SimpleNamespace

import pytest
import torch

from cifar_utils.speed import compile, memory

CPU = torch.device("cpu")


def test_memory_is_kept_where_the_c_library_can_and_nothing_happens_elsewhere(monkeypatch):
    assert memory.keep_memory(CPU) is None and memory.keep_memory(CPU) is None
    asked = []
    glibc = SimpleNamespace(mallopt=lambda *option: asked.append(option))
    for platform, library, wanted in (
        ("linux", glibc, [(-4, 0), (-1, 2**31 - 1), (-2, 2**28)]),
        ("linux", SimpleNamespace(), []),
        ("darwin", glibc, []),
        ("win32", glibc, []),
    ):
        monkeypatch.setattr(memory.sys, "platform", platform)
        monkeypatch.setattr(memory.ctypes, "CDLL", lambda name, library=library: library)
        memory.keep_memory(torch.device("cuda"))
        assert not asked
        memory.keep_memory(CPU)
        assert asked == wanted
        asked.clear()


def test_the_compiler_s_needs_are_named(monkeypatch):
    monkeypatch.setattr(compile, "find_spec", lambda name: None)
    monkeypatch.setattr(compile.shutil, "which", lambda name: None)
    for kind, needed in (("cpu", r"compiler \S+; install"), ("cuda", "triton on a GPU; install")):
        with pytest.raises(ValueError, match=needed):
            compile.check_compiler(torch.device(kind))
    for version in ((2, 8), (2, 14)):
        monkeypatch.setattr(compile, "TORCH", version)
        compile.check_compiler(torch.device("mps"))
    monkeypatch.setattr(compile, "TORCH", (2, 7))
    with pytest.raises(ValueError, match=r"torch 2\.8 or newer on Apple's GPUs"):
        compile.check_compiler(torch.device("mps"))
    monkeypatch.setattr(compile, "find_spec", lambda name: "found")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ValueError, match="C compiler on a GPU; install gcc, or set CC"):
        compile.check_compiler(torch.device("cuda"))
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    compile.check_compiler(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 0))
    with pytest.raises(ValueError, match="newer GPU than the Tesla P100-PCIE-16GB; leave it out"):
        compile.check_compiler(torch.device("cuda"))
