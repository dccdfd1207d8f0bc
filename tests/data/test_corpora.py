"""Labels in file names: complete published corpora, and the unusual names of real copies.

Run: python -m pytest tests/data/test_corpora.py
"""

from collections import Counter
from itertools import product

import pytest

from utils.data.corpora import CORPORA, parse_clip
from utils.data.labels import EMOTIONS, choose_emotions
from utils.runtime import InputError

WORDS = ["bite", *map("".join, product("bcdfghjklm", "aeiou", "lmnr"))][:200]


def ravdess_names(channel="01", actors=range(1, 25), num_emotions=8, repetitions=2) -> list[str]:
    """All names of a corpus that is named as RAVDESS; neutral has no strong intensity."""
    return [
        f"03-{channel}-{emotion:02d}-{intensity:02d}-{sentence:02d}-{repetition:02d}-{actor:02d}"
        for actor, emotion, intensity, sentence, repetition in product(
            actors, range(1, num_emotions + 1), (1, 2), (1, 2), range(1, repetitions + 1)
        )
        if (emotion, intensity) != (1, 2)
    ]


def tess_names() -> list[str]:
    """All names of TESS, including the misspelt one."""
    emotions = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
    names = [
        f"{speaker}_{word}_{emotion}" for speaker in ("OAF", "YAF") for word in WORDS for emotion in emotions
    ]
    return ["OA_bite_neutral" if name == "OAF_bite_neutral" else name for name in names]


WHOLE_CORPORA = {
    "ravdess": ravdess_names(),
    "ravdess_song": ravdess_names("02", [actor for actor in range(1, 25) if actor != 18], num_emotions=6),
    "tess": tess_names(),
    "demo": ravdess_names("03", range(1, 17), repetitions=1),
}

PUBLISHED = {  # numbers of clips, speakers, and neutral clips
    "ravdess": (1440, 24, 96),
    "ravdess_song": (1012, 23, 92),
    "tess": (2800, 2, 400),
    "demo": (480, 16, 32),
}


@pytest.mark.parametrize("name", CORPORA)
def test_all_names_of_a_corpus_are_parsed(name):
    corpus = CORPORA[name]
    clips = [parse_clip(f"{stem}.wav") for stem in WHOLE_CORPORA[name]]
    assert {clip.corpus for clip in clips} == {name}
    assert len({clip.clip for clip in clips}) == len(clips)
    speakers = {clip.speaker for clip in clips}
    assert speakers > {*corpus.validation_speakers, *corpus.test_speakers}
    assert {clip.emotion for clip in clips} == set(corpus.emotions) <= set(EMOTIONS)
    num_neutral = Counter(clip.emotion for clip in clips).pop("neutral")
    assert (len(clips), len(speakers), num_neutral) == PUBLISHED[name]
    assert (corpus.num_clips, corpus.num_speakers) == PUBLISHED[name][:2]
    assert not [clip for clip in clips if (clip.emotion, clip.intensity) == ("neutral", "strong")]


def test_ravdess_song_has_no_actor_18():
    assert "ravdess-18" not in {parse_clip(f"{stem}.wav").speaker for stem in WHOLE_CORPORA["ravdess_song"]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "03-01-06-02-02-01-12.wav",
            "ravdess ravdess-12 female fearful strong dogs are sitting by the door",
        ),
        ("03-01-01-01-01-01-01.wav", "ravdess ravdess-01 male neutral normal kids are talking by the door"),
        (
            "03-02-04-01-01-02-01.wav",
            "ravdess_song ravdess-01 male sad normal kids are talking by the door",
        ),
        ("03-03-08-01-01-01-24.WAV", "demo demo-24 female surprised normal kids are talking by the door"),
        ("03-01-02-01-01-01-23.Flac", "ravdess ravdess-23 male calm normal kids are talking by the door"),
        ("OAF_back_angry.wav", "tess tess-OAF female angry normal back"),
        ("OA_bite_neutral.wav", "tess tess-OAF female neutral normal bite"),
        ("YAF_germ_ps.wav", "tess tess-YAF female surprised normal germ"),
        ("YAF_neat_fear.wav", "tess tess-YAF female fearful normal neat"),
        ("yaf_Neat_Fear.Wav", "tess tess-YAF female fearful normal neat"),
    ],
)
@pytest.mark.parametrize("folder", ["", "OAF_Pleasant_surprise/", "/kaggle/input/tess/TESS data/Actor_07/"])
def test_labels_are_parsed_from_the_name_in_any_folder(folder, path, expected):
    clip = parse_clip(folder + path)
    assert clip.clip == path.rpartition(".")[0]
    labels = (clip.corpus, clip.speaker, clip.gender, clip.emotion, clip.intensity, clip.text)
    assert " ".join(labels) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("Copy of {}.wav", "copy of {}.wav", "{} (1).wav", "{}(2).wav", "{} 2.wav"),
        *("{} - Copy.wav", "{} - Copy (2).wav", "{} copy.wav", "{} copy 3.WAV", "Copy of {} (1).mp3"),
    ],
)
@pytest.mark.parametrize("stem", ["03-01-06-02-02-01-12", "OAF_back_angry"])
def test_a_copy_is_the_clip_itself(stem, name):
    assert parse_clip(name.format(stem)) == parse_clip(f"{stem}.wav") is not None


