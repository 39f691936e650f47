"""Everything a training run is told: the flags of ``excitor train`` and the keys of its YAML file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from excitor.arguments import Arguments, bits_faults, flag
from excitor.preservation.weights import LEVELS, Weights, split_weight
from excitor.vision.arguments import ANSWER_FORMATS, CAPTION_INSTRUCTION, SELECTIONS


PRECISIONS = ("auto", "fp32", "bf16", "fp16")
PRESETS = {"default": 3e-3, "paper": 9e-3, "coco-caption": 9e-3, "scienceqa": 9e-3}  # with their learning rates
# The models of those that see; options given as well win.
SEEING_PRESETS = {
    "coco-caption": {"model": "huggyllama/llama-7b", "vision_model": "openai/clip-vit-large-patch14"},
    "scienceqa": {"model": "huggyllama/llama-7b", "vision_model": "openai/clip-vit-large-patch14"},
}
SCHEDULERS = ("cosine", "linear", "constant_with_warmup")
REPLAY_FIELDS = ("replay", "replay_documents", "replay_length", "replay_batch_size", "replay_every")

# Fields of ExcitorConfig that a run can set; one not given is left to the preset or to the method's own default.
METHOD_FIELDS = (
    "r",
    "num_prompts",
    "num_local_prompts",
    "top_layers",
    "generator",
    "separate_values",
    "null_prompt",
    "temperature",
    "gate",
    "gate_init",
    "gate_init_std",
    "prompt_init_std",
    "identity_start",
    "vision_rank",
    "target_modules",
)
# What says something about pictures, and nothing without a vision model.
SIGHT_FIELDS = (
    "images",
    "features",
    "feature_layer",
    "feature_select",
    "check_images",
    "caption_instruction",
    "scienceqa_format",
    "vision_rank",
)


@dataclass
class TrainArguments(Arguments):
    """The arguments of :func:`excitor.train.run.train`; each is described in its field's ``help``."""

    model: str | None = field(default=None, metadata={"help": "Base model: a hub id or a folder."})
    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Instructions: a hub id, or a .json, .jsonl, .csv or .parquet file; NAME#500 takes 500 rows."
        },
    )
    out: str | None = field(
        default=None, metadata={"help": "Folder for the adapter, its checkpoints, metrics and report."}
    )

    vision_model: str | None = field(
        default=None, metadata={"help": "Frozen vision encoder, to learn from pictures: a hub id or a folder."}
    )
    images: list[str] = field(
        default_factory=list,
        metadata={"help": "Folder with the pictures that the data name; that of the data file when not given."},
    )
    features: str | None = field(
        default=None, metadata={"help": "Folder with their features, made by excitor features."}
    )
    feature_layer: int = field(
        default=-1,
        metadata={"help": "Which hidden states of the encoder are its features: -1 its output, -2 the layer before."},
    )
    feature_select: str = field(
        default="full", metadata={"help": f"Of these: {', '.join(SELECTIONS)}; full is class token and patches."}
    )
    check_images: bool = field(default=True, metadata={"help": "Open every picture before training starts."})
    caption_instruction: str = field(
        default=CAPTION_INSTRUCTION, metadata={"help": "What is asked where a row is a caption and says no more."}
    )
    scienceqa_format: str = field(
        default="QCM-A", metadata={"help": "What is answered to ScienceQA: QCM-A, QCM-ALE, QCM-LEA."}
    )

    retain: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Text that is not instructions, to measure forgetting on; if not given, the base writes some."
        },
    )
    retain_documents: int = field(default=100, metadata={"help": "How many documents of that text to measure."})
    eval_rows: int | None = field(
        default=None,
        metadata={
            "help": "Rows of the data held out to measure learning; when not given, 5 %, at least 1 and at most 500."
        },
    )

    template: str = field(
        default="auto",
        metadata={"help": "How a row becomes text: chat (the model's template), instruction, or auto."},
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens in an example; longer ones are dropped. When not given, the model's context, at most 1024."
        },
    )
    packing: bool = field(
        default=False, metadata={"help": "Put several examples in one sequence; they do not see each other."}
    )
    group_by_length: bool = field(
        default=False, metadata={"help": "Make batches of examples of about the same length, which saves padding."}
    )
    cache_tokens: bool = field(
        default=True,
        metadata={"help": "Keep the tokens of the data in HF_DATASETS_CACHE, and read them there the next time."},
    )

    epochs: float = field(default=3.0, metadata={"help": "Passes over the data."})
    steps: int | None = field(default=None, metadata={"help": "Optimizer steps, in place of epochs."})
    batch_size: int = field(
        default=16, metadata={"help": "Examples (packed sequences, with packing) per device and forward pass."}
    )
    gradient_accumulation: int = field(default=1, metadata={"help": "Forward passes per optimizer step."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": (
                "Peak learning rate of AdamW. When not given, 3e-3, or the paper's 9e-3 with --preset paper; "
                "another method needs one."
            )
        },
    )
    scheduler: str = field(default="cosine", metadata={"help": f"Learning rate over time: {', '.join(SCHEDULERS)}."})
    warmup_ratio: float = field(
        default=0.03, metadata={"help": "Share of the steps in which the learning rate rises from 0."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of AdamW."})
    precision: str = field(
        default="auto",
        metadata={"help": f"{', '.join(PRECISIONS)}; auto is bf16 where the hardware has it, else fp32."},
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Save memory by computing activations twice."}
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Load the base in 4 bits (NF4); needs excitor[quantised]."}
    )
    load_in_8bit: bool = field(
        default=False, metadata={"help": "Load the base in 8 bits (LLM.int8); needs excitor[quantised]."}
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of everything that is random; the same seed gives the same adapter."}
    )

    adapter_config: str | None = field(
        default=None,
        metadata={
            "help": "JSON file with another PEFT method, as in adapter_config.json, to train in place of Excitor."
        },
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": f"Settings of the adapter to start from: {' or '.join(PRESETS)}. Options given as well win."
        },
    )
    r: int | None = field(default=None, metadata={"help": "Rank of the excitor query."})
    num_prompts: int | None = field(default=None, metadata={"help": "Learnable prompts per layer."})
    num_local_prompts: int | None = field(
        default=None, metadata={"help": "Further prompts per layer that each token makes for itself."}
    )
    top_layers: int | None = field(default=None, metadata={"help": "Adapt only the topmost N layers."})
    generator: str | None = field(default=None, metadata={"help": "What makes the prompts: table or mlp."})
    separate_values: bool | None = field(default=None, metadata={"help": "Give prompts values of their own."})
    null_prompt: bool | None = field(
        default=None, metadata={"help": "Let a token choose to leave its key alone, by a prompt without a value."}
    )
    temperature: float | None = field(default=None, metadata={"help": "Of the softmax over the prompts."})
    gate: str | None = field(default=None, metadata={"help": "Gates: head (one per key head), layer or none."})
    gate_init: float | None = field(default=None, metadata={"help": "Mean of the gates at the start."})
    gate_init_std: float | None = field(
        default=None, metadata={"help": "Standard deviation of the gates at the start."}
    )
    prompt_init_std: float | None = field(
        default=None, metadata={"help": "Standard deviation of the prompts at the start."}
    )
    identity_start: bool | None = field(
        default=None,
        metadata={"help": "Start exactly as the base whatever the gates are; needs gates that are not 0."},
    )
    vision_rank: int | None = field(
        default=None,
        metadata={"help": "Rank of a trunk shared by a layer's maps of picture features; full if not given."},
    )
    target_modules: list[str] = field(
        default_factory=list, metadata={"help": "Names of the key projections, for an architecture not known yet."}
    )

    keep: str = field(
        default="off",
        metadata={"help": f"How strongly to hold on to the base: {', '.join(LEVELS)}; weights given as well win."},
    )
    max_forgetting: float | None = field(
        default=None,
        metadata={"help": "Forgetting to accept, nats per token: the weight of the KL adapts to end below it."},
    )
    kl_weight: float | None = field(
        default=None, metadata={"help": "Weight of the KL to the base on replay text; at the start, if it adapts."}
    )
    prompt_kl_weight: float | None = field(
        default=None, metadata={"help": "Weight of the KL to the base on the prompts of the instructions."}
    )
    key_drift_weight: float | None = field(
        default=None, metadata={"help": "Weight of the relative change of keys on replay text. Excitor only."}
    )
    hidden_drift_weight: float | None = field(
        default=None, metadata={"help": "Weight of the relative change of hidden states on replay text."}
    )
    gate_weight: float | None = field(default=None, metadata={"help": "Weight of the gates' size. Excitor only."})
    replay: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Replay text; FILE@2 is drawn twice as often as FILE. If not given, the base writes some itself."
        },
    )
    replay_documents: int = field(default=300, metadata={"help": "How many documents of each text to replay."})
    replay_length: int | None = field(
        default=None, metadata={"help": "Tokens in such a document, at most; when not given, --max-length up to 256."}
    )
    replay_batch_size: int = field(default=8, metadata={"help": "Documents replayed per device and forward pass."})
    replay_every: int = field(
        default=1, metadata={"help": "Replay in every Nth step only, with N times the weight: cheaper, less even."}
    )

    logging_steps: int = field(default=1, metadata={"help": "Write metrics every N steps."})
    save_steps: int = field(default=100, metadata={"help": "Save a checkpoint every N steps, to resume from."})
    keep_checkpoints: int = field(default=2, metadata={"help": "How many checkpoints to keep."})
    resume: bool = field(
        default=False, metadata={"help": "Continue the run in --out from its newest complete checkpoint."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier run in --out."})

    def filled(self) -> "TrainArguments":
        """These arguments with the models of the preset, where it has some and none are given."""
        models = SEEING_PRESETS.get(str(self.preset), {})
        return replace(self, **{name: model for name, model in models.items() if not getattr(self, name)})

    def method(self) -> dict[str, Any]:
        """The fields of ``ExcitorConfig`` that were given."""
        given = {name: getattr(self, name) for name in METHOD_FIELDS}
        given = {name: value for name, value in given.items() if value not in (None, [])}
        if "identity_start" in given:
            given["init_weights"] = "identity" if given.pop("identity_start") else True
        return given

    def weights(self) -> Weights:
        """Weights of the preservation losses: the level's, but for those that were given."""
        given = {item.name: getattr(self, f"{item.name}_weight") for item in fields(Weights)}
        weights = replace(LEVELS[self.keep], **{name: value for name, value in given.items() if value is not None})
        if self.max_forgetting is not None and self.kl_weight is None and not weights.kl:
            return replace(weights, kl=1.0)
        return weights

    def _faults(self) -> Iterator[str]:
        for name in ("model", "data", "out"):
            if not getattr(self, name):
                yield f"{flag(name)} is missing."
        yield from self._at_least(1, "retain_documents", "batch_size", "gradient_accumulation", "logging_steps")
        yield from self._at_least(1, "save_steps", "keep_checkpoints", "eval_rows", "max_length", "steps")
        yield from self._at_least(1, "r", "top_layers", "vision_rank")
        yield from self._at_least(1 if self.num_local_prompts == 0 and not self.vision_model else 0, "num_prompts")
        yield from self._at_least(0, "weight_decay", "gate_init_std", "prompt_init_std")
        for name in ("data", "retain", "replay", "images"):
            if isinstance(getattr(self, name), str):
                yield f"{flag(name)} must be a list of files, got the text {getattr(self, name)!r}: put it in a list."
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                yield f"{flag(name)} must be greater than 0, got {value}."
        if self.packing and self.group_by_length:
            yield "--group-by-length saves padding, and --packing leaves none to save: give one of the two."
        if self.adapter_config and self.learning_rate is None:
            yield "--adapter-config names another method, for which there is no usual --learning-rate: give one."
        if not 0 <= self.warmup_ratio < 1:
            yield f"--warmup-ratio must be at least 0 and less than 1, got {self.warmup_ratio}."
        for name, choices in (("precision", PRECISIONS), ("scheduler", SCHEDULERS), ("preset", (None, *PRESETS))):
            value = getattr(self, name)
            if value not in choices:
                yield f"{flag(name)} must be one of {', '.join(filter(None, choices))}, got {value!r}."
        if self.logging_steps >= 1 and self.save_steps % self.logging_steps:
            yield (
                f"--save-steps ({self.save_steps}) must be a multiple of --logging-steps ({self.logging_steps}), "
                "so that a resumed run logs the same losses."
            )
        if self.adapter_config and (self.method() or self.preset):
            given = ", ".join(
                flag(name) for name in (*METHOD_FIELDS, "preset") if getattr(self, name) not in (None, [])
            )
            yield f"--adapter-config replaces Excitor; leave out {given}, or leave out --adapter-config."
        yield from self._sight_faults()
        yield from self._preservation_faults()
        if self.resume and self.overwrite:
            yield "--resume continues the run in --out and --overwrite replaces it: give one of the two."
        yield from bits_faults(self.load_in_4bit, self.load_in_8bit)
        yield from self._is_seed()
        yield from self._is_folder("out")

    def _sight_faults(self) -> Iterator[str]:
        if not self.vision_model:
            defaults = TrainArguments()
            given = [flag(name) for name in SIGHT_FIELDS if getattr(self, name) != getattr(defaults, name)]
            if given:
                yield f"{', '.join(given)} would do nothing without --vision-model."
            return
        for name, choices in (("feature_select", SELECTIONS), ("scienceqa_format", ANSWER_FORMATS)):
            if getattr(self, name) not in choices:
                yield f"{flag(name)} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
        if not self.caption_instruction.strip():
            yield "--caption-instruction is empty: say what is asked for a caption."
        if self.packing:
            yield "--packing joins rows, and pictures belong to one: leave it out with --vision-model."

    def _preservation_faults(self) -> Iterator[str]:
        yield from self._at_least(1, "replay_documents", "replay_batch_size", "replay_every")
        yield from self._at_least(2, "replay_length")
        yield from self._at_least(0, *(f"{item.name}_weight" for item in fields(Weights)))
        if self.keep not in LEVELS:
            yield f"--keep must be one of {', '.join(LEVELS)}, got {self.keep!r}."
            return
        if self.max_forgetting is not None and not 0 < self.max_forgetting < math.inf:
            yield f"--max-forgetting must be greater than 0, got {self.max_forgetting}."
        if self.max_forgetting is not None and self.kl_weight == 0:
            yield "--max-forgetting adapts the weight of the KL, which cannot start at --kl-weight 0."
        given = [flag(name) for name in REPLAY_FIELDS if getattr(self, name) != getattr(TrainArguments(), name)]
        if given and not self.weights().on_replay:
            yield (
                f"{', '.join(given)} would do nothing: no loss uses replay text. Give --keep, --kl-weight, "
                "--key-drift-weight, --hidden-drift-weight or --max-forgetting as well."
            )
        replayed = {Path(split_weight(source)[0].partition("#")[0]).resolve() for source in self.replay}
        for source in self.retain:
            if Path(source.partition("#")[0]).resolve() in replayed:
                yield (
                    f"--retain {source} is replayed too: on text that the run was trained on, forgetting would look "
                    "smaller than it is. Split the file, or give another one."
                )
