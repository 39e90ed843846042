# Tables, names and look-ups that the rules use; there are no rules here.
import functools
import shutil
import sys
import time
import traceback
from pathlib import Path

from snakemake.logging import logger
from snakemake.sourcecache import LocalSourceFile

from loraport.runtime import faults
from loraport import methods
from loraport.planning import needs, preflight
from loraport.planning import checks
from loraport.artifacts import atomic
from loraport.errors import LoraportError
from loraport.planning.places import Places
from loraport.provenance import code_hash, versions

HERE = workflow.current_basedir  # of this workflow, also where another one uses it as a module
ON_DISK = isinstance(HERE, LocalSourceFile)  # and not in a repository that the files come out of
STARTED = time.time()
# whether rules share their results through $SNAKEMAKE_OUTPUT_CACHE: with --cache, and else not
SHARED = "omit-software" if workflow.workflow_settings.cache is not None else False
NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
PAIR = "artifacts/{pair}"
VARIANT = "artifacts/{pair}/variants/{method}"
APP = "artifacts/{pair}/{app}"


def told(function):
    """End with loraport's errors told in one paragraph; --verbose shows where they were raised."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except LoraportError as error:
            logger.debug(traceback.format_exc())
            logger.error(str(error))
            sys.exit(1)

    return wrapper


def tell_of_killed_jobs():
    """Say which rules ended without a word, what they may have needed, and the way on."""
    for error in faults.told_of_killed(Path("artifacts"), STARTED):
        logger.error(str(error))


@told
def check_outputs():
    """Refuse a run whose outputs this user may not write, before its first job."""
    jobs = workflow.dag.needrun_jobs()
    preflight.check_writable(file for job in jobs for file in [*job.output, *job.log])


def source(path):
    """A file of this workflow; a copy by its own name where it comes out of a repository."""
    place = HERE.join(f"../{path}")
    if ON_DISK:
        return Path(place.get_path_or_uri(False))
    with atomic(Path(".snakemake/loraport", path)) as temporary:
        shutil.copyfile(workflow.sourcecache.get_path(place), temporary)
    return Path(".snakemake/loraport", path)


told(preflight.check_writable)([".snakemake/locks"])
SCHEMAS = {source(f"workflow/schemas/{name}.schema.json").parent for name in ("config", "adapters")}
CONFIG = told(checks.load)(config, SCHEMAS.pop())


wildcard_constraints:
    model=NAME,
    pair=f"(?!models/){NAME}",
    app=NAME,
    method=f"(?!after/){NAME}",


def code(script, *modules):
    """Hash of a rule's script, of what it imports, and the versions of what computes."""
    entry = source(f"workflow/scripts/{script}.py")
    return {"code": code_hash(entry, *modules), "versions": versions()}


@told
def model_spec(model):
    """spec.json of a model; its weights need not be there once it is."""
    spec = f"artifacts/models/{model}/spec.json"
    if not Path(spec).exists():
        preflight.check_model(CONFIG.model(model)["source"])
    return spec


def reachable_models():
    """Pattern of the models whose specs can be made here: their source is on the hub or on disk."""
    names = [
        name for name in CONFIG.content["models"] if preflight.is_reachable(CONFIG.model(name))
    ]
    return "|".join(map(re.escape, names)) or "(?!)"


@told
def given(files):
    """Files that are the user's: on this disk also where artifacts are kept by a storage plugin."""
    return [local(file) for file in files]


def model_files(wildcards):
    """Files of a local model, so that a change is noticed; none for a model of the hub."""
    return given(preflight.local_files(CONFIG.model(wildcards.model)["source"]))


def hub_id(wildcards):
    """The hub's name of a model; none for a local one, which its files stand for."""
    source = CONFIG.model(wildcards.model)["source"]
    return "" if preflight.is_local(source) else source


def pair_specs(pair):
    """Specs of a pair's models as named inputs."""
    old, new = told(CONFIG.pair)(pair)
    return {"old_spec": model_spec(old), "new_spec": model_spec(new)}


def activations_of(wildcards):
    """Specs and features of both models of a pair."""
    old, new = told(CONFIG.pair)(wildcards.pair)
    return {
        "old_activations": f"artifacts/models/{old}/activations.h5",
        "new_activations": f"artifacts/models/{new}/activations.h5",
    }


