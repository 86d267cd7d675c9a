"""The program `tfticket`: its commands, JSON, exit status, help and completion."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from absl import logging
from rich import box
from rich.console import Console
from rich.table import Table

import tfticket
from tfticket.common.columns import print_table
from tfticket.common.runs import read_config
from tfticket.export.storage import formats
from tfticket.export.tflite import conversion
from tfticket.lottery.engine import branches
from tfticket.lottery.figures import tables
from tfticket.sparsity import criteria
from tfticket_cli import find, flag_groups, lottery, main, popup

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = {
    "find": "find_ticket.py",
    "popup": "train_popup.py",
    "lottery": "run_lottery.py",
    "plot": "plot_lottery.py",
    "report": "lottery_report.py",
    "export": "export.py",
    "try": "try_in_browser.py",
}
# What pip writes to bin/tfticket.
ENTRY = "from tfticket_cli.main import main\nmain()\n"


@pytest.fixture
def program(run_script, tmp_path):
    entry = tmp_path / "bin" / "tfticket"
    entry.parent.mkdir()
    entry.write_text(ENTRY)
    folder = tmp_path / "here"
    folder.mkdir()

    def run(*args):
        return run_script(entry, *args, cwd=folder, quick=True, COLUMNS="120")

    run.folder = folder
    return run


def result_of(done, code=0):
    """The one JSON object that was printed, and nothing else."""
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)


def files_of(result, folder):
    found = {name: folder / path for name, path in result["files"].items()}
    assert all(path.exists() for path in found.values())
    return found


def bytes_of(path):
    return sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())


def test_find(program):
    done = program("find", "--rounds=1", "--iterations=20", "--rate=0.3", "--json")
    result = result_of(done)
    assert "early-stop iteration" in done.stderr
    assert "round  1: density" in done.stderr
    files = files_of(result, program.folder)
    assert result["rounds"] == json.loads(files["rounds"].read_text())
    config = read_config(files["config"].parent)
    assert config == {**result["experiment"], "versions": result["versions"]}
    assert config["rate"] == 0.3
    ticket = tfticket.Ticket.load(files["ticket"])
    assert result["density"] == ticket.density
    assert result["test_accuracy"] == result["rounds"][1]["test"]["accuracy"]
    for kind in ("saved_model", "litert"):
        assert result["exports"][kind]["size"] == bytes_of(files[kind])
    again = program("find", "--rounds=1", "--iterations=20", "--json")
    error = result_of(again, code=main.FILES)
    assert error["type"] == "FileExistsError"
    assert f"Error: {error['error']}\n" == again.stderr


def test_demo(program):
    program_flags = ("--iterations=20", "--replicates=2")
    result = result_of(program("demo", *program_flags, "--json"))
    files = files_of(result, program.folder)
    assert files["saved_model"] == program.folder / "saved_models" / "demo" / "1"
    sizes = [result["exports"][name]["size"] for name in ("dense", "encoded")]
    assert sizes[1] == bytes_of(files["saved_model"]) < sizes[0] / 2
    branches = [(row["branch"], row["round"]) for row in result["rows"]]
    assert branches == [
        *(("ticket", n) for n in range(7)), ("reinit", 4), ("reinit", 6)
    ]  # fmt: skip
    ticket, dense, control = (
        f"{100 * result['rows'][i]['test_accuracy']:.1f} %" for i in (6, 0, 8)
    )
    said = f"{ticket} against {dense} dense and {control} re-initialised"
    assert said in result["verdict"]
    again = program(
        "demo", *program_flags
    )  # trains nothing, and every row is there once
    assert result["verdict"].partition(";")[0] in again.stdout
    lines = [line.split() for line in again.stdout.splitlines()]
    shown = [line[0] for line in lines if line and line[0].replace(".", "").isdecimal()]
    assert shown == [f"{100 * row['density']:.1f}" for row in result["rows"][:7]]
    assert "round" not in again.stderr


def test_lottery(program):
    done = program("lottery", "--rounds=1", "--iterations=10", "--json")
    result = result_of(done)
    config = json.loads(files_of(result, program.folder)["config"].read_text())
    assert config["recipe"] == result["recipe"]
    found = tfticket.lottery.read_results(program.folder / result["run_dir"])
    assert len(result["rows"]) == 2
    assert result["rows"] == tables.rows(found)


def test_export(program):
    model = ROOT / "saved_models" / "digits.npz"
    done = program(
        "export", f"--model={model}", "--to=saved_model", "--format=encoded",
        "--compact", "--json",
    )  # fmt: skip
    result = result_of(done)
    (written,) = files_of(result, program.folder).values()
    assert written == program.folder / "saved_models" / "digits" / "1"
    exported = result["exports"]["saved_model"]
    assert (exported["format"], exported["size"]) == ("encoded", bytes_of(written))
    assert (
        result["compact"]["parameters_after"] < result["compact"]["parameters_before"]
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["find", "--rate=1.5"], "rate must be above 0 and below 1"),
        (["find", "--iterations=5", "--epochs=5"], "not both"),
        (["find", "--rounds=few"], "--rounds=few"),
        (["find", "--round=1"], "round"),
        (["find", "--round=1"], "Did you mean: rounds"),
        (["find", "--width=nan"], "width must be above 0"),
        (["find", "--batch_size=0"], "batch_size must be at least 1"),
        (["find", "--seed=-1"], "seed must be at least 0"),
        (["find", "--rewind_to=first"], "--rewind_to must be a step"),
        (["find", "--iterations=100", "--evaluate_every=33"], "must divide"),
        (
            ["find", "--scope=global", "--conv_rate=0.1"],
            "must be 0 with --scope=global",
        ),
        (["find", "--scope=global", "--rates=fc1:0.1"], "fc1:0.1 must be 0"),
        (["find", "--scope=sensitivity", "--output_rate=0"], "use --exclude"),
        (["find", "--rates=fc1"], "--rates must be PATTERN:RATE"),
        (["find", "--momentum=0.8"], "--momentum is for --optimizer=sgd"),
        (["find", "--nesterov"], "--nesterov is for --optimizer=sgd"),
        (["find", "--optimizer=sgd", "--momentum=0", "--nesterov"], "needs a momentum"),
        (["find", "--schedule=cosine", "--drops=5"], "--drops is for"),
        (["find", "--schedule=cosine", "--iterations=9", "--warmup=9"], "less than"),
        (
            ["find", "--schedule=cosine", "--rewind_to=none"],
            "ends with the first round",
        ),
        (["find", "--rewind_clock=stop"], "rewind_clock"),
        (["lottery", "--preset=lenet"], "Did you mean lenet_mnist?"),
        (["lottery", "--preset=resnet_18"], "Did you mean resnet_20?"),
        (["lottery", "--preset=conv_2", "--optimizer=sgd"], "has optimizer=adam"),
        (["lottery", "--preset=conv_2", "--iterations=9"], "has iterations=20000"),
        (["lottery", "--preset=conv_2", "--criterion=snip"], "has criterion=magnitude"),
        (["lottery", "--preset=vgg_19", "--drops=5"], "has drops=56240,84360"),
        (["lottery", "--preset=vgg_19", "--noaugment"], "has augment=True"),
        (["lottery", "--preset=conv_2", "--dropout=0.5"], "has dropout=0.0"),
        (["lottery", "--model=vgg_11", "--dropout=0.5"], "--dropout needs a --model"),
        (["lottery", "--preset=conv_2", "--label_noise=0.1"], "has label_noise=0.0"),
        (["lottery", "--preset=conv_2", "--train_size=9"], "has train_size=None"),
        (["lottery", "--preset=conv_2", "--normalize=unit"], "has normalize=standard"),
        (["find", "--scope=sensitivity", "--criterion=random"], "of magnitudes"),
        (["find", "--drops=a"], "--drops must be whole numbers from 1"),
        (["popup", "--density=half"], "--density must be fractions"),
        (["popup", "--density=1.5"], "--density must be fractions"),
        (
            ["popup", "--weight_initializer=kaming_normal"],
            "mean kaiming_normal",
        ),
        (["lottery", "--branches=renit"], "Did you mean reinit?"),
        (["lottery", "--branches=noise"], "noise needs a value"),
        (["lottery", "--branches=reinit:2"], "reinit has none"),
        (["lottery", "--attacks=fgsm:2"], "--attacks must be"),
        (["lottery", "--rounds=2", "--branch_rounds=3"], "--branch_rounds goes up"),
        (["plot"], "--run_dir"),
        (["export", "--model=x.npz", "--to=onnx"], "--to takes"),
        (["export", "--model=x.npz", "--quantization=int8"], "needs --dataset"),
        (["export", "--model=x.npz", "y.npz"], "Flags start with --"),
        (["try"], "Name .tflite files"),
        (["try", "x.tflite", "--headless", "--results=2"], "leave --results out"),
    ],
)
def test_wrong_flags(program, args, says):
    done = program(*args, "--json")
    error = result_of(done, code=main.WRONG_FLAGS)
    assert set(error) == {"error", "type"}
    assert says in error["error"]
    assert done.stderr.endswith(f"Error: {error['error']}\n")
    assert not list(program.folder.iterdir())


@pytest.mark.parametrize(
    "args",
    [
        ["export", "--model=x.npz"],
        ["plot", "--run_dir=nowhere"],
        ["report", "--run_dir=nowhere"],
        ["try", "x.tflite"],
    ],
)
def test_what_is_not_there_has_one_status(program, args):
    error = result_of(program(*args, "--json"), code=main.FILES)
    assert error["type"] == "FileNotFoundError"


def test_unknown_commands(program):
    done = program("fnd")
    assert (done.returncode, done.stdout) == (main.WRONG_FLAGS, "")
    assert "There is no command 'fnd'. Did you mean find?" in done.stderr
    assert "\n" not in done.stderr.rstrip()
    done = program("completion", "tcsh")
    assert (done.returncode, done.stdout) == (main.WRONG_FLAGS, "")


def test_help_and_version_are_commands_too(program):
    assert program().stdout == program("help").stdout == program("--help").stdout
    assert program("help", "find").stdout == program("find", "--help").stdout
    assert program("version").stdout == program("--version").stdout


def command(run):
    return types.SimpleNamespace(__doc__="Tries.", define=lambda values: None, run=run)


@pytest.fixture
def as_it_was(monkeypatch):
    """What a command sets for its whole process."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("error", "begun", "code"),
    [
        (ValueError("rate=2"), False, main.WRONG_FLAGS),
        (TypeError("seed=None"), False, main.WRONG_FLAGS),
        (ValueError("not finite"), True, main.FAILED),
        (OSError("disk full"), True, main.FILES),
        (FileExistsError("there"), False, main.FILES),
        (ModuleNotFoundError("no ray"), False, main.NOT_INSTALLED),
        (tfticket.export.ExportError("differs"), True, main.DIFFERS),
        (tfticket.lottery.RunInUseError("process 1"), False, main.IN_USE),
        (KeyboardInterrupt(), True, main.INTERRUPTED),
        (ZeroDivisionError("oops"), True, main.FAILED),
        (TypeError("oops"), True, main.FAILED),
    ],
)
def test_exit_status(error, begun, code, as_json, capfd, as_it_was):
    def run(values, output):
        print("a library's")
        if begun:
            output.begin()
        raise error

    args = ["--json"] if as_json else []
    assert main.run(command(run), args, "try") == code
    out, err = capfd.readouterr()
    told = "Interrupted." if code == main.INTERRUPTED else str(error)
    assert told in err
    # A traceback is for what nobody foresaw.
    assert ("Traceback" in err) == (told == "oops")
    if as_json:
        assert json.loads(out) == {"error": told, "type": type(error).__name__}
        assert "a library's" in err
    else:
        assert out == "a library's\n"


