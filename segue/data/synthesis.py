"""How does text become speech for a demonstration? espeak-ng, through the wheel espeakng-loader (GPLv3: an extra)."""

import ctypes

import numpy as np

from segue.data.audio import Samples
from segue.errors import UserError, missing_extra

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_UTF8 = 1
_RATE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """espeak-ng. Its state is global: create only one instance per process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError:
            raise missing_extra("espeakng-loader", "speech-demo") from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.sample_rate_hz: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0
        )
        """Sample rate of the result of `say`."""
        if self.sample_rate_hz <= 0:
            raise UserError("espeak-ng could not start")
        self._spoken: list[Samples] = []
        self._callback = _CALLBACK(self._hear)  # the library does not keep it alive
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> Samples:
        """(S) speech for `text`. `voice` is like "en-us+f2"; `pitch` is 0 to 99, by default 50 in espeak-ng.

        Raises a UserError for an unknown voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        content = text.encode()
        self._spoken = []
        self._library.espeak_Synth(content, ctypes.c_size_t(len(content) + 1), 0, 0, 0, _UTF8, None, None)
        return np.concatenate(self._spoken)

    def _hear(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int | None) -> int:
        del events
        if samples and count > 0:
            self._spoken.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / np.float32(32768))
        return 0
