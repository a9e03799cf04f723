"""``nequip-train resume RUN_DIR``: go on with the run that wrote a folder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from nequip_core.errors import FileFormatError, MissingFileError
from nequip_core.files import require_file
from nequip_train.restart.differences import FORCE_KEY

__all__ = ["Resumption", "checkpoint_of", "resumption", "set_aside_newer"]

_LOG = logging.getLogger(__name__)
_RUN_FILE = "run.json"
_RESTART_FILE = "restart.ckpt"
_SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Resumption:
    """How to go on with a run.

    Attributes:
        arguments: for Hydra; None where nothing is left to do.
        folder: where the run was started, which relative paths in its config are relative to.
        notes: what to tell the user.
    """

    arguments: list[str] | None
    folder: Path
    notes: list[str]


def resumption(folder: str, overrides: Sequence[str] = (), force: bool = False) -> Resumption:
    """Return how to go on with a run: from its beginning if it has no checkpoint yet.

    The config is the one that the run was started with, read from ``.hydra/`` in the folder.

    Args:
        folder: the folder of the run; it may have been moved.
        overrides: changes of the config, as on the command line.
        force: go on even if they are not safe.

    Raises:
        NequIPError: there is no such run.
    """
    run = Path(folder).resolve()
    records = run / ".hydra"
    if not run.is_dir():
        raise MissingFileError(f"no folder of a run at '{folder}': there is no such folder")
    if not (records / "config.yaml").is_file():
        raise FileFormatError(
            f"'{folder}' is not the folder of a run: it has no .hydra/config.yaml; name the folder "
            "that holds the run's train.log"
        )
    if not overrides and _status(run) == "finished":
        done = f"'{folder}' is finished: nothing is left to do"
        return Resumption(None, Path.cwd(), [done])
    start, job = _recorded_settings(records / "hydra.yaml")
    checkpoint = checkpoint_of(run)
    notes = []
    if checkpoint is None:
        notes.append(f"'{folder}' has no checkpoint: the run starts from its beginning")
    if start != Path.cwd() and start.is_dir():
        notes.append(f"relative paths are those of '{start}', where the run was started")
    arguments = ["--config-path", str(records), "--config-name", "config.yaml"]
    arguments += [f"hydra.run.dir={_quoted(str(run))}", "hydra.output_subdir=null", *job]
    arguments.append(f"++{FORCE_KEY}={str(force).lower()}")
    arguments.append(f"++ckpt_path={_quoted(str(checkpoint)) if checkpoint else 'null'}")
    return Resumption([*arguments, *overrides], start if start.is_dir() else Path.cwd(), notes)


def checkpoint_of(run: Path) -> Path | None:
    """Return the checkpoint to go on from: ours, or the latest below the folder."""
    if (run / _RESTART_FILE).is_file():
        return run / _RESTART_FILE
    found = [path for path in run.rglob("*.ckpt") if path.is_file() and _is_visible(path, run)]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def set_aside_newer(checkpoint: Path, run: Path, folders: Iterable[Path]) -> None:
    """Move checkpoints of steps that are done again out of the way, and remove unfinished files.

    A run that was killed may have written checkpoints after the one it goes on from. It
    writes them again, and Lightning would give those new ones other names.

    Args:
        checkpoint: where the run goes on from.
        run: the folder of the run; the files go to ``superseded/`` in it.
        folders: where its checkpoints are; those outside of `run` are not touched.
    """
    limit = checkpoint.stat().st_mtime_ns
    for folder in sorted({item.resolve() for item in folders if item.is_dir()}):
        if folder != run and run not in folder.parents:
            continue
        for unfinished in folder.glob(".*.ckpt.*"):
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
        for file in sorted(folder.glob("*.ckpt")):
            if file.lstat().st_mtime_ns > limit and file != checkpoint:
                place = run / _SUPERSEDED
                place.mkdir(exist_ok=True)
                file.replace(place / file.name)
                _LOG.info(
                    "'%s' was written after '%s' and will be again: moved to %s/",
                    file,
                    checkpoint.name,
                    _SUPERSEDED,
                )


def _is_visible(path: Path, run: Path) -> bool:
    parts = path.relative_to(run).parts
    aside = parts[0] == _SUPERSEDED or parts[0].startswith("earlier-")
    return not aside and not any(part.startswith(".") for part in parts)


def _status(run: Path) -> str | None:
    try:
        content = json.loads((run / _RUN_FILE).read_text())
    except (OSError, ValueError):
        return None
    return content.get("status") if isinstance(content, dict) else None


def _recorded_settings(file: Path) -> tuple[Path, list[str]]:
    """Return the folder that the run was started in, and overrides that name the job as then."""
    try:
        recorded = yaml.safe_load(require_file(file, "record of the run").read_text())["hydra"]
        start = Path(recorded["runtime"]["cwd"])
        job = [f"hydra.job.name={_quoted(str(recorded['job']['name']))}"]
        if recorded["job"].get("chdir"):
            job.append("hydra.job.chdir=true")
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise FileFormatError(f"'{file}' is not Hydra's record of a run") from error
    return start, job


def _quoted(value: str) -> str:
    """Return a value as Hydra's grammar takes it, whatever characters it has."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
