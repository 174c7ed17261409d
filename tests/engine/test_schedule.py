import pytest

from segue.engine.schedule import (
    ConstantSection,
    CosineSection,
    NoamSection,
    PolynomialSection,
    ScheduleSection,
    rate_share,
)

POLYNOMIAL = PolynomialSection(kind="polynomial", power=2.0, warmup_steps=4, final_share=0.1)
COSINE = CosineSection(kind="cosine", warmup_steps=4, final_share=0.2)


@pytest.mark.parametrize(
    ("section", "shares"),
    [
        # Warm-up over steps 0 to 3; then from the peak down over steps 4 to 12, halfway at 8.
        (POLYNOMIAL, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 8: 0.1 + 0.9 * 0.5**2, 10: 0.1 + 0.9 * 0.25**2, 12: 0.1}),
        (COSINE, {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.2 + 0.4 * (1 + 0.5**0.5), 8: 0.6, 12: 0.2, 15: 0.2}),
        (NoamSection(kind="noam", warmup_steps=4), {0: 0.25, 2: 0.75, 3: 1.0, 15: 0.5, 63: 0.25}),
        (ConstantSection(kind="constant", warmup_steps=4), {0: 0.25, 3: 1.0, 4: 1.0, 11: 1.0}),
        (ConstantSection(kind="constant"), {0: 1.0}),
        (CosineSection(kind="cosine"), {0: 1.0, 6: 0.5, 12: 0.0}),
        (
            PolynomialSection(kind="polynomial"),
            {0: 1.0, 6: 0.25, 9: 0.0625, 12: 0.0},
        ),
    ],
)
def test_a_schedule_has_these_values(section: ScheduleSection, shares: dict[int, float]) -> None:
    assert {step: rate_share(section, step, 12) for step in shares} == pytest.approx(shares)
