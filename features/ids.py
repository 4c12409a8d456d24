"""The kinds of id, each its own type, so that mypy refuses one where another is meant.

Owns the names alone. Rows and items are made in `catalogue.py`; arrays of ids are int64, their comments say which.
"""

from typing import NewType

ItemId = NewType("ItemId", str)  # public, never reused
QueryId = NewType("QueryId", str)  # who or what asks; public, never reused
ItemRow = NewType("ItemRow", int)  # row of one release's item table: 0 padding, 1 unknown, 2.. the catalogue
VocabId = NewType("VocabId", int)  # embedding row of a value: 0 padding, 1 unknown
