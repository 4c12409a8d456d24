"""Errors of stage 1.

TowersError
├── UnfitPieces       settings that are right one by one and wrong together, or for these data (also a ValueError)
├── LossNotFinite     training met a loss that is no number; the message says where the batch lies
├── UnreadableIndex   a file is no index: missing, truncated or of another kind (also a ValueError)
├── UnfitChange       changes of items that do not fit one another or the index; none was made (also a ValueError)
├── UnreadableLog     a file is no log of changes, was damaged, or does not reach what is asked (also a ValueError)
├── GpuMissing        an index is to be searched on a GPU and cannot be (also a RuntimeError)
├── ScannMissing      an index is ScaNN's, which is not installed here (also a RuntimeError)
├── RecallTooLow      a built index finds less of exact search than it must
└── GoalsNotMet       no index is within latency, memory and recall at once; the message has the nearest misses
"""


class TowersError(Exception):
    """Any error of this package."""


class UnfitPieces(TowersError, ValueError):
    """Settings that do not fit one another or the data; the message names them and what would."""


class LossNotFinite(TowersError):
    """A loss is infinite or not a number, so training cannot go on."""


class UnreadableIndex(TowersError, ValueError):
    """A file is no index: missing, truncated or of another kind."""


class UnfitChange(TowersError, ValueError):
    """Changes of items do not fit one another or the index; none of them was made."""


class UnreadableLog(TowersError, ValueError):
    """A file is no log of changes, was damaged, or does not reach what is asked of it."""


class GpuMissing(TowersError, RuntimeError):
    """An index is to be searched on a GPU and cannot be; the message says what is missing."""


class ScannMissing(TowersError, RuntimeError):
    """An index is to be built or searched by ScaNN, which is not installed; the message says how to."""


class RecallTooLow(TowersError):
    """A built index finds less of exact search than it must; the message says how much, and what to do."""


class GoalsNotMet(TowersError):
    """No index that was tried is within latency, memory and recall at once."""
