"""How is a recording transcribed whose channels are different speakers, as of a telephone call? Each by itself.

The words of all channels are merged by time.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segue.data import audio
from segue.errors import UserError, count_of
from segue.runtime.recognizer import Recognizer, Transcript, VoiceActivity
from segue.runtime.words import Word, joined, text_of

SIDES = ("left", "right")
PAUSE_SECONDS = 0.5
"""What one channel says without a longer pause stays together where both speak at once."""
MOST_CHANNELS = 8


def transcribe(
    model: Recognizer, path: Path, names: Sequence[str] | None = None, voice_activity: VoiceActivity = "auto"
) -> Transcript:
    """Transcribes every channel of a file; the words have `names`, one per channel, as speakers.

    Without names they are "left" and "right", or with more channels "channel 1" and so on. Raises a UserError if the
    file has one channel, more than MOST_CHANNELS, or another number than there are names.
    """
    count = audio.properties(path).num_channels
    if not 2 <= count <= MOST_CHANNELS:
        mend = "; --speakers N tells voices in one channel apart" if count == 1 else ""
        raise UserError(
            f"{path}: {count_of(count, 'channel')}; for each to be a speaker, 2 to {MOST_CHANNELS} are needed{mend}"
        )
    if names is None:
        names = SIDES if count == len(SIDES) else [f"channel {number}" for number in range(1, count + 1)]
    if len(names) != count:
        given = f"{count_of(len(names), 'name')}: {', '.join(names)}"
        raise UserError(f"{path}: {count_of(count, 'channel')}, but {given}; give a name for each channel")
    transcripts = [model.transcribe(path, channel=n, voice_activity=voice_activity) for n in range(1, count + 1)]
    words = merged(
        [[word._replace(speaker=name) for word in each.words] for name, each in zip(names, transcripts, strict=True)]
    )
    return replace(transcripts[0], text=text_of(words), words=words)


def merged(channels: Sequence[Sequence[Word]]) -> list[Word]:
    """The words of several channels, in order of starts; what one says between two pauses stays together."""
    phrases: list[list[Word]] = []
    for words in channels:
        for number, word in enumerate(words):
            if number == 0 or word.start - words[number - 1].end > PAUSE_SECONDS:
                phrases.append([])
            phrases[-1].append(word)
    return joined(sorted(phrases, key=lambda phrase: phrase[0].start))
