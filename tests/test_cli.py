"""The command line, as its user meets it: in this process, through main()."""

import io
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import refused
from PIL import Image

from cifar_utils import data, evaluate, lr_range, train
from cifar_utils.cli import summary
from cifar_utils.cli.main import COMMANDS, ELSEWHERE, main, make_parser
from cifar_utils.errors import CifarError
from cifar_utils.recipes import RECIPES
from cifar_utils.results import bench, host, report

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


@pytest.mark.slow
def test_lines_come_at_once_and_a_reader_who_leaves_ends_the_command():
    """A pipe that nobody reads to its end, with Python's own buffering."""
    code = "import sys; from cifar_utils.cli.main import main; main(sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    command = subprocess.Popen([sys.executable, "-c", code, "recipes"], stdout=write,
                               stderr=subprocess.PIPE, env=environment)  # fmt: skip
    os.close(read)
    os.close(write)
    assert command.communicate()[1] == b"" and command.returncode == 141
    late = "print('told'); import os; os._exit(0)"  # ends without emptying any buffer
    code = f"from cifar_utils.cli import main, recipes\n\ndef run(_):\n    {late}\n"
    code += "recipes.run = run\nmain.main(['recipes'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout == b"told\n"


@pytest.mark.parametrize(
    ("letters", "line"),
    [
        ("ascii", b"# ok x -> x \\u732b \\udce9\n"),
        ("cp1252", b"# ok x -> \xd7 \\u732b \\udce9\n"),
        ("utf-8", "█ ✓ ✗ → × 猫 \\udce9\n".encode()),
    ],
)
def test_a_terminal_shows_signs_that_it_lacks_in_plain_letters(monkeypatch, letters, line):
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), letters)
        monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(
            summary,
            "run",
            lambda _, name=name: print("█ ✓ ✗ → × 猫 \udce9", file=getattr(sys, name)),
        )
        main(["summary", "vgg"])
        assert stream.buffer.getvalue() == line


@pytest.mark.slow
def test_closed_streams_lose_no_result(tmp_path):
    """And no file takes their place, into which a library would then print."""
    code = (
        "import os; os.close(1); os.close(2)\n"
        "import sys; sys.stdout = sys.stderr = None\n"
        "from cifar_utils.cli import main, recipes\n"
        "def run(_):\n"
        "    with open('made', 'w') as file:\n"
        "        print(file.fileno(), file=file); print('told'); print('told', file=sys.stderr)\n"
        "recipes.run = run; main.main(['recipes'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 0 and int((tmp_path / "made").read_text()) > 2


def test_a_home_folder_may_be_written_where_no_shell_expands_it(arrays, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(arrays[1]).parent))
    main(["data", "--data=~/arrays", "--source", "npy"])
    assert f"root        {arrays[1]}" in capsys.readouterr().out
    assert "there is no such weights file" in refused(
        capsys, "test", "--weights=~/none.safetensors"
    )
    main(["data", "--data=~/arrays", "--source", "npy", "--montage=~/m.png"])
    assert Path(arrays[1]).with_name("m.png").is_file() and not Path("~").exists()


def test_data_that_is_only_drawn_is_no_success(capsys, monkeypatch, painted_split):
    drawn = replace(painted_split(20), source="synthetic")
    monkeypatch.setattr(data, "load", lambda *_, **__: data.Cifar(drawn, drawn[:0], drawn))
    with pytest.raises(SystemExit, match="1"):
        main(["data"])
    assert "not CIFAR-10" in capsys.readouterr().out
    main(["data", "--source", "synthetic"])  # as asked for


