"""Checks of two adapters: on nano's adapters and planted failures, and what is read of files."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from loraport.adapters.attach import attach
from loraport.cli import main
from loraport.commands.check import template_of
from loraport.errors import LoraportError
from loraport.upgrade.base import Base, Limits, check_changes
from loraport.upgrade.prompts import Record, as_text, read_prompts
from loraport.upgrade.scored import pooled

pytestmark = pytest.mark.usefixtures("one_thread")
NANO = Path(__file__).parents[3] / "resources" / "nano"


@pytest.fixture(scope="module")
def base(pico_pair):
    return Base.load(pico_pair.old, Limits(batch_size=3, new_tokens=6), device="cpu")


def test_an_adapter_is_worn_for_a_while(base, pico_pair):
    prompts = ["the word", "two words and"]
    bare = base.first_logits(prompts)
    with base.wearing(pico_pair.adapter):
        worn = base.first_logits(prompts)
        with base.without_adapter():
            assert torch.equal(base.first_logits(prompts), bare)
    assert torch.equal(base.first_logits(prompts), bare) and not torch.equal(worn, bare)
    alone = Base.load(pico_pair.old, device="cpu")
    alone.model = attach(alone.model, pico_pair.adapter).eval()
    assert torch.equal(alone.first_logits(prompts), worn)


def test_answers_at_a_temperature_come_from_the_seed(base):
    prompts = [f"the word {n} is" for n in range(7)]
    first, again, other = (
        [each.text for each in base.write(prompts, temperature=1.0, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    greedy = [each.text for each in base.write(prompts)]
    assert greedy == [each.text for each in base.write(prompts)] != first


def test_text_losses_are_those_of_the_model(base):
    text = "the word is one of many"
    ids = torch.tensor([base.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        expected = float(base.model(ids, labels=ids).loss)
    nats, tokens = base.text_losses([text, text])
    assert nats[0] / tokens[0] == pytest.approx(expected, rel=1e-5) and nats[0] == nats[1]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good()",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_runs_out_halves_the_batch(base, said):
    sizes = []

    def work(size):
        sizes.append(size)
        if size > 1:
            raise RuntimeError(said)
        return "done"

    frugal = Base(base.model, base.tokenizer, Limits(batch_size=4))
    assert frugal.fitted(work) == "done" and sizes == [4, 2, 1]
    with pytest.raises(RuntimeError, match="else"):
        frugal.fitted(lambda size: (_ for _ in ()).throw(RuntimeError("something else")))


def test_an_adapter_without_effect_is_seen(base, pico_pair, tmp_path):
    assert check_changes(base, pico_pair.adapter, ["the word"])
    assert not check_changes(base, zeroed(pico_pair.adapter, tmp_path / "zero"), ["the word"])
    other = pico.make_adapter(tmp_path / "other", pico_pair.new, seed=1)
    with pytest.raises(LoraportError, match="does not fit"):
        check_changes(base, other, ["the word"])


def zeroed(adapter: Path, out: Path, keep=lambda name: False) -> Path:
    """An adapter whose B is zero, but for some modules'."""
    shutil.copytree(adapter, out)
    (out / "SHA256SUMS").unlink(missing_ok=True)
    file = out / "adapter_model.safetensors"
    tensors = load_file(file)
    changed = {n: t if "lora_B" not in n or keep(n) else 0 * t for n, t in tensors.items()}
    save_file(changed, file, {"format": "pt"})
    return out