def model_sources(wildcards):
    """Where a model's weights and its calibration texts are."""
    return Places(
        model=CONFIG.model(wildcards.model)["source"], texts=CONFIG.texts(wildcards.model)
    )


def sources(wildcards):
    """Where the weights of a pair's models are, and the texts that both read."""
    old, new = told(CONFIG.pair)(wildcards.pair)
    return Places(
        old=CONFIG.model(old)["source"], new=CONFIG.model(new)["source"], texts=CONFIG.texts(old)
    )


@told
def texts_version(wildcards):
    """What names the calibration texts of a model, or of both models of a pair.

    Empty where the file is gone but the model is described already: its activations may be there
    too, or never be needed, and the rule that reads the texts will tell.
    """
    name = wildcards.model if hasattr(wildcards, "model") else CONFIG.pair(wildcards.pair)[0]
    texts, spec = CONFIG.texts(name), Path(f"artifacts/models/{name}/spec.json")
    gone = isinstance(texts, str) and not Path(texts).exists()
    if gone and spec.exists():
        return ""
    preflight.check_texts(texts, CONFIG.content["calibration"]["examples"])
    return preflight.texts_version(texts)


@told
def reading(wildcards):
    """How both models of a pair read the calibration texts."""
    old, new = CONFIG.pair(wildcards.pair)
    return {
        "texts_version": texts_version(wildcards),
        "remote_code": [CONFIG.model(name)["remote_code"] for name in (old, new)],
        "calibration": {
            key: CONFIG.content["calibration"][key]
            for key in ("examples", "max_tokens", "batch_size", "device")
        },
    }


def method_settings(wildcards):
    """The mapping settings that a method reads."""
    return mapping(*methods.settings(told(CONFIG.method)(wildcards.method)))(wildcards)


def moments_settings(wildcards):
    """How many layers' moments are summed at a time, and for which modules."""
    variant = getattr(wildcards, "method", "")
    modules = CONFIG.summed_modules(variant)
    return {**mapping("moments_gib")(wildcards), "modules": modules}


def mapping(*keys):
    """Function of a rule's wildcards: some mapping settings of its method or variant."""
    return lambda wildcards: {
        key: CONFIG.mapping(getattr(wildcards, "method", ""))[key] for key in keys
    }


def made_in_home(artifact):
    """Function of a rule's wildcards: an artifact of a variant's mapping, its own or the pair's."""
    name = f"{artifact}.json" if artifact == "layers" else f"{artifact}.h5"
    return lambda wildcards: (
        f"{told(CONFIG.home)(wildcards.pair, wildcards.method, artifact)}/{name}"
    )


@told
def maps_inputs(wildcards):
    """What the maps of a method are made from, by its declaration."""
    method = CONFIG.method(wildcards.method)
    methods.check_place(method, own=hasattr(wildcards, "app"))
    needed = methods.needs(method)
    names = [each for each in ("layers", "embedding", "heads", "moments") if each in needed]
    made = {name: made_in_home(name)(wildcards) for name in names}
    if owner := CONFIG.outputs_of(wildcards.method):
        made["outputs"] = f"artifacts/{wildcards.pair}/output_maps/{owner}.h5"
    return {**pair_specs(wildcards.pair), **made}


@told
def output_maps_inputs(wildcards):
    """What the output maps of a method are made from, if it has any."""
    methods.output_settings(CONFIG.method(wildcards.method))
    made = {name: made_in_home(name)(wildcards) for name in ("layers", "moments")}
    return {**pair_specs(wildcards.pair), **made}


def output_settings(wildcards):
    """The mapping settings that a method's output maps depend on."""
    return mapping(*methods.output_settings(told(CONFIG.method)(wildcards.method)))(wildcards)


def method_of(wildcards):
    """The method that a target names, or the configured one."""
    return getattr(wildcards, "method", CONFIG.content["transfer"]["method"])


@told
def transfer_inputs(wildcards):
    """Maps, of the pair or of the adapter itself, specs and the adapter."""
    method = method_of(wildcards)
    own = methods.per_adapter(CONFIG.method(method))
    pair = f"artifacts/{wildcards.pair}"
    folder = f"{pair}/{wildcards.app}" if own else pair
    maps = f"{folder}/maps/{method}.h5"
    return {**pair_specs(wildcards.pair), "maps": maps, "adapter": old_adapter(wildcards)}


