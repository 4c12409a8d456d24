"""Errors of the evaluation package.

EvaluationError
├── InvalidLists       ranked lists, relevant items or score matrices that cannot be evaluated (also a ValueError)
├── InvalidSample      values from which no interval or percentile can be computed (also a ValueError)
├── InvalidReport      a report that does not match report_schema.json, with the place that differs
└── ParityFailed       two paths that should have made the same arrays did not
"""


class EvaluationError(Exception):
    """Base of every error raised here."""


class InvalidLists(EvaluationError, ValueError):
    """Ranked lists, relevant items or scores that cannot be evaluated."""


class InvalidSample(EvaluationError, ValueError):
    """Values from which no interval or percentile can be computed."""


class InvalidReport(EvaluationError):
    """A report that does not match its schema."""


class ParityFailed(EvaluationError):
    """Arrays that should be the same are not."""
