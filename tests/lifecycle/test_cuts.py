import numpy as np

from features.dataset import Dataset
from lifecycle.cuts import CUTS, FOLD, REFIT


def test_no_cut_knows_a_test_event() -> None:
    assert all("test" not in cut.splits for cut in CUTS)


def test_the_fold_knows_nothing_that_a_ranker_learns_from_or_stops_by() -> None:
    assert set(FOLD.splits) & {"ranking", "validation"} == set()
    assert FOLD.validation == "validation"


def test_the_refit_knows_all_but_the_test_events_and_so_has_nothing_to_stop_by() -> None:
    assert set(REFIT.splits) == {"train", "ranking", "validation"}
    assert REFIT.validation is None


def test_the_fold_comes_first_since_it_decides_how_long_the_refit_trains() -> None:
    assert CUTS == (FOLD, REFIT)
    assert len({cut.name for cut in CUTS}) == 2


def test_in_a_real_log_what_a_cut_knows_of_a_query_comes_before_what_it_does_not(smoke_dataset: Dataset) -> None:
    events = smoke_dataset.events
    for cut in CUTS:
        known = np.isin(events.splits, cut.splits)
        for start, stop in zip(events.offsets[:-1], events.offsets[1:], strict=True):
            own = known[start:stop]
            assert own[: own.sum()].all()