def test_prompts_of_files(tmp_path):
    rows = [
        {"prompt": "a", "completion": " b"},
        {"prompt": "a", "completion": " c"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
        {"prompt": "d"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_prompts(tmp_path / "p.jsonl") == [
        Record("a", " b"),
        Record((("user", "q"),), "r"),
        Record("d"),
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert read_prompts(tmp_path / "p.json") == read_prompts(tmp_path / "p.jsonl")
    asked, said = {"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}
    rows = [
        {"conversations": [asked, said]},
        {"prompt": [{"role": "user", "content": "p"}], "completion": None},
        {"prompt": [{"role": "user", "content": "s"}], "answer": 3},
        {"prompt": "d", "answer": float("nan")},
    ]
    (tmp_path / "chats.json").write_text(json.dumps(rows))
    assert read_prompts(tmp_path / "chats.json") == [
        Record((("user", "q"),), "r"),
        Record((("user", "p"),)),
        Record((("user", "s"),), "3"),
        Record("d"),
    ]
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert [each.prompt for each in read_prompts(tmp_path / "p.txt")] == ["one", "two"]


def test_records_of_other_layouts_are_put_into_the_template_that_is_named(tmp_path):
    rows = [
        {"question": "How many?", "answer": "1<<1>> #### 1"},
        {"instruction": "Add.", "input": "1 1"},
        {"prompt": "p"},
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    with pytest.raises(LoraportError, match="--template question or"):
        read_prompts(tmp_path / "p.json")
    assert read_prompts(tmp_path / "p.json", "question") == [
        Record("Question: How many?\nAnswer:", " 1\nThe answer is 1."),
        Record("Context: 1 1\nQuestion: Add.\nAnswer:"),
        Record("p"),
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows[:1]))
    with pytest.raises(LoraportError, match="unknown template 'plan'"):
        read_prompts(tmp_path / "q.json", "plan")
    found = read_prompts(tmp_path / "q.json", template_of(Namespace(template="Q: {question}\\nA:")))
    assert found == [Record("Q: How many?\nA:", " 1\nThe answer is 1.")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", '{"question": "a"}'),
        ("p.jsonl", "[1"),
        ("p.jsonl", "3"),
        ("p.json", '{"prompt": "a"}'),
        ("p.jsonl", '{"messages": [{"role": "user"}]}'),
        ("p.jsonl", '{"messages": [{"role": "assistant", "content": "r"}]}'),
        ("p.jsonl", '{"prompt": " "}'),
        ("p.txt", "\n\n"),
    ],
)
def test_files_without_prompts_are_told(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(LoraportError, match=name.replace(".", r"\.")):
        read_prompts(tmp_path / name)


def test_messages_go_through_each_models_own_template(pico_pair):
    tokenizer = Base.load(pico_pair.old, device="cpu").tokenizer
    prompt = (("user", "hello"),)
    with pytest.raises(LoraportError, match="chat template"):
        as_text(prompt, tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} [assistant]{% endif %}"
    )
    text = as_text(prompt, tokenizer)
    assert text == "[user] hello [assistant]"  # the tokenizer writes <s> itself
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


def checked(tmp_path, old_adapter, new_adapter, *more, app="command"):
    named = [NANO / "v1", old_adapter, NANO / "v2", new_adapter]
    named += ["--out", tmp_path / "verdict.json", "--test", NANO / f"data/{app}.test.jsonl"]
    settings = ["--new-tokens", "48", "--device", "cpu", *more]
    status = main(["check", *map(str, named), *settings])
    file = tmp_path / "verdict.json"
    return status, json.loads(file.read_text()) if file.exists() else None


OLD, NEW = NANO / "adapters/v1/command", NANO / "adapters/v2/command"


def test_a_retrained_adapter_is_deployed_and_a_zero_one_is_not(tmp_path, capsys):
    texts = ["--texts", str(NANO / "calibration.txt")]
    status, content = checked(tmp_path, OLD, NEW, "--limit", "64", *texts)
    assert status == 0 and content["verdict"] == "DEPLOY", content["why"]
    assert content["evidence"]["generic_text"]["texts"] == 64
    assert content["evidence"]["alone"]["new_bare"] == 0 and "alone" not in content["why"]
    assert capsys.readouterr().out.startswith("DEPLOY")
    status, content = checked(tmp_path, OLD, zeroed(NEW, tmp_path / "zero"), "--limit", "20")
    assert status == 3 and content["verdict"] == "RETRAIN" and "does nothing" in content["why"]


def test_without_labels_it_is_agreement_that_decides(tmp_path):
    lines = (NANO / "data/command.test.jsonl").read_text().splitlines()[:32]
    prompts = [json.dumps({"prompt": json.loads(line)["prompt"]}) for line in lines]
    (tmp_path / "p.jsonl").write_text("\n".join(prompts))
    more = ["--test", str(tmp_path / "p.jsonl")]
    status, content = checked(tmp_path, OLD, NEW, *more)
    assert content["rests_on"] == "agreement" and content["verdict"] != "RETRAIN"
    assert "alone" not in content["evidence"]
    half = zeroed(NEW, tmp_path / "half", lambda name: "layers.1." in name)
    status, content = checked(tmp_path, OLD, half, *more)
    assert status == 3 and content["verdict"] == "RETRAIN"
    flips = content["evidence"]["flips"]
    assert len(flips) == 10 and all(flip["lost"] and not flip["gold"] for flip in flips)
    assert all(flip["old"] != flip["new"] and "Command:" in flip["prompt"] for flip in flips)


def test_an_old_adapter_that_does_nothing_on_the_test_is_refused(tmp_path, capsys):
    status, content = checked(tmp_path, zeroed(OLD, tmp_path / "zero"), NEW, "--limit", "20")
    assert status == 1 and content is None
    told = capsys.readouterr().err
    assert "do not measure" in told and "(3) prompt 'Command:" in told


def test_a_task_of_the_harness_decides_as_well(tmp_path, capsys):
    named = [NANO / "v1", OLD, NANO / "v2", NEW, "--out", tmp_path / "verdict.json"]
    more = ["--task", "nano_command", "--limit", "40", "--device", "cpu", "--margin", "10"]
    assert main(["check", *map(str, named), *more]) == 0
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert content["rests_on"] == "labels" and content["evidence"]["scores"]["items"] == 40
    assert content["about"]["test"] == "nano_command"
    counted, alone = content["evidence"]["scores"], content["evidence"]["alone"]
    assert alone["new_bare"] == 0 and alone["new_adapted"] == counted["new_adapted"]
    flips = content["evidence"]["flips"]
    assert len(flips) == min(10, counted["lost"] + counted["gained"])
    zero = zeroed(OLD, tmp_path / "zero")
    assert main(["check", *map(str, [named[0], zero, *named[2:]]), *more]) == 1
    told = capsys.readouterr().err
    assert "do not measure" in told and "(3) prompt 'Command:" in told
    with pytest.raises(SystemExit):
        main(["check", *map(str, named)])


def test_scores_of_several_tasks_are_pooled_on_one_scale():
    tasks = {
        "b": {"metric": "acc", "items": [1, 0]},
        "a": {"metric": "bleu", "items": [50.0]},
    }
    assert pooled(tasks) == [0.5, 1.0, 0.0]
