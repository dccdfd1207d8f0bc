"""Exploration of corpora: tables, figures and statistical tests on one HTML page.

Takes decoded clips with acoustic measures; writes index.html, its figures, clips.csv and tests.csv. Used by
`python -m utils.explore`.
"""
