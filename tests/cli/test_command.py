"""The command as a whole: its help pages, its names, and how it ends."""

import argparse
import importlib
import pathlib
import pkgutil
import shutil
import subprocess
import sys
import zipfile

import pytest

import jaxpose
from jaxpose import cli
from jaxpose.cli import command
from jaxpose.errors import ConfigError, DataError

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


class TestHelp:
    def test_one_page_lists_all_subcommands(self, capsys):
        for arguments in ([], ["--help"], ["-h"], ["help"]):
            assert cli.main(arguments) == 0
            lines = capsys.readouterr().out.splitlines()
            assert [line.split()[0] for line in lines if line.startswith("  ")] == cli.NAMES
            assert max(map(len, lines)) <= 100

    def test_it_starts_without_the_subcommands(self):
        code = "import sys; from jaxpose.cli import main; main(['--help']); print(*sys.modules)"
        loaded = set(run("-c", code).stdout.splitlines()[-1].split())
        assert not {name for name in loaded if name.startswith("jaxpose.cli.")}
        assert "tensorflow" not in loaded

    @pytest.mark.parametrize("name", cli.NAMES)
    def test_each_subcommand_has_a_page(self, name, capsys):
        with pytest.raises(SystemExit) as end:
            cli.main([name, "--help"])
        assert end.value.code == 0
        page = capsys.readouterr().out
        assert page.startswith(f"usage: jaxpose {name} ")
        assert f"    jaxpose {name} " in page
        flags = [word.partition("=")[0] for word in page.split() if word.startswith("--")]
        assert not [flag for flag in flags if "_" in flag and not flag.startswith("--config.")]

    def test_every_subcommand_is_listed(self):
        modules = {info.name for info in pkgutil.iter_modules(cli.__path__)}
        commands = {name for name in modules if hasattr(importlib.import_module(f"{cli.__name__}.{name}"), "main")}
        assert commands - {"forward"} == {name.replace("-", "_") for name in cli.NAMES}

    def test_version(self, capsys):
        assert cli.main(["--version"]) == 0
        assert capsys.readouterr().out == f"jaxpose {jaxpose.__version__}\n"


class TestModules:
    """Other ways to call the command."""

    @pytest.mark.parametrize("module", ["jaxpose", "jaxpose.predict", "jaxpose.convert", "jaxpose.main"])
    def test_they_run(self, module):
        result = run("-m", module, "--help")
        assert result.returncode == 0, result.stderr
        name = {"jaxpose": "SUBCOMMAND", "jaxpose.main": "python -m jaxpose.main"}.get(module, module.replace(".", " "))
        assert name in result.stdout.splitlines()[0]

    @pytest.mark.parametrize("name", ["predict", "lift", "compile"])
    def test_importing_them_runs_nothing(self, name):
        result = run("-c", f"import jaxpose.{name}, sys; print(len(sys.modules))")
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip().isdecimal()


def test_a_reader_that_has_enough_is_no_error():
    """As in `jaxpose zoo | head -1`."""
    started = subprocess.Popen(
        [sys.executable, "-m", "jaxpose", "zoo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout is not None
    started.stdout.close()
    _, told = started.communicate(timeout=120)
    assert (started.returncode, told) == (0, "")


def parser(**options) -> command.Parser:
    made = command.Parser("try", "A try.", **options)
    made.add_argument("--batch-size", type=command.positive)
    made.add_argument("--keep-all", action="store_true")
    made.add_argument("rest", nargs="*")
    return made


class TestFlags:
    @pytest.mark.parametrize("flag", ["--batch-size=4", "--batch_size=4"])
    def test_underscores_are_dashes(self, flag):
        options = parser().read([flag, "--keep_all", "a_b"])
        assert (options.batch_size, options.keep_all, options.rest) == (4, True, ["a_b"])
        assert command.with_dashes(["--a_b=c_d", "e_f", "--", "--g_h"]) == ["--a-b=c_d", "e_f", "--", "--g_h"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--batch=4"], "unrecognized arguments: --batch=4"),  # no abbreviations
            (["--batch-size=0"], "argument --batch-size: '0' is not a whole number from 1"),
            (["--config.x=1"], "unrecognized arguments: --config.x"),
        ],
    )
    def test_wrong_ones(self, error, arguments, message):
        with pytest.raises(SystemExit) as end:
            parser().read(arguments)
        assert end.value.code == 2
        assert error() == f"jaxpose: error: {message} (jaxpose try --help explains the options)"


class TestEnd:
    def end(self, work) -> int:
        return command.run(parser(), work, [])

    def raises(self, raised: Exception) -> int:
        def work(options: argparse.Namespace) -> int:
            raise raised

        return self.end(work)

    def test_success(self, error):
        assert (self.end(lambda options: None), self.end(lambda options: 1)) == (0, 1)
        assert error() == ""

    def test_errors_that_a_user_can_act_on_are_one_line(self, capsys, tmp_path):
        assert self.raises(DataError("a.json: broken")) == 1
        assert self.raises(ConfigError("config.x is 1")) == 2
        assert self.end(lambda options: (tmp_path / "no" / "a.json").write_text("")) == 1
        lines = ["a.json: broken", "config.x is 1", f"{tmp_path}/no/a.json: No such file or directory"]
        assert capsys.readouterr().err.splitlines() == [f"jaxpose: error: {line}" for line in lines]

    @pytest.mark.parametrize("raised", [KeyError("x"), ValueError("x"), OSError("x")])
    def test_others_are_raised(self, raised):
        with pytest.raises(type(raised)):
            self.raises(raised)


def test_a_wheel_holds_the_configs(tmp_path):
    """Built from a copy, as a build leaves files where it works."""
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied)
    for name in ("jaxpose", "configs"):
        shutil.copytree(ROOT / name, copied / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(copied)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert b"jaxpose = jaxpose.cli:main" in file.read(entry)
    configs = {f"jaxpose/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert "jaxpose/configs/prtr.py" in configs
    assert configs <= names
    assert not {name.split("/")[0] for name in names} - {"jaxpose", entry.split("/")[0]}
