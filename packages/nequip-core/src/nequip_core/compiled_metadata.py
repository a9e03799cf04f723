"""What compiled models state about themselves, read without torch and without running anything.

| metadata key | value (all are strings) | pt2 | pth |
|---|---|---|---|
| `model_dtype` | `float32` or `float64`; inputs and outputs are float64 either way | x | x |
| `type_names` | type names separated by spaces, in the order of the type index | x | x |
| `num_types` | number of types | x | x |
| `r_max` | cutoff radius, length | x | x |
| `per_edge_type_cutoff` | where set: row-major table, row = centre type, spaces between | x | x |
| `allow_tf32` | `0` or `1` | x | x |
| `nequip_aoti_inputs`, `nequip_aoti_outputs` | fields in positional order | x | |
| `nequip_inputs`, `nequip_outputs` | fields by name that go in and come out | | x |
| `nequip_custom_ops_libs` | where needed: modules to import first, separated by spaces | x | x |
| `nequip_torch_version`, `nequip_core_version`, `nequip_compile_version` | versions that wrote the file | x | x |
| `nequip_source` | file name, or reference, of the saved model it was compiled from | x | x |
| `nequip_source_digest` | SHA-256 of that file, hexadecimal | x | x |
| `nequip_source_model` | which model of it | x | x |
| `nequip_modifiers` | modifiers that were applied, in order, separated by spaces | x | x |
| `nequip_target` | name of the compile target, `custom` for fields of one's own | x | x |
| `nequip_cpu_features` | instruction sets of the processor that compiled it, for `cpu` | x | |
| `nequip_facts` | where stated: units and training range, JSON text, see `nequip_core.stated_facts` | x | x |
| `nequip_sizes` | where bounded: `min,max` of frames, atoms and edges in a call, separated by spaces | x | |
| `AOTI_...` | device, platform and processor features, written by torch | x | |

A ``.nequip.pt2`` keeps them in torch's metadata file, a ``.nequip.pth`` as one extra file each.
In folder ``extra`` of either, `REPORT_NAME` is the report of the comparison with the eager model,
JSON text.
"""  # noqa: E501

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from nequip_core.cutoffs import cutoff_table_from_text
from nequip_core.errors import FileFormatError
from nequip_core.files import require_file, require_suffix

__all__ = [
    "AOTINDUCTOR_SUFFIX",
    "COMPILED_SUFFIXES",
    "CORE_VERSION_KEY",
    "INPUTS_KEY",
    "MODIFIERS_KEY",
    "OUTPUTS_KEY",
    "REPORT_NAME",
    "SCRIPT_INPUTS_KEY",
    "SCRIPT_OUTPUTS_KEY",
    "SIZES_KEY",
    "SOURCE_DIGEST_KEY",
    "SOURCE_KEY",
    "SOURCE_MODEL_KEY",
    "TARGET_KEY",
    "TF32_KEY",
    "TORCHSCRIPT_SUFFIX",
    "read_compiled_metadata",
    "read_verification_report",
    "require_compiled_metadata",
    "require_intact",
]

AOTINDUCTOR_SUFFIX = ".nequip.pt2"
TORCHSCRIPT_SUFFIX = ".nequip.pth"
COMPILED_SUFFIXES = (AOTINDUCTOR_SUFFIX, TORCHSCRIPT_SUFFIX)
INPUTS_KEY = "nequip_aoti_inputs"
OUTPUTS_KEY = "nequip_aoti_outputs"
SCRIPT_INPUTS_KEY = "nequip_inputs"
SCRIPT_OUTPUTS_KEY = "nequip_outputs"
TF32_KEY = "allow_tf32"
CORE_VERSION_KEY = "nequip_core_version"
SOURCE_KEY = "nequip_source"
SOURCE_DIGEST_KEY = "nequip_source_digest"
SOURCE_MODEL_KEY = "nequip_source_model"
MODIFIERS_KEY = "nequip_modifiers"
TARGET_KEY = "nequip_target"
SIZES_KEY = "nequip_sizes"
REPORT_NAME = "nequip_verification.json"

_MODEL_KEYS = ("type_names", "num_types", "r_max", "model_dtype")
_BOUNDS = re.compile(r"(\d+,(\d+|inf)( \d+,(\d+|inf)){2})?", re.ASCII)
# No text of a model is near this; a member that claims more is not one of ours.
_LARGEST_TEXT = 10_000_000
# What reading a damaged archive raises.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)


