"""A linear probe on the time means of an encoder's output, stored as the head of a stock classifier.

The probe is a `StandardScaler` and a `LogisticRegression`. Both are affine, like all operations of a stock
classifier after its encoder. Therefore `pipeline` gives the same probabilities with the saved stock
checkpoint as scikit-learn with the probe.

Middle layers carry emotion better than the last one. The probe therefore also chooses after which layer the
encoder is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from utils.data.splits import TrainingPart
from utils.evaluation.calibration import best_temperature
from utils.evaluation.metrics import mean_uar

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Candidate values of C, the inverse regularisation strength of scikit-learn, for standardised features."""

MIN_COMMON = 0.8
"""Probes share one selection of layer and C, on the training clips common to all of them, if these are at
least this share of the training clips of each. With 24 speakers left out in turn this makes five selections,
and none of them uses a test speaker of its probes."""


@dataclass(frozen=True)
class Probe:
    """A fitted linear head.

    Attributes:
        num_layers: the encoder is cut after this many layers.
        strength: the selected C.
        weights: float64 (num_labels, hidden_size), to be applied to the time means; includes the scaler.
        bias: float64 (num_labels,), likewise.
        choice: number of layers -> UAR (len(STRENGTHS),) in the cross-validation among the training speakers
            by which layers and C were selected. UAR: unweighted average recall, the mean of the per-emotion
            recalls.
        temperature: that calibrates it, from the held-out logits of a cross-validation over its training
            speakers, who have the same weight; 1 if they are too few to be held out.
        window_seconds: window of the encoder; None if it has none.
    """

    num_layers: int
    strength: float
    weights: np.ndarray
    bias: np.ndarray
    choice: dict[int, np.ndarray]
    temperature: float = 1.0
    window_seconds: int | None = None

    @property
    def uar(self) -> float:
        """The UAR in the cross-validation by which it was selected."""
        return float(max(each.max() for each in self.choice.values()))

    @property
    def facts(self) -> dict:
        """What a run notes of a model that is this probe; its UAR is that of the cross-validation."""
        uar = {"probe": self.uar}
        return {"kept": "probe", "temperature": self.temperature, "validation_uar": uar}

    def logits(self, means: np.ndarray, rows: Sequence[int] | slice = slice(None)) -> np.ndarray:
        """(num_clips, num_layers, hidden_size) -> float64 (num_rows, num_labels)"""
        return means[rows, self.num_layers - 1] @ self.weights.T + self.bias


def fit_probes(
    means: np.ndarray,
    labels: np.ndarray,
    parts: Sequence[TrainingPart],
    num_labels: int,
    corpora: Sequence[str] | None = None,
    num_layers: int | None = None,
) -> list[Probe]:
    """Fit a probe for each of several sets of training clips, on all CPU cores.

    With several processes, the main process fits and the others receive the result.

    Args:
        means: float32 (num_clips, num_layers, hidden_size), from `embeddings.embed`.
        labels: int (num_clips,).
        parts: for each probe its training clips. Clips of one group are on the same side of each split of
            the cross-validation that selects layer and C.
        num_labels: every label occurs in every part.
        corpora: of each clip, (num_clips,): layer and C are selected by the mean of the corpora's UAR; None:
            all clips are of one corpus.
        num_layers: cut the encoder after this many layers; None: this is selected too.
    """
    probes = [None] * len(parts)
    if PartialState().is_main_process:
        corpora = np.zeros(len(labels)) if corpora is None else np.asarray(corpora)
        candidates = range(1, means.shape[1] + 1) if num_layers is None else [num_layers]
        probes = _fit_probes(means, labels, parts, num_labels, corpora, candidates)
    return broadcast_object_list(probes)


def _fit_probes(means, labels, parts, num_labels: int, corpora, candidates: Sequence[int]) -> list[Probe]:
    blocks = _selection_blocks(parts)
    choices = _cross_validate_layers(means, labels, parts, corpora, dict.fromkeys(blocks), candidates)
    probes = []
    for block, part in zip(blocks, parts, strict=True):
        rows, choice = part.rows, choices[block]
        num_layers = max(choice, key=lambda each: choice[each].max())  # the fewest, if they are equal
        strength = STRENGTHS[choice[num_layers].argmax()]
        features = np.asarray(means[rows, num_layers - 1])
        scaler, model = _fit(features, labels[rows], [strength])[0]
        temperature = _fit_temperature(features, labels[rows], part, strength)
        weights = _row_per_label(model.coef_, num_labels) / scaler.scale_
        bias = _row_per_label(model.intercept_[:, None], num_labels)[:, 0] - weights @ scaler.mean_
        probes.append(Probe(num_layers, strength, weights, bias, choice, temperature))
    return probes


