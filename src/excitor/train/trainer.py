"""TRL's SFTTrainer, set up for a run."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from excitor.data.encoding import IGNORED
from excitor.errors import ExcitorError
from excitor.precision import DTYPES
from excitor.preservation.regularizer import Preservation
from excitor.quantised import chosen_bits, load_base
from excitor.train.batches import BatchCosts, GroupedByLength
from excitor.train.packing import check_packing
from excitor.train.prepare import Job
from excitor.train.sight import SeeingCollator


class PreservingTrainer(SFTTrainer):
    """TRL's trainer, with preservation losses beside its own where there are some, and an eye on its batches."""

    preservation: Preservation | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batch_costs = BatchCosts()
        super().__init__(*args, **kwargs)

    def preserve(self, preservation: Preservation) -> None:
        """Add preservation losses to every step from now on.

        Raises:
            ExcitorError: The model is sharded: DeepSpeed steps in every backward pass, and FSDP's shards can only be
                used through its wrapper.
        """
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ExcitorError(
                "Preservation losses (--keep, --kl-weight, --max-forgetting, ...) do not work with DeepSpeed or FSDP "
                "yet: train without sharding, or leave them out."
            )
        self.preservation = preservation
        if preservation.controller is not None:
            self.add_callback(preservation.controller)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Send the preservation losses backward, then take TRL's own step; what is returned and logged is its loss.

        They come first and past any wrapper of the model: several processes then average the sum of all gradients,
        once, in the step's own backward pass.
        """
        if self.preservation is not None:
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                for loss in self.preservation.losses(inputs, self.state.global_step):
                    self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        return super().training_step(model, inputs, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of the next optimizer step; how long that takes, and how much in them is padding, is kept.

        A GPU has nearly nothing left to do by then: the Trainer has just waited for the number of tokens it was given.
        """
        with self.batch_costs.waiting():
            batches, items = super().get_batch_samples(*args, **kwargs)
        self.batch_costs.count(batches)
        return batches, items

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = cast(Dataset, self.train_dataset if train_dataset is None else train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return GroupedByLength(size, [len(ids) for ids in rows["input_ids"]], self.args.seed)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Add what batches cost, the preservation losses and the time they took to what is logged."""
        if "loss" in logs:
            logs |= self.batch_costs.take()
        if self.preservation is not None and "loss" in logs:
            logs["parts"] = self.preservation.take_means()
            logs["preservation_seconds"] = self.preservation.take_seconds()
        super().log(logs, *args, **kwargs)

    def create_model_card(self, *args, **kwargs) -> None:
        """Nothing: the run writes its own card, with what it measured."""


def make_trainer(job: Job, callbacks: list[TrainerCallback]) -> PreservingTrainer:
    """Load the base model, put the adapter on it and hand both to TRL.

    The base is loaded in the run's precision, or in 4 or 8 bits; the adapter is trained in fp32 under autocast.

    Raises:
        ExcitorError: Packing was asked for, and the model does not keep packed examples apart.
    """
    arguments = job.arguments
    bits = chosen_bits(arguments.load_in_4bit, arguments.load_in_8bit)
    settings = SFTConfig(
        output_dir=str(arguments.out),
        per_device_train_batch_size=arguments.batch_size,
        gradient_accumulation_steps=arguments.gradient_accumulation,
        num_train_epochs=arguments.epochs,
        max_steps=arguments.steps or -1,
        learning_rate=cast(float, arguments.learning_rate),
        lr_scheduler_type=arguments.scheduler,
        warmup_steps=arguments.warmup_ratio,
        weight_decay=arguments.weight_decay,
        use_cpu=not torch.accelerator.is_available(),  # lets bf16 be tried on a CPU
        bf16=arguments.precision == "bf16",
        fp16=arguments.precision == "fp16",
        gradient_checkpointing=arguments.gradient_checkpointing,
        seed=arguments.seed,
        max_length=arguments.max_length,
        packing=arguments.packing,
        train_sampling_strategy="group_by_length" if arguments.group_by_length else "random",
        dataset_kwargs={"skip_prepare_dataset": not arguments.packing},  # rows come tokenised and within max_length
        logging_steps=arguments.logging_steps,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen
        # Packed sequences have neither padding nor a mask that could tell it.
        include_num_input_tokens_seen="all" if arguments.packing else "non_padding",
        save_strategy="steps",
        save_steps=arguments.save_steps,
        save_total_limit=arguments.keep_checkpoints,
        remove_unused_columns=job.sight is None,  # a collator takes the rows' pictures
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    base = load_base(str(arguments.model), DTYPES[arguments.precision], bits)
    collator = None
    if job.sight is not None:
        base = job.sight.given_to(base)
        collator = SeeingCollator(job.sight.images, cast(int, job.tokenizer.pad_token_id))
    set_seed(arguments.seed)  # the adapter starts at random: older versions of TRL seed only after making it
    trainer = PreservingTrainer(
        model=base,
        args=settings,
        train_dataset=job.train,
        processing_class=job.tokenizer,
        peft_config=job.method,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    adapted: Any = trainer.model
    if adapted.base_model is not adapted.get_base_model() and "forward" in vars(adapted.base_model):
        # adaption prompts hold on to the forward that TRL has replaced since
        adapted.base_model.forward = adapted.get_base_model().forward
    if getattr(base, "is_quantized", False):  # TRL has turned the adapter into bf16
        for parameter in cast(nn.Module, trainer.model).parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if arguments.packing and not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):  # those are not whole here
        first, second = (job.train[index]["input_ids"][:8] for index in (0, -1))
        labels = [IGNORED] * (len(first) + 1) + second[1:]
        lengths = [len(first), len(second)]
        batch = trainer.data_collator([{"input_ids": first + second, "labels": labels, "seq_lengths": lengths}])
        check_packing(cast(nn.Module, trainer.model), batch, len(first))
    return trainer


@contextmanager
def deterministic() -> Iterator[None]:
    """Ask for kernels that give the same sums each time, where PyTorch has them, and warn where it has none.

    CPUs always do; some GPU kernels, attention's backward pass among them, only when asked.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = mode.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    mode.fill_uninitialized_memory = False  # a debugging aid that costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        mode.fill_uninitialized_memory = filled


def total_steps(trainer: SFTTrainer) -> int:
    """Optimizer steps of the whole run; packing has already been done."""
    settings = trainer.args
    if settings.max_steps > 0:
        return settings.max_steps
    batches = math.ceil(len(cast(Dataset, trainer.train_dataset)) / (settings.train_batch_size * settings.world_size))
    return math.ceil(settings.num_train_epochs * math.ceil(batches / settings.gradient_accumulation_steps))
