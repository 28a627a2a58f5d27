"""Random streams that depend on nothing but their key."""

import hashlib

import torch


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by its whole key, e.g. (seed, epoch, batch).

    Hashing keeps neighbouring keys unrelated: (0, 1) and (1, 0) share nothing.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
