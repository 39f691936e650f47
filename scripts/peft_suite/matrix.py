"""Which of PEFT's tests are run with Excitor, and with which configurations."""

from typing import Any

from excitor import ExcitorConfig


SWITCHES = {
    "r": 2,
    "num_prompts": 3,
    "num_local_prompts": 1,
    "separate_values": True,
    "null_prompt": True,
    "gate": "layer",
    "generator": "mlp",
}


def rows(**fields: Any) -> list[tuple[type[ExcitorConfig], dict[str, Any]]]:
    """The default method, and one with every switch turned."""
    return [(ExcitorConfig, {"r": 4, "num_prompts": 5} | fields), (ExcitorConfig, SWITCHES | fields)]


def custom(name: str, **fields: Any) -> tuple[str, str, type[ExcitorConfig], dict[str, Any]]:
    """A row for PEFT's two-layer perceptron."""
    return name, "MLP", ExcitorConfig, {"r": 4, "num_prompts": 5} | fields


VISIBLE = {"init_weights": False}  # everything random, so that outputs differ

# PEFT's lists, by the module they are in; a test that runs over one of them runs over ours in its place.
MATRICES: dict[str, dict[str, list[Any]]] = {
    "test_decoder_models": {"ALL_CONFIGS": rows(task_type="CAUSAL_LM")},
    "test_encoder_decoder_models": {"ALL_CONFIGS": rows(task_type="SEQ_2_SEQ_LM")},
    "test_feature_extraction_models": {"ALL_CONFIGS": rows(task_type="FEATURE_EXTRACTION")},
    "test_seq_classifier": {"ALL_CONFIGS": rows(task_type="SEQ_CLS")},
    "test_config": {
        "ALL_CONFIG_CLASSES": [(ExcitorConfig, {})],
        "LAYER_INDEXING_CONFIG_CLASSES": [(ExcitorConfig, {})],
    },
    "test_torch_compile": {
        "SETTINGS": [
            (ExcitorConfig(task_type="CAUSAL_LM"), {}),
            (ExcitorConfig(task_type="CAUSAL_LM", **SWITCHES), {}),
            (ExcitorConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens"]), {}),
        ]
    },
    "test_custom_models": {
        "ALL_PEFT_CONFIG_CLASSES": [ExcitorConfig],
        "TEST_CASES": [
            custom("Excitor 1", target_modules="lin0"),
            custom("Excitor 2", target_modules=["lin0"]),
            custom("Excitor 3", target_modules=["lin1"]),
            custom("Excitor 4", target_modules=["lin0", "lin1"]),
            custom("Excitor 5", target_modules=["lin0"], modules_to_save=["lin1"]),
            custom("Excitor heads", target_modules=["lin0"], head_dim=5),
            custom("Excitor switches", target_modules=["lin0", "lin1"], **SWITCHES),
            custom("Excitor patterns", target_modules=["lin0", "lin1"], rank_pattern={"lin0": 2}),
        ],
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": [
            (
                "Excitor same",
                "excitor",
                ExcitorConfig,
                {"target_modules": ["lin0"], **VISIBLE},
                {"target_modules": ["lin0"], **VISIBLE},
            ),
            (
                "Excitor different",
                "excitor",
                ExcitorConfig,
                {"target_modules": ["lin0"], **VISIBLE},
                {"target_modules": ["lin1"], **VISIBLE},
            ),
        ],
        "MIXED_ADAPTER_TEST_CASES": [
            (
                "Excitor mixed adapter",
                ExcitorConfig(target_modules=["lin0"], init_weights=False),
                ExcitorConfig(target_modules=["lin0"], r=16, num_prompts=7, init_weights=False),
            ),
        ],
    },
}

