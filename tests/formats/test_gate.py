"""What guards an export: the metric that chose the model."""

import pytest

from segue import metrics, parity


def test_chinese_speech_is_guarded_by_its_characters() -> None:
    before, after = (metrics.speech("auto", ["今天天气很好"], [said]) for said in ("今天天气很好", "今天天气真好"))
    gate = parity.gate([before, after])
    assert (gate["metric"], gate["before"], gate["after"], gate["signature"]) == ("character_error_rate", 0, 1 / 6, "")
    assert gate["loss"] == pytest.approx(100 / 6)


def test_chinese_translation_is_guarded_by_its_words() -> None:
    right = [("今天天气很好",), ("我们去公园散步吧",)]
    before, after = (
        metrics.texts("bleu", "auto", right, said, ["zh"] * 2)
        for said in (["今天天气很好", "我们去公园走走吧"], ["今天天气真好", "我们去公园走走吧"])
    )
    gate = parity.gate([before, after])
    assert gate["loss"] == gate["before"] - gate["after"] > 5
    assert "|tok:zh|" in gate["signature"]
