"""Checkpoint metadata, kept in .nbq files and restored on decompression."""

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

MOST_METADATA = 1 << 20  # bytes as JSON, a quarter of the largest header
OWN = "nbquant"  # key under which decompressed files record their quantization


def merged_metadata(files: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Merge the metadata of all files of a checkpoint, without contradictions.

    A record of :func:`nbquant.decompress` from an earlier quantization is left out. If the total exceeds the limit of a
    .nbq file, the longest entries are left out.

    Args:
        files: The metadata of each file.

    Warns:
        UserWarning: Entries left out because of the limit, or because the files contradict each other.
    """
    found: dict[str, str] = {}
    left: set[str] = set()
    for metadata in files:
        left |= {key for key, value in metadata.items() if found.setdefault(key, value) != value}
    kept = {key: value for key, value in found.items() if key != OWN and key not in left}
    while metadata_size(kept) > MOST_METADATA:
        longest = max(kept, key=lambda key: len(key) + len(kept[key]))
        left.add(longest)
        del kept[longest]
    if left:
        named = ", ".join(repr(key[:40]) for key in sorted(left)[:3])
        warnings.warn(
            f"{len(left)} of {len(found)} metadata entries ({named}{', …' if len(left) > 3 else ''}) are left out: at "
            f"most {MOST_METADATA:,} bytes are kept, and all files of a checkpoint must agree on them.",
            stacklevel=2,
        )
    return kept


def metadata_size(metadata: Mapping[str, str]) -> int:
    """Compute the size in a header [byte]."""
    return len(json.dumps(metadata, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))


def is_metadata(value: Any) -> bool:
    """Whether a value of a header is an object of strings within the size limit."""
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        return False
    return metadata_size(value) <= MOST_METADATA
