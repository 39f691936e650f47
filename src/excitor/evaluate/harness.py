"""lm-evaluation-harness as a task: its benchmarks on models that are loaded already, with adapters of any method."""

import json
import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from excitor.data.templates import resolve_template
from excitor.errors import ExcitorError
from excitor.evaluate.generation import context_length
from excitor.evaluate.markdown import markdown_table, show
from excitor.evaluate.metric import Metric
from excitor.evaluate.task import Item, Subject


if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


class Harness:
    """Tasks of lm-evaluation-harness, prompted and scored by it.

    Args:
        tasks: Names of tasks, groups or tags, or patterns such as ``arc_*``.
        task_path: A folder with tasks of one's own (YAML files), which win over those that come with the harness.
        limit: Documents of each task, at most; all when not given.
        template: How a document becomes a prompt, few-shot examples as earlier turns; see ``resolve_template``. As it
            stands when not given.
        batch_size: Requests in a batch.
    """

    name = "lm_eval"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        task_path: str | None = None,
        limit: int | None = None,
        template: str | None = None,
        batch_size: int = 16,
    ):
        self.asked, self.task_path, self.limit = tasks, task_path, limit
        self.template, self.batch_size = template, batch_size

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Find the tasks and load their data.

        Raises:
            ExcitorError: lm-evaluation-harness is not installed; a task is not known, is without its data, runs code
                that a model wrote, or is about images; the tokenizer lacks the template.
        """
        try:
            import lm_eval  # noqa: F401
        except ImportError as error:
            raise ExcitorError(
                f"lm-evaluation-harness, which --tasks needs, is not here ({error}): pip install 'excitor[eval]'."
            ) from error
        self.manager, self.names = _find(self.asked, self.task_path)
        try:
            loaded = self.manager.load(self.names)
        except Exception as error:  # tasks are code and data of others: anything may be raised
            raise ExcitorError(
                f"lm-evaluation-harness cannot load {', '.join(self.names)}: {type(error).__name__}: {error}"
            ) from error
        self.tasks, self.groups = loaded["tasks"], loaded.get("groups", {})
        for name, task in self.tasks.items():
            if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                raise ExcitorError(
                    f"The task {name} runs code that a model wrote or is about images, and is not run from here: use "
                    "the command lm_eval."
                )
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        self.prompts = "prompts as they stand"
        if self.template is not None:
            self.prompts = f"prompts in the template {resolve_template(tokenizer, self.template).name!r}"

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Have each subject do all tasks; several processes share its requests.

        Raises:
            ExcitorError: A subject's log-likelihoods are not numbers, or a task wants longer replies than one reads.
        """
        from excitor.evaluate.harness_model import answer, check_room

        check_room(self.tasks, min(context_length(subject.model, tokenizer) for subject in subjects))
        bar = progress.add_task("lm-evaluation-harness", total=len(subjects))
        items = {}
        for subject in subjects:
            with subject.active() as model:
                samples = answer(
                    model,
                    tokenizer,
                    self.tasks,
                    self.groups,
                    limit=self.limit,
                    template=self.template,
                    batch_size=self.batch_size,
                )
            items[subject.name] = [item for task in self.tasks for item in _items(subject.name, task, samples[task])]
            progress.advance(bar)
        return items

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Metrics of the groups and tasks asked for, as the harness aggregates them; named "TASK METRIC"."""
        from excitor.evaluate.harness_scores import scores

        within = {part for group in self.groups.values() if group.has_aggregation for part in _parts(group)}
        found = {}
        for score in scores(self.tasks, self.groups, subject):
            if score.name not in within:
                found[score.label] = score.measure(subject)
                if subject is not base:
                    found[f"{score.label} change"] = score.measure(subject, base)
        return found

    def report(self, items: dict[str, list[Item]]) -> str:
        """What was measured by which version, and all metrics, those of tasks inside groups included."""
        from excitor.evaluate.harness_scores import scores

        first = next(iter(items.values()))
        rows = [
            [score.label, *(show(score.measure(answers)) for answers in items.values())]
            for score in scores(self.tasks, self.groups, first)
        ]
        settings = [
            [
                name,
                str(task.VERSION),
                str(task.config.num_fewshot or 0),
                f"{sum(item['task'] == name for item in first):,}",
            ]
            for name, task in self.tasks.items()
        ]
        note = f" At most {self.limit:,} documents of each task." if self.limit else ""
        return "\n\n".join(
            [
                f"lm-evaluation-harness {version('lm-eval')}, {self.prompts}.{note}",
                markdown_table(["metric", *items], rows),
                markdown_table(["task", "version", "shots", "documents"], settings),
            ]
        )


def _find(asked: Sequence[str], task_path: str | None) -> tuple["TaskManager", list[str]]:
    """The names of the tasks, and what can load them."""
    from lm_eval.tasks import TaskManager

    if task_path and not Path(task_path).is_dir():
        raise ExcitorError(f"--task-path {task_path} is no folder; it must be one with YAML files of tasks.")
    # The thousands of tasks that come with the harness take seconds to list, and are often not needed.
    managers = [TaskManager(include_path=task_path, include_defaults=False)] if task_path else []
    if not managers or not all(managers[0].match_tasks([name]) for name in asked):
        managers.append(TaskManager(include_path=task_path))
    manager = managers[-1]
    for name in asked:
        if not manager.match_tasks([name]):
            nearest = get_close_matches(name, manager.all_tasks, n=3)
            own = f", and {task_path} has {', '.join(managers[0].all_tasks) or 'no task that can be read'}" * bool(
                task_path
            )
            hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
            raise ExcitorError(f"lm-evaluation-harness has no task {name!r}{own}.{hint}")
    return manager, list(dict.fromkeys(task for name in asked for task in sorted(manager.match_tasks([name]))))


def _parts(group: Any) -> Iterator[str]:
    """The names of all tasks and groups inside a group."""
    yield from (task.task_name for task in group.get_all_tasks())
    yield from (inner.name for inner in group.get_all_groups())


def _items(subject: str, task: str, samples: list[dict[str, Any]]) -> list[Item]:
    """An item for each document, with the metrics of all filters that the task puts answers through."""
    items: dict[int, Item] = {}
    for sample in samples:
        number = sample["doc_id"]
        if any(math.isnan(answer[0]) for answer in sample["filtered_resps"] if isinstance(answer, tuple)):
            raise ExcitorError(
                f"The log-likelihoods by {subject!r} are not numbers in {task}, document {number}. Training may have "
                "diverged (try a smaller learning rate), or the precision is too low (try fp32)."
            )
        item = items.setdefault(number, {"id": f"{task}/{number}", "task": task, "metrics": {}, "answers": {}})
        item["metrics"] |= {f"{metric},{sample['filter']}": sample[metric] for metric in sample["metrics"]}
        item["answers"][sample["filter"]] = sample["filtered_resps"]
    return json.loads(json.dumps(list(items.values()), default=float))
