"""Statistical tests of acoustic measures over the emotions, effect sizes, and a map of the clips.

Clips of one speaker are similar, so tests that treat all clips as independent give p-values that are too
small. Each measure is therefore tested in three ways: on all clips, on all clips with the speaker as a second
factor, and on one mean per speaker and emotion.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

MIN_SPEAKERS = 3
"""Minimum for the test of speaker means: with two speakers, the variance between speakers cannot be
estimated."""

NAN = float("nan")
COLUMNS = (
    *("measure", "clips", "not_measurable"),
    *("anova_f", "anova_p", "eta2", "omega2", "welch_p", "kruskal_h", "kruskal_p", "epsilon2"),
    *("speaker_f", "speaker_p", "partial_eta2"),
    *("means_speakers", "means_f", "means_df1", "means_df2", "means_sphericity", "means_p"),
)


def clip_tests(values: np.ndarray, emotions: np.ndarray) -> dict[str, float]:
    """Compare the emotions with one-way tests that treat all clips as independent.

    Effect sizes, 0 = no effect, 1 = the emotion explains all variance (k emotions, n clips):

        eta2      SS_between / SS_total
        omega2    (SS_between - (k - 1) MS_within) / (SS_total + MS_within): eta2 corrected for chance
        epsilon2  H / (n - 1): the share of explained variance of the ranks

    Olejnik & Algina (2003, Psychol. Methods 8:434) for the first two, Tomczak & Tomczak (2014, Trends Sport
    Sci. 1:19) for the third.

    Args:
        values: float (num_clips,), finite; at least two clips per emotion, not all equal.
        emotions: str (num_clips,).

    Returns:
        anova_f, anova_p: one-way analysis of variance (ANOVA).
        welch_p: Welch's ANOVA, which does not assume equal variances.
        kruskal_h, kruskal_p: Kruskal-Wallis test on ranks.
        eta2, omega2, epsilon2: the effect sizes.
    """
    import statsmodels.formula.api as smf
    from scipy.stats import kruskal
    from statsmodels.stats.anova import anova_lm
    from statsmodels.stats.oneway import anova_oneway

    clips = pd.DataFrame({"value": values, "emotion": emotions})
    anova = anova_lm(smf.ols("value ~ C(emotion)", clips).fit())
    between, within = anova["sum_sq"]
    df_between, df_within = anova["df"]
    total, mean_square = between + within, within / df_within
    ranks = kruskal(*(group.to_numpy() for _, group in clips.groupby("emotion")["value"]))
    return {
        "anova_f": anova["F"].iloc[0],
        "anova_p": anova["PR(>F)"].iloc[0],
        "eta2": between / total,
        "omega2": (between - df_between * mean_square) / (total + mean_square),
        "welch_p": float(anova_oneway(values, emotions, use_var="unequal").pvalue),
        "kruskal_h": ranks.statistic,
        "kruskal_p": ranks.pvalue,
        "epsilon2": ranks.statistic / (len(values) - 1),
    }


def speaker_factor_test(values: np.ndarray, emotions: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Compare the emotions with the speaker as a second factor: ANOVA of value ~ speaker + emotion.

    For balanced data, this equals a one-way ANOVA after subtracting the mean of each speaker.

    Args:
        values, emotions: as for `clip_tests`.
        speakers: str (num_clips,).

    Returns:
        speaker_f, speaker_p: F and p of the emotion.
        partial_eta2: partial eta squared SS_emotion / (SS_emotion + SS_residual), the share of the variance
            within speakers that the emotion explains (Cohen 1973, Educ. Psychol. Meas. 33:107).
    """
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    clips = pd.DataFrame({"value": values, "emotion": emotions, "speaker": speakers})
    formula = "value ~ C(speaker) + C(emotion)" if len(set(speakers)) > 1 else "value ~ C(emotion)"
    anova = anova_lm(smf.ols(formula, clips).fit(), typ=2)
    emotion, residual = anova.loc["C(emotion)"], anova.loc["Residual", "sum_sq"]
    return {
        "speaker_f": emotion["F"],
        "speaker_p": emotion["PR(>F)"],
        "partial_eta2": emotion["sum_sq"] / (emotion["sum_sq"] + residual),
    }


