"""Command line: what reaches the functions behind it, exit codes, and every mistake as one clear line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from distbelief import cli
from distbelief.config import presets
from ps.errors import BadInput, JournalDamaged, PeerLost, RunFailed
from workers.models import MODELS

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "launch", "resume", "workers", "evaluate", "predict", "export", "status", "worker", "logs", "simulate", "replay",
    "verify", "report", "staleness", "cluster", "data", "bench",
]  # fmt: skip

Behind = Callable[..., object]


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Behind], None]:
    """Put a function behind a command, in place of the module that has it."""

    def put(name: str, function: Behind) -> None:
        home, _, attribute = name.rpartition(".")
        module = ModuleType(home)
        setattr(module, attribute, function)
        monkeypatch.setitem(sys.modules, home, module)

    return put


LAUNCH = "distbelief.launcher.run_from_command_line"
EVALUATE = "distbelief.evaluate.evaluate_command"
PREDICT = "distbelief.predict.predict_command"
EXPORT = "distbelief.export.export_command"
STATUS = "distbelief.status.status_command"


def noting(seen: list[tuple[object, ...]]) -> Behind:
    """A function that succeeds and notes what it was called with."""

    def note(*given: object) -> int:
        seen.append(given)
        return 0

    return note


def subprocess_run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )


# --- what reaches the functions ---------------------------------------------------------------------------------------


def test_launch_passes_on_what_was_given_and_nothing_else(behind: Callable[[str, Behind], None]) -> None:
    seen: list[tuple[object, ...]] = []
    behind(LAUNCH, noting(seen))
    assert cli.run(["launch"]) == 0
    assert cli.run(["launch", "--workers", "32", "--set", "average.every=8", "--set", "a.b=c", "--debug"]) == 0
    assert seen == [({}, ()), ({"cluster.workers": 32}, ("average.every=8", "a.b=c"))]


def test_every_option_of_launch_has_its_key_and_kind(behind: Callable[[str, Behind], None]) -> None:
    seen: list[tuple[object, ...]] = []
    behind(LAUNCH, noting(seen))
    typed = (
        "--preset cifar10 --workers 4 --shards 2 --data-root d --run r --seed 7 --epochs 3 --address auto --lr 1e-2 "
        "--model googlenet --batch-size 16 --momentum 0 --precision bfloat16 --target-error .05 --max-seconds 9 "
        "--init-from i --config c --bad-images fail --ensemble-member 2 --correction dana --consistency sync "
        "--prefetch --gpus-per-worker 0.25 --wire bfloat16 --tls --faults f --data m:f --replicas 1"
    )
    assert cli.run(["launch", *typed.split()]) == 0
    options = {
        "run.preset": "cifar10", "cluster.workers": 4, "cluster.shards": 2, "data.root": Path("d"),
        "data.bad_images": "fail", "run.folder": Path("r"), "run.seed": 7, "run.epochs": 3, "cluster.address": "auto",
        "model.name": "googlenet", "run.batch_size": 16, "schedule.rate": 0.01, "rule.momentum": 0.0,
        "model.precision": "bfloat16", "run.target_error": 0.05,
        "run.max_seconds": 9.0, "run.init_from": Path("i"), "config": Path("c"),
        "run.ensemble_member": 2, "correction.kind": "dana", "consistency.kind": "sync",
        "program.prefetch": True, "cluster.gpus_per_worker": 0.25,
        "cluster.wire": "bfloat16", "cluster.tls": True, "cluster.faults": Path("f"), "data.name": "m:f",
        "cluster.replicas": 1,
    }  # fmt: skip
    assert seen == [(options, ())]
    assert len(options) == len(cli.SETTINGS)


def test_evaluate_and_status_pass_on_their_arguments(behind: Callable[[str, Behind], None]) -> None:
    seen: list[tuple[object, ...]] = []
    for name in (EVALUATE, STATUS):
        behind(name, noting(seen))
    for typed in ("evaluate a", "evaluate a b --weights latest --crops 10 --json", "status", "status r --json"):
        assert cli.run(typed.split()) == 0
    assert seen == [
        ((Path("a"),), "average", 1, False),
        ((Path("a"), Path("b")), "latest", 10, True),
        (None, False),
        (Path("r"), True),
    ]


def test_data_passes_on_its_arguments(behind: Callable[[str, Behind], None]) -> None:
    seen: list[tuple[object, ...]] = []
    behind("distbelief.data.preview_command", noting(seen))
    assert cli.run(["data", "preview"]) == 0
    typed = "data preview cifar10 --data-root d --output o --rows 2 --columns 3 --seed 4"
    assert cli.run(typed.split()) == 0
    behind("distbelief.data.fetch_command", noting(seen))
    assert cli.run(["data", "fetch", "cifar10"]) == 0
    assert seen == [
        ("digits", None, None, 8, 7, 0),
        ("cifar10", Path("d"), Path("o"), 2, 3, 4),
        ("cifar10", None),
    ]


def test_predict_and_export_pass_on_their_arguments(behind: Callable[[str, Behind], None]) -> None:
    seen: list[tuple[object, ...]] = []
    for name in (PREDICT, EXPORT):
        behind(name, noting(seen))
    for typed in (
        "predict a x.jpg", "predict a x.jpg y.png --weights latest --crops 144 --json",
        "export a --format onnx", "export a --format safetensors --weights latest --output o",
    ):  # fmt: skip
        assert cli.run(typed.split()) == 0
    assert seen == [
        (Path("a"), (Path("x.jpg"),), "average", 1, False),
        (Path("a"), (Path("x.jpg"), Path("y.png")), "latest", 144, True),
        (Path("a"), "onnx", None, "average"),
        (Path("a"), "safetensors", Path("o"), "latest"),
    ]


def test_the_exit_code_is_the_function_s(behind: Callable[[str, Behind], None]) -> None:
    behind(STATUS, lambda *_: 3)
    assert cli.run(["status"]) == 3


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("lunch",
         f'got lunch, expected one of {", ".join(COMMANDS)} (did you mean "launch"?); see distbelief --help'),
        ("data fetch", "got no NAME, expected at least one; see distbelief data fetch --help"),
        ("bench gradiant",
         "got gradiant, expected one of gradient, reading, exchange, network, simulator, startup, "
         'live (did you mean "gradient"?); see distbelief bench --help'),
        ("--verson",
         'got --verson, expected an option of distbelief (did you mean "--version"?); see distbelief --help'),
        ("launch --worker 3",
         'got --worker, expected an option of distbelief launch (did you mean "--workers"?); '
         "see distbelief launch --help"),
        ("launch --workers x", "--workers: got 'x', expected a whole number; see distbelief launch --help"),
        ("launch --workers 1.5", "--workers: got '1.5', expected a whole number; see distbelief launch --help"),
        ("launch --lr fast", "--lr: got 'fast', expected a number; see distbelief launch --help"),
        ("launch --precision float16",
         "--precision: got 'float16', expected float32 or bfloat16; see distbelief launch --help"),
        ("launch --workers", "--workers: got no value, expected one; see distbelief launch --help"),
        ("launch digits", "got unexpected extra argument (digits), expected none; see distbelief launch --help"),
        ("evaluate a --crops 7", "--crops: got '7', expected 1, 10 or 144; see distbelief evaluate --help"),
        ("predict a --crops ten", "--crops: got 'ten', expected 1, 10 or 144; see distbelief predict --help"),
        ("predict a", "got no IMAGE, expected at least one; see distbelief predict --help"),
        ("export a", "got no --format, expected --format safetensors|onnx; see distbelief export --help"),
        ("status --json=yes", "--json: got a value, expected none; see distbelief status --help"),
        ("status a b", "got unexpected extra argument (b), expected none; see distbelief status --help"),
        ("evaluate", "got no RUN, expected at least one; see distbelief evaluate --help"),
        ("evaluate r --weights best",
         "--weights: got 'best', expected average or latest; see distbelief evaluate --help"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(typed: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(typed.split()) == 2
    assert capsys.readouterr() == ("", f"distbelief: error: {line}\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            BadInput("cluster.workers: got 0, expected 1 to 100,000"),
            2,
            "error: cluster.workers: got 0, expected 1 to 100,000",
        ),
        (RunFailed("shard-0 was lost:\n  its process is gone"), 1, "error: shard-0 was lost: its process is gone"),
        (PeerLost("no answer"), 1, "error: no answer"),
        (JournalDamaged("not a journal"), 1, "error: not a journal"),
        (
            ZeroDivisionError("by\nzero"),
            1,
            "internal error: ZeroDivisionError: by zero; run again with --debug for the traceback",
        ),
        (KeyError(), 1, "internal error: KeyError; run again with --debug for the traceback"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line(
    error: BaseException,
    code: int,
    line: str,
    behind: Callable[[str, Behind], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> int:
        raise error

    for name, typed in ((LAUNCH, "launch"), (EVALUATE, "evaluate r"), (STATUS, "status")):
        behind(name, fail)
        assert cli.run(typed.split()) == code
        assert capsys.readouterr() == ("", f"distbelief: {line}\n")
        assert cli.run([*typed.split(), "--debug"]) == code
        shown = capsys.readouterr().err
        assert shown.startswith("Traceback (most recent call last):\n")
        assert shown.endswith(f"\ndistbelief: {line}\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    code = """if True:
        import sys, types
        module = sys.modules["distbelief.status"] = types.ModuleType("distbelief.status")
        def status_command(run, as_json):
            sys.stdin.readline()
            print("more than nobody reads")
            return 0
        module.status_command = status_command
        sys.argv = ["distbelief", "status"]
        from distbelief.cli import main
        main()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write("go on\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "--help",
        "launch --help",
        "evaluate --help",
        "status --help",
        "data",
        "data --help",
        "data preview --help",
        "data fetch --help",
        "bench",
        "bench --help",
        "bench gradient --help",
        "bench reading --help",
    ],
)
def test_help_has_examples_and_fits_the_screen(
    typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(typed.split()) == 0
    shown, errors = capsys.readouterr()
    assert shown.startswith("Usage: distbelief")
    examples = shown.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) >= 3
    assert all(line.strip().startswith("distbelief ") for line in examples)
    assert max(map(len, shown.splitlines())) <= 80
    assert errors == ""


