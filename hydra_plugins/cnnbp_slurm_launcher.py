"""Hydra's launcher for `launcher=slurm`: submitit's, which tells of jobs that end without a result.

submitit asks `sacct` how a job is, which needs an accounting database; without one it waits for
ever for a job that was cancelled. With one it stops waiting for all jobs because of one.
"""

import shutil
from collections.abc import Sequence

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from cnnbp.errors import UserError
from cnnbp.sweeps.multirun import give_directory
from cnnbp.sweeps.slurm_queue import wait

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
except ImportError:
    # the extra `slurm` is not installed; `launcher=slurm` says so
    SlurmLauncher = None

if SlurmLauncher:

    class QueueLauncher(SlurmLauncher):
        """Submits the jobs of a sweep as one array, and asks `squeue` how they are.

        Raises:
            UserError: there is no Slurm on this machine.
        """

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            # it imports much, and every command imports this module
            import submitit

            if not shutil.which("srun"):
                raise UserError(
                    "Slurm's srun is not found; start this on a machine of the cluster, "
                    "or give launcher=slurm_local"
                )
            options = {}
            for name, value in self.params.items():
                shared = name in BaseQueueConf.__dataclass_fields__
                options[name if shared else f"slurm_{name}"] = value
            executor = submitit.AutoExecutor(
                options.pop("submitit_folder"),
                cluster="slurm",
                slurm_max_num_timeout=options.pop("slurm_max_num_timeout"),
            )
            executor.update_parameters(**options)
            arguments = []
            for index, overrides in enumerate(job_overrides):
                number = initial_job_idx + index
                place = ("hydra.sweep.dir", number, f"job_id_for_{number}")
                arguments.append((list(overrides), *place, Singleton.get_state()))
            jobs = executor.map_array(self, *zip(*arguments, strict=True))
            reasons = wait(jobs)
            returns = []
            for job, overrides in zip(jobs, job_overrides, strict=True):
                if job in reasons:
                    returns.append(self._lost(list(overrides), reasons[job]))
                else:
                    returns.append(job.result())
            return returns

        def _lost(self, overrides: list[str], reason: str) -> JobReturn:
            """What a job would return, had it told itself why it has no result."""
            assert self.hydra_context is not None
            config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            give_directory(config)
            done = JobReturn(overrides=overrides, hydra_cfg=config)
            done.status, done.return_value = JobStatus.COMPLETED, [reason]
            return done
