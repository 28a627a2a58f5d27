"""The event file formats of the DVS cameras: AEDAT 2.0 and 3.1, and 4 through a package."""

import struct

import numpy as np

from snnrun.data.events import Raw
from snnrun.errors import DataError

POLARITY_EVENT = 1  # type of an AEDAT 3.1 packet
PACKET_HEADER = struct.Struct("<HHIIIIII")
WORDS = 8  # bytes of an event: address and time


def aedat2(content: bytes, where: str) -> Raw:
    """AEDAT 2.0 of a DVS128: text header, then big-endian (address, us).

    Coordinates and polarity are mirrored as in the CIFAR10-DVS authors' reader.

    Raises:
        DataError: if the header is another format's or an event is cut off.
    """
    body = content[_header(content, b"#!AER-DAT2.0", where) :]
    _whole(body, where)
    address, t = np.frombuffer(body, ">u4").reshape(-1, 2).T.astype(np.int64)
    x, y, p = (address & 0xFE) >> 1, (address & 0x7F00) >> 8, address & 1
    return Raw(127 - x, y, from_first(t), 1 - p)


def aedat3(content: bytes, where: str) -> Raw:
    """AEDAT 3.1: text header, then packets of little-endian (data, us); valid polarity events.

    Raises:
        DataError: if the header is another format's or a packet is cut off.
    """
    at = _header(content, b"#!AER-DAT3.1", where)
    parts = [np.zeros((0, 2), np.int64)]
    while at < len(content):
        if len(content) - at < PACKET_HEADER.size:
            raise DataError(f"{where}: packet header cut off at byte {at}; truncated?")
        kind, _, size, _, overflow, _, number, _ = PACKET_HEADER.unpack_from(content, at)
        at += PACKET_HEADER.size
        if size == 0 or at + number * size > len(content):
            raise DataError(f"{where}: packet of {number} events cut off at byte {at}; truncated?")
        if kind == POLARITY_EVENT:
            if size != WORDS:
                raise DataError(f"{where}: events of {size} bytes at byte {at}, expected {WORDS}")
            pairs = np.frombuffer(content, "<u4", 2 * number, at).reshape(-1, 2).astype(np.int64)
            pairs[:, 1] += overflow << 31
            parts.append(pairs[(pairs[:, 0] & 1) == 1])
        at += number * size
    data, t = np.concatenate(parts).T
    return Raw((data >> 17) & 0x1FFF, (data >> 2) & 0x1FFF, t, (data >> 1) & 1)


def aedat4(path: str, where: str) -> Raw:
    """AEDAT 4 through the optional package `aedat`.

    Raises:
        DataError: if the package is missing or refuses the file.
    """
    try:
        import aedat
    except ImportError as error:
        raise DataError(
            f"{where}: AEDAT4 needs 'aedat'; fix: pip install 'snnrun[aedat]', or use the "
            "original AEDAT 2.0 files"
        ) from error
    try:
        packets = [packet["events"] for packet in aedat.Decoder(path) if "events" in packet]
    except Exception as error:  # the decoder raises its own kinds
        raise DataError(
            f"{where}: not readable as AEDAT4 ({error}); fix: fetch it again"
        ) from error
    kinds = [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")]
    events = np.concatenate(packets) if packets else np.zeros(0, kinds)
    t = events["t"].astype(np.int64)
    return Raw(events["x"], events["y"], from_first(t), events["on"].astype(np.uint8))


def from_first(t: np.ndarray) -> np.ndarray:
    """Times since the earliest event: these cameras count from when they were switched on."""
    return t - t.min() if len(t) else t


def _header(content: bytes, version: bytes, where: str) -> int:
    """Length of the lines that start with '#', the first of which states the version."""
    if not content.startswith(version):
        found = content[:12].decode("ascii", "replace") or "an empty file"
        raise DataError(f"{where}: starts with {found!r}, expected {version.decode()!r}")
    at = 0
    while content[at : at + 1] == b"#":
        end = content.find(b"\n", at)
        if end < 0:
            raise DataError(f"{where}: header cut off; truncated?")
        at = end + 1
    return at


def _whole(body: bytes, where: str) -> None:
    if len(body) % WORDS:
        raise DataError(
            f"{where}: {len(body)} bytes of events, not a whole number of {WORDS}-byte events; "
            "truncated?"
        )