@pytest.mark.parametrize("typed", ["", "cluster", "data", "bench"])
def test_a_group_alone_shows_its_help(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(typed.split()) == 0
    alone = capsys.readouterr()
    assert cli.run([*typed.split(), "--help"]) == 0
    assert alone == capsys.readouterr()
    assert alone.out.startswith("Usage: distbelief")


@pytest.mark.parametrize("typed", ["--address auto", "--wire bfloat16", "--tls"])
def test_what_a_simulation_has_not_is_no_option_of_it(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", *typed.split()]) == 2
    assert f"got {typed.split()[0]}, expected an option of distbelief simulate" in capsys.readouterr().err


def test_a_simulation_s_limit_is_in_virtual_time(capsys: pytest.CaptureFixture[str]) -> None:
    for command, virtual in (("simulate", True), ("launch", False)):
        assert cli.run([command, "--help"]) == 0
        assert ("seconds of virtual" in capsys.readouterr().out) == virtual


def test_a_configuration_file_is_no_setting(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("launch", "simulate"):
        assert cli.run([command, "--set", "config=config.toml"]) == 2
        assert "error: config: got an unknown section" in capsys.readouterr().err


def test_help_names_every_command_preset_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in shown] == COMMANDS
    words = " ".join(setting.help for setting in cli.SETTINGS)
    for name in (*presets(), *MODELS):
        assert name in words


def test_help_imports_neither_torch_nor_ray() -> None:
    code = """if True:
        import sys
        from distbelief.cli import run
        assert run(["launch", "--help"]) == 0
        assert run(["launch", "--workers", "x"]) == 2
        print(sorted({"torch", "ray", "grpc", "rich", "numpy"} & set(sys.modules)))
    """
    done = subprocess_run(code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_version_is_the_package_s(tmp_path: Path) -> None:
    info = tmp_path / "distbelief-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distbelief\nVersion: 9.8.7\n")
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        sys.argv = ["distbelief", "--version"]
        from distbelief.cli import main
        main()
    """
    done = subprocess_run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "distbelief 9.8.7\n", "")
