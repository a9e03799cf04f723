"""The command ``nequip-train check``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nequip_core.command_line import run_command
from nequip_train.command import _for_hydra, _UsageError

__all__ = ["main"]

USAGE = "usage: nequip-train check [--config-only] CONFIG.yaml [KEY=VALUE ...]"

HELP = f"""{USAGE}
       nequip-train check [--config-only] [-cp FOLDER] -cn NAME [KEY=VALUE ...]

Find what would stop a run, without starting one:
  config     keys, targets, arguments and their values, interpolations: every mistake with its
             file and line, before anything is imported
  model      is built; whether it can be packaged
  data       are opened; which data set has which labels, and what loss and metrics need
  batch      one batch of each part through model, loss and metrics, one step of the optimizer
  memory     what that step took, and what the largest batch will take

Nothing is written. Statistics of the training data are not computed: 1.0 stands for each.

options:
  --config-only   only the config
  -h, --help      print this text
The others are those of nequip-train that say which config: -cp, -cn, KEY=VALUE.

exit codes: 0 nothing was found, 1 something was, 2 wrong use of the command
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: those after ``check``.

    Returns:
        the exit code.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    config_only = "--config-only" in arguments
    rest = [argument for argument in arguments if argument != "--config-only"]
    try:
        return run_command(lambda: _run(rest, config_only))
    except _UsageError as error:
        print(f"{USAGE}\nnequip-train check: error: {error}", file=sys.stderr)
        return 2


def _run(arguments: list[str], config_only: bool) -> None:
    waiting = _for_hydra(arguments)
    folder, name, overrides = str(waiting[1]), "config", waiting[2:]
    if overrides[:1] == ["--config-name"]:
        name, overrides = overrides[1], overrides[2:]
    for argument in overrides:
        if argument.startswith("-"):
            raise _UsageError(f"{argument} is an option for runs, not for a check")

    from nequip_train.checking.composition import composed
    from nequip_train.checking.static import require_no_mistakes

    with composed(folder, name, overrides) as (config, positions):
        signatures = require_no_mistakes(config, positions)
        print(f"config   no mistakes; {signatures.count} targets", end="")
        print(f", imported for it: {', '.join(signatures.imported)}" if signatures.imported else "")
        if not config_only:
            from nequip_train.checking.dry_run import dry_run

            dry_run(config, print)
