"""How does a model's confidence become a probability? By a curve that was fitted on development data.

The curve is a logistic function of the confidence's log-odds (Platt 1999). It lies beside the model.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from segue.errors import UserError, count_of, warn
from segue.files import replacing
from segue.recipe import Section

NAME = "confidence.json"
LEAST_WORDS = 50
_EDGE = 1e-6  # confidences nearer to 0 or 1 count as this
_PRIOR = 0.1  # pulls towards the identity: a few words without errors must not make everything certain
_STEPS = 100


class Calibration(Section):
    """The curve p = 1 / (1 + exp(-(slope * log(c / (1 - c)) + offset)))."""

    slope: Annotated[float, Field(gt=0)]
    """Above 0, so that the order of confidences stays."""
    offset: float
    """In log-odds."""
    words: Annotated[int, Field(gt=0)]
    """Number of words that it was fitted on."""
    search: dict[str, float] | None = None
    """Settings of the search that found these words (`SpeechSearch.deciding`); None: the greedy one."""

    def of(self, confidence: float) -> float:
        """The probability that a word with this confidence is right."""
        return float(1 / (1 + np.exp(-(self.slope * _odds(np.array(confidence)) + self.offset))))


def fit(confidences: Sequence[float], is_right: Sequence[bool], search: dict[str, float] | None = None) -> Calibration:
    """The curve with the largest likelihood, for words that a search found. Raises a UserError if there are fewer than
    LEAST_WORDS words."""
    if len(confidences) < LEAST_WORDS:
        raise UserError(
            f"{count_of(len(confidences), 'word')}: to calibrate confidences, {LEAST_WORDS} or more are needed"
        )
    odds = _odds(np.array(confidences))
    inputs = np.stack([odds, np.ones(len(odds))], axis=1)
    right = np.array(is_right, np.float64)
    start = np.array([1.0, 0.0])
    weights = start
    for _ in range(_STEPS):  # Newton's method, with steps that are halved while they make it worse
        found = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (found - right) + _PRIOR * (weights - start)
        curvature = (inputs * (found * (1 - found))[:, None]).T @ inputs + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        before = _loss(weights, inputs, right, start)
        while size > 1e-6 and _loss(weights - size * step, inputs, right, start) > before:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-9:
            break
    slope, offset = max(float(weights[0]), 1e-3), float(weights[1])
    return Calibration(slope=slope, offset=offset, words=len(confidences), search=search)


def load(folder: Path, search: dict[str, float] | None = None) -> Calibration | None:
    """The curve that lies in a model directory or an export; warns if it was fitted with another search, or
    if it does not say with which, as those of earlier versions, and the model's is not greedy.

    Raises a UserError if it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValidationError, ValueError):
        raise UserError(f"{path}: not written by `segue evaluate --calibrate`; remove it or write it anew") from None
    if found.search != search:
        is_said = "search" in found.model_fields_set  # files of earlier versions lack it
        fitted = "with another search than" if is_said else "by an earlier version, maybe with another search than"
        warn(
            f"{path}: fitted {fitted} the model's (search.json): its probabilities may be wrong; "
            "`segue evaluate --calibrate` fits them anew"
        )
    return found


def save(calibration: Calibration, folder: Path) -> Path:
    """Writes it into the folder of a model; returns the file."""
    path = folder / NAME
    with replacing(path) as partial:
        partial.write_text(json.dumps(calibration.model_dump(), indent=2) + "\n", encoding="utf-8")
    return path


def copy(source: Path, target: Path) -> None:
    """Copies that of one model's folder to another, if there is one."""
    if (source / NAME).is_file():
        shutil.copyfile(source / NAME, target / NAME)


def _odds(confidences: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(confidences, _EDGE, 1 - _EDGE)
    found: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return found


def _loss(
    weights: NDArray[np.float64], inputs: NDArray[np.float64], right: NDArray[np.float64], start: NDArray[np.float64]
) -> float:
    scores = inputs @ weights
    own = np.logaddexp(0, scores) - right * scores
    return float(own.sum() + _PRIOR / 2 * np.square(weights - start).sum())