@pytest.mark.parametrize(
    ("module", "name", "command", "wanted"),
    [
        (train, "fit", ["train", "--recipe", "compact", "--workers", "3"], {"workers": 3}),
        (
            evaluate,
            "predict",
            ["test", "--weights", "w.safetensors", "--views", "2", "--share", "0.5",
             "--batch-size", "7"],
            {"views": 2, "share": 0.5, "batch_size": 7},
        ),
        (
            lr_range,
            "lr_range_test",
            ["lr-find", "--lowest", "0.2", "--highest", "3", "--steps", "11"],
            {"lowest": 0.2, "highest": 3.0, "steps": 11},
        ),
        (bench, "race", ["bench", "--recipe", "compact", "--repeats", "4"], {"repeats": 4}),
    ],
)  # fmt: skip
def test_flags_reach_what_they_are_for(arrays, trained, monkeypatch, module, name, command, wanted):
    class Reached(Exception):
        """The call is all that this test is about."""

    given = {}

    def spy(*_, **options):
        given.update(options)
        raise Reached

    monkeypatch.setattr(module, name, spy)
    with pytest.raises(Reached):
        main([*command, *arrays])
    assert {key: given[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["test", "--weights", "compact"], "DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        (["predict", "x.png"], "CUDA out of memory. Tried to allocate 2 GiB\nMore lines"),
        (["train", "--recipe", "compact"], "CUDA out of memory. Tried to allocate 2 GiB"),
        (["lr-find"], "CUDA out of memory. Tried to allocate 2 GiB"),
        (["bench"], "CUDA out of memory. Tried to allocate 2 GiB"),
        (["bench", "--recipe", "compact"], "CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_too_little_memory_is_one_line_with_the_flag_that_helps(monkeypatch, capsys, command, said):
    def run(options):
        raise RuntimeError(said)

    modules = {module.__name__.rpartition(".")[2]: module for module in COMMANDS}
    monkeypatch.setattr(modules[command[0].replace("-", "_")], "run", run)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    shown = capsys.readouterr().err
    assert said.splitlines()[0] in shown and shown.count("\n") == 1
    has_flag = command[0] in ("test", "train", "lr-find") or "--recipe" in command
    assert ("smaller --batch-size" in shown) == has_flag


@pytest.mark.parametrize(
    "error",
    [
        ValueError("zip() argument 2 is shorter than argument 1"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("out of memory"),
    ],
)
def test_a_bug_shows_its_traceback_and_where_to_report_it(monkeypatch, error):
    def run(options):
        raise error

    monkeypatch.setattr(summary, "run", run)
    with pytest.raises(type(error)) as raised:
        main(["summary", "vgg"])
    assert raised.value is error
    (note,) = error.__notes__
    assert (
        note.startswith("This is a bug in cifar_utils; please report it at ") and "\n" not in note
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "MemoryError"),
        (OSError(), "OSError"),
        (OSError(2, "No such file", "a\nb\x1b[2J"), "No such file: 'a\\nb\\x1b[2J'"),
        (OSError("the disk\nis full"), r"the disk\nis full"),
        (CifarError("no"), "no"),
    ],
)
def test_what_a_user_can_mend_is_one_line_unless_its_traceback_is_asked_for(
    monkeypatch, capsys, error, said
):
    def run(options):
        raise error

    monkeypatch.setattr(summary, "run", run)
    line = refused(capsys, "summary", "vgg")
    assert line.startswith("cifar summary: error: ") and line.endswith(said)
    monkeypatch.setenv("CIFAR_UTILS_TRACEBACK", "1")
    with pytest.raises(type(error)) as raised:
        main(["summary", "vgg"])
    assert not hasattr(raised.value, "__notes__")


def test_data_describes_what_it_finds(arrays, capsys):
    main(["data", "--root", arrays[1], "--source", "npy", "--montage", "m.png"])
    printed = capsys.readouterr().out
    assert "npy" in printed and "150" in printed and "40" in printed and "airplane 15/4" in printed
    pixels = np.load(Path(arrays[1]) / "train_data.npy") / 255
    for name, values in (("mean", pixels.mean((0, 1, 2))), ("std", pixels.std((0, 1, 2)))):
        assert f"{name:<12}" + " ".join(f"{value:.4f}" for value in values) in printed
    with Image.open("m.png") as sheet:
        assert sheet.size == (1024, 160)
    for kind in ("data", "labels"):  # test images alone
        (Path(arrays[1]) / f"test_{kind}.npy").rename(f"fog_{kind}.npy")
    line = refused(
        capsys, "data", "--root", "fog_data.npy", "--source", "npy", "--montage", "m.png"
    )
    assert "no training images for --montage" in line


def test_data_names_every_class_of_a_folder(tmp_path, capsys):
    for number in range(12):
        for part in ("train", "test")[: 2 if number < 11 else 1]:  # the last has no test images
            folder = tmp_path / "pictures" / part / f"class{number:02d}"
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "1.png")
    main(["data", "--root", "pictures", "--source", "folder"])
    assert "class10 1/1, class11 1/0\n" in capsys.readouterr().out


def test_summary_and_recipes(capsys):
    main(["summary", "separable"])
    assert "199,810" in capsys.readouterr().out
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert set(RECIPES) <= {line.split(" ")[0] for line in lines}
    reached = report.shipped_results() | report.shipped_races()
    for name, result in reached.items():  # in the line below the recipe's own
        (place,) = (number for number, line in enumerate(lines) if line.startswith(f"{name} "))
        assert lines[place + 1].strip() == f"reached {result}"


@pytest.mark.slow
def test_lr_find_draws_and_suggests(arrays, capsys):
    main(["lr-find", *arrays, "--precision", "fp32", "--steps", "30", "--batch-size", "20"])
    assert "falls fastest at lr" in capsys.readouterr().out
    assert Path("lr-range.png").exists()


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_help_with_an_example(module, capsys):
    command = module.__name__.rpartition(".")[2].replace("_", "-")
    printed = help_of(command, capsys)
    assert f"Example: cifar {command}" in printed
    example = printed.partition("Example: cifar ")[2]
    assert make_parser().parse_args(shlex.split(example)).run is module.run


def help_of(command, capsys):
    """What its --help prints, with single spaces and no line breaks."""
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["train", "bench"])
def test_help_tells_the_range_the_choices_and_the_needs_of_a_recipe_field(command, capsys):
    told = help_of(command, capsys)
    for words in (
        "--epochs N passes over the training images; at least 1",
        "--optimizer NAME optimizer: sgd, adam, adamw or muon",
        "--beta2 X Adam's second beta; in [0, 1); only if --optimizer is adam or adamw",
        "--small-size N side of the smaller images, in pixels; in [8, 32]; only if --small-until "
        "is set",
        "--views N views per image in the final test: 1, 2 or 6",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--recipe is missing; choose one of "),
        (["train", "--recipe", "no-such-net"], "unknown recipe 'no-such-net'; choose one of vgg"),
        (["train", "--recipe", "compact", "--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["train", "--recipe", "compact", "--epochs", "x"], "invalid int value: 'x'"),
        (["train", "--recipe", "compact", "--model", "x"], "unknown model 'x'; choose one of "),
        (["train", "--recipe", "compact", "--optimizer", "x"], "choose one of sgd, adam"),
        (["train", "--recipe", "compact", "--schedule", "x"], "choose one of constant"),
        (["train", "--recipe", "compact", "--augmentation", "x"], "choose one of none, flip"),
        (["train", "--recipe", "compact", "--teacher", "x"], "one of the shipped networks: comp"),
        (
            ["train", "--recipe", "compact", "--initialization", "x"],
            "choose one of default, kaiming, dirac",
        ),
        (["train", "--recipe", "compact", "--device", "x"], "choose one of auto, cuda, mps, cpu"),
        (["train", "--recipe", "compact", "--precision", "x"], "choose one of auto, fp32"),
        (["train", "--recipe", "compact", "--source", "x"], "choose one of auto, cifar10"),
        (["train", "--recipe", "compact", "--source", "cifar10"], "choose source 'synthetic'"),
        (["train", "--recipe", "compact", "--source", "folder"], "train/<class>/*.png"),
        (["train", "--recipe", "compact", "--source", "npy"], "NAME.npy"),
        (["train", "--recipe", "compact", "--limit", "0"], "at least 1"),
        (["train", "--recipe", "compact", "--workers", "-1"], "whole number"),
        (["train", "--recipe", "compact", "-q", "-v"], "not allowed with"),
        (
            ["train", "--recipe", "compact", "--learning-rate", "1"],
            "; did you mean --lr? see cifar tr",
        ),
        (["test", "--weights", "nowhere.safetensors"], "there is no such weights file; ch"),
        (["test", "--weights", "no-such-net"], "shipped networks"),
        (["test"], "required: --weights"),
        (["test", "--weights", "compact", "--share", "0.3"], "--share needs --views"),
        (["train", "--recipe", "compact", "--out", ""], "the path is empty; write . for this"),
        (["predict", "nowhere.png"], "nowhere.png: there is no such file"),
        (["predict"], "required: IMAGE"),
        (["predict", "x.png", "--out", "pictures"], "--out needs --cam"),
        (["data", "--source", "x"], "choose one of auto"),
        (["bench", "--recipe", "no-such-net"], "unknown recipe 'no-such-net'; choose one of vgg"),
        (["bench", "--recipe", "fast", "--against", "no-such-net"], "choose one of vgg"),
        (["bench", "--models", "no-such-net"], "unknown model 'no-such-net'; choose one of "),
        (["bench", "--augmentations", "flap"], "choose one of none, flip"),
        (["bench", "--against", "fast"], "--against needs --recipe"),
        (["bench", "--batch-size", "2"], "--batch-size needs --recipe"),
        (["bench", "--repeats", "2"], "--repeats needs --recipe"),
        (["bench", "--validation", "0"], "--validation needs --recipe"),
        (["bench", "--compile"], "--compile needs --recipe"),
        (["bench", "--source", "npy"], "--source needs --recipe"),
        (["bench", "--data", "x"], "--data needs --recipe"),
        (["train", "--resume"], "--resume needs to know the run; give --out, or --recipe"),
        (["train", "--recipe", "compact", "--temperature", "2"], "without teacher"),
        (["train", "--recipe", "compact", "--small-size", "24"], "without small_until"),
        (["train", "--recipe", "compact", "--beta2", "0.9"], "without optimizer adam or adamw"),
        (["train", "--recipe", "compact", "--step-every", "0.5"], "without schedule step"),
        (["train", "--recipe", "fast", "--peak", "0.5"], "without schedule one-cycle"),
        (["train", "--recipe", "compact", "--no-nesterov"], "without optimizer sgd"),
        (["lr-find", "--schedule", "cosine"], "unknown --schedule; see cifar lr-find --help"),
        (["lr-find", "--small-until", "0.5"], "unknown --small-until; see cifar lr-find --help"),
        (
            ["lr-find", "--optimizer", "sgd", "--muon-lr", "0.1"],
            "muon_lr does nothing without optimizer muon",
        ),
        (["test", "--weights", "compact", "--views", "6", "--share", "2"], "must be in [0, 1]"),
        (["bench", "--recipe", "fast", "--quick"], "--epochs and --limit shorten"),
        (["bench", "--recipe", "fast", "--models"], "--models does not go with --recipe"),
        (["summary", "no-such-net"], "unknown model 'no-such-net'; choose one of "),
        (["test", "--weights", "compact", "--seed", "1"], "--seed needs --grid"),
        (["dance"], "unknown command 'dance'; choose one of bench, cams, data"),
        ([], "required: COMMAND"),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_the_choices(arguments, message, capsys, trained):
    if arguments[:1] == ["predict"]:
        arguments = [*arguments, "--weights", trained]
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("trian", "cifar: error: unknown command 'trian'; did you mean train? choose one of "),
        ("--versoin", "cifar: error: unknown --versoin; did you mean --version? see cifar --help"),
        ("--recipe compact", "cifar: error: unknown --recipe; see cifar --help"),
        ("train compact", "unexpected 'compact'; did you mean --recipe compact? see cifar train "),
        ("train compact 3", "unexpected 'compact 3'; did you mean --recipe compact? see cifar tra"),
        ("data all", "cifar data: error: unexpected 'all'; see cifar data --help"),
        ("train --recipe compcat", "unknown recipe 'compcat'; did you mean compact? choose one of"),
        ("train --recipe vgg --optimizer Adam", "did you mean adam? choose one of sgd, adam"),
        ("train --recipe vgg --teacher compat", "separable-distilled; did you mean compact?"),
        ("train --leraning-rate=1", "unknown --leraning-rate; did you mean --lr? see cifar train "),
        (
            "train --train_batch 8 --learning_rate 0.1 --foo",
            "unknown --train_batch; did you mean --batch-size? unknown --learning_rate; did you "
            "mean --lr? unknown --foo; see cifar train --help",
        ),
        ("train -e 3", "unknown -e; did you mean --epochs? see cifar train --help"),
        ("train --recipe vgg -qv", "argument -v/--verbose: not allowed with argument -q/--quiet"),
        ("train --recipe vgg --lr -1", "lr is -1.0; it must be above 0"),
        ("test --weigths compact", "unknown --weigths; did you mean --weights? see cifar test "),
        ("train --weights w.pt", "unknown --weights; did you mean --from? see cifar train --help"),
        ("test --weights compact --con", "unknown --con; did you mean --confusion? see cifar test"),
        ("test --weights compact --views 3", "--views: unknown value 3; choose one of 1, 2, 6; "),
    ],
)
def test_a_slip_is_answered_with_what_was_probably_meant(capsys, typed, answer):
    assert answer in refused(capsys, *typed.split())


def test_every_flag_is_suggested_for_itself_in_other_spellings(capsys):
    commands = make_parser()._subparsers._group_actions[0].choices
    flags = {
        (name, flag)
        for name, parser in commands.items()
        for flag in parser._option_string_actions
        if flag.startswith("--")
    }
    assert {("train", "--batch-size"), ("test", "--confusion")} <= flags
    for name, flag in flags:
        for slip in (flag.upper(), flag.replace("-", "_").replace("__", "--", 1)):
            if slip != flag:
                line = refused(capsys, name, slip)
                assert line.startswith(f"cifar {name}: error: unknown {slip}; did you mean {flag}?")
    ours = {flag.removeprefix("--") for _, flag in flags}
    assert set(ELSEWHERE.values()) <= ours


def test_a_mistake_in_a_path_is_told_before_the_data_is_loaded(capsys, trained, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was loaded"))
    refused(capsys, "test", "--weights", "nowhere.safetensors")
    refused(capsys, "train", "--recipe", "compact", "--device", "x")
    refused(capsys, "train", "--recipe", "compact", "--precision", "x")
    refused(capsys, "train", "--recipe", "compact", "--initialization", "x")
    refused(capsys, "train", "--recipe", "compact", "--teacher", "x")
    line = refused(capsys, "train", "--recipe", "compact", "--whitening", "0.1")
    assert "no whitening layer" in line
    small = ["--small-size", "20", "--small-until", "0.5"]
    line = refused(capsys, "train", "--recipe", "compact", *small)
    assert "compact takes no images of 20 pixels" in line
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = refused(capsys, "train", "--recipe", "compact", "--compile", "--device", "cpu")
    assert "C++ compiler no-such-compiler" in line


def test_a_device_or_a_pipe_is_neither_waited_for_nor_replaced(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was loaded"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for command in (["bench", "--json"], ["cams", "--json"], ["data", "--montage"],
                    ["report", "--write"]):  # fmt: skip
        assert f"{pipe} is a device or a pipe; choose" in refused(capsys, *command, pipe)
    assert "is a folder; choose a file" in refused(capsys, "data", "--montage", ".")
    assert pipe.is_fifo()


@pytest.mark.parametrize("flag", ["--config", "--weight-decay", "--source", "--cam", "--recipe"])
def test_two_dashes_are_no_value(capsys, flag):
    assert f"error: argument {flag}: '--' is not a value; see" in refused(
        capsys, "train", f"{flag}=--"
    )


@pytest.mark.parametrize("arguments", [
    ["train", "--x\x1b[2J"], ["train", "--config", "\x1b[31m\n"],
    ["report", "--write", "\udcff\x07"],
], ids=ascii)  # fmt: skip
def test_what_was_typed_is_shown_on_one_printable_line(capsys, arguments):
    assert refused(capsys, *arguments).isprintable()


def test_bench_measures_nothing_before_it_knows_the_recipes(capsys, monkeypatch):
    monkeypatch.setattr(host, "machine", lambda *_: pytest.fail("it measured"))
    for names in (
        ["no-such-net"],
        ["fast", "--against", "no-such-net"],
        ["compact", "--whitening", "0.1"],
    ):
        refused(capsys, "bench", "--recipe", *names)


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(capsys, trained, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was loaded"))
    Path("file").touch()
    for out in ("file", "file/below"):
        for command in (["train", "--recipe", "compact"], ["test", "--weights", trained],
                        ["predict", "x.png", "--cam", "--weights", trained],
                        ["lr-find"]):  # fmt: skip
            assert "is a file; choose another folder" in refused(capsys, *command, "--out", out)
    line = refused(capsys, "bench", "--json", "file/bench.json")
    assert "file is a file; choose another file with --json" in line
    Path("link").symlink_to("nothing")
    for out in ("link", "link/below"):
        line = refused(capsys, "train", "--recipe", "compact", "--out", out)
        assert "link is a link to nothing; choose another folder" in line
    assert "is a folder; choose a file" in refused(capsys, "bench", "--json", ".")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in refused(capsys, "train", "--recipe", "compact", "--out", "new")


def test_what_writes_nothing_works_in_a_folder_that_cannot_be_written_to(
    arrays, capsys, trained, monkeypatch
):
    Image.new("RGB", (32, 32)).save("x.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    main(["predict", "x.png", "--weights", trained])
    main(["test", "--weights", trained, *arrays])
    capsys.readouterr()
    for command in (["predict", "x.png", "--cam"], ["test", "--grid", *arrays]):
        assert "cannot be written" in refused(capsys, *command, "--weights", trained)


@pytest.mark.slow
def test_nothing_is_said_about_a_home_that_cannot_be_written_to(trained):
    """matplotlib would, each time; the folder for its caches is its own business."""
    Image.new("RGB", (32, 32)).save("x.png")
    command = [sys.executable, "-m", "cifar_utils", "predict", "x.png", "--cam"]
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"}
    done = subprocess.run(
        [*command, "--weights", trained], env=environment | {"HOME": "/dev/null/home"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "trained on" not in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.slow
def test_the_module_runs_as_a_program_and_needs_no_whole_output():
    command = [sys.executable, "-m", "cifar_utils"]
    result = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "train a network by a recipe" in result.stdout
    result = subprocess.run([*command, "summary", "nothing"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
