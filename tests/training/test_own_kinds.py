"""Parts of one's own that are of the wrong kind: one line, and nothing is created."""

import pytest
from launch import TWO_STEPS


def function(logits, labels):
    return logits.mean()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["+callbacks.mine._target_=torch.nn.ReLU"],
            "callbacks.mine: is a ReLU; must be a .*Callback",
        ),
        (["+logger.mine._target_=torch.nn.ReLU"], "logger.mine: must be a .*Logger"),
        (["~data", "+data._target_=torch.nn.ReLU"], "data: is a ReLU; must be a .*DataModule"),
        (
            ["~model", "+model._target_=torch.nn.ReLU"],
            "model: is a ReLU; must .*LightningModule",
        ),
        ([f"+loss._target_={__name__}.function"], r"loss.logits: .*or \+loss._partial_=true"),
        (["+loss._target_=torch.nn.ReLU"], "loss: ReLU fails on logits"),
    ],
)
def test_a_part_of_the_wrong_kind_is_named(tmp_path, train, overrides, said):
    options = TWO_STEPS if "~data" not in overrides else TWO_STEPS[:1]
    with pytest.raises(SystemExit, match=said):
        train(*options, "name=one", "logger=csv", *overrides)
    assert not (tmp_path / "outputs/one").exists()


def test_a_loss_may_be_a_function(tmp_path, train):
    loss = (f"+loss._target_={__name__}.function", "+loss._partial_=true")
    train(*TWO_STEPS, "name=one", "logger=csv", *loss)
    assert (tmp_path / "outputs/one/result.json").exists()
