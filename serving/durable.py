"""Files that are whole or not there: their hashes, and reaching the disk before anybody may see them.

Owns nothing but that. Loaded inside Triton.
"""

import hashlib
import os
from pathlib import Path


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(directory: Path) -> None:
    """Let a directory and all that lies in it reach the disk."""
    for path in (directory, *directory.rglob("*")):
        if path.is_file() or path.is_dir():
            sync(path)


def sync(path: Path) -> None:
    """Let a file, or the names in a directory, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
