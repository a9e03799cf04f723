"""Names that reach out of a computation: to processes, files, the network, other code.

An audit shows where the code in a package uses one of them. Most uses are harmless; a package
without any needs no second look.
"""

from __future__ import annotations

import re

__all__ = ["HIDING_ATTRIBUTES", "ORDINARY_IN_PICKLES", "holds_notable", "notable"]

# What is reached -> dotted names; a name ending in a dot stands for all that is below it.
_NOTABLE: dict[str, tuple[str, ...]] = {
    "runs other code": (
        "builtins.exec", "builtins.eval", "builtins.compile", "builtins.__import__",
        "importlib.", "runpy.", "code.", "codeop.", "marshal.", "imp.", "zipimport.",
        "types.FunctionType", "types.CodeType", "pkgutil.", "pydoc.", "timeit.", "bdb.", "pdb.",
        "torch.fx.graph_module.",
    ),
    "unpickles": (
        "pickle.", "_pickle.", "cPickle.", "dill.", "cloudpickle.", "joblib.", "shelve.",
        "torch.load", "torch.jit.load", "torch.package.", "numpy.load", "pandas.read_pickle",
        "torch.serialization.load", "copyreg.",
    ),
    "loads native code": (
        "ctypes.", "_ctypes.", "cffi.", "torch.utils.cpp_extension.", "torch.ops.load_library",
        "torch.classes.load_library", "torch._ops.ops.load_library",
    ),
    "starts processes": (
        "subprocess.", "_posixsubprocess.", "pty.", "multiprocessing.", "concurrent.futures.",
        "os.system", "os.popen", "os.fork", "os.forkpty", "os.kill", "posix.", "nt.",
        "os.execl", "os.execle", "os.execlp", "os.execlpe", "os.execv", "os.execve", "os.execvp",
        "os.execvpe", "os.spawnl", "os.spawnle", "os.spawnlp", "os.spawnv", "os.spawnve",
        "os.spawnvp", "os.posix_spawn", "os.startfile", "webbrowser.", "signal.",
    ),
    "uses the network": (
        "socket.", "_socket.", "ssl.", "urllib.", "http.", "requests.", "httpx.", "aiohttp.",
        "ftplib.", "smtplib.", "telnetlib.", "xmlrpc.", "asyncio.", "socketserver.", "poplib.",
        "imaplib.", "torch.hub.", "torch.distributed.rpc.",
    ),
    "touches files": (
        "builtins.open", "io.open", "io.FileIO", "io.open_code", "os.open", "os.remove",
        "os.unlink", "os.rename", "os.replace", "os.rmdir", "os.removedirs", "os.makedirs",
        "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.listdir",
        "os.scandir", "os.walk", "shutil.", "pathlib.", "tempfile.", "glob.", "fileinput.",
        "zipfile.", "tarfile.", "sqlite3.", "torch.save", "numpy.save", "numpy.fromfile",
        "torch.from_file", "mmap.",
    ),
    "looks at or changes the process": (
        "os.environ", "os.environb", "os.getenv", "os.putenv", "os.setuid", "os.chdir", "sys.path",
        "sys.modules", "sys.meta_path", "sys.path_hooks", "sys.settrace", "sys.setprofile",
        "sys._getframe", "builtins.globals", "builtins.__build_class__", "gc.", "atexit.",
        "faulthandler.", "site.", "threading.", "inspect.currentframe", "inspect.stack",
    ),
    "may hide code": (
        "base64.", "binascii.", "codecs.", "zlib.decompress", "bz2.", "lzma.", "gzip.",
    ),
}  # fmt: skip
_EXACT = {name: why for why, names in _NOTABLE.items() for name in names if name[-1] != "."}
_BELOW = {name[:-1]: why for why, names in _NOTABLE.items() for name in names if name[-1] == "."}

_ORDINARY = {"importlib.metadata", "os.path", "pickle.dump", "pickle.dumps"}

HIDING_ATTRIBUTES = frozenset(
    ("__subclasses__", "__globals__", "__builtins__", "__code__", "__closure__", "__loader__")
)
"""Attributes through which code reaches names that it does not spell."""

ORDINARY_IN_PICKLES = re.compile(
    r"""
    collections\.(OrderedDict|defaultdict)
    | builtins\.(set|frozenset|slice|complex|int|float|bool|list|dict|tuple|bytes|bytearray|str
        |range|object)
    | copyreg\._reconstructor
    | functools\.partial
    | math\.\w+
    | numpy\.(dtype|ndarray)
    | numpy\.(_core|core)\.multiarray\.(_reconstruct|scalar)
    | torch\.\w+Storage
    | torch\.storage\.\w+Storage
    | torch\.(device|Size|Tensor|dtype|strided|bool|complex64|complex128|b?float\w*|u?int\d+)
    | torch\._utils\._rebuild_\w+
    | torch\.serialization\._get_layout
    | torch\.nn\.parameter\.\w+
    | torch\.nn\.modules\.\w+\.\w+
    | torch\.nn\.functional\.\w+
    | torch\.fx\.graph_module\.reduce_package_graph_module
    | torch\.jit\._script\.unpackage_script_module
    """,
    re.VERBOSE,
)
"""What the pickle of a model imports from outside of its package in the ordinary course."""


def notable(name: str) -> str | None:
    """Return what a dotted name reaches, e.g. ``starts processes``, or None.

    ``package.module.os.system`` is ``os.system`` by a detour and reaches the same.
    """
    parts = name.split(".")
    for start in range(len(parts)):
        found = _spelled_out(parts[start:])
        if found:
            return found
    return None


def holds_notable(module: str) -> bool:
    """Tell whether a module of this name has anything notable in it."""
    return module in _BELOW or any(name.startswith(f"{module}.") for name in (*_EXACT, *_BELOW))


def _spelled_out(parts: list[str]) -> str | None:
    if ".".join(parts[:2]) in _ORDINARY:
        return None
    for depth in range(1, len(parts) + 1):
        beginning = ".".join(parts[:depth])
        found = _BELOW.get(beginning) or _EXACT.get(beginning)
        if found:
            return found
    return None
