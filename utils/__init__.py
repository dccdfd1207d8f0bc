"""The packages that the training scripts share, and the commands (see CONTRIBUTING.md)."""
