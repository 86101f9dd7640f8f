"""Which precision and which convolutions "auto" takes, on networks that are slow where they say."""

import re
import time

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cifar_utils import fastest, train
from cifar_utils.cli.main import main
from cifar_utils.fastest import fastest_machine
from cifar_utils.history import History
from cifar_utils.machine import Machine
from cifar_utils.models import create_model
from cifar_utils.recipes import Recipe
from cifar_utils.speed import winograd

needs_compiler = pytest.mark.skipif(not winograd.library(), reason="winograd.c not compiled")
WAYS = [("bf16", True), ("bf16", False), ("fp32", True), ("fp32", False)]


class Waiting(nn.Module):
    """A network that is quick in one way and waits in the others."""

    def __init__(self, quick):
        super().__init__()
        self.quick, self.head, self.steps = quick, nn.Linear(3, 10), []

    def extra_repr(self):
        return str(self.quick)

    def forward(self, inputs):
        if self.training:
            precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
            modes = [torch.overrides._get_current_function_mode()]
            way = precision, any(isinstance(mode, TorchFunctionMode) for mode in modes)
            self.steps.append(way)
            time.sleep(0 if way == self.quick else 0.02)
        return self.head(inputs.mean((2, 3)))


@pytest.fixture
def hardware(monkeypatch):
    """Sets how fast bf16 is, because not every machine that runs the tests has it."""

    def has(speedup):
        monkeypatch.setattr(fastest, "bf16_speedup", lambda: speedup)

    has(2.0)
    return has


@needs_compiler
@pytest.mark.parametrize("quick", WAYS)
def test_auto_takes_the_fastest_of_four_ways_and_says_so(quick, hardware, painted_split):
    machine = fastest_machine(Waiting(quick), painted_split(8), Recipe(winograd=True), device="cpu")
    assert (machine.precision, machine.winograd) == quick
    told, _, others = machine.choice.partition(" (measured: 1.00; ")
    assert told == machine.arithmetic and len(others.split("; ")) == 3


@pytest.mark.parametrize("quick", ["bf16", "fp32"])
def test_direct_convolutions_stay_if_the_recipe_has_them(quick, hardware, painted_split):
    network = Waiting((quick, False))
    machine = fastest_machine(network, painted_split(8), Recipe(), device="cpu")
    assert (machine.precision, machine.winograd) == (quick, False)
    assert machine.choice.startswith(
        f"{quick} (measured: 1.00; {'fp32' if quick == 'bf16' else 'bf16'} "
    )


def test_a_network_to_be_compiled_is_not_measured(hardware, painted_split, monkeypatch):
    monkeypatch.setattr("cifar_utils.machine.check_compiler", lambda device: None)
    network = Waiting(("bf16", False))
    machine = fastest_machine(network, painted_split(8), Recipe(), device="cpu", compile=True)
    assert machine.choice == ""


def test_emulated_bf16_is_not_even_tried(hardware, painted_split):
    hardware(0.01)
    machine = fastest_machine(Waiting(("bf16", False)), painted_split(8), Recipe(), device="cpu")
    assert (machine.precision, machine.choice) == ("fp32", "")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_asked_for_is_not_measured(precision, wanted, hardware, painted_split):
    machine = fastest_machine(
        Waiting(None), painted_split(8), Recipe(winograd=wanted), device="cpu", precision=precision
    )
    assert (machine.precision, machine.winograd, machine.choice) == (precision, wanted, "")


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_goes_on_keeps_its_way(way, by_name, hardware, painted_split, monkeypatch):
    monkeypatch.setattr("cifar_utils.machine.bf16_speedup", lambda: 2.0)
    machine = fastest_machine(
        Waiting(None), painted_split(8), Recipe(winograd=True), device="cpu", before=way,
        precision=way[0] if by_name else "auto",
    )  # fmt: skip
    assert (machine.precision, machine.winograd, machine.choice) == (*way, "")


def test_measuring_changes_nothing_and_happens_once(hardware, painted_split):
    network, split, recipe = create_model("compact", seed=0), painted_split(8), Recipe(batch_size=4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    chance = torch.get_rng_state()
    first = fastest_machine(network, split, recipe, device="cpu")
    assert torch.equal(torch.get_rng_state(), chance) and network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    again = fastest_machine(create_model("compact", seed=1), split, recipe, device="cpu")
    assert again.choice == first.choice != ""  # to the digit: it has not been measured again


def test_images_that_do_not_fit_are_refused_before_anything_is_measured(hardware, painted_split):
    with pytest.raises(ValueError, match="no training images"):
        fastest_machine(Waiting(None), painted_split(8)[:0], Recipe(), device="cpu")


@needs_compiler
def test_batches_of_a_single_image_are_measured_with_two(hardware, painted_split):
    """So `fit` can say what is wrong with them."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.BatchNorm1d(10))
    machine = fastest_machine(network, painted_split(8), Recipe(batch_size=1), device="cpu")
    assert machine.choice


def test_a_history_tells_the_way_and_older_ones_imply_it(hardware, painted_split):
    recipe = Recipe(model="compact", epochs=1, batch_size=8, winograd=True)
    states = []
    history = train.fit(
        create_model("compact", seed=0), painted_split(16), None, recipe, device="cpu",
        precision="bf16", log=lambda run: states.append(run.state()),
    )  # fmt: skip
    assert history.way == ("bf16", True)
    assert History.from_json(states[0]["history"]).way == ("bf16", True)
    resumed = train.fit(
        create_model("compact", seed=0), painted_split(16), None, recipe, device="cpu",
        log=lambda run: None, resume=states[0],
    )  # fmt: skip
    assert resumed.way == ("bf16", True)
    old = [History(recipe, "x", precision=precision).way for precision in ("fp32", "bf16")]
    assert old == [("fp32", True), ("bf16", False)]
    # A recipe that goes on after one without Winograd's convolutions may have them.
    plain = recipe.changed(winograd=False)
    assert History(plain, "x", precision="bf16", convolutions="direct").way == ("bf16", True)
    assert History(recipe, "x", precision="bf16", convolutions="direct").way == ("bf16", False)


def test_a_machine_tells_its_way_in_words():
    cpu = torch.device("cpu")
    assert Machine(cpu, "bf16", winograd=True).arithmetic == "bf16 with Winograd"
    assert Machine(cpu).arithmetic == "fp32"


def test_the_command_line_prints_how_the_ways_compare(arrays, hardware, tmp_path, capsys):
    cut = ["--epochs", "1", "--batch-size", "8", "--validation", "10", "--no-test", *arrays]
    main(["train", "--recipe", "compact", *cut, "--out", str(tmp_path / "run")])
    assert re.search(r"^precision: (bf16|fp32) \(measured: 1\.00; ", capsys.readouterr().out, re.M)
