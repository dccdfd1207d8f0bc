"""Training, validation and test splits of the complete corpora, computed from their file names.

Run: python -m pytest tests/data/test_splits.py
"""

from dataclasses import asdict

import pandas as pd
import pytest
from test_corpora import WHOLE_CORPORA, WORDS

from utils.data.corpora import CORPORA, parse_clip
from utils.data.labels import EMOTIONS, choose_emotions
from utils.data.splits import (
    SPLITS,
    check_split,
    describe_split,
    selection_groups,
    split_digest,
    split_final,
    split_folds,
    split_models,
    split_table,
    training_parts,
)
from utils.runtime import InputError


def table_of(*corpora: str) -> pd.DataFrame:
    names = [name for corpus in corpora for name in WHOLE_CORPORA[corpus]]
    return pd.DataFrame(
        asdict(parse_clip(f"{name}.wav")) | {"digest": name, "duration_seconds": 3.0} for name in names
    )


def common_emotions(*corpora: str) -> tuple[str, ...]:
    return choose_emotions({name: CORPORA[name].emotions for name in corpora})


def whole_split(*corpora: str, protocol="holdout", seed=0) -> pd.DataFrame:
    return split_table(table_of(*corpora), protocol, common_emotions(*corpora), seed)


def speakers(table, split) -> set[str]:
    return set(table["speaker"][table["split"] == split])


def actors(*numbers: int) -> set[str]:
    return {f"ravdess-{number:02d}" for number in numbers}


@pytest.fixture(scope="module")
def ravdess():
    return whole_split("ravdess")


@pytest.fixture(scope="module")
def tess():
    return whole_split("tess")


@pytest.mark.parametrize("corpora", [("ravdess",), ("ravdess_song",), ("ravdess", "ravdess_song")])
def test_speech_and_song_of_ravdess_have_the_same_test_actors(corpora):
    table = whole_split(*corpora)
    without = {18} if corpora == ("ravdess_song",) else set()
    assert speakers(table, "train") == actors(*{*range(1, 19)} - without)
    assert speakers(table, "validation") == actors(19, 20)
    assert speakers(table, "test") == actors(21, 22, 23, 24)
    if corpora == ("ravdess",):
        assert table["split"].value_counts().to_dict() == {"train": 1080, "validation": 120, "test": 240}


def test_tess_is_tested_on_the_other_speaker_and_validated_on_other_words(tess):
    train, validation, test = (tess[tess["split"] == split] for split in SPLITS)
    assert speakers(tess, "train") == speakers(tess, "validation") == {"tess-OAF"}
    assert speakers(tess, "test") == {"tess-YAF"} and len(test) == 1400
    assert set(train["text"]) | set(validation["text"]) == set(WORDS)
    assert not set(train["text"]) & set(validation["text"])
    assert validation["text"].nunique() == 40 and len(validation) == 40 * 7  # a fifth, in every emotion
    bites = tess[(tess["text"] == "bite") & (tess["speaker"] == "tess-OAF")]
    assert "OA_bite_neutral" in set(bites["clip"]) and bites["split"].nunique() == 1


def test_nobody_who_trains_validates_where_others_can(ravdess, tess):
    both = whole_split("ravdess", "tess")
    separate = pd.concat([ravdess[ravdess["emotion"] != "calm"], tess])
    expected = separate.set_index("clip")["split"].mask(
        separate.set_index("clip")["speaker"] == "tess-OAF", "train"
    )
    assert both.set_index("clip")["split"].to_dict() == expected.to_dict()
    assert speakers(both, "validation") == actors(19, 20)
    assert (both["speaker"] == "tess-OAF").sum() == 1400
    known = speakers(both, "train") | speakers(both, "validation")
    assert not known & speakers(both, "test")


def test_only_clips_of_the_selected_emotions_are_returned_and_the_table_is_not_changed():
    table = table_of("ravdess").sample(frac=1, random_state=0)
    before = table.copy()
    selected = split_table(table, "holdout", ("sad", "angry"))
    assert set(selected["emotion"]) == {"sad", "angry"} and len(selected) == 2 * 192
    assert selected.index.equals(
        table.index[table["emotion"].isin(["sad", "angry"])]
    )  # rows of the waveforms
    pd.testing.assert_frame_equal(table, before)


def test_the_hold_out_split_does_not_depend_on_the_seed(ravdess):
    pd.testing.assert_frame_equal(whole_split("ravdess", seed=1), ravdess)


