"""What cross-encoders score beside one another: pairs of real texts, one checkpoint, and lists for the student.

Owns making these files, and what is made of the turns and the scores. Who scores when is bench_training.Race's.
"""

# Shapes: N lists of C candidates.

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from features.dataset import Dataset
from features.requests import PastRequests
from features.spec import FeatureSpec
from features.text import TextTokenizer
from features.transforms import item_texts
from features.vocab import FIRST
from lifecycle.bench_training import counted, ratios, speeds
from ranking.decomposed import DecomposedRanker
from ranking.export import export_ranker
from ranking.item_states import write_item_states
from ranking.model import segments_of
from ranking.student import HeadSizes, Student
from ranking.teacher import pretrained_encoder
from serving.release import ITEM_STATES_FILE, RANKER_FILE
from serving.retrieval import TOKENIZER_FILE

PAIRS_FILE, LISTS_FILE, SCORES_FILE = "pairs.json", "lists.npz", "scores.npy"
CHECKPOINT, STUDENT = "checkpoint", "student"


@dataclass(frozen=True)
class ScoringBench:
    """Everything that is scored.

    Attributes:
        asked: requests, of which `num_lists` are drawn.
        spec: of the features; its text layout says how many titles of a history are read.
        form: of the student, which begins with the encoder's weights and is not trained: speed is the same.
        hidden: width of the student's hidden layers.
        candidates_a_list: drawn for each request; the student has `student_candidates`.
    """

    dataset: Dataset
    asked: PastRequests
    spec: FeatureSpec
    checkpoint: Path
    form: Student
    hidden: int
    num_lists: int
    candidates_a_list: int
    student_candidates: int
    seed: int

    def write(self, folder: Path) -> None:
        """Write all files."""
        generator = np.random.default_rng(self.seed)
        folder.mkdir(parents=True, exist_ok=True)
        asked = self.asked.take(np.sort(generator.permutation(len(self.asked))[: self.num_lists]))
        items, names = self.dataset.items, self.spec.names("item", "text")
        titles, texts = (item_texts(items, names=own) for own in (names[:1], names))
        newest = asked.states(self.dataset, length=self.spec.text.history_items).history_item_ids
        contexts = [", ".join(titles[row] for row in items.catalogue.rows(own[::-1])) for own in newest]
        most = max(self.candidates_a_list, self.student_candidates)
        drawn = [generator.permutation(np.arange(FIRST, len(texts)))[:most] for _ in contexts]
        pairs = [
            (context, texts[row])
            for context, rows in zip(contexts, drawn, strict=True)
            for row in rows[: self.candidates_a_list]
        ]
        (folder / PAIRS_FILE).write_text(json.dumps(pairs))
        write_checkpoint(self.checkpoint, folder / CHECKPOINT, seed=self.seed)
        self._write_student(folder, contexts, texts, rows=np.stack(drawn)[:, : self.student_candidates])

    def _write_student(self, folder: Path, contexts: list[str], texts: list[str], *, rows: np.ndarray) -> None:
        layout, num_dense = self.spec.text, len(self.spec.names("ranker", "number"))
        tokenizer = TextTokenizer(self.checkpoint / TOKENIZER_FILE)
        segments = segments_of(length=layout.length, history_tokens=layout.context_tokens)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            student = self.form.build(
                pretrained_encoder(self.checkpoint, pad_token=tokenizer.pad, dropout=0.0),
                head=HeadSizes(segments=segments, num_dense=num_dense, hidden=self.hidden),
                dropout=0.0,
            )
        if not isinstance(student, DecomposedRanker):
            raise ValueError(
                "the student that is served with states of items is a decomposed one: ranker/student=decomposed"
            )
        directory = folder / STUDENT
        directory.mkdir(exist_ok=True)
        tokens = tokenizer.encode(texts, length=layout.candidate_tokens)
        write_item_states(student.eval().encoder, directory / ITEM_STATES_FILE, text_tokens=tokens, sep=tokenizer.sep)
        export_ranker(student, directory / RANKER_FILE, spec_hash=self.spec.hash)
        ends = np.full((len(rows), 1), tokenizer.cls), np.full((len(rows), 1), tokenizer.sep)
        context = tokenizer.encode(contexts, length=layout.context_tokens).astype(np.int64)
        dense = np.random.default_rng(self.seed).normal(size=(*rows.shape, num_dense)).astype(np.float32)
        np.savez(
            folder / LISTS_FILE,
            contexts=np.concatenate([ends[0], context, ends[1]], axis=1),
            candidate_rows=rows,
            dense=dense,
        )


def write_checkpoint(source: Path, target: Path, *, seed: int) -> None:
    """A BERT in Hugging Face format with a random head of one score, large enough that scores of pairs differ."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = BertForSequenceClassification.from_pretrained(source, num_labels=1, local_files_only=True)
        for name in ("bert.pooler.dense", "classifier"):
            linear = cast(torch.nn.Linear, model.get_submodule(name))
            torch.nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            torch.nn.init.zeros_(linear.bias)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(target)


def read_pairs(folder: Path) -> list[tuple[str, str]]:
    """Context and candidate of each pair."""
    return [(context, candidate) for context, candidate in json.loads((folder / PAIRS_FILE).read_text())]


def results(
    turns: pd.DataFrame, *, folder: Path, of: Sequence[tuple[str, str]], warm_up: int
) -> dict[str, pd.DataFrame]:
    """Tables by name: turns, speeds, ratios, and scores of each pair of `of` whose systems score the same pairs.

    Args:
        turns: rows of Race.run, in which what is called a target is a pair.
        folder: of the systems' own folders.
        of: systems and their peers.
        warm_up: rounds that do not count.
    """
    kept = counted(turns, warm_up=warm_up)
    scores = [
        {"system": system, "peer": peer, **apart(*(folder / name / SCORES_FILE for name in (system, peer)))}
        for system, peer in of
        if system != STUDENT
    ]
    tables = {"turns": turns, "speeds": speeds(kept, num_targets=1), "ratios": ratios(kept, of=of)}
    return {**tables, "scores": pd.DataFrame(scores)}


def apart(one: Path, other: Path) -> dict[str, float]:
    """How far two systems' scores of the same pairs are apart, beside how far a system's own lie."""
    ours, theirs = np.load(one), np.load(other)
    if ours.shape != theirs.shape:
        raise ValueError(f"{one} has scores of shape {ours.shape} and {other} of {theirs.shape}: not of the same pairs")
    return {
        "pairs": len(ours),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "deviation": float(ours.std()),
    }
