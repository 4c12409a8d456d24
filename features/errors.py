"""What can go wrong between a raw log and the arrays that models read.

FeaturesError
├── SourceError
│   ├── SourceMissing     a raw file or the package that holds it is not there
│   └── SourceDamaged     the file is there and cannot be read as what it should be
├── SchemaMismatch        a table lacks a column, or a column has another type
├── EngineUnusable        what runs the ETL cannot start here, or broke off
├── StoreUnavailable      the online store does not answer, or not in time
├── LabelError            an event that the configured labels cannot grade
└── SplitLeak             rows of one split that another split must not know

They are named for what is wrong, as the errors of the other packages are, hence the `noqa: N818`.
"""


class FeaturesError(Exception):
    """Any error of this package."""


class SourceError(FeaturesError):
    """A dataset's raw files cannot be read."""


class SourceMissing(SourceError):
    """A raw file or the package that holds it is not there; the message says how to get it."""


class SourceDamaged(SourceError):
    """A raw file is there and is not what it should be."""


class SchemaMismatch(FeaturesError):
    """A table's columns are not those that were agreed."""


class EngineUnusable(FeaturesError):
    """The engine that was asked for cannot start here, or broke off; the message says what it lacks."""


class StoreUnavailable(FeaturesError):
    """The online store does not answer; the message says which, and what to do."""


class LabelError(FeaturesError):
    """An event has no label under the configured rules."""


class SplitLeak(FeaturesError):
    """One split holds what another must not know.

    Args:
        message: what leaks, and what to do.
        source_rows: the offending rows of the raw log, first ones first.
    """

    def __init__(self, message: str, *, source_rows: list[int]) -> None:
        super().__init__(message)
        self.source_rows = source_rows