def test_what_json_has_no_word_for(capfd, as_it_was):
    def run(values, output):
        warnings.warn("a part is damaged", stacklevel=1)
        return {
            "loss": float("nan"),
            "path": pathlib.Path("a", "b"),
            "sizes": {1: np.float32(0.25), "all": np.arange(2)},
        }

    assert main.run(command(run), ["--json"], "try") == main.DONE
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result.pop("versions")["tfticket"] == tfticket.__version__
    assert result == {
        "loss": None,
        "path": str(pathlib.Path("a", "b")),
        "sizes": {"1": 0.25, "all": [0, 1]},
        "warnings": ["a part is damaged"],
    }
    assert err == "Warning: a part is damaged\n"


def test_flags_at_their_defaults_are_the_librarys():
    def values(module):
        defaults = main.flag_values(module)
        defaults.mark_as_parsed()
        return defaults

    assert find.experiment(values(find)) == tfticket.lottery.Experiment()
    assert popup.experiment(values(popup)) == tfticket.lottery.PopupExperiment()
    want, found = (
        tfticket.lottery.LotteryExperiment(),
        lottery.experiment(values(lottery)),
    )
    assert vars(found) == vars(want)
    assert list(flag_groups.CRITERIA) == sorted(criteria._CRITERIA)
    kinds = {name: takes is not None for name, (takes, *_) in branches.KINDS.items()}
    kinds |= dict.fromkeys(branches._DEFAULTS)
    assert kinds == lottery.BRANCHES
    assert list(flag_groups.MODELS) == sorted(tfticket.models.MODELS)
    assert flag_groups.DROPOUT == tfticket.models.DROPOUT
    assert flag_groups.STRATEGIES == tfticket.devices.STRATEGIES
    export = main.flag_values(main.COMMANDS["export"])
    assert export["format"].parser.enum_values == list(formats.FORMATS)
    assert export["quantization"].parser.enum_values == [
        name or "none" for name in conversion.QUANTIZATIONS
    ]


