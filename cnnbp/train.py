"""Train the network: `python train.py --help` names the options."""

import hydra
from omegaconf import DictConfig

from cnnbp.config.compose import config_directory
from cnnbp.config.options import validate
from cnnbp.errors import in_one_line
from cnnbp.runs.run_directory import Run, open_run, told_at_the_end


@hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def main(config: DictConfig) -> float | list[str]:
    """Train, test and write result.json; return the accuracy that a sweep maximises, or what went wrong in a job."""
    with in_one_line(), told_at_the_end() as failures, open_run(config) as run:
        validate(config)
        if not run.finished:
            train(config, run)
        return run.score()
    return failures


def train(config: DictConfig, run: Run, rolled_back: int = 0) -> None:
    """Seed, build, fit and test; after a divergence perhaps again, from the last checkpoint."""
    from cnnbp.runs.checkpoint_file import newest
    from cnnbp.training.build import build, fit, summarise
    from cnnbp.training.callbacks.divergence import (
        RollBack,
    )  # heavy imports come after the cheap checks

    checkpoint = newest(run.path / "checkpoints") or config.ckpt_path
    data, model, trainer = build(config, rolled_back)
    run.start()
    try:
        validation = fit(data, model, trainer, checkpoint)
    except RollBack as rollback:
        return train(config, run, rollback.times)
    trainer.test(model, data, verbose=False)
    run.finish(summarise(trainer, validation, config.seed))
