"""The client's side of i-PI's sockets: positions come in, energy, forces and virial go out.

Protocol: https://docs.ipi-code.org, "Communication protocol". Headers have 12 characters; numbers
are int32 and float64 of the machine.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import numpy as np

from nequip_core.errors import ConfigError, DataError

__all__ = ["Potential", "connected", "serve"]

Potential = Callable[[np.ndarray, np.ndarray], Any]
"""From cell (3, 3), vectors as columns, and positions (N, 3), Bohr, to energy, forces, virial, text."""  # noqa: E501

_HEADER = 12
_CELL = 9


def connected(address: str, port: int | None) -> socket.socket:
    """Return a socket that is connected to i-PI.

    Args:
        address: host, or for a Unix socket its path.
        port: None for a Unix socket.

    Raises:
        ConfigError: nothing listens there.
    """
    try:
        if port is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(address)
            return connection
        return socket.create_connection((address, port))
    except OSError as error:
        where = address if port is None else f"{address}:{port}"
        raise ConfigError(
            f"i-PI does not listen at {where} ({error.strerror}); start i-PI first, and give the "
            "address and port of its input file"
        ) from error


def serve(connection: socket.socket, potential: Potential) -> int:
    """Answer until i-PI has enough; return how many structures were computed.

    Raises:
        DataError: i-PI sends what is no message, or asks for batches.
        NequIPError: of the potential.
    """
    state, computed = b"NEEDINIT", 0
    result: Any = None
    while header := _received(connection, _HEADER, may_end=True):
        message = header.strip()
        if message == b"STATUS":
            _send(connection, state)
        elif message == b"INIT":
            _numbers(connection, np.int32, 1)
            text = _received(connection, int(_numbers(connection, np.int32, 1)[0]))
            if any(part.strip().startswith(b"batch_size") for part in text.split(b",")):
                raise DataError("i-PI asks for batches over the socket; set batch_size to 1")
            state = b"READY"
        elif message == b"POSDATA":
            cell = _numbers(connection, np.float64, _CELL).reshape(3, 3)
            _numbers(connection, np.float64, _CELL)  # the inverse
            atoms = int(_numbers(connection, np.int32, 1)[0])
            positions = _numbers(connection, np.float64, 3 * atoms).reshape(-1, 3)
            result = potential(cell, positions)
            state, computed = b"HAVEDATA", computed + 1
        elif message == b"GETFORCE":
            energy, forces, virial, extra = result
            _send(connection, b"FORCEREADY")
            text = extra.encode()
            for part in (
                np.float64(energy),
                np.int32(len(forces)),
                np.asarray(forces, np.float64),
                np.asarray(virial, np.float64),
                np.int32(len(text)),
            ):
                connection.sendall(part.tobytes())
            connection.sendall(text)
            state = b"READY"
        elif message == b"EXIT":
            break
        else:
            raise DataError(f"i-PI sent {header!r}, which is no message of its protocol")
    return computed


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message.ljust(_HEADER))


def _received(connection: socket.socket, size: int, may_end: bool = False) -> bytes:
    parts, missing = [], size
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            if may_end and missing == size:
                return b""
            raise DataError("i-PI closed the connection in the middle of a message")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _numbers(connection: socket.socket, dtype: Any, count: int) -> np.ndarray:
    data = _received(connection, count * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).copy()
