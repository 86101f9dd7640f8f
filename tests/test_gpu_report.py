"""The GPU report at toy size on a CPU: what it compares, keeps, goes on with and refuses."""

import json
import math
import shutil
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch
from cli_helpers import refused

from cifar_utils.cli.main import main
from cifar_utils.data import Cifar, normalize
from cifar_utils.errors import CifarError
from cifar_utils.models import create_model
from cifar_utils.recipes import Recipe
from cifar_utils.results import bench, gpu_paths, gpu_record
from cifar_utils.results.gpu_report import PARTS, Report
from cifar_utils.sources.sealed import read_json, write_json

CPU = torch.device("cpu")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
COMMAND = ["bench", "--recipe", "fast", "--against", "airbench94", "--quick", "--precision", "fp32"]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """Compiling takes a minute, and other tests do it."""
    import_module("torch._inductor.config")  # it reads CXX but once, and other tests need the true
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def report(painted_split):
    """A function that makes a Report on 20 images."""
    cifar = Cifar(painted_split(20), painted_split(0), painted_split(20, seed=1))
    recipes = [Recipe("one", epochs=1, batch_size=10), Recipe("other", epochs=1, batch_size=10)]
    return lambda **changes: Report(recipes, cifar, CPU, "fp32", quick=True, **changes)


# --- paths ----------------------------------------------------------------------------------------


def test_a_step_is_the_textbooks(painted_split):
    few = painted_split(8)
    logits, gradients = gpu_paths.one_step("compact", few, gpu_paths.WAYS["fp32"], CPU)
    model = create_model("compact", seed=0, dropout_factor=0.0).train()
    wanted = model(normalize(few.images))
    torch.nn.functional.cross_entropy(wanted, few.labels).backward()
    torch.testing.assert_close(logits, wanted.detach())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad)


def test_the_worst_weight_counts_unless_its_gradient_is_next_to_nothing():
    zeros, logits = torch.zeros(2, 2), torch.tensor([[3.0, 4.0]])
    wanted = logits, {"large": torch.tensor([100.0, 0]), "small": torch.tensor([2.0]),
                      "none": torch.tensor([0.0])}  # fmt: skip
    found = 1.01 * logits, {"large": torch.tensor([100.0, 1.0]), "small": torch.tensor([2.6]),
                            "none": torch.tensor([0.1])}  # fmt: skip
    errors = gpu_paths.errors(found, wanted)
    assert errors["logits"] == pytest.approx(0.01, rel=1e-4)
    assert (errors["gradients"], errors["weight"]) == (pytest.approx(0.3), "small")
    broken = zeros[:1] + torch.nan, found[1]
    assert gpu_paths.errors(broken, wanted)["logits"] == 1e30  # which no tolerance lets pass


def test_right_paths_pass_and_a_wrong_one_would_not(painted_split):
    few = painted_split(8)
    for path in ("channels-last", "bf16"):
        assert gpu_paths.compare("conv5", path, few, CPU)["passed"] is True
    wrong = gpu_paths.sensitivity("conv5", few, 0.1)  # every weight is off by a tenth
    for path in ("channels-last", "bf16"):
        tolerances = gpu_paths.compare("conv5", path, few, CPU)["tolerances"]
        assert wrong["logits"] > tolerances["logits"]
        assert wrong["gradients"] > tolerances["gradients"]


