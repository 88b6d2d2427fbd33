"""The documentation holds: pages that add something are run as they stand, every command line in it can be read."""

import ast
import inspect
import pathlib
import re
import shlex

import pytest

from jaxpose import cli

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
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
    """The arguments of all `jaxpose` commands of a shell block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("jaxpose ")]


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
                for arguments in command_lines(text):
                    assert cli.main(self.quick(arguments)) == 0, arguments

    def quick(self, arguments: list[str]) -> list[str]:
        """The same command, with the fields of a tiny run before its own."""
        if arguments[0] not in ("train", "evaluate"):
            return arguments
        return [arguments[0], *(f"--config.{name}={value}" for name, value in TINY.items()), *arguments[1:]]

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
