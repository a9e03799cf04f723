"""The command ``nequip-train schema``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from nequip_core.command_line import run_command
from nequip_core.files import atomic_path

__all__ = ["main"]

USAGE = "usage: nequip-train schema [FILE]"

HELP = f"""{USAGE}

Write the JSON schema of configs, by which an editor completes and checks them while they are
written. It is made of the installed versions of nequip-train, torch and Lightning.

arguments:
  FILE         where to write; default: standard output

options:
  -h, --help   print this text

In a config, the first line tells an editor with the YAML language server which schema to use:
  # yaml-language-server: $schema=FILE

exit codes: 0 done, 1 the file cannot be written, 2 wrong use of the command
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: those after ``schema``.

    Returns:
        the exit code.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        wrong = arguments[0] if arguments[0].startswith("-") else arguments[1]
        print(f"{USAGE}\nnequip-train schema: error: one FILE, not '{wrong}'", file=sys.stderr)
        return 2
    return run_command(lambda: _write(arguments[0] if arguments else None))


def _write(file: str | None) -> None:
    from nequip_train.checking.json_schema import config_schema

    text = json.dumps(config_schema(), indent=1)
    if file is None:
        print(text)
        return
    with atomic_path(file) as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    print(f"{file}; in a config: # yaml-language-server: $schema={file}")
