"""What MkDocs runs while it builds the site: it writes the options of the command line into the page about it."""

from __future__ import annotations

import argparse
import re
from typing import Any

MARK = "<!-- commands -->"
"""Stands on the page where the commands go."""


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
