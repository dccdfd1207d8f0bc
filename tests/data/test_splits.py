"""Who trains, who validates, who tests: on the names of the whole corpora, exactly.

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
def test_ravdess_holds_out_the_same_actors_in_speech_and_song(corpora):
    table = whole_split(*corpora)
    without = {18} if corpora == ("ravdess_song",) else set()
    assert speakers(table, "train") == actors(*{*range(1, 19)} - without)
    assert speakers(table, "validation") == actors(19, 20)
    assert speakers(table, "test") == actors(21, 22, 23, 24)
    if corpora == ("ravdess",):
        assert table["split"].value_counts().to_dict() == {"train": 1080, "validation": 120, "test": 240}


def test_tess_tests_on_the_other_woman_and_validates_on_other_words(tess):
    train, validation, test = (tess[tess["split"] == split] for split in SPLITS)
    assert speakers(tess, "train") == speakers(tess, "validation") == {"tess-OAF"}
    assert speakers(tess, "test") == {"tess-YAF"} and len(test) == 1400
    assert set(train["text"]) | set(validation["text"]) == set(WORDS)
    assert not set(train["text"]) & set(validation["text"])
    assert validation["text"].nunique() == 40 and len(validation) == 40 * 7  # a fifth, in every emotion
    bites = tess[(tess["text"] == "bite") & (tess["speaker"] == "tess-OAF")]
    assert "OA_bite_neutral" in set(bites["clip"]) and bites["split"].nunique() == 1


def test_corpora_together_are_split_as_each_alone(ravdess, tess):
    both = whole_split("ravdess", "tess")
    alone = pd.concat([ravdess[ravdess["emotion"] != "calm"], tess])
    assert both.set_index("clip")["split"].to_dict() == alone.set_index("clip")["split"].to_dict()
    seen = speakers(both, "train") | speakers(both, "validation")
    assert not seen & speakers(both, "test")


def test_only_the_chosen_emotions_are_handed_on_and_the_given_table_stays_as_it_was():
    table = table_of("ravdess").sample(frac=1, random_state=0)
    before = table.copy()
    chosen = split_table(table, "holdout", ("sad", "angry"))
    assert set(chosen["emotion"]) == {"sad", "angry"} and len(chosen) == 2 * 192
    assert chosen.index.equals(table.index[table["emotion"].isin(["sad", "angry"])])  # rows of the waveforms
    pd.testing.assert_frame_equal(table, before)


def test_hold_out_knows_no_chance(ravdess):
    pd.testing.assert_frame_equal(whole_split("ravdess", seed=1), ravdess)


@pytest.mark.parametrize("corpora", [("ravdess",), ("tess",), ("ravdess", "tess")])
def test_random_draws_a_fifth_and_a_tenth_of_each_emotion_of_each_corpus(corpora):
    table = whole_split(*corpora, protocol="random")
    for _, rows in table.groupby(["corpus", "emotion"]):
        counts = rows["split"].value_counts()
        assert counts["test"] == round(0.2 * len(rows))
        assert counts["validation"] == round(0.1 * len(rows))
        assert counts.sum() == len(rows)
    assert speakers(table, "train") & speakers(table, "test")  # the leak that it is there to show


def test_random_goes_by_the_seed_alone():
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
def test_one_clip_in_a_wrong_split_is_noticed(request, corpus, speaker, split, message):
    table = request.getfixturevalue(corpus).copy()
    check_split(table, "holdout", common_emotions(corpus))  # sound before
    table.loc[table.index[table["speaker"] == speaker][0], "split"] = split
    with pytest.raises(AssertionError, match=message):
        check_split(table, "holdout", common_emotions(corpus))


def test_a_word_in_training_and_validation_is_noticed(tess):
    table = tess.copy()
    table.loc[table.index[table["split"] == "validation"][0], "split"] = "train"
    with pytest.raises(AssertionError, match="tess-OAF both trains and validates"):
        check_split(table, "holdout", common_emotions("tess"))


def test_other_sentences_do_not_excuse_an_actor_who_validates_and_trains(ravdess):
    table = ravdess.copy()
    dogs = table["text"].str.startswith("dogs")
    table.loc[(table["speaker"] == "ravdess-19") & dogs, "split"] = "train"
    table.loc[(table["speaker"] == "ravdess-19") & ~dogs, "split"] = "validation"
    with pytest.raises(AssertionError, match="ravdess-19 both trains and validates"):
        check_split(table, "holdout", EMOTIONS)


def test_speech_in_training_and_song_in_test_of_one_actor_is_noticed():
    table = whole_split("ravdess", "ravdess_song")
    table.loc[(table["speaker"] == "ravdess-22") & (table["corpus"] == "ravdess_song"), "split"] = "train"
    with pytest.raises(AssertionError, match="ravdess-22"):
        check_split(table, "holdout", common_emotions("ravdess", "ravdess_song"))


@pytest.mark.parametrize("protocol", ["holdout", "random"])
def test_one_recording_twice_is_noticed(ravdess, protocol):
    table = ravdess.copy()
    table.loc[table.index[5], "digest"] = table["digest"].iloc[-1]
    with pytest.raises(AssertionError, match="one recording is in the table twice"):
        check_split(table, protocol, EMOTIONS)


@pytest.mark.parametrize(
    ("present", "empty"), [((1,), "validation"), ((21, 22), "train"), ((1, 2, 19), "test"), ((), "train")]
)
def test_too_few_speakers_for_a_hold_out_are_named_with_a_way_out(present, empty):
    table = table_of("ravdess")
    table = table[table["speaker"].isin(actors(*present))]
    with pytest.raises(InputError) as stop:
        split_table(table, "holdout", EMOTIONS)
    assert f"--protocol holdout: no clip is left for the {empty} split" in str(stop.value)
    assert "--protocol random" in str(stop.value)
    assert ", ".join(sorted(actors(*present))) in str(stop.value)


@pytest.mark.parametrize("protocol", ["holdout", "folds", "loso"])
def test_labels_of_one_speaker_alone_are_refused_under_every_protocol_over_speakers(protocol):
    table = table_of("tess")
    with pytest.raises(InputError, match=f"--protocol {protocol}: no clip is left for the") as stop:
        split_models(table[table["speaker"] == "tess-YAF"], protocol, common_emotions("tess"))
    assert "by tess-YAF; get the whole corpora" in str(stop.value)


def test_folds_without_the_validation_speakers_of_the_saved_model_are_refused_before_they_train():
    table = table_of("ravdess")
    with pytest.raises(InputError, match="--protocol loso: no clip is left for the validation split"):
        split_models(table[~table["speaker"].isin(actors(19, 20))], "loso", EMOTIONS)


def test_an_emotion_that_is_not_tested_or_validated_is_said_and_the_rest_goes_on(caplog):
    table = table_of("ravdess")
    unheard = (table["speaker"].isin(actors(21, 22, 23, 24)) & table["emotion"].isin(["sad", "calm"])) | (
        table["speaker"].isin(actors(19, 20)) & (table["emotion"] == "angry")
    )
    split = split_table(table[~unheard], "holdout", EMOTIONS)
    assert caplog.messages == [
        "No validation clip is angry: its scores are over the others",
        "No test clip is calm or sad: its scores are over the others",
    ]
    assert set(split["emotion"][split["split"] == "test"]) == set(EMOTIONS) - {"sad", "calm"}


def test_random_works_for_a_single_speaker():
    table = table_of("ravdess")
    split = split_table(table[table["speaker"] == "ravdess-01"], "random", EMOTIONS)
    assert set(split["split"]) == set(SPLITS) and len(split) == 60


@pytest.mark.parametrize("protocol", ["holdout", "random"])
def test_an_emotion_that_nobody_trains_is_named(protocol):
    table = table_of("ravdess")
    seen = ~table["speaker"].isin(CORPORA["ravdess"].test_speakers) | (protocol == "random")
    with pytest.raises(InputError, match="--emotions: no training clip is angry"):
        split_table(table[~(seen & (table["emotion"] == "angry"))], protocol, EMOTIONS)


def test_the_digest_says_which_clip_is_where_under_which_label(ravdess):
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


def test_the_description_counts_what_is_there(ravdess):
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
# A model per fold


@pytest.mark.parametrize(
    ("protocol", "corpora", "num_folds"),
    [
        ("folds", ("ravdess",), 6),
        ("folds", ("ravdess_song",), 6),
        ("folds", ("tess",), 2),
        ("loso", ("ravdess",), 24),
        ("loso", ("ravdess", "ravdess_song"), 24),
        ("loso", ("tess",), 2),
        ("cross-corpus", ("ravdess", "tess"), 2),
    ],
)
def test_each_clip_is_tested_once_by_a_model_that_has_not_heard_its_speaker(protocol, corpora, num_folds):
    table = table_of(*corpora)
    emotions = common_emotions(*corpora)
    folds = split_folds(table, protocol, emotions)
    assert len(folds) == num_folds
    for fold in folds.values():
        assert not (speakers(fold, "train") | speakers(fold, "validation")) & speakers(fold, "test")
        assert set(fold["split"]) == set(SPLITS)
    tested = pd.concat([fold[fold["split"] == "test"] for fold in folds.values()])
    assert sorted(tested.index) == list(table.index[table["emotion"].isin(emotions)])


def test_the_folds_of_ravdess_are_the_published_ones_and_validate_on_the_next():
    folds = list(split_folds(table_of("ravdess"), "folds", EMOTIONS).values())
    assert speakers(folds[0], "test") == actors(1, 11, 20, 21)
    assert speakers(folds[0], "validation") == speakers(folds[1], "test") == actors(4, 10, 12, 14)
    assert speakers(folds[5], "test") == actors(6, 13, 17, 22)
    assert speakers(folds[5], "validation") == actors(1, 11, 20, 21)


def test_across_corpora_nothing_of_the_tested_corpus_is_learnt():
    folds = split_folds(table_of("ravdess", "tess"), "cross-corpus", common_emotions("ravdess", "tess"))
    for name, fold in zip(("ravdess", "tess"), folds.values(), strict=True):
        assert set(fold["corpus"][fold["split"] == "test"]) == {name}
        assert name not in set(fold["corpus"][fold["split"] != "test"])


def test_the_model_that_is_saved_beside_folds_trains_on_all_but_the_validation_speakers():
    final = split_final(table_of("ravdess"), EMOTIONS)
    assert speakers(final, "validation") == actors(19, 20)
    assert speakers(final, "train") == actors(*range(1, 25)) - actors(19, 20)
    assert not speakers(final, "test")


def test_after_a_model_per_fold_the_published_one_is_trained():
    folds, models, final = split_models(table_of("ravdess"), "folds", EMOTIONS)
    assert list(models) == [*folds, "final"] and models["final"] is final
    assert "test" not in set(final["split"])


def test_one_model_is_both_tested_and_published(ravdess):
    folds, models, final = split_models(ravdess, "holdout", EMOTIONS)
    assert list(folds) == list(models) == ["holdout"] and folds["holdout"] is models["holdout"] is final
    pd.testing.assert_frame_equal(final, split_table(ravdess, "holdout", EMOTIONS))


@pytest.mark.parametrize(
    ("protocol", "corpora", "message"),
    [("folds", ("ravdess", "tess"), "one of the --corpora"), ("cross-corpus", ("tess",), "at least two")],
)
def test_protocols_that_do_not_suit_the_corpora_are_refused(protocol, corpora, message):
    with pytest.raises(InputError, match=message):
        split_folds(table_of(*corpora), protocol, common_emotions(*corpora))


@pytest.mark.parametrize(
    ("corpus", "protocol", "unit"),
    [("ravdess", "loso", "speaker"), ("tess", "folds", "text"), ("ravdess", "random", "clip")],
)
def test_choices_among_training_clips_are_made_over_speakers_words_or_clips(corpus, protocol, unit):
    _, models, _ = split_models(table_of(corpus), protocol, common_emotions(corpus))
    for split, (rows, groups) in zip(models.values(), training_parts(models.values(), protocol), strict=True):
        assert (split["split"].iloc[rows] == "train").all()
        assert len(rows) == (split["split"] == "train").sum()
        assert (groups == split[unit].iloc[rows]).all()
        held_out = set(split[unit][split["split"] == "test"])
        assert not held_out & set(groups) or unit == "text"


def test_training_clips_of_few_speakers_are_held_out_by_text_and_of_one_text_not_at_all(ravdess):
    few = ravdess[ravdess["speaker"].isin(actors(1, 2))]
    assert selection_groups(few, "holdout").nunique() == 2
    with pytest.raises(InputError, match=r"by ravdess-01 ravdess-02 and all say .*: nothing can be chosen"):
        selection_groups(few[few["text"] == few["text"].iloc[0]], "holdout")
