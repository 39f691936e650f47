"""The adapted key projection."""

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from .config import ExcitorConfig
from .errors import ExcitorError
from .fast_path import FastPath, fast_path
from .fold_cache import FoldCache
from .folded import Folded
from .functional import Prompts
from .generator import PromptGenerator, PromptMLP, PromptTable
from .implementation import as_written, backend
from .mixed_batch import by_row
from .placement import InProjection, Placement
from .processor import PromptProcessor
from .recompute import adapter_term
from .recompute_pictures import adapter_term_seeing
from .rope import Rotation
from .start import randomize, silence
from .visual import Pictures, VisualPrompts, seen


NO_MERGE = (
    "Excitor cannot be merged into the weights: its term on the keys is a softmax of the layer's input, not a linear "
    "map of it, so no weight matrix equals it. Keep the adapter next to the model (PeftModel.from_pretrained loads it "
    "in place), or call unload() to get the base model back without it."
)


class ExcitorLayer(BaseTunerLayer, nn.Module):
    """A frozen key projection plus the term of each active adapter: ``k_proj(x) + strength * g * K_e(x)``.

    Parameters are kept per adapter name, as PEFT expects; several active adapters add their terms.

    Args:
        base_layer: The projection, any module with ``in_features`` and ``out_features`` (``nn.Linear``, quantised
            linear layers) or a ``Conv1D``. It maps ``(..., C)`` to keys ``(..., G * d)``, or to queries, keys and
            values at once.
        head_dim: d.
        placement: Where the term meets the key; by default in the output of the projection, which is the key.
        norm: The module that ``placement`` has to follow, if there is one.

    Raises:
        ExcitorError: The width of the keys is no multiple of ``head_dim``.
    """

    adapter_layer_names = ("excitor_generator", "excitor_processor", "excitor_visual")
    other_param_names = ("excitor_strength", "excitor_folded", "excitor_unrotated")

    def __init__(
        self,
        base_layer: nn.Module,
        head_dim: int,
        placement: Placement | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = cast(tuple[int, int], linear_sizes(self.get_base_layer()))
        self.placement = placement or InProjection(self.out_features)
        width = self.placement.key_features
        if width % head_dim:
            raise ExcitorError(
                f"a key projection of {width} outputs cannot be split into heads of {head_dim}: "
                "set head_dim in ExcitorConfig to the size of one key head of this model."
            )
        self.head_dim = head_dim
        self.num_heads = width // head_dim
        self.excitor_generator = nn.ModuleDict()
        self.excitor_processor = nn.ModuleDict()
        self.excitor_visual = nn.ModuleDict()
        self.excitor_strength: dict[str, float] = {}
        self.excitor_folded = FoldCache()
        self._disable_adapters = False
        self.merged_adapters = []  # always empty: PEFT asks for it
        self._norm_hook = self.placement.follow(norm) if norm is not None else None
        self.excitor_unrotated: dict[str, Rotation] = {}

    def update_layer(self, adapter_name: str, config: ExcitorConfig, seeds: nn.Parameter | None = None) -> None:
        """Create the parameters of a new adapter.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            seeds: Seed embeddings that its prompts are made from in the other layers, with an MLP as generator.
        """
        sizes = {
            "rank": config.r,
            "num_local_prompts": config.num_local_prompts,
            "separate_values": config.separate_values,
            "init_std": config.prompt_init_std,
        }
        counts = config.num_prompts, self.num_heads, self.head_dim
        if config.generator == "mlp":
            generator = PromptMLP(*counts, seeds=seeds, **sizes)
        else:
            generator = PromptTable(*counts, **sizes)
        processor = PromptProcessor(
            self.in_features,
            config.r,
            self.num_heads,
            self.head_dim,
            num_gates={"head": self.num_heads, "layer": 1, "none": 0}[config.gate],
            gate_init=config.gate_init,
            gate_init_std=config.gate_init_std,
            null_prompt=config.null_prompt,
            temperature=config.temperature,
        )
        if config.init_weights == "identity":
            silence(generator, processor)
        elif not config.init_weights:
            randomize(generator, processor)
        if config.vision_width is not None:
            self.excitor_visual[adapter_name] = VisualPrompts(
                config.vision_width,
                self.num_heads,
                self.head_dim,
                rank=config.vision_rank,
                init_std=config.prompt_init_std,
                silent=config.init_weights == "identity",
            )
        self.excitor_generator[adapter_name] = generator
        self.excitor_processor[adapter_name] = processor
        self.excitor_strength[adapter_name] = 1.0
        base_dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())[1]
        # Masters are fp32, or fp64 where the base is.
        self._move_adapter_to_device_of_base_layer(adapter_name, keep_dtype=base_dtype != torch.float64)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def leave_unrotated(self, adapter_name: str, attention: nn.Module) -> None:
        """Let the terms of an adapter be what they are behind the rotary embedding, not before it.

        Args:
            adapter_name: Its name.
            attention: The module that is called with the angles.
        """
        shared = next(iter(self.excitor_unrotated.values()), None)
        self.excitor_unrotated[adapter_name] = shared or Rotation(attention)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Output of the base layer for ``(..., C)``, in its dtype, with the terms where ``placement`` has them.

        ``adapter_names`` gives each row of the batch its own adapter, see :mod:`excitor.mixed_batch`.
        """
        if not (args or kwargs or adapter_names is not None or torch.compiler.is_compiling()):
            fast = self.excitor_folded.fast_path  # read once: other threads may run this layer too
            if fast is not None and (key := fast.key(x, vars(self))) is not None:
                return key
        output = self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            rows = [name if self._at_work(name) else None for name in adapter_names]
            return self.placement.leave(output, by_row(self._strong_term, x, rows))
        names = [name for name in self.active_adapters if self._at_work(name)]
        if not names and self.training and torch.is_grad_enabled():
            output = self._with_idle(output)
        if not self.placement.is_output or as_written() or any(map(self._needs_term, names)):
            return self.placement.leave(output, [self._strong_term(name, x) for name in names])
        key = output
        for name in names:
            key = self._folded_term(name, x, key)
        self.excitor_folded.fast_path = self._fast_path(names, output.dtype)
        return self.placement.told(output, key)

    def _fast_path(self, names: list[str], dtype: torch.dtype) -> FastPath | None:
        """What the next call may take if it is like one that these adapters have added their terms to the key in."""
        if torch.is_grad_enabled() or len(names) != 1 or names != self._active_adapter:
            return None
        kept = self.excitor_folded.kept(names[0], *self.parts(names[0]))
        if kept is None or names[0] in self.excitor_visual:
            return None
        fast = self.excitor_folded.fast_path  # open still, if it was this input that it was not for
        if fast is not None and fast.conditions.hold(vars(self)):
            return fast
        return fast_path(self, names[0], kept, dtype)

    def _with_idle(self, output: Tensor) -> Tensor:
        """The same, for autograd made of adapters that wait for pictures: without any, their gradients are zero."""
        waiting = [name for name in self.active_adapters if name in self.excitor_visual]
        if self._disable_adapters or not waiting or output.requires_grad:
            return output
        learning = [p for name in waiting for p in self.excitor_visual[name].parameters() if p.requires_grad]
        return output + sum(0 * p.sum() for p in learning)

    def _at_work(self, adapter_name: str) -> bool:
        """Whether an adapter is here, on, and has anything to add."""
        # Adding zeros could still change the sign of a zero: at strength 0 the base is exact.
        strength = self.excitor_strength.get(adapter_name, 0.0)
        return strength != 0 and not self._disable_adapters and self._acts(adapter_name)

    def _strong_term(self, adapter_name: str, x: Tensor) -> Tensor:
        """The term of one adapter at its strength."""
        term, strength = self.term(adapter_name, x), self.excitor_strength[adapter_name]
        if adapter_name in self.excitor_unrotated:
            term = self.excitor_unrotated[adapter_name].undo(term, self.num_heads)
        return term if strength == 1 else strength * term

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None, keep_dtype: bool = True
    ) -> None:
        """Move one adapter to the base layer's device, and with ``keep_dtype=False`` cast it to the base's dtype.

        PEFT's own version always casts. That would round fp32 masters to the dtype of a half-precision base: those
        that came by way of the meta device, and those of a fresh adapter, whose prompts would no longer cancel.
        """
        if not keep_dtype:
            super()._move_adapter_to_device_of_base_layer(adapter_name, device)
            return
        device = device or self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        for part in self.adapter_layer_names:
            modules = getattr(self, part)
            if adapter_name in modules and not any(p.is_meta for p in modules[adapter_name].parameters()):
                modules[adapter_name].to(device)

    def parts(self, adapter_name: str) -> tuple[PromptGenerator, PromptProcessor]:
        """Generator and processor of one adapter."""
        parts: Any = self.excitor_generator[adapter_name], self.excitor_processor[adapter_name]
        return parts

    def term(self, adapter_name: str, x: Tensor) -> Tensor:
        """The term of one adapter at strength 1, ``g K_e(x)``: ``(..., C)`` to ``(..., G * d)``, in its own dtype."""
        generator, processor = self.parts(adapter_name)
        if not self._acts(adapter_name):
            return processor.A.new_zeros(*x.shape[:-1], self.num_heads * self.head_dim)
        if not as_written():
            return self._folded_term(adapter_name, x)
        visual = self.visual_prompts(adapter_name, x)
        rows = x if visual is None else x.flatten(1, -2)  # visual prompts are of a row of tokens
        return processor.term(rows, generator, visual).view(*x.shape[:-1], -1)

    def _needs_term(self, adapter_name: str) -> bool:
        """Whether something happens to the term before it is added to the key."""
        return self.excitor_strength[adapter_name] != 1 or adapter_name in self.excitor_unrotated

    def _folded_term(self, adapter_name: str, x: Tensor, key: Tensor | None = None) -> Tensor:
        """The same from what the adapter folds to; with a key the sum of both, in the key's dtype."""
        generator, processor = self.parts(adapter_name)
        a, dtype = processor.A, processor.A.dtype if key is None else key.dtype
        if (pictures := self._pictures(adapter_name, x)) is None:
            folded = self._folded(adapter_name, generator, processor)
            return adapter_term(x, a, folded, key, backend(folded, dtype))
        maps = cast(VisualPrompts, self.excitor_visual[adapter_name])

        def seeing(x: Tensor, key: Tensor | None = None) -> Tensor:
            folded = self._folded(adapter_name, generator, processor)
            seen = pictures.folded(maps, processor, len(x))
            return adapter_term_seeing(x, a, folded, seen, key, dtype, backend(folded, dtype))

        if not torch.is_grad_enabled():
            return seeing(x, key)
        # What is kept of every token for every feature would be many times the layer's input.
        term = cast(Tensor, checkpoint(seeing, x, use_reentrant=False, preserve_rng_state=False))
        return term if key is None else key + term  # a checkpoint would keep the key, too

    def _acts(self, adapter_name: str) -> bool:
        """Whether an adapter has prompts at all: one of visual prompts alone has none where there is no picture."""
        if adapter_name not in self.excitor_visual or seen() is not None:
            return True
        generator, _ = self.parts(adapter_name)
        return bool(generator.num_prompts or generator.num_local_prompts)

    def visual_prompts(self, adapter_name: str, x: Tensor) -> Prompts | None:
        """Those that an adapter makes of the pictures the batch comes with; None without any.

        Args:
            adapter_name: Its name.
            x: The layer's input, ``(B, ..., C)``.
        """
        if (pictures := self._pictures(adapter_name, x)) is None:
            return None
        return pictures.prompts(cast(VisualPrompts, self.excitor_visual[adapter_name]), len(x))

    def _pictures(self, adapter_name: str, x: Tensor) -> Pictures | None:
        """The pictures that the batch comes with; None without any, or if the adapter makes nothing of them."""
        if adapter_name not in self.excitor_visual or (pictures := seen()) is None:
            return None
        if x.ndim < 3:
            raise ExcitorError(
                "this model hands its keys tokens whose rows cannot be told apart: it cannot see pictures."
            )
        return pictures

    def _folded(self, adapter_name: str, generator: PromptGenerator, processor: PromptProcessor) -> Folded:
        """What one adapter folds to: with gradients where it trains, else kept from one call to the next."""
        held = *generator._parameters.values(), *processor._parameters.values()
        parameters = [parameter for parameter in held if parameter is not None]
        if not parameters:  # a replica of nn.DataParallel holds copies that no list of parameters knows
            return processor.fold(generator)
        if self.training or (torch.is_grad_enabled() and any(p.requires_grad for p in parameters)):
            self.excitor_folded.learns(adapter_name)
            return processor.fold(generator)
        return self.excitor_folded.folded(adapter_name, generator, processor)

    def train(self, mode: bool = True) -> Self:
        """See ``nn.Module.train``; at a switch what was folded is forgotten."""
        if mode == self.training:
            self.excitor_folded.trust()
        else:
            self.excitor_folded.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.excitor_folded.clear()
        return super()._apply(fn, recurse)

    def prompt_weights(self, adapter_name: str, x: Tensor) -> Tensor:
        """Attention of each token over the prompts of one adapter.

        Returns:
            ``(..., G, K)``: global, local and visual prompts, then the null prompt, each if there are any.
        """
        generator, processor = self.parts(adapter_name)
        features, visual = processor.features(x), self.visual_prompts(adapter_name, x)
        groups = generator(features)
        return processor.weights(features, groups if visual is None else [*groups, visual])

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise: the method has no merged form."""
        raise ExcitorError(NO_MERGE)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """What PEFT puts back in place of this layer."""
        if merge:
            self.merge(safe_merge, adapter_names)
        if self._norm_hook is not None:
            self._norm_hook.remove()
        for rotation in self.excitor_unrotated.values():
            rotation.hook.remove()
        return self.get_base_layer()

    def __repr__(self) -> str:
        return "excitor." + super().__repr__()


def linear_sizes(module: Any) -> tuple[int, int] | None:
    """Input and output features of a linear projection; None for a module that is none."""
    if isinstance(module, Conv1D):  # GPT-2's, with the weight the other way round
        return module.nx, module.nf
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features
    return None


def excitor_layers(model: nn.Module) -> dict[str, ExcitorLayer]:
    """The adapted projections of a model by module name, in model order.

    Raises:
        ExcitorError: There are none.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, ExcitorLayer)}
    if not layers:
        raise ExcitorError(
            f"{type(model).__name__} carries no Excitor adapter: "
            "make one with peft.get_peft_model(model, ExcitorConfig()) or load one with excitor.load_adapter."
        )
    return layers