def _cross_validate_layers(means, labels, parts, corpora, blocks, candidates) -> dict[range, dict]:
    """Return, for each block of parts, the `choice` of its probes."""
    scores = joblib.Parallel(n_jobs=-1, return_as="generator")(
        joblib.delayed(_cross_validate)(
            np.asarray(means[rows, num_layers - 1]), labels[rows], groups, corpora[rows]
        )
        for rows, groups in (_common_rows(parts, block) for block in blocks)
        for num_layers in candidates
    )
    scores = list(tqdm(scores, "Selecting layers", len(blocks) * len(candidates)))
    scores = np.array(scores).reshape(len(blocks), len(candidates), len(STRENGTHS))
    choices = [dict(zip(candidates, each, strict=True)) for each in scores]
    return dict(zip(blocks, choices, strict=True))


def _selection_blocks(parts: Sequence[TrainingPart]) -> list[range]:
    """Return, for each part, the consecutive parts with which it shares a selection (see `MIN_COMMON`)."""
    blocks = [range(1)]
    for number in range(1, len(parts)):
        extended = range(blocks[-1].start, number + 1)
        num_common = len(_common_rows(parts, extended)[0])
        if all(num_common >= MIN_COMMON * len(parts[each].rows) for each in extended):
            blocks[-1] = extended
        else:
            blocks.append(range(number, number + 1))
    return [block for block in blocks for _ in block]


def _common_rows(parts: Sequence[TrainingPart], block: range) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are in the training clips of all parts of a block, and their groups."""
    first = parts[block.start]
    is_common = np.ones(len(first.rows), dtype=bool)
    for number in block:
        is_common &= np.isin(first.rows, parts[number].rows)
    return first.rows[is_common], np.asarray(first.groups)[is_common]


def _row_per_label(values: np.ndarray, num_labels: int) -> np.ndarray:
    """Add a row of zeros if there are two labels: scikit-learn then stores only the second label's logit."""
    return np.vstack([np.zeros_like(values), values]) if num_labels == 2 else values


def _cross_validate(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, corpora: np.ndarray
) -> np.ndarray:
    """Return the mean UAR of the corpora (len(STRENGTHS),), from predictions for all held-out groups."""
    predictions = np.empty((len(STRENGTHS), len(labels)), dtype=int)
    for train, test in GroupKFold(min(4, len(np.unique(groups)))).split(features, labels, groups):
        for number, (scaler, model) in enumerate(_fit(features[train], labels[train], STRENGTHS)):
            predictions[number, test] = model.predict(scaler.transform(features[test]))
    return np.array([mean_uar(labels, row, corpora) for row in predictions])


def _fit_temperature(features: np.ndarray, labels: np.ndarray, part: TrainingPart, strength: float) -> float:
    """Return the temperature of a probe, see `Probe`."""
    if not part.are_speakers:
        return 1.0
    _, label_ids = np.unique(labels, return_inverse=True)
    logits = np.zeros((len(labels), label_ids.max() + 1))
    for train, test in GroupKFold(min(4, len(np.unique(part.groups)))).split(features, labels, part.groups):
        scaler, model = _fit(features[train], labels[train], [strength])[0]
        decisions = model.decision_function(scaler.transform(features[test]))
        if decisions.ndim == 1:
            logits[test, 1] = decisions
        else:
            logits[np.ix_(test, np.searchsorted(np.unique(labels), model.classes_))] = decisions
    _, group_ids, sizes = np.unique(part.groups, return_inverse=True, return_counts=True)
    return best_temperature(logits, label_ids, weights=1 / sizes[group_ids])


def _fit(features: np.ndarray, labels: np.ndarray, strengths: Sequence[float]) -> list[tuple]:
    """Return (scaler, logistic regression) for each C, in ascending order; each is warm-started."""
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    fitted, previous = [], None
    for strength in sorted(strengths):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2_000, warm_start=True)
        if previous is not None:
            model.coef_, model.intercept_ = previous.coef_.copy(), previous.intercept_.copy()
            model.classes_ = previous.classes_
        previous = model.fit(scaled, labels)
        fitted.append((scaler, model))
    return fitted


@torch.no_grad()
def fold_into(model: torch.nn.Module, probe: Probe) -> None:
    """Set the head of a stock classifier to that of a probe.

    The probe needs only `num_labels` rows of the projector. The other rows keep small random weights, and the
    classifier gives them weight 0: the output is that of the probe, and fine-tuning can use these rows.

    Args:
        model: its encoder has the layers of the probe, and its projector at least as many rows as there are
            labels. Changed in place.
        probe: the fitted head.
    """
    num_labels = len(probe.bias)
    torch.nn.init.normal_(model.projector.weight, std=0.02)
    torch.nn.init.zeros_(model.projector.bias)
    model.projector.weight[:num_labels] = torch.as_tensor(probe.weights, dtype=torch.float32)
    model.projector.bias[:num_labels] = torch.as_tensor(probe.bias, dtype=torch.float32)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    model.classifier.weight[:, :num_labels] = torch.eye(num_labels)


@torch.no_grad()
def scale_logits(model: torch.nn.Module, factor: float) -> None:
    """Multiply the logits of a stock classifier, by 1 / temperature for calibration. Changes its weights."""
    model.classifier.weight.mul_(factor)
    model.classifier.bias.mul_(factor)
