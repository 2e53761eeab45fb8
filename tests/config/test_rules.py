"""Every config composes, every key is known and documented, every mistake is one line that names it."""

import copy
import functools
import inspect
import random
import re

import pytest
from omegaconf import OmegaConf

from ip2p_lightning.cli import cache
from ip2p_lightning.config.allowed_targets import ALLOWED_TARGETS, built, import_target
from ip2p_lightning.config.compose import CONF, differences, plain, run_name
from ip2p_lightning.config.interpolation import refuse_resolvers
from ip2p_lightning.config.train_config import TrainConfig
from ip2p_lightning.config.validate import check
from ip2p_lightning.errors import SecurityError, UserError
from ip2p_lightning.training.dry_run import places
from ip2p_lightning.training.train import train
from tests.support.configs import config_of

SD = ("model=local", "model.path=/x")
NEEDS_SD = ("text_encoder=clip", "unet=sd", "unet=sd_lora", "autoencoder=sd", "autoencoder=ft-mse", "autoencoder=taesd")
MANDATORY = {"model=local": ["model.path=/x"], "data=folder": ["data.root=/x"], "data=built": ["data.root=/x"]}
MANDATORY |= {"data=manifest": ["data.path=/x.csv"], "data=hub": ["data.name=a/b"]}
MANDATORY |= {"task=built": ["data=built", "data.root=/x"], "task=cartoon_whitebox": ["task.make.weights=/x"]}
MANDATORY |= {"optimizer=timm": ["optimizer.opt=lion"]} | dict.fromkeys(NEEDS_SD, SD)
MANDATORY |= {f"trainer={name}": ["model=sd15"] for name in ("gpu_12g", "gpu_8g")}
MANDATORY |= {f"sampler={name}": ["objective=eps"] for name in ("ddim", "dpm++", "unipc", "euler-a")}
OPTIONAL = {"optimizer=adamw8bit": "bitsandbytes", "logger=wandb": "wandb", "logger=mlflow": "mlflow"}
GROUPS = [p.name for p in sorted(CONF.iterdir()) if p.is_dir() and p.name not in ("hydra", "source", "recipe")]
MEMBERS = [f"{g}={p.stem}" for g in GROUPS for p in sorted((CONF / g).glob("*.yaml"))]


