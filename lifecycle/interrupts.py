"""Ctrl-C while Lightning works means what it means everywhere else in a run.

Owns nothing but that: left alone, Lightning ends the process with status 1 and without a word of what is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Around a call of the trainer: KeyboardInterrupt comes out, once Lightning has shut down in order."""
    try:
        yield
    except SystemExit:  # what Lightning makes of it
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
