"""Snakemake's executor for Slurm, but for light jobs: many of those share one job of Slurm."""

try:
    from .executor import Executor, ExecutorSettings, common_settings  # noqa: F401
except ImportError as error:  # not installed, or another version: no run without it may suffer
    REASON = str(error)
    from snakemake.executors import local
    from snakemake_interface_common.exceptions import WorkflowError

    common_settings = local.common_settings

    # all plugins are imported, so that this one must be there
    class Executor(local.Executor):  # type: ignore[no-redef]
        def __init__(self, *_):
            raise WorkflowError(
                "executor slurm-batched needs snakemake-executor-plugin-slurm, 2.6 or a later 2.x. "
                f"Got: {REASON}. What to do: pip install 'snakemake-executor-plugin-slurm>=2.6,<3'"
            )


__all__ = ["Executor", "common_settings"]
