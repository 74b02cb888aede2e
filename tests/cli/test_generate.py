"""`gmkern generate`: a local checkpoint, its samples and their log-probabilities, and one line about what is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from gmkern.cli.app import app
from gmkern.decode import SamplingParams, generate, score

transformers = pytest.importorskip("transformers")
WORDS = ["<end>", "<s>", "<unk>", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


def run(*words):
    return CliRunner().invoke(app, ["generate", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_samples_are_those_of_generate(folder, tmp_path):
    listed = tmp_path / "prompts.txt"
    listed.write_text("a dog\n\nthe mat ran\n")
    asked = ("--prompt", "the cat", "--prompts", listed, "-n", 3, "--max-new-tokens", 9, "--seed", 5)
    shaped = ("--temperature", 0.8, "--top-k", 6, "--json", "--out", tmp_path / "out.jsonl")
    done = run("--model", folder, *asked, *shaped)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert (tmp_path / "out.jsonl").read_text() == done.stdout
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [[WORDS.index(word) for word in text.split()] for text in ("the cat", "a dog", "the mat ran")]
    params = SamplingParams(0.8, 6)
    want = generate(model, ids, num_samples=3, max_new_tokens=9, seed=5, end_token=0, params=params)
    assert [r["prompt"] for r in records] == [p for p in ("the cat", "a dog", "the mat ran") for _ in range(3)]
    assert [r["sample"] for r in records] == [0, 1, 2] * 3
    again = score(model, want.tokens, want.lengths, prompts=ids, num_samples=3, params=params)
    for row, record in enumerate(records):
        count = int(want.lengths[row])
        assert record["tokens"] == want.tokens[row, :count].tolist()
        assert torch.equal(torch.tensor(record["logprobs"]), again[row, :count].detach())
        assert record["logprob"] == pytest.approx(float(again[row].detach().double().sum()), abs=1e-12)
        assert record["finished"] == bool(want.finished[row])
        assert record["text"].split() == [WORDS[t] for t in record["tokens"] if t > 2]  # the first three are special
    assert any(r["finished"] for r in records)
    assert run("--model", folder, "--prompt", "the cat", "--seed", 6, "--json").stdout != done.stdout.splitlines()[0]


def test_text_and_no_prompt(folder):
    done = run("--model", folder, "--prompt", "the cat", "--max-new-tokens", 4, "--temperature", 0)
    assert done.exit_code == 0, done.output
    assert "the cat" in done.stdout
    assert "log-probability 0.00, " in done.stdout  # greedy
    free = run("--model", folder, "--max-new-tokens", 4, "-n", 2, "--json")
    assert free.exit_code == 0, free.output
    assert [json.loads(line)["prompt"] for line in free.stdout.splitlines()] == ["", ""]


def test_what_is_wrong_is_said_in_a_line(folder, tmp_path):
    def failed(*words):
        done = run(*words)
        assert done.exit_code == 1, done.output
        assert "Traceback" not in done.output
        return done.stderr

    assert "holds no config.json" in failed("--model", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\xff\xfe")
    assert "holds no *.safetensors" in failed("--model", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert str(tmp_path) in failed("--model", tmp_path)
    assert "--prompts" in failed("--model", folder, "--prompts", tmp_path / "pytorch_model.bin", "--max-new-tokens", 99)
    assert "--max-new-tokens: got 99; takes at most 62" in failed(
        "--model", folder, "--prompt", "the cat", "--max-new-tokens", 99
    )
    for option, value in (("--temperature", "nan"), ("--top-p", "nan"), ("--repetition-penalty", "inf")):
        assert option in failed("--model", folder, option, value)
    assert "--out" in failed("--model", folder, "--out", tmp_path / "no" / "where")
    other = tmp_path / "opt"
    transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=11, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8
        )
    ).save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_text((folder / name).read_text())
    assert "a OPTForCausalLM; takes" in failed("--model", other)
    for words in (
        ["--prompt", "a"],
        ["--model", folder, "--top-p", 2],
        ["--model", folder, "-n", 10**11],
        ["--model", folder / "none"],
    ):
        assert run(*words).exit_code == 2


def test_without_transformers(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    done = run("--model", folder, "--prompt", "a")
    assert done.exit_code == 1
    assert "pip install 'gmkern[hf]'" in done.stderr
