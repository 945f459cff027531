"""What MkDocs runs while it builds the site: notebooks become pages, and the options of the command line stand on theirs."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MARK = "<!-- commands -->"
"""Stands on the page where the commands go."""


class Notebook(File):
    """A notebook, which is a page like those in Markdown, so that its links are checked and others can link to it."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, **_: Any) -> Files:
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        files.append(Notebook(file.src_uri, file.src_dir, file.dest_dir, file.use_directory_urls))
    return files


def on_page_read_source(page: Page, **_: Any) -> str | None:
    """The text of a notebook as Markdown; None leaves other pages to MkDocs."""
    if not isinstance(page.file, Notebook):
        return None
    cells = json.loads(Path(page.file.abs_src_path).read_text("utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in parts(cell))


def parts(cell: dict[str, Any]) -> list[str]:
    """A cell in Markdown: its text; or its code, what that printed, and its figures."""
    text = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [text]
    found = [f"```python\n{text}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        said = re.sub(r"\x1b\[[\d;]*m", "", "".join(output.get("text", data.get("text/plain", [])))).strip("\n")
        if "image/png" in data:
            found.append(f'<img alt="What the code above draws" src="data:image/png;base64,{data["image/png"].strip()}">')
        elif said:
            found.append(f"```text\n{said}\n```")
    return found


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text, with every command of the parser in place of the mark."""
    if MARK not in markdown:
        return markdown
    from visionthink import cli

    return markdown.replace(MARK, commands(cli._parser()))


def commands(parser: argparse.ArgumentParser) -> str:
    """A section for each command: what it does, how it is called, a table of its options."""
    [choice] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return "\n\n".join(section(name, command) for name, command in choice.choices.items())


def section(name: str, command: argparse.ArgumentParser) -> str:
    parts = [f"## {name}", escaped(command.description or "")]
    for group in command._action_groups:
        rows = [row(command, action) for action in group._group_actions if action.help is not argparse.SUPPRESS]
        rows = [row for row in rows if row]
        if rows:
            title = "arguments" if group.title == "positional arguments" else str(group.title)
            parts.append("\n".join([f"| {title} | |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def row(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    """A row of the table, or nothing for --help."""
    if isinstance(action, argparse._HelpAction):
        return ""
    formatter = command._get_formatter()
    written = formatter._format_action_invocation(action)
    if not action.option_strings:
        written = formatter._format_args(action, str(action.metavar or action.dest))
    names = ", ".join(f"`{name}`" for name in written.replace("|", "\\|").split(", "))
    required = "Required: " if action.option_strings and action.required else ""
    return f"| {names} | {required}{escaped(formatter._expand_help(action))} |"


def escaped(text: str) -> str:
    """Help as Markdown: names that begin with dashes are code, and nothing else has a meaning."""
    plain = re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w-])--[a-z][\w-]*", lambda name: f"`{name[0]}`", plain.replace("\\_", "_"))
