"""The IDX format of the MNIST family, plain or gzipped, read with every doubt spelled out.

Layout: big-endian u32 magic (0x800 + number of dimensions for bytes), one u32 per dimension, bytes.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from snnrun.errors import DataError

UNSIGNED_BYTES = 0x800


def read_idx(path: Path, *, dims: int, where: str) -> tuple[Tensor, str]:
    """Content of one IDX file of bytes.

    Args:
        path: plain, or gzipped if it ends in `.gz`.
        dims: number of dimensions the file must have (3 images, 1 labels).
        where: `dataset/split`, for messages.

    Returns:
        uint8 tensor of the stated shape, and the md5 of the decompressed file.

    Raises:
        DataError: if the file is truncated, not what it claims to be, or not readable.
    """
    content = _content(path, where)
    header = 4 + 4 * dims
    if not content:
        raise damaged(where, path, "empty file")
    magic = int.from_bytes(content[:4], "big")
    if magic != UNSIGNED_BYTES + dims:
        found = f"bad magic {magic:#x}, expected {UNSIGNED_BYTES + dims:#x}"
        raise damaged(where, path, found + looks_like(content))
    if len(content) < header:
        raise damaged(where, path, f"header cut off after {len(content)} bytes")
    shape = struct.unpack(f">{dims}I", content[4:header])
    _check_length(len(content) - header, shape, path, where)
    values = torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).view(shape)
    return values, hashlib.md5(content, usedforsecurity=False).hexdigest()


def damaged(where: str, path: Path, found: str) -> DataError:
    """The error for a file that has to be replaced."""
    return DataError(f"{where}: {path.name}: {found}; file: {path}; fix: delete and fetch it again")


def _content(path: Path, where: str) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except EOFError as error:
        raise damaged(where, path, f"truncated ({len(raw)} bytes read)") from error
    except gzip.BadGzipFile as error:
        if raw[:2] == b"\x1f\x8b":
            raise damaged(where, path, "corrupt, its checksum does not match") from error
        raise damaged(where, path, f"not gzip{looks_like(raw)}") from error
    except zlib.error as error:
        raise damaged(where, path, "corrupt, cannot be decompressed") from error
    except OSError as error:
        raise DataError(f"{where}: {path} cannot be read: {error.strerror}") from error


def looks_like(content: bytes) -> str:
    """What a file that is not what it should be may be instead; empty if there is no guess."""
    if content.lstrip()[:1] == b"<":
        return "; looks like an HTML page, the download probably failed"
    return ""


def _check_length(size: int, shape: tuple[int, ...], path: Path, where: str) -> None:
    each = math.prod(shape[1:])
    if each == 0 or shape[0] == 0:
        raise damaged(where, path, f"states shape {'x'.join(map(str, shape))}")
    if size != shape[0] * each:
        kind = "images" if len(shape) == 3 else "labels"
        found = f"holds {size // each} of {shape[0]} {kind}"
        raise damaged(where, path, found if size < shape[0] * each else "longer than it states")
