"""The PEFT tuner: chooses the key projections of a model and adapts them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from .config import ExcitorConfig
from .errors import ExcitorError
from .families import FAMILIES
from .layer import NO_MERGE, ExcitorLayer, excitor_layers
from .registration import register


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
        model_type = model_config.get("model_type")
        if peft_config.target_modules is None and model_type not in FAMILIES:
            raise ExcitorError(
                f"no key projection is known for architecture {model_type!r}; known are: {', '.join(FAMILIES)}. "
                "For another model name the linear layers that make its attention keys, "
                'e.g. ExcitorConfig(target_modules=["k_proj"], head_dim=64).'
            )
        if peft_config.top_layers is not None:
            peft_config.layers_to_transform = _topmost(peft_config, model_config)
        super()._prepare_adapter_config(peft_config, model_config)
        return peft_config

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
        if isinstance(target, ExcitorLayer):
            target.update_layer(adapter_name, peft_config, self._seeds(adapter_name))
            return
        linear: Any = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not (hasattr(linear, "in_features") and hasattr(linear, "out_features")):
            raise ExcitorError(
                f"{current_key} is a {type(linear).__name__}, not a linear projection (a module with in_features and "
                "out_features): target_modules must name the layers that make the attention keys."
            )
        layer = ExcitorLayer(target, _head_dim(peft_config, self.get_model_config(self.model), linear))
        layer.update_layer(adapter_name, peft_config, self._seeds(adapter_name))
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

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if isinstance(model, PreTrainedModel):
            model.add_model_tags("excitor")  # all that PEFT lets a method say in the model card that it writes

    def _check_merge_allowed(self) -> None:
        raise ExcitorError(NO_MERGE)

    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        """PEFT's hook around every forward; it would drop ``adapter_names`` in silence otherwise."""
        if kwargs.get("adapter_names") is not None:
            raise ExcitorError(
                "adapter_names (a different adapter per row) is not supported: "
                "call set_adapter(name) and run the rows of each adapter in a batch of their own."
            )
        return nullcontext()

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        _check_fits(model, config, adapter_name, remapped)
        return remapped


def _topmost(config: ExcitorConfig, model_config: dict[str, Any]) -> list[int]:
    """Indices of the topmost layers the configuration asks for."""
    depth = model_config.get("num_hidden_layers")
    if depth is None:
        raise ExcitorError("top_layers needs a model whose config has num_hidden_layers; use layers_to_transform.")
    if config.top_layers > depth:
        raise ExcitorError(f"top_layers is {config.top_layers}, but the model has {depth} layers.")
    topmost = list(range(depth - config.top_layers, depth))
    if config.layers_to_transform not in (None, topmost):
        raise ExcitorError(
            f"top_layers={config.top_layers} means layers {topmost[0]} to {depth - 1} of this model, "
            f"but layers_to_transform is {config.layers_to_transform}: give one of the two. "
            "(A configuration that was used on a model of another depth cannot be used again: make a new one.)"
        )
    return topmost


def _head_dim(config: ExcitorConfig, model_config: dict[str, Any], linear: Any) -> int:
    """Size of a key head: the user's word, then the model's, then its width by heads, then one head of full width."""
    heads, width = model_config.get("num_attention_heads"), model_config.get("hidden_size")
    if config.head_dim or model_config.get("head_dim"):
        return config.head_dim or model_config["head_dim"]
    return width // heads if heads and width else linear.out_features


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
