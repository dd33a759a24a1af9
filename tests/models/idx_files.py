"""Idx files written by hand."""

import gzip
import struct


def idx(*sizes, content=None, magic=None):
    head = magic if magic is not None else bytes((0, 0, 8, len(sizes)))
    count = 1
    for size in sizes:
        count *= size
    return head + struct.pack(f">{len(sizes)}I", *sizes) + (bytes(count) if content is None else content)


def write_set(folder, images=3, labels=None, label=0):
    labels = images if labels is None else labels
    for split in ("train", "t10k"):
        with gzip.open(folder / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(idx(images, 28, 28))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels, content=bytes([label]) * labels))
    return folder
