"""The documentation holds: pages that add something are run as they stand, commands and parameters in it exist."""

import ast
import pathlib
import re
import shlex

import pytest

import jaxpose.main
from jaxpose import cli
from jaxpose.cli import command, config_flags

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CONFIGS = sorted(ROOT.glob("configs/[a-z]*.py"))
MODULES = sorted(ROOT.glob("jaxpose/**/*.py"))
MAIN = ["python", "-m", "jaxpose.main"]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {
    "train.steps": 3,
    "train.batch_size": 8,
    "evaluate.batch_size": 8,
    "data.marionettes.train": 16,
    "data.marionettes.validation": 8,
    "data.threads": 1,
}
"""Fields that make a run of seconds."""


def blocks(page: pathlib.Path) -> list[tuple[str, str, str]]:
    """(language, title, text) of the fenced blocks of a page."""
    return BLOCK.findall(page.read_text())


def command_lines(text: str) -> list[list[str]]:
    """The words of all lines that call the library."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("jaxpose ", " ".join(MAIN) + " "))]


def call(words: list[str]) -> int:
    """The exit status of a line that calls the library."""
    return jaxpose.main.main(words[3:]) if words[:3] == MAIN else cli.main(words[1:])


class TestPagesThatAddSomething:
    @pytest.fixture(autouse=True)
    def empty_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(self, page: str) -> None:
        """Does what the page says, in order: writes titled blocks to files, runs commands and other Python blocks."""
        for language, title, text in blocks(ROOT / "docs" / page):
            if title:
                pathlib.Path(title).write_text(text)
            elif language == "python":
                exec(compile(text, page, "exec"), {})
            elif language == "bash":
                for words in command_lines(text):
                    assert call(self.quick(words)) == 0, words

    def quick(self, words: list[str]) -> list[str]:
        """The same line, with the fields of a tiny run before its own."""
        fields = [f"--config.{name}={value}" for name, value in TINY.items()]
        return words[:2] + fields + words[2:] if words[1] in ("train", "evaluate") else words

    def test_a_paper(self):
        self.run("adding_a_paper.md")
        assert pathlib.Path("found/poses.json").stat().st_size > 100
        assert pathlib.Path("runs/from_original/checkpoints/3").is_dir()

    def test_a_data_set(self):
        self.run("adding_a_data_set.md")
        assert pathlib.Path("runs/lab/checkpoints/3").is_dir()

    def test_a_metric(self):
        self.run("adding_a_metric.md")
        assert '"distance/left_wrist"' in pathlib.Path("runs/near/evaluation/scores.json").read_text()


class TestCommandLines:
    @pytest.fixture(autouse=True)
    def only_read(self, tmp_path, monkeypatch):
        """Commands read their arguments and config, and do nothing."""

        def read(parser, work, arguments=None, informs=""):
            options = parser.read(arguments)
            if getattr(options, "config", None):
                config_flags.load(options.config, options.fields)
            return 0

        monkeypatch.setattr(command, "run", read)
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_of_a_page(self, page):
        for language, title, text in blocks(page):
            if title:
                pathlib.Path(title).write_text(text)
            if language == "python":
                compile(text, page.name, "exec")
            if language == "bash":
                assert all(call(words) == 0 for words in command_lines(text))

    @pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
    def test_of_a_config(self, path):
        lines = command_lines(ast.get_docstring(ast.parse(path.read_text())) or "")
        assert lines
        assert all(call(words) == 0 for words in lines)


class TestDocstrings:
    @pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_described_parameters_exist(self, path):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert described(node) <= parameters(node), f"{node.name}, line {node.lineno}"
            elif isinstance(node, ast.ClassDef):
                inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
                assert described(node) <= {name for each in inits for name in parameters(each)}, node.name

    @pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_examples_are_shown_as_code(self, path):
        assert not re.findall(r"^ *Example:$", path.read_text(), re.MULTILINE), 'the section is called "Examples:"'


def described(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names of the entries of a docstring's section "Args"; "a, b: ..." is for both."""
    section = re.search(r"^Args:\n((?:  .*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
    entries = re.findall(r"^  (\S[^:]*):", section[1], re.MULTILINE) if section else []
    return {name.strip("* ") for entry in entries for name in entry.split(",")}


def parameters(node: ast.FunctionDef) -> set[str]:
    everything = node.args
    named = [*everything.posonlyargs, *everything.args, *everything.kwonlyargs]
    return {each.arg for each in (*named, everything.vararg, everything.kwarg) if each}
