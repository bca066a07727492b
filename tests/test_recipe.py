"""Recipes: Stentor2's agrees with its model card, and an invalid recipe is refused with the key's name."""

import pytest

pytest.importorskip("torch")

from edgekit.cli import train
from edgekit.errors import FileError, RecipeError
from edgekit.training import hf_folder, recipe, schedule
from edgekit.training.data import vocabulary
from edgekit.training.model import parameters


def test_stentor2_recipe_has_every_number_of_the_model_card(shared):
    """Every number of Stentor2's model card."""
    r = recipe.load("stentor2-12m")
    vocab = shared / "tokenmonster" / "vocabs" / "english-8000-strict-nocapcode-v1.vocab"
    config = hf_folder.config_for(r, vocabulary(str(vocab)))
    assert parameters(config) == 12_294_400
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (8064, 256, 768)
    assert (config.num_hidden_layers, config.num_attention_heads, config.head_dim) == (12, 4, 64)
    assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == ((8000,), 8001, 8000)
    t, o, s, e = r.training, r.optimizer, r.schedule, r.evaluation
    assert (t.seed, t.per_device_train_batch_size, t.gradient_accumulation_steps) == (42, 32, 2)
    assert (t.total_batch_size, t.max_train_steps, t.num_train_epochs) == (128, 9552, 2)
    assert t.total_batch_size * r.data.block_size == 131_072
    assert (r.data.source_token_budget, t.token_budget) == (240_000_000, 480_000_000)
    assert -(-t.token_budget // 131_072) * 131_072 == 480_116_736  # the card's processed tokens
    assert (o.learning_rate, o.weight_decay, o.betas, o.eps, o.max_grad_norm) == (8e-4, 0.01, (0.9, 0.95), 1e-8, 1.0)
    assert schedule.warmup_steps(s, 9552) == 477 and int(s.stable_ratio * 9552) == 7641
    assert (e.eval_steps, e.best_eval_steps, e.best_eval_start_step, e.max_eval_samples) == (900, 900, 1500, 5000)
    assert (e.per_device_eval_batch_size, r.saving.save_every_minutes, r.saving.save_total_limit) == (16, 30, 2)
    assert (r.precision.mixed_precision, r.precision.fp32_norms, r.precision.fp32_layers) == ("fp16", True, 2)
    assert [source.hub for source in r.data.sources] == ["epfml/FineWeb-HQ", "StentorLabs/StenCore"]


BUILTIN = sorted(path.stem for path in recipe.RECIPES.glob("*.toml"))


@pytest.mark.parametrize("name", [*BUILTIN, "recipes/smoke.toml"])
def test_load_builtin_recipe_by_name(name):
    assert recipe.load(name).name in name


def test_train_help_names_every_builtin_recipe():
    text = " ".join((train.train.help or "").split())
    assert f"one that comes with edgekit: {', '.join(BUILTIN)}." in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learning_rat=1", "no section of a recipe has the key 'learning_rat'"),
        ("model.width=3", "unknown key model.width"),
        ("learning_rate=high", "optimizer.learning_rate must be a number"),
        ("learning_rate=-1", "optimizer.learning_rate must be a number above 0"),
        ("hidden_size=2.5", "model.hidden_size must be a whole number"),
        ("hidden_size=65", "does not divide by num_attention_heads"),
        ("kind=cosin", "schedule.kind must be cosine, wsd or constant, not 'cosin'"),
        ("block_size=4096", "data.block_size 4096 is above model.max_position_embeddings"),
        ("warmup_ratio=0.1", "schedule.warmup_ratio and schedule.warmup_steps exclude each other"),
        ("fp32_layers=9", "precision.fp32_layers 9 is above"),
        ("max_train_steps=none", "training has no end"),
        ("total_batch_size=17", "training.total_batch_size 17 is not a multiple"),
        ("data.sources=[]", "data.sources is missing"),
        ('data.sources=[{path="a", hub="b"}]', "needs one of path, hub and builtin, not path and hub"),
        ('data.sources=[{path="a", split="test"}]', "split, subset and revision are for hub"),
        ('data.validation=[{path="a"}]', "data.validation and data.validation_fraction exclude each other"),
        ("learning_rate", "--set takes key=value"),
    ],
)
def test_load_invalid_change_names_the_key(change, message):
    with pytest.raises(RecipeError) as caught:
        recipe.load("smoke", [change])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_load_file_that_is_not_a_recipe_raises(tmp_path):
    (tmp_path / "r.toml").write_text("[model\n")
    with pytest.raises(RecipeError, match="is not TOML"):
        recipe.load(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("[models]\nhidden_size = 3\n")
    with pytest.raises(RecipeError, match="unknown key models"):
        recipe.load(tmp_path / "r.toml")
    with pytest.raises((RecipeError, FileError), match="no recipe"):
        recipe.load(tmp_path / "absent.toml")


def test_load_set_overrides_and_converts():
    r = recipe.load("smoke", ["learning_rate=1", "schedule.kind=cosine", "betas=[0.8, 0.9]", "name=other"])
    assert r.optimizer.learning_rate == 1.0 and isinstance(r.optimizer.learning_rate, float)
    assert (r.schedule.kind, r.optimizer.betas, r.name) == ("cosine", (0.8, 0.9), "other")
    assert str(r.output) == "runs/other"


def test_difference_ignores_keys_that_a_resume_may_change():
    old = recipe.load("smoke").to_dict()
    assert recipe.difference(old, recipe.load("smoke", ["logging_steps=1", "workers=1", "output=x"]).to_dict()) is None
    assert recipe.difference(old, recipe.load("smoke", ["seed=1"]).to_dict()) == "training.seed"


def rates(changes, total=100):
    s = recipe.load("smoke", ["warmup_steps=none", *changes]).schedule
    return [schedule.factor(s, step, total) for step in range(total)]


def test_cosine_schedule_equals_transformers():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = transformers.get_cosine_schedule_with_warmup(optimizer, 10, 100)
    ours = rates(["kind=cosine", "warmup_ratio=0.1"])
    for step in range(100):
        if step >= 10:  # in the warmup theirs is one step behind: its first rate is 0
            assert ours[step] == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert ours[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])


def test_wsd_schedule_warms_up_stays_and_decays():
    ours = rates(["kind=wsd", "warmup_ratio=0.1", "stable_ratio=0.6", "decay=linear"])
    assert ours[9:70] == [1.0] * 61
    assert ours[71] == pytest.approx(1 - 1 / 30) and ours[99] == pytest.approx(1 / 30)
    assert rates(["kind=wsd", "warmup_ratio=0.0", "stable_ratio=0.5", "min_lr_ratio=0.1"])[99] == pytest.approx(0.118)
    assert rates(["kind=wsd", "warmup_ratio=0.0", "stable_ratio=0.5", "decay=sqrt"])[52] == pytest.approx(0.8)
    assert rates(["kind=constant", "warmup_ratio=0.1"])[50:] == [1.0] * 50
