"""Compilation for others: entry ``aotinductor`` of the group ``nequip.compilers``."""

from __future__ import annotations

from nequip_compile.cache.provision import compiled_file
from nequip_compile.compilation import Compilation
from nequip_core.compile_request import CompiledFile, CompileRequest
from nequip_core.digests import file_digest
from nequip_core.files import require_file

__all__ = ["compile_here"]


def compile_here(request: CompileRequest) -> CompiledFile:
    """Return a ``.nequip.pt2`` file that answers a request, from the cache or compiled now.

    Progress goes to standard error. Where nothing can be kept, the file lives as long as the
    process.

    Raises:
        CompileError: compiling is impossible here, fails, or has failed a short time ago.
        NequIPError: what is asked for has to be corrected.
    """
    source = require_file(request.source, "saved model")
    compilation = Compilation(
        path=source,
        digest=file_digest(source),
        name=request.name or source.name,
        device=request.device,
        model_name=request.model_name,
        modifiers=request.modifiers,
        tf32=request.tf32,
        trust_code=request.trust_code,
    )
    return CompiledFile(*compiled_file(compilation, request.target, request.retry))
