"""The command ``nequip-train``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from nequip_core.command_line import run_command
from nequip_core.errors import FileFormatError
from nequip_core.files import require_file
from nequip_train._version import __version__

__all__ = ["main"]

USAGE = "usage: nequip-train CONFIG.yaml [KEY=VALUE ...]"

HELP = f"""{USAGE}
       nequip-train [-cp FOLDER] -cn NAME [KEY=VALUE ...]
       nequip-train resume RUN_DIR [--force] [KEY=VALUE ...]
       nequip-train report RUN_DIR
       nequip-train check CONFIG.yaml [KEY=VALUE ...]
       nequip-train schema [FILE]
       nequip-train cache list | prune

Train, validate and test a model as a YAML config says.

arguments:
  CONFIG.yaml          the config; its folder is where Hydra looks for further configs
  KEY=VALUE            change a value of the config: trainer.max_epochs=10
  +KEY=VALUE           add one;  ++KEY=VALUE add or change one;  ~KEY remove one
  ++ckpt_path=FILE     continue the run that wrote this checkpoint

commands:
  resume               continue the run that wrote this folder, with the config it has there
  report               write report.html of a run anew, from what is in its folder
  check                check the config, then try one batch; see nequip-train check --help
  schema               write what an editor needs to check configs while they are written

options:
  --force                     continue though the config has changed
  -cp, --config-path FOLDER   folder of the config (default: the current one)
  -cn, --config-name NAME     name of the config, with or without .yaml (default: config)
  -m, --multirun              run once for every combination of comma-separated values
  --cfg job                   print the config instead of running it (--resolve: with values)
  hydra.run.dir=FOLDER        where to write (default: outputs/DATE/TIME)
  --hydra-help                the other options, which are Hydra's
  -h, --help                  print this text
  --version                   print the version

exit codes: 0 done, 1 something is wrong with config, data or a file, 2 wrong use of the command
"""

# Options of Hydra whose value is the next argument.
_WITH_VALUE = {
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-p": "--package",
    "-c": "--cfg",
}
_WITH_VALUE_LONG = {*_WITH_VALUE.values(), "--experimental-rerun"}
_FORCE = "--force"


class _UsageError(Exception):
    """The arguments of the command do not fit together."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: the arguments; default those of the process.

    Returns:
        the exit code: 0, 1 after a mistake in config or data, 2 after one in the arguments.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments[:1] == ["check"]:
        from nequip_train.command_check import main as check

        return check(arguments[1:])
    if arguments[:1] == ["schema"]:
        from nequip_train.command_schema import main as write_schema

        return write_schema(arguments[1:])
    if arguments[:1] == ["cache"]:
        from nequip_train.command_cache import main as cache

        return cache(arguments[1:])
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    if "--version" in arguments:
        print(f"nequip-train {__version__}")
        return 0
    try:
        command = _SUBCOMMANDS.get(arguments[0]) if arguments else None
        if command is not None:
            return run_command(lambda: command(arguments[1:]))
        return run_command(lambda: _run(arguments))
    except _UsageError as error:
        print(f"{USAGE}\nnequip-train: error: {error}", file=sys.stderr)
        return 2


def _resume(arguments: list[str]) -> None:
    """Continue a run: ``resume RUN_DIR [--force] [KEY=VALUE ...]``."""
    folder, rest = _run_folder("resume", arguments)
    for argument in rest:
        if argument != _FORCE and (argument.startswith("-") or not _is_override(argument)):
            raise _UsageError(f"resume takes {_FORCE} and KEY=VALUE after the folder: '{argument}'")

    from nequip_train.restart.resume import resumption

    plan = resumption(folder, [item for item in rest if item != _FORCE], force=_FORCE in rest)
    for note in plan.notes:
        print(note, file=sys.stderr)
    if plan.arguments is None:
        return

    from nequip_train.train import application

    with contextlib.chdir(plan.folder):
        application(plan.arguments)


def _report(arguments: list[str]) -> None:
    """Write the report of a run: ``report RUN_DIR``."""
    folder, rest = _run_folder("report", arguments)
    if rest:
        raise _UsageError(f"report takes one folder, not also '{rest[0]}'")

    from nequip_train.run_folder.report import write_report

    print(write_report(Path(folder)))


def _run_folder(command: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Return the folder and the other arguments."""
    folders = [item for item in arguments if not item.startswith("-") and not _is_override(item)]
    if not folders:
        raise _UsageError(f"{command} needs the folder of a run: nequip-train {command} RUN_DIR")
    rest = list(arguments)
    rest.remove(folders[0])
    return folders[0], rest


def _is_override(argument: str) -> bool:
    return "=" in argument or argument.startswith("~")


_SUBCOMMANDS = {"resume": _resume, "report": _report}


def _run(arguments: list[str]) -> None:
    if _FORCE in arguments:
        # As a key, which processes that Lightning launches are given too.
        arguments = [item for item in arguments if item != _FORCE]
        arguments.append("++force_restart=true")
    hydra_arguments = _for_hydra(arguments)

    from nequip_train.train import application

    application(hydra_arguments)


def _for_hydra(arguments: list[str]) -> list[str]:
    """Return the arguments with the config file as folder and name, both checked.

    Raises:
        _UsageError: there are two configs, or an argument is neither option, file nor override.
        MissingFileError: the config does not exist.
        FileFormatError: the file is not a ``.yaml`` one.
    """
    if not arguments and not Path("config.yaml").exists():
        raise _UsageError("name a config file (there is no config.yaml in this folder)")
    options, rest, files = _split(arguments)
    if len(files) > 1:
        raise _UsageError(f"one config file, not {len(files)}: {' '.join(files)}")
    if files and ("--config-name" in options or "--config-path" in options):
        raise _UsageError(f"give either the file '{files[0]}' or -cp and -cn")
    if files:
        if not files[0].endswith(".yaml"):
            raise FileFormatError(f"the name of a config must end in .yaml, got '{files[0]}'")
        path = require_file(files[0], "config").resolve()
        return ["--config-path", str(path.parent), "--config-name", path.name, *rest]
    folder = options.get("--config-path", str(Path.cwd()))
    if "://" in folder:
        return ["--config-path", folder, *_named(options), *rest]
    folder = str(Path(folder).resolve())
    name = options.get("--config-name", "config")
    elsewhere = {"--config-dir", "--experimental-rerun"} & set(arguments) or "-cd" in arguments
    if not elsewhere and not _only_asks(rest):
        require_file(Path(folder) / (name if name.endswith(".yaml") else f"{name}.yaml"), "config")
    return ["--config-path", folder, *_named(options), *rest]


def _named(options: dict[str, str]) -> list[str]:
    return ["--config-name", options["--config-name"]] if "--config-name" in options else []


def _only_asks(arguments: list[str]) -> bool:
    return bool({"--hydra-help", "--shell-completion", "-sc"} & set(arguments))


def _split(arguments: list[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Return where the config is, all other arguments, and the arguments that are file names."""
    options: dict[str, str] = {}
    rest: list[str] = []
    files: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, has_value, value = argument.partition("=")
        name = _WITH_VALUE.get(name, name)
        if name in _WITH_VALUE_LONG:
            if not has_value and not waiting:
                raise _UsageError(f"{argument} needs a value")
            value = value if has_value else waiting.pop(0)
            if name in ("--config-path", "--config-name"):
                options[name] = value
            else:
                rest += [name, value]
        elif has_value or argument.startswith(("-", "~")) or rest[-1:] in (["--info"], ["-i"]):
            rest.append(argument)
        else:
            files.append(argument)
    return options, rest, files
