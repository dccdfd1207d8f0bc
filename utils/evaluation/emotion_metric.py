"""The scores of `metrics.label_scores` as an `evaluate.Metric` that needs no network.

It is a separate module because `evaluate` imports transformers and PyTorch, which `train_baselines.py` and
`train_cnn.py` do not need.
"""

import evaluate
from datasets import Features, Value

from utils.evaluation.metrics import label_scores


class EmotionMetric(evaluate.Metric):
    """Scores of single-label emotion classification.

    `compute(predictions=ids, references=ids, num_labels=n)` returns what `metrics.label_scores` returns.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, UAR (unweighted average recall), macro precision, macro F1, scores per "
            "label, confusion matrix.",
            citation="",
            inputs_description="predictions, references: label ids; num_labels: number of labels.",
            features=Features({"predictions": Value("int32"), "references": Value("int32")}),
        )

    def _compute(self, predictions, references, num_labels: int) -> dict:
        return label_scores(references, predictions, num_labels)