@pytest.mark.parametrize("name", tfticket.lottery.PRESETS)
def test_a_preset_by_its_flag_is_that_of_the_library(name):
    def asked(*args):
        values = main.flag_values(lottery)
        values(["lottery", f"--preset={name}", *args])
        lottery.check(values)
        return lottery.experiment(values)

    found, want = asked(), tfticket.lottery.LotteryExperiment.preset(name)
    assert vars(found) == vars(want)
    assert found.recipe == tfticket.lottery.Recipe.preset(name)
    model = tfticket.lottery.PRESETS[name]["model"]
    more = asked(
        "--replicates=3", "--rounds=2", "--branches=reinit", f"--model={model}"
    )
    assert (more.recipe, more.replicates, more.rounds) == (want.recipe, 3, 2)


def test_flags_of_a_recipe_are_its_arguments():
    values = main.flag_values(lottery)
    args = ["--optimizer=sgd", "--momentum=0.8", "--nesterov", "--schedule=cosine"]
    args += ["--l2=0.1", "--rates=fc1:0,re:f.2:0.5", "--exclude=fc3"]
    values(["lottery", *args, "--rewind_to=5", "--rewind_clock=restart"])
    lottery.check(values)
    assert lottery.experiment(values).recipe == tfticket.lottery.Recipe(
        **{"optimizer": "sgd", "momentum": 0.8, "nesterov": True, "l2": 0.1},
        **{"schedule": "cosine", "rates": {"fc1": 0, re.compile("f.2"): 0.5}},
        **{"exclude": ["fc3"], "rewind_to": 5, "rewind_clock": "restart"},
    )


