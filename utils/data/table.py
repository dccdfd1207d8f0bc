"""Build one pandas table of clips, a row per recording, and the Dataset of their waveforms.

The rows are sorted and identical files are counted once. Unusable files and missing clips are reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.data.audio import SAMPLING_RATE
from utils.data.corpora import CORPORA, Clip, parse_clip
from utils.data.decoding import decode_files, file_digests
from utils.runtime import InputError, is_main_process, logger

if TYPE_CHECKING:
    from datasets import Dataset

MAX_LISTED = 20


def read_table(
    files: Mapping[str, Sequence[Path]], cache_dir: Path, custom_clips: Mapping[Path, Clip] | None = None
) -> tuple[pd.DataFrame, "Dataset"]:
    """Read and decode the clips of one or more corpora.

    Args:
        files: corpus name -> its audio files, including copies.
        cache_dir: folder for decoded audio.
        custom_clips: file -> labels of clips whose names contain no labels, see `custom_corpus`.

    Returns:
        table: a row per distinct recording, sorted by corpus and clip, with the columns of `corpora.Clip` and
            `path`, `digest`, `num_copies`, `same_as` (the first clip with identical bytes, or ""),
            `num_samples` (at 16 kHz), `duration_seconds`, `problem` (why it cannot be used, or "").
        waveforms: Dataset whose row i holds the `waveform` of row i of the table.
    """
    from datasets import concatenate_datasets
    from pyarrow.compute import list_value_length

    silent = None if is_main_process() else True
    table = _list_recordings(files, cache_dir, custom_clips or {}, silent)
    waveforms = concatenate_datasets(
        [
            decode_files(rows["path"].map(Path).tolist(), rows["digest"].tolist(), cache_dir, name, silent)
            for name, rows in table.groupby("corpus", sort=False)
        ]
    )
    table["num_samples"] = list_value_length(waveforms.data.column("waveform")).to_numpy()
    table["duration_seconds"] = table["num_samples"] / SAMPLING_RATE
    table["problem"] = waveforms["problem"][:]
    _mark_contradictions(table)
    return table, waveforms


def _list_recordings(
    files: Mapping[str, Sequence[Path]],
    cache_dir: Path,
    custom_clips: Mapping[Path, Clip],
    silent: bool | None,
) -> pd.DataFrame:
    """Return the table of `read_table` without the columns that need decoded audio."""
    paths = [path for corpus_files in files.values() for path in corpus_files]
    digests = file_digests(paths, cache_dir, silent)
    clips = [custom_clips.get(path) or parse_clip(path) for path in paths]
    columns = {field.name: [getattr(clip, field.name) for clip in clips] for field in fields(Clip)}
    table = pd.DataFrame(columns | {"path": [str(path) for path in paths], "digest": digests})
    # Corpora in the requested order; of nested copies the least deep one comes first and is kept.
    table["depth"] = [len(path.parts) for path in paths]
    table["corpus"] = pd.Categorical(table["corpus"], categories=list(files))
    table = table.sort_values(["corpus", "clip", "depth", "path"]).drop(columns="depth")
    table["corpus"] = table["corpus"].astype(str)
    copies = table.groupby(["corpus", "clip", "digest"])["path"].transform("size")
    table = (
        table.assign(num_copies=copies).drop_duplicates(["corpus", "clip", "digest"]).reset_index(drop=True)
    )
    first_with_digest = table.groupby("digest")["clip"].transform("first")
    table["same_as"] = np.where(table["clip"] == first_with_digest, "", first_with_digest)
    return table


def _mark_contradictions(table: pd.DataFrame) -> None:
    """Set `problem` where rows contradict each other: one name for two recordings, or two labels for one."""
    usable = table[table["problem"] == ""]
    other_content = usable.index[usable.duplicated(["corpus", "clip"])]
    table.loc[other_content, "problem"] = "another recording has the same name"
    labels = ["corpus", "speaker", "emotion"]
    for _, rows in usable[usable.duplicated("digest", keep=False)].groupby("digest"):
        if len(rows[labels].drop_duplicates()) > 1:
            table.loc[rows.index, "problem"] = (
                f"one recording under contradicting labels: {' = '.join(rows['clip'])}"
            )


def check_table(table: pd.DataFrame, allow_partial: bool) -> tuple[pd.DataFrame, list[dict]]:
    """Drop unusable clips and repeated recordings; stop if a corpus is incomplete, unless that is allowed.

    Args:
        table: as returned by `read_table`.
        allow_partial: whether to continue with an incomplete corpus.

    Returns:
        table: the usable rows, each recording once; the index still points into the waveforms.
        findings: per corpus `name`, `clips_expected`, `clips_found` (distinct names), `identical` (clips that
            are byte-identical to another) and `unusable` (`"<clip>: <reason>"`).

    Raises:
        InputError: clips are unusable, missing or too many, and not `allow_partial`.
    """
    findings, complaints = [], []
    for name, rows in table.groupby("corpus", sort=False):
        corpus = CORPORA[name]
        unusable = rows[rows["problem"] != ""]
        identical = rows[(rows["same_as"] != "") & (rows["problem"] == "")]
        found = rows["clip"].nunique()
        findings.append(
            {
                "name": name,
                "clips_expected": corpus.num_clips,
                "clips_found": found,
                "identical": [f"{row.clip} = {row.same_as}" for row in identical.itertuples()],
                "unusable": [f"{row.clip}: {row.problem}" for row in unusable.itertuples()],
            }
        )
        if found != corpus.num_clips:
            word = "only " if found < corpus.num_clips else ""
            complaints.append(f"{corpus.title}: {word}{found} of {corpus.num_clips} clips")
        complaints += [f"{row.path}: {row.problem}" for row in unusable.itertuples()]
        logger.info(
            "%s: %d clips found; left out: %d nested copies, %d byte-identical to another clip, %d unusable",
            corpus.title,
            found,
            (rows["num_copies"] - 1).sum(),
            len(identical),
            len(unusable),
        )
    if complaints and not allow_partial:
        listed = complaints[:MAX_LISTED]
        if len(complaints) > MAX_LISTED:
            listed.append(f"... and {len(complaints) - MAX_LISTED} more")
        what, cure = "some clips cannot be used", "Correct or remove these files"
        if any(each["clips_found"] < each["clips_expected"] for each in findings):
            what, cure = "the corpora are not complete", "Get the missing files (see README, Data)"
        raise InputError(
            f"{what}:\n  "
            + "\n  ".join(listed)
            + f"\n{cure}, or run on the other clips with --allow_partial: metrics and card then list what is "
            "missing."
        )
    for complaint in complaints[:MAX_LISTED]:
        logger.warning("--allow_partial: %s", complaint)
    return table[(table["problem"] == "") & (table["same_as"] == "")].copy(), findings
