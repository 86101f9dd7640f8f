import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifar_utils import machine
from cifar_utils.machine import pick_device, pick_precision
from cifar_utils.speed import distributed

CPU = torch.device("cpu")


def test_auto_takes_the_best_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine, "_has_kernels", lambda device: True)
    assert pick_device("auto").type == "cuda" and pick_device("cuda:1").index == 1
    assert pick_device("cpu") == CPU and pick_device(CPU) == CPU
    with pytest.raises(ValueError, match="no cuda:2; this machine has 2 CUDA"):
        pick_device("cuda:2")


@pytest.mark.parametrize("count, words", [(1, "CPU, 1 thread"), (2, "CPU, 2 threads")])
def test_a_cpu_is_described_by_its_threads(monkeypatch, count, words):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    assert machine.describe(torch.device("cpu")) == words


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ValueError, match="it has: cpu"):
            pick_device(name)
    for name in ("gpu", "", "CUDA"):
        with pytest.raises(ValueError, match="choose one of auto, cuda, mps, cpu"):
            pick_device(name)
    with pytest.raises(ValueError, match="'cpu:x' is not a device"):
        pick_device("cpu:x")


def test_several_processes_take_a_device_each_or_cpus(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine, "_has_kernels", lambda device: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("cuda:1", "mps"):
        with pytest.raises(ValueError, match=f"cannot share {name}; choose cpu, or cuda"):
            pick_device(name)


def test_a_gpu_that_torch_was_not_built_for_is_named_and_left(monkeypatch):
    failure = "CUDA error: no kernel image is available for execution on the device"

    def ones(size, device):
        raise RuntimeError(failure)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.warns(UserWarning, match=r"on the Tesla P100-PCIE-16GB; .* T4 x2.*Using the CPU"):
        assert pick_device("auto") == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=r"on the Tesla P100-PCIE-16GB; .* T4 x2.*choose cpu"):
            pick_device(name)
    failure = "CUDA out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        pick_device("auto")


@pytest.mark.parametrize(("speedup", "wanted"), [(1.6, "bf16"), (1.0, "fp32"), (0.01, "fp32")])
def test_a_cpu_gets_bf16_only_where_it_is_faster(monkeypatch, speedup, wanted):
    monkeypatch.setattr(machine, "bf16_speedup", lambda: speedup)
    assert pick_precision("auto", CPU) == wanted
    assert pick_precision("fp32", CPU) == "fp32" and pick_precision("bf16", CPU) == "bf16"


def test_a_gpu_gets_bf16_where_it_has_it_else_scaled_fp16(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")  # AMD's
    assert pick_precision("auto", torch.device("cuda")) == "bf16"
    monkeypatch.setattr(torch.version, "hip", None)
    for has, wanted in ((True, "bf16"), (False, "fp16")):
        capability = (8, 0) if has else (7, 5)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, now=capability: now)
        assert pick_precision("auto", torch.device("cuda")) == wanted
    assert pick_precision("auto", torch.device("mps")) == "fp32"


def test_a_run_that_goes_on_keeps_its_precision_only_where_the_device_has_it(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    cuda, mps = torch.device("cuda"), torch.device("mps")
    for has, speedup, wanted in (
        (True, 0.9, {cuda: "bf16 fp16 fp32", CPU: "bf16 auto fp32", mps: "auto auto fp32"}),
        (False, 0.02, {cuda: "auto fp16 fp32", CPU: "auto auto fp32", mps: "auto auto fp32"}),
    ):
        capability = (8, 0) if has else (7, 5)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, now=capability: now)
        monkeypatch.setattr(machine, "bf16_speedup", lambda speedup=speedup: speedup)
        for where, kept in wanted.items():
            names = ("bf16", "fp16", "fp32")
            assert [machine.keep_precision(name, where) for name in names] == kept.split()


def test_precisions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="choose one of auto, fp32, bf16, fp16"):
        pick_precision("half", CPU)
    for kind in ("cpu", "mps"):  # torch 2.6 fails in the middle of a step on MPS
        with pytest.raises(ValueError, match="fp16 needs a CUDA GPU"):
            pick_precision("fp16", torch.device(kind))


def test_apple_gpus_get_their_inputs_in_the_usual_layout():
    assert machine.layout(CPU) == machine.layout(torch.device("cuda")) == torch.channels_last
    assert machine.layout(torch.device("mps")) == torch.contiguous_format


def test_measuring_leaves_random_numbers_and_threads_as_they_were():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0 < machine.bf16_speedup(seconds=0.05) < math.inf
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_autocast_computes_in_the_named_precision():
    layer = torch.nn.Linear(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with machine.autocast(CPU, precision):
            assert layer(torch.ones(2, 4)).dtype == dtype


keys = st.tuples(*[st.integers(0, 10_000)] * 3)


@given(keys, keys)
def test_seeds_differ_where_their_keys_do(one, other):
    assert (machine.seed_from(*one) == machine.seed_from(*other)) == (one == other)
    assert 0 <= machine.seed_from(*one) < 2**63
    drawn = [torch.rand(3, generator=machine.generator(*key)).tolist() for key in (one, other)]
    assert (drawn[0] == drawn[1]) == (one == other)


def test_neighbouring_places_in_a_training_never_share_a_seed():
    places = [(s, e, b) for s in range(4) for e in range(20) for b in range(50)]
    assert len({machine.seed_from(*place) for place in places}) == len(places)
