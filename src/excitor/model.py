"""The PEFT tuner: chooses the key projections of a model and adapts them."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import PreTrainedModel

from .config import ExcitorConfig
from .errors import ExcitorError
from .families import FAMILIES
from .generator import PromptMLP
from .keys import in_text_part, nearest_config, place, text_config
from .layer import NO_MERGE, ExcitorLayer, excitor_layers
from .mixed_batch import mixed_batch
from .registration import get_pattern_key, register
from .rope import check_rotation


class ExcitorModel(BaseTuner):
    """Adds Excitor (arXiv 2404.00913) to the key projections of a frozen model.

    Made by ``peft.get_peft_model(model, ExcitorConfig(...))``; nothing but the key projections is replaced.

    Args:
        model: The model to adapt.
        config: The configuration.
        adapter_name: Name of the adapter, ``"default"`` in PEFT.
        low_cpu_mem_usage: Create the adapter on the meta device, to be filled by loading.

    Raises:
        ExcitorError: The architecture is unknown and no ``target_modules`` are given, ``top_layers`` exceeds the
            model's depth, a target is no linear projection, or a checkpoint does not fit the model.
    """

    prefix = "excitor_"
    tuner_layer_cls = ExcitorLayer
    target_module_mapping = {name: [family.key_projection] for name, family in FAMILIES.items()}  # noqa: RUF012

    def _prepare_adapter_config(self, peft_config: ExcitorConfig, model_config: dict[str, Any]) -> ExcitorConfig:
        text = text_config(self.model)
        if peft_config.target_modules is None:
            model_type = getattr(text, "model_type", model_config.get("model_type"))
            if model_type not in FAMILIES:
                raise ExcitorError(
                    f"no key projection is known for architecture {model_type!r}; known are: {', '.join(FAMILIES)}. "
                    "For another model name the linear layers that make its attention keys, "
                    'e.g. ExcitorConfig(target_modules=["k_proj"], head_dim=64).'
                )
            peft_config.target_modules = {FAMILIES[model_type].key_projection}
        _fit_vision(peft_config, self.model)
        if peft_config.top_layers is not None:
            peft_config.layers_to_transform = _topmost(peft_config, getattr(text, "num_hidden_layers", None))
        return peft_config

    def _check_target_module_exists(self, peft_config: ExcitorConfig, key: str) -> Any:
        """Whether a module is a target; names mean modules of the text part, a regular expression any module."""
        check = super()._check_target_module_exists
        found = check(peft_config, key)
        if isinstance(peft_config.target_modules, str):
            return found
        if found is False or found is None:
            found = check(peft_config, f".{key}")  # PEFT finds no layer index where the model itself has the layers
        return found if not found or in_text_part(self.model, key) else False

    def _create_and_replace(
        self,
        peft_config: ExcitorConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        peft_config = peft_config.of_layer(current_key)
        if peft_config.rope == "after":
            check_rotation(getattr(nearest_config(self.model, current_key), "model_type", None))
        head_dim, placement, norm = place(peft_config, self.model, current_key)
        if isinstance(target, ExcitorLayer):
            if head_dim != target.head_dim or not placement.same_as(target.placement):
                raise ExcitorError(
                    f"{current_key} carries adapters for key heads of size {target.head_dim}, and this one is for "
                    f"heads of size {head_dim}, or for another key_layout: adapters of a layer must agree in both."
                )
            layer = target
        else:
            layer = ExcitorLayer(target, head_dim, placement, norm)
        layer.update_layer(adapter_name, peft_config, self._seeds(adapter_name))
        if peft_config.rope == "after":
            layer.leave_unrotated(adapter_name, self.model.get_submodule(current_key.rpartition(".")[0]))
        if layer is target:
            return
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter does not train before it is activated
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, ExcitorLayer):  # unloading; PEFT would ask for a weight, which GPTQ's layers do not have
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _seeds(self, adapter_name: str) -> nn.Parameter | None:
        """Seed embeddings of the layers adapted so far: all layers share one set."""
        for module in self.model.modules():
            if isinstance(module, ExcitorLayer) and adapter_name in module.excitor_generator:
                return getattr(module.excitor_generator[adapter_name], "seeds", None)
        return None

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """As in PEFT, which calls this last whenever an adapter was made or loaded."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        seeds = self._seeds(adapter_name)
        for layer in self.model.modules():
            if isinstance(layer, ExcitorLayer) and adapter_name in layer.excitor_generator:
                if not autocast_adapter_dtype:
                    layer._move_adapter_to_device_of_base_layer(adapter_name, keep_dtype=False)
                generator, _ = layer.parts(adapter_name)
                if isinstance(generator, PromptMLP) and seeds is not None:
                    generator.seeds = seeds  # casting, and loading from the meta device, gave each layer a copy

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter active, or several at once: their terms on the keys add.

        Args:
            adapter_name: One name or several.
            inference_mode: Leave what is activated frozen.

        Raises:
            ExcitorError: There is no adapter of a name.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        if unknown := [name for name in names if name not in self.peft_config]:
            raise ExcitorError(f"there is no adapter {unknown[0]!r}; known are: {', '.join(self.peft_config)}.")
        super().set_adapter(adapter_name, inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; if none is active then, the first that is left becomes so."""
        super().delete_adapter(adapter_name)
        # PEFT takes over what is active on the first adapted layer, which may have had this adapter alone.
        if self.peft_config and not self.active_adapters:
            name, config = next(iter(self.peft_config.items()))
            self.set_adapter(name, inference_mode=config.inference_mode)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Raise: what LoRA does to weights has no counterpart here, and needs none."""
        raise ExcitorError(
            "Excitor adapters cannot be combined into a new one, as their terms are no matrices. Their weighted sum "
            "is what several active ones give: model.base_model.set_adapter([a, b]), then "
            "excitor.set_strength(model, weight, a) for each."
        )

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As in PEFT, which warns of entries of ``rank_pattern`` alone that fit no layer."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        pattern = cast(ExcitorConfig, self.peft_config[adapter_name]).num_prompts_pattern
        found = {get_pattern_key(list(pattern), name) for name in self.targeted_module_names}
        if unused := sorted(pattern.keys() - found):
            warnings.warn(f"num_prompts_pattern matched no adapted layer with {unused}.", RuntimeWarning, stacklevel=2)

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if isinstance(model, PreTrainedModel):
            model.add_model_tags("excitor")  # all that PEFT lets a method say in the model card that it writes

    def _check_merge_allowed(self) -> None:
        raise ExcitorError(NO_MERGE)

    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        """PEFT's hook around every call of ``forward`` and ``generate``."""
        names = kwargs.get("adapter_names")
        if names is None:
            return nullcontext()
        given = kwargs | {"input_ids": args[0]} if args else kwargs
        return mixed_batch(self, ExcitorLayer, self.peft_config, names, given)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        _check_fits(model, config, adapter_name, remapped)
        return remapped


def _fit_vision(config: ExcitorConfig, model: nn.Module) -> None:
    """Take the width of the pictures' features from a model that has a vision encoder for them."""
    width = getattr(getattr(model, "config", None), "vision_width", None)
    if width is None:
        if config.vision_rank is not None and config.vision_width is None:
            raise ExcitorError("vision_rank is of the maps of vision features: give their width, vision_width, too.")
        return
    if config.vision_width not in (None, width):
        raise ExcitorError(
            f"vision_width is {config.vision_width}, but the features of this model's vision encoder are {width} "
            "wide: leave vision_width out, or use the encoder that the adapter was made for."
        )
    config.vision_width = width


def _topmost(config: ExcitorConfig, depth: Any) -> list[int]:
    """Indices of the topmost layers the configuration asks for."""
    if depth is None:
        raise ExcitorError("top_layers needs a model whose config has num_hidden_layers; use layers_to_transform.")
    if config.top_layers > depth:
        raise ExcitorError(
            f"top_layers is {config.top_layers}, but the model has {depth} layers: set top_layers (--top-layers) to "
            f"at most {depth}."
        )
    topmost = list(range(depth - config.top_layers, depth))
    if config.layers_to_transform not in (None, topmost):
        raise ExcitorError(
            f"top_layers={config.top_layers} means layers {topmost[0]} to {depth - 1} of this model, "
            f"but layers_to_transform is {config.layers_to_transform}: give one of the two. "
            "(A configuration that was used on a model of another depth cannot be used again: make a new one.)"
        )
    return topmost


def _check_fits(model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Compare the tensors of a checkpoint, by the model's own keys, with what the adapter expects.

    PEFT itself loads what matches and leaves the rest of the adapter as it was initialised.
    """
    expected = {
        f"{name}.{part}.{adapter_name}.{key}": tuple(parameter.shape)
        for name, layer in excitor_layers(model).items()
        for part in layer.adapter_layer_names
        if adapter_name in getattr(layer, part)
        for key, parameter in getattr(layer, part)[adapter_name].named_parameters()
    }
    found = {key: tuple(tensor.shape) for key, tensor in state_dict.items() if f".{ExcitorModel.prefix}" in key}
    faults = [f"{key} is missing" for key in expected if key not in found]
    faults += [f"{key} has no place in this model" for key in found if key not in expected]
    faults += [
        f"{key} has shape {list(found[key])}, this model needs {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ExcitorError(
            f"the adapter does not fit this model: {'; '.join(faults[:3])}{more}. "
            f"It was trained on {config.base_model_name_or_path or 'an unnamed base'}; load it on that model."
        )


register(ExcitorConfig, ExcitorModel)
