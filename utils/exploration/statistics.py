"""Measures of clips come in; tests over the emotions, effect sizes and a map of the clips go out.

Clips of one voice are alike, so a test that takes every clip as independent finds too much. Three looks at
each measure show by how much: at the clips as they are, at the clips with each speaker's mean taken out,
and at one mean per speaker and emotion.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

MIN_SPEAKERS = 3
"""For the test over speakers: two speakers have one difference, which says nothing of its own spread."""

NAN = float("nan")
COLUMNS = (
    *("measure", "clips", "not_measurable"),
    *("anova_f", "anova_p", "eta2", "omega2", "welch_p", "kruskal_h", "kruskal_p", "epsilon2"),
    *("speaker_f", "speaker_p", "partial_eta2"),
    *("means_speakers", "means_f", "means_df1", "means_df2", "means_sphericity", "means_p"),
)


def one_way(values: np.ndarray, emotions: np.ndarray) -> dict[str, float]:
    """Compare the emotions with every clip taken as independent of the others.

    Effect sizes, 0 = none, 1 = the emotion is all that matters (k emotions, n clips):

        eta2      SS_between / SS_total
        omega2    (SS_between - (k - 1) MS_within) / (SS_total + MS_within): eta2 less what chance gives
        epsilon2  H / (n - 1): the share of the variance of the ranks

    Olejnik & Algina (2003, Psychol. Methods 8:434) for the first two, Tomczak & Tomczak (2014, Trends Sport
    Sci. 1:19) for the third.

    Args:
        values: float (num_clips,), finite; at least two clips per emotion, not all equal.
        emotions: str (num_clips,).

    Returns:
        anova_f, anova_p: the one-way analysis of variance; welch_p: Welch's, which lets emotions differ in
        spread; kruskal_h, kruskal_p: the Kruskal-Wallis test on ranks; and the effect sizes.
    """
    import statsmodels.formula.api as smf
    from scipy.stats import kruskal
    from statsmodels.stats.anova import anova_lm
    from statsmodels.stats.oneway import anova_oneway

    clips = pd.DataFrame({"value": values, "emotion": emotions})
    anova = anova_lm(smf.ols("value ~ C(emotion)", clips).fit())
    between, within = anova["sum_sq"]
    df_between, df_within = anova["df"]
    total, noise = between + within, within / df_within
    ranks = kruskal(*(group.to_numpy() for _, group in clips.groupby("emotion")["value"]))
    return {
        "anova_f": anova["F"].iloc[0],
        "anova_p": anova["PR(>F)"].iloc[0],
        "eta2": between / total,
        "omega2": (between - df_between * noise) / (total + noise),
        "welch_p": float(anova_oneway(values, emotions, use_var="unequal").pvalue),
        "kruskal_h": ranks.statistic,
        "kruskal_p": ranks.pvalue,
        "epsilon2": ranks.statistic / (len(values) - 1),
    }


def speaker_held(values: np.ndarray, emotions: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Compare the emotions with each speaker's own mean taken out: value ~ speaker + emotion.

    Where each speaker has equally many clips of each emotion, this is the one-way analysis of what is left
    after subtracting the speakers' means.

    Returns:
        speaker_f, speaker_p, and the partial eta squared SS_emotion / (SS_emotion + SS_residual), the
        emotion's share of what the speakers do not explain (Cohen 1973, Educ. Psychol. Meas. 33:107).
    """
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    clips = pd.DataFrame({"value": values, "emotion": emotions, "speaker": speakers})
    formula = "value ~ C(speaker) + C(emotion)" if len(set(speakers)) > 1 else "value ~ C(emotion)"
    anova = anova_lm(smf.ols(formula, clips).fit(), typ=2)
    emotion, rest = anova.loc["C(emotion)"], anova.loc["Residual", "sum_sq"]
    return {
        "speaker_f": emotion["F"],
        "speaker_p": emotion["PR(>F)"],
        "partial_eta2": emotion["sum_sq"] / (emotion["sum_sq"] + rest),
    }