LIGHT = """
import sys
from absl import flags
from tfticket_cli import main
for name, command in main.COMMANDS.items():
    assert main.run(command, ["--help"], name) == 0
    assert main.run(command, ["--wrong"], name) == 2
for name in ("find", "popup", "lottery"):
    assert main.run(main.COMMANDS[name], ["--width=0"], name) == 2
assert main.run(main.COMMANDS["lottery"], ["--branches=x"], name) == 2
for args, status in ((["--help"], 0), (["help"], 0), (["version"], 0), (["fnd"], 2)):
    try:
        sys.argv = ["tfticket", *args]
        main.main()
    except SystemExit as end:
        assert end.code == status
heavy = {"tfticket", "keras", "tensorflow", "numpy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_mistakes_do_without_tensorflow():
    subprocess.run([sys.executable, "-c", LIGHT], check=True, capture_output=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_and_program_have_the_same_flags(name, program, run_script):
    script = ROOT / "scripts" / SCRIPTS[name]
    by_script = run_script(script, "--help", cwd=program.folder, COLUMNS="120")
    by_program = program(name, "--help")
    assert by_script.returncode == by_program.returncode == 0
    files = " FILE ..." if name == "try" else ""
    assert f"python {script}{files} [--flag" in by_script.stdout
    assert f"usage: tfticket {name}{files} [--flag" in by_program.stdout
    flags_of = [
        done.stdout.partition("\nflags:\n")[2] for done in (by_script, by_program)
    ]
    assert flags_of[0] == flags_of[1]
    for flag in main.flag_values(main.COMMANDS[name]):
        assert f"  --{flag}" in flags_of[0]
    assert "130 interrupted" in " ".join(flags_of[0].split())
    # Each shows how it is called itself.
    assert f"    python scripts/{SCRIPTS[name]}" in by_script.stdout
    assert f"    tfticket {name}" in by_program.stdout


def test_zsh_completion_takes_a_value_after_equals():
    program = [sys.executable, "-c", ENTRY, "completion", "zsh"]
    written = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    # As zsh's _arguments has it: "=[" is --flag=value or --flag value.
    assert '"--scope=[Prune each layer' in written
    assert '"--overwrite[Replace' in written
    assert not re.search(r'"--\w+\[[^"]*\]:', written)


SCRIPT = ROOT / "scripts" / "find_ticket.py"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--only_check_args", "--rounds=3"], main.DONE, ""),
        (["--only_check_args", "--rate=7"], main.WRONG_FLAGS, "rate must be above 0"),
        (["--flagfile=wrong"], main.WRONG_FLAGS, "--rounds=many"),
        (["--only_check_args", "--flagfile=right"], main.DONE, ""),
        (["--verbosity=-1", "--only_check_args"], main.DONE, ""),
        (["--helpfull"], main.DONE, "absl.logging:"),
    ],
)
def test_scripts_are_programs_of_absl(run_script, tmp_path, args, code, says):
    (tmp_path / "wrong").write_text("--rounds=many\n")
    (tmp_path / "right").write_text("# As flags files are.\n--rounds=2\n")
    done = run_script(SCRIPT, *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_says_how_to_resume(capfd, as_it_was):
    def run(values, output):
        raise KeyboardInterrupt

    resumes = command(run)
    resumes.RESUMES = True
    assert main.run(resumes, ["--json"], "tfticket find") == main.INTERRUPTED
    told = capfd.readouterr().err
    assert told.endswith("To resume, run the same command: tfticket find --json\n")


@pytest.mark.parametrize("args", ["help", "help find", "version", "completion bash"])
@pytest.mark.parametrize("package", ["tfticket", "tfticket_cli"])
def test_a_reader_that_has_seen_enough(args, package):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", package, *args.split()],
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        cwd=ROOT,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (main.BROKEN_PIPE, b"")


def test_imports_say_nothing(capfd):
    noise = "os.write(2, b'E0000 no CUDA here\\nI0000 oneDNN\\n')"
    program = "import os; from tfticket_cli.output import quiet_start\nwith {}: {}"
    for keep, after, shown in (
        ("quiet_start()", noise, ""),
        ("quiet_start('(?i)cuda')", noise, "E0000 no CUDA here\n"),
        ("quiet_start()", f"{noise}; 1 / 0", "E0000 no CUDA here\nI0000 oneDNN\n"),
    ):
        subprocess.run(
            [sys.executable, "-c", program.format(keep, after)], cwd=ROOT, check=False
        )
        told = capfd.readouterr().err
        assert told.startswith(shown)
        assert (told == shown) == ("1 / 0" not in after)


@pytest.mark.parametrize("package", ["tfticket", "tfticket_cli"])
@pytest.mark.parametrize(
    ("args", "status", "out", "told"),
    [
        ("version", main.DONE, f"tfticket {tfticket.__version__}\n", ""),
        ("find --rate=7", main.WRONG_FLAGS, "", "Error: flag --rate=7.0: rate must be"),
        ("exprot", main.WRONG_FLAGS, "", "Error: There is no command 'exprot'."),
    ],
)
def test_python_m_is_the_program(package, args, status, out, told):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", package, *args.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    said = re.split(r"import time: .*\n", done.stderr)
    imported = re.findall(r"import time: .*\| +(\S+)\n", done.stderr)
    assert "tfticket_cli" in imported
    assert not {"keras", "numpy", "tensorflow"}.intersection(imported)
    assert (done.returncode, done.stdout) == (status, out)
    assert "".join(said).startswith(told)
    assert "".join(said).count("\n") == bool(told)


def test_another_program_may_import_tfticket(tmp_path):
    # Python puts "-m" in place of the program's name here too.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(
        "import builtins, sys\n"
        "assert sys.argv[0] == '-m'\n"
        "sys.modules['tfticket._version'] = None\n"  # ends its import early
        "try:\n"
        "    import tfticket\n"
        "except ImportError as error:\n"
        "    print(error.name)\n"
    )
    (tmp_path / "mine" / "__main__.py").write_text("print('mine')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mine", "tfticket"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["tfticket._version", "mine"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_tables_cut_no_number(width):
    table = Table(title="Numbers", box=box.SIMPLE)
    cells = ["97.95 ± 0.12", "12,345,678", "0.000123", "lenet_300_100", "1.234e-05"]
    for number, _ in enumerate(cells):
        table.add_column(f"a long heading {number}", justify="right")
    table.add_row(*cells)
    file = io.StringIO()
    print_table(table, Console(file=file, width=width))
    for word in " ".join(cells).split():
        assert word in file.getvalue()
    # No wider than it has to be.
    assert max(map(len, file.getvalue().splitlines())) <= max(width, 70)


def test_version(program):
    assert program("--version").stdout == f"tfticket {tfticket.__version__}\n"


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Says what Tab gives after some words."""
    folder = tmp_path_factory.mktemp("completion")
    script = folder / "tfticket.bash"
    program = [sys.executable, "-c", ENTRY, "completion", "bash"]
    written = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    script.write_text(written)
    (folder / "runs").mkdir()
    (folder / "page.md").touch()
    subprocess.run(["bash", "-n", script], check=True)

    def complete(*words):
        # As bash calls it; the words are taken apart at "=".
        text = f"""
            source {script}
            COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
            COMP_CWORD={len(words) - 1}
            [[ $(complete -p tfticket) =~ -F\\ ([^ ]+) ]] && "${{BASH_REMATCH[1]}}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", text], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["fi"], ["find"]),
        ([""], ["demo", *SCRIPTS, "help", "version", "completion"]),
        (["find", "--rou"], ["--rounds"]),
        (["find", "--rounds=3", "--over"], ["--overwrite"]),
        (["find", "--rounds", "=", "3", "--over"], ["--overwrite"]),
        (["find", "--no"], ["--nodownload", "--normalize"]),
        (["find", "--scope", "gl"], ["global"]),
        (["find", "--scope", "=", "gl"], ["global"]),
        (["find", "--scope", "="], ["layerwise", "global", "sensitivity"]),
        (["find", "--out_dir", "=", "r"], ["runs"]),
        (["export", "--model", "=", "p"], ["page.md"]),
        (["try", "--headl"], ["--headless"]),
        (["try", "p"], ["page.md"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_completion(bash, words, want):
    assert bash("tfticket", *words) == want
