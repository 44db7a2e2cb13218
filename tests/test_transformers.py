"""Models of Hugging Face's transformers as populations: tiny ones with random weights."""

import copy
import warnings
from functools import partial

import pytest
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

import gradevo as ge
import runs
from gradevo.export import write
from gradevo.fitness import evaluate
from gradevo.losses import OnLogits
from gradevo.result import Ensemble
from modules import close, same

WORDS, LENGTH, CLASSES = 19, 10, 3
ON_LOGITS = OnLogits(nn.CrossEntropyLoss())


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def bert(attention: str = "sdpa", padding: int | None = 0):
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, num_labels=CLASSES,
        attn_implementation=attention, pad_token_id=padding,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def distilbert(attention: str = "sdpa", padding: int | None = 0):
    config = transformers.DistilBertConfig(
        vocab_size=WORDS, dim=16, n_layers=1, n_heads=2, hidden_dim=24, num_labels=CLASSES,
        max_position_embeddings=16, attn_implementation=attention, pad_token_id=padding,
    )  # fmt: skip
    return transformers.DistilBertForSequenceClassification(config)


def gpt(attention: str = "sdpa", padding: int | None = None):
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0,
        eos_token_id=0, attn_implementation=attention, pad_token_id=padding,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


BUILDS = {"bert": bert, "distilbert": distilbert, "gpt": gpt}


def next_word(output, words):
    """What a language model is trained on."""
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())


def sentences(rows: int = 64) -> dict[str, torch.Tensor]:
    """Words of which the first says the class, and a mask of those that are there."""
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(1, WORDS, (rows, LENGTH), generator=generator)
    there = torch.ones_like(words)
    there[::3, 6:] = 0
    return {"input_ids": words, "attention_mask": there, "labels": words[:, 0] % CLASSES}


def task(name: str):
    """A model to build, its loss, inputs and targets."""
    data = sentences()
    labels = data.pop("labels")
    if name == "gpt":
        return gpt, next_word, data, data["input_ids"]
    return BUILDS[name], ON_LOGITS, data, labels


