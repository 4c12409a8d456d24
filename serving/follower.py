"""A release that follows its deltas while it is served.

Owns when a new delta is looked for and what a refused one means: the last good one goes on. Loaded inside Triton.
"""

import logging
import threading

from serving.errors import DeltaRefused
from serving.release import Release

logger = logging.getLogger(__name__)


class ReleaseFollower:
    """An opened release at its newest delta, whoever asks; threads may share one.

    Looking costs one lstat, so every request does it. A thread that is reading a new delta keeps the others waiting for
    nothing: they get the one before, and a release that was handed out never changes.
    """

    def __init__(self, release: Release) -> None:
        self._release = release
        self._deltas = release.deltas
        # No mark is true until the first look, which finds what was published while the release was being opened.
        self._mark: tuple[int, int] | None = None
        self._reading = threading.Lock()

    @property
    def release(self) -> Release:
        """At the delta that is current now; at the last good one if that is refused."""
        mark = self._deltas.mark
        if mark != self._mark and self._reading.acquire(blocking=False):
            try:
                self._follow()
                self._mark = mark
            finally:
                self._reading.release()
        return self._release

    def _follow(self) -> None:
        try:
            number = self._deltas.newest
            if number != self._release.delta:
                self._release = self._release.with_delta(self._deltas.read(number))
                logger.info("release %s: delta %d", self._release.release_id, number)
        except DeltaRefused as error:
            # Said once: it is looked at again when `current` is replaced.
            logger.error("delta %d goes on serving: %s", self._release.delta, error)
