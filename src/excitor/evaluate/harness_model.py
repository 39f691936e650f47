"""lm-evaluation-harness asks a model that is loaded already."""

import copy
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.logits_process import LogitsProcessorList

from excitor.data.templates import resolve_template
from excitor.errors import ExcitorError
from excitor.evaluate.generation import NanGuard
from excitor.evaluate.parallel import merge, this_process


Requests = list[Instance]

# As in the harness's own command; tasks draw their few-shot examples with the last one.
SEED, ARRAY_SEED, TORCH_SEED, FEWSHOT_SEED = 0, 1234, 1234, 1234
LAST_TOKENS = 12  # of a prompt, to say in a message which one it is


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Task],
    groups: Mapping[str, Group],
    *,
    limit: int | None,
    template: str | None,
    batch_size: int,
) -> dict[str, list[dict[str, Any]]]:
    """What the harness notes about each document, by task; several processes share the work, and each gets all.

    ``simple_evaluate`` would give its results to the first process alone, and load the tasks again for each model.

    Args:
        model: A causal language model of transformers, with or without PEFT, in evaluation mode.
        tokenizer: That of the model.
        tasks: By name.
        groups: By name.
        limit: Documents of each task, at most.
        template: How documents become prompts; None leaves them as they stand.
        batch_size: Requests in a batch.
    """
    random.seed(SEED)
    np.random.seed(ARRAY_SEED)  # noqa: NPY002  (what tasks draw from)
    torch.manual_seed(TORCH_SEED)
    for task in tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    results: Any = evaluate(
        _wrap(model, tokenizer=_prepare(tokenizer, template), batch_size=batch_size),
        {"tasks": dict(tasks), "groups": dict(groups)},
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=template is not None,
        fewshot_as_multiturn=template is not None,
    )
    return results["samples"]


def check_room(tasks: Mapping[str, Task], context: int) -> None:
    """See that the models have room for the longest replies.

    Raises:
        ExcitorError: They have not; the message names the task.
    """
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        room = normalize_gen_kwargs(task.config.generation_kwargs or {}).get("max_gen_toks", 0)
        if room >= context:
            raise ExcitorError(
                f"The task {name} leaves room for replies of {room} tokens, and the models read only {context} in "
                "all: give a version of it with a smaller max_gen_toks in --task-path."
            )


class LoadedModel(HFLM):
    """Requests are shared by all processes, each of which gets all answers; NaN in a reply's logits is an error."""

    tokenizer: PreTrainedTokenizerBase

    def loglikelihood(self, requests: Requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each text, and whether it is the likeliest one."""
        return _together(super().loglikelihood, requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: Requests, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents."""
        return _together(super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: Requests, disable_tqdm: bool = False) -> list[str]:
        """Replies."""
        return _together(super().generate_until, requests, disable_tqdm)

    def _model_generate(self, context: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        ends = self.tokenizer.batch_decode(context[:, -LAST_TOKENS:])  # padding is on the left
        guard = NanGuard([f"the prompt that ends in {end!r}" for end in ends])
        processors = LogitsProcessorList([guard])  # pyright: ignore[reportArgumentType]
        return super()._model_generate(context, *args, logits_processor=processors, **kwargs)  # pyright: ignore


def _wrap(model: Any, **settings: Any) -> LoadedModel:
    logger = logging.getLogger("lm_eval.models.huggingface")
    logger.disabled = True  # it warns of what is meant here: a model that is loaded already, in several processes
    try:
        return LoadedModel(model, **settings)  # pyright: ignore[reportCallIssue]
    finally:
        logger.disabled = False


def _together(answer: Callable[..., list[Any]], requests: Requests, disable_tqdm: bool) -> list[Any]:
    """All answers, in order. What has the same context is answered in one process, which reads it only once."""
    state = this_process()
    contexts: dict[str, int] = {}
    owners = [contexts.setdefault(request.args[0], len(contexts)) % state.num_processes for request in requests]
    mine = [place for place, owner in enumerate(owners) if owner == state.process_index]
    quiet = disable_tqdm or not state.is_main_process
    own = answer([requests[place] for place in mine], disable_tqdm=quiet) if mine else []
    found = merge(dict(zip(mine, own, strict=True)))
    return [found[place] for place in range(len(requests))]


def _prepare(tokenizer: PreTrainedTokenizerBase, template: str | None) -> PreTrainedTokenizerBase:
    """A copy that renders prompts by the template; the harness may also give it a padding token."""
    own = copy.deepcopy(tokenizer)
    if template is not None:
        resolved = resolve_template(own, template)
        own.chat_template, own.eos_token = resolved.jinja, resolved.stop_token
    return own
