from __future__ import annotations

import pytest

from features.did_you_mean import did_you_mean


@pytest.mark.parametrize(
    ("got", "known", "expected"),
    [
        ("vea", ["ae", "vae", "made"], "; did you mean vae?"),
        ("VAE", ["ae", "vae", "made"], "; did you mean vae?"),
        ("pump_Tuning", ["Pump_tuning"], "; did you mean Pump_tuning?"),
        ("xyz", ["ae", "vae", "made"], ""),
        ("", ["ae", "vae", "made"], ""),
        ("vae", [], ""),
    ],
)
def test_the_most_similar_known_name_in_any_case_or_none(got: str, known: list[str], expected: str) -> None:
    assert did_you_mean(got, known) == expected