@pytest.mark.parametrize("actor", range(1, 25))
def test_odd_actors_are_male_and_speech_and_song_share_speakers(actor):
    speech, song = (parse_clip(f"03-{channel}-03-01-01-01-{actor:02d}.wav") for channel in ("01", "02"))
    assert speech.speaker == song.speaker == f"ravdess-{actor:02d}"
    assert speech.gender == song.gender == ("male" if actor % 2 else "female")
    assert speech.corpus != song.corpus


@pytest.mark.parametrize(
    "path",
    [
        "03-01-01-01-01-01-25.wav",  # no such actor
        "03-01-01-01-01-01-00.wav",
        "03-01-09-01-01-01-01.wav",  # no such emotion
        "03-01-00-01-01-01-01.wav",
        "03-04-01-01-01-01-01.wav",  # no such channel
        "01-01-01-01-01-01-01.wav",  # modality 01: audio of the video
        "03-01-01-03-01-01-01.wav",  # no such intensity
        "03-01-01-01-01-01-01 (a).wav",
        "03-01-01-01-01-01-01 (٣).wav",
        "Cover of OAF_back_angry.wav",
        "03-01-01-01-01-01-1٣.wav",  # a non-ASCII digit
        "OAF_bac\u212a_fear.wav",  # the Kelvin sign
        "YAF_dog_\u017fad.wav",  # a long s
        "03-01-01-01-01-01.wav",
        "03-01-01-01-01-01-01.mp4",
        "03-01-01-01-01-01-01.txt",
        "03-01-01-01-01-01-01",
        "__MACOSX/Actor_01/._03-01-01-01-01-01-01.wav",
        "__MACOSX/._OAF_back_angry.wav",
        "OAF_back_angry.txt",
        "OAF_back_calm.wav",
        "OAF_angry.wav",
        "XAF_back_angry.wav",
        ".DS_Store",
        "Actor_01",
        "03a01Wa.wav",  # EMO-DB
    ],
)
def test_other_files_are_no_clips(path):
    assert parse_clip(path) is None


@pytest.mark.parametrize(
    ("names", "num_emotions"),
    [(["ravdess"], 8), (["tess"], 7), (["ravdess_song"], 6), (["ravdess", "tess"], 7), (["demo"], 8)],
)
def test_default_emotions_are_those_of_all_corpora(names, num_emotions):
    emotions = choose_emotions({name: CORPORA[name].emotions for name in names})
    assert len(emotions) == num_emotions
    assert all(set(emotions) <= set(CORPORA[name].emotions) for name in names)
    assert list(emotions) == sorted(emotions, key=EMOTIONS.index)
    assert ("calm" in emotions) == ("tess" not in names)


def test_requested_emotions_are_sorted_and_unique():
    available = {"tess": CORPORA["tess"].emotions}
    assert choose_emotions(available, ["sad", "neutral", "angry", "sad"]) == ("neutral", "sad", "angry")
    both = {name: CORPORA[name].emotions for name in ("ravdess", "tess")}
    assert choose_emotions(both, ["calm", "angry"]) == ("calm", "angry")  # in at least one corpus


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (["happy", "suprised"], r"'suprised'; did you mean 'surprised'\?"),
        (["happy", "ANGRY"], r"'ANGRY'; did you mean 'angry'\?"),
        (["happy", "fear"], r"'fear'; did you mean 'fearful'\?"),
        (["happy", "xyz"], r"unknown emotion 'xyz'; known: neutral calm happy"),
        (["happy", "calm"], r"no clip of tess is 'calm'"),
        (["happy"], "at least two emotions, got happy"),
        (["happy", "happy"], "at least two emotions"),
    ],
)
def test_invalid_emotions_are_rejected_with_a_suggestion(requested, message):
    with pytest.raises(InputError, match=rf"^--emotions: .*{message}"):
        choose_emotions({"tess": CORPORA["tess"].emotions}, requested)
