"""Corpora to one HTML page that shows what is in them, with figures and tests."""
