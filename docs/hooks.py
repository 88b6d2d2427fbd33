"""Pages that are made while the site is built: the commands' help, the reference, texts of the repository's root."""

import ast
import contextlib
import importlib
import io
import os
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = "jaxpose"
REFERENCE = "Reference"
TEXTS = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""{page: file at the root} of texts that are read in the repository and on the site."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the navigation's empty section of the reference: a page a module, a section a package."""
    for section in config.nav or ():
        if REFERENCE in section:
            section[REFERENCE] = [*section[REFERENCE], *_navigation(LIBRARY)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file in docs/ holds."""
    pages = {"commands.md": _commands(), "reference/index.md": _public_names()}
    pages |= {page: _text(name) for page, name in TEXTS.items()}
    pages |= {_page(*module): _reference(*module) for module in _modules(LIBRARY)}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def _text(name: str) -> str:
    """A text of the root, with links as they are between pages of the site."""
    text = (ROOT / name).read_text().replace("](docs/", "](")
    for page, other in TEXTS.items():
        text = text.replace(f"]({other})", f"]({page})")
    return text


# --- reference ---


def _children(package: str) -> list[tuple[str, bool]]:
    """(full name, whether it is a package) of what is public in a package, without running it."""
    folder = ROOT.joinpath(*package.split("."))
    found = pkgutil.iter_modules([str(folder)])
    return [(f"{package}.{each.name}", each.ispkg) for each in found if not each.name.startswith("_")]


def _modules(package: str) -> list[tuple[str, bool]]:
    """The same of all that is public below a package."""
    return [each for child in _children(package) for each in (child, *(_modules(child[0]) if child[1] else ()))]


def _page(module: str, package: bool) -> str:
    path = module.removeprefix(LIBRARY + ".").replace(".", "/")
    return f"reference/{path}/index.md" if package else f"reference/{path}.md"


def _reference(module: str, package: bool) -> str:
    """The page of a module; of a package also what is in it."""
    inside = [_entry(child, module) for child in _children(module)] if package else []
    return "\n".join([f"# `{module}`", "", f"::: {module}", "", *inside])


def _entry(child: tuple[str, bool], package: str) -> str:
    """A line that links a module, with the first line of its docstring."""
    name, inner = child
    path = (
        ROOT.joinpath(*name.split("."), "__init__.py") if inner else ROOT.joinpath(*name.split(".")).with_suffix(".py")
    )
    summary = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    target = _page(name, inner).removeprefix(_page(package, True).removesuffix("index.md"))
    return f"- [`{name.rpartition('.')[2]}`]({target}): {summary}"


def _navigation(package: str) -> list[Any]:
    entries: list[Any] = []
    for child, inner in _children(package):
        page = _page(child, inner)
        entries.append({child.rpartition(".")[2]: [page, *_navigation(child)] if inner else page})
    return entries


def _public_names() -> str:
    """The page of what `import jaxpose` offers."""
    lines = [f"# `{LIBRARY}`", "", "What `import jaxpose` offers; importing it starts no device.", ""]
    for name in importlib.import_module(LIBRARY).__all__:
        lines += [f"::: {LIBRARY}.{name}", "    options: {show_root_heading: true, show_root_toc_entry: true}", ""]
    return "\n".join(lines)


# --- commands ---


def _commands() -> str:
    """Each command's own help, as it prints it."""
    cli = importlib.import_module(f"{LIBRARY}.cli")
    sections = ["# Commands", _block(cli.overview())]
    for title, group in cli.COMMANDS.items():
        sections.append(f"## {title}")
        sections += [f"### {name}\n\n{_block(_help(cli.main, name))}" for name in group]
    return "\n\n".join(sections) + "\n"


def _help(command: Callable[[list[str]], int], name: str) -> str:
    output, width = io.StringIO(), mock.patch.dict(os.environ, COLUMNS="100")
    with width, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        command([name, "--help"])
    return output.getvalue()


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"
