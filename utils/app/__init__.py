"""A finished run to predictions: for the commands, and for the page in space/."""
