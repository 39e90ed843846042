# Look-ups for the rules that make tables, plots and sweeps; there are no rules here.
from loraport.report import advice
from loraport.planning import contenders, rows, sweeps


def table_rows(wildcards):
    """The rows of an app's table."""
    return told(rows.rows)(CONFIG, wildcards.pair, wildcards.app)


def table_scores(wildcards):
    """Score files that a table waits for."""
    return rows.split(table_rows(wildcards), SHOW_FAILURES)[0]


def table_missing(wildcards):
    """Score files that are not there -> why; none unless failures are to be shown."""
    return rows.split(table_rows(wildcards), SHOW_FAILURES)[1]


def compared_entries(wildcards):
    """What the comparison of an app's methods holds."""
    return told(contenders.entries)(CONFIG, wildcards.pair, wildcards.app)


def compared_with(wildcards):
    """The old model with its adapter, which flips are counted against."""
    return told(contenders.reference)(CONFIG, wildcards.pair, wildcards.app)


def compared_runs(wildcards):
    """Everything that is scored for a comparison."""
    return [*contenders.runs_of(compared_entries(wildcards)), *compared_with(wildcards)]


def compared_scores(wildcards):
    """Score files that a comparison waits for."""
    return rows.split(compared_runs(wildcards), SHOW_FAILURES)[0]


def compared_missing(wildcards):
    """Score files that are not there -> why; none unless failures are to be shown."""
    return rows.split(compared_runs(wildcards), SHOW_FAILURES)[1]


def title(wildcards):
    """A pair as it is called in titles, with what its light fine-tuning read where no label was."""
    unlabelled = CONFIG.content["finetune"]["answers"] == "own"
    note = " (small set answered by the old model)" if unlabelled else ""
    return " → ".join(told(CONFIG.pair)(wildcards.pair)) + note


@told
def reported_apps(wildcards):
    """The apps of a pair that the report shows: those of the config, or all that have a task."""
    old, _ = CONFIG.pair(wildcards.pair)
    chosen = CONFIG.content["report"]["apps"]
    found = chosen or [app for app in CONFIG.apps(old) if CONFIG.adapter(app, old)["task"]]
    if not found:
        raise LoraportError(
            f"there is nothing to report: no app of {old} has a task",
            got=f"apps {', '.join(CONFIG.apps(old)) or 'none'}",
            expected="a task for one of them at least",
            todo=f"name tasks in the last column of {CONFIG.content['adapters']}",
        )
    return found


def of_apps(*patterns):
    """Function of a rule's wildcards: files of all reported apps."""
    return lambda wildcards: [
        pattern.format(pair=wildcards.pair, app=app)
        for app in reported_apps(wildcards)
        for pattern in patterns
    ]


def sweeps_made(wildcards):
    """Sweeps that have been run: the report shows them, and starts none."""
    return [
        path
        for app in reported_apps(wildcards)
        for name in sweeps.NAMES
        if Path(path := f"artifacts/{wildcards.pair}/{app}/sweeps/{name}.csv").exists()
    ]


def specs_of(wildcards):
    """Name -> spec.json of both models of a pair."""
    return {name: model_spec(name) for name in told(CONFIG.pair)(wildcards.pair)}


def rows_of_apps(key, label):
    """Function of a rule's wildcards: `app: label` of each row -> one of its entries."""
    return lambda wildcards: {
        f"{app}: {row[label]}": row[key]
        for app in reported_apps(wildcards)
        for row in told(rows.rows)(CONFIG, wildcards.pair, app)
        if row[key]
    }


def account_settings(wildcards):
    """The sections of the configuration that results depend on, with the texts that are read."""
    names = ("calibration", "mapping", "transfer", "finetune", "evaluation")
    sections = {name: CONFIG.content[name] for name in names}
    texts = CONFIG.texts(told(CONFIG.pair)(wildcards.pair)[0])
    return {**sections, "calibration": {**sections["calibration"], "texts": texts}}


def point(wildcards):
    """What a point of a sweep cuts from the source adapter."""
    return {
        wildcards.name: told(sweeps.value_of)(CONFIG, wildcards.name, wildcards.value),
    }


def point_start(wildcards):
    """The transferred adapter that a point starts from, or is like."""
    own = f"{APP}/sweeps/{{name}}/{{value}}" if wildcards.name in sweeps.CUTS else APP
    return f"{own}/lora_transferred".format(**wildcards)


def point_training(wildcards):
    """Settings of a point's training."""
    changed = told(sweeps.overrides)(CONFIG, wildcards.name, wildcards.value)
    return stages.training(CONFIG, "lft", **changed)


@told
def point_transfer(wildcards):
    """Maps, specs, and the adapter that was cut."""
    method = method_of(wildcards)
    if methods.per_adapter(CONFIG.method(method)):
        raise LoraportError(
            f"the sweep of {wildcards.name} cuts the adapter, and {method} fits maps to a whole one",
            got=f"transfer.method: {method}",
            expected="a method whose maps serve all adapters of a pair",
            todo="set transfer.method to lorasuite or aligned for this sweep",
        )
    own = f"{APP}/sweeps/{{name}}/{{value}}/lora_source".format(**wildcards)
    maps = f"artifacts/{wildcards.pair}/maps/{method}.h5"
    return {**pair_specs(wildcards.pair), "maps": maps, "adapter": own}


