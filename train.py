"""Train the network: `python train.py --help` names the options."""

import hydra
from omegaconf import DictConfig

from cnnbp.errors import in_one_line
from cnnbp.run import Run, open_run
from cnnbp.schema import validate


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Train, test and write result.json; return the accuracy that a sweep maximises, or None."""
    with in_one_line(), open_run(config) as run:
        validate(config)
        if not run.finished:
            train(config, run)
        return run.score()


def train(config: DictConfig, run: Run, rolled_back: int = 0) -> None:
    """Seed, build, fit and test; after a divergence perhaps again, from the last checkpoint."""
    from cnnbp.callbacks.finite import RollBack  # heavy imports come after the cheap checks
    from cnnbp.checkpoint import load, newest
    from cnnbp.training import build, summarise

    checkpoint = newest(run.path / "checkpoints") or config.ckpt_path
    data, model, trainer = build(config, rolled_back)
    run.start()
    try:
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    except RollBack as rollback:
        return train(config, run, rollback.times)
    if "loss/train" not in trainer.callback_metrics:  # killed after its last epoch, before its result was stored
        model.load_state_dict(load(checkpoint)["state_dict"])  # where weights are averaged, the averages
        if data.val_size:
            trainer.validate(model, data, verbose=False)
    validation = dict(trainer.callback_metrics)
    trainer.test(model, data, verbose=False)
    run.finish(summarise(trainer, validation, config.seed))


if __name__ == "__main__":
    with in_one_line():
        main()
