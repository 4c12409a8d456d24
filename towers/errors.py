"""Errors of stage 1.

TowersError
├── UnfitPieces       settings that are right one by one and wrong together, or for these data (also a ValueError)
└── LossNotFinite     training met a loss that is no number; the message says where the batch lies
"""


class TowersError(Exception):
    """Any error of this package."""


class UnfitPieces(TowersError, ValueError):
    """Settings that do not fit one another or the data; the message names them and what would."""


class LossNotFinite(TowersError):
    """A loss is infinite or not a number, so training cannot go on."""
