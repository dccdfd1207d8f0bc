"""What a run measured to its folder: metrics.json, predictions.csv, figures and the model card."""