@told
def swept_adapter(wildcards):
    """The adapter that a sweep cuts: its files where it is given, its directory where it is made."""
    old = old_name(wildcards)
    app = sweeps.source_app(CONFIG, wildcards.app, wildcards.name, old)
    if source := CONFIG.given_adapter(app, old):
        preflight.check_adapter(source, CONFIG.model(old)["source"], CONFIG.known_as(old))
    return adapter_inputs(lambda _: {"": stages.adapter_of(CONFIG, app, old)})(wildcards)


@told
def old_name(wildcards):
    return CONFIG.pair(wildcards.pair)[0]


@told
def sweep_skipped(wildcards):
    """Values of a sweep that the app can't serve -> why."""
    return sweeps.skipped(CONFIG, wildcards.pair, wildcards.app, wildcards.name)


@told
def sweep_points(wildcards):
    """Everything that a sweep scores: its points, and what they are compared with."""
    home = f"{APP}/sweeps/{wildcards.name}".format(**wildcards)
    every = stages.adapters_of_pair(CONFIG, wildcards.pair, wildcards.app)
    wanted = [stage for stage in sweeps.REFERENCES if stage in stages.wanted(CONFIG, "new")]
    return [
        *({"value": "", "stage": stage, "adapter": every[stage]} for stage in wanted),
        *(
            {"value": value, "stage": stage, "adapter": f"{home}/{value}/{stage}"}
            for value in sweeps.values(CONFIG, wildcards.name)
            if value not in sweep_skipped(wildcards)
            for stage in sweeps.STAGES
        ),
    ]


def merged_model(wildcards):
    """The base model of a merge: a model's own, or a pair's new one after the transfer."""
    return base_name(wildcards, "own" if hasattr(wildcards, "model") else "new")


@told
def merged_folders(wildcards):
    """The adapters of a merge: of one model, or as carried one by one."""
    apps = CONFIG.merge(wildcards.app)["apps"]
    if hasattr(wildcards, "model"):
        return [stages.adapter_of(CONFIG, app, wildcards.model) for app in apps]
    method = f"{wildcards.method}/" if hasattr(wildcards, "method") else ""
    return [f"artifacts/{wildcards.pair}/{app}/{method}lora_transferred" for app in apps]


def merged_adapters(wildcards):
    """Their files where they are given, their folders where they are made here."""
    return adapter_inputs(lambda _: dict(enumerate(merged_folders(wildcards))))(wildcards)


def merge_settings(wildcards):
    """Weights and density of a merge."""
    return {key: CONFIG.merge(wildcards.app)[key] for key in ("weights", "density")}


def merge_base(wildcards):
    """How the base of a merge is named in adapters."""
    name = merged_model(wildcards)
    entry = CONFIG.model(name)
    return {
        "known_as": CONFIG.known_as(name),
        "base": entry["source"],
        "revision": entry["revision"],
    }


@told
def merge_rows(wildcards):
    """The rows of a merge's table."""
    return rows.merge_rows(CONFIG, wildcards.pair, wildcards.app)


def merge_stages(wildcards):
    """Stage -> adapter, of what is scored on the new model for a merge."""
    return {row["stage"]: row["adapter"] for row in merge_rows(wildcards) if row["side"] == "new"}


def merge_scores(wildcards):
    """Score files that a merge's table waits for."""
    return [row["scores"] for row in merge_rows(wildcards)]


@told
def own_adapter_folder(wildcards):
    """The folder of a model's adapter for an app."""
    CONFIG.adapter(wildcards.app, wildcards.model)
    return stages.adapter_of(CONFIG, wildcards.app, wildcards.model)


def own_adapter(wildcards):
    """Its files where it is given, the folder where it is made here."""
    return adapter_inputs(lambda _: {"": own_adapter_folder(wildcards)})(wildcards)


def old_magnitude(wildcards):
    """Size of the update of the old model's adapter."""
    return f"artifacts/models/{old_name(wildcards)}/{wildcards.app}/magnitude.json"


def magnitudes_of(wildcards):
    """App -> size of its update, of all reported apps."""
    old = old_name(wildcards)
    return {app: f"artifacts/models/{old}/{app}/magnitude.json" for app in reported_apps(wildcards)}


def measured_cases():
    """The cases that advice rests on: they come with the package."""
    return [str(path) for path in sorted(advice.MEASURED.glob("*.json"))]


def comparisons(wildcards):
    """Comparisons of methods, of all reported apps, where the report is to show them."""
    views = (f"{PAIR}/tables/{{app}}.methods.html", f"{APP}/plots/methods.svg")
    if not CONFIG.content["report"]["comparison"]:
        return []
    return [*of_apps(*views)(wildcards), f"artifacts/{wildcards.pair}/plots/methods.svg"]
