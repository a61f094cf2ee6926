from __future__ import annotations

import pytest
import torch

from features.errors import OffkeyError
from features.feature_settings import FeatureSettings
from features.windows import Batch
from models import vae
from models.anomaly_model import AnomalyModel
from models.families import FAMILIES, build, settings_of
from models.labels import Labels
from models.settings import FamilySettings

LIMITS = FeatureSettings(n_mels=8).limits
LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])


@pytest.mark.parametrize(
    ("name", "meant"), [("vea", "vae"), ("VAE", "vae"), ("va", "vae"), ("maid", "made"), ("mode", "made")]
)
def test_an_unknown_family_is_refused_with_the_nearest_there_is(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "made", "models.made")
    with pytest.raises(OffkeyError, match=rf"no model family '{name}'; did you mean '{meant}'\? \(.*vae.*made.*\)"):
        settings_of(name)


def test_any_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(OffkeyError, match="no model family ''; did you mean 'vae'"):
        settings_of("")


# Others that are registered are stand-ins of the tests.
@pytest.mark.parametrize("name", [name for name, module in FAMILIES.items() if module.startswith("models.")])
class TestEveryFamily:
    def test_has_settings_of_its_name_whose_defaults_build_a_model(self, name: str) -> None:
        settings_class = settings_of(name)
        assert issubclass(settings_class, FamilySettings)
        settings = settings_class.model_validate({"family": name})
        assert settings.family == name
        assert isinstance(build(settings, LIMITS, LABELS), AnomalyModel)

    def test_gives_a_loss_and_one_score_a_window(self, name: str) -> None:
        settings = settings_of(name).model_validate({"family": name, "context": 3})
        model = build(settings, LIMITS, LABELS)
        batch = Batch(inputs=torch.randn(7, 24) * 10 - 40, clips=torch.zeros(7, dtype=torch.int64))
        assert model.loss(batch).shape == ()
        scores = model.score(batch)
        assert (scores.shape, scores.dtype) == ((7,), torch.float32)

    def test_draws_the_same_weights_from_the_same_random_state(self, name: str) -> None:
        settings = settings_of(name).model_validate({"family": name})
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            drawn.append(torch.cat([weights.flatten() for weights in build(settings, LIMITS, LABELS).parameters()]))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


def test_the_settings_of_the_vae_are_its_modules() -> None:
    assert settings_of("vae") is vae.Settings
