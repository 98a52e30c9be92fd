"""Hydra's launcher for `launcher=fleet`: jobs that fit together are trained as one network."""

import copy
import os
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cnnbp.errors import UserError
from cnnbp.sweeps.fleet_jobs import FleetJob
from cnnbp.sweeps.multirun import give_directory


class FleetLauncher(BasicLauncher):
    """Trains the jobs of a sweep in fleets; jobs that cannot be mapped run one after the other."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # it imports torch, and every command imports this module
        from cnnbp.sweeps.fleet_training import train_in_fleets

        setup_globals()
        assert self.config is not None
        if self.config.hydra.job.chdir or self.config.hydra.job.env_set:
            raise UserError(
                "hydra.job.chdir and hydra.job.env_set: the jobs of a fleet share one process; "
                "leave them out, or give launcher=serial"
            )
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = []
        for index, overrides in enumerate(job_overrides):
            jobs.append(self._job(list(overrides), initial_job_idx + index))
        alone = train_in_fleets(jobs, self.config.jobs)
        returns = {}
        for job in jobs:
            if job not in alone:
                returns[job.number] = _job_return(job)
        for job in alone:
            (returns[job.number],) = super().launch([job.overrides], job.number)
        return [returns[job.number] for job in jobs]

    def _job(self, overrides: list[str], number: int) -> FleetJob:
        """Compose a job's config, as Hydra's own launcher does."""
        assert self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = number
            config.hydra.job.num = number
        give_directory(config)
        own = copy.deepcopy(config)
        with read_write(own), open_dict(own):
            del own["hydra"]
        hydra = HydraConfig.instance().cfg
        return FleetJob(overrides, number, own, copy.deepcopy(hydra))


def _job_return(job: FleetJob) -> JobReturn:
    overrides = OmegaConf.to_container(job.hydra.hydra.overrides.task)
    done = JobReturn(overrides=overrides, cfg=job.config, hydra_cfg=job.hydra)
    done.working_dir, done.status = os.getcwd(), JobStatus.COMPLETED
    done.return_value = [job.failure] if job.failure else job.score
    return done


ConfigStore.instance().store(
    group="hydra/launcher",
    name="fleet",
    node=DictConfig({"_target_": "hydra_plugins.cnnbp_fleet_launcher.FleetLauncher"}),
    provider="cnnbp",
)