def keys(node: object, path: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [path]
    return [k for key, v in node.items() if not key.startswith("_") for k in keys(v, f"{path}.{key}" if path else key)]


@pytest.fixture(scope="module")
def default() -> dict:
    return config_of()


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_of_every_group_composes_and_passes(member):
    pytest.importorskip(OPTIONAL.get(member, "torch"))
    config_of(member, *MANDATORY.get(member, []))


@pytest.mark.parametrize(
    "path", sorted(p for p in CONF.rglob("*.yaml") if "hydra" not in p.parts), ids=lambda p: str(p.relative_to(CONF))
)
def test_every_file_begins_by_saying_what_it_is(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ") and len(lines[0]) > 20


NOT_BUILT = {"mixture", "built"}  # several tasks at once


@pytest.mark.parametrize("name", ["train", "build"])
def test_comments_that_list_members_list_all_of_them(name):
    listed = re.findall(r"- (\w+): \S+\s+#.*?((?:[\w+-]+ \| )+[\w+-]+)", (CONF / f"{name}.yaml").read_text())
    assert len(listed) >= (12 if name == "train" else 2)
    for group, members in listed:
        left_out = NOT_BUILT if (name, group) == ("build", "task") else set()
        assert set(members.split(" | ")) == {p.stem for p in (CONF / group).glob("*.yaml")} - left_out, group


@pytest.mark.parametrize("name", sorted(n for n in ALLOWED_TARGETS if n.startswith("ip2p_lightning")))
def test_every_parameter_a_config_can_set_is_documented(name):
    pytest.importorskip(name.split(".")[-2] if ".loggers." in name else "torch")
    target = import_target(name)
    text = "\n".join(c.__doc__ or "" for c in getattr(target, "__mro__", [target]) if "ip2p" in c.__module__)
    known = set(inspect.signature(target).parameters) - {"self"}
    assert not {p for p in known if not re.search(rf"\b{p}\b", text)}


def test_a_model_overrides_the_parts_above_it_and_the_command_line_overrides_the_model():
    assert config_of(*SD)["objective"]["prediction"] == "epsilon"
    config = config_of(*SD, "objective=v", "autoencoder=taesd", "sampler=unipc")
    assert config["objective"]["prediction"] == "v_prediction" and config["sampler"]["scheduler"] == "unipc"
    assert config["autoencoder"]["_target_"].endswith("TAESD") and config["unet"]["path"] == "/x"


def test_the_recipe_of_the_original_experiment():
    config = config_of("model=ip2p", "data=itsd_cartoon", "task=cartoon", "trainer=gpu")
    assert (config["loader"]["size"], config["loader"]["batch_size"]) == (256, 2)
    assert config["trainer"]["accumulate_grad_batches"] == 4 and config["trainer"]["max_steps"] == 15000
    assert config["optimizer"]["lr"] == 5e-5 and config["model"]["ema"] == 0.9999


def test_settings_without_their_object_are_told_from_those_of_a_shared_one():
    with pytest.raises(UserError, match=r"is for a Lora, which .* choose unet=sd_lora, or remove it with '~unet.lora'"):
        config_of(*SD, "trainer=gpu_8g", "unet=sd")
    assert "lora" not in config_of(*SD, "trainer=gpu_8g", "unet=sd", "~unet.lora")["unet"]
    with pytest.raises(UserError, match=r"a node that is shared; set loader.size instead"):
        config_of("task=derain", "++task.loader.size=64")


def test_missing_values_say_how_to_give_them():
    with pytest.raises(UserError, match=r"^model.path has no value.*give model.path=DIR"):
        config_of("model=local")
    with pytest.raises(UserError, match=r"data\.root=VALUE"):
        config_of("data=folder")


def test_a_dry_run_looks_for_the_weights(tmp_path, sd_folder):
    dry = ["model=local", "task=denoise", "trainer=fast", "dry_run=true"]
    with pytest.raises(UserError, match="no weights at /nonexistent "):
        train(config_of(*dry, "model.path=/nonexistent"), tmp_path)
    with pytest.raises(UserError, match=f"no weights at {tmp_path} "):  # a folder without a unet
        places(config_of(*dry, f"model.path={tmp_path}"))
    told = f"weights: {sd_folder} is here; stabilityai/sd-vae-ft-mse is on the Hub (not checked)"
    assert places(config_of(*dry, f"model.path={sd_folder}", "autoencoder=ft-mse")) == told
    assert places(config_of()) == "weights: random"


@pytest.mark.parametrize(
    ("words", "here", "lacks"),
    [
        (["trainer=gpu"], 0, "no GPU"),
        (["trainer=ddp", "model=tiny"], 0, "no GPU"),
        (["trainer=ddp", "trainer.devices=4"], 2, "4 GPUs (here: 2)"),
        (["trainer=gpu", "trainer.devices=[3]"], 2, "4 GPUs (here: 2)"),
        (["trainer=gpu"], 1, ""),
        ([], 0, ""),
    ],
)
def test_a_dry_run_says_what_is_not_checked_here_and_a_run_does_not_begin(
    words, here, lacks, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: here)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert train(config_of(*words, "task=denoise", "dry_run=true"), tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert (f"not checked here: {lacks}" in said) == bool(lacks) and ("the config is good" in said) == (not lacks)
    if lacks:
        with pytest.raises(UserError, match=re.escape(f"trainer.accelerator=gpu: {lacks} here; give trainer")):
            train(config_of(*words, "task=denoise"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_part_refuses_shows_before_data_and_weights_are_read(tmp_path):
    config = config_of(*SD, "+objective.zero_terminal_snr=true")
    with pytest.raises(UserError, match=r"zero_terminal_snr=true needs objective\.prediction=v_prediction"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["-m", "seed=0,1"], ["-cd", "experiments", "-cn", "first_light"]])
def test_filling_a_cache_takes_no_options_of_hydra(refused, words):
    code, line = refused(cache.main, *words)
    assert code == 2 and line.startswith(f"error: unrecognized arguments: {words[0]}")


@pytest.mark.parametrize("trainer", ["gpu", "gpu_24g", "gpu_12g", "gpu_8g"])
def test_one_gpu_is_fed_alike_by_all_its_presets(trainer):
    config = config_of("model=sd15", f"trainer={trainer}")
    assert config["model"]["channels_last"] and config["loader"]["pin_memory"] and config["loader"]["workers"] == 4


def mutated(key: str, rng: random.Random) -> str:
    """A key with a letter dropped, doubled or swapped with its neighbour."""
    places = [i for i in range(len(key) - 1) if key[i].isalpha() and key[i + 1].isalpha() and key[i] != key[i + 1]]
    place, kind = rng.choice(places), rng.randrange(3)
    if kind == 0:
        return key[:place] + key[place + 1 :]
    return key[:place] + (key[place] * 2 if kind == 1 else key[place + 1] + key[place]) + key[place + 1 + (kind == 2) :]


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_typos_are_refused_and_nine_in_ten_get_the_right_suggestion(default, count):
    rng, suggested = random.Random(0), 0
    known = [k for k in keys(default) if not k.startswith("prompts")]
    for number in range(count):
        key = rng.choice(known)
        typo = mutated(key, rng)
        while typo in known:
            typo = mutated(key, rng)
        word = f"{('', '+', '++')[number % 3]}{typo}=1"
        with pytest.raises(UserError) as refusal:
            config_of(word)
        line = str(refusal.value)
        assert "\n" not in line and any(w in line for w in ("unknown", "wrong type", "shared", "is the run's")), line
        parts = key.split(".")
        near = {".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
        suggested += any(f"'{name}'" in line or f"set {name} instead" in line for name in near)
    assert suggested >= 0.9 * count


REPEATED = ("optimizer.lr=abc", "seed=x", "seed=1.5", "loader.batch_size=many", "model.ema=high", "sampler.steps=2.5")
WRONG = {word: word for word in (*REPEATED, "trainer.precision=17")} | {"loader.workers=true": "loader.workers=True"}
WRONG |= {"schedule.shape=linear": "one of constant, cosine", "loader.crop=left": "one of random, center"}
WRONG |= {"optimizer.betas=0.9": "optimizer.betas", "trainer.devices=[a]": "trainer.devices"}
WRONG |= {"trainer.max_steps=null": "trainer.max_steps", "optimizer=1": "no such member"}
WRONG |= {"optimizer=adamv": "did you mean 'adamw'", "optimiser=adamw": "did you mean 'optimizer'"}
WRONG |= {"task=derian": "did you mean 'derain'", "+prompts.limmit=3": "did you mean 'limit'"}


@pytest.mark.parametrize(("word", "told"), WRONG.items())
def test_wrong_values_are_named(word, told):
    with pytest.raises(UserError) as refusal:
        config_of(word)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


NAMED = {  # what a refusal says beside the word itself
    "2 or more": "keep=1",
    "1 or more": "trainer.max_steps=0 trainer.accumulate_grad_batches=0 save_every=0 log_every=0 cache_variants=0",
    "0 or more": "val_every=-1 trainer.gradient_clip_val=-1 optimizer.eps=-1 optimizer.weight_decay=-1 cache_draws=-1",
}
NAMED["1 or more"] += " timeout=0"
NAMED["100 or less"] = "callbacks.image_grids.examples=101"
NAMED["0 or more"] += " max_skips=-1 callbacks.image_grids.examples=-1"
NAMED |= {"finite": "optimizer.lr=inf optimizer.lr=nan", "32-true": "trainer.precision=64-true"}
NAMED |= {"auto, never": "resume=maybe", "off, disk, auto": "cache=ram", "float32, bfloat16": "cache_dtype=int8"}
CONTRADICTIONS = {word: (word, said) for said, words in NAMED.items() for word in words.split()}
CLASHES = {
    ("objective", "sampler"): "objective=eps sampler=bridge; objective=bridge sampler=ddim; objective=v sampler=bridge",
    ("trainer.precision", "trainer.accelerator"): "trainer.precision=16-mixed; trainer.precision=16-true",
    ("trainer.precision", "bf16-mixed"): "trainer.precision=bf16-true",
    ("text_encoder", "unet"): "text_encoder=clip",
    ("unet", "autoencoder"): "autoencoder=sd; autoencoder=taesd; unet=sd; model=local model.path=/x autoencoder=pixel",
    ("unet", "StaticText"): "model=local model.path=/x text_encoder=static",
    ("unet", "SentenceText"): "model=local model.path=/x text_encoder=sentence",
    ("callbacks.profiler.steps=0", "1 or more"): "callbacks=[profiler] callbacks.profiler.steps=0",
    ("unet=pixel", "text_encoder=clip"): "model=local model.path=/x unet=pixel",
    ("schedule.warmup", "trainer.max_steps"): "schedule.warmup=9000",
    ("optimizer.lr", "above 0"): "optimizer.lr=0",
    ("optimizer.betas[1]=2", "below 1"): "optimizer.betas=[0.9,2]",
    ("trainer.max_epochs", "max_steps"): "+trainer.max_epochs=3",
    ("trainer.val_check_interval", "val_every"): "+trainer.val_check_interval=3",
    ("trainer.enable_checkpointing", "save_every"): "+trainer.enable_checkpointing=false",
    ("trainer.devices=2", "trainer.strategy=auto", "trainer=ddp"): "trainer.devices=2",
    ("trainer.devices", "trainer.strategy"): "trainer.devices=-1; trainer.devices=[0,1] trainer.accelerator=gpu; "
    "trainer.devices=auto trainer.accelerator=gpu",
    ("trainer.strategy=ddp_spawn", "fsdp2"): "+trainer.strategy=ddp_spawn trainer.devices=2",
    ("trainer.num_nodes=2", "set by the run"): "+trainer.num_nodes=2",
    ("trainer.barebones", "set by the run"): "+trainer.barebones=true",
    ("trainer.gradient_clip_algorithm", "set by the run"): "+trainer.gradient_clip_algorithm=value",
    ("trainer.logger", "groups callbacks and logger"): "val_every=0 model.ema=null +trainer.logger=false",
}
CONTRADICTIONS |= {words: names for names, several in CLASHES.items() for words in several.split("; ")}


@pytest.mark.parametrize(("words", "names"), CONTRADICTIONS.items())
def test_contradictions_are_refused_by_both_names(words, names):
    with pytest.raises(UserError) as refusal:
        config_of(*words.split())
    assert all(name in str(refusal.value) for name in names), str(refusal.value)


ONE = ("trainer=gpu", "trainer=gpu trainer.devices=[3]", "trainer.devices=auto")


@pytest.mark.parametrize("words", [*ONE, "trainer=ddp", "trainer=ddp trainer.devices=4", "trainer=fsdp2"])
def test_a_process_or_a_group_of_them_is_not_refused(words):
    config_of(*words.split())


HOSTILE = """
os.system builtins.eval builtins.getattr torch.load torch.hub.load pickle.loads pathlib.Path.unlink functools.partial
importlib.import_module transformers.AutoModel.from_pretrained hydra.utils.instantiate hydra.utils.get_method
lightning.pytorch.LightningModule.load_from_checkpoint torch.optim.SGD torch.optim timm.create_model
ip2p_lightning.system.files.write_atomic ip2p_lightning.runs.checkpoint.load ip2p_lightning.networks
""".split()  # noqa: SIM905  names read better as a text
PLACES = ("optimizer", "evil", "loader.evil", "task.make", "model")


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_refused_before_anything_is_built(default, target):
    for place in PLACES:
        config = copy.deepcopy(default)
        *path, last = place.split(".")
        node = functools.reduce(lambda n, key: n[key], path, config)
        node[last] = {**node.get(last, {}), "_target_": target}
        with pytest.raises(SecurityError, match=re.escape(target)):
            check(config, TrainConfig)


def test_hostile_targets_on_the_command_line_are_refused():
    for key in ("optimizer", "+evil", "++model"):
        with pytest.raises(SecurityError, match=r"os\.system"):
            config_of(f"{key}._target_=os.system")


def test_targets_hidden_in_lists_and_in_other_loaders_words_are_found():
    inner = [[{"_target_": "os.system"}], {"_args_": ["os.system"]}, {"_instantiator": "os.system"}]
    for node in (*({"a": x} for x in inner), {"_class_path": "os.system"}):
        with pytest.raises(SecurityError):
            check(node, TrainConfig)


SPELLINGS = [
    r"${oc.env:HOME}",
    r"${oc.decode:${oc.env:HOME}}",
    r"${${a}}",
    r"${a",
    r"${oc.${b}:HOME}",
    r"${now:%Y}",
    r"$${oc.env:HOME}",
    r"x${oc.env:HOME,''}y",
    r"${oc.create:{_target_:os.system}}",
    r"${oc.select:a}",
    r"${hydra:job.name}",
]


@pytest.mark.parametrize("value", SPELLINGS)
def test_a_config_cannot_read_or_run_anything_by_interpolation(default, value):
    for node in ({"a": value}, {"a": {"b": [1, {"c": value}]}}):
        with pytest.raises(SecurityError, match="interpolation"):
            refuse_resolvers(node)
    for put in ({"path": value}, {"path": [value]}, {value: 1}):
        with pytest.raises(SecurityError, match="interpolation"):
            check(default | {"model": default["model"] | put}, TrainConfig)


def test_nodes_are_built_without_interpolation():
    prompt = {"_target_": "ip2p_lightning.data.prompts.PromptPool", "prompts": ["${oc.env:HOME}"]}
    assert built({"a": [prompt]})["a"][0].prompts == ("${oc.env:HOME}",)
    with pytest.raises(SecurityError, match=r"os\.system"):
        built({"a": {"_target_": "os.system", "command": "true"}})


def test_plain_paths_may_be_interpolated():
    assert plain(OmegaConf.create({"seed": 1, "a": {"b": "${seed}", "c": "${.b}"}}))["a"] == {"b": 1, "c": 1}


def test_differences_name_the_keys():
    found = differences({"a": {"b": 1}, "c": [1, 2]}, {"a": {"b": 2}, "c": [1, 3], "d": 0})
    assert found == {"a.b": (1, 2), "c[1]": (2, 3), "d": (None, 0)}


def test_names_of_runs_are_safe_and_short_and_distinct():
    assert run_name([]) == "default" and run_name(["seed=1", "prompts=name"]) == "prompts-name+seed-1"
    assert run_name(["keep=3", "seed=1", "callbacks.image_grids.examples=0", "trainer.devices=2"]) == "seed-1"
    assert "/" not in run_name(["model.path=/a/b c"])
    long = [
        run_name([f"task.prompts.prompts={letter * 40}{i}"]) for i in range(3) for letter in ("xyz", "\u96e8", "\u00e9")
    ]
    assert all(len(name.encode()) <= 120 for name in long) and len(set(long)) == 9