@pytest.mark.parametrize("corpora", [("ravdess",), ("tess",), ("ravdess", "tess")])
def test_the_random_split_has_the_same_shares_of_each_emotion_and_corpus(corpora):
    table = whole_split(*corpora, protocol="random")
    for _, rows in table.groupby(["corpus", "emotion"]):
        counts = rows["split"].value_counts()
        assert counts["test"] == round(0.2 * len(rows))
        assert counts["validation"] == round(0.1 * len(rows))
        assert counts.sum() == len(rows)
    assert speakers(table, "train") & speakers(table, "test")  # the leak that this protocol demonstrates


def test_the_random_split_depends_on_the_seed():
    first, again, other = (whole_split("ravdess", protocol="random", seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert split_digest(first) != split_digest(other)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InputError, match="--protocol: expected one of holdout, random, got 'hold-out'"):
        whole_split("ravdess", protocol="hold-out")


@pytest.mark.parametrize(
    ("corpus", "speaker", "split", "message"),
    [
        ("ravdess", "ravdess-21", "train", r"test speakers also train or validate: \['ravdess-21'\]"),
        ("ravdess", "ravdess-01", "test", r"test speakers also train or validate: \['ravdess-01'\]"),
        ("ravdess", "ravdess-19", "test", r"test speakers also train or validate: \['ravdess-19'\]"),
        ("ravdess", "ravdess-19", "train", "ravdess-19 both trains and validates"),
        ("tess", "tess-YAF", "validation", r"test speakers also train or validate: \['tess-YAF'\]"),
    ],
)
def test_a_single_clip_in_a_wrong_split_is_an_error(request, corpus, speaker, split, message):
    table = request.getfixturevalue(corpus).copy()
    check_split(table, "holdout", common_emotions(corpus))  # valid without the change
    table.loc[table.index[table["speaker"] == speaker][0], "split"] = split
    with pytest.raises(AssertionError, match=message):
        check_split(table, "holdout", common_emotions(corpus))


def test_a_word_in_training_and_validation_is_an_error(tess):
    table = tess.copy()
    table.loc[table.index[table["split"] == "validation"][0], "split"] = "train"
    with pytest.raises(AssertionError, match="tess-OAF both trains and validates"):
        check_split(table, "holdout", common_emotions("tess"))


def test_an_actor_in_training_and_validation_is_an_error_even_with_different_sentences(ravdess):
    table = ravdess.copy()
    dogs = table["text"].str.startswith("dogs")
    table.loc[(table["speaker"] == "ravdess-19") & dogs, "split"] = "train"
    table.loc[(table["speaker"] == "ravdess-19") & ~dogs, "split"] = "validation"
    with pytest.raises(AssertionError, match="ravdess-19 both trains and validates"):
        check_split(table, "holdout", EMOTIONS)


def test_speech_in_training_and_song_in_test_by_the_same_actor_is_an_error():
    table = whole_split("ravdess", "ravdess_song")
    table.loc[(table["speaker"] == "ravdess-22") & (table["corpus"] == "ravdess_song"), "split"] = "train"
    with pytest.raises(AssertionError, match="ravdess-22"):
        check_split(table, "holdout", common_emotions("ravdess", "ravdess_song"))


@pytest.mark.parametrize("protocol", ["holdout", "random"])
def test_a_duplicate_recording_is_an_error(ravdess, protocol):
    table = ravdess.copy()
    table.loc[table.index[5], "digest"] = table["digest"].iloc[-1]
    with pytest.raises(AssertionError, match="one recording is in the table twice"):
        check_split(table, protocol, EMOTIONS)


@pytest.mark.parametrize(
    ("present", "empty"), [((1,), "validation"), ((21, 22), "train"), ((1, 2, 19), "test"), ((), "train")]
)
def test_the_error_for_too_few_speakers_lists_them_and_recommends_another_protocol(present, empty):
    table = table_of("ravdess")
    table = table[table["speaker"].isin(actors(*present))]
    with pytest.raises(InputError) as stop:
        split_table(table, "holdout", EMOTIONS)
    assert f"--protocol holdout: no clip is left for the {empty} split" in str(stop.value)
    assert "--protocol random" in str(stop.value)
    assert ", ".join(sorted(actors(*present))) in str(stop.value)


@pytest.mark.parametrize("protocol", ["holdout", "folds", "loso"])
def test_a_single_speaker_is_refused_by_all_speaker_independent_protocols(protocol):
    table = table_of("tess")
    with pytest.raises(InputError, match=f"--protocol {protocol}: no clip is left for the") as stop:
        split_models(table[table["speaker"] == "tess-YAF"], protocol, common_emotions("tess"))
    assert "by tess-YAF; get the whole corpora" in str(stop.value)


def test_a_split_into_folds_without_validation_speakers_for_the_saved_model_is_refused():
    table = table_of("ravdess")
    with pytest.raises(InputError, match="--protocol loso: no clip is left for the validation split"):
        split_models(table[~table["speaker"].isin(actors(19, 20))], "loso", EMOTIONS)


def test_an_emotion_without_test_or_validation_clips_is_reported_and_the_others_are_scored(caplog):
    table = table_of("ravdess")
    removed = (table["speaker"].isin(actors(21, 22, 23, 24)) & table["emotion"].isin(["sad", "calm"])) | (
        table["speaker"].isin(actors(19, 20)) & (table["emotion"] == "angry")
    )
    split = split_table(table[~removed], "holdout", EMOTIONS)
    assert caplog.messages == [
        "No validation clip is angry: its scores are over the others",
        "No test clip is calm or sad: its scores are over the others",
    ]
    assert set(split["emotion"][split["split"] == "test"]) == set(EMOTIONS) - {"sad", "calm"}


def test_the_random_split_works_for_a_single_speaker():
    table = table_of("ravdess")
    split = split_table(table[table["speaker"] == "ravdess-01"], "random", EMOTIONS)
    assert set(split["split"]) == set(SPLITS) and len(split) == 60


@pytest.mark.parametrize("protocol", ["holdout", "random"])
def test_an_emotion_without_training_clips_is_refused(protocol):
    table = table_of("ravdess")
    in_training = ~table["speaker"].isin(CORPORA["ravdess"].test_speakers) | (protocol == "random")
    with pytest.raises(InputError, match="--emotions: no training clip is angry"):
        split_table(table[~(in_training & (table["emotion"] == "angry"))], protocol, EMOTIONS)


def test_the_digest_depends_on_the_clips_their_labels_and_their_splits_only(ravdess):
    digest = split_digest(ravdess)
    assert split_digest(ravdess.sample(frac=1, random_state=0)) == digest
    assert split_digest(ravdess.assign(path="elsewhere").reset_index(drop=True)) == digest
    changed = [ravdess.iloc[:-1]]
    for column, value in (("clip", "another"), ("emotion", "calm"), ("split", "test"), ("corpus", "tess")):
        table = ravdess.copy()
        assert table.loc[0, column] != value
        table.loc[0, column] = value
        changed.append(table)
    assert len({digest, *map(split_digest, changed)}) == 6


def test_the_description_contains_the_numbers_of_clips_minutes_and_speakers(ravdess):
    description = describe_split(ravdess)
    assert list(description) == list(SPLITS)
    assert description["test"] == {
        "clips": 240,
        "minutes": 12.0,
        "speakers": sorted(actors(21, 22, 23, 24)),
        "clips_per_emotion": {emotion: 16 if emotion == "neutral" else 32 for emotion in EMOTIONS},
    }
    assert sum(split["clips"] for split in description.values()) == 1440


# ---------------------------------------------------------------------------------------------------
# Folds


@pytest.mark.parametrize(
    ("protocol", "corpora", "num_folds"),
    [
        ("folds", ("ravdess",), 6),
        ("folds", ("ravdess_song",), 6),
        ("folds", ("tess",), 2),
        ("loso", ("ravdess",), 24),
        ("loso", ("ravdess", "ravdess_song"), 24),
        ("loso", ("tess",), 2),
        ("loso", ("ravdess", "tess"), 26),
        ("folds", ("ravdess", "ravdess_song"), 6),
        ("cross-corpus", ("ravdess", "tess"), 2),
        ("cross-corpus", ("ravdess", "ravdess_song", "tess"), 2),
    ],
)
def test_each_clip_is_in_one_test_fold_whose_training_data_do_not_include_its_speaker(
    protocol, corpora, num_folds
):
    table = table_of(*corpora)
    emotions = common_emotions(*corpora)
    folds = split_folds(table, protocol, emotions)
    assert len(folds) == num_folds
    for fold in folds.values():
        assert not (speakers(fold, "train") | speakers(fold, "validation")) & speakers(fold, "test")
        assert set(fold["split"]) == set(SPLITS)
    test_clips = pd.concat([fold[fold["split"] == "test"] for fold in folds.values()])
    assert sorted(test_clips.index) == list(table.index[table["emotion"].isin(emotions)])


def test_the_folds_of_ravdess_are_the_published_ones_with_the_next_fold_as_validation_split():
    folds = list(split_folds(table_of("ravdess"), "folds", EMOTIONS).values())
    assert speakers(folds[0], "test") == actors(1, 11, 20, 21)
    assert speakers(folds[0], "validation") == speakers(folds[1], "test") == actors(4, 10, 12, 14)
    assert speakers(folds[5], "test") == actors(6, 13, 17, 22)
    assert speakers(folds[5], "validation") == actors(1, 11, 20, 21)


def test_cross_corpus_folds_train_and_validate_without_the_tested_corpus():
    folds = split_folds(table_of("ravdess", "tess"), "cross-corpus", common_emotions("ravdess", "tess"))
    for name, fold in zip(("ravdess", "tess"), folds.values(), strict=True):
        assert set(fold["corpus"][fold["split"] == "test"]) == {name}
        assert name not in set(fold["corpus"][fold["split"] != "test"])


def test_a_speaker_of_tess_is_left_out_while_the_other_one_trains():
    folds = split_folds(table_of("ravdess", "tess"), "loso", common_emotions("ravdess", "tess"))
    assert speakers(folds["tess-OAF"], "train") == actors(*range(1, 25)) - actors(19, 20) | {"tess-YAF"}
    assert speakers(folds["tess-OAF"], "validation") == actors(19, 20)
    assert speakers(folds["ravdess-24"], "validation") == actors(1, 2)
    assert {"tess-OAF", "tess-YAF"} < speakers(folds["ravdess-24"], "train")


def test_the_saved_model_of_a_run_with_folds_is_trained_on_all_speakers_except_validation():
    final = split_final(table_of("ravdess"), EMOTIONS)
    assert speakers(final, "validation") == actors(19, 20)
    assert speakers(final, "train") == actors(*range(1, 25)) - actors(19, 20)
    assert not speakers(final, "test")


def test_the_models_of_the_folds_are_followed_by_the_saved_model():
    folds, models, final = split_models(table_of("ravdess"), "folds", EMOTIONS)
    assert list(models) == [*folds, "final"] and models["final"] is final
    assert "test" not in set(final["split"])


@pytest.mark.parametrize("protocol", ["holdout", "folds"])
def test_models_that_need_no_validation_clips_train_on_them(protocol):
    plan = split_models(table_of("ravdess"), protocol, EMOTIONS)
    merged = plan.without_validation()
    assert list(merged.models) == list(plan.models) and merged.digest() == plan.digest()
    assert merged.final is list(merged.models.values())[-1]
    for name, split in plan.models.items():
        assert speakers(merged.models[name], "train") == speakers(split, "train") | speakers(
            split, "validation"
        )
        assert speakers(merged.models[name], "test") == speakers(split, "test")
    assert all(merged.folds[name] is merged.models[name] for name in plan.folds)


def test_the_hold_out_protocol_tests_and_saves_the_same_model(ravdess):
    folds, models, final = split_models(ravdess, "holdout", EMOTIONS)
    assert list(folds) == list(models) == ["holdout"] and folds["holdout"] is models["holdout"] is final
    pd.testing.assert_frame_equal(final, split_table(ravdess, "holdout", EMOTIONS))


@pytest.mark.parametrize(
    ("protocol", "corpora", "message"),
    [
        ("folds", ("ravdess", "tess"), "expected one corpus at a time, got ravdess tess"),
        ("cross-corpus", ("tess",), "expected at least two corpora, got tess"),
        (
            "cross-corpus",
            ("ravdess", "ravdess_song"),
            "got ravdess ravdess_song; ravdess and ravdess_song have the same speakers and count as one",
        ),
    ],
)
def test_protocols_that_do_not_fit_the_number_of_corpora_are_refused(protocol, corpora, message):
    with pytest.raises(InputError, match=message):
        split_folds(table_of(*corpora), protocol, common_emotions(*corpora))


@pytest.mark.parametrize(
    ("corpus", "protocol", "unit"),
    [("ravdess", "loso", "speaker"), ("tess", "folds", "text"), ("ravdess", "random", "clip")],
)
def test_training_clips_are_grouped_by_speaker_word_or_clip_for_model_selection(corpus, protocol, unit):
    _, models, _ = split_models(table_of(corpus), protocol, common_emotions(corpus))
    parts = training_parts(models.values(), protocol)
    for split, (rows, groups, are_speakers) in zip(models.values(), parts, strict=True):
        assert are_speakers == (unit == "speaker")
        assert (split["split"].iloc[rows] == "train").all()
        assert len(rows) == (split["split"] == "train").sum()
        assert (groups == split[unit].iloc[rows]).all()
        test_groups = set(split[unit][split["split"] == "test"])
        assert not test_groups & set(groups) or unit == "text"


def test_training_clips_of_few_speakers_are_grouped_by_text_and_a_single_text_is_refused(ravdess):
    two_actors = ravdess[ravdess["speaker"].isin(actors(1, 2))]
    assert selection_groups(two_actors, "holdout").nunique() == 2
    with pytest.raises(InputError, match=r"by ravdess-01 ravdess-02 and all say .*: nothing can be chosen"):
        selection_groups(two_actors[two_actors["text"] == two_actors["text"].iloc[0]], "holdout")
