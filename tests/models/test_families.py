from __future__ import annotations

import pytest

from features.errors import OffkeyError
from models import vae
from models.families import FAMILIES, settings_of
from models.settings import FamilySettings


@pytest.mark.parametrize(
    ("name", "meant"), [("vea", "vae"), ("VAE", "vae"), ("va", "vae"), ("maid", "made"), ("mode", "made")]
)
def test_an_unknown_family_is_refused_with_the_nearest_there_is(name: str, meant: str) -> None:
    with pytest.raises(
        OffkeyError, match=rf"no model family '{name}'; did you mean {meant}\? \(families: .*vae.*made.*\)"
    ):
        settings_of(name)


def test_a_name_that_resembles_none_is_answered_with_all_families() -> None:
    with pytest.raises(OffkeyError, match=r"no model family '' \(families: .*vae.*made.*\)"):
        settings_of("")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "fusion"])  # which has members, not defaults
def test_a_family_s_defaults_are_a_whole_setting_of_its_name(name: str) -> None:
    settings = settings_of(name).model_validate({"family": name})
    assert isinstance(settings, FamilySettings)
    assert settings.family == name


def test_the_settings_of_the_vae_are_its_modules() -> None:
    assert settings_of("vae") is vae.Settings
