"""Time means of an encoder's layers come in; a linear head goes out, folded into the stock checkpoint.

The head is a standard scaler and a logistic regression on one layer, or on the average of all. Both are
affine, and so is everything that a stock classifier does after its encoder: what is saved is a stock
checkpoint whose `pipeline` gives the probabilities of scikit-learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from utils.encoders.freezing import exclude_last_state

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of the penalty (scikit-learn's C) to choose from, of standardised features."""

SHARED = 0.8
"""Heads that have at least this share of their training clips in common choose layer and C together, on those
clips alone: for 24 speakers left out in turn five choices do, and none has heard a speaker that it is for."""

ONE_HOT = 30.0
"""Layer weight of the chosen layer, the others have 0: a softmax makes all but 1e-13 of it."""


@dataclass(frozen=True)
class Probe:
    """A fitted head.

    Attributes:
        layer: which hidden state it hears, 0 = what the first layer is given; None = the mean of all.
        strength: the chosen C.
        weights: (num_labels, hidden_size) and bias: (num_labels,), float64, of the raw time means: the
            scaler is inside.
        choice: UAR (num_hidden_states + 1, len(STRENGTHS)) of the cross-validation among the training
            speakers that chose both; its last row is the mean of all layers.
    """

    layer: int | None
    strength: float
    weights: np.ndarray
    bias: np.ndarray
    choice: np.ndarray

    def logits(self, means: np.ndarray, rows: Sequence[int] | slice = slice(None)) -> np.ndarray:
        """(num_clips, num_hidden_states, hidden_size) -> (num_rows, num_labels), float64"""
        return _features(means, self.layer, rows) @ self.weights.T + self.bias


def fit_probes(
    means: np.ndarray, labels: np.ndarray, parts: Sequence[tuple[np.ndarray, np.ndarray]], num_labels: int
) -> list[Probe]:
    """Fit a head for each of several sets of training clips, on all cores; of several processes one fits.

    Args:
        means: float32 (num_clips, num_hidden_states, hidden_size).
        labels: (num_clips,).
        parts: of each head the rows of its training clips, and what must not stand on both sides of the
            cross-validation that chooses layer and C: their `splits.selection_groups`.
        num_labels: all of them occur in each part.
    """
    probes = [None] * len(parts)
    if PartialState().is_main_process:
        probes = _fit_probes(means, labels, parts, num_labels)
    return broadcast_object_list(probes)


def _fit_probes(means, labels, parts, num_labels) -> list[Probe]:
    candidates = [*range(means.shape[1]), None]
    choosers = _share(parts)
    distinct = list(dict.fromkeys(choosers))
    scores = joblib.Parallel(n_jobs=-1, return_as="generator")(
        joblib.delayed(_cross_validate)(_features(means, layer, rows), labels[rows], groups)
        for rows, groups in (_common(parts, chooser) for chooser in distinct)
        for layer in candidates
    )
    scores = list(tqdm(scores, "Choosing layers", len(distinct) * len(candidates)))
    choices = np.array(scores).reshape(len(distinct), len(candidates), len(STRENGTHS))
    probes = []
    for chooser, (rows, _) in zip(choosers, parts, strict=True):
        choice = choices[distinct.index(chooser)]
        best, strength = np.unravel_index(choice.argmax(), choice.shape)
        layer, strength = candidates[best], STRENGTHS[strength]
        scaler, model = _fit(_features(means, layer, rows), labels[rows], [strength])[0]
        weights = _as_rows(model.coef_, num_labels) / scaler.scale_
        bias = _as_rows(model.intercept_[:, None], num_labels)[:, 0] - weights @ scaler.mean_
        probes.append(Probe(layer, strength, weights, bias, choice))
    return probes


def _share(parts) -> list[range]:
    """Return of each part those that it chooses together with: its neighbours, as `SHARED` allows."""
    blocks = [range(1)]
    for number in range(1, len(parts)):
        wider = range(blocks[-1].start, number + 1)
        num_common = len(_common(parts, wider)[0])
        if all(num_common >= SHARED * len(parts[each][0]) for each in wider):
            blocks[-1] = wider
        else:
            blocks.append(range(number, number + 1))
    return [block for block in blocks for _ in block]


def _common(parts, block: range) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that all parts of a block train on, and their groups."""
    rows, groups = parts[block.start]
    common = np.ones(len(rows), dtype=bool)
    for number in block:
        common &= np.isin(rows, parts[number][0])
    return rows[common], np.asarray(groups)[common]


def _features(means: np.ndarray, layer: int | None, rows: Sequence[int] | slice) -> np.ndarray:
    """Return (num_rows, hidden_size) of one layer, or of the mean of all, read one after the other."""
    if layer is not None:
        return np.asarray(means[rows, layer])
    total = np.asarray(means[rows, 0])
    for layer in range(1, means.shape[1]):
        total = total + means[rows, layer]
    return np.asarray(total / np.float32(means.shape[1]))


def _as_rows(values: np.ndarray, num_labels: int) -> np.ndarray:
    """Of two labels scikit-learn keeps the second one's logit alone."""
    return np.vstack([np.zeros_like(values), values]) if num_labels == 2 else values


def _cross_validate(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the UAR (len(STRENGTHS),) over all held-out groups together."""
    told = np.empty((len(STRENGTHS), len(labels)), dtype=int)
    for train, test in GroupKFold(min(4, len(np.unique(groups)))).split(features, labels, groups):
        for number, (scaler, model) in enumerate(_fit(features[train], labels[train], STRENGTHS)):
            told[number, test] = model.predict(scaler.transform(features[test]))
    return np.array([balanced_accuracy_score(labels, row) for row in told])


def _fit(features: np.ndarray, labels: np.ndarray, strengths: Sequence[float]) -> list[tuple]:
    """Return (scaler, logistic regression) for each strength; each starts from the weaker one before it."""
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    fitted, start = [], None
    for strength in sorted(strengths):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2_000, warm_start=True)
        if start is not None:
            model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
            model.classes_ = start.classes_
        start = model.fit(scaled, labels)
        fitted.append((scaler, model))
    return fitted


@torch.no_grad()
def fold_into(model: torch.nn.Module, probe: Probe) -> None:
    """Give a stock classifier the head of a probe.

    The rows of its projector that the head does not need keep small random weights, and the classifier gives
    them none: the function is the probe's, and later training can make use of them.

    Args:
        model: with `use_weighted_layer_sum`; its projector has at least as many rows as labels.
    """
    num_labels = len(probe.bias)
    model.layer_weights.zero_()
    if probe.layer is not None:
        model.layer_weights[probe.layer] = ONE_HOT
    exclude_last_state(model)
    torch.nn.init.normal_(model.projector.weight, std=0.02)
    torch.nn.init.zeros_(model.projector.bias)
    model.projector.weight[:num_labels] = torch.as_tensor(probe.weights, dtype=torch.float32)
    model.projector.bias[:num_labels] = torch.as_tensor(probe.bias, dtype=torch.float32)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    model.classifier.weight[:, :num_labels] = torch.eye(num_labels)


@torch.no_grad()
def scale_logits(model: torch.nn.Module, factor: float) -> None:
    """Multiply the logits of a stock classifier: by 1 / temperature, to calibrate it."""
    model.classifier.weight.mul_(factor)
    model.classifier.bias.mul_(factor)
