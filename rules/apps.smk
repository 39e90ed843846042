# Look-ups for the rules that train and score an app's adapters; there are no rules here.
from loraport.planning import stages

SHOW_FAILURES = CONFIG.content["report"]["failures"] == "show"


@told
def task(wildcards):
    """The task of an app: of a model's own, or of a pair's new and then old model."""
    if hasattr(wildcards, "model"):
        return stages.task_of(CONFIG, wildcards.app, wildcards.model)
    old, new = CONFIG.pair(wildcards.pair)
    return stages.task_of(CONFIG, wildcards.app, new, old)


@told
def task_file(wildcards):
    """The task's training file; none for a data set of the hub."""
    return given(stages.local_data(task(wildcards)))


@told
def task_data(wildcards):
    """Where the task's training examples come from, and their template."""
    return stages.train_data(task(wildcards))


def base_of(side):
    """Function of a rule's wildcards: where its base model is (`own`, or a pair's old or new)."""
    return lambda wildcards: stages.about_base(CONFIG, base_name(wildcards, side))


def spec_of(side):
    """Function of a rule's wildcards: spec.json of its base model."""
    return lambda wildcards: model_spec(base_name(wildcards, side))


@told
def base_name(wildcards, side):
    if side == "own":
        return wildcards.model
    return CONFIG.pair(wildcards.pair)[side == "new"]


def training(kind):
    """Function of a rule's wildcards: training settings, with the seed that a target names."""

    def settings(wildcards):
        seed = {"seed": int(wildcards.seed)} if hasattr(wildcards, "seed") else {}
        return stages.training(CONFIG, kind, **seed)

    return settings


def small(part, settings):
    """Function of a rule's wildcards: `files`, `data` or `settings` of a small set; the settings
    of its training are themselves a function of the wildcards.
    """

    @told
    def look_up(wildcards):
        given_task, asked = task(wildcards), settings(wildcards)
        return stages.small_set(CONFIG, wildcards.pair, wildcards.app, given_task, asked)[part]

    return look_up


@told
def model_adapters(wildcards):
    """Stage -> adapter, of one model without a pair."""
    own = stages.adapter_of(CONFIG, wildcards.app, wildcards.model)
    return dict(zip(stages.MODEL_STAGES, ("", own)))


def pair_adapters(side):
    """Function of a rule's wildcards: stage -> adapter, of the configured stages of one model.

    Of one stage alone where the rule scores them one by one.
    """

    def adapters(wildcards):
        every = told(stages.adapters_of_pair)(CONFIG, wildcards.pair, wildcards.app)
        wanted = [wildcards.stage] if hasattr(wildcards, "stage") else stages.wanted(CONFIG, side)
        return {stage: every[stage] for stage in wanted}

    return adapters


@told
def method_adapters(wildcards):
    """Stage -> adapter, of a method's own table."""
    return stages.method_adapters(CONFIG, wildcards.pair, wildcards.app, wildcards.method)


@told
def baseline_adapters(wildcards):
    """Stage -> adapter, of what all methods of an app are compared with."""
    return stages.baseline_adapters(CONFIG, wildcards.pair, wildcards.app)


def adapter_inputs(adapters):
    """Function of a rule's wildcards: adapters made here, and the files of those that are given."""

    def inputs(wildcards):
        found = []
        for folder in filter(None, adapters(wildcards).values()):
            made = folder.startswith("artifacts/")
            found += [folder] if made else given(preflight.adapter_files(folder))
        return found

    return inputs


def size(section, part):
    """Function of a rule's inputs: MiB (part 0) or minutes (part 1) to ask for."""
    return (
        lambda wildcards, input, attempt: stages.need(*needs.read(input), CONFIG.content[section])[
            part
        ]
        * attempt
    )


def score_files(side):
    """Score files of the configured stages of a pair's old or new model.

    Where failures are shown, those of the new model are scored one by one, so that a stage that
    fails takes no other with it; what is scored already costs nothing.
    """
    if SHOW_FAILURES and side == "new":
        return f"{APP}/eval/{{stage}}.json"
    return [f"{APP}/eval/{stage}.json" for stage in stages.wanted(CONFIG, side)]


# a folder can't be fetched out of a repository: it is then expected in the working directory
OWN_TASKS = source("resources/tasks") if ON_DISK else Path("resources/tasks")
TASKS = CONFIG.content["evaluation"]["tasks_dir"] or str(OWN_TASKS)