def test_a_cpu_says_what_it_lacks():
    assert {path for path in gpu_paths.WAYS if gpu_paths.lacking(path, CPU)} == {
        "fp16", "tf32", "cuda-graph", "compile"
    }  # fmt: skip
    assert "no-such-compiler" in gpu_paths.lacking("compile", CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("path", gpu_paths.WAYS)
def test_every_path_of_a_gpu(painted_split, monkeypatch, path):
    monkeypatch.delenv("CXX")
    device = torch.device("cuda")
    if reason := gpu_paths.lacking(path, device):
        pytest.skip(reason)
    assert gpu_paths.compare("conv5", path, painted_split(32), device)["passed"] is True


# --- the record -----------------------------------------------------------------------------------


@pytest.mark.slow  # it starts two processes that train
def test_a_trial_fills_its_parts_and_goes_on_with_what_is_missing(arrays, tmp_path, capsys):
    file = tmp_path / "gpu.json"
    command = [*COMMAND, *arrays, "--gpu-report", str(file), "--limit", "40",
               "--parts", "paths", "times", "recipes"]  # fmt: skip
    main(command)
    printed = capsys.readouterr().out
    record = read_json(file)
    assert set(record["paths"]) == {
        f"compact, {path}" for path in ("fp32", "channels-last", "bf16")
    }
    names = ["from start, fast, seed 0", "from start, airbench94, seed 0"]
    assert list(record["times"]) == [*names, "fast and airbench94, seeds 0 to 1", "six-view test"]
    assert list(record["recipes"]) == ["compact, seed 0", "compact, seed 1"]
    assert record["times"][names[0]]["from_start"] > record["times"]["six-view test"]["seconds"]
    rows = gpu_record.merged(record["times"])
    assert [len(row["seconds"]["values"]) for row in rows] == [2, 2]
    assert record["settings"]["training"] == 40 and record["machine"]["torch"] == torch.__version__
    assert "8 tasks" not in printed and "9 tasks, 0 of them done already" in printed
    assert (
        "left out: paths: fp16: needs a CUDA GPU" in printed and "nothing of this failed" in printed
    )

    lost = record["paths"].pop("compact, bf16")
    write_json(file, record)
    main(command)
    assert "9 tasks, 8 of them done already" in capsys.readouterr().out
    again = read_json(file)
    assert again["paths"]["compact, bf16"]["logits"] == lost["logits"]
    assert again["times"] == record["times"] and again["recipes"] == record["recipes"]


def test_what_fails_is_written_down_and_tried_again_last(report, tmp_path):
    file, lines = tmp_path / "gpu.json", []
    record = gpu_record.run(report(models=["no-such", "conv5"]), ["paths"], file, lines.append)
    assert "unknown model 'no-such'" in record["paths"]["no-such, fp32"]["error"]
    assert record["paths"]["conv5, bf16"]["passed"] is True
    assert len(gpu_record.failures(record)) == 3 and read_json(file) == record
    write_json(file, record | {"paths": {"no-such, fp32": record["paths"]["no-such, fp32"]}})
    lines.clear()
    gpu_record.run(report(models=["no-such", "conv5"]), ["paths"], file, lines.append)
    tried = [line for line in lines if "min left" in line]
    assert len(tried) == 6 and "no-such, fp32" in tried[-1]


def test_a_record_of_another_machine_or_setting_is_not_gone_on_with(report, tmp_path):
    file = tmp_path / "gpu.json"
    record = gpu_record.run(report(), [], file, lambda line: None)
    with pytest.raises(CifarError, match="other seeds, 50 then and 60 now; choose another file"):
        gpu_record.run(report(seeds=60), [], file, lambda line: None)
    record["machine"]["torch"] = "2.6.0"
    write_json(file, record)
    with pytest.raises(CifarError, match=r"other torch, 2\.6\.0 then and"):
        gpu_record.run(report(), [], file, lambda line: None)
    whole = gpu_record.run(report(), [], tmp_path / "whole.json", lambda line: None)
    for part, result, wanted in (
        ("paths", {"vgg": {"passed": True}}, "damaged, or not a GPU"),
        ("times", {"x": {"rows": [1]}}, "damaged, or not a GPU report"),
        ("notebooks", {"x": {"seconds": math.nan}}, "cannot be nan"),
    ):
        file.write_text(json.dumps(whole | {part: result}))
        with pytest.raises(CifarError, match=wanted):
            gpu_record.run(report(), [], file, lambda line: None)
    file.write_text(json.dumps({"device": "CPU"}))
    with pytest.raises(CifarError, match="it is damaged, or not a GPU report; choose another"):
        gpu_record.run(report(), [], file, lambda line: None)


def test_notebooks_are_run_and_timed_and_a_failing_one_is_named(report, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(NOTEBOOKS / "run.py", folder)
    cell = nbformat.v4.new_code_cell("import os; raise OSError(os.environ['CIFAR10_ROOT'])")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "01_one.ipynb")
    given = report(notebooks=folder, root=Path("data"))
    record = gpu_record.run(given, ["notebooks"], tmp_path / "gpu.json", lambda line: None)
    result = record["notebooks"]["01_one"]
    assert f"OSError: {Path('data').absolute()}" in result["error"] and result["seconds"] > 0.1
    away = report(notebooks=tmp_path)
    gpu_record.run(away, ["notebooks"], tmp_path / "other.json", lambda line: None)
    assert away.left_out == {"notebooks": "only a clone of the repository has them"}


def test_what_was_lacking_once_is_left_out_no_longer(report, tmp_path):
    file, lines = tmp_path / "gpu.json", []
    gpu_record.run(report(notebooks=tmp_path), ["notebooks"], file, lines.append)
    kept = gpu_record.run(report(), [], file, lines.append)  # these parts say nothing of notebooks
    assert list(kept["left_out"]) == ["notebooks"]
    (tmp_path / "run.py").touch()
    later = gpu_record.run(report(notebooks=tmp_path), ["notebooks"], file, lines.append)
    assert later["left_out"] == {}
    assert not any("are timed" in line for line in lines)  # no training is planned


def test_the_summary_says_what_the_record_holds():
    def race(seconds, accuracy):
        row = {"seconds": seconds, "compile_seconds": [0.0], "accuracy": accuracy,
               "accuracy_views": accuracy}  # fmt: skip
        return {key: bench.spread(values) for key, values in row.items()}

    path = {"logits": 2e-6, "gradients": 3e-4, "weight": "w",
            "tolerances": {"logits": 1e-3, "gradients": 1e-2}, "seconds": 1.0}  # fmt: skip
    record = {part: {} for part in PARTS} | {
        "settings": {"compile": False, "quick": False}, "left_out": {"paths: tf32": "too old"},
        "paths": {"vgg, fp32": path | {"passed": True}, "vgg, bf16": path | {"passed": None},
                  "vgg, compile": path | {"passed": False, "gradients": 0.5},
                  "vgg, fp16": {"error": "out of memory", "seconds": 1.0}},
        "times": {
            "from start, a, seed 0": {"name": "a", "from_start": 9.25, "accuracy_views": 0.94},
            "a and b, seeds 0 to 1": {"rows": [{"name": "a"} | race([1.0, 2.0], [0.93, 0.94]),
                                               {"name": "b"} | race([4.0, 4.0], [0.90, 0.92])]},
            "a and b, seed 2": {"rows": [{"name": "a"} | race([3.0], [0.96]),
                                         {"name": "b"} | race([4.0], [0.94])]},
            "six-view test": {"seconds_of_test": bench.spread([0.25])},
        },
        "notebooks": {"01_one": {"seconds": 90.0}, "02_two": {"error": "died", "seconds": 5.0}},
    }  # fmt: skip
    told = gpu_record.summary(record)
    network, *_ = (line for line in told.splitlines() if line.startswith("vgg"))
    assert network.split() == ["vgg", "passed", "3e-04", "–", "–", "cannot", "be", "told", "3e-04",
                               "failed", "FAILED", "5e-01", "–"]  # fmt: skip
    first, second = (line for line in told.splitlines() if line[:2] in ("a ", "b "))
    assert first.split()[1:5] == ["3", "94.33%", "±", "1.53%"]
    assert "2.00 (1.00 to 3.00)" in first and "9.2 (9.2 to 9.2)" in first
    assert "0.50 (0.25 to 0.75)" in first and first.endswith("yes") and second.endswith("no")
    assert "test takes 0.25 s more" in told and "01_one" in told and "1.5" in told
    assert "left out: paths: tf32: too old" in told
    assert gpu_record.failures(record) == [
        "failed: paths: vgg, compile: too far from the CPU",
        "failed: paths: vgg, fp16: out of memory",
        "failed: notebooks: 02_two: died",
    ]
    assert "nothing of this failed" not in told and "failed: notebooks: 02_two: died" in told


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--recipe", "fast", "--against", "airbench94"], "add --device cpu --quick"),
        (["--quick"], "needs --recipe and --against"),
        (["--recipe", "fast", "--against", "fast", "--quick"], "recipes of different names"),
        (["--parts", "time"], "unknown part 'time'; did you mean times?"),
        (["--models", "vgg", "vg16"], "unknown model 'vg16'"),
        (
            ["--recipe", "fast", "--against", "airbench94", "--quick", "--schedule", "plateau"],
            "fast has the schedule plateau, but a race evaluates at its end only",
        ),
        (["--json", "x.json"], "--json does not go with --gpu-report"),
        (["--operations"], "--operations does not go with --gpu-report"),
        (["--against-file", "x.py"], "--against-file does not go with --gpu-report"),
    ],
)
def test_mistakes_are_refused_before_the_hour_begins(capsys, tmp_path, flags, wanted):
    file = tmp_path / "gpu.json"
    said = refused(capsys, "bench", "--gpu-report", file, "--device", "cpu", *flags)
    assert wanted in said and not file.exists()


def test_parts_belong_to_the_report(capsys):
    assert "--parts needs --gpu-report" in refused(capsys, "bench", "--parts", "paths")
