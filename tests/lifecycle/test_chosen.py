from collections.abc import Callable

import numpy as np

from features.dataset import Dataset
from features.protocol import RequestProtocol
from lifecycle.chosen import CHOICES, IALS_CHOICES, chosen_ials, chosen_regularisation


def clubs(num_queries: int, *, per_club: int) -> list[tuple[str, str, int, str]]:
    """Queries of ten clubs, who try most of their own club's items and once something that everybody has."""
    generator = np.random.default_rng(0)
    events = []
    for query in range(num_queries):
        own = [f"c{query % 10}i{place}" for place in generator.permutation(per_club)]
        for day, item_id in enumerate([*own[:-1], f"all{query % 3}"]):
            events.append((f"q{query:03}", item_id, day, "train"))
        events.append((f"q{query:03}", own[-1], 50, "validation"))
        events.append((f"q{query:03}", "all0" if query % 2 else "all1", 60, "test"))
    return events


def test_the_choice_is_one_of_the_choices_and_does_not_look_at_test_events(
    build_dataset: Callable[..., Dataset], leave_one_out: RequestProtocol
) -> None:
    events = clubs(60, per_club=6)
    item_ids = sorted({item_id for _, item_id, _, _ in events})
    chosen = chosen_regularisation(build_dataset(events, item_ids=item_ids), leave_one_out)
    assert chosen in CHOICES
    ials = chosen_ials(build_dataset(events, item_ids=item_ids), leave_one_out)
    assert ials in IALS_CHOICES
    without_test = [event for event in events if event[3] != "test"]
    known = build_dataset(without_test, item_ids=item_ids)
    assert chosen_regularisation(known, leave_one_out) == chosen
    assert chosen_ials(known, leave_one_out) == ials


def test_without_validation_the_first_choice_stands(
    build_dataset: Callable[..., Dataset], leave_one_out: RequestProtocol
) -> None:
    dataset = build_dataset([("p", "a", 1, "train"), ("q", "a", 1, "train")], item_ids=["a"])
    assert chosen_regularisation(dataset, leave_one_out) == CHOICES[0]
    assert chosen_ials(dataset, leave_one_out) == IALS_CHOICES[0]
