"""How a script ends when something foreseen went wrong: one message, no stack, a meaningful exit status."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from evaluation.errors import EvaluationError
from features.errors import FeaturesError
from lifecycle.steps import MissingInput, Occupied
from serving.errors import ServingError
from towers.errors import TowersError

INTERRUPTED = 130
# Said by libraries to their own developers, at every run.
LIBRARY_CHATTER = (
    r".*isinstance\(treespec, LeafSpec\)",
    r".*Checkpoint directory .* exists and is not empty",
    r"Total length of `list` across ranks is zero",
    r".*does not have many workers",
    r"The number of training batches .* is smaller than the logging interval",
    r"Experiment logs directory .* exists and is not empty",
)

logger = logging.getLogger(__name__)

# A ValueError is what our constructors and loaders raise at a setting or a file that cannot be; OSError is the disk's.
FORESEEN = (FeaturesError, EvaluationError, TowersError, ServingError, MissingInput, Occupied, ValueError, OSError)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the errors that our packages raise on purpose, and Ctrl-C, into an exit with their message."""
    try:
        with warnings.catch_warnings():
            for message in LIBRARY_CHATTER:
                warnings.filterwarnings("ignore", message=message)
            yield
    except FORESEEN as error:
        logger.debug("where it came from", exc_info=True)  # shown by hydra.verbose=true
        logger.error("%s: %s", type(error).__name__, error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        logger.error("interrupted; finished steps are kept, the same command goes on from here")
        raise SystemExit(INTERRUPTED) from None