def read_compiled_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a compiled model, without importing torch or running anything.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the file is not a compiled model, or is damaged.
    """
    found = _compiled_file(path)
    try:
        with zipfile.ZipFile(found) as archive:
            if found.name.endswith(TORCHSCRIPT_SUFFIX):
                return _extra_files(archive, found)
            return _aotinductor_metadata(archive, found)
    except _DAMAGED as error:
        raise _damaged(found, error) from error


def read_verification_report(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the report of the comparison with the eager model, None if the file has none.

    Raises:
        MissingFileError: there is no such file.
        FileFormatError: the file is not a compiled model, or is damaged.
    """
    found = _compiled_file(path)
    try:
        with zipfile.ZipFile(found) as archive:
            members = [
                name for name in archive.namelist() if name.endswith(f"/extra/{REPORT_NAME}")
            ]
            if not members:
                return None
            report = json.loads(_text(archive, members[-1], found))
    except (*_DAMAGED, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise _damaged(found, error) from error
    if not isinstance(report, dict):
        raise FileFormatError(f"{REPORT_NAME} in '{found}' is no report")
    return report


def require_compiled_metadata(metadata: dict[str, str], path: Path) -> None:
    """Check that everything that running a compiled model needs is stated, and readable.

    Raises:
        FileFormatError: something is missing or contradicts itself.
    """
    script = path.name.endswith(TORCHSCRIPT_SUFFIX)
    required = _MODEL_KEYS if script else (*_MODEL_KEYS, INPUTS_KEY, OUTPUTS_KEY)
    missing = [key for key in required if not metadata.get(key, "").strip()]
    if missing:
        raise FileFormatError(
            f"'{path}' is a {'TorchScript' if script else 'AOTInductor'} file without the metadata "
            f"{missing}: it was not made by nequip-compile, or by too old a version; compile the "
            "model again"
        )
    names = metadata["type_names"].split()
    try:
        number, cutoff = int(metadata["num_types"]), float(metadata["r_max"])
    except ValueError:
        number, cutoff = -1, -1.0
    if number != len(names) or len(set(names)) != len(names) or not 0.0 < cutoff < float("inf"):
        raise FileFormatError(
            f"the metadata of '{path}' contradict themselves: type_names {names}, num_types "
            f"'{metadata['num_types']}', r_max '{metadata['r_max']}'; compile the model again"
        )
    try:
        cutoff_table_from_text(metadata.get("per_edge_type_cutoff"), number)
    except ValueError as error:
        raise FileFormatError(f"the metadata of '{path}' are damaged: {error}") from error
    if not _BOUNDS.fullmatch(metadata.get(SIZES_KEY, "")):
        raise FileFormatError(
            f"{SIZES_KEY} in the metadata of '{path}' must be min,max of frames, atoms and edges, "
            f"got '{metadata[SIZES_KEY]}'; compile the model again"
        )
    if metadata["model_dtype"] not in ("float32", "float64"):
        raise FileFormatError(
            f"model_dtype in the metadata of '{path}' must be float32 or float64, got "
            f"'{metadata['model_dtype']}'"
        )
    tf32 = metadata.get(TF32_KEY, "0")
    if tf32 not in ("0", "1") or (tf32 == "1" and metadata["model_dtype"] == "float64"):
        raise FileFormatError(
            f"the metadata of '{path}' contradict themselves: {TF32_KEY} '{tf32}' (0, or for "
            f"float32 models 1) and model_dtype {metadata['model_dtype']}; compile the model again"
        )


def require_intact(path: Path) -> None:
    """Check the content of a compiled file against its checksums.

    torch does not: damaged weights would be loaded, and damaged native code run.

    Raises:
        FileFormatError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"the checksum of '{bad}' is another")
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _compiled_file(path: str | os.PathLike[str]) -> Path:
    return require_file(require_suffix(path, COMPILED_SUFFIXES, "compiled model"), "compiled model")


def _damaged(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(
        f"'{path}' is not a compiled model, or is damaged or cut short ({error}); "
        "copy it again or compile the model again"
    )


def _text(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    size = archive.getinfo(name).file_size
    if size > _LARGEST_TEXT:
        raise FileFormatError(f"'{name}' in '{path}' is {size} bytes, too many for metadata")
    return archive.read(name).decode("utf-8", errors="replace")


def _aotinductor_metadata(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    members = [
        name
        for name in archive.namelist()
        # torch 2.7 writes no folder of the archive's name on top, later versions do.
        if "/data/aotinductor/model/" in f"/{name}" and name.endswith("_metadata.json")
    ]
    # The kernel and the wrapper carry the same metadata; older files have the wrapper's.
    members.sort(key=lambda name: not name.endswith("wrapper_metadata.json"))
    try:
        metadata = json.loads(_text(archive, members[0], path) if members else "")
        return {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, AttributeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(
            f"'{path}' holds no AOTInductor model: its metadata is missing or damaged"
        ) from error


def _extra_files(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    names = archive.namelist()
    tops = [name.partition("/")[0] for name in names if name.endswith("/constants.pkl")]
    if len(tops) != 1 or not any(name.startswith(f"{tops[0]}/code/") for name in names):
        raise FileFormatError(f"'{path}' holds no TorchScript model: it has no TorchScript code")
    prefix = f"{tops[0]}/extra/"
    return {
        name.removeprefix(prefix): _text(archive, name, path)
        for name in names
        if name.startswith(prefix) and name != f"{prefix}{REPORT_NAME}"
    }
