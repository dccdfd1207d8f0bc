"""Audio files to one table of labelled clips, split by speaker.

In: names of corpora, folders, zips. Out: a table with a row per clip, and a memory-mapped Dataset with the
waveform of each (float32, mono, 16 kHz).
"""