# Tests that PEFT wrote for LoRA alone but whose claim holds for any method: they run with an Excitor in its place. A
# class stands for all its tests.
STAND_INS: dict[str, set[str]] = {
    "test_custom_models": {
        "test_set_adapter_non_overlapping_trainable_token_indices",
        "test_multiple_active_adapters_with_same_trainable_token_indices_raises",
        "test_delete_adapter_with_multiple_adapters_works",
        "test_delete_adapter_multiple_adapters_with_modules_to_save",
        "test_multiple_adapters_mixed_modules_to_save",
        "test_multiple_adapters_mixed_modules_to_save_order_switched",
        "test_existing_model_card",
        "test_non_existing_model_card",
        "test_save_embedding_layers_excludes_similarly_named_sibling",
        "test_load_does_not_overwrite_similarly_named_sibling",
        "test_ignore_mismatched_sizes_with_scalar_modules_to_save",
        "test_adapter_name_makes_no_difference",
        "test_mixed_adapter_batches_different_target_layers",
        "test_mixed_adapter_batches_multiple_modules_to_save",
        "test_mixed_adapter_batches_unsupported_layer_raises",
        "test_mixed_adapter_batches_partly_overlapping_target_layers",
        "test_mixed_adapter_batches_lora_wrong_adapter_name_raises",
    },
    "test_low_level_api": {
        "test_inject_from_state_dict_and_from_config_target_same_layers",
        "test_inject_from_state_dict_transformers",
        "test_inject_from_state_dict_low_cpu_mem_usage",
        "test_inject_from_state_dict_compiled_model",
        "test_get_peft_model_state_dict_removes_adapter_name",
        "test_get_peft_model_state_dict_removes_non_defaul_adapter_name",
        "test_get_and_set_peft_model_state_dict_normal_names",
        "test_get_and_set_peft_model_state_dict_weight_in_module_name",
        "test_get_and_set_peft_model_state_dict_bias_in_module_name",
        "test_get_and_set_peft_model_state_dict_adapter_name_same_as_module_name",
        "test_set_peft_model_state_dict_preserves_input",
        "TestGetBaseModelStateDict",
        "test_save_pretrained_succeeds_for_normal_lora",
    },
    "test_initialization": {
        "test_unmatched_rank_pattern_key_warns",
        "TestNoInfiniteRecursionDeepspeed",
        "TestCustomModelConfigWarning",
        "test_from_pretrained_low_cpu_mem_usage_works",
        "test_load_adapter_low_cpu_mem_usage_works",
        "test_inject_adapter_low_cpu_mem_usage_works",
        "TestNamingConflictWarning",
    },
    "test_config": {"test_save_pretrained_with_target_modules"},
    "test_mapping": {"TestGetPeftModel"},
    "test_token_classification_qa": {"TestTokenClassificationModels", "TestQuestionAnsweringModels"},
    "test_trainable_tokens": {
        "test_combined_with_peft_method_usage",
        "test_load_multiple_adapters",
        "test_multiple_adapters_different_token_indices",
        "test_multiple_adapters_mixed_forward",
        "test_combined_with_peft_raises_target_layer_not_found",
        "test_no_embeddings_in_save_with_combined_usage",
        "test_modules_to_save_excludes_trainable_tokens",
        "test_save_pretrained_auto",
    },
    "test_other": {
        "test_modules_to_save_targets_module_dict_raises",
        "test_load_multiple_adapters_different_modules_to_save",
        "TestModulesToSaveAttributeAccess",
        "TestModulesToSaveKwargsOnlyForward",
        "TestModulesToSaveUnloadNoActiveAdapter",
        "TestTargetingAuxiliaryTrainingWrapper",
        "TestAdapterTargeting",
    },
    "test_hub_features": {"test_local_model_saving_no_warning"},
    "test_tuners_utils": {
        "test_two_excluded_module_regex",
        "test_two_excluded_module_list",
        "test_multiple_excluded_modules_list",
        "test_all_modules_excluded",
        "test_no_modules_matched",
        "test_no_modules_matched_second_adapter",
        "test_second_adapter_only_modules_to_save_raises",
        "test_targeted_module_names_unique_across_adapters",
        "test_some_modules_excluded_some_unmatched",
        "test_exclude_modules_not_used",
        "test_layer_names_small",
        "test_enabled_small",
        "test_active_adapters_small",
        "test_merge_adapters_small",
        "test_requires_grad_small",
        "test_available_adapters_small",
        "test_devices_all_cpu_small",
        "test_with_modules_to_save",
        "test_with_trainable_tokens",
        "test_quantization_backend_small",
        "test_base_model_type_small",
        "test_num_adapter_layers_small",
        "test_model_enabled_small",
        "test_model_disabled_small",
        "test_model_enabled_irregular_with_modules_to_save",
        "test_model_enabled_irregular_with_trainable_tokens",
        "test_model_active_adapters_small",
        "test_model_active_adapters_with_modules_to_save_irregular",
        "test_model_active_adapters_with_trainable_tokens_irregular",
        "test_model_merged_adapters_small",
        "test_model_requires_grad_model_small",
        "test_model_requires_irregular_with_modules_to_save",
        "test_model_requires_irregular_with_trainable_tokens",
        "test_model_available_adapters_small",
        "test_model_devices_all_cpu_small",
        "test_model_quantization_backend_small",
    },
}

# Key projections that a user of these architectures has to name.
KEY_PROJECTIONS = {
    "opt": "k_proj",
    "gptj": "k_proj",
    "bart": "k_proj",
    "t5": "k",
    "bert": "key",
    "roberta": "key",
    "deberta-v2": "key_proj",
}

# Of what is chosen above: tests of what the method refuses or of LoRA's own names.
EXCLUDED = {
    "test_from_pretrained",  # the next three read an adapter of LoRA's from the hub
    "test_from_pretrained_cache_dir",
    "test_save_pretrained_with_runtime_config",
    "test_targeting_trainable_tokens_raises",  # targets an embedding
    "test_self_targeting_is_ignored",  # targets a convolution
    "test_no_infinite_recursion",  # among its classes is PeftMixedModel, which Excitor refuses
}