# --- a population ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDS)
def test_a_member_is_the_model_that_transformers_would_have_made(name):
    pop = ge.Population(BUILDS[name], 3)
    fresh, member = BUILDS[name](), pop.member(1)
    assert type(member) is type(fresh)
    assert list(member.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(member.state_dict())
    x = {k: v for k, v in sentences(4).items() if k != "labels"}
    expected = fresh.eval()(**x).logits
    close(pop.eval()(x).logits[1], expected)
    close(member.eval()(**x).logits, expected)
    assert not same(dict(pop.member(0).state_dict()), dict(member.state_dict()))


def test_tied_words_stay_tied_and_positions_stay_whole_numbers():
    pop = ge.Population(gpt, 2)
    member = pop.member(1)
    assert member.lm_head.weight is member.transformer.wte.weight
    assert "lm_head.weight" not in pop.leaves
    positions = ge.Population(bert, 2).tensors["bert.embeddings.position_ids"]
    assert positions.shape == (2, 1, 16)
    assert positions.dtype == torch.long


def test_outputs_keep_their_class_and_lose_their_cache():
    _, _, x, _ = task("gpt")
    output = ge.Population(gpt, 2)(x)
    assert type(output).__name__ == "CausalLMOutputWithCrossAttentions"
    assert output.logits.shape == (2, 64, LENGTH, WORDS)
    assert output.past_key_values is None
    assert pytree.tree_leaves(output)[0] is output.logits


@pytest.mark.parametrize("each", [False, True], ids=["shared", "one a member"])
@pytest.mark.parametrize("name", BUILDS)
def test_vmap_computes_what_the_loop_does_with_eager_attention(name, each):
    build, loss, x, y = task(name)
    if each:
        del x["attention_mask"]  # in which some models look whether anything is left out
        x, y = {k: v.view(2, 32, LENGTH) for k, v in x.items()}, y.view(2, 32, *y.shape[1:])
    found = []
    for engine in ("loop", "vmap"):
        pop = ge.Population(partial(build, "eager", None), 2, engine=engine).eval()
        pop.gradient()
        losses = pop.accumulate(loss, x, y, per_member=each)
        found.append((losses, pop.gradient_buffer(), pop(x, per_member=each).logits))
    for mine, theirs in zip(*found, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize(
    ("engine", "settings", "why"),
    [
        ("batched", ("sdpa", 0), "Untraceable"),
        ("simd", ("sdpa", 0), "not one tensor"),
        ("vmap", ("eager", 0), "padding_idx"),
        ("vmap", ("sdpa", None), "scaled_dot_product"),
    ],
)
def test_engines_that_cannot_say_so_and_auto_goes_on_without_them(engine, settings, why):
    _, loss, x, y = task("bert")
    build = partial(bert, *settings)
    pop = ge.Population(build, 2, engine=engine)
    with pytest.raises(ge.EngineError, match=why):
        pop.losses(loss, x, y)
    pop = ge.Population(build, 2)
    pop.losses(loss, x, y)
    assert pop.engine == "loop"


def test_vmap_declines_a_mask_of_each_members_own_that_the_model_looks_at():
    build, loss, x, y = task("bert")
    x, y = {k: v.view(2, 32, LENGTH) for k, v in x.items()}, y.view(2, 32)
    pop = ge.Population(partial(build, "eager", None), 2, engine="vmap")
    with pytest.raises(ge.EngineError, match="data-dependent control flow"):
        pop.losses(loss, x, y, per_member=True)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_dropout_differs_between_members_with_the_same_weights(engine):
    one = bert("eager", None)
    pop = ge.Population.from_modules([copy.deepcopy(one) for _ in range(3)], engine=engine)
    _, _, x, _ = task("bert")
    logits = pop.train()(x).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    assert (logits[1] - logits[2]).abs().max() > 1e-4
    still = pop.eval()(x).logits
    close(still[0], still[1])


# --- data --------------------------------------------------------------------------------------

TEXTS = [f"a{i % 9} b{i % 4}" + " c" * (i % 3) for i in range(48)]


def tokenizer():
    """A tokenizer of whole words, made here."""
    words = ["[PAD]", "[UNK]", "c", *(f"a{i}" for i in range(9)), *(f"b{i}" for i in range(4))]
    known = {word: i for i, word in enumerate(words)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def loader(padding: str | bool = "max_length", **settings) -> DataLoader:
    """Texts through a collator of transformers; its batches are no dicts, but mappings."""
    tokenise, longest = tokenizer(), 5 if padding == "max_length" else None
    rows = [{**tokenise(text), "label": i % 9 % CLASSES} for i, text in enumerate(TEXTS)]
    collate = transformers.DataCollatorWithPadding(tokenise, padding, max_length=longest)
    return DataLoader(rows, **{"batch_size": 8, "shuffle": True} | settings, collate_fn=collate)


def test_batches_of_a_collator_train_a_population():
    algorithm = ge.GADAM(population=2, generations=1, steps=30, lr=1e-2)
    result = fit(algorithm, train=loader(), valid=loader(shuffle=False))
    assert float(result.losses[0]) < 0.7  # log 3 is 1.1


def test_batches_padded_to_their_longest_row_need_one_batch_for_all():
    train = loader(True, shuffle=False, batch_size=1)
    shared = ge.GADAM(population=2, generations=1, steps=4, shared_batch=True)
    assert fit(shared, train=train, valid=loader()).losses.isfinite().all()
    with pytest.raises(ValueError, match="train: members' batches must be of one shape"):
        fit(ge.GADAM(population=2, generations=1, steps=4), train=train, valid=loader())
    with pytest.raises(ValueError, match="train: all batches must have rows of one shape"):
        fit(shared, train=train)


def test_the_models_own_loss_may_be_trained_on():
    data = sentences()
    labels = data["labels"]
    algorithm = ge.GADAM(population=2, generations=1, steps=8, batch_size=16)
    own = fit(algorithm, loss=lambda output, y: output.loss, train=(data, labels))
    other = fit(algorithm)
    close(own.losses.float(), other.losses.float())


@torch.no_grad()
def test_the_models_own_loss_is_a_mean_over_all_validation_rows():
    data = sentences(1100)
    pop = ge.Population(bert, 2).eval()
    own = evaluate(pop, lambda output, y: output.loss, data, data["labels"])
    labels = data.pop("labels")
    close(own, evaluate(pop, ON_LOGITS, data, labels))


# --- runs --------------------------------------------------------------------------------------

LEARNING = {"steps": 25, "batch_size": 16, "lr": 1e-2}
ALGORITHMS = {
    "gadam": ge.GADAM(population=2, generations=2, **LEARNING),
    "independent": ge.Independent(population=2, generations=2, **LEARNING),
    "ladder": ge.GEMONN(population=4, generations=3, **LEARNING, objectives=("density", "error")),
    "crossover": ge.GEMONN(
        population=4, generations=2, search="crossover", objectives=("loss", "flops"), fine_tune=2,
        batch_size=16, lr=1e-2,
    ),
    "adaswarm": ge.AdaSwarm(population=2, generations=2, **LEARNING),
}  # fmt: skip


def fit(algorithm, folder=None, *, build=bert, loss=ON_LOGITS, train=None, **more):
    data = sentences() if train is None else train
    checkpoint = None if folder is None else ge.Checkpoint(folder, seconds=0.0)
    return ge.fit(algorithm, build, loss, data, **{"engine": "loop"} | more, checkpoint=checkpoint)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_bert(name):
    result = fit(ALGORITHMS[name])
    if isinstance(result, ge.Front):
        assert result.best()(**task("bert")[2]).logits.shape == (64, CLASSES)
        assert len(result.points) >= 1
    else:
        assert float(result.losses[0]) < 1.0  # log 3 is 1.1
        x = task("bert")[2]
        assert result.ensemble(**x).logits.exp().sum(1).allclose(torch.ones(64))
        assert result.soup(**x).logits.shape == (64, CLASSES)


def test_a_language_model_learns():
    _, loss, x, _ = task("gpt")
    x = {name: t[:, :8] * 0 + torch.arange(1, 9) for name, t in x.items()}  # counting
    algorithm = ge.GADAM(population=2, generations=1, steps=30, batch_size=16)
    result = fit(algorithm, build=gpt, loss=loss, train=(x, x["input_ids"]))
    assert float(result.losses[0]) < 0.5
    with torch.no_grad():
        words = result.best.generate(x["input_ids"][:1, :3], max_new_tokens=4, do_sample=False)
    assert words.tolist() == [[1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("kind", ["mapping", "loader"])
def test_a_run_extended_to_twice_its_length_is_one_long_run(kind, tmp_path):
    def run(generations, folder=None):
        algorithm = ge.GADAM(population=2, generations=generations, steps=3, batch_size=16)
        train = sentences() if kind == "mapping" else loader(batch_size=16)
        return fit(algorithm, folder, train=train)

    run(1, tmp_path)
    assert runs.bits(run(2, tmp_path)) == runs.bits(run(2))


def test_the_best_member_goes_back_to_transformers_and_a_trained_one_comes_from_there(tmp_path):
    quick = ge.GADAM(population=2, generations=1, steps=2, batch_size=16)
    best = fit(quick).best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about its own files
        best.save_pretrained(tmp_path)

    def build():
        return transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).train()

    x = task("bert")[2]
    close(build().eval()(**x).logits, best(**x).logits)
    pop = ge.Population(build, 2)
    assert pop.training
    close(pop.eval()(x).logits[0], best(**x).logits)
    assert fit(quick, build=build).losses.isfinite().all()


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_an_ensemble_of_transformers_is_one_file_with_inputs_by_name(ending, tmp_path):
    members = ge.Population(bert, 2, generator=torch.Generator().manual_seed(0))
    ensemble = Ensemble(members, probabilities=True).eval()
    ids = torch.randint(1, WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert write(ensemble, tmp_path / f"all.{ending}", example=example).error < 1e-5
