"""One's own: what a name leads to, whose folder goes first, and what is said of a name that leads nowhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from ps.errors import BadInput
from workers import own
from workers.own import home, joined, named, pickled, resolve

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, forgotten afterwards."""
    places = {name: list(sys.modules[name].__path__) for name in own.PACKAGES if name in sys.modules}
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, place in places.items():
        sys.modules[name].__path__ = place
    for name in [name for name, module in sys.modules.items() if lies_in(module, tmp_path)]:
        del sys.modules[name]


def lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether it was imported from there. What torch keeps among the modules is not always one: it gives anything."""
    spec = getattr(module, "__spec__", None)
    if not isinstance(spec, ModuleSpec):
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())]
    return any(Path(place).is_relative_to(folder) for place in places if place)


def refusal(name: str, path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        resolve("model.name", name, str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_in_the_user_s_folder(path: Path) -> None:
    (path / "nets_of_mine.py").write_text("class Small:\n    def made(): return 5\n")
    assert resolve("model.name", "nets_of_mine:Small.made", str(path))() == 5
    assert home("nets_of_mine") == str(path)
    assert sys.path[-1] == str(path)


def test_home_of_a_package(path: Path) -> None:
    (path / "mine_a" / "b").mkdir(parents=True)
    for file in ("mine_a/__init__.py", "mine_a/b/__init__.py", "mine_a/b/c.py"):
        (path / file).write_text("x = 1\n")
    resolve("data.name", "mine_a.b.c:x", str(path))
    assert [home(name) for name in ("mine_a", "mine_a.b", "mine_a.b.c")] == [str(path)] * 3


def test_a_folder_of_the_same_name_neither_shadows_nor_is_shadowed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("workers", "cluster", "ps"):
        (path / name).mkdir()
        (path / name / "__init__.py").write_text("raise ImportError('never run')\n")
        (path / name / "errors.py").write_text("raise ImportError('shadows ours')\n")
        (path / name / "of_mine.py").write_text("value = __name__\n")
    for name in ("workers", "cluster", "ps"):
        if name in sys.modules:
            assert resolve("model.name", f"{name}.of_mine:value", str(path)) == f"{name}.of_mine"
    monkeypatch.delitem(sys.modules, "ps.errors")  # it is there again afterwards: others know its classes
    assert resolve("model.name", "ps.errors:BadInput", str(path)).__doc__ == BadInput.__doc__


def test_a_program_beside_folders_of_the_same_names(tmp_path: Path) -> None:
    """Python puts a program's folder first, so theirs would win."""
    for name in ("workers", "cluster", "ps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "of_mine.py").write_text("value = __name__\n")
    (tmp_path / "first.py").write_text(
        "import sys\nsys.path.append(sys.argv[1])\nimport workers.of_mine, distbelief\n"
        "from distbelief.config import Config\nimport ps.of_mine, cluster.of_mine, workers.datasets, cluster.spec\n"
        "print(workers.of_mine.value, ps.of_mine.value, Config().run.preset)\n"
    )
    done = subprocess.run(
        [sys.executable, "first.py", str(ROOT)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "workers.of_mine ps.of_mine digits\n", done.stderr


def test_names_that_lead_nowhere(path: Path) -> None:
    (path / "broken_of_mine.py").write_text("x = 1\ny = 1 / 0\n")
    (path / "wrong_of_mine.py").write_text("def (:\n")
    (path / "whole_of_mine.py").write_text("def factory(): ...\nimport nothing_like_this\n")
    (path / "good_of_mine.py").write_text("def factory(): ...\n")
    assert refusal("absent_of_mine:x", path) == (
        f"model.name: got absent_of_mine:x, expected a module absent_of_mine in {path} or installed"
    )
    assert refusal("workers.absent:x", path).endswith(
        "; workers is also ours: a module of yours in it needs a name that ours lacks"
    )
    assert refusal("broken_of_mine:x", path) == (
        "model.name: got broken_of_mine:x, whose import raised ZeroDivisionError: division by zero "
        f"({path / 'broken_of_mine.py'}, line 2)"
    )
    assert f"({path / 'wrong_of_mine.py'}, line 1)" in refusal("wrong_of_mine:x", path)
    assert "whose import raised ModuleNotFoundError: No module named 'nothing_like_this'" in refusal(
        "whole_of_mine:factory", path
    )
    assert refusal("good_of_mine:factry", path) == (
        f"model.name: got good_of_mine:factry, expected 'factry' in {path / 'good_of_mine.py'} "
        '(did you mean "factory"?)'
    )


def test_what_can_be_imported_goes_by_its_name() -> None:
    assert named(joined, "/program") == ("workers.own:joined", home("workers.own"))


def test_what_cannot_is_pickled_with_the_folder_of_its_program(path: Path) -> None:
    number = 41
    name, where = named(lambda: number + 1, str(path))
    assert (name.startswith("pickle:"), where) == (True, str(path))
    assert resolve("model.name", name, where)() == 42  # here: what was handed over
    found = pickled(name)
    assert found is not None
    (path / "run").mkdir()
    (path / "run" / found[0]).write_bytes(found[1])
    del own._kept[name]
    assert resolve("model.name", name, joined(where, str(path / "run")))() == 42
    assert pickled("workers.own:joined") is None


def test_a_pickle_that_is_gone_or_damaged(path: Path) -> None:
    assert refusal("pickle:0123", path) == (
        f"model.name: cannot read {path / '0123.pickle'}: No such file or directory; it belongs to the run whose "
        "config.toml names it"
    )
    (path / "0123.pickle").write_bytes(b"junk")
    assert refusal("pickle:0123", path).startswith(f"model.name: {path / '0123.pickle'} is not what its name says; ")
    digest = hashlib.sha256(b"junk").hexdigest()[:16]
    (path / f"{digest}.pickle").write_bytes(b"junk")
    assert refusal(f"pickle:{digest}", path).startswith(f"model.name: cannot unpickle {path / digest}.pickle: ")


def test_what_cannot_be_pickled(path: Path) -> None:
    stream = sys.stdout.buffer
    with pytest.raises(BadInput, match=r"got function that cannot be sent to the workers \(TypeError: .*\), expected"):
        named(lambda: stream, str(path))


def test_what_has_no_name_but_a_digest_is_called_one_of_your_own() -> None:
    assert own.called("pickle:7f7f2943e5d49e94") == "one of your own"
    assert [own.called(name) for name in ("mine:mlp", "digits")] == ["mine:mlp", "digits"]
