"""Label ids come in; scores as in `metrics.label_scores` go out, as an `evaluate.Metric` without network.

A room of its own: `evaluate` imports transformers and PyTorch, which the other two scripts do without.
"""

import evaluate
from datasets import Features, Value

from utils.evaluation.metrics import label_scores


class EmotionMetric(evaluate.Metric):
    """Scores of one-label emotion recognition.

    `compute(predictions=ids, references=ids, num_labels=n)` returns accuracy, uar, macro_precision and
    macro_f1 (means over the emotions that occur in `references`), per_label (precision, recall, f1,
    support; None where undefined) and confusion_matrix (rows = truth).
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, UAR, macro precision and F1, per-label scores, confusion matrix.",
            citation="",
            inputs_description="predictions, references: label ids; num_labels: how many labels exist.",
            features=Features({"predictions": Value("int32"), "references": Value("int32")}),
        )

    def _compute(self, predictions, references, num_labels: int) -> dict:
        return label_scores(references, predictions, num_labels)
