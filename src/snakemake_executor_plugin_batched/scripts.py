"""The script of a job, as Snakemake would run it in a process of its own."""

from pathlib import Path

from snakemake.script import PythonScript, get_source


def is_light(job, workflow) -> bool:
    """Whether a job's script may run in a process that is already there.

    Not where the rule does not say so or wants more of Snakemake than to run it, where software is
    deployed for it, or where its files are kept by a storage plugin.
    """
    if job.is_group() or job.resources.get("batch", 0) < 1 or not job.rule.script:
        return False
    more = job.benchmark or job.is_shadow or workflow.deployment_settings.deployment_method
    return not more and not any(file.is_storage for file in [*job.input, *job.output])


def write_script(job, workflow, path) -> Path:
    """Write a job's script with what Snakemake puts before it."""
    source, text, _, is_local, cached = get_source(
        job.rule.script, workflow.sourcecache, job.rule.basedir, job.wildcards, job.params
    )
    place = source.get_path_or_uri(secret_free=True)
    preamble = PythonScript.generate_preamble(
        source, cached, text, job.rule.basedir, job.input, job.output, job.params, job.wildcards,
        job.threads, job.resources, job.log, workflow.config, job.rule.name,
        conda_env=None, container_img=None, singularity_args=None, env_modules=None,
        bench_record=None, jobid=job.jobid, bench_iteration=None, cleanup_scripts=True,
        shadow_dir=None, is_local=is_local,
        preamble_addendum=f"__real_file__ = __file__; __file__ = {str(place)!r};",
    )  # fmt: skip
    path = Path(path).absolute()
    path.write_text(preamble + text)
    return path