@told
def old_adapter(wildcards):
    """What is carried: files that are checked against the old model, or a folder made here."""
    old, _ = CONFIG.pair(wildcards.pair)
    if source := CONFIG.given_adapter(wildcards.app, old):
        preflight.check_adapter(source, CONFIG.model(old)["source"], CONFIG.known_as(old))
        return given(preflight.adapter_files(source))
    made = "lora_merged" if CONFIG.merge(wildcards.app) else "lora_trained"
    return f"artifacts/models/{old}/{wildcards.app}/{made}"


@told
def adapter_maps_inputs(wildcards):
    """What the maps of one adapter are made from: the pair's artifacts, the adapter, its texts."""
    generic = CONFIG.mapping(wildcards.method)["calibrate_on"] == "generic"
    texts = {} if generic else {"data": task_file(wildcards)}
    return {**maps_inputs(wildcards), **texts, "adapter": old_adapter(wildcards)}


def adapter_maps_task(wildcards):
    """Where the task's training examples come from; nothing where generic texts are read."""
    generic = CONFIG.mapping(wildcards.method)["calibrate_on"] == "generic"
    return None if generic else task_data(wildcards)


@told
def transfer_params(wildcards):
    """Settings of a transfer, and how the models are named in what it writes."""
    old, new = CONFIG.pair(wildcards.pair)
    entry = CONFIG.model(new)
    return {
        "settings": CONFIG.transfer(method_of(wildcards)),
        "of": {"old": old, "new": new, "app": wildcards.app, "method": method_of(wildcards)},
        "known_as": CONFIG.known_as(old),
        "base": entry["source"],
        "revision": entry["revision"],
    }


@told
def vocabulary_inputs(wildcards):
    """W_h and the shared tokens, for an adapter of its model's embedding or head."""
    old, _ = CONFIG.pair(wildcards.pair)
    source = CONFIG.given_adapter(wildcards.app, old)
    if not source or not preflight.adapts_vocabulary(source):
        return {}
    return {
        "embedding": f"{CONFIG.home(wildcards.pair, method_of(wildcards), 'embedding')}/embedding.h5"
    }


def memory(rule):
    """Function of a rule's inputs: the memory to ask for, in MiB, more with each attempt."""
    return lambda wildcards, input, attempt: needs.need(rule, *needs.read(input))[0] * attempt


def minutes(rule):
    """Function of a rule's inputs: the wall time to ask for, in minutes."""
    return lambda wildcards, input, attempt: needs.need(rule, *needs.read(input))[1] * attempt


def maps_need(part):
    """Memory (part 0) or minutes (part 1) to make a method's maps: of layers that are fitted to
    moments, as many side by side as fit.
    """

    def need(wildcards, input, attempt):
        kind = "fitted_maps" if hasattr(input, "moments") else "maps"
        return needs.need(kind, *needs.read(input))[part] * attempt

    return need


def spec_need(part):
    """Memory (part 0) or minutes (part 1) to describe a model: by a local one's config.json."""

    def need(wildcards, attempt):
        source = CONFIG.model(wildcards.model)["source"]
        dims = told(preflight.dimensions)(source)
        return (needs.need("spec", dims) if dims else (8000, 120))[part] * attempt

    return need


def gpus(section):
    """GPUs to take, none where the config says cpu or names one GPU itself (cuda:1)."""
    settings = CONFIG.content[section]
    return settings.get("gpus", 1) if settings["device"] in ("auto", "cuda") else 0


def merged_dtype(wildcards):
    """Of the weights of a merged model: as configured, or each as the base has it."""
    wanted = CONFIG.content["transfer"]["merged_model"]
    return "base" if wanted == "none" else wanted


def everything():
    """What a bare `snakemake` builds: every adapter of every pair in `run`."""
    pairs = [(pair, CONFIG.pair(pair)[0]) for pair in CONFIG.content["run"]]
    whole = CONFIG.content["transfer"]["merged_model"] != "none"
    return [
        f"artifacts/{pair}/{app}/{each}"
        for pair, old in pairs
        for app in CONFIG.apps(old)
        for each in ["lora_transferred", *(["model_merged"] if whole else [])]
    ]