def speaker_means_test(values: np.ndarray, emotions: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Compare the emotions on one mean per speaker and emotion.

    This tests whether effects generalise to other speakers.

    This is a repeated-measures ANOVA. Means of one speaker are correlated, so the degrees of freedom are
    multiplied by the sphericity estimate of Greenhouse & Geisser (1959, Psychometrika 24:95):
    (trace S)^2 / ((k - 1) sum of S_ij^2), with S the doubly centred covariance of the k emotions.

    Args:
        values, emotions, speakers: as for `speaker_factor_test`.

    Returns:
        means_speakers: number of speakers with clips of every emotion; the only entry if it is below
            `MIN_SPEAKERS`.
        means_f, means_df1, means_df2, means_p: F, corrected degrees of freedom, p.
        means_sphericity: the estimate.
    """
    from scipy.stats import f
    from statsmodels.stats.anova import AnovaRM

    clips = pd.DataFrame({"value": values, "emotion": emotions, "speaker": speakers})
    means = clips.pivot_table(index="speaker", columns="emotion", values="value").dropna()
    num_speakers, num_emotions = means.shape
    if num_speakers < MIN_SPEAKERS:
        return {"means_speakers": num_speakers}
    long = means.reset_index().melt("speaker", value_name="value")
    row = AnovaRM(long, "value", "speaker", within=["emotion"]).fit().anova_table.iloc[0]
    centring = np.eye(num_emotions) - 1 / num_emotions
    covariance = centring @ np.cov(means.to_numpy().T) @ centring
    sphericity = np.trace(covariance) ** 2 / ((num_emotions - 1) * (covariance**2).sum())
    df1, df2 = sphericity * row["Num DF"], sphericity * row["Den DF"]
    return {
        "means_speakers": num_speakers,
        "means_f": row["F Value"],
        "means_df1": df1,
        "means_df2": df2,
        "means_sphericity": sphericity,
        "means_p": f.sf(row["F Value"], df1, df2),
    }


def compare_emotions(clips: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Compare the emotions of one corpus in each measure.

    Args:
        clips: `emotion`, `speaker` and a column per measure; NaN = not measurable, left out.
        measures: names of columns.

    Returns:
        a row per measure: `measure`, `clips` (number of measured clips), `not_measurable`, and the results of
        `clip_tests`, `speaker_factor_test` and `speaker_means_test`; NaN where no test is possible. For each
        `*_p` there is a `*_p_holm`, corrected for the number of measures (Holm 1979, Scand. J. Stat. 6:65).
    """
    from statsmodels.stats.multitest import multipletests

    tests = pd.DataFrame([_test_measure(clips, measure) for measure in measures])
    tests = tests.reindex(columns=COLUMNS)
    for column in [name for name in COLUMNS if name.endswith("_p")]:
        known = tests[column].notna()
        tests[f"{column}_holm"] = NAN
        if known.any():
            tests.loc[known, f"{column}_holm"] = multipletests(tests.loc[known, column], method="holm")[1]
    return tests


def _test_measure(clips: pd.DataFrame, measure: str) -> dict[str, float]:
    measured = clips[np.isfinite(clips[measure])]
    row = {"measure": measure, "clips": len(measured), "not_measurable": len(clips) - len(measured)}
    # All tests need the variance within an emotion, which a single clip does not have.
    measured = measured[measured.groupby("emotion")["clip"].transform("size") > 1]
    if measured["emotion"].nunique() < 2 or measured[measure].nunique() < 2:
        return row
    values = measured[measure].to_numpy(dtype=np.float64)
    emotions, speakers = (measured[name].to_numpy(dtype=str) for name in ("emotion", "speaker"))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # Welch's test is NaN if an emotion has no variance
        return (
            row
            | clip_tests(values, emotions)
            | speaker_factor_test(values, emotions, speakers)
            | speaker_means_test(values, emotions, speakers)
        )


def map_clips(features: np.ndarray, seed: int) -> np.ndarray | None:
    """Embed clips in two dimensions with t-SNE (van der Maaten & Hinton 2008).

    Args:
        features: (num_clips, num_features), standardised.
        seed: of t-SNE.

    Returns:
        float32 (num_clips, 2); None for fewer than 10 clips.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 10:
        return None
    tsne = TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):  # sums of several threads depend on their order: the map would vary
        return tsne.fit_transform(features)


def measure_separation(
    features: np.ndarray, labels: np.ndarray, speakers: np.ndarray
) -> dict[str, float] | None:
    """Measure how well groups of clips are separated in the features (not on the map).

    Args:
        features: (num_clips, num_features), standardised.
        labels: group of each clip, str (num_clips,).
        speakers: str (num_clips,).

    Returns:
        None if there are fewer than two groups, or only groups of one clip. Otherwise:

        silhouette: mean of (b - a) / max(a, b), with a and b the mean distances of a clip to its own group
            and to the nearest other one; -1 to 1, 0 = the groups overlap (Rousseeuw 1987).
        neighbour: share of clips whose nearest neighbour is in their own group.
        other_speaker: the same for the nearest neighbour by another speaker; NaN with one speaker.
        chance: expected share for random labels.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    _, counts = np.unique(labels, return_counts=True)
    if not 2 <= len(counts) < len(labels):
        return None
    nearest = NearestNeighbors(n_neighbors=1).fit(features).kneighbors(return_distance=False)[:, 0]
    is_same = np.full(len(labels), NAN)
    for speaker in np.unique(speakers) if len(np.unique(speakers)) > 1 else ():
        clips, others = speakers == speaker, np.flatnonzero(speakers != speaker)
        found = NearestNeighbors(n_neighbors=1).fit(features[others]).kneighbors(features[clips])[1][:, 0]
        is_same[clips] = labels[others[found]] == labels[clips]
    return {
        "silhouette": float(silhouette_score(features, labels)),
        "neighbour": float((labels[nearest] == labels).mean()),
        "other_speaker": float(is_same.mean()),
        "chance": float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1))),
    }
