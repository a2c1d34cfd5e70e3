"""Which of N machines or processes does an item: a pure function of its name, so that none needs to ask another."""

from __future__ import annotations

import hashlib


def in_shard(identity: str, index: int, count: int) -> bool:
    """Whether shard `index` of 0..count-1 does the item of this name."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count == index
