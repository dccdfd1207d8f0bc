"""Rooms that the three training scripts share; each imports only rooms above it (see CONTRIBUTING.md)."""
