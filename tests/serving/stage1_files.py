"""A stage 1 in memory as files again, for tests that read it back."""

from pathlib import Path
from typing import Any

from serving.retrieval import Stage1, write_tables


def write_again(stage1: Stage1, directory: Path, *, tokenizer_json: Path, **changed: Any) -> None:
    """Its tables with some of them changed."""
    names = "spec vocabularies catalogue items item_embeddings recommendable statistics neighbours".split()
    tables = {name: getattr(stage1, name) for name in names} | changed
    write_tables(directory, tokenizer_json=tokenizer_json, **tables)
