"""An index that lives: it is searched while items are added, updated and deleted.

Owns the present snapshot, its swap (one assignment, so a search has one state from end to end) and what runs beside:
merging, and ticks of popularity. Changes come from the log alone, one's own and those of other processes.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from towers.index.build import IndexBuilder
from towers.index.change_log import ChangeLog
from towers.index.changes import Changes
from towers.index.search import ItemIndex
from towers.index.snapshot import Snapshot

logger = logging.getLogger(__name__)
FEW_LEFT = 8  # changes that are made again while other changes wait; more are made before
AT_ONCE = 1024  # changes that one who is behind makes in one go


class LiveIndex:
    """Holds the present snapshot; every method may be called from any thread.

    Args:
        base: as built, or read.
        builder: of merged bases.
        log_path: of the log of changes, made where there is none.
        seen: number of the last change that `base` has.
        merge_share: of the base; beyond so many changed items a merge begins by itself.
        heard: told each change and its number, in their order, before anybody finds it: whoever keeps tables of items
            beside the index. Called within `apply` and `catch_up`, and at once for what the log has; it must not ask
            for either.

    Raises:
        UnreadableLog: the log is damaged, or does not fit the base.
    """

    def __init__(
        self,
        base: ItemIndex,
        *,
        builder: IndexBuilder,
        log_path: Path,
        seen: int = 0,
        merge_share: float = 0.1,
        heard: Callable[[int, Changes], None] | None = None,
    ) -> None:
        self._builder = builder
        self._merge_share = merge_share
        self._heard = heard
        self._snapshot = Snapshot(base, seen=seen)
        self._log = ChangeLog(log_path, width=base.width, seen=seen)
        self._changing = threading.Lock()  # of the log, and of who assigns the snapshot
        self._rebuilding = threading.Lock()  # one merge or tick at a time
        self._since: list[Changes] | None = None  # changes since the rebuilding that runs began
        self._merging: threading.Thread | None = None
        self.catch_up()

    @property
    def snapshot(self) -> Snapshot:
        """The present one, to be taken once for all that a request asks; `seen` says how far it has come."""
        return self._snapshot

    @property
    def is_rebuilding(self) -> bool:
        """Whether a merge or a tick runs, for which the next one would wait."""
        return self._rebuilding.locked()

    def apply(self, changes: Changes | Callable[[Snapshot], Changes]) -> int:
        """Make changes; returns their number. From then on every search has them here, and no crash loses them.

        Args:
            changes: or what makes them of the present state, which nobody else changes meanwhile.

        Raises:
            UnfitChange: they do not fit the index as it is; none was made.
            OSError: the log could not be written.
        """
        with self._changing, self._log.appending():
            self._follow()
            made = changes if isinstance(changes, Changes) else changes(self._snapshot)
            changed = self._snapshot.with_changes(made)
            number = self._log.append(made)
            self._publish(changed, [made])
        self._merge_if_due()
        return number

    def catch_up(self) -> int:
        """Make the changes that other processes have logged by now; returns the last's number. Call it all the time.

        Raises:
            UnreadableLog: the log was damaged.
        """
        with self._changing:
            self._follow()
            seen = self._snapshot.seen
        self._merge_if_due()
        return seen

    def tick(self, values: NDArray[np.float32]) -> None:
        """Give items another last coordinate, [R] by ItemRow; what is changed meanwhile keeps the one it came with."""
        self._rebuild(lambda snapshot: snapshot.with_last(values))

    def merge(self) -> None:
        """Build the base anew with all changes in it; searches and changes go on."""
        self._rebuild(lambda snapshot: snapshot.merged(self._builder))

    def wait(self) -> None:
        """Until the merge that runs, if any, has ended."""
        if self._merging is not None:
            self._merging.join()

    def close(self) -> None:
        """End; a merge that runs is waited for."""
        self.wait()
        self._log.close()

    def _follow(self) -> None:
        some: list[Changes] = []
        try:
            for changes in self._log.new():
                some.append(changes)
                if len(some) == AT_ONCE:
                    self._publish(self._snapshot.with_all(some), some)
                    some = []
        finally:  # of a log that is damaged further on, what comes before
            if some:
                self._publish(self._snapshot.with_all(some), some)

    def _publish(self, snapshot: Snapshot, changes: Sequence[Changes]) -> None:
        if self._heard is not None:
            for number, own in enumerate(changes, start=self._snapshot.seen + 1):
                self._heard(number, own)
        if self._since is not None:
            self._since.extend(changes)
        self._snapshot = snapshot

    def _rebuild(self, make: Callable[[Snapshot], Snapshot]) -> None:
        with self._rebuilding:
            with self._changing:
                before, since = self._snapshot, list[Changes]()
                self._since = since
            try:
                built, made = make(before), 0
                while len(since) - made > FEW_LEFT:
                    some = since[made : made + AT_ONCE]
                    built, made = built.with_all(some), made + len(some)
                with self._changing:
                    self._snapshot = built.with_all(since[made:]) if since[made:] else built
            finally:
                self._since = None

    def _merge_if_due(self) -> None:
        snapshot = self._snapshot
        num_base = sum(len(part.rows) for part in snapshot.base.parts)
        if snapshot.num_changed <= self._merge_share * num_base or len(snapshot.index) == 0:
            return
        with self._changing:
            if self._merging is None or not self._merging.is_alive():
                self._merging = threading.Thread(target=self._merge_or_say, name="index merge", daemon=True)
                self._merging.start()

    def _merge_or_say(self) -> None:
        try:
            self.merge()
        except Exception:
            # The former base and the delta go on answering; the next change tries again.
            logger.exception(
                "an index could not be merged; %d changed items stay beside it", self._snapshot.num_changed
            )