def over_speakers(values: np.ndarray, emotions: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Compare the emotions on one mean per speaker and emotion: does it hold from speaker to speaker?

    An analysis of variance with repeated measures; its degrees of freedom are multiplied by the estimate of
    Greenhouse & Geisser (1959, Psychometrika 24:95), for means of one speaker are correlated:
    (trace S)^2 / ((k - 1) sum of S_ij^2), with S the doubly centred covariance of the k emotions.

    Returns:
        means_speakers: those who have every emotion; nothing else if they are fewer than `MIN_SPEAKERS`.
        means_f, means_df1, means_df2, means_sphericity (the estimate), means_p.
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
    spread = centring @ np.cov(means.to_numpy().T) @ centring
    sphericity = np.trace(spread) ** 2 / ((num_emotions - 1) * (spread**2).sum())
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
    """Test each measure of one corpus over the emotions.

    Args:
        clips: `emotion`, `speaker` and a column per measure; NaN = not measurable, left out.
        measures: names of columns.

    Returns:
        A row per measure: `measure`, `clips` (measured), `not_measurable`, and what `one_way`,
        `speaker_held` and `over_speakers` return; NaN where there is nothing to compare. Each p has a
        `*_holm` beside it, corrected over the measures (Holm 1979, Scand. J. Stat. 6:65).
    """
    from statsmodels.stats.multitest import multipletests

    tests = pd.DataFrame([_compare_emotions(clips, measure) for measure in measures])
    tests = tests.reindex(columns=COLUMNS)
    for column in [name for name in COLUMNS if name.endswith("_p")]:
        known = tests[column].notna()
        tests[f"{column}_holm"] = NAN
        if known.any():
            tests.loc[known, f"{column}_holm"] = multipletests(tests.loc[known, column], method="holm")[1]
    return tests


def _compare_emotions(clips: pd.DataFrame, measure: str) -> dict[str, float]:
    measured = clips[np.isfinite(clips[measure])]
    row = {"measure": measure, "clips": len(measured), "not_measurable": len(clips) - len(measured)}
    # One clip has no spread, which every test here needs.
    measured = measured[measured.groupby("emotion")["clip"].transform("size") > 1]
    if measured["emotion"].nunique() < 2 or measured[measure].nunique() < 2:
        return row
    values = measured[measure].to_numpy(dtype=np.float64)
    emotions, speakers = (measured[name].to_numpy(dtype=str) for name in ("emotion", "speaker"))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # an emotion without spread: Welch's test is then NaN
        return (
            row
            | one_way(values, emotions)
            | speaker_held(values, emotions, speakers)
            | over_speakers(values, emotions, speakers)
        )


def map_clips(features: np.ndarray, seed: int) -> np.ndarray | None:
    """Lay clips out on a plane so that neighbours stay neighbours (t-SNE: van der Maaten & Hinton 2008).

    Args:
        features: (num_clips, num_features), standardised.

    Returns:
        float32 (num_clips, 2); None for fewer than 10 clips, which need no map.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 10:
        return None
    tsne = TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):  # several threads add up in any order: another map every time
        return tsne.fit_transform(features)


def separation_of(features: np.ndarray, labels: np.ndarray, speakers: np.ndarray) -> dict[str, float] | None:
    """Say in numbers how far apart groups of clips lie, in the features themselves and not on a map.

    Args:
        features: (num_clips, num_features), standardised.
        labels, speakers: str (num_clips,).

    Returns:
        None where there are not two groups, or only groups of one clip. Else
        silhouette: mean of (b - a) / max(a, b), with a and b the mean distances of a clip to its own group
            and to the nearest other one; -1 to 1, 0 = the groups lie in each other (Rousseeuw 1987).
        neighbour: share of clips whose nearest clip is of their own group.
        other_voice: the same for the nearest clip by another speaker; NaN with one speaker.
        chance: what the neighbour's share would be if clips lay anywhere.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    _, counts = np.unique(labels, return_counts=True)
    if not 2 <= len(counts) < len(labels):
        return None
    nearest = NearestNeighbors(n_neighbors=1).fit(features).kneighbors(return_distance=False)[:, 0]
    is_same = np.full(len(labels), NAN)
    for speaker in np.unique(speakers) if len(np.unique(speakers)) > 1 else ():
        own, others = speakers == speaker, np.flatnonzero(speakers != speaker)
        found = NearestNeighbors(n_neighbors=1).fit(features[others]).kneighbors(features[own])[1][:, 0]
        is_same[own] = labels[others[found]] == labels[own]
    return {
        "silhouette": float(silhouette_score(features, labels)),
        "neighbour": float((labels[nearest] == labels).mean()),
        "other_voice": float(is_same.mean()),
        "chance": float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1))),
    }
